"""Strokes: what a user marks in an image by clicks, boxes and the brush, and the region prompts that they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MARK, EXCLUDE, BRUSH = "Point or box", "Does not belong", "Brush"
TOOLS = (MARK, EXCLUDE, BRUSH)
MAX_POINTS = 2000  # of one stroke; a browser sends a few hundred
MAX_STROKES = 200
CLICK_SIZE = 1 / 100  # of the longer side: what is shorter than that is a click, not a box


@dataclass(frozen=True)
class Stroke:
    """One gesture.

    Attributes:
        number: of the object that it belongs to, from 0.
        kind: "point", "box" or "scribble".
        points: (x, y) in pixels of the image: one; two opposite corners, upper left first; or the line.
        belongs: False = a point that is not part of the object.
    """

    number: int
    kind: str
    points: tuple[tuple[float, float], ...]
    belongs: bool = True


def read_stroke(gesture: Any, size: tuple[int, int], tool: str, number: int) -> Stroke:
    """A stroke from what the browser sends.

    Args:
        gesture: `{"points": [[x, y], ...], "excludes": bool}`, the way of the pointer; what lies outside of the image is moved to its edge.
        size: width and height of the image.
        tool: one of `TOOLS`.
        number: of the object.

    Raises:
        ValueError: something else than such a gesture.
    """
    points = gesture.get("points") if isinstance(gesture, Mapping) else None
    if not isinstance(points, list) or not 0 < len(points) <= MAX_POINTS or not all(map(_is_place, points)):
        raise ValueError("the page sent no gesture that can be read; load it again")
    width, height = size
    way = tuple((min(max(float(x), 0.0), width - 0.01), min(max(float(y), 0.0), height - 0.01)) for x, y in points)
    (x0, y0), (x1, y1) = way[0], way[-1]
    if tool == BRUSH:
        return Stroke(number, "scribble", way)
    excludes = tool == EXCLUDE or bool(gesture.get("excludes"))
    if excludes or max(abs(x1 - x0), abs(y1 - y0)) < max(2.0, CLICK_SIZE * max(size)):
        return Stroke(number, "point", way[:1], belongs=not excludes)
    return Stroke(number, "box", ((min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))))


def regions_of(strokes: Sequence[Stroke]) -> list[dict[str, Any]]:
    """One region of the processor for each object that is marked, in the order of their numbers. Of several boxes of an object the last one
    counts."""
    regions: dict[int, dict[str, Any]] = {}
    for stroke in sorted(strokes, key=lambda stroke: stroke.number):  # stable: the strokes of an object stay in order
        region = regions.setdefault(stroke.number, {})
        if stroke.kind == "point":
            region.setdefault("points", []).extend(stroke.points)
            region.setdefault("labels", []).append(int(stroke.belongs))
        elif stroke.kind == "box":
            region["box"] = tuple(value for point in stroke.points for value in point)
        else:
            region.setdefault("scribble", []).extend(stroke.points)
    for region in regions.values():
        if all(region.get("labels", ())):
            region.pop("labels", None)
        if region.keys() == {"points"} and len(region["points"]) == 1:
            region["point"] = region.pop("points")[0]
    return list(regions.values())


def unmarked(strokes: Sequence[Stroke]) -> list[int]:
    """Numbers of the objects of which is only said what does not belong to them."""
    numbers = {stroke.number for stroke in strokes}
    return sorted(numbers - {stroke.number for stroke in strokes if stroke.belongs})


def _is_place(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in point)
    )
