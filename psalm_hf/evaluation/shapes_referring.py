"""Expressions on the shapes world, and two rules by which queries become an answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from ..data.shapes import ShapesStream
from ..metrics import ReferringIoU
from ..structures import Sample
from .calibration import ReferringThresholds
from .shapes_batch import Prompt, SceneBatch, size_and_novelty, sums_by_group

EXPRESSIONS_PER_IMAGE = 4

BEST, SCORED, LARGEST = "best query", "scored", "largest thing"

Groups = tuple[str, ...]


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
        for prompt, answer in _answers(batch, self.thresholds):
            target, groups = _target(prompt), _groups(prompt)
            masks = {
                BEST: answer["masks"][0].cpu().numpy(),
                SCORED: answer["masks"].any(0).cpu().numpy(),
                LARGEST: max(prompt.scene.things, key=lambda thing: thing.area).mask,
            }
            for rule, mask in masks.items():
                self.all[rule].update(mask, target, predicted_no_target=answer["no_target"] and rule != LARGEST)
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


def calibration_samples(processor: Any, num_images: int, split: str = "validation") -> Iterator[Sample]:
    """The expressions about the first pictures of a split on which thresholds are calibrated.

    Raises:
        ValueError: no pictures, or an unknown split.
    """
    if num_images < 1:
        raise ValueError(f"shapes: num_images must be at least 1, got {num_images}")
    side = processor.image_processor.image_size
    stream = ShapesStream("referring", split, image_size=side, prompts_per_image=EXPRESSIONS_PER_IMAGE)
    return islice(stream, num_images * EXPRESSIONS_PER_IMAGE)


def _answers(batch: SceneBatch, thresholds: ReferringThresholds) -> list[tuple[Prompt, dict]]:
    """Every expression with the processor's answer."""
    prompts = batch.prompts("referring", prompts_per_image=EXPRESSIONS_PER_IMAGE)
    outputs = batch.forward([prompt.sample for prompt in prompts])
    sizes = [prompt.sample.image_size for prompt in prompts]
    answers = batch.processor.post_process_referring_segmentation(
        outputs, threshold=thresholds.further_targets, no_target_threshold=thresholds.no_target, target_sizes=sizes
    )
    return list(zip(prompts, answers, strict=True))


def _target(prompt: Prompt) -> np.ndarray:
    """(H, W) bool, the union of what is meant."""
    return np.any([np.zeros(prompt.sample.image_size, dtype=bool), *(thing.mask for thing in prompt.things)], axis=0)


def _groups(prompt: Prompt) -> Groups:
    """Under which groups an expression with a target counts, by the size of all that is meant; none without a target."""
    if not prompt.things:
        return ()
    kind, number = prompt.tags[:2]
    return ("with target", kind, number.replace("_", " "), *size_and_novelty(_target(prompt), prompt.things))
