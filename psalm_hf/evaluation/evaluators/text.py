"""Evaluators of answers in words: VQAv2, ScienceQA, MMBench, POPE, questions about shapes. An answer is `{"text": str}`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from ...data.benchmarks.mmbench import ROTATION
from ...metrics import ChoiceAccuracy, CircularAccuracy, ExactAnswers, VqaAccuracy, YesNoScores, mmbench_letter, scienceqa_letter
from ...metrics.base import Metric
from ...structures import Sample
from .base import Evaluator

SCHOOL_YEARS = {f"grade{year}": f"grades {'1-6' if year <= 6 else '7-12'}" for year in range(1, 13)}  # as ScienceQA's tables have them


class TextEvaluator(Evaluator):
    """Base: one question after the other. A subclass says how an answer updates the metric, of the class `new_metric`."""

    name = "text"
    sums: ClassVar[tuple[str, ...]] = ("metric", "questions")
    new_metric: ClassVar[type[Metric]]
    questions = 0

    def __init__(self) -> None:
        self.metric = self.new_metric()

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Evaluator`. The right answer must be known."""
        if not sample.answers:
            raise ValueError(f"question {sample.record_id}: its right answer is not known; give a split whose answers are public")
        self.update(sample, answer["text"])
        self.questions += 1

    def update(self, sample: Sample, text: str) -> None:
        """Updates the metric."""
        raise NotImplementedError

    def counts(self) -> dict[str, int]:
        """See `Evaluator`; groups of questions are among the numbers."""
        return {"questions": self.questions}


class VqaEvaluator(TextEvaluator):
    """Accuracy against ten people, also by "answer type ..." and "question type ..."; rows of `vqav2`."""

    choices = {"accuracy": "VQA, answers normalised where people differ"}
    new_metric = VqaAccuracy

    def update(self, sample: Sample, text: str) -> None:
        self.metric.update(text, sample.answers, [f"{name.replace('_', ' ')} {value}" for name, value in tags(sample)])


class ScienceQaEvaluator(TextEvaluator):
    """Accuracy, also by "subject ...", "context ..." and "grades ..."; rows of `scienceqa`. SQA-I is "context image"."""

    choices = {"answers": "letters by LLaVA's rules, what means none is wrong"}
    new_metric = ChoiceAccuracy

    def update(self, sample: Sample, text: str) -> None:
        groups = [SCHOOL_YEARS.get(value, value) if name == "grade" else f"{name} {value}" for name, value in tags(sample)]
        self.metric.update(scienceqa_letter(text, len(sample.choices)), sample.answers[0], groups)


class MmBenchEvaluator(TextEvaluator):
    """Accuracy, also by "category ..." and "l2-category ..."; rows of `mmbench`.

    Args:
        passes: "circular": a question is right if it is answered right under all rotations of its options; "vanilla": only the pass whose
            options are not rotated counts. The two are not comparable.
    """

    def __init__(self, passes: str = "circular"):
        self.circular = passes == "circular"
        self.metric = CircularAccuracy() if self.circular else ChoiceAccuracy()
        self.choices = {"evaluation": passes, "answers": "letters by exact matching, what means none is wrong"}

    def update(self, sample: Sample, text: str) -> None:
        rotation, question = divmod(int(sample.record_id), ROTATION)
        found, right = mmbench_letter(text, sample.choices), sample.answers[0]
        groups = [f"{name} {value}" for name, value in tags(sample)]
        if self.circular:
            self.metric.update(question, rotation, found, right, num_options=len(sample.choices), groups=groups)
        elif rotation == 0:
            self.metric.update(found, right, groups)

    def counts(self) -> dict[str, int]:
        """Passes that were answered, and questions that are counted; questions whose rotations are not all there are not."""
        if self.circular:
            counted = {"questions": len(self.metric.complete), "questions without all rotations": self.metric.incomplete}
        else:
            counted = {"questions": self.metric.questions[""]}
        return {"passes": self.questions, **counted}


class PopeEvaluator(TextEvaluator):
    """Accuracy, precision, recall, F1 and the share of yes, of all questions and of each file, and the mean F1 of the files; rows of
    `pope`, of one or several splits."""

    choices = {"answers": "no, if No, no or not is a word of the first sentence; else yes"}
    new_metric = YesNoScores

    def update(self, sample: Sample, text: str) -> None:
        self.metric.update(text, sample.answers[0], dict(tags(sample))["split"])


class ShapesQuestionEvaluator(TextEvaluator):
    """Share of right answers, also by "question ..."; rows of `shapes`, task "conversation"."""

    choices = {"answers": "exactly the right word or number"}
    new_metric = ExactAnswers

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Evaluator`; the right answer is the assistant's."""
        _, reply = sample.conversation
        (kind,) = sample.tags
        self.metric.update(answer["text"], reply["content"], kind)
        self.questions += 1


def tags(sample: Sample) -> Iterator[tuple[str, str]]:
    """Name and value of the tags "name:value"."""
    for tag in sample.tags:
        name, _, value = tag.partition(":")
        yield name, value
