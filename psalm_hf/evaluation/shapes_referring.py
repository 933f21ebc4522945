"""Expressions on the shapes world, two rules by which queries become an answer, and the calibration of their thresholds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..metrics import ReferringIoU
from .shapes_batch import Prompt, SceneBatch, scene_batches, size_and_novelty, sums_by_group

EXPRESSIONS_PER_IMAGE = 4
SPLIT = "validation"  # on which thresholds are calibrated
GRID = np.arange(2, 99) / 100  # candidates for both thresholds

BEST, SCORED, LARGEST = "best query", "scored", "largest thing"

Groups = tuple[str, ...]


@dataclass(frozen=True)
class ReferringThresholds:
    """When queries answer an expression, in terms of their scores in [0, 1].

    Attributes:
        no_target: if even the best query scores below it, the expression means nothing in the picture.
        further_targets: a query that scores above it belongs to the answer; the best one always does.
    """

    no_target: float = 0.3
    further_targets: float = 0.5


class ReferringMeasures:
    """IoU by two rules: the best query alone, and the union of all that score high enough; beside it that of the largest thing.

    Groups of expressions with a target are measured as on RefCOCO, where it is known that something is meant: `no_target` plays no
    part. "all" holds the expressions without target too, and follows gRefCOCO.
    """

    def __init__(self, thresholds: ReferringThresholds):
        self.thresholds = thresholds
        self.with_target: dict[str, dict[Groups, ReferringIoU]] = {rule: defaultdict(ReferringIoU) for rule in (BEST, SCORED, LARGEST)}
        self.all = {rule: ReferringIoU() for rule in (BEST, SCORED, LARGEST)}

    def update(self, batch: SceneBatch) -> None:
        """Asks the first expressions about every scene."""
        for prompt, answer in _answers(batch, self.thresholds.further_targets):
            target, groups = _target(prompt), _groups(prompt)
            is_absent = answer["score"] < self.thresholds.no_target
            masks = {
                BEST: answer["masks"][0].cpu().numpy(),
                SCORED: answer["segmentation"].cpu().numpy(),
                LARGEST: max(prompt.scene.things, key=lambda thing: thing.area).mask,
            }
            for rule, mask in masks.items():
                self.all[rule].update(mask, target, predicted_no_target=is_absent and rule != LARGEST)
                if groups:
                    self.with_target[rule][groups].update(mask, target, predicted_no_target=False)

    def numbers(self) -> dict[str, float]:
        """In percent, nan where nothing defines a number."""
        return self._numbers(BEST) | {f"{name}, scored": value for name, value in self._numbers(SCORED).items() if "acc" not in name}

    def baselines(self) -> dict[str, float]:
        """The largest thing as the answer to every expression."""
        return self._numbers(LARGEST)

    def counts(self) -> dict[str, int]:
        """Expressions by group."""
        every = self.all[BEST]
        groups = sums_by_group(self.with_target[BEST], ReferringIoU)
        counts = {f"expressions, {group}": len(measure.ious) for group, measure in groups.items()}
        return {"expressions, all": len(every.ious) + every.rejected + every.invented} | counts

    def _numbers(self, rule: str) -> dict[str, float]:
        every = self.all[rule].compute()
        results = {f"referring {key}, all": every[key] for key in ("cIoU", "gIoU")}
        results |= {f"referring {key}": every[key] for key in ("N-acc", "T-acc")}
        for group, measure in sums_by_group(self.with_target[rule], ReferringIoU).items():
            values = measure.compute()
            # Without expressions that mean nothing, gIoU is the mean IoU.
            results |= {f"referring cIoU, {group}": values["cIoU"], f"referring mIoU, {group}": values["gIoU"]}
        return results


def calibrate_referring(model: Any, processor: Any, *, num_images: int, batch_size: int) -> ReferringThresholds:
    """The thresholds that suit a model best on the first pictures of the validation split.

    `no_target` maximises (N-acc + T-acc) / 2, `further_targets` the mean IoU over the expressions that have a target. Of several
    thresholds that are equally good, the middle one is taken.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        num_images: pictures, with 4 expressions each.
        batch_size: pictures of a forward pass.

    Raises:
        ValueError: no pictures, or so few that every expression has a target or none has.
    """
    scored: list[ScoredAnswer] = []
    with torch.no_grad():
        for batch in scene_batches(model, processor, SPLIT, num_images, batch_size, "calibration"):
            scored += [_score(answer, _target(prompt)) for prompt, answer in _answers(batch, GRID[0])]
    return choose_thresholds(scored)


@dataclass(frozen=True)
class ScoredAnswer:
    """What calibration needs to know of one expression.

    Attributes:
        scores: (N,) of the queries that may answer, descending.
        ious: (N,) in [0, 1]: of the union of the first 1, 2, ... N of them; None if the expression means nothing.
    """

    scores: np.ndarray
    ious: np.ndarray | None


def choose_thresholds(answers: Sequence[ScoredAnswer]) -> ReferringThresholds:
    """See `calibrate_referring`.

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
    n_acc = (absent[:, None] < GRID).mean(axis=0)
    t_acc = (best[:, None] >= GRID).mean(axis=0)
    mean_iou = np.mean([_iou_at_thresholds(answer) for answer in present], axis=0)
    return ReferringThresholds(no_target=_middle_of_the_best((n_acc + t_acc) / 2), further_targets=_middle_of_the_best(mean_iou))


def _iou_at_thresholds(answer: ScoredAnswer) -> np.ndarray:
    """(len(GRID),)"""
    chosen = (answer.scores[:, None] > GRID).sum(axis=0)
    return answer.ious[np.maximum(chosen, 1) - 1]


def _middle_of_the_best(values: np.ndarray) -> float:
    best = np.flatnonzero(values == values.max())
    return float(GRID[best[len(best) // 2]])


def _answers(batch: SceneBatch, threshold: float) -> list[tuple[Prompt, dict]]:
    """Every expression with the processor's answer of all queries above a threshold, or the best one."""
    prompts = batch.prompts("referring", prompts_per_image=EXPRESSIONS_PER_IMAGE)
    outputs = batch.forward([prompt.sample for prompt in prompts])
    sizes = [prompt.sample.image_size for prompt in prompts]
    answers = batch.processor.post_process_referring_segmentation(outputs, threshold=threshold, target_sizes=sizes)
    return list(zip(prompts, answers, strict=True))


def _score(answer: dict, target: np.ndarray) -> ScoredAnswer:
    scores = answer["scores"].float().cpu().numpy()
    if not target.any():
        return ScoredAnswer(scores, None)
    unions = np.logical_or.accumulate(answer["masks"].cpu().numpy())  # (N, H, W)
    common, joint = (unions & target).sum(axis=(1, 2)), (unions | target).sum(axis=(1, 2))
    return ScoredAnswer(scores, common / joint)


def _target(prompt: Prompt) -> np.ndarray:
    """(H, W) bool, the union of what is meant."""
    return np.any([np.zeros(prompt.sample.image_size, dtype=bool), *(thing.mask for thing in prompt.things)], axis=0)


def _groups(prompt: Prompt) -> Groups:
    """Under which groups an expression with a target counts, by the size of all that is meant; none without a target."""
    if not prompt.things:
        return ()
    kind, number = prompt.tags[:2]
    return ("with target", kind, number.replace("_", " "), *size_and_novelty(_target(prompt), prompt.things))
