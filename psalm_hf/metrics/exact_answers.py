"""Questions whose answer is one word or number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .base import Metric, accuracies


@dataclass
class ExactAnswers(Metric):
    """Share of the answers that are exactly right, and the wrong ones.

    Attributes:
        given: (kind of question, right answer, given answer) -> how often.
    """

    given: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def update(self, answered: str, right: str, kind: str) -> None:
        """Adds one question; blanks around the answer do not count."""
        self.given[kind, right, answered.strip()] += 1

    def compute(self) -> dict[str, float]:
        """Numbers in percent: "accuracy" of all questions, and "accuracy, question <kind>" of each kind."""
        self.require(self.given, "question")
        given = self.given.items()
        return accuracies((("", f"question {kind}"), times * (answered == right), times) for (kind, right, answered), times in given)

    def mistakes(self, number: int) -> list[tuple[str, str, str, int]]:
        """The most common wrong answers: kind of question, right answer, given answer, how often."""
        wrong = Counter({given: times for given, times in self.given.items() if given[1] != given[2]})
        return [(*given, times) for given, times in wrong.most_common(number)]
