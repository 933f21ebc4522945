"""Segment maps: files of images whose pixel values are numbers of segments, as in COCO panoptic, ADE20K, Cityscapes, VOC and DAVIS.

A row holds the path of its map and the values of every segment. The map is decoded when the row becomes a sample.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..bounded_files import open_image_file
from ..masks import compress_rle

# What PIL raises for a file that is no image. (A chunk of a damaged PNG may say that it is 2 GiB long, and PIL asks for as much.)
UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError, EOFError, struct.error, MemoryError)
_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM")  # formats of PIL that keep every number
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")  # compressions in TIFF that do not
_ONE_NUMBER = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")  # modes of PIL


def read_segment_map(path: str | Path) -> np.ndarray:
    """Values of the pixels of a map.

    Returns:
        (H, W) int32. A map in colours has R + 256 G + 65536 B (alpha is ignored). Any other has the numbers that the file stores: grey of
        up to 16 bits, or indices into a palette, never its colours.

    Raises:
        ValueError: the file cannot be decoded, its pixels are of another type, or its format changes numbers, as JPEG does.
    """
    with _opened(path, f"segment map {path}") as image:
        if image.mode in _ONE_NUMBER:
            return np.asarray(image).astype(np.int32)
        if image.mode not in ("RGB", "RGBA"):
            raise ValueError(f"pixels of type {image.mode}; expected grey, a palette or RGB")
        pixels = np.asarray(image)
    values = pixels[..., 0].astype(np.int32)
    values |= pixels[..., 1].astype(np.int32) << 8
    values |= pixels[..., 2].astype(np.int32) << 16
    return values


def read_mask(source: Any, name: str) -> np.ndarray:
    """Mask that was painted as an image of its own.

    Args:
        source: path, or an opened file.
        name: of the file in messages.

    Returns:
        (H, W) bool: the pixels that are neither black nor transparent, whatever colour hides below.

    Raises:
        ValueError: the file cannot be decoded, or its format changes colours, as JPEG does.
    """
    with _opened(source, name) as image:
        if image.mode in _ONE_NUMBER and image.mode != "P" and not image.has_transparency_data:
            return np.asarray(image) != 0
        colors = np.asarray(image.convert("RGBA"))
        return (colors[..., :3] != 0).any(axis=-1) & (colors[..., 3] != 0)


@contextmanager
def _opened(source: Any, name: str) -> Iterator[Image.Image]:
    """Opened image, which keeps numbers as they were painted. Errors as of `read_mask`."""
    try:
        with open_image_file(source) as image:
            if image.format not in _LOSSLESS or image.info.get("compression") in _LOSSY_TIFF:
                raise ValueError(f"its format {image.format} may change colours, so that nobody knows what was painted; save it as PNG")
            yield image
    except UnidentifiedImageError as error:  # it names an opened file by its place in memory
        raise ValueError(f"{name} cannot be read (it is no image)") from error
    except (*UNREADABLE, ValueError) as error:
        raise ValueError(f"{name} cannot be read ({error})") from error


def rles_from_segment_map(segment_map: np.ndarray, values: Sequence[Sequence[int]]) -> list[dict]:
    """Masks of the segments of a map.

    Args:
        segment_map: (H, W) integers.
        values: one entry per segment: the values of its pixels. A category of many objects has several.

    Returns:
        One compressed RLE per segment, equal to that of its bitmap.

    Raises:
        ValueError: a segment without a pixel.
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
        # A run goes on if the next one has another value of the same segment.
        first, end = first[np.append(True, first[1:] != end[:-1])], end[np.append(first[1:] != end[:-1], True)]
        counts = np.diff(np.stack([first, end], axis=1).ravel(), prepend=0).tolist()
        if end[-1] < pixels.size:
            counts.append(int(pixels.size - end[-1]))
        rles.append(compress_rle({"size": [height, width], "counts": counts}))
    return rles
