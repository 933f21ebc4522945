"""Predictions that need no model, evaluated as those of a model are: a number means something only above theirs. On the shapes world."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar

from ..data.shapes.language import questions
from ..data.shapes.scene import make_scene
from ..data.shapes.stream import scene_of
from ..masks import rle_from_bitmap
from ..model.regions import region_mask
from ..structures import Sample
from .evaluators.base import Evaluator, Numbers

_QUESTIONS_PER_SCENE = 4
_TRAIN_SCENES = 500  # from which the most frequent answers are taken


class Baseline(Evaluator):
    """Evaluates predictions that are made from the sample, whatever a model says. Its numbers have the names of the evaluator's.

    Args:
        evaluator: of the same rows.
        answer: sample -> prediction, as the evaluator takes it.
    """

    sums: ClassVar[tuple[str, ...]] = ("evaluator",)

    def __init__(self, evaluator: Evaluator, answer: Callable[[Sample], Any]):
        self.evaluator, self.answer, self.name = evaluator, answer, evaluator.name

    def add(self, sample: Sample, prediction: Any) -> None:
        self.evaluator.add(sample, self.answer(sample))

    def numbers(self) -> Numbers:
        return self.evaluator.numbers()


def largest_thing(sample: Sample) -> dict[str, Any]:
    """Prediction for an expression: the largest thing of the scene."""
    thing = max(scene_of(sample).things, key=lambda thing: thing.area)
    return {"mask": thing.mask_rle, "score": 1.0, "no_target": False}


def prompt_itself(sample: Sample, radii: tuple[int, int]) -> dict[str, Any]:
    """Prediction for regions: their own pixels.

    Args:
        radii: of points and of scribbles, see `PsalmProcessor`.
    """
    drawn = [region_mask(region.as_prompt(), sample.image_size, str(sample.image_id), radii) for region in sample.regions]
    return {"masks": [rle_from_bitmap(mask) for mask in drawn], "scores": [1.0] * len(drawn)}


def most_frequent_answer(sample: Sample, image_size: int) -> dict[str, Any]:
    """Answer to a question: the one that is most frequent in training for questions of its kind.

    Args:
        image_size: side of the images, on which the scenes depend.
    """
    (kind,) = sample.tags
    return {"text": frequent_answers(image_size)[kind]}


@cache
def frequent_answers(image_size: int) -> Mapping[str, str]:
    """Kind of question -> the most frequent right answer in the first scenes of the train split."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(_TRAIN_SCENES):
        for question in questions(make_scene("train", number, image_size=image_size), _QUESTIONS_PER_SCENE):
            answers[question.kind][question.answer] += 1
    return {kind: counts.most_common(1)[0][0] for kind, counts in answers.items()}
