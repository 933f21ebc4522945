"""Average precision of instances as the script of Cityscapes computes it, which is not that of COCO."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..structures import Segment
from .base import InstanceMetric, Metric, errors_of, mean
from .label_map import label_map
from .overlap import Mask, bitmap

OVERLAPS = tuple(np.arange(0.5, 1.0, 0.05).tolist())  # the script's own steps, whose last digits differ from 0.55, 0.6, ...
MIN_PIXELS = 100


@dataclass
class Outcomes(Metric):
    """Predictions that found an object, false ones, and missed objects, of one category at one overlap.

    Attributes:
        hits, false: scores of the predictions that found an object, and of those that did not.
        missed: number of objects that no prediction found.
    """

    hits: list[float] = field(default_factory=list)
    false: list[float] = field(default_factory=list)
    missed: int = 0


@dataclass
class CityscapesAP(InstanceMetric):
    """AP of Cityscapes: mean over categories and over the overlaps 0.50, 0.55, ... 0.95.

    A prediction finds an object of its category if their IoU is above the overlap. Of several that find the same object the surest is
    a hit and the others are false. One that finds nothing is false, unless the share of its pixels that lie on void, on groups and on
    small objects of its category is above the overlap. Groups and objects below 100 pixels need not be found; predictions that find
    one of them are ignored.

    Attributes:
        category_ids: the categories that are evaluated; predictions of others are left out.
        outcomes: category id -> overlap, one of `OVERLAPS` -> those at it.

    Source: evalInstanceLevelSemanticLabeling.py of cityscapesScripts 2.3.0. It fails where a category has objects, but nothing except
    ignored predictions; here its AP is 0 then, as where there are no predictions.
    """

    settings: ClassVar[tuple[str, ...]] = ("category_ids",)

    category_ids: Sequence[int]
    outcomes: dict[int, dict[float, Outcomes]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.category_ids = tuple(self.category_ids)
        self.outcomes = {category_id: {overlap: Outcomes() for overlap in OVERLAPS} for category_id in self.category_ids}

    def update(
        self,
        image_id: int | str,
        masks: Sequence[Mask],
        category_ids: Sequence[int],
        scores: Sequence[float],
        targets: Sequence[Segment],
        void: Mask,
    ) -> None:
        """Adds one image.

        Args:
            image_id: the dataset's id.
            masks: N predictions, (N, H, W) bool or COCO RLEs, at the original image size. They may overlap; empty ones are left out.
            category_ids: (N,) label ids.
            scores: (N,) the higher, the surer; any scale.
            targets: the image's true objects and, as crowds, groups of objects. They do not overlap.
            void: the pixels whose label is not evaluated.

        Raises:
            ValueError: numbers of entries differ, masks differ in size, targets overlap each other or void, a target has a category that
                is not evaluated, a score is not finite, or the image was there before.
        """
        self.check(image_id, masks, category_ids, scores)
        if foreign := [index for index, target in enumerate(targets) if target.category_id not in self.outcomes]:
            raise ValueError(
                f"image {image_id}: targets {foreign} have a category that is none of {', '.join(map(str, self.category_ids))}"
            )
        void = bitmap(void, f"image {image_id}, void")
        # One number per pixel, so that a prediction's pixels on all targets are counted at once: 0 nothing, then void, then targets.
        with errors_of(f"image {image_id}"):
            painted = label_map([target.mask_rle for target in targets], range(2, len(targets) + 2), void.shape, fill=0)
        if (painted[void] != 0).any():
            raise ValueError(f"image {image_id}: a target has pixels that are void")
        painted[void] = 1
        areas = np.bincount(painted.ravel(), minlength=len(targets) + 2)

        found: dict[int, list[_Prediction]] = defaultdict(list)
        for index, (mask, category_id, score) in enumerate(zip(masks, category_ids, scores, strict=True)):
            if int(category_id) not in self.outcomes:
                continue
            mask = bitmap(mask, f"image {image_id}, mask {index}")
            if mask.shape != painted.shape:
                raise ValueError(
                    f"image {image_id}, mask {index}: size {mask.shape}, but the image has {painted.shape}; "
                    f"bring predictions to the original image size"
                )
            common = np.bincount(painted[mask], minlength=len(areas))
            if common.any():
                found[int(category_id)].append(_Prediction(float(score), int(common.sum()), int(common[1]), common[2:].tolist()))
        for category_id, outcomes in self.outcomes.items():
            objects = {
                number: _Object(int(pixels), target.is_crowd)
                for number, (target, pixels) in enumerate(zip(targets, areas[2:], strict=True))
                if target.category_id == category_id
            }
            for overlap, outcome in outcomes.items():
                outcome += _match(found[category_id], objects, overlap)
        self.images.add(image_id)

    def compute(self) -> dict[str, float]:
        """Numbers in percent, nan where there is no object: "AP", and "AP50", at the overlap 0.5."""
        per_category = self.per_category().values()
        return {name: mean([result[name] for result in per_category]) for name in ("AP", "AP50")}

    def per_category(self) -> dict[int, dict[str, float]]:
        """Category id -> "AP", "AP50" in percent, for the categories with objects of 100 pixels and more that are no groups."""
        self.require(self.images, "image")
        results = {}
        for category_id, outcomes in self.outcomes.items():
            precisions = [100 * _average_precision(outcome) for outcome in outcomes.values() if outcome.hits or outcome.missed]
            if precisions:
                results[category_id] = {"AP": mean(precisions), "AP50": precisions[0]}
        return results


@dataclass(frozen=True)
class _Object:
    pixels: int
    is_group: bool

    @property
    def is_wanted(self) -> bool:
        return not self.is_group and self.pixels >= MIN_PIXELS


@dataclass(frozen=True)
class _Prediction:
    """`common`: pixels on each target of the image."""

    score: float
    pixels: int
    void_pixels: int
    common: list[int]


def _match(predictions: Sequence[_Prediction], objects: Mapping[int, _Object], overlap: float) -> Outcomes:
    """Outcomes of one image, one category and one overlap. `objects`: number of the target -> it."""
    outcomes = Outcomes()
    finders: dict[int, list[float]] = {number: [] for number, entry in objects.items() if entry.is_wanted}
    for prediction in predictions:
        # Above one half there is one such object at most: targets do not overlap.
        number = next((number for number, entry in objects.items() if _iou(prediction, number, entry) > overlap), None)
        if number is not None:
            if number in finders:
                finders[number].append(prediction.score)
            continue
        ignored = prediction.void_pixels
        for number, entry in objects.items():
            # As in the script, a group that is also small counts twice.
            ignored += prediction.common[number] * (entry.is_group + (entry.pixels < MIN_PIXELS))
        if ignored / prediction.pixels <= overlap:
            outcomes.false.append(prediction.score)
    for scores in finders.values():
        scores.sort()
        outcomes.hits += scores[-1:]
        outcomes.false += scores[:-1]
        outcomes.missed += not scores
    return outcomes


def _iou(prediction: _Prediction, number: int, entry: _Object) -> float:
    common = prediction.common[number]
    return common / (entry.pixels + prediction.pixels - common)


def _average_precision(outcomes: Outcomes) -> float:
    """Area under precision over recall, in [0, 1]; there is at least one object.

    The curve has a point for every score, of all predictions that reach it, and ends at recall 0 with precision 1. Every point counts with
    half of the way from the recall before it to the one behind it; the first point, of the highest recall, has itself before it, and the
    last one has recall 0 behind it.
    """
    number = len(outcomes.hits) + outcomes.missed
    hits, false = np.sort(outcomes.hits), np.sort(outcomes.false)
    scores = np.unique(np.concatenate([hits, false]))
    true_positives = len(hits) - np.searchsorted(hits, scores)
    false_positives = len(false) - np.searchsorted(false, scores)
    precision = np.append(true_positives / (true_positives + false_positives), 1.0)
    recall = np.append(true_positives / number, 0.0)
    before, behind = np.append(recall[0], recall[:-1]), np.append(recall[1:], 0.0)
    return math.fsum(precision * (before - behind) / 2)
