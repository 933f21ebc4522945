"""Thresholds on the scores of queries for expressions, and how to find them on expressions that are not reported on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..data.features import SampleDataset
from ..masks import bitmap_from_rle, rle_from_bitmap
from ..structures import Sample
from .benchmarks import benchmark_of
from .evaluation import Evaluation
from .evaluators.base import Evaluator
from .evaluators.referring import meant
from .instance_calibration import ScoredInstances

CANDIDATES = np.arange(2, 99) / 100  # candidates for both thresholds


@dataclass(frozen=True)
class ReferringThresholds:
    """Thresholds on the scores, in [0, 1], of queries for an expression.

    Attributes:
        no_target: if even the best query scores at most this, the expression means nothing in the image; `no_target_threshold` of the
            processor.
        further_targets: a query that scores above it belongs to the prediction; the best one always does; `referring_threshold` of the
            processor.
    """

    no_target: float | None = 0.3
    further_targets: float | None = 0.5


BEST_QUERY = ReferringThresholds(no_target=None, further_targets=None)  # always a prediction, of the best query


@dataclass(frozen=True)
class ScoredPrediction:
    """Prediction for one expression, as far as calibration needs it.

    Attributes:
        scores: (N,) of the queries that may belong to it, descending.
        ious: (N,) in [0, 1]: of the union of the first 1, 2, ... N of them; None if the expression means nothing.
    """

    scores: np.ndarray
    ious: np.ndarray | None


class CalibrationEvaluator(Evaluator):
    """Keeps of every expression what calibration needs, in the order of the rows; there is nothing to submit.

    Args:
        crowds: what crowds among the segments are, see `ReferringEvaluator`.
    """

    name = "calibration"
    sums: ClassVar[tuple[str, ...]] = ("scored", "instances")

    def __init__(self, crowds: str = "left out"):
        self.crowds = crowds
        self.scored: list[ScoredPrediction] = []
        self.instances: list[ScoredInstances] = []

    def predict(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        """Scores and masks of all queries that score above the lowest candidate, and of the best one."""
        found = processor.post_process_referring_segmentation(
            outputs, threshold=float(CANDIDATES[0]), no_target_threshold=None, target_sizes=[sample.image_size for sample in samples]
        )
        return [
            {"scores": entry["scores"].float().tolist(), "masks": [rle_from_bitmap(mask) for mask in entry["masks"].cpu().numpy()]}
            for entry in found
        ]

    def add(self, sample: Sample, prediction: Any) -> None:
        scores = np.array(prediction["scores"], dtype=np.float32)
        self.instances.append(ScoredInstances.of(prediction["masks"], scores, sample.segments))
        target, ignored = meant(sample, self.crowds)
        if not target.any():
            self.scored.append(ScoredPrediction(scores, None))
            return
        masks = np.stack([bitmap_from_rle(mask) for mask in prediction["masks"]])
        unions = np.logical_or.accumulate(masks) & ~ignored  # (N, H, W)
        common, joint = (unions & target).sum(axis=(1, 2)), (unions | target).sum(axis=(1, 2))
        self.scored.append(ScoredPrediction(scores, common / joint))


def open_calibration(dataset: str, processor: Any, **options: Any) -> Evaluation:
    """The expressions of a dataset, ready to be asked for `score_predictions`.

    Args:
        dataset: with expressions that mean nothing, such as "grefcoco"; of "shapes" the split is "validation" unless given.
        processor: of the model.
        options: `split`, `data_dir`, `options`, `limit`, see `Evaluation`.

    Raises:
        ValueError, FileNotFoundError: rows without expressions; see `Evaluation`.
    """
    row = benchmark_of(dataset)
    if any(part.name == "referring" for part in row.parts):
        options = {"parts": ("referring",)} | options
    return Evaluation(dataset, processor, evaluators=_evaluators, **options | {"split": options.get("split") or row.validation})


def score_predictions(model: Any, expressions: Evaluation, *, batch_size: int) -> list[ScoredPrediction]:
    """Asks every expression, about the pixels of all that it means.

    Args:
        model: a `PsalmForSegmentation` in eval mode.
        expressions: of `open_calibration`.
        batch_size: rows of a forward pass.
    """
    return score_expressions(model, expressions, batch_size=batch_size)[0]


def score_expressions(model: Any, expressions: Evaluation, *, batch_size: int) -> tuple[list[ScoredPrediction], list[ScoredInstances]]:
    """Asks every expression once, about the pixels of all that it means and about its instances; arguments are those of
    `score_predictions`."""
    evaluators = [part.evaluators[0] for part in expressions.evaluated_parts(model, batch_size=batch_size)]
    return [each for one in evaluators for each in one.scored], [each for one in evaluators for each in one.instances]


def _evaluators(datasets: Mapping[str, SampleDataset], choices: Mapping[str, Any]) -> list[CalibrationEvaluator]:
    rows = datasets[""].rows
    for image_id, condition in zip(rows["image_id"], rows["condition"], strict=True):
        if condition != "sentence":
            raise ValueError(f"image {image_id}: a prompt of kind {condition}; calibration needs rows with expressions")
    return [CalibrationEvaluator(choices.get("crowds", "left out"))]


def choose_thresholds(predictions: Sequence[ScoredPrediction]) -> ReferringThresholds:
    """The thresholds that suit these predictions best.

    `no_target` maximises (N-acc + T-acc) / 2, `further_targets` the mean IoU over the expressions that have a target. Of several
    thresholds that are equally good, the middle one is taken.

    Raises:
        ValueError: predictions with a target, or without, are missing.
    """
    absent = np.array([prediction.scores[0] for prediction in predictions if prediction.ious is None])
    present = [prediction for prediction in predictions if prediction.ious is not None]
    if not len(absent) or not present:
        raise ValueError(
            f"calibration: {len(present)} expressions with a target and {len(absent)} without; both are needed, take more images"
        )
    best = np.array([prediction.scores[0] for prediction in present])
    n_acc = (absent[:, None] <= CANDIDATES).mean(axis=0)
    t_acc = (best[:, None] > CANDIDATES).mean(axis=0)
    mean_iou = np.mean([_iou_at_thresholds(prediction, CANDIDATES) for prediction in present], axis=0)
    return ReferringThresholds(no_target=_middle_of_the_best((n_acc + t_acc) / 2), further_targets=_middle_of_the_best(mean_iou))


def numbers_at(thresholds: ReferringThresholds, predictions: Sequence[ScoredPrediction]) -> Mapping[str, float]:
    """Numbers of these predictions with some thresholds: "N-acc", "T-acc" and "gIoU" of `ReferringIoU`, and "mIoU", the mean IoU of the
    expressions with a target if the model is told that they have one. In percent; both kinds of expressions must be there."""
    absent, present, ious = [], [], []
    further = np.array([2.0 if thresholds.further_targets is None else thresholds.further_targets])  # no score is above 1
    for prediction in predictions:
        says_nothing = thresholds.no_target is not None and prediction.scores[0] <= thresholds.no_target
        if prediction.ious is None:
            absent.append(says_nothing)
        else:
            present.append(not says_nothing)
            ious.append(float(_iou_at_thresholds(prediction, further)[0]))
    found = [iou * is_there for iou, is_there in zip(ious, present, strict=True)]
    values = {"N-acc": absent, "T-acc": present, "gIoU": [*found, *absent], "mIoU": ious}
    return {name: 100 * float(np.mean(value)) for name, value in values.items()}


def _iou_at_thresholds(prediction: ScoredPrediction, thresholds: np.ndarray) -> np.ndarray:
    """(len(thresholds),)"""
    chosen = (prediction.scores[:, None] > thresholds).sum(axis=0)
    return prediction.ious[np.maximum(chosen, 1) - 1]


def _middle_of_the_best(values: np.ndarray) -> float:
    best = np.flatnonzero(values == values.max())
    return float(CANDIDATES[best[len(best) // 2]])
