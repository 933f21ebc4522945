"""Common and joint pixels of two masks."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from ..masks import bitmap_from_rle

# (H, W) bool (or integers, where what is not zero belongs to the mask), or COCO RLE.
Mask: TypeAlias = np.ndarray | dict


def bitmap(mask: Mask, item: str) -> np.ndarray:
    """(H, W) bool of a mask in any form.

    Raises:
        ValueError: neither an RLE nor a two-dimensional array of bool or integers. The message begins with `item`.
    """
    if isinstance(mask, dict):
        return bitmap_from_rle(mask)
    mask = np.asarray(mask)
    # Probabilities or logits are refused: "not zero" would be nearly all of their pixels.
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise ValueError(f"{item}: expected a mask (H, W) of bool or integers or a COCO RLE, got {mask.dtype} of shape {mask.shape}")
    return mask != 0


def intersection_and_union(predicted: Mask, target: Mask) -> tuple[int, int]:
    """Number of pixels in both masks, and in at least one.

    Raises:
        ValueError: not a mask, or masks of different size.
    """
    predicted, target = bitmap(predicted, "prediction"), bitmap(target, "target")
    if predicted.shape != target.shape:
        raise ValueError(
            f"prediction: size {predicted.shape}, but the target has {target.shape}; bring the prediction to the original image size"
        )
    # Python's own integers, which JSON can hold and which do not overflow.
    return int(np.count_nonzero(predicted & target)), int(np.count_nonzero(predicted | target))
