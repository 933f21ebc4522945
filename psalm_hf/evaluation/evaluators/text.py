"""What the model's words are judged by: VQAv2, ScienceQA, MMBench, POPE, questions about shapes. Their answers are `{"text": str}`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...data.benchmarks.mmbench import ROTATION
from ...metrics import ChoiceAccuracy, CircularAccuracy, VqaAccuracy, YesNoScores, mmbench_letter, scienceqa_letter
from ...structures import Sample
from .base import Numbers

SCHOOL_YEARS = {f"grade{year}": f"grades {'1-6' if year <= 6 else '7-12'}" for year in range(1, 13)}  # as ScienceQA's tables have them


@dataclass
class ExactAnswers:
    """Share of the answers that are exactly right, and which ones are not.

    Attributes:
        given: (kind of question, right answer, what was answered) -> how often.
    """

    given: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def update(self, answered: str, right: str, kind: str) -> None:
        """Adds one question; blanks around the answer do not count."""
        self.given[kind, right, answered.strip()] += 1

    def __iadd__(self, other: ExactAnswers) -> ExactAnswers:
        self.given.update(other.given)
        return self

    def compute(self) -> dict[str, float]:
        """In percent: "accuracy" of all questions, and "accuracy, question <kind>" of each kind.

        Raises:
            ValueError: before the first update.
        """
        if not self.given:
            raise ValueError("accuracy of answers: nothing to compute; call update for at least one question")
        questions: Counter[str] = Counter()
        right: Counter[str] = Counter()
        for (kind, truth, answered), times in self.given.items():
            for name in ("accuracy", f"accuracy, question {kind}"):
                questions[name] += times
                right[name] += times * (answered == truth)
        return {name: 100 * right[name] / questions[name] for name in sorted(questions)}

    def mistakes(self, number: int) -> list[tuple[str, str, str, int]]:
        """The most common wrong answers: kind of question, right answer, what was answered, how often."""
        wrong = Counter({given: times for given, times in self.given.items() if given[1] != given[2]})
        return [(*given, times) for given, times in wrong.most_common(number)]


Metric = VqaAccuracy | ChoiceAccuracy | CircularAccuracy | YesNoScores | ExactAnswers


class TextMeasure:
    """Base of the measures of texts: one metric, and what depends on it."""

    name = "text"
    choices: ClassVar[Mapping[str, Any]]  # on which the numbers depend

    def __init__(self, metric: Metric):
        self.metric = metric
        self.questions = 0

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`.

        Raises:
            ValueError: the right answer is not known.
        """
        if not sample.answers:
            raise ValueError(f"question {sample.record_id}: its right answer is not known; give a split whose answers are public")
        self.judge(sample, answer["text"])
        self.questions += 1

    def judge(self, sample: Sample, text: str) -> None:
        """Updates the metric."""
        raise NotImplementedError

    def __iadd__(self, other: TextMeasure) -> TextMeasure:
        self.metric += other.metric
        self.questions += other.questions
        return self

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"{self.name} {name}": value for name, value in self.metric.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """None: groups of questions are among the numbers."""
        return {}

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {"questions": self.questions}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {self.name: dict(self.choices)}


class VqaMeasure(TextMeasure):
    """Accuracy against ten people, also by "answer type ..." and "question type ..."; rows of `vqav2`."""

    choices: ClassVar[Mapping[str, Any]] = {"accuracy": "VQA, answers normalised where people differ"}

    def __init__(self):
        super().__init__(VqaAccuracy())

    def judge(self, sample: Sample, text: str) -> None:
        """See `TextMeasure`."""
        self.metric.update(text, sample.answers, [f"{name.replace('_', ' ')} {value}" for name, value in tags(sample)])


class ScienceQaMeasure(TextMeasure):
    """Accuracy, also by "subject ...", "context ..." and "grades ..."; rows of `scienceqa`. What is called SQA-I is "context image"."""

    choices: ClassVar[Mapping[str, Any]] = {"answers": "letters by LLaVA's rules, what means none is wrong"}

    def __init__(self):
        super().__init__(ChoiceAccuracy())

    def judge(self, sample: Sample, text: str) -> None:
        """See `TextMeasure`."""
        groups = [SCHOOL_YEARS.get(value, value) if name == "grade" else f"{name} {value}" for name, value in tags(sample)]
        self.metric.update(scienceqa_letter(text, len(sample.choices)), sample.answers[0], groups)


class MmBenchMeasure(TextMeasure):
    """Accuracy, also by "category ..." and "l2-category ..."; rows of `mmbench`.

    Args:
        circular: a question is right if it is answered right under all rotations of its options; else ("vanilla") only the pass whose
            options are not rotated counts. The two are not comparable.
    """

    def __init__(self, circular: bool = True):
        self.circular = circular
        super().__init__(CircularAccuracy() if circular else ChoiceAccuracy())

    @property
    def choices(self) -> Mapping[str, Any]:
        """See `TextMeasure`."""
        return {"evaluation": "circular" if self.circular else "vanilla", "answers": "letters by exact matching, what means none is wrong"}

    def judge(self, sample: Sample, text: str) -> None:
        """See `TextMeasure`."""
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


class PopeMeasure(TextMeasure):
    """Accuracy, precision, recall, F1 and the share of yes, of all questions and of each file, and the mean F1 of the files; rows of
    `pope`, of one or several splits."""

    choices: ClassVar[Mapping[str, Any]] = {"answers": "no, if No, no or not is a word of the first sentence; else yes"}

    def __init__(self):
        super().__init__(YesNoScores())

    def judge(self, sample: Sample, text: str) -> None:
        """See `TextMeasure`."""
        self.metric.update(text, sample.answers[0], dict(tags(sample))["split"])


class ShapesQuestionMeasure(TextMeasure):
    """Share of right answers, also by "question ..."; rows of `shapes`, task "conversation"."""

    choices: ClassVar[Mapping[str, Any]] = {"answers": "exactly the right word or number"}

    def __init__(self):
        super().__init__(ExactAnswers())

    def add(self, sample: Sample, answer: Any) -> None:
        """See `TextMeasure`; the right answer is the assistant's."""
        _, reply = sample.conversation
        (kind,) = sample.tags
        self.metric.update(answer["text"], reply["content"], kind)
        self.questions += 1


def tags(sample: Sample) -> Iterator[tuple[str, str]]:
    """Name and value of the tags "name:value"."""
    for tag in sample.tags:
        name, _, value = tag.partition(":")
        yield name, value
