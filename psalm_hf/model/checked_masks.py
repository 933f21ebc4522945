"""Checks of RLEs and polygons before they are decoded.

Decoders in C believe what they read. Runs that overflow or do not add up end a process, or show what was in memory before. A polygon of
pycocotools takes 80 bytes for each pixel of its outline, wherever that is.

An RLE is `{"size": [H, W], "counts": ...}`: runs down the columns, zeros first. `counts` is a list of whole numbers, or compressed text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MAX_PIXELS = 2**28  # of a mask; Pillow refuses images from 2**27.4 on
_LONGEST_NUMBER = 12  # characters of 5 bits: sums of such numbers fit into 64 bits where they can be right
FARTHEST = 16  # sides of the image, from which a corner may lie away
_LONGEST_OUTLINE = 10_000_000  # pixels


def check_polygon(polygon: Sequence[float], image_size: tuple[int, int], name: str) -> None:
    """Refuses a polygon that no decoder should be given.

    Args:
        polygon: flat [x0, y0, x1, y1, ...].
        image_size: (H, W).

    Raises:
        ValueError: no flat list of finite x, y of at least three corners; a corner farther away than 16 times the longer side of the image;
            an outline of more than 10 million pixels.
    """
    corners = _as_array(polygon)
    is_numeric = corners.dtype.kind in "iuf"  # texts would be read as the numbers that they spell
    if corners.ndim != 1 or corners.size < 6 or corners.size % 2 or not is_numeric or not np.isfinite(corners).all():
        raise ValueError(f"{name}: expected finite x, y of at least 3 corners in one flat list, got {polygon!r:.80}")
    corners = corners.astype(np.float64)
    farthest = np.abs(corners).max()
    if farthest > FARTHEST * max(image_size):
        raise ValueError(
            f"{name}: has the coordinate {farthest:g}, farther away than {FARTHEST} times the longer side of its image of "
            f"{image_size[0]} x {image_size[1]} (height x width)"
        )
    corners = corners.reshape(-1, 2)
    outline = np.abs(corners - np.roll(corners, 1, axis=0)).max(1).sum()
    if outline > _LONGEST_OUTLINE:
        raise ValueError(f"{name}: has an outline of {outline:.0f} pixels; at most {_LONGEST_OUTLINE} are drawn")


def run_lengths(rle: Any, size: tuple[int, int] | None = None) -> tuple[int, int, np.ndarray]:
    """Height, width and run lengths (int64) of an RLE; each run is 0 or more, and all together are H * W.

    Args:
        rle: mapping with "size" and "counts"; others of its keys are not read.
        size: the expected (H, W); default any of at most `MAX_PIXELS`.

    Raises:
        ValueError: not an RLE, another size than expected, or runs that are no whole numbers, negative, too long or do not add up.
    """
    if not isinstance(rle, Mapping) or not {"size", "counts"} <= set(rle):
        raise ValueError(f"expected COCO RLE {{'size': [height, width], 'counts': ...}}, got {rle!r:.80}")
    height, width = _read_size(rle["size"])
    if size is not None and (height, width) != tuple(size):
        raise ValueError(f"the RLE is of size {height} x {width}, expected {size[0]} x {size[1]} (height x width)")
    if height * width > MAX_PIXELS:
        raise ValueError(f"the RLE is of size {height} x {width}; a mask has at most {MAX_PIXELS} pixels")
    counts = rle["counts"]
    runs = _unpack(counts) if isinstance(counts, str | bytes) else _read_numbers(counts)
    if (runs < 0).any() or (runs > height * width).any():
        wrong = int(runs[(runs < 0) | (runs > height * width)][0])
        raise ValueError(f"the RLE has a run of {wrong} pixels; runs of a mask of {height} x {width} are from 0 to {height * width}")
    if runs.sum() != height * width:
        raise ValueError(f"the runs of the RLE cover {runs.sum()} pixels, but its size {height} x {width} has {height * width}")
    return height, width, runs.astype(np.int64)


def _read_size(size: Any) -> tuple[int, int]:
    sides = list(size) if isinstance(size, list | tuple | np.ndarray) else []
    if len(sides) != 2 or not all(isinstance(side, int | np.integer) and not isinstance(side, bool) and side >= 0 for side in sides):
        raise ValueError(f"the size of an RLE is [height, width] in whole pixels, got {size!r:.80}")
    return int(sides[0]), int(sides[1])


def _as_array(values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0, dtype=object)


def _read_numbers(counts: Any) -> np.ndarray:
    runs = _as_array(counts)
    if runs.dtype.kind == "f" and np.isfinite(runs).all() and (np.abs(runs) < 2**53).all() and (runs == np.floor(runs)).all():
        runs = runs.astype(np.int64)  # some tools write 24.0
    if runs.ndim != 1 or runs.dtype == object or (runs.size and runs.dtype.kind not in "iu"):
        raise ValueError(f"the counts of an RLE are whole numbers below 2**63 or compressed text, got {counts!r:.80}")
    return runs


def _unpack(counts: str | bytes) -> np.ndarray:
    """Run lengths of compressed counts: five bits per character, lowest first, bit 32 = more follow, bit 16 of the last = negative; from
    the fourth run on, the difference to the run two before."""
    try:
        symbols = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        symbols = np.array([-1])
    if not symbols.size:
        return symbols
    if symbols.min() < 0 or symbols.max() > 63 or symbols[-1] & 32:
        raise ValueError(f"the counts of the RLE are no compressed run lengths, or were cut off: {counts!r:.80}")
    ends = np.flatnonzero(symbols & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_NUMBER:
        raise ValueError(f"the counts of the RLE hold a number of {lengths.max()} characters: {counts!r:.80}")
    shifts = 5 * (np.arange(symbols.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((symbols & 31) << shifts, starts)
    runs -= ((symbols[ends] & 16) != 0) * (1 << (5 * lengths))
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs
