"""Small objects: which part of the image is looked at again, how a prompt moves into it, and which of the answers is kept.

The first answer says where the object is. Crops of three sizes about it are enlarged and asked the same again; each answer comes back to
the image, and the best one by `quality` stays, which may be the first. The sizes and the rule were chosen by measurement, see
docs/large_images.md.

(H, W) the size of the image. Boxes are x0, y0, x1, y1 in pixels along pixel edges, sizes (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .model.image_processing_psalm import Size, read_bitmap
from .model.regions import is_bitmap, region_mask
from .result import PsalmResult
from .structures import REGION
from .windows import Window

FACTORS = (2.5, 3.5, 5.0)  # side of a crop by the longer side of the object; a factor of 1.4 apart
LARGEST = 0.3  # longer side of the object by that of the image; above, nothing was won
_LEAST_SIDE = 8  # pixels of a crop


class Crop(NamedTuple):
    """A part of the image that is asked again.

    Attributes:
        position: of the answer in the first result that it may replace.
        window: the part.
    """

    position: int
    window: Window


def crops_of(result: PsalmResult, argument: Sequence[Any]) -> list[Crop]:
    """The parts of an image that are worth another look.

    Args:
        result: of regions or of expressions without instances.
        argument: the regions or expressions, as the processor takes them.

    Returns:
        For each answer about something small `len(FACTORS)` crops or fewer; none for a region with labels, which belong to the pixels of
        the image, or where nothing says where it is.
    """
    size = result.masks.shape[1:]
    crops = []
    for position, index in enumerate(result.label_ids.tolist()):
        region = argument[index] if result.prompt.kind == REGION else {}
        box = None if "labels" in region else object_box(result.masks[position], region)
        crops += (Crop(position, window) for window in (windows_about(box, size) if box is not None else ()))
    return crops


def crop_question(crop: Crop, result: PsalmResult, argument: Sequence[Any], image_size: int) -> tuple[Image.Image, dict[str, Any]]:
    """The pixels of a crop, enlarged, and the same prompt in their coordinates, as `PsalmPredictor.predict` takes it.

    Args:
        result, argument: see `crops_of`.
        image_size: longer side of the model's input: smaller crops are enlarged to it.
    """
    image = enlarged(crop.window.crop(result.image), image_size)
    asked, prompt = argument[int(result.label_ids[crop.position])], result.prompt
    options: dict[str, Any] = {"mask_threshold": prompt.mask_threshold}
    if prompt.kind == REGION:
        return image, {"regions": [region_in(asked, crop.window, result.masks.shape[1:], image.size[::-1])], **options}
    options |= {"threshold": prompt.threshold, "no_target_threshold": prompt.no_target_threshold}
    return image, {"expressions": [asked], **options}


def object_box(mask: np.ndarray, region: Mapping[str, Any]) -> Window | None:
    """The place of an object: all that was drawn if a box or a mask is among it, else that and the first answer.

    Args:
        mask: (H, W) bool, the first answer.
        region: the prompt; empty of an expression.

    Returns:
        The box about it; None if nothing says where.
    """
    has_extent = "box" in region or "mask" in region
    covered = region_mask(region, mask.shape, "region", (0, 0)) if region else np.zeros_like(mask)
    return Window.about(covered if has_extent else covered | mask)


def windows_about(box: Sequence[float], size: Size) -> list[Window]:
    """Squares about a small object, `FACTORS` times its longer side, moved into the image and cut where it is narrower.

    Returns:
        Nothing for an object above `LARGEST`; no square that holds the whole image; at most one of each size.
    """
    height, width = size
    x0, y0, x1, y1 = box
    longer = max(x1 - x0, y1 - y0)
    if longer > LARGEST * max(size):
        return []
    windows = []
    for factor in FACTORS:
        side = max(_LEAST_SIDE, round(factor * longer))
        across, down = min(side, width), min(side, height)
        left = min(max(round((x0 + x1 - across) / 2), 0), width - across)
        top = min(max(round((y0 + y1 - down) / 2), 0), height - down)
        window = Window(left, top, left + across, top + down)
        if (across, down) != (width, height) and window not in windows:
            windows.append(window)
    return windows


def enlarged(image: Image.Image, image_size: int) -> Image.Image:
    """An image whose longer side is at least `image_size`.

    The model enlarges small images itself; here it is done before, so that points and scribbles, whose radii are pixels of the image, are
    as large for the model as in a whole image.
    """
    longer = max(image.size)
    if longer >= image_size:
        return image
    width, height = (max(1, round(side * image_size / longer)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def region_in(region: Mapping[str, Any], window: Window, size: Size, view_size: Size) -> dict[str, Any]:
    """A region prompt in the pixels of an enlarged window, which holds the middle of what was drawn; the rest is cut off.

    Args:
        region: as the processor takes it, without labels.
        size: of the image.
        view_size: of the enlarged window.
    """
    scale = np.array([view_size[1] / window.width, view_size[0] / window.height])
    last = np.array(view_size[::-1]) - 1e-3  # a point on the far edge lies outside
    moved: dict[str, Any] = {}
    for kind, value in region.items():
        if kind == "mask" or is_bitmap(value):
            pixels = Image.fromarray(read_bitmap(value, size, kind)[window.slices])
            moved[kind] = np.asarray(pixels.resize(view_size[::-1], Image.Resampling.NEAREST))
            continue
        points = (np.asarray(value, dtype=np.float64).reshape(-1, 2) - window[:2]) * scale
        if kind == "box":
            moved[kind] = points.clip(0, view_size[::-1]).ravel().tolist()
        else:
            inside = points.clip(0, last)
            moved[kind] = inside[0].tolist() if kind == "point" else inside.tolist()
    return moved


def pasted(mask: np.ndarray, window: Window, size: Size) -> np.ndarray:
    """The mask of an enlarged window in the image: a pixel is set if at least half of what it became is.

    Args:
        mask: (h, w) bool of the enlarged window.

    Returns:
        (H, W) bool.
    """
    whole = np.zeros(size, dtype=bool)
    if mask.shape != (window.height, window.width):
        grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((window.width, window.height), Image.Resampling.BOX)
        mask = np.asarray(grey) >= 128
    whole[window.slices] = mask
    return whole


def agreement(mask: np.ndarray, region: Mapping[str, Any]) -> float:
    """Fit of a mask to what was drawn, in [0, 1]; 1 without a region.

    A box: IoU with the box about the mask. A mask: IoU. A point or scribble: share of its pixels that the mask has. Several: their product.

    Args:
        mask: (H, W) bool.
        region: as the processor takes it; empty of an expression.
    """
    fits = []
    for kind, value in region.items():
        drawn = region_mask({kind: value}, mask.shape, "region", (0, 0))
        if kind == "box":
            box = Window.about(mask)
            fits.append(0.0 if box is None else _box_iou(box, value))
        elif kind == "mask":
            fits.append(float((mask & drawn).sum() / (mask | drawn).sum()))
        else:
            fits.append(float((mask & drawn).sum() / drawn.sum()))
    return math.prod(fits)


def _box_iou(first: Sequence[float], second: Any) -> float:
    """IoU of two boxes."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64).ravel()
    common = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common
    return float(common / union) if union > 0 else 0.0


