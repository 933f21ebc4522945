"""Questions with the answer yes or no: is something in the image?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .base import Metric, mean, percent

_LABELS = ("yes", "no")


def says_yes(text: str) -> bool:
    """True if a text says yes by POPE's rules: it does, unless one of the words "No", "no" and "not" is in its first sentence.

    Commas are left out, and only spaces separate words.

    Source: `evaluate.py` of POPE (github.com/AoiDragon/POPE).
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)


@dataclass
class YesNoScores(Metric):
    """Accuracy, precision, recall, F1 (yes is positive) and the share of answers that say yes, of each question file.

    Attributes:
        outcomes: file -> number of questions by (label, whether yes was said).

    Source: `evaluate.py` of POPE (github.com/AoiDragon/POPE).
    """

    outcomes: dict[str, Counter[tuple[str, bool]]] = field(default_factory=dict)

    def update(self, answer: str, label: str, file: str) -> None:
        """Adds one question.

        Args:
            answer: what the model says.
            label: "yes" or "no", what is right.
            file: name of the question file; those of POPE are "random", "popular" and "adversarial".

        Raises:
            ValueError: no text, another label, a file without name.
        """
        if not isinstance(answer, str):
            raise ValueError(f"yes or no: expected a text as answer, got {answer!r:.80}")
        if label not in _LABELS:
            raise ValueError(f"yes or no: expected as label one of {', '.join(_LABELS)}, got {label!r:.80}")
        if not file:
            raise ValueError("yes or no: give the question file a name")
        self.outcomes.setdefault(file, Counter())[label, says_yes(answer)] += 1

    def compute(self) -> dict[str, float]:
        """Numbers in percent; nan where there is nothing to divide by.

        * "accuracy", "precision", "recall", "F1", "yes-ratio": of all questions together.
        * "accuracy, random" and so on: of the questions of one file.
        * "F1, mean of files": every file counts the same. With one file it is that of the file.
        """
        self.require(self.outcomes, "question")
        files = {file: _scores(outcomes) for file, outcomes in sorted(self.outcomes.items())}
        result = _scores(sum(self.outcomes.values(), Counter()))
        result["F1, mean of files"] = mean([scores["F1"] for scores in files.values()])
        return result | {f"{name}, {file}": value for file, scores in files.items() for name, value in scores.items()}


def _scores(outcomes: Counter[tuple[str, bool]]) -> dict[str, float]:
    hits, missed = outcomes["yes", True], outcomes["yes", False]
    invented, rejected = outcomes["no", True], outcomes["no", False]
    return {
        "accuracy": percent(hits + rejected, outcomes.total()),
        "precision": percent(hits, hits + invented),
        "recall": percent(hits, hits + missed),
        "F1": percent(2 * hits, 2 * hits + invented + missed),
        "yes-ratio": percent(hits + invented, outcomes.total()),
    }
