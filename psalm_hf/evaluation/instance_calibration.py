"""Thresholds of the instances of expressions, and how to find them on expressions that are not reported on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics.expression_instances import match, overlaps
from ..model.segmentations import set_size
from ..structures import Segment

SCORE_CANDIDATES = np.arange(2, 99) / 100
NMS_CANDIDATES = np.arange(30, 101, 5) / 100  # things overlap; below 0.3 hardly a repetition is left
KINDS_OF_NUMBER = ("no target", "one target", "several targets")


@dataclass(frozen=True)
class InstanceThresholds:
    """Thresholds by which queries become instances of an expression that means something.

    Attributes:
        instances: score that an instance must exceed, but for the best one; `instances_threshold` of the processor.
        nms: IoU above which the worse of two masks is a repetition; `nms_threshold` of the processor.
    """

    instances: float
    nms: float


@dataclass(frozen=True)
class ScoredInstances:
    """Masks for one expression, best first, as far as calibration needs them.

    Attributes:
        scores: (N,).
        repeated: (N, N) IoU of the masks with each other.
        ious: (N, M) IoU of the masks with the M instances that are meant.
    """

    scores: np.ndarray
    repeated: np.ndarray
    ious: np.ndarray

    @classmethod
    def of(cls, masks: Sequence[dict], scores: np.ndarray, targets: Sequence[Segment]) -> ScoredInstances:
        """Compares masks (COCO RLE) with the targets; those that lie on crowds by half or more are left out."""
        ious, on_crowds = overlaps(masks, targets)
        counted = np.flatnonzero((on_crowds < 0.5) & (scores > 0))
        kept = [masks[index] for index in counted]
        repeated, _ = overlaps(kept, [Segment(mask) for mask in kept])
        return cls(scores[counted], repeated, ious[counted])

    def is_right(self, no_target: float, nms: float, thresholds: np.ndarray) -> np.ndarray:
        """(len(thresholds),) bool: whether the set is right, as `ExpressionInstances` has it."""
        kept: list[int] = []
        for index in range(len(self.scores)):
            if all(self.repeated[index, better] <= nms for better in kept):
                kept.append(index)
        scores, meant = self.scores[kept].tolist(), self.ious.shape[1]
        best = self.ious[kept][:meant]
        is_matched = len(best) == meant and bool((best[match(best)] >= 0.5).all())
        return np.array([is_matched and set_size(scores, threshold, no_target) == meant for threshold in thresholds.tolist()])


def choose_instance_thresholds(expressions: Sequence[ScoredInstances], no_target: float) -> InstanceThresholds:
    """The thresholds that suit these expressions best.

    They maximise the mean of three set accuracies: of the expressions that mean nothing, one instance, and several (those that there are),
    however many there are of each. Of several thresholds that are equally good, the middle one is taken.

    Args:
        no_target: score that the best mask must exceed for an expression to mean something; `ReferringThresholds.no_target`.

    Raises:
        ValueError: no expressions.
    """
    if not expressions:
        raise ValueError("calibration: no expressions; take more images")
    accuracies = np.stack([_set_accuracy(expressions, no_target, nms, SCORE_CANDIDATES).mean(axis=0) for nms in NMS_CANDIDATES])
    nms = _middle_of_the_highest(accuracies.max(axis=1))
    return InstanceThresholds(
        float(SCORE_CANDIDATES[_middle_of_the_highest(accuracies[nms])]),
        float(NMS_CANDIDATES[nms]),
    )


def set_accuracies_at(thresholds: InstanceThresholds, no_target: float, expressions: Sequence[ScoredInstances]) -> dict[str, float]:
    """Set accuracy in percent by the number of instances that are meant, see `KINDS_OF_NUMBER`; those that there are."""
    found = _set_accuracy(expressions, no_target, thresholds.nms, np.array([thresholds.instances]))
    kinds = sorted({_kind(expression) for expression in expressions})
    return {KINDS_OF_NUMBER[kind]: 100 * float(value) for kind, (value,) in zip(kinds, found, strict=True)}


def _kind(expression: ScoredInstances) -> int:
    return min(expression.ious.shape[1], 2)


def _set_accuracy(expressions: Sequence[ScoredInstances], no_target: float, nms: float, thresholds: np.ndarray) -> np.ndarray:
    """(kinds that there are, len(thresholds)), in [0, 1]."""
    right = np.stack([expression.is_right(no_target, nms, thresholds) for expression in expressions])
    kinds = np.array([_kind(expression) for expression in expressions])
    return np.stack([right[kinds == kind].mean(axis=0) for kind in np.unique(kinds)])


def _middle_of_the_highest(values: np.ndarray) -> int:
    best = np.flatnonzero(np.isclose(values, values.max(), rtol=0, atol=1e-12))
    return int(best[len(best) // 2])
