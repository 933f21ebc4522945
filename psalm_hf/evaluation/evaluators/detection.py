"""Instance segmentation on benchmarks whose evaluators are not that of COCO: LVIS and Cityscapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from ...data.features import Category
from ...metrics import CityscapesAP, LvisAP
from ...structures import Sample
from .base import InstanceAnswers, areas_of


class LvisMeasure(InstanceAnswers):
    """AP of LVIS v1, on rows of the dataset `lvis`: what is known about a picture beyond its segments stands in its tags.

    Raises:
        ValueError: a category without frequency.
    """

    top_k = 300

    def __init__(self, categories: Sequence[Category]):
        if nameless := [category.id for category in categories if category.frequency is None]:
            raise ValueError(f"{len(nameless)} categories have no frequency, such as {nameless[0]}; give those of the dataset lvis")
        super().__init__(categories)
        self.precision = LvisAP(frequencies={category.id: category.frequency for category in categories})

    def add(self, sample: Sample, answer: Mapping[str, Any]) -> None:
        """See `Measure`."""
        instances = answer["instances"]
        self.precision.update(
            sample.image_id,
            [instance["mask"] for instance in instances],
            [instance["category_id"] for instance in instances],
            [instance["score"] for instance in instances],
            sample.segments,
            areas=areas_of(instances),
            negative_category_ids=[int(value) for value in tagged(sample, "neg")],
            not_exhaustive_category_ids=[int(value) for value in tagged(sample, "not_exhaustive")],
        )

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {"objects": sum(len(annotations) for _, annotations in self.precision.images.values())}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {self.name: {"evaluator": "lvis-api", "top_k": self.top_k}}


class CityscapesInstanceMeasure(InstanceAnswers):
    """AP of the Cityscapes script, on rows of `cityscapes_instance` or `cityscapes_panoptic`. Instances of stuff are left out, as there.

    Raises:
        ValueError: there are no things among the categories.
    """

    def __init__(self, categories: Sequence[Category]):
        super().__init__(categories)
        things = [category.id for category in categories if category.is_thing]
        if not things:
            raise ValueError(
                f"none of the {len(categories)} categories is a thing; give those of cityscapes_instance or cityscapes_panoptic"
            )
        super().__init__(categories)
        self.precision = CityscapesAP(things)
        self.objects = 0

    def add(self, sample: Sample, answer: Mapping[str, Any]) -> None:
        """See `Measure`.

        Raises:
            ValueError: the sample does not say which pixels are void, or see `CityscapesAP.update`.
        """
        void = tagged(sample, "void")
        if len(void) != 1:
            raise ValueError(
                f"image {sample.image_id}: expected one tag 'void:COUNTS', got {len(void)}; give a row of cityscapes_instance or "
                f"cityscapes_panoptic"
            )
        instances = answer["instances"]
        targets = [segment for segment in sample.segments if segment.category_id in self.precision.outcomes]
        self.precision.update(
            sample.image_id,
            [instance["mask"] for instance in instances],
            [instance["category_id"] for instance in instances],
            [instance["score"] for instance in instances],
            targets,
            {"size": sample.image_size, "counts": void[0]},
        )
        self.objects += sum(not target.is_crowd for target in targets)

    def __iadd__(self, other: Self) -> Self:
        self.objects += other.objects
        return super().__iadd__(other)

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {"objects": self.objects}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {self.name: {"evaluator": "cityscapesScripts", "top_k": self.top_k}}


def tagged(sample: Sample, kind: str) -> list[str]:
    """The values of a sample's tags "kind:value"."""
    return [tag.removeprefix(f"{kind}:") for tag in sample.tags if tag.startswith(f"{kind}:")]
