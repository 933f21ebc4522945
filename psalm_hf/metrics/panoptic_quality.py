"""Panoptic quality: every pixel belongs to one segment of one category."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from .base import Metric, mean
from .overlap import integer_maps

_VOID = 0  # id of the pixels that belong to no segment
_ID_LIMIT = 2**31  # so that a pair of ids fits into one int64


@dataclass
class PanopticQuality(Metric):
    """PQ, SQ and RQ: over all categories, over things, over stuff, and of each category.

    A predicted and a true segment of the same category match if their IoU is above one half; such a partner is the only one. Predicted
    pixels on void do not count in that IoU. Unmatched true segments are misses, except crowds. Unmatched predictions are false, except
    those that lie by more than half on void and on crowds of their category.

    Attributes:
        is_thing: category id -> whether it is a thing, for every category.
        area_range: only segments of low <= area < high pixels are counted: matches and misses by the area of the true segment, false
            ones by their own. Metrics of adjacent ranges share all counts among them, none twice.
        num_images: images so far.
        matched_ious: category id -> IoUs of its matches, in (0.5, 1].
        false, missed: category id -> number of unmatched predictions and of unmatched true segments.

    Source: arXiv:1801.00868; crowd and void as in panopticapi (github.com/cocodataset/panopticapi), except that there only the last of
    several crowds of one category in one image counts, and here all.
    """

    settings: ClassVar[tuple[str, ...]] = ("is_thing", "area_range")

    is_thing: Mapping[int, bool]
    area_range: tuple[float, float] = (0, math.inf)
    num_images: int = field(default=0, init=False)
    matched_ious: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list), init=False, repr=False)
    false: Counter[int] = field(default_factory=Counter, init=False, repr=False)
    missed: Counter[int] = field(default_factory=Counter, init=False, repr=False)

    def update(
        self,
        predicted: np.ndarray,
        predicted_categories: Mapping[int, int],
        target: np.ndarray,
        target_categories: Mapping[int, int],
        crowd_ids: Collection[int] = (),
    ) -> None:
        """Adds one image.

        Args:
            predicted: (H, W) integers at the original image size: the id of the segment at each pixel, 0 = none.
            predicted_categories: id -> category id, of exactly the segments in the map.
            target: (H, W) integers, the same for the target; 0 = void.
            target_categories: id -> category id, of all segments in the map. One without a pixel is a miss.
            crowd_ids: those of the true segments that are crowds.

        Raises:
            ValueError: maps and ids do not belong together, or an unknown category.
        """
        predicted, target = integer_maps(predicted, target, "segment ids")
        predicted, target = _ids(predicted, "prediction"), _ids(target, "target")
        overlaps = _overlaps(predicted, target)
        predicted_areas, target_areas = Counter(), Counter(dict.fromkeys(target_categories, 0))
        for (predicted_id, target_id), pixels in overlaps.items():
            predicted_areas[predicted_id] += pixels
            target_areas[target_id] += pixels
        self._check(predicted_areas, predicted_categories, "prediction")
        self._check(target_areas, target_categories, "target")
        if lost := predicted_categories.keys() - predicted_areas.keys():
            raise ValueError(f"prediction: segments {sorted(lost)} have a category but no pixel; leave them out")
        if unknown := set(crowd_ids) - target_categories.keys():
            raise ValueError(f"target: crowd ids {sorted(unknown)} are none of its segments")

        self.num_images += 1
        matches: dict[int, int] = {}  # predicted id -> target id
        for (predicted_id, target_id), pixels in overlaps.items():
            if _VOID in (predicted_id, target_id) or target_id in crowd_ids:
                continue
            category = target_categories[target_id]
            if predicted_categories[predicted_id] != category:
                continue
            on_void = overlaps.get((predicted_id, _VOID), 0)
            iou = pixels / (predicted_areas[predicted_id] + target_areas[target_id] - pixels - on_void)
            if iou > 0.5:
                matches[predicted_id] = target_id
                if self._counts(target_areas[target_id]):
                    self.matched_ious[category].append(iou)
        for target_id in target_categories.keys() - matches.values() - set(crowd_ids):
            self.missed[target_categories[target_id]] += self._counts(target_areas[target_id])
        for predicted_id in predicted_categories.keys() - matches.keys():
            category = predicted_categories[predicted_id]
            excuses = [_VOID, *(crowd_id for crowd_id in crowd_ids if target_categories[crowd_id] == category)]
            excused = sum(overlaps.get((predicted_id, excuse), 0) for excuse in excuses)
            if excused / predicted_areas[predicted_id] <= 0.5:
                self.false[category] += self._counts(predicted_areas[predicted_id])

    def _check(self, areas: Mapping[int, int], categories: Mapping[int, int], item: str) -> None:
        if _VOID in categories:
            raise ValueError(f"{item}: {_VOID} means no segment, but was given category {categories[_VOID]}; number segments from 1")
        if nameless := areas.keys() - categories.keys() - {_VOID}:
            raise ValueError(f"{item}: ids {sorted(nameless)} are in the map, but have no category")
        if unknown := set(categories.values()) - self.is_thing.keys():
            raise ValueError(
                f"{item}: category ids {sorted(unknown)} are none of the {len(self.is_thing)} categories; give the dataset's own ids"
            )

    def _counts(self, area: int) -> bool:
        low, high = self.area_range
        return low <= area < high

    def compute(self) -> dict[str, float]:
        """Numbers in percent: "PQ", "SQ", "RQ", the same over things ("PQ-things", ...) and over stuff ("PQ-stuff", ...).

        Each is the mean over the categories with at least one match, miss or false prediction, and nan if there is no such category.
        """
        per_category = self.per_category()
        groups = {
            "": list(per_category),
            "-things": [category for category in per_category if self.is_thing[category]],
            "-stuff": [category for category in per_category if not self.is_thing[category]],
        }
        return {
            f"{name}{suffix}": mean([per_category[category][name] for category in categories])
            for suffix, categories in groups.items()
            for name in ("PQ", "SQ", "RQ")
        }

    def per_category(self) -> dict[int, dict[str, float]]:
        """Category id -> "PQ", "SQ", "RQ" in percent, for the categories with at least one match, miss or false prediction.

        Without a match all three are 0.
        """
        self.require(self.num_images, "image")
        result = {}
        for category in self.is_thing:
            ious = self.matched_ious.get(category, [])
            segments = len(ious) + (self.false[category] + self.missed[category]) / 2
            if segments:
                total = math.fsum(ious)
                result[category] = {
                    "PQ": 100 * total / segments,
                    "SQ": 100 * total / len(ious) if ious else 0.0,
                    "RQ": 100 * len(ious) / segments,
                }
        return result


def _ids(segmentation: np.ndarray, item: str) -> np.ndarray:
    if segmentation.size and not _VOID <= segmentation.min() <= segmentation.max() < _ID_LIMIT:
        raise ValueError(
            f"{item}: ids from {segmentation.min()} to {segmentation.max()}; pixels without a segment are {_VOID}, segments 1 to 2^31 - 1"
        )
    return segmentation.astype(np.int64, copy=False)


def _overlaps(predicted: np.ndarray, target: np.ndarray) -> dict[tuple[int, int], int]:
    """(predicted id, target id) -> number of common pixels, void included, ids ascending."""
    pairs = predicted * _ID_LIMIT
    pairs += target
    pairs = pairs.ravel()
    # Segments are made of runs along the rows, of which there are far fewer than pixels.
    ends = np.append(np.flatnonzero(pairs[1:] != pairs[:-1]), pairs.size - 1) if pairs.size else np.empty(0, dtype=np.int64)
    pairs, which = np.unique(pairs[ends], return_inverse=True)
    counts = np.bincount(which, weights=np.diff(ends, prepend=-1)).astype(np.int64)  # exact: sums of integers below 2^53
    ids = zip((pairs // _ID_LIMIT).tolist(), (pairs % _ID_LIMIT).tolist(), strict=True)
    return dict(zip(ids, counts.tolist(), strict=True))
