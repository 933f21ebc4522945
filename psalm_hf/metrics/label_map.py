"""Masks -> one number per pixel, the form in which panoptic and semantic maps are compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..masks import bitmap_from_rle


def label_map(rles: Sequence[dict], labels: Sequence[int], image_size: tuple[int, int], *, fill: int) -> np.ndarray:
    """Paints masks that do not overlap.

    Args:
        rles: N COCO RLEs of the image's size.
        labels: N numbers: segment ids (from 1) for `PanopticQuality`, class numbers for `MeanIoU`.
        image_size: (H, W).
        fill: of pixels without a mask: 0 (void) for `PanopticQuality`, the ignore label for `MeanIoU`.

    Returns:
        (H, W) int64.

    Raises:
        ValueError: a mask of another size, two masks with a common pixel, or another number of labels than of masks.
    """
    if len(rles) != len(labels):
        raise ValueError(f"label map: {len(rles)} masks but {len(labels)} labels; give one label per mask")
    painted = np.full(image_size, fill, dtype=np.int64)
    is_taken = np.zeros(image_size, dtype=bool)
    for index, (rle, label) in enumerate(zip(rles, labels, strict=True)):
        bitmap = bitmap_from_rle(rle)
        if bitmap.shape != is_taken.shape:
            raise ValueError(f"label map: mask {index} is of size {bitmap.shape}, but the image is {tuple(image_size)}")
        if (bitmap & is_taken).any():
            raise ValueError(f"label map: mask {index} overlaps an earlier one; a pixel can have one label only")
        painted[bitmap] = label
        is_taken |= bitmap
    return painted
