"""Forms of a mask, and the ways between them: COCO RLE <-> bitmap <-> polygon, and the box around it.

* bitmap: (H, W) bool.
* RLE: `{"size": [H, W], "counts": ...}`, run lengths in COLUMN-major order starting with zeros. `counts` is a list of ints
  (uncompressed, as crowd annotations in COCO files) or a str / bytes (compressed, LEB128-like; COCO mask API). Functions here return
  str counts, which JSON can hold.
* polygons: list of flat [x0, y0, x1, y1, ...] whose union is the mask.
* box: (x0, y0, x1, y1) along pixel EDGES: the box around the single pixel of row 2, column 5 is (5, 2, 6, 3), its width x1 - x0 = 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco
from scipy import ndimage

from .model.checked_masks import FARTHEST as FARTHEST
from .model.checked_masks import check_polygon, run_lengths


def rle_from_bitmap(bitmap: np.ndarray) -> dict:
    """Compressed RLE of a bitmap.

    Args:
        bitmap: (H, W), bool or numeric; pixels that are not zero belong to the mask.

    Returns:
        `{"size": [H, W], "counts": str}`.

    Raises:
        ValueError: not two-dimensional, or without pixels.
    """
    bitmap = np.asarray(bitmap)
    if bitmap.ndim != 2 or bitmap.size == 0:
        raise ValueError(f"mask: expected a bitmap of shape (H, W) with at least one pixel, got shape {bitmap.shape}")
    rle = coco.encode(np.asfortranarray(bitmap != 0, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def bitmap_from_rle(rle: dict) -> np.ndarray:
    """Bitmap (H, W) bool of an RLE, compressed or not.

    Raises:
        ValueError: not an RLE, or its runs do not add up to H * W pixels.
    """
    return coco.decode(_for_coco(rle)).astype(bool)


def compress_rle(rle: dict) -> dict:
    """RLE of the same mask with compressed str counts.

    Raises:
        ValueError: not an RLE, or its runs do not add up to H * W pixels.
    """
    rle = _for_coco(rle)
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def uncompress_rle(rle: dict) -> dict:
    """RLE of the same mask with counts as a list of run lengths: zeros first, then ones, and so on; they add up to H * W.

    Raises:
        ValueError: not an RLE, or its runs do not add up to H * W pixels.
    """
    pixels = bitmap_from_rle(rle).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
    if pixels.size and pixels[0]:  # the first run is one of zeros, even if there are none
        counts = [0, *counts]
    return {"size": [int(side) for side in rle["size"]], "counts": counts}


def bitmap_from_polygons(polygons: Sequence[Sequence[float]], image_size: tuple[int, int]) -> np.ndarray:
    """Union of polygons, rasterised as the COCO mask API does.

    Args:
        polygons: flat [x0, y0, x1, y1, ...] of at least three corners each; without any polygon the mask is empty.
        image_size: (H, W).

    Returns:
        (H, W) bool. Parts outside of the image are cut off.

    Raises:
        ValueError: see `check_polygon`.
    """
    height, width = image_size
    for index, polygon in enumerate(polygons):
        check_polygon(polygon, image_size, f"polygon {index}")
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    rles = coco.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)
    return coco.decode(coco.merge(rles)).astype(bool)


def polygons_from_bitmap(bitmap: np.ndarray) -> list[list[int]]:
    """Polygons of a mask along the edges of its pixels: they rasterise to exactly the same bitmap.

    A polygon cannot have a hole, so a part with holes becomes several polygons, which are cut through each hole.

    Args:
        bitmap: (H, W), bool or numeric.

    Returns:
        One flat [x0, y0, x1, y1, ...] of integers per part; an empty list for an empty mask.
    """
    polygons: list[list[int]] = []
    # Pieces of the mask: numbered parts, windows of those that are still to do, place of the piece. A list and no recursion, because a
    # part may have thousands of holes, and be cut as often.
    waiting: list[tuple[np.ndarray, list, int, int]] = []

    def add_piece(piece: np.ndarray, left: int, top: int) -> None:
        parts, number = ndimage.label(piece)  # pixels that only touch at a corner are two parts
        if number:
            waiting.append((parts, list(enumerate(ndimage.find_objects(parts, number), 1))[::-1], left, top))

    add_piece(np.asarray(bitmap) != 0, 0, 0)
    while waiting:
        parts, windows, left, top = waiting[-1]
        index, window = windows.pop()
        if not windows:
            waiting.pop()
        part = parts[window] == index
        top, left = top + window[0].start, left + window[1].start
        holes = ndimage.binary_fill_holes(part) & ~part
        if not holes.any():
            polygons.append(_outline(part, left, top))
            continue
        # The cut runs along the right edge of a hole's column, so that the hole touches the border of both halves and is none any more.
        cut = int(np.flatnonzero(holes.any(axis=0))[0]) + 1
        add_piece(part[:, cut:], left + cut, top)
        add_piece(part[:, :cut], left, top)  # the left half is done first
    return polygons


def box_from_bitmap(bitmap: np.ndarray) -> tuple[int, int, int, int]:
    """Smallest box (x0, y0, x1, y1) around a mask (H, W), along pixel edges; (0, 0, 0, 0) for an empty one."""
    bitmap = np.asarray(bitmap) != 0
    columns, rows = np.flatnonzero(bitmap.any(axis=0)), np.flatnonzero(bitmap.any(axis=1))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def bitmap_from_box(box: Sequence[float], image_size: tuple[int, int]) -> np.ndarray:
    """Filled box: the pixels whose centre is inside.

    Args:
        box: (x0, y0, x1, y1) along pixel edges; may reach outside of the image.
        image_size: (H, W).

    Returns:
        (H, W) bool.
    """
    height, width = image_size
    x0, y0, x1, y1 = box
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    return ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None, :]


def area(rle: dict) -> int:
    """Number of pixels in the mask of an RLE, compressed or not."""
    return int(coco.area(_for_coco(rle)))


def _for_coco(rle: dict) -> dict:
    """RLE with bytes counts, checked: if runs are missing, pycocotools returns whatever is in memory."""
    try:
        height, width, runs = run_lengths(rle)
    except ValueError as error:
        raise ValueError(f"mask: {error}") from error
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        return {"size": [height, width], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
    return coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)


def _outline(part: np.ndarray, left: int, top: int) -> list[int]:
    """Corners of the outer border of a connected part without holes, clockwise from its topmost, then leftmost pixel."""
    inside = np.pad(part, 1)
    row, column = np.argwhere(part)[0]
    start = int(column), int(row)
    corners: list[int] = []
    (x, y), (dx, dy) = start, (1, 0)
    while True:
        corners += [x + left, y + top]
        turn = 0
        while not turn:  # along a straight edge, with the mask at the right hand
            x, y = x + dx, y + dy
            # The two pixels ahead of the corner (x, y): their centres are half a step ahead and half a step to the side.
            ahead_right = inside[y + (dy + dx + 1) // 2, x + (dx - dy + 1) // 2]
            ahead_left = inside[y + (dy - dx + 1) // 2, x + (dx + dy + 1) // 2]
            turn = 1 if not ahead_right else (-1 if ahead_left else 0)
        dx, dy = -dy * turn, dx * turn
        if (x, y) == start:
            return corners
