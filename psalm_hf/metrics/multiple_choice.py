"""Questions with lettered options: which letter a text means, and how many are right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase

from .base import Metric, accuracies

_SCIENCEQA_LETTERS = "ABCDE"
_THE_ANSWER_IS = re.compile(r"The answer is ([A-E])\.")
_MMBENCH_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 4  # among which MMBench looks for the letter, because an "A" further ahead is an article


def scienceqa_letter(text: str, num_choices: int) -> str | None:
    """The option that a text means by ScienceQA's rules; None if it means none.

    In this order: the text is an option's letter; it begins with one, a full stop and a space (or a new line); "The answer is B." stands
    in it exactly once. The letter of an option that the question does not have is none.

    Source: `eval_science_qa.py` of LLaVA (github.com/haotian-liu/LLaVA), without its guess for what cannot be read.
    """
    text = text.strip().replace("\n", ". ")
    if text in tuple(_SCIENCEQA_LETTERS):
        letter = text
    elif text[:1] in tuple(_SCIENCEQA_LETTERS) and text[1:3] == ". ":
        letter = text[0]
    else:
        found = _THE_ANSWER_IS.findall(text)
        letter = found[0] if len(found) == 1 else None
    return letter if letter in tuple(ascii_uppercase[:num_choices]) else None


def mmbench_letter(text: str, choices: Sequence[str]) -> str | None:
    """The option that a text means by MMBench's rules for exact matching; None if they find none.

    In this order: the text, without punctuation, is an option's letter; it is exactly one option's text, in any case; exactly one option's
    letter is among its words, and one of the last four; exactly one option's text stands in it, and it is not longer than twice the options
    together.

    Source: `matching_util.py` of VLMEvalKit (github.com/open-compass/VLMEvalKit), where a language model judges what these find nothing in.
    The second rule is ours: there, "A dog" is option A, whatever the options are.
    """
    letters = ascii_uppercase[: len(choices)]
    words = text.translate(_MMBENCH_PUNCTUATION).split()
    if len(words) == 1 and words[0] in tuple(letters):
        return words[0]
    written = text.strip().lower()
    same = [letter for letter, choice in zip(letters, choices, strict=True) if choice.strip().lower() == written]
    if len(same) == 1:
        return same[0]
    among = [letter for letter in letters if letter in words]
    if len(among) == 1 and words.index(among[0]) >= len(words) - _LAST_WORDS:
        return among[0]
    if len(text) <= 2 * sum(map(len, choices)):
        inside = [letter for letter, choice in zip(letters, choices, strict=True) if choice.lower() in text.lower()]
        if len(inside) == 1:
            return inside[0]
    return None


@dataclass
class ChoiceAccuracy(Metric):
    """Share of the questions that are answered right, each asked once: ScienceQA, and MMBench's "vanilla" accuracy.

    Attributes:
        questions, right: number by group. The group of all is "".
    """

    questions: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)

    def update(self, answered: str | None, answer: str, groups: Sequence[str] = ()) -> None:
        """Adds one question.

        Args:
            answered: the letter that the model's text means; None = none, which is wrong.
            answer: the letter of the right option.
            groups: names of the groups the question belongs to, such as "subject social science".

        Raises:
            ValueError: no letters.
        """
        _check_letters(answered, answer)
        for group in {"", *groups}:
            self.questions[group] += 1
            self.right[group] += answered == answer

    def compute(self) -> dict[str, float]:
        """Numbers in percent: "accuracy" of all questions, and "accuracy, <group>" of each group."""
        self.require(self.questions, "question")
        return accuracies(((group,), self.right[group], number) for group, number in self.questions.items())


@dataclass
class CircularAccuracy(Metric):
    """Share of the questions that are answered right under every rotation of their options: MMBench's CircularEval.

    Questions that were not asked under all rotations are not counted; `complete` and `incomplete` say how many those are.

    Attributes:
        passes: question -> rotation -> whether it was answered right.
        rotations: question -> how many there are, that is, its number of options.
        groups: question -> its groups.
    """

    passes: dict[int, dict[int, bool]] = field(default_factory=dict)
    rotations: dict[int, int] = field(default_factory=dict)
    groups: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def update(self, question: int, rotation: int, answered: str | None, answer: str, num_options: int, groups: Sequence[str] = ()) -> None:
        """Adds one pass, a question under one rotation of its options.

        Args:
            question: its number.
            rotation: by how many places the options are rotated, 0 to `num_options` - 1.
            answered: the letter that the model's text means; None = none, which is wrong.
            answer: the letter of the right option in this rotation.
            num_options: of the question.
            groups: names of the groups the question belongs to, such as "category ocr".

        Raises:
            ValueError: no letters; no such rotation, or one that was there before; another number of options or other groups than before.
        """
        _check_letters(answered, answer)
        if not 0 <= rotation < num_options:
            raise ValueError(f"question {question}: rotation {rotation} of {num_options} options does not exist")
        self._add(question, {rotation: answered == answer}, num_options, tuple(sorted(set(groups))))

    def __iadd__(self, other: CircularAccuracy) -> CircularAccuracy:
        for question, passes in other.passes.items():
            self._add(question, passes, other.rotations[question], other.groups[question])
        return self

    @property
    def complete(self) -> list[int]:
        """The questions that were asked under all rotations."""
        return [question for question, passes in self.passes.items() if len(passes) == self.rotations[question]]

    @property
    def incomplete(self) -> int:
        """Number of questions that were asked under some rotations only."""
        return len(self.passes) - len(self.complete)

    def compute(self) -> dict[str, float]:
        """Numbers in percent: "accuracy" of all questions, and "accuracy, <group>" of each group.

        Raises:
            ValueError: before the first update, or no question was asked under all rotations.
        """
        self.require(self.passes, "rotation")
        if not self.complete:
            question, passes = min(self.passes.items())
            raise ValueError(
                f"circular accuracy: no question was asked under all rotations of its options, for example question {question} "
                f"{len(passes)} times instead of {self.rotations[question]}; ask all rotations, or measure the accuracy of single passes"
            )
        return accuracies((("", *self.groups[question]), all(self.passes[question].values()), 1) for question in self.complete)

    def _add(self, question: int, passes: dict[int, bool], num_options: int, groups: tuple[str, ...]) -> None:
        known = self.passes.get(question, {})
        twice = known.keys() & passes.keys()
        if twice:
            raise ValueError(f"question {question}: rotation {min(twice)} was there before; each is asked once")
        if known and (num_options, groups) != (self.rotations[question], self.groups[question]):
            raise ValueError(
                f"question {question}: {num_options} options and groups {groups}, but before it was {self.rotations[question]} and "
                f"{self.groups[question]}; rotations of a question differ in the order of the options alone"
            )
        self.passes[question] = known | passes
        self.rotations[question], self.groups[question] = num_options, groups


def _check_letters(answered: str | None, answer: str) -> None:
    if answer not in tuple(ascii_uppercase) or answered not in (None, *ascii_uppercase):
        raise ValueError(f"expected letters of options, got {answered!r:.80} as answer where {answer!r:.80} is right")
