"""Evaluators of panoptic segmentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ...data.features import Category
from ...masks import bitmap_from_rle, rle_from_bitmap
from ...metrics import PanopticQuality, label_map, size_bin
from ...structures import Sample
from .base import AreaRanges, Evaluator, Numbers, predicted_map, variant_name


@dataclass(frozen=True)
class PanopticThresholds:
    """`threshold`: class probability that a query needs; `overlap`: share of its own mask that it must win."""

    threshold: float = 0.8
    overlap: float = 0.8


RELEASED_THRESHOLDS = PanopticThresholds()


class PanopticEvaluator(Evaluator):
    """PQ of the panoptic map. Crowds and unlabelled pixels count as in `PanopticQuality`.

    Args:
        sizes: for PQ over segments of one size.
        variant: see `Evaluator`.
    """

    sums: ClassVar[tuple[str, ...]] = ("metric", "by_size", "segments")

    def __init__(
        self,
        categories: Sequence[Category],
        thresholds: PanopticThresholds = RELEASED_THRESHOLDS,
        sizes: AreaRanges | None = None,
        variant: str = "",
    ):
        self.name, self.variant = variant_name("panoptic", variant), variant
        self.categories, self.thresholds, self.choices = tuple(categories), thresholds, asdict(thresholds)
        is_thing = {category.id: category.is_thing for category in categories}
        self.metric = PanopticQuality(is_thing)
        self.by_size = {size: PanopticQuality(is_thing, area_range) for size, area_range in (sizes or {}).items()}
        self.segments = 0

    def predict(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        found = processor.post_process_panoptic_segmentation(
            outputs,
            threshold=self.thresholds.threshold,
            overlap_mask_area_threshold=self.thresholds.overlap,
            label_ids_to_fuse=[position for position, category in enumerate(self.categories) if not category.is_thing],
            target_sizes=[sample.image_size for sample in samples],
        )
        return [{"segments": self._segments(entry["segmentation"].cpu().numpy(), entry["segments_info"])} for entry in found]

    def _segments(self, ids: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"category_id": self.categories[info["label_id"]].id, "score": info["score"], "mask": rle_from_bitmap(ids == info["id"])}
            for info in infos
        ]

    def add(self, sample: Sample, prediction: Any) -> None:
        found, found_categories = panoptic_map(sample, prediction)
        segments = dict(enumerate(sample.segments, 1))
        target = label_map([segment.mask_rle for segment in sample.segments], list(segments), sample.image_size, fill=0)
        crowds = [id for id, segment in segments.items() if segment.is_crowd]
        categories = {id: segment.category_id for id, segment in segments.items()}
        for metric in (self.metric, *self.by_size.values()):
            metric.update(found, found_categories, target, categories, crowds)
        self.segments += len(segments) - len(crowds)

    def compute(self) -> Numbers:
        return self.metric.compute() | {f"PQ, {size}": metric.compute()["PQ"] for size, metric in self.by_size.items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Evaluator`; empty for a variant."""
        return {} if self.variant else self.metric.per_category()

    def counts(self) -> dict[str, int]:
        return {"segments": self.segments}


class ThingsFound(Evaluator):
    """Share of the true things that a panoptic prediction finds: with a segment of their category and an IoU above one half, as PQ matches.

    Args:
        name: of the panoptic predictions.
        things: ids of the categories of things.
        groups: sample -> a further group for each of its things, which come first among its segments.
    """

    sums: ClassVar[tuple[str, ...]] = ("found", "all")

    def __init__(self, name: str, things: Collection[int], sizes: AreaRanges, groups: Callable[[Sample], Sequence[str]]):
        self.name, self.things, self.sizes, self.groups = name, frozenset(things), dict(sizes), groups
        self.found: Counter[str] = Counter()
        self.all: Counter[str] = Counter()

    def add(self, sample: Sample, prediction: Any) -> None:
        found, categories = panoptic_map(sample, prediction)
        areas = np.bincount(found.ravel())
        things = [segment for segment in sample.segments if segment.category_id in self.things]
        for segment, group in zip(things, self.groups(sample), strict=True):
            mask = bitmap_from_rle(segment.mask_rle)
            area = int(np.count_nonzero(mask))
            best = int(np.bincount(found[mask]).argmax())  # an IoU above one half takes more than half of the thing
            common = int(np.count_nonzero(found[mask] == best))
            is_found = categories.get(best) == segment.category_id and common / (area + int(areas[best]) - common) > 0.5
            for name in ("all", size_bin(area, self.sizes), group):
                self.all[name] += 1
                self.found[name] += is_found

    def numbers(self) -> Numbers:
        return {f"things found, {name}": 100 * self.found[name] / number for name, number in sorted(self.all.items())}

    def counts(self) -> dict[str, int]:
        return {f"things, {name}": number for name, number in sorted(self.all.items())}

    def protocol(self) -> dict[str, Any]:
        return {"things found": {"answers": self.name, "IoU": "above 0.5"}}


def panoptic_map(sample: Sample, prediction: Mapping[str, Any]) -> tuple[np.ndarray, dict[int, int]]:
    """The (H, W) map of a panoptic prediction, 0 = no segment, and the category id of each of its segments, numbered from 1.

    Raises:
        ValueError: the masks are not of the sample's size, or overlap; the message names the image.
    """
    segments = dict(enumerate(prediction["segments"], 1))
    found = predicted_map(sample, [segment["mask"] for segment in segments.values()], list(segments), fill=0)
    return found, {id: segment["category_id"] for id, segment in segments.items()}
