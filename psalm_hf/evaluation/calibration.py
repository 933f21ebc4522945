"""When queries answer an expression: two thresholds on their scores, and how they are found on expressions that are not reported on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.features import SampleDataset
from ..masks import bitmap_from_rle, rle_from_bitmap
from ..structures import Sample
from .evaluation import Evaluation
from .evaluators.base import meant

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


class CalibrationMeasure:
    """Keeps of every expression what calibration needs, in the order of the rows. See `Measure`; there is nothing to submit.

    Args:
        crowds: what crowds among the segments are, see `ReferringMeasure`.
    """

    name = "calibration"

    def __init__(self, crowds: str = "left out"):
        self.crowds = crowds
        self.scored: list[ScoredAnswer] = []

    def answers(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        """Scores and masks of all queries that score above the lowest candidate, and of the best one."""
        found = processor.post_process_referring_segmentation(
            outputs, threshold=float(GRID[0]), no_target_threshold=None, target_sizes=[sample.image_size for sample in samples]
        )
        return [
            {
                "scores": answer["scores"].float().tolist(),
                "masks": [rle_from_bitmap(mask) for mask in answer["masks"].cpu().numpy()],
            }
            for answer in found
        ]

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`."""
        scores = np.array(answer["scores"], dtype=np.float32)
        target, ignored = meant(sample, self.crowds)
        if not target.any():
            self.scored.append(ScoredAnswer(scores, None))
            return
        masks = np.stack([bitmap_from_rle(mask) for mask in answer["masks"]])
        unions = np.logical_or.accumulate(masks) & ~ignored  # (N, H, W)
        common, joint = (unions & target).sum(axis=(1, 2)), (unions | target).sum(axis=(1, 2))
        self.scored.append(ScoredAnswer(scores, common / joint))


def open_calibration(dataset: str, processor: Any, **options: Any) -> Evaluation:
    """The expressions of a dataset, ready to be asked for `score_answers`.

    Args:
        dataset: with expressions that mean nothing, such as "grefcoco"; of "shapes" the split is "validation" unless given.
        processor: of the model.
        options: `split`, `data_dir`, `options`, `limit`, see `Evaluation`.

    Raises:
        ValueError, FileNotFoundError: rows without expressions; see `Evaluation`.
    """
    if dataset == "shapes":
        options = {"parts": ("referring",), **options, "split": options.get("split") or "validation"}
    return Evaluation(dataset, processor, measures=_measures, **options)


def score_answers(model: Any, expressions: Evaluation, *, batch_size: int) -> list[ScoredAnswer]:
    """Asks every expression.

    Args:
        model: a `PsalmForSegmentation` in eval mode.
        expressions: of `open_calibration`.
        batch_size: rows of a forward pass.
    """
    return [answer for part in expressions.measure(model, batch_size=batch_size) for answer in part.measures[0].scored]


def _measures(datasets: Mapping[str, SampleDataset], choices: Mapping[str, Any]) -> list[CalibrationMeasure]:
    rows = datasets[""].rows
    for image_id, condition in zip(rows["image_id"], rows["condition"], strict=True):
        if condition != "sentence":
            raise ValueError(f"image {image_id}: a prompt of kind {condition}; calibration needs rows with expressions")
    return [CalibrationMeasure(choices.get("crowds", "left out"))]


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
