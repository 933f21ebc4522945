"""Visual prompts: a point, scribble, box or mask becomes a mask, and the mask a distribution over the image tokens.

Coordinates are (x, y) in pixels of the image the prompt was drawn on: the pixel of column c and row r covers [c, c + 1) x
[r, r + 1), so a point belongs to the pixel (floor(x), floor(y)).

Source: region prompts and region pooling of PSALM (github.com/zamling/PSALM, d5dbfda).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .image_processing_psalm import Size, content_size, place_mask, read_bitmap

POINT_RADIUS = 10
SCRIBBLE_RADIUS = 5
PROMPT_RADII = (POINT_RADIUS, SCRIBBLE_RADIUS)
NUM_SAMPLED_PIXELS = 256
REGION_KINDS = ("point", "points", "box", "scribble", "mask")
JOINED_KINDS = ("points", "box", "scribble", "mask")  # that may stand in one region, and the labels of its points

Click = tuple[float, float, int]  # x, y, and 1 = belongs to the region or 0 = does not
REGION_SAMPLINGS = ("exact", "released")


def region_mask(region: Mapping[str, Any], size: Size, name: str, radii: tuple[int, int] = PROMPT_RADII) -> np.ndarray:
    """The pixels a visual prompt covers, at the resolution of its image.

    Args:
        region: one of
            `{"point": (x, y)}`, `{"points": [(x, y), ...]}`: discs;
            `{"scribble": [(x, y), ...]}`: a line through the points; a single point is a dot;
            `{"box": (x0, y0, x1, y1)}`: the pixels whose centre lies inside, at least one; what reaches outside is cut off;
            `{"mask": bitmap, PIL image or RLE}`: as it is.
            Point and scribble also take a bitmap (bool or uint8 array), PIL image or RLE whose pixels are enlarged like drawn ones.
            Or several of points, scribble, box and mask, which together mean one thing: all that they cover. Points may have
            `"labels": [1, 0, ...]`, 1 = belongs, 0 = does not: a point with 0 covers nothing, see `region_clicks`.
        size: (H, W) of the image it was drawn on.
        name: how error messages call it.
        radii: of points and of scribbles to each side of the line, in pixels of that image.

    Returns:
        (H, W) bool, at least one pixel set.

    Raises:
        ValueError: unknown kind, coordinates that are not finite or outside of the image, box with its corners swapped, empty
            mask, mask of another size, labels as in `region_clicks`.
    """
    if not isinstance(region, Mapping) or not _is_one_kind(region) and not _is_joined(region):
        got = sorted(map(str, region)) if isinstance(region, Mapping) else type(region).__name__
        raise ValueError(
            f"{name}: expected a dictionary with exactly one of the keys {', '.join(REGION_KINDS)}, got {got}; "
            f"only {', '.join(JOINED_KINDS)} and the labels of the points may stand together"
        )
    if _is_one_kind(region):
        return _prompt_mask(*next(iter(region.items())), size, name, radii)
    prompts = {kind: region[kind] for kind in JOINED_KINDS if kind in region}
    if "labels" in region:
        prompts["points"] = [(x, y) for x, y, label in _labelled_points(region, size, name) if label == 1]
        if not prompts["points"]:
            del prompts["points"]
    if not prompts:
        raise ValueError(f"{name}: all of its points have the label 0; say with one more what the region is, not only what it is not")
    return np.logical_or.reduce([_prompt_mask(kind, prompt, size, name, radii) for kind, prompt in prompts.items()])


def region_clicks(region: Mapping[str, Any], size: Size, name: str) -> tuple[Click, ...]:
    """The points of a region that says what does not belong to it: (x, y, label), label 1 = belongs, 0 = does not.

    Args:
        region, size, name: see `region_mask`.

    Returns:
        () of a region without a point of label 0.

    Raises:
        ValueError: labels without points, another number of them, other values than 0 and 1, points outside of the image or not finite, a
            pixel that has both labels.
    """
    clicks = _labelled_points(region, size, name) if "labels" in region else ()
    return clicks if any(label == 0 for *_, label in clicks) else ()


def _is_one_kind(region: Mapping[str, Any]) -> bool:
    return len(region) == 1 and next(iter(region)) in REGION_KINDS


def _is_joined(region: Mapping[str, Any]) -> bool:
    return len(region) > 0 and region.keys() <= {*JOINED_KINDS, "labels"}


def _labelled_points(region: Mapping[str, Any], size: Size, name: str) -> tuple[Click, ...]:
    if "points" not in region:
        raise ValueError(f"{name}: labels without points; give the points that they belong to")
    return read_clicks(region["points"], region["labels"], size, name)


def read_clicks(points: Any, labels: Any, size: Size, name: str) -> tuple[Click, ...]:
    """Points with their labels, checked: (x, y, 1 = belongs or 0 = does not). Arguments and errors: see `region_clicks`."""
    if is_bitmap(points):
        raise ValueError(f"{name}: labels belong to points that are coordinates, but the points are a bitmap")
    points = _read_points(points, size, name)
    try:
        labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name}: expected one label, 1 or 0, per point, got {labels!r:.80}") from error
    if labels.shape != (len(points),):
        raise ValueError(f"{name}: labels of the shape {labels.shape} for {len(points)} points; give one per point")
    if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"{name}: labels are 1 (the point belongs to the region) or 0 (it does not), got {labels.tolist()!r:.80}")
    clicks = tuple((x, y, int(label)) for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True))
    pixels = [{(int(x), int(y)) for x, y, label in clicks if label == kind} for kind in (0, 1)]
    if both := pixels[0] & pixels[1]:
        raise ValueError(f"{name}: the pixel (x, y) = {min(both)} has points of both labels; leave one out")
    return clicks


def _prompt_mask(kind: str, prompt: Any, size: Size, name: str, radii: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels of a prompt of one kind, at least one."""
    if kind == "box":
        return _fill_box(prompt, size, name)
    if kind == "mask" or is_bitmap(prompt):
        mask = read_bitmap(prompt, size, name)
        if not mask.any():
            raise ValueError(f"{name}: the {kind} is empty; set at least one pixel")
    else:
        points = _read_points(prompt, size, name).astype(int)
        mask = np.zeros(size, dtype=bool)
        mask[points[:, 1], points[:, 0]] = True
        if kind == "scribble":
            canvas = Image.fromarray(mask.astype(np.uint8))
            ImageDraw.Draw(canvas).line([tuple(point) for point in points.tolist()], fill=1)
            mask = np.asarray(canvas) != 0
    return mask if kind == "mask" else enlarge(mask, radii[kind == "scribble"])


