"""Drawings of predictions: prediction | target | error of single rows, and the worst and the best rows of a dataset.

Rows are ranked by `row_score`, a number of one row, because the numbers of benchmarks (PQ, AP, mIoU) exist for a whole dataset only. A
sample of "instance" holds things only: of a panoptic dataset, leave out the segments of stuff first, as `write_comparisons` does.

Pixels are judged alike for every kind of prediction: each category, expression or region has its predicted and its true pixels. A pixel
that lacks one and has another too many is wrong, one that only lacks is missed, one that only has too many is a false positive.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..masks import bitmap_from_rle
from ..metrics import region_similarity
from ..metrics.base import mean
from ..structures import Region, Sample
from ..visualization import (
    PAPER,
    Color,
    add_caption,
    contact_sheet,
    draw_panels,
    draw_segmentation,
    drawn_prompt,
    label_colors,
    mask_colors,
    open_image,
)

# Kind of prediction -> what the score of a row is, and what a pixel is that has one thing instead of another.
SCORES: dict[str, tuple[str, str]] = {
    "panoptic": ("labelled pixels with the right category", "wrong category"),
    "semantic": ("labelled pixels with the right category", "wrong category"),
    "instance": ("mean IoU of the categories", "wrong category"),
    "referring": ("IoU", ""),
    "region": ("mean IoU of the regions", "another region"),
}
MIN_SCORE = 0.5  # of the instances that are drawn and ranked by: of the 100 that are predicted nearly all are below

# Colours of Okabe and Ito, the orange darker: whatever photo shines through, two of them are at least 11 apart (CIEDE2000), also as seen
# with deuteranopia and protanopia. What is right is a light photo, and where there is nothing it is a dark one: the lightest dark (102) is
# darker than the darkest light (120).
RIGHT, MISSED, FALSE, WRONG = (240, 240, 240), (86, 180, 233), (200, 70, 0), (240, 228, 66)
EMPTY, NOT_JUDGED = (0, 0, 0), (95, 55, 150)
ERROR_OPACITY = 0.8
# Kind of pixel -> its colour, and how opaque that lies over the grey photo; later ones lie on top.
ERRORS: dict[str, tuple[Color, float]] = {
    "no target, none predicted": (EMPTY, 0.6),
    "right": (RIGHT, 0.5),
    "missed": (MISSED, ERROR_OPACITY),
    "false positive": (FALSE, ERROR_OPACITY),
    "wrong": (WRONG, ERROR_OPACITY),
    "not judged": (NOT_JUDGED, 0.85),
}
MAX_WIDTH = 2400  # of a comparison, in pixels
COMPARISON_CELL = (1400, 1400)  # of a comparison in the contact sheet

Layer = tuple[np.ndarray, np.ndarray]  # predicted and true pixels of one category, expression or region, (H, W) bool
ComparedRow = tuple[int, Sample, Any]  # index in its dataset, sample, prediction


def row_score(sample: Sample, prediction: Any, name: str) -> float:
    """Score of one prediction, in [0, 1], to rank rows by. It is no number of a benchmark.

    * "panoptic", "semantic": share of the labelled pixels that have the right category; which object they belong to is not looked at.
      Of an image without labelled pixels, 1.
    * "instance": mean over the categories that are true or predicted (with a score of at least `MIN_SCORE`) of the IoU of all their pixels.
    * "referring": IoU with what is meant. Where nothing is meant, 1 if the prediction says so, else 0.
    * "region": mean IoU of the regions; an object that is not there and is not predicted is an IoU of 1.

    What a crowd covers is not judged, but counts in "semantic"; of expressions only crowds without a category are left out, which is how
    ReasonSeg marks pixels to be ignored.

    Raises:
        ValueError: `name` is none of `SCORES`, or the sample has another kind of prompt; a mask of another size than the image.
    """
    _check(sample, name)
    layers, judged = _layers(sample, prediction, name), _judged(sample, name)
    if name == "referring" and (prediction["no_target"] or not any(true.any() for _, true in layers)):
        return float(prediction["no_target"] and not any(true.any() for _, true in layers))
    if name in ("panoptic", "semantic"):
        right = sum(int(np.count_nonzero(predicted & true & judged)) for predicted, true in layers)
        return right / int(np.count_nonzero(judged)) if judged.any() else 1.0
    # Where nothing is asked for and nothing is predicted, nothing is wrong.
    return mean([region_similarity(predicted & judged, true & judged) for predicted, true in layers]) if layers else 1.0


def draw_comparison(sample: Sample, prediction: Any, name: str) -> Image.Image:
    """Prediction | target | error beside each other, for regions behind the prompts; above them ids, score and expressions, below them what
    the colours of the error mean.

    Raises:
        OSError: the image cannot be read.
        ValueError: see `row_score`.
    """
    _check(sample, name)
    layers, judged = _layers(sample, prediction, name), _judged(sample, name)
    image = open_image(sample.image)
    predicted = _predicted(sample, prediction, name)
    true = [each for each in _true(sample, name) if each.is_judged or name != "referring"]
    panels = [
        draw_segmentation(
            image, np.array([each.mask for each in drawn], dtype=bool), [each.label for each in drawn], colors=colors, legend=False
        )
        for drawn, colors in zip((predicted, true), _agreeing_colors(predicted, true), strict=True)
    ]
    panels.append(_error_panel(image, layers, judged, panels[0].size))
    titles = ["prediction" + ": nothing is meant" * (name == "referring" and prediction["no_target"]), "target", "error"]
    if name == "region":
        panels.insert(0, _prompt_panel(sample, image, panels[0].size))
        titles.insert(0, "prompts" if sample.region_image is None else "prompts, on another image")
    picture = add_caption(
        draw_panels(panels, titles, columns=len(panels)), _caption(sample, prediction, name), _swatches(name, layers, judged)
    )
    return picture.resize([round(side * min(1, MAX_WIDTH / picture.width)) for side in picture.size], Image.Resampling.LANCZOS)


def write_comparisons(
    folder: Path, rows: Sequence[ComparedRow], name: str, number: int, things: Collection[int] | None = None
) -> list[Path]:
    """Comparisons of the worst and the best rows: `worst_01_<ids>.png`, ..., `best_01_<ids>.png`, ..., and `contact_sheet.png` with all of
    them, the worst at the left and the best at the right.

    Files of these names that are there from before are removed.

    Args:
        folder: is made if it does not exist.
        rows: read twice, first to rank them, then those that are drawn: a sequence that reads files on demand does.
        name: kind of prediction, see `SCORES`.
        number: drawings in all, half of them (the odd one too) the worst; fewer if there are fewer rows.
        things: ids of the categories that "instance" is about; default all.

    Returns:
        the files, worst first, then the best, then the sheet.

    Raises:
        OSError, ValueError: no rows, or `number` below 1; see `draw_comparison`.
    """
    if number < 1 or not len(rows):
        raise ValueError(f"visualize: expected at least one drawing of at least one row, got {number} of {len(rows)} rows")
    # Equal scores go by the row's index, so that any division of the work gives the same drawings.
    ranks = sorted(
        (row_score(_of_things(sample, name, things), prediction, name), index, place)
        for place, (index, sample, prediction) in enumerate(rows)
    )
    number = min(number, len(ranks))
    groups = {"worst": ranks[: math.ceil(number / 2)], "best": ranks[::-1][: number // 2]}

    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("worst_*.png"), *folder.glob("best_*.png")]:
        old.unlink()
    written = {group: [] for group in groups}
    for group, members in groups.items():
        for rank, (_, _, place) in enumerate(members, 1):
            _, sample, prediction = rows[place]
            path = folder / f"{group}_{rank:02}_{_file_name(sample)}.png"
            draw_comparison(_of_things(sample, name, things), prediction, name).save(path)
            written[group].append(path)
    # Row by row: the next worst, the next best.
    order = [group[rank] for rank in range(len(written["worst"])) for group in written.values() if rank < len(group)]
    sheet = folder / "contact_sheet.png"
    contact_sheet([open_image(path) for path in order], columns=min(2, number), cell_size=COMPARISON_CELL).save(sheet)
    return [*written["worst"], *written["best"], sheet]


def _of_things(sample: Sample, name: str, things: Collection[int] | None) -> Sample:
    if name != "instance" or things is None:
        return sample
    return replace(sample, segments=tuple(segment for segment in sample.segments if segment.category_id in things))


def _check(sample: Sample, name: str) -> None:
    if name not in SCORES:
        raise ValueError(f"unknown kind of prediction {name!r}, expected one of {', '.join(SCORES)}")
    expected = {"referring": "sentence", "region": "region"}.get(name, "category")
    if sample.condition != expected:
        raise ValueError(
            f"image {sample.image_id}: a {name!r} prediction is one for a {expected} prompt, but this is a {sample.condition} prompt"
        )


class Drawn(NamedTuple):
    """One mask of a prediction or target; masks of one key (category, expression or region) are compared together."""

    key: int
    label: str
    mask: np.ndarray
    is_judged: bool = True


def _layers(sample: Sample, prediction: Any, name: str) -> list[Layer]:
    """Predicted and true pixels of everything that is told apart in a row."""
    predicted, true = _predicted(sample, prediction, name), [each for each in _true(sample, name) if each.is_judged]
    keys = sorted({each.key for each in (*predicted, *true)})
    return [tuple(_union(sample, [each for each in drawn if each.key == key]) for drawn in (predicted, true)) for key in keys]


def _judged(sample: Sample, name: str) -> np.ndarray:
    """(H, W) bool: the pixels on which a prediction can be right or wrong."""
    true = _true(sample, name)
    labelled, ignored = (_union(sample, [each for each in true if each.is_judged == is_judged]) for is_judged in (True, False))
    if name in ("panoptic", "semantic"):
        return labelled
    return labelled | ~ignored if name == "instance" else ~ignored


def _union(sample: Sample, drawn: Sequence[Drawn]) -> np.ndarray:
    return np.any([np.zeros(sample.image_size, dtype=bool), *(each.mask for each in drawn)], axis=0)


def _predicted(sample: Sample, prediction: Any, name: str) -> list[Drawn]:
    if name == "referring":
        return [] if prediction["no_target"] else [Drawn(0, "predicted", bitmap_from_rle(prediction["mask"]))]
    if name == "region":
        return [Drawn(number, str(number), bitmap_from_rle(rle)) for number, rle in enumerate(prediction["masks"], 1)]
    return [
        Drawn(entry["category_id"], _short(sample, entry["category_id"]), bitmap_from_rle(entry["mask"]))
        for entry in prediction["instances" if name == "instance" else "segments"]
        if name != "instance" or entry["score"] >= MIN_SCORE
    ]


def _true(sample: Sample, name: str) -> list[Drawn]:
    masks = [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]
    if name == "region":
        nothing = np.zeros(sample.image_size, dtype=bool)
        segments = enumerate((region.segment for region in sample.regions), 1)
        return [Drawn(number, str(number), nothing if index is None else masks[index]) for number, index in segments]
    pairs = list(zip(sample.segments, masks, strict=True))
    if name == "referring":
        return [Drawn(0, "meant", mask, not segment.is_crowd or segment.category_id is not None) for segment, mask in pairs]
    return [
        Drawn(
            segment.category_id,
            _short(sample, segment.category_id) + " (crowd)" * segment.is_crowd,
            mask,
            name == "semantic" or not segment.is_crowd,
        )
        for segment, mask in pairs
    ]


def _short(sample: Sample, category_id: int) -> str:
    """The first name, where a category is prompted with all of its synonyms."""
    return sample.categories[category_id].split(",")[0]


def _agreeing_colors(predicted: Sequence[Drawn], true: Sequence[Drawn]) -> tuple[list[Color], list[Color]]:
    """Colours of predictions and of targets: both of one key have shades of one colour, and a prediction has that of the target which it
    overlaps most. Of two predictions on one target the second has a shade of its own."""
    overlaps = (
        (region_similarity(one.mask, other.mask), -row, -column)
        for row, one in enumerate(predicted)
        for column, other in enumerate(true)
        if one.key == other.key and (one.mask & other.mask).any()
    )
    target_of: dict[int, int] = {}
    for _, row, column in sorted(overlaps, reverse=True):
        if -row not in target_of and -column not in target_of.values():
            target_of[-row] = -column
    others = [row for row in range(len(predicted)) if row not in target_of]
    keys = [str(each.key) for each in (*true, *predicted)]
    shades = mask_colors([str(each.key) for each in (*true, *(predicted[row] for row in others))], label_colors(keys))
    place = target_of | {row: len(true) + turn for turn, row in enumerate(others)}
    return [shades[place[row]] for row in range(len(predicted))], shades[: len(true)]


def _prompt_panel(sample: Sample, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The prompts on their image, which is brought into the size of the other panels."""
    drawn_on = image if sample.region_image is None else open_image(sample.region_image)
    numbers = [str(number) for number in range(1, len(sample.regions) + 1)]
    as_masks = all(region.kind == "mask" for region in sample.regions)
    masks = [_where(region, (drawn_on.height, drawn_on.width)) for region in sample.regions]
    prompts = [] if as_masks else [drawn_prompt(region) for region in sample.regions]
    panel = draw_segmentation(drawn_on, np.stack(masks), numbers, prompts=prompts, legend=False)
    canvas = Image.new("RGB", size, PAPER)
    scale = min(size[0] / panel.width, size[1] / panel.height)
    panel = panel.resize([max(1, round(side * scale)) for side in panel.size], Image.Resampling.LANCZOS)
    canvas.paste(panel, ((size[0] - panel.width) // 2, (size[1] - panel.height) // 2))
    return canvas


def _where(region: Region, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels of a prompt, of one with coordinates the first, so that its number stands beside it."""
    if region.mask_rle is not None:
        return bitmap_from_rle(region.mask_rle)
    pixels = np.zeros(size, dtype=bool)
    x, y = region.points[0]
    pixels[min(max(int(y), 0), size[0] - 1), min(max(int(x), 0), size[1] - 1)] = True
    return pixels


def _error_kinds(layers: Sequence[Layer], judged: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the kind of every pixel, as a place in `ERRORS`."""
    lacking, extra, true = (np.zeros_like(judged) for _ in range(3))
    for predicted, target in layers:
        lacking |= target & ~predicted
        extra |= predicted & ~target
        true |= target
    kinds = np.zeros(judged.shape, dtype=np.uint8)
    for place, where in enumerate((true, lacking, extra, lacking & extra, ~judged), 1):
        kinds[where] = place
    return kinds


def _error_panel(image: Image.Image, layers: Sequence[Layer], judged: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Grey photo, tinted by what is right or wrong at each pixel, see `ERRORS`."""
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS))
    kinds = np.asarray(Image.fromarray(_error_kinds(layers, judged)).resize(size, Image.Resampling.NEAREST))
    pixels = np.zeros((*grey.shape, 3), dtype=np.float32)
    for place, kind in enumerate(ERRORS):
        where = kinds == place
        pixels[where] = _tinted(grey[where], kind)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _tinted(grey: np.ndarray, kind: str) -> np.ndarray:
    """Grey values (N,) -> their colours (N, 3) in the error panel."""
    color, opacity = ERRORS[kind]
    return (1 - opacity) * grey[:, None] + opacity * np.asarray(color, dtype=np.float32)


def _swatches(name: str, layers: Sequence[Layer], judged: np.ndarray) -> dict[str, Color]:
    """Meaning -> colour, as it looks on a photo of mean brightness: of all that may be wrong, and of every other colour of the panel."""
    usual = {"right", "missed"}
    if name not in ("panoptic", "semantic"):  # there, what is predicted on labelled pixels stands where something else is true
        usual |= {"false positive"}
    if name != "referring":
        usual |= {"wrong"}
    present = np.bincount(_error_kinds(layers, judged).ravel(), minlength=len(ERRORS)) > 0
    swatches = {}
    for kind, is_present in zip(ERRORS, present, strict=True):
        if is_present or kind in usual:
            meaning = SCORES[name][1] if kind == "wrong" else kind
            swatches[meaning] = tuple(int(value) for value in _tinted(np.array([128]), kind)[0].round())
    return swatches


def _caption(sample: Sample, prediction: Any, name: str) -> str:
    ids = f"image {sample.image_id}" + (f", record {sample.record_id}" if sample.record_id not in (None, sample.image_id) else "")
    score = f"{SCORES[name][0]} {100 * row_score(sample, prediction, name):.1f} %"
    expressions = " | ".join(f"\u201c{text.strip()}\u201d" for text in sample.expressions)
    return f"{score} on {ids}" + f": {expressions}" * bool(expressions)


def _file_name(sample: Sample) -> str:
    """Ids of image and record without what file names should not have; ranks keep names apart where this is the same for two."""
    ids = dict.fromkeys(str(id) for id in (sample.image_id, sample.record_id) if id is not None)
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "_".join(ids))[:80]
