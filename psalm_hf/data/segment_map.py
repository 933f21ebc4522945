"""Segment maps: pictures whose pixel values say which segment a pixel belongs to, as in COCO panoptic, ADE20K, Cityscapes, VOC and DAVIS.

Rows hold the path of such a map and the values of every segment; the map is decoded when a row becomes a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..masks import compress_rle

_ONE_NUMBER = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")  # modes of PIL


def read_segment_map(path: str | Path) -> np.ndarray:
    """The value of every pixel: R + 256 G + 65536 B of a colour picture (alpha is ignored), else the number that the file stores: grey
    of up to 16 bits, or the index into the palette, never its colour.

    Returns:
        (H, W) int32.

    Raises:
        ValueError: the file cannot be decoded, or its pixels are of another type.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode in _ONE_NUMBER:
                return np.asarray(picture).astype(np.int32)
            if picture.mode not in ("RGB", "RGBA"):
                raise ValueError(f"pixels of type {picture.mode}; expected grey, a palette or RGB")
            pixels = np.asarray(picture)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise ValueError(f"segment map {path} cannot be read ({error})") from error
    values = pixels[..., 0].astype(np.int32)
    values |= pixels[..., 1].astype(np.int32) << 8
    values |= pixels[..., 2].astype(np.int32) << 16
    return values


def rles_from_segment_map(segment_map: np.ndarray, values: Sequence[Sequence[int]]) -> list[dict]:
    """Masks of the segments of a map.

    Args:
        segment_map: (H, W) integers.
        values: for every segment the values whose pixels it has; several for a category that many objects share.

    Returns:
        For every segment its compressed RLE, equal to that of the bitmap.

    Raises:
        ValueError: no pixel has one of the values of a segment.
    """
    height, width = segment_map.shape
    # The runs of all segments are found at once; a bitmap per segment would read the whole map for each.
    pixels = np.ascontiguousarray(segment_map.T).ravel()
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    ends = np.append(starts[1:], pixels.size)
    run_values = pixels[starts]
    rles = []
    for wanted in values:
        chosen = np.isin(run_values, wanted)
        if not chosen.any():
            raise ValueError(f"no pixel of the segment map has the value {', '.join(map(str, wanted))}")
        first, end = starts[chosen], ends[chosen]
        # Where one value of a segment borders on another of its values, the run goes on.
        first, end = first[np.append(True, first[1:] != end[:-1])], end[np.append(first[1:] != end[:-1], True)]
        counts = np.diff(np.stack([first, end], axis=1).ravel(), prepend=0).tolist()
        if end[-1] < pixels.size:
            counts.append(int(pixels.size - end[-1]))
        rles.append(compress_rle({"size": [height, width], "counts": counts}))
    return rles
