"""What a task's answers on a dataset are measured by: network outputs -> post-processing -> the numbers of `psalm_hf.metrics`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..data.features import Category
from ..masks import bitmap_from_rle
from ..metrics import COCO_SIZES, MaskAP, MeanIoU, PanopticQuality, ReferringIoU, RegionIoU, label_map
from ..structures import Sample, Segment

Numbers = dict[str, float]
TOP_K = 100  # pairs of query and category that may become instances


class Measure(Protocol):
    """Some numbers of one task. The samples of an update are the rows of its outputs."""

    def update(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> None:
        """Post-processes the outputs of a batch and compares them with the samples."""

    def numbers(self) -> Numbers:
        """In percent, by name; nan where nothing defines a number."""

    def per_category(self) -> dict[int, Numbers]:
        """The same by category id; empty for measures without categories."""

    def counts(self) -> dict[str, int]:
        """How much was judged."""

    def protocol(self) -> dict[str, Any]:
        """The choices on which the numbers depend."""


@dataclass(frozen=True)
class PanopticThresholds:
    """`threshold`: class probability that a query needs; `overlap`: share of its own mask that it must win."""

    threshold: float = 0.8
    overlap: float = 0.8


RELEASED = PanopticThresholds()


class PanopticMeasure:
    """PQ of the panoptic map. Crowds and unlabelled pixels count as in `PanopticQuality`."""

    def __init__(self, categories: Sequence[Category], thresholds: PanopticThresholds = RELEASED):
        self.categories, self.thresholds = categories, thresholds
        self.quality = PanopticQuality({category.id: category.is_thing for category in categories})
        self.segments = 0

    def update(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> None:
        """See `Measure`."""
        for sample, answer in zip(samples, self.answers(samples, outputs, processor), strict=True):
            self.add(sample, *answer)

    def answers(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[tuple[np.ndarray, dict[int, int]]]:
        """Per sample the map (H, W), 0 = no segment, and the category id of each of its segments."""
        stuff = [position for position, category in enumerate(self.categories) if not category.is_thing]
        answers = processor.post_process_panoptic_segmentation(
            outputs,
            threshold=self.thresholds.threshold,
            overlap_mask_area_threshold=self.thresholds.overlap,
            label_ids_to_fuse=stuff,
            target_sizes=[sample.image_size for sample in samples],
        )
        return [
            (
                answer["segmentation"].cpu().numpy(),
                {segment["id"]: self.categories[segment["label_id"]].id for segment in answer["segments_info"]},
            )
            for answer in answers
        ]

    def add(self, sample: Sample, found: np.ndarray, found_categories: Mapping[int, int]) -> None:
        """One answer of `answers`."""
        segments = dict(enumerate(sample.segments, 1))
        truth = label_map([segment.mask_rle for segment in sample.segments], list(segments), sample.image_size, fill=0)
        crowds = [id for id, segment in segments.items() if segment.is_crowd]
        self.quality.update(found, found_categories, truth, {id: segment.category_id for id, segment in segments.items()}, crowds)
        self.segments += len(segments) - len(crowds)

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"panoptic {name}": value for name, value in self.quality.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return self.quality.per_category()

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {"segments": self.segments}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {"panoptic": asdict(self.thresholds)}


class SemanticMeasure:
    """mIoU of the semantic map; pixels without a true category are not counted, those of crowds are."""

    def __init__(self, categories: Sequence[Category]):
        self.categories = categories
        self.confusion = MeanIoU(len(categories), ignore_label=len(categories))

    def update(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> None:
        """See `Measure`."""
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[sample.image_size for sample in samples])
        for sample, found in zip(samples, maps, strict=True):
            rles = [segment.mask_rle for segment in sample.segments]
            truth = label_map(rles, sample.class_labels, sample.image_size, fill=self.confusion.ignore_label)
            self.confusion.update(found.cpu().numpy(), truth)

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"semantic {name}": value for name, value in self.confusion.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return {self.categories[position].id: numbers for position, numbers in self.confusion.per_category().items()}

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {"labelled pixels": int(self.confusion.confusion.sum())}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {"semantic": {"unlabelled pixels": "not counted"}}


class InstanceMeasure:
    """AP of things, with at most `TOP_K` answers per picture.

    Args:
        area_ranges: see `MaskAP`.
    """

    def __init__(self, categories: Sequence[Category], area_ranges: Mapping[str, tuple[float, float]] = COCO_SIZES):
        self.categories = categories
        self.things = {category.id for category in categories if category.is_thing}
        self.precision = MaskAP(area_ranges)

    def update(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> None:
        """See `Measure`."""
        answers = processor.post_process_instance_segmentation(
            outputs,
            top_k=TOP_K,
            label_ids=[position for position, category in enumerate(self.categories) if category.is_thing],
            return_coco_annotation=True,
            target_sizes=[sample.image_size for sample in samples],
        )
        for sample, answer in zip(samples, answers, strict=True):
            info = answer["segments_info"]
            self.precision.update(
                sample.image_id,
                answer["segmentation"],
                [self.categories[segment["label_id"]].id for segment in info],
                [segment["score"] for segment in info],
                self.targets(sample),
            )

    def targets(self, sample: Sample) -> list[Segment]:
        """The things of a sample, crowds included."""
        return [segment for segment in sample.segments if segment.category_id in self.things]

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"instance {name}": value for name, value in self.precision.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return self.precision.per_category()

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        annotations = [annotation for _, true in self.precision.images.values() for annotation in true]
        return {"things": sum(not annotation["iscrowd"] for annotation in annotations)}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {"instance": {"top_k": TOP_K, "vocabulary": "all categories of the dataset, things are kept"}}


class ReferringMeasure:
    """cIoU and gIoU of the best query for an expression, as PSALM is measured on RefCOCO: it never answers "nothing"."""

    def __init__(self):
        self.iou = ReferringIoU()

    def update(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> None:
        """See `Measure`."""
        answers = processor.post_process_referring_segmentation(outputs, target_sizes=[sample.image_size for sample in samples])
        for sample, answer in zip(samples, answers, strict=True):
            self.iou.update(answer["segmentation"].cpu().numpy(), union(sample), predicted_no_target=False)

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"referring {name}": value for name, value in self.iou.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return {}

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {"expressions with a target": len(self.iou.ious), "expressions without target": self.iou.invented}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {"referring": {"answer": "best query"}}


class RegionMeasure:
    """mIoU and cIoU by kind of prompt; kinds are never averaged."""

    def __init__(self):
        self.by_kind: defaultdict[str, RegionIoU] = defaultdict(RegionIoU)

    def update(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> None:
        """See `Measure`."""
        answers = processor.post_process_region_segmentation(outputs, target_sizes=[sample.image_size for sample in samples])
        for sample, answer in zip(samples, answers, strict=True):
            for index, (region, mask) in enumerate(zip(sample.regions, answer["masks"].cpu().numpy(), strict=True)):
                if region.segment is None:
                    raise ValueError(f"image {sample.image_id}: region {index} points at no segment; give a split whose truth is known")
                self.by_kind[region.kind].update(mask, sample.segments[region.segment].mask_rle)

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"region {name}, {kind}": value for kind, iou in sorted(self.by_kind.items()) for name, value in iou.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return {}

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {f"regions, {kind}": len(iou.ious) for kind, iou in sorted(self.by_kind.items())}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {"region": {"answer": "best query of each region"}}


def union(sample: Sample) -> np.ndarray:
    """(H, W) bool: all segments of a sample together."""
    empty = np.zeros(sample.image_size, dtype=bool)
    return np.any([empty, *(bitmap_from_rle(segment.mask_rle) for segment in sample.segments)], axis=0)


def measures_of(condition: str, task: str, categories: Sequence[Category], panoptic: PanopticThresholds = RELEASED) -> list[Measure]:
    """What rows of this condition are measured by.

    Args:
        condition: of the rows, see `Sample.condition`.
        task: of rows with categories. "panoptic" is also measured as semantic and instance segmentation, from the same outputs.
        categories: of the dataset, in the order in which they are prompted; for rows with categories only.
        panoptic: thresholds of the panoptic map.

    Raises:
        ValueError: rows that ask for no segmentation; rows with categories of their own, where the dataset has none.
    """
    if condition == "sentence":
        return [ReferringMeasure()]
    if condition == "region":
        return [RegionMeasure()]
    if condition != "category":
        raise ValueError(f"rows of condition {condition!r} ask for no segmentation; evaluation knows category, sentence and region")
    if not categories:
        raise ValueError("every row names its own categories, so that there are none to average over; give a dataset with one list for all")
    by_task: dict[str, list[Measure]] = {
        "panoptic": [PanopticMeasure(categories, panoptic), SemanticMeasure(categories), InstanceMeasure(categories)],
        "semantic": [SemanticMeasure(categories)],
        "instance": [InstanceMeasure(categories)],
    }
    return by_task[task]
