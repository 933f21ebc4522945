"""Evaluator of expressions, and the rule by which queries become a prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ...masks import bitmap_from_rle, rle_from_bitmap
from ...metrics import ReferringIoU, size_bin
from ...structures import Sample, Segment
from .base import AreaRanges, Evaluator, Numbers, titled, variant_name
from .grouped import GroupedIoU

NO_TARGET_RULES = ("never", "threshold", "area", "processor")


@dataclass(frozen=True)
class ReferringRule:
    """Rule by which queries become the prediction for an expression.

    Attributes:
        threshold: None = the best query; a number = the union of all queries that score above it, or the best one if none does.
        no_target: when the prediction is "nothing is there": "never"; "threshold": even the best query scores at most `threshold`; "area":
            the mask has fewer than `min_area` pixels (the rule of the GRES paper for models that predict masks alone); "processor": even
            the best query scores at most `no_target_threshold`, which, as `threshold`, was taken from the processor.
        min_area: in pixels.
        no_target_threshold: for "processor" only.

    Raises:
        ValueError: an unknown rule, or one without its threshold.
    """

    threshold: float | None = None
    no_target: str = "never"
    min_area: int = 50
    no_target_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.no_target not in NO_TARGET_RULES:
            raise ValueError(f"unknown no-target rule {self.no_target!r}, expected one of {', '.join(NO_TARGET_RULES)}")
        if self.no_target == "threshold" and self.threshold is None:
            raise ValueError("the no-target rule 'threshold' needs a referring threshold, such as 0.6")
        if (self.no_target == "processor") != (self.no_target_threshold is not None):
            raise ValueError("the no-target rule 'processor', and no other, needs a no-target threshold")

    @property
    def least_score(self) -> float | None:
        """Score that the best query must exceed to be a prediction; None = there is none."""
        return {"threshold": self.threshold, "processor": self.no_target_threshold}.get(self.no_target)

    def is_too_small(self, area: int) -> bool:
        """True if a mask of this many pixels is "nothing is there"."""
        return self.no_target == "area" and area < self.min_area

    @property
    def best_query(self) -> ReferringRule:
        """The same with the best query as the whole prediction."""
        no_target = "processor" if self.no_target == "threshold" else self.no_target
        return replace(self, threshold=None, no_target=no_target, no_target_threshold=self.least_score)


DEFAULT_RULE = ReferringRule()


def tags_of(sample: Sample) -> tuple[str, ...]:
    """The groups that an expression counts in, unless others are asked for."""
    return sample.tags


class ReferringEvaluator(Evaluator):
    """cIoU, gIoU, P@X, and where expressions may mean nothing N-acc and T-acc; also by tag of the sample and by size of what is meant.

    Args:
        rule: default as PSALM is evaluated on RefCOCO: the best query, never "nothing".
        sizes: for numbers by size.
        crowds: what crowds among the segments are: "meant" like any object (RefCOCO, and whatever the released code evaluates), "left out"
            of what is meant (gRefCOCO), or "ignored": their pixels count nowhere (ReasonSeg marks so what is neither right nor wrong).
        groups: sample -> groups that it counts in besides its size.
        variant: see `Evaluator`.
        target_given: count as on RefCOCO, where it is known that something is meant: only expressions with a target, and never "nothing is
            there". The names of the numbers say so.
    """

    def __init__(
        self,
        rule: ReferringRule = DEFAULT_RULE,
        sizes: AreaRanges | None = None,
        *,
        crowds: str = "meant",
        groups: Callable[[Sample], Sequence[str]] = tags_of,
        variant: str = "",
        target_given: bool = False,
    ):
        self.name = variant_name("referring", variant)
        self.variant = titled(variant, "target given" * target_given)
        self.rule, self.sizes, self.crowds, self.groups, self.target_given = rule, dict(sizes or {}), crowds, groups, target_given
        self.choices = {**asdict(rule), "crowds": crowds}
        self.metric = GroupedIoU(ReferringIoU)

    def predict(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        sizes = [sample.image_size for sample in samples]
        found = processor.post_process_referring_segmentation(
            outputs, threshold=self.rule.threshold, no_target_threshold=self.rule.least_score, target_sizes=sizes
        )
        return [self._prediction(entry) for entry in found]

    def _prediction(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        # Also where nothing is said to be there: the pixels of that guess count in cIoU.
        mask = entry["masks"].any(0).cpu().numpy()
        no_target = entry["no_target"] or self.rule.is_too_small(int(np.count_nonzero(mask)))
        return {"mask": rle_from_bitmap(mask), "score": entry["score"], "no_target": no_target}

    def add(self, sample: Sample, prediction: Any) -> None:
        target, ignored = meant(sample, self.crowds)
        predicted = bitmap_from_rle(prediction["mask"])
        if predicted.shape != target.shape:
            raise ValueError(
                f"image {sample.image_id}, record {sample.record_id}, prediction: a mask of size {predicted.shape}, "
                f"but the image is {target.shape}"
            )
        area = int(np.count_nonzero(target))
        if self.target_given and not area:
            return
        size = [size_bin(area, self.sizes)] if self.sizes and area else []
        no_target = prediction["no_target"] and not self.target_given
        self.metric.part((*self.groups(sample), *size)).update(predicted & ~ignored, target, predicted_no_target=no_target)

    def compute(self) -> Numbers:
        if self.target_given and not self.metric.parts:
            return {}
        found = {name: value for name, value in self.metric.whole().compute().items() if not (self.target_given and name.endswith("acc"))}
        for group, iou in self.metric.by_group().items():
            numbers = iou.compute()
            found |= {f"{name}, {group}": numbers[name] for name in ("cIoU", "gIoU")}
        return found

    def counts(self) -> dict[str, int]:
        """See `Evaluator`; empty for a variant."""
        if self.variant:
            return {}
        return _expressions("", self.metric.whole()) | {
            name: number for group, iou in self.metric.by_group().items() for name, number in _expressions(f", {group}", iou).items()
        }


def _expressions(group: str, iou: ReferringIoU) -> dict[str, int]:
    counts = {"expressions with a target": len(iou.ious), "expressions without target": iou.rejected + iou.invented}
    return {f"{name}{group}": number for name, number in counts.items() if number or not group}


def union(sample: Sample, segments: Sequence[Segment]) -> np.ndarray:
    """(H, W) bool: some segments of a sample together."""
    return np.any([np.zeros(sample.image_size, dtype=bool), *(bitmap_from_rle(segment.mask_rle) for segment in segments)], axis=0)


def meant(sample: Sample, crowds: str) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool each: what an expression means, and what counts nowhere. `crowds`: see `ReferringEvaluator`."""
    ignored = union(sample, [segment for segment in sample.segments if crowds == "ignored" and segment.is_crowd])
    target = union(sample, [segment for segment in sample.segments if crowds == "meant" or not segment.is_crowd])
    return target & ~ignored, ignored
