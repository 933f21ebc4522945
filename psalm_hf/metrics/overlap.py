"""Masks and maps in every form that metrics take, checked, and common pixels of two masks."""

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


def bitmaps(predicted: Mask, target: Mask) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool of both masks.

    Raises:
        ValueError: not a mask, or masks of different size.
    """
    predicted, target = bitmap(predicted, "prediction"), bitmap(target, "target")
    check_sizes(predicted, target)
    return predicted, target


def integer_maps(predicted: np.ndarray, target: np.ndarray, content: str, item: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Both maps as arrays (H, W).

    Args:
        content: name of the numbers in them, for messages.
        item: beginning of messages.

    Raises:
        ValueError: no maps of integers, or maps of different size.
    """
    predicted, target = np.asarray(predicted), np.asarray(target)
    for name, values in (("prediction", predicted), ("target", target)):
        if values.ndim != 2 or values.dtype.kind not in "ui":
            raise ValueError(f"{item}{name}: expected {content} (H, W) of integers, got {values.dtype} of shape {values.shape}")
    check_sizes(predicted, target, item)
    return predicted, target


def check_sizes(predicted: np.ndarray, target: np.ndarray, item: str = "") -> None:
    """Raises ValueError if a prediction is of another size than its target; the message begins with `item`."""
    if predicted.shape != target.shape:
        raise ValueError(
            f"{item}prediction: size {predicted.shape}, but the target has {target.shape}; bring the prediction to the original image size"
        )


def intersection_and_union(predicted: Mask, target: Mask) -> tuple[int, int]:
    """Number of pixels in both masks, and in at least one.

    Raises:
        ValueError: not a mask, or masks of different size.
    """
    predicted, target = bitmaps(predicted, target)
    # Python's own integers, which JSON can hold and which do not overflow.
    return int(np.count_nonzero(predicted & target)), int(np.count_nonzero(predicted | target))
