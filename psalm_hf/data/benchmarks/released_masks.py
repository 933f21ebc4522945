"""Masks of the published evaluations, from polygons; those of pycocotools are in `files.mask`.

The released PSALM and LISA fill polygons with OpenCV, which cuts corners to whole pixels and counts the outline, so that their targets are
larger by a border. The released evaluation of COCO-Interactive goes through the padded square of the network instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from ...masks import bitmap_from_polygons, bitmap_from_rle, rle_from_bitmap
from ..files import mask

Rasterisation = Literal["exact", "released"]  # of pycocotools; of the evaluation that a dataset's numbers were published with
PADDED_SIDE = 1024  # side of the padded square of the released PSALM
_FRACTION = 16  # bits after the point, of the x of an edge


def released_mask(segmentation: Any, image_size: tuple[int, int]) -> dict:
    """Mask of a COCO annotation in the released evaluation of referring expressions: the union of its polygons, each filled by OpenCV on
    its own; an RLE stays as it is.

    Args:
        segmentation: see `files.mask`.
        image_size: (height, width) of the image.

    Returns:
        Compressed RLE.

    Raises:
        ValueError: see `files.mask`.
    """
    exact = mask(segmentation, image_size)
    if isinstance(segmentation, Mapping):
        return exact
    return rle_from_bitmap(np.logical_or.reduce([fill_polygons([polygon], image_size) for polygon in segmentation]))


def released_interactive_mask(segmentation: Any, image_size: tuple[int, int]) -> dict:
    """Mask of a COCO annotation in the released evaluation of COCO-Interactive.

    The polygons are scaled to the padded square of the network and rasterised there by pycocotools; the part that the image takes is
    resampled to the image's size. The released code does that with bytes, for which torch rounds after each of the two directions: of a
    mask, that is the nearest pixel, and of two that are as near, the union.

    Three things of the released code are not done here. It repairs polygons with shapely, which loses parts of those that cross themselves.
    Polygons are all it takes; here an RLE is resized to the square as the prompts are, to the nearest pixel. And torch 2.0, which it asks
    for, resamples up to four masks of an image narrower than its square wrongly.

    Args, Returns, Raises: as `released_mask`.

    Source: `COCOInstanceNewBaselineDatasetMapper.preprocess` and `eval_seg` (github.com/zamling/PSALM, 94b2d33), `ResizeTransform` of
    detectron2; the bytes were compared with torch 2.0.1 and 2.15.
    """
    exact = mask(segmentation, image_size)
    height, width = _size_in_grid(image_size)
    if isinstance(segmentation, Mapping):
        image = Image.fromarray(bitmap_from_rle(exact).astype(np.uint8))
        placed = np.asarray(image.resize((width, height), Image.Resampling.NEAREST)) != 0
    else:
        scaled = []
        for polygon in segmentation:
            # As there, a polygon of integers alone stays one: its scaled corners are cut to whole pixels.
            corners = np.array(polygon).reshape(-1, 2)
            corners[:, 0] = corners[:, 0] * (width / image_size[1])
            corners[:, 1] = corners[:, 1] * (height / image_size[0])
            scaled.append(corners.ravel().tolist())
        placed = bitmap_from_polygons(scaled, (PADDED_SIDE, PADDED_SIDE))[:height, :width]
    (top, bottom), (left, right) = _nearest(height, image_size[0]), _nearest(width, image_size[1])
    rows = placed[top] | placed[bottom]
    return rle_from_bitmap(rows[:, left] | rows[:, right])


def _size_in_grid(image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image in the square; `content_size` of the model, which this layer does not import, says why in this order."""
    height, width = image_size
    scale = PADDED_SIDE / min(height, width)
    scaled_height, scaled_width = (PADDED_SIDE, scale * width) if height < width else (scale * height, PADDED_SIDE)
    if max(scaled_height, scaled_width) > PADDED_SIDE:
        shrink = PADDED_SIDE / max(scaled_height, scaled_width)
        scaled_height, scaled_width = scaled_height * shrink, scaled_width * shrink
    return max(1, int(scaled_height + 0.5)), max(1, int(scaled_width + 0.5))


