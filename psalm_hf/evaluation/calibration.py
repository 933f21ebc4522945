"""When queries answer an expression: two thresholds on their scores, and how they are found on expressions that are not reported on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..data.collator import PsalmCollator
from ..structures import Sample
from .measures import meant

GRID = np.arange(2, 99) / 100  # candidates for both thresholds


@dataclass(frozen=True)
class ReferringThresholds:
    """When queries answer an expression, in terms of their scores in [0, 1].

    Attributes:
        no_target: if even the best query scores at most this, the expression means nothing in the picture; `no_target_threshold` of the
            processor.
        further_targets: a query that scores above it belongs to the answer; the best one always does; `referring_threshold` of the
            processor.
    """

    no_target: float | None = 0.3
    further_targets: float | None = 0.5


RELEASED = ReferringThresholds(no_target=None, further_targets=None)  # always an answer, of the best query


@dataclass(frozen=True)
class ScoredAnswer:
    """What calibration needs to know of one expression.

    Attributes:
        scores: (N,) of the queries that may answer, descending.
        ious: (N,) in [0, 1]: of the union of the first 1, 2, ... N of them; None if the expression means nothing.
    """

    scores: np.ndarray
    ious: np.ndarray | None


@torch.no_grad()
def score_answers(
    model: Any, processor: Any, samples: Iterable[Sample], *, batch_size: int, crowds: str = "left out"
) -> list[ScoredAnswer]:
    """Asks every expression.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        samples: rows with an expression and its truth; of those that follow each other and share a picture, the picture is encoded once
            per batch.
        batch_size: rows of a forward pass.
        crowds: what crowds among the segments are, see `ReferringMeasure`.

    Raises:
        ValueError: a batch without rows; rows without expressions.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    collate = PsalmCollator(processor, with_targets=False)
    scored: list[ScoredAnswer] = []
    for batch in _batches(samples, batch_size):
        if unfit := [sample for sample in batch if sample.condition != "sentence"]:
            raise ValueError(f"image {unfit[0].image_id}: a prompt of kind {unfit[0].condition}; calibration needs rows with expressions")
        outputs = model(**{name: tensor.to(model.device) for name, tensor in collate(batch).items()})
        answers = processor.post_process_referring_segmentation(
            outputs, threshold=float(GRID[0]), no_target_threshold=None, target_sizes=[sample.image_size for sample in batch]
        )
        scored += [_score(answer, *meant(sample, crowds)) for sample, answer in zip(batch, answers, strict=True)]
    return scored


def choose_thresholds(answers: Sequence[ScoredAnswer]) -> ReferringThresholds:
    """The thresholds that suit these answers best.

    `no_target` maximises (N-acc + T-acc) / 2, `further_targets` the mean IoU over the expressions that have a target. Of several
    thresholds that are equally good, the middle one is taken.

    Raises:
        ValueError: answers with a target, or without, are missing.
    """
    absent = np.array([answer.scores[0] for answer in answers if answer.ious is None])
    present = [answer for answer in answers if answer.ious is not None]
    if not len(absent) or not present:
        raise ValueError(
            f"calibration: {len(present)} expressions with a target and {len(absent)} without; both are needed, take more pictures"
        )
    best = np.array([answer.scores[0] for answer in present])
    n_acc = (absent[:, None] <= GRID).mean(axis=0)
    t_acc = (best[:, None] > GRID).mean(axis=0)
    mean_iou = np.mean([_iou_at_thresholds(answer, GRID) for answer in present], axis=0)
    return ReferringThresholds(no_target=_middle_of_the_best((n_acc + t_acc) / 2), further_targets=_middle_of_the_best(mean_iou))


def numbers_at(thresholds: ReferringThresholds, answers: Sequence[ScoredAnswer]) -> Mapping[str, float]:
    """What these answers are worth with some thresholds: "N-acc", "T-acc" and "gIoU" as of `ReferringIoU`, and "mIoU", the mean IoU of the
    expressions with a target if the model is told that they have one. In percent; both kinds of expressions must be there."""
    absent, present, ious = [], [], []
    further = np.array([2.0 if thresholds.further_targets is None else thresholds.further_targets])  # no score is above 1
    for answer in answers:
        says_nothing = thresholds.no_target is not None and answer.scores[0] <= thresholds.no_target
        if answer.ious is None:
            absent.append(says_nothing)
        else:
            present.append(not says_nothing)
            ious.append(float(_iou_at_thresholds(answer, further)[0]))
    found = [iou * is_there for iou, is_there in zip(ious, present, strict=True)]
    values = {"N-acc": absent, "T-acc": present, "gIoU": [*found, *absent], "mIoU": ious}
    return {name: 100 * float(np.mean(value)) for name, value in values.items()}


def _iou_at_thresholds(answer: ScoredAnswer, thresholds: np.ndarray) -> np.ndarray:
    """(len(thresholds),)"""
    chosen = (answer.scores[:, None] > thresholds).sum(axis=0)
    return answer.ious[np.maximum(chosen, 1) - 1]


def _middle_of_the_best(values: np.ndarray) -> float:
    best = np.flatnonzero(values == values.max())
    return float(GRID[best[len(best) // 2]])


def _score(answer: Mapping[str, Any], target: np.ndarray, ignored: np.ndarray) -> ScoredAnswer:
    scores = answer["scores"].float().cpu().numpy()
    if not target.any():
        return ScoredAnswer(scores, None)
    unions = np.logical_or.accumulate(answer["masks"].cpu().numpy()) & ~ignored  # (N, H, W)
    common, joint = (unions & target).sum(axis=(1, 2)), (unions | target).sum(axis=(1, 2))
    return ScoredAnswer(scores, common / joint)


def _batches(samples: Iterable[Sample], batch_size: int) -> Iterator[list[Sample]]:
    rest = iter(samples)
    while batch := list(islice(rest, batch_size)):
        yield batch
