"""Questions about the shapes world, each with one right answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from ..data.shapes_language import questions
from ..data.shapes_scene import make_scene
from .shapes_batch import SceneBatch

QUESTIONS_PER_IMAGE = 4
_TRAIN_SCENES = 500  # from which the most frequent answers are taken


class AnswerMeasures:
    """Share of right answers, over all questions and by what they ask for.

    Args:
        image_size: side of the pictures, on which the most frequent answers of training depend.
    """

    def __init__(self, image_size: int):
        self.image_size = image_size
        self.is_right: dict[str, list[bool]] = defaultdict(list)
        self.truth: dict[str, Counter[str]] = defaultdict(Counter)

    def update(self, batch: SceneBatch) -> None:
        """Asks the first questions about every scene."""
        prompts = batch.prompts("conversation", prompts_per_image=QUESTIONS_PER_IMAGE)
        asked = [replace(prompt.sample, conversation=prompt.sample.conversation[:1]) for prompt in prompts]
        for prompt, text in zip(prompts, batch.answer(asked), strict=True):
            (kind,), right = prompt.tags, prompt.sample.conversation[1]["content"]
            self.truth[kind][right] += 1
            for group in ("all", kind):
                self.is_right[group].append(text.strip() == right)

    def numbers(self) -> dict[str, float]:
        """In percent."""
        return {f"answers right, {group}": 100 * float(np.mean(values)) for group, values in sorted(self.is_right.items())}

    def baselines(self) -> dict[str, float]:
        """The answer that is most frequent in training, by kind of question."""
        frequent = frequent_answers(self.image_size)
        right = {kind: answers[frequent[kind]] for kind, answers in self.truth.items()}
        right["all"] = sum(right.values())
        return {f"answers right, {group}": 100 * number / len(self.is_right[group]) for group, number in sorted(right.items())}

    def counts(self) -> dict[str, int]:
        """Questions by kind."""
        return {f"questions, {group}": len(values) for group, values in sorted(self.is_right.items())}


@cache
def frequent_answers(image_size: int) -> Mapping[str, str]:
    """Kind of question -> the most frequent right answer in the first scenes of the train split."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(_TRAIN_SCENES):
        for question in questions(make_scene("train", number, image_size=image_size), QUESTIONS_PER_IMAGE):
            answers[question.kind][question.answer] += 1
    return {kind: counts.most_common(1)[0][0] for kind, counts in answers.items()}