def _nearest(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest of `source` pixels for each of `target` pixels along an axis; two if both are as near."""
    position = (2 * np.arange(target) + 1) * source  # of the centre, from the edge, in 1 / (2 target) of a source pixel
    return -(-position // (2 * target)) - 1, position // (2 * target)


def fill_polygons(polygons: Sequence[Sequence[float]], image_size: tuple[int, int]) -> np.ndarray:
    """Pixels that `cv2.fillPoly(zeros, [int32 corners of each polygon], 1)` paints: the outlines, and those that an odd number of edges
    encloses. Two polygons of one call have a hole where they overlap; their union takes two calls.

    Args:
        polygons: flat [x0, y0, x1, y1, ...] of at least one corner each; cut to whole pixels towards zero. One corner is a pixel, two
            are a line.
        image_size: (H, W).

    Returns:
        (H, W) bool.

    Raises:
        ValueError: a polygon without corners, with an odd number of values, or with one that int32 does not hold.

    Source: `fillPoly` of OpenCV (modules/imgproc/src/drawing.cpp, Apache 2.0), equal to its versions 4.8 to 4.10 in every bit. From 4.11 on
    it leaves out those pixels beside slanted edges that lie outside of the outline; the published numbers are older.
    """
    starts, ends = [], []
    for index, polygon in enumerate(polygons):
        values = np.asarray(polygon, dtype=np.float64)
        if values.ndim != 1 or not values.size or values.size % 2:
            raise ValueError(f"polygon {index}: expected x, y of at least one corner in one flat list, got {polygon!r:.80}")
        if not (np.abs(values) < 2**31).all():
            raise ValueError(f"polygon {index}: coordinates must be finite and within 32 bit, got {polygon!r:.80}")
        corners = values.astype(np.int64).reshape(-1, 2)
        starts.append(np.roll(corners, 1, axis=0))
        ends.append(corners)
    bitmap = np.zeros(image_size, dtype=bool)
    if starts:
        start, end = np.concatenate(starts), np.concatenate(ends)  # (number of edges, 2) each
        last = np.array(image_size)[::-1] - 1
        is_out = ((start < 0) | (start > last) | (end < 0) | (end > last)).any(axis=1)
        clipped_start, clipped_end, is_visible = start.copy(), end.copy(), np.ones(len(start), dtype=bool)
        for edge in np.flatnonzero(is_out):
            *clipped, is_visible[edge] = _clip_line(*start[edge].tolist(), *end[edge].tolist(), *last.tolist())
            clipped_start[edge], clipped_end[edge] = clipped[:2], clipped[2:]
        _draw_lines(bitmap, clipped_start[is_visible], clipped_end[is_visible])
        # The filling goes along the clipped edges as well, so that it fits their outline; not along level ones, which have no direction.
        is_clipped = is_out & (clipped_start[:, 1] != clipped_end[:, 1])
        through_start, through_end = np.where(is_clipped[:, None], [clipped_start, clipped_end], [start, end])
        bitmap |= _between_edges(start, end, through_start, through_end, ~is_out, image_size)
    return bitmap


def _clip_line(x0: int, y0: int, x1: int, y1: int, right: int, bottom: int) -> tuple[int, int, int, int, bool]:
    """Ends of a line, cut off at the border of the image, first above and below, then left and right, and whether any of it is inside.

    The second end is cut on the line through the first one as it is by then, and of a line outside one end may be cut. Both are OpenCV's,
    and tell in the pixels.
    """

    def sides(x: int, y: int) -> int:
        return (x < 0) + 2 * (x > right) + 4 * (y < 0) + 8 * (y > bottom)

    first, second = sides(x0, y0), sides(x1, y1)
    if first & second or not first | second:
        return x0, y0, x1, y1, not first | second
    if first & 12:
        y = 0 if first < 8 else bottom
        x0, y0 = x0 + int((y - y0) * (x1 - x0) / (y1 - y0)), y
    if second & 12:
        y = 0 if second < 8 else bottom
        x1, y1 = x1 + int((y - y1) * (x1 - x0) / (y1 - y0)), y
    first, second = sides(x0, y0), sides(x1, y1)
    if first & second:
        return x0, y0, x1, y1, False
    if first:
        x = 0 if first == 1 else right
        x0, y0 = x, y0 + int((x - x0) * (y1 - y0) / (x1 - x0))
    if second:
        x = 0 if second == 1 else right
        x1, y1 = x, y1 + int((x - x1) * (y1 - y0) / (x1 - x0))
    return x0, y0, x1, y1, True


def _draw_lines(bitmap: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """Sets the pixels of lines inside of the image, (N, 2) each, by Bresenham's rule: from left to right, and of two pixels that are as
    near, the one that the line comes from."""
    is_leftward = end[:, :1] < start[:, :1]
    first, step = np.where(is_leftward, end, start), np.where(is_leftward, start - end, end - start)
    length, width = np.abs(step).max(axis=1), np.abs(step).min(axis=1)  # along the longer axis, along the shorter one
    is_steep = np.abs(step[:, 1]) > np.abs(step[:, 0])
    line, along = _count_each(length + 1)
    across = (2 * width[line] * along + length[line] - 1) // np.maximum(2 * length[line], 1)
    direction = np.sign(step)[line]
    x = first[line, 0] + direction[:, 0] * np.where(is_steep[line], across, along)
    y = first[line, 1] + direction[:, 1] * np.where(is_steep[line], along, across)
    bitmap[y, x] = True


def _between_edges(
    start: np.ndarray,
    end: np.ndarray,
    through_start: np.ndarray,
    through_end: np.ndarray,
    is_rounded: np.ndarray,
    image_size: tuple[int, int],
) -> np.ndarray:
    """Pixels (H, W) between edges: in every row from the first edge to the second, from the third to the fourth, and so on.

    Args:
        start, end: (N, 2) of the edges. One belongs to the rows from its upper end to that before its lower end.
        through_start, through_end: (N, 2) points on the edges, between which their slope is taken.
        is_rounded: (N,) whether the x of an edge is rounded to the nearest pixel, else down.
        image_size: (H, W).
    """
    height, width = image_size
    is_level = start[:, 1] == end[:, 1]
    start, end, through_start, through_end = (points[~is_level] for points in (start, end, through_start, through_end))
    slope = _divide_towards_zero((through_end[:, 0] - through_start[:, 0]) << _FRACTION, through_end[:, 1] - through_start[:, 1])
    upper = np.where((start[:, 1] < end[:, 1])[:, None], through_start, through_end)
    offset = np.where(is_rounded[~is_level], 1 << _FRACTION - 1, 0)

    first_row, end_row = np.clip(np.sort([start[:, 1], end[:, 1]], axis=0), 0, height)
    edge, row = _count_each(end_row - first_row)
    row += first_row[edge]
    x = (upper[edge, 0] << _FRACTION) + offset[edge] + (row - upper[edge, 1]) * slope[edge]
    order = np.lexsort((x, row))
    row, x = row[order][::2], x[order].reshape(-1, 2) >> _FRACTION  # polygons are closed: the number of edges of a row is even
    is_seen = (x[:, 0] < width) & (x[:, 1] >= 0)
    row, left, right = row[is_seen], np.maximum(x[is_seen, 0], 0), np.minimum(x[is_seen, 1], width - 1)
    changes = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(changes, (row, left), 1)
    np.add.at(changes, (row, right + 1), -1)
    return changes.cumsum(axis=1)[:, :width] > 0


def _count_each(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and counts: for the numbers (2, 3) 0 0 1 1 1, and 0 1 0 1 2."""
    position = np.repeat(np.arange(len(numbers)), numbers)
    return position, np.arange(len(position)) - (np.cumsum(numbers) - numbers)[position]


def _divide_towards_zero(dividend: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    return np.sign(dividend) * np.sign(divisor) * (np.abs(dividend) // np.abs(divisor))