def enlarge(mask: np.ndarray, radius: int) -> np.ndarray:
    """(H, W) bool -> the same with every set pixel grown to the disc of pixels at most `radius` away (Euclidean)."""
    rows, columns = np.nonzero(mask)
    grown = np.zeros(mask.shape, dtype=bool)
    if not len(rows):
        return grown
    # Only where the mask is: of a click on a photograph, all the rest would be 12 million pixels of nothing.
    top, left = rows.min() - radius, columns.min() - radius
    height, width = rows.max() + radius + 1 - top, columns.max() + radius + 1 - left
    # +1 where a row of a disc begins, -1 behind its end; a running sum along the row then counts the discs over a pixel.
    edges = np.zeros((height, width + 1), dtype=np.int32)
    for offset in range(-radius, radius + 1):
        reach = math.isqrt(radius**2 - offset**2)
        np.add.at(edges, (rows - top + offset, columns - left - reach), 1)
        np.add.at(edges, (rows - top + offset, columns - left + reach + 1), -1)
    discs = edges.cumsum(axis=1)[:, :width] > 0
    above, before = max(0, -top), max(0, -left)
    target = grown[top + above : top + height, left + before : left + width]
    target[:] = discs[above : above + target.shape[0], before : before + target.shape[1]]
    return grown


def place_region(mask: np.ndarray, image_size: int) -> np.ndarray:
    """(H, W) bool, not empty -> (S, S) bool, not empty: `place_mask`, or, if that loses a small region, the pixel under its
    centre of mass."""
    placed = place_mask(mask, image_size)
    if not placed.any():
        height, width = content_size(mask.shape, image_size)
        row, column = (np.nonzero(mask)[axis].mean() + 0.5 for axis in (0, 1))
        placed[int(row * height / mask.shape[0]), int(column * width / mask.shape[1])] = True
    return placed


