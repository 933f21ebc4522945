"""Evaluator of regions that are drawn on the image itself, and the base of those for regions drawn on another image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...masks import area as mask_area
from ...masks import rle_from_bitmap
from ...metrics import RegionIoU, size_bin
from ...metrics.base import errors_of
from ...structures import Region, Sample
from .base import AreaRanges, Evaluator, Numbers
from .grouped import GroupedIoU

NOVELTY = ("seen", "held_out")  # whether training has shown what is meant


class RegionMasks(Evaluator):
    """Base: the best query of each region is its mask."""

    name = "region"

    def predict(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        found = processor.post_process_region_segmentation(outputs, target_sizes=[sample.image_size for sample in samples])
        return [
            {"masks": [rle_from_bitmap(mask) for mask in entry["masks"].cpu().numpy()], "scores": entry["scores"].tolist()}
            for entry in found
        ]

    def regions(self, sample: Sample, prediction: Any) -> Iterator[tuple[Region, dict, float]]:
        """Region, predicted mask and score, one after the other. Errors name image and region.

        Raises:
            ValueError: the numbers of regions, masks and scores differ.
        """
        masks, scores = prediction["masks"], prediction["scores"]
        if not len(sample.regions) == len(masks) == len(scores):
            raise ValueError(
                f"image {sample.image_id}, prediction: {len(masks)} masks and {len(scores)} scores for {len(sample.regions)} regions"
            )
        return zip(sample.regions, masks, scores, strict=True)


class RegionEvaluator(RegionMasks):
    """mIoU and cIoU by kind of prompt, by size of what is meant, and by novelty where tags say "seen:0" or "held_out:0" of segment 0; kinds
    are never averaged.

    Args:
        sizes: for numbers by size.
    """

    choices = {"answer": "best query of each region"}

    def __init__(self, sizes: AreaRanges | None = None):
        self.sizes = dict(sizes or {})
        self.metric = GroupedIoU(RegionIoU)

    def add(self, sample: Sample, prediction: Any) -> None:
        for index, (region, mask, _) in enumerate(self.regions(sample, prediction)):
            if region.segment is None:
                raise ValueError(f"image {sample.image_id}: region {index} points at no segment; give a split whose truth is known")
            target = sample.segments[region.segment].mask_rle
            groups = [size_bin(mask_area(target), self.sizes)] if self.sizes else []
            groups += [name for name in NOVELTY if f"{name}:{region.segment}" in sample.tags]
            with errors_of(f"image {sample.image_id}, region {index}"):
                self.metric.part((region.kind, *(f"{region.kind}, {group}" for group in groups))).update(mask, target)

    def compute(self) -> Numbers:
        return {f"{name}, {group}": value for group, iou in self.metric.by_group().items() for name, value in iou.compute().items()}

    def counts(self) -> dict[str, int]:
        return {f"regions, {group}": len(iou.ious) for group, iou in self.metric.by_group().items()}
