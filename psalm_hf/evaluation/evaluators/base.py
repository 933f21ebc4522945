"""Base of the evaluators: network outputs -> predictions of plain values -> numbers of `psalm_hf.metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from ...metrics import label_map
from ...metrics.base import Metric, added, errors_of
from ...structures import Sample

Numbers = dict[str, float]
AreaRanges = Mapping[str, tuple[float, float]]  # name -> (lowest, first beyond) area in pixels


class Evaluator:
    """Compares one kind of prediction with the targets. A subclass makes its `metric`, and says only what is special.

    A prediction is a plain value that JSON can hold; its masks are COCO RLE with str counts. Evaluators can be pickled and added: workers
    fill one each.

    Attributes:
        name: the kind of prediction, and behind an underscore its variant. Evaluators of one name share their predictions. Kinds:
            "panoptic" `{"segments": [{"category_id", "score", "mask"}]}`, "semantic" `{"segments": [{"category_id", "mask"}]}`,
            "instance" `{"instances": [{"category_id", "score", "mask"}]}` (with "area", if a results file has boxes), "referring"
            `{"mask", "score", "no_target"}`, "expression" `{"masks": [...], "scores": [...], "number": of those that are the set}`,
            "region" `{"masks": [...], "scores": [...]}`, "text" `{"text"}`.
        variant: words behind the name of each number, to tell them from those of another evaluator of this kind.
        metric: collects what `numbers` are computed from.
        sums: names of the attributes that workers add up.
        choices: the choices on which the numbers depend.
    """

    name: str
    variant: str = ""
    metric: Metric
    sums: ClassVar[tuple[str, ...]] = ("metric",)
    choices: Mapping[str, Any]

    def predict(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        """Post-processes the outputs of a batch, whose rows are the samples: a prediction for each."""
        raise NotImplementedError

    def add(self, sample: Sample, prediction: Any) -> None:
        """Compares a prediction with the targets of its sample.

        Raises:
            ValueError: the prediction does not fit the sample, whose image or question the message names.
        """
        raise NotImplementedError

    def __iadd__(self, other: Self) -> Self:
        for name in self.sums:
            setattr(self, name, added(getattr(self, name), getattr(other, name)))
        return self

    @property
    def kind(self) -> str:
        """Kind of prediction, see `name`."""
        return self.name.partition("_")[0]

    def compute(self) -> Numbers:
        """Numbers of the metric, under its own names."""
        return self.metric.compute()

    def numbers(self) -> Numbers:
        """Numbers in percent, by kind, name and variant: "referring cIoU, best query"; nan where nothing defines a number."""
        return {titled(f"{self.kind} {name}", self.variant): value for name, value in self.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """Numbers by category id; empty where there are no categories."""
        return {}

    def counts(self) -> dict[str, int]:
        """Number of compared things, by name."""
        return {}

    def protocol(self) -> dict[str, Any]:
        """`choices`, under the name of the evaluator."""
        return {titled(self.kind, self.variant): dict(self.choices)}


def variant_name(kind: str, variant: str) -> str:
    """Name of an evaluator, see there: "panoptic", "panoptic_thresholds_0.5"."""
    return "_".join((kind, *variant.split()))


def titled(*parts: str) -> str:
    """Parts of a name, those that are empty left out: "referring cIoU, best query"."""
    return ", ".join(filter(None, parts))


def predicted_map(sample: Sample, rles: Sequence[dict], labels: Sequence[int], *, fill: int) -> np.ndarray:
    """`label_map` of a prediction. Errors name the image."""
    with errors_of(f"image {sample.image_id}, prediction"):
        return label_map(rles, labels, sample.image_size, fill=fill)
