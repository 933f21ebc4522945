"""Evaluators of instance segmentation: AP as COCO, LVIS and Cityscapes compute it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ...data.features import Category
from ...metrics import COCO_SIZES, CityscapesAP, LvisAP, MaskAP
from ...structures import Sample, Segment
from .base import AreaRanges, Evaluator, Numbers


class InstanceEvaluator(Evaluator):
    """AP of things; at most `top_k` pairs of query and category become instances.

    Args:
        categories: those that are prompted, in their order.
        area_ranges: see `MaskAP`.
    """

    name = "instance"
    top_k: ClassVar[int] = 100

    def __init__(self, categories: Sequence[Category], area_ranges: AreaRanges = COCO_SIZES):
        self.categories = tuple(categories)
        self.things = {category.id for category in categories if category.is_thing}
        self.metric = MaskAP(area_ranges)
        self.choices = {"top_k": self.top_k, "vocabulary": "all categories of the dataset, things are kept"}

    def predict(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        found = processor.post_process_instance_segmentation(
            outputs,
            threshold=0.0,
            top_k=self.top_k,
            label_ids=[position for position, category in enumerate(self.categories) if category.is_thing],
            return_coco_annotation=True,
            target_sizes=[sample.image_size for sample in samples],
        )
        return [{"instances": self._instances(entry["segments_info"], entry["segmentation"])} for entry in found]

    def _instances(self, infos: Sequence[Mapping[str, Any]], masks: Sequence[dict]) -> list[dict[str, Any]]:
        return [
            {"category_id": self.categories[info["label_id"]].id, "score": info["score"], "mask": mask}
            for info, mask in zip(infos, masks, strict=True)
        ]

    def add(self, sample: Sample, prediction: Any) -> None:
        """See `Evaluator`. Crowds are targets too; pycocotools knows what to do with them."""
        self.update(sample, prediction, self.segments_of_things(sample), areas=areas_of(prediction["instances"]))

    def segments_of_things(self, sample: Sample) -> list[Segment]:
        """Segments of a sample whose category is a thing."""
        return [segment for segment in sample.segments if segment.category_id in self.things]

    def update(self, sample: Sample, prediction: Any, targets: Sequence[Segment], **further: Any) -> None:
        """Updates the metric. `further`: arguments that only this metric takes."""
        instances = prediction["instances"]
        self.metric.update(
            sample.image_id,
            [instance["mask"] for instance in instances],
            [instance["category_id"] for instance in instances],
            [instance["score"] for instance in instances],
            targets,
            **further,
        )

    def per_category(self) -> dict[int, Numbers]:
        return self.metric.per_category()

    def counts(self) -> dict[str, int]:
        return {"things": sum(not target["iscrowd"] for _, targets in self.metric.images.values() for target in targets)}


class OwnInstanceEvaluator(InstanceEvaluator):
    """AP of own data, without ids of objects: tools number them from 0, and pycocotools never counts an object with the id 0 as found."""

    def segments_of_things(self, sample: Sample) -> list[Segment]:
        return [replace(segment, annotation_id=None) for segment in super().segments_of_things(sample)]


class LvisEvaluator(InstanceEvaluator):
    """AP of LVIS v1, on rows of the dataset `lvis`: their tags say what is known about an image beyond its segments.

    Raises:
        ValueError: a category without frequency.
    """

    top_k: ClassVar[int] = 300

    def __init__(self, categories: Sequence[Category]):
        if nameless := [category.id for category in categories if category.frequency is None]:
            raise ValueError(f"{len(nameless)} categories have no frequency, such as {nameless[0]}; give those of the dataset lvis")
        super().__init__(categories)
        self.metric = LvisAP(frequencies={category.id: category.frequency for category in categories})
        self.choices = {"evaluator": "lvis-api", "top_k": self.top_k}

    def add(self, sample: Sample, prediction: Mapping[str, Any]) -> None:
        self.update(
            sample,
            prediction,
            sample.segments,
            areas=areas_of(prediction["instances"]),
            negative_category_ids=[int(value) for value in tagged(sample, "neg")],
            not_exhaustive_category_ids=[int(value) for value in tagged(sample, "not_exhaustive")],
        )

    def counts(self) -> dict[str, int]:
        return {"objects": sum(len(targets) for _, targets in self.metric.images.values())}


class CityscapesInstanceEvaluator(InstanceEvaluator):
    """AP of the Cityscapes script, on rows of `cityscapes_instance` or `cityscapes_panoptic`. Instances of stuff are left out, as there.

    Raises:
        ValueError: there are no things among the categories.
    """

    sums: ClassVar[tuple[str, ...]] = ("metric", "objects")

    def __init__(self, categories: Sequence[Category]):
        super().__init__(categories)
        if not self.things:
            raise ValueError(
                f"none of the {len(categories)} categories is a thing; give those of cityscapes_instance or cityscapes_panoptic"
            )
        self.metric = CityscapesAP([category.id for category in categories if category.is_thing])
        self.choices = {"evaluator": "cityscapesScripts", "top_k": self.top_k}
        self.objects = 0

    def add(self, sample: Sample, prediction: Mapping[str, Any]) -> None:
        """See `Evaluator`. The sample must say which pixels are void."""
        void = tagged(sample, "void")
        if len(void) != 1:
            raise ValueError(
                f"image {sample.image_id}: expected one tag 'void:COUNTS', got {len(void)}; give a row of cityscapes_instance or "
                f"cityscapes_panoptic"
            )
        targets = self.segments_of_things(sample)
        self.update(sample, prediction, targets, void={"size": sample.image_size, "counts": void[0]})
        self.objects += sum(not target.is_crowd for target in targets)

    def counts(self) -> dict[str, int]:
        return {"objects": self.objects}


def areas_of(instances: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The areas that come with predicted instances: those of results files with boxes do; None if there are none."""
    return [instance["area"] for instance in instances] if instances and "area" in instances[0] else None


def tagged(sample: Sample, kind: str) -> list[str]:
    """The values of a sample's tags "kind:value"."""
    return [tag.removeprefix(f"{kind}:") for tag in sample.tags if tag.startswith(f"{kind}:")]