def region_weights(mask: np.ndarray, image_grid: Size, sampling: str, generator: torch.Generator | None = None) -> Tensor:
    """Share of each image token in the pooled feature of a region.

    The released model averages the features at 256 pixels of the region, drawn at random unless there are exactly 256.
    Features are interpolated bilinearly with the corners of the grid at the corners of the image (align_corners=True) and a
    pixel at column / width, row / height.

    Args:
        mask: (S, S) bool in the padded square, at least one pixel.
        image_grid: (rows, columns) of the image tokens, G = rows * columns.
        sampling: "exact" = the expectation of the released draw, which is the mean over all pixels of the region, few or
            many; "released" = one draw of 256.
        generator: for "released"; default torch's global one.

    Returns:
        (G,) float32, >= 0, sums to 1.
    """
    rows, columns = (_interpolation(side, cells) for side, cells in zip(mask.shape, image_grid, strict=True))  # (S, cells)
    if sampling == "exact":
        weights = rows.T @ torch.from_numpy(mask).float() @ columns / mask.sum()  # (rows, columns)
    else:
        picked = _draw_pixels(torch.from_numpy(np.argwhere(mask)), generator)  # (256, 2)
        weights = rows[picked[:, 0]].T @ columns[picked[:, 1]] / NUM_SAMPLED_PIXELS
    return weights.flatten()


def _interpolation(side: int, cells: int) -> Tensor:
    """(side, cells): weight of every grid cell for every pixel along one axis."""
    positions = torch.arange(side, dtype=torch.float32) / side * (cells - 1)
    return (1 - (positions[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def _draw_pixels(pixels: Tensor, generator: torch.Generator | None) -> Tensor:
    """(n, 2) -> (256, 2): too few are kept and topped up with replacement, too many are drawn from without."""
    number = len(pixels)
    if number < NUM_SAMPLED_PIXELS:
        extra = torch.randint(0, number, (NUM_SAMPLED_PIXELS - number,), generator=generator)
        return torch.cat([pixels, pixels[extra]])
    if number > NUM_SAMPLED_PIXELS:
        return pixels[torch.randperm(number, generator=generator)[:NUM_SAMPLED_PIXELS]]
    return pixels


def is_bitmap(prompt: Any) -> bool:
    """True for points or a scribble that are given as a bitmap or an RLE; else they are coordinates, in an array of any numbers."""
    if isinstance(prompt, Tensor):
        return prompt.ndim == 2 and prompt.dtype in (torch.bool, torch.uint8)
    if isinstance(prompt, np.ndarray):
        return prompt.ndim == 2 and prompt.dtype in (np.bool_, np.uint8)
    return isinstance(prompt, (Image.Image, Mapping))


def _read_points(prompt: Any, size: Size, name: str) -> np.ndarray:
    """(P, 2) float, P >= 1, all inside the image."""
    try:
        points = np.asarray(prompt, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: expected (x, y) coordinates or a list of them, got {prompt!r:.80}") from error
    points = points[None] if points.shape == (2,) else points
    if points.ndim != 2 or points.shape[0] < 1 or points.shape[1] != 2:
        raise ValueError(f"{name}: expected (x, y) coordinates or a list of them, got {prompt!r:.80}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name}: coordinates must be finite numbers, got {points.tolist()!r:.80}")
    height, width = size
    outside = (points < 0).any(axis=1) | (points[:, 0] >= width) | (points[:, 1] >= height)
    if outside.any():
        raise ValueError(
            f"{name}: the point (x, y) = {tuple(points[outside][0].tolist())} lies outside of its image, "
            f"which is {width} wide and {height} high"
        )
    return points


def _fill_box(box: Sequence[float], size: Size, name: str) -> np.ndarray:
    try:
        corners = np.asarray(box, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: a box is (x0, y0, x1, y1), got {box!r:.80}") from error
    if corners.shape != (4,):
        raise ValueError(f"{name}: a box is (x0, y0, x1, y1), got {box!r:.80}")
    if not np.isfinite(corners).all():
        raise ValueError(f"{name}: coordinates must be finite numbers, got {corners.tolist()}")
    x0, y0, x1, y1 = corners.tolist()
    height, width = size
    if x1 < x0 or y1 < y0:
        raise ValueError(f"{name}: the box {(x0, y0, x1, y1)} has x1 < x0 or y1 < y0; give (left, top, right, bottom), not (x, y, w, h)")
    if x0 >= width or y0 >= height or x1 < 0 or y1 < 0 or (x0 < 0 and x1 == 0) or (y0 < 0 and y1 == 0):
        raise ValueError(f"{name}: the box {(x0, y0, x1, y1)} lies outside of its image, which is {width} wide and {height} high")
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    mask = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None, :]
    if not mask.any():  # thinner than a pixel: the one under its centre
        row, column = int((y0 + y1) / 2), int((x0 + x1) / 2)
        mask[min(max(row, 0), height - 1), min(max(column, 0), width - 1)] = True
    return mask
