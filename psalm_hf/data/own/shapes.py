"""Shapes that annotation tools draw: checked points, and the pixels inside of polygons, ellipses and painted masks."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...masks import FARTHEST, area, bitmap_from_box, bitmap_from_polygons
from ..files import mask, shown
from ..segment_map import read_mask

Point = tuple[float, float]


def read_number(value: Any, name: str, side: float) -> float:
    """A number that a file says.

    Args:
        side: the longer one of the image, in the unit of the number.

    Raises:
        ValueError: it is none, or too large to be meant; the message has `name`.
    """
    if type(value) not in (int, float) or not abs(value) <= FARTHEST * side:  # nan neither
        remark = ", which is text; write it without quotes" if isinstance(value, str) else ""
        raise ValueError(f"{name}: expected a number up to {FARTHEST * side:g}, got {shown(value)}{remark}")
    return float(value)


def read_points(value: Any, numbers: Container[int], expected: str, side: float) -> list[Point]:
    """Points [x, y] that a file says.

    Args:
        numbers: of points, that are right.
        expected: the same in words.
        side: the longer one of the image, in the unit of the points.

    Raises:
        ValueError: something else; the message says which point is wrong.
    """
    wanted = f"expected {expected} [x, y]"
    if not isinstance(value, list) or len(value) not in numbers:
        raise ValueError(f"{wanted}, got {shown(value)}" + (f", {len(value)} of them" if isinstance(value, list) else ""))
    for index, point in enumerate(value):
        if not isinstance(point, list) or len(point) != 2:
            raise ValueError(f"{wanted}, but point {index} is {shown(point)}")
        for number in point:
            if type(number) not in (int, float) or not -math.inf < number < math.inf:  # also of integers that no float holds
                remark = ", which is text; write numbers without quotes" if isinstance(number, str) else ""
                raise ValueError(f"{wanted}, but point {index} has {shown(number)}{remark}")
            if abs(number) > FARTHEST * side:
                raise ValueError(f"{wanted}, but point {index} has {shown(number)}, more than {FARTHEST} images outside")
    return [(float(x), float(y)) for x, y in value]


def outlined(segmentation: Any, image_size: tuple[int, int]) -> dict:
    """Mask as `mask` reads it, an RLE or polygons; of polygons in pixels.

    Raises:
        ValueError: as of `mask`; or all corners lie between 0 and 1, so that they are fractions of the image.
    """
    rle = mask(segmentation, image_size)
    if isinstance(segmentation, list) and min(image_size) > 2:
        values = [value for polygon in segmentation for value in polygon]
        if all(0 <= value <= 1 for value in values) and any(value % 1 for value in values):
            raise ValueError(
                f"all coordinates lie between 0 and 1, {shown(segmentation)}: fractions of the image; multiply them by its width and height"
            )
    return rle


def is_far(points: Iterable[Sequence[float]], image_size: tuple[int, int]) -> bool:
    """True if a corner lies farther outside of the image than hands slip: more than a tenth of its longer side, and 2 pixels.

    Args:
        points: [x, y] in pixels.
        image_size: (height, width).
    """
    height, width = image_size
    margin = max(image_size) / 10 + 2
    return any(not (-margin <= x <= width + margin and -margin <= y <= height + margin) for x, y in points)


def corners_of(segmentation: Any) -> Iterator[Sequence[float]]:
    """[x, y] of all corners of a mask as of `outlined`; none of an RLE."""
    for polygon in segmentation if isinstance(segmentation, list) else ():
        yield from zip(polygon[::2], polygon[1::2], strict=True)


def check_seen(rle: Mapping[str, Any]) -> None:
    """Checks that an object has pixels.

    Args:
        rle: its mask.

    Raises:
        ValueError: it has none.
    """
    if not area(rle):
        height, width = rle["size"]
        raise ValueError(
            f"no pixel of it lies in its image of {height} x {width} (height x width): it lies outside, or is smaller than a pixel; "
            f"correct it, remove it, or leave such objects out with on_error='skip'"
        )


def bitmap_of_corners(points: Sequence[Point], image_size: tuple[int, int]) -> np.ndarray:
    """Bitmap (H, W) of a polygon, as pycocotools draws it."""
    return bitmap_from_polygons([[value for point in points for value in point]], image_size)


def bitmap_of_rectangle(points: Sequence[Point], image_size: tuple[int, int]) -> np.ndarray:
    """Bitmap (H, W) of a rectangle, given by two opposite corners or by all four: the pixels whose centre is inside. Four corners that are
    not upright are a polygon."""
    columns, rows = zip(*points, strict=True)
    sides = {(x, y) for x in (min(columns), max(columns)) for y in (min(rows), max(rows))}
    if len(points) == 4 and set(points) != sides:
        return bitmap_of_corners(points, image_size)
    return bitmap_from_box((min(columns), min(rows), max(columns), max(rows)), image_size)


def bitmap_of_ellipse(center: Point, radii: Point, degrees: float, image_size: tuple[int, int]) -> np.ndarray:
    """Bitmap (H, W) of an ellipse that is turned clockwise around its centre: the pixels whose centre is inside."""
    y, x = np.ogrid[: image_size[0], : image_size[1]]
    x, y = x + 0.5 - center[0], y + 0.5 - center[1]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    along, across = x * cos + y * sin, y * cos - x * sin
    return (along * radii[1]) ** 2 + (across * radii[0]) ** 2 <= (radii[0] * radii[1]) ** 2


def bytes_of_base64(text: Any) -> bytes:
    """Bytes of a file that is written as text in base64.

    Raises:
        ValueError: it is no such text.
    """
    if not isinstance(text, str):
        raise ValueError(f"it is not base64 but {shown(text)}")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"it is not base64 ({error})") from error


def bitmap_of_base64(text: Any) -> np.ndarray:
    """Bitmap (H, W) of a mask that was painted as an image, in base64: what is neither black nor transparent.

    Raises:
        ValueError: no base64, or no image without loss.
    """
    content = bytes_of_base64(text)
    return read_mask(io.BytesIO(content), f"the image of {len(content)} bytes")


def bitmap_of_brush(rle: Any, image_size: tuple[int, int]) -> np.ndarray:
    """Bitmap (H, W) of what was painted with the brush of Label Studio: pixels that are not transparent.

    Args:
        rle: its run-length code: bytes of a stream of bits, with 4 numbers (red, green, blue, alpha) for each pixel, row by row.

    Raises:
        ValueError: something else, a code that breaks off, or of an image of another size.

    Source: the decoder of `@thi.ng/rle-pack`, which Label Studio uses.
    """
    if not isinstance(rle, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        raise ValueError(f"rle: expected a list of bytes, got {shown(rle)}")
    bits = bin(int.from_bytes(b"\1" + bytes(rle)))[3:]
    position = 0

    def read(number: int) -> int:
        nonlocal position
        position += number
        if position > len(bits):
            raise ValueError(f"rle: it breaks off after {len(rle)} bytes")
        return int(bits[position - number : position], 2)

    height, width = image_size
    total = read(32)
    if total != 4 * height * width:
        expected = f"{4 * height * width}, 4 for each pixel of {height} x {width} (height x width)"
        raise ValueError(f"rle: expected {expected}, got {total} numbers")
    bits_per_number = read(5) + 1
    bits_per_length = [read(4) + 1 for _ in range(4)]
    is_set = np.zeros(total, dtype=bool)
    first = 0
    while first < total:
        is_run = read(1)
        end = first + 1 + read(bits_per_length[read(2)])
        if end > total:
            raise ValueError(f"rle: a run ends at {end}, after the last of {total} numbers")
        if is_run:
            is_set[first:end] = read(bits_per_number) != 0
        else:
            is_set[first:end] = [read(bits_per_number) != 0 for _ in range(first, end)]
        first = end
    return is_set.reshape(height, width, 4)[..., 3]
