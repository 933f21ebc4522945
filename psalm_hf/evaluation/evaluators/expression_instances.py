"""Evaluator of the instances that expressions mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...masks import rle_from_bitmap
from ...metrics import ExpressionInstances
from ...metrics.base import errors_of
from ...model.segmentations import set_size
from ...structures import Sample
from .base import Evaluator, Numbers
from .grouped import GroupedIoU
from .referring import tags_of

OF_GROUPS = ("AP", "set accuracy", "recall", "precision")  # numbers that groups have too


@dataclass(frozen=True)
class InstancesRule:
    """Rule by which queries become instances of an expression, see `PsalmProcessor.post_process_referring_instances`.

    Attributes:
        instances_threshold: score that an instance of the set must exceed.
        no_target_threshold: score that the best one must exceed, or the set is empty; then it needs no other score.
        nms_threshold: IoU above which the worse of two masks is a repetition.
    """

    instances_threshold: float
    no_target_threshold: float
    nms_threshold: float


class ExpressionInstancesEvaluator(Evaluator):
    """AP, set accuracy and cgF1 of the instances of expressions; also by tag of the sample.

    A prediction has all instances that suppression leaves, for AP; the best ones are the set. As suppression goes from the best mask to the
    worst, the others change nothing about these.

    Args:
        rule: by which instances are predicted; None = predictions are read, which say themselves how many instances are the set.
        groups: sample -> groups that it counts in.
    """

    name = "expression"

    def __init__(self, rule: InstancesRule | None, groups: Callable[[Sample], Sequence[str]] = tags_of):
        self.rule, self.groups = rule, groups
        self.choices = {} if rule is None else asdict(rule)
        self.metric = GroupedIoU(ExpressionInstances)

    def predict(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        sizes = [sample.image_size for sample in samples]
        found = processor.post_process_referring_instances(outputs, 0.0, nms_threshold=self.rule.nms_threshold, target_sizes=sizes)
        predictions = []
        for entry in found:
            masks, scores = entry["masks"].cpu().numpy(), entry["scores"].tolist()
            number = set_size(scores, self.rule.instances_threshold, self.rule.no_target_threshold)
            predictions.append({"masks": [rle_from_bitmap(mask) for mask in masks], "scores": scores, "number": number})
        return predictions

    def add(self, sample: Sample, prediction: Any) -> None:
        name = f"{sample.image_id}, record {sample.record_id}"
        with errors_of(f"image {name}, prediction"):
            metric = self.metric.part(self.groups(sample))
            metric.update(name, prediction["masks"], prediction["scores"], sample.segments, prediction["number"])

    def compute(self) -> Numbers:
        found = self.metric.whole().compute()
        for group, metric in self.metric.by_group().items():
            numbers = metric.compute()
            found |= {f"{name}, {group}": numbers[name] for name in OF_GROUPS}
        return found

    def counts(self) -> dict[str, int]:
        found = self.metric.whole().counts()
        for group, metric in self.metric.by_group().items():
            found |= {f"{name}, {group}": number for name, number in metric.counts().items() if number}
        return found