def quality(mask: np.ndarray, score: float, region: Mapping[str, Any]) -> float:
    """The number by which answers are compared: the model's score times the agreement with what was drawn."""
    return score * agreement(mask, region)


def best_answers(result: PsalmResult, argument: Sequence[Any], crops: Sequence[Crop], answers: Iterator[PsalmResult]) -> PsalmResult:
    """The first result, with those answers of crops in it that are better.

    Args:
        result, argument: see `crops_of`.
        answers: for each of the crops a result of one answer, or none; it may have more, which are left.
    """
    if not crops:
        return result
    masks, scores = result.masks.copy(), result.scores.copy()
    regions = [argument[index] if result.prompt.kind == REGION else {} for index in result.label_ids.tolist()]
    best: dict[int, float] = {}
    for crop in crops:  # one answer at a time: its mask has the size of the model's input
        answer, position = next(answers), crop.position
        if position not in best:
            best[position] = quality(masks[position], scores[position], regions[position])
        if not len(answer):
            continue  # an expression that means nothing there
        mask = pasted(answer.masks[0], crop.window, masks.shape[1:])
        found = quality(mask, answer.scores[0], regions[position])
        if found > best[position]:
            best[position] = found
            masks[position], scores[position] = mask, answer.scores[0]
    return replace(result, masks=masks, scores=scores)
