"""Open questions that several people answered: the accuracy of VQA."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from .base import Metric, accuracies

# In the order in which they are looked for. There is no apostrophe and no colon: "it's" and "10:30" stay.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = {"a", "an", "the"}
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}

# Words that get back the apostrophe that they were written without. The evaluator's table also has words with a capital I, which never
# occur: the text is in lower case by then.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll
    how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't
    she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
    we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
    won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# Of several apostrophes exactly one is missing.
CONTRACTIONS = {word[: at.start()] + word[at.end() :]: word for word in _CONTRACTIONS.split() for at in re.finditer("'", word)}
CONTRACTIONS["somebody'd"] = "somebodyd"  # the wrong way round in the evaluator

_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")  # also that of "3.", for no digit follows
_MOST_FULL_STOPS = 32  # the evaluator passes a flag of that value in the place of the count


@lru_cache(maxsize=2**16)  # the same few thousand answers make up most of VQAv2
def normalise_answer(text: str) -> str:
    """An answer without punctuation and articles, in lower case, with digits for number words and apostrophes in contractions."""
    unpunctuated = text
    number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        unpunctuated = unpunctuated.replace(mark, "" if beside_space or number else " ")
    unpunctuated = _FULL_STOP.sub("", unpunctuated, count=_MOST_FULL_STOPS)
    words = [_NUMBERS.get(word, word) for word in unpunctuated.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@dataclass
class VqaAccuracy(Metric):
    """Mean over the questions of how many people gave the same answer: three others are enough for all of it.

    Of each person's view the answer is worth min(1, others who gave it / 3), and these are averaged. With ten people: given by none 0, by
    one 0.3, by two 0.6, by three 0.9, by four or more 1.

    Attributes:
        questions: group -> how many questions have (this many people, of whom this many gave the answer). The group of all is "".

    Source: the evaluator of VQA, `vqaEval.py` of github.com/GT-Vision-Lab/VQA, whose numbers are rounded to 2 digits.
    """

    questions: dict[str, Counter[tuple[int, int]]] = field(default_factory=dict)

    def update(self, answer: str, human_answers: Sequence[str], groups: Sequence[str] = ()) -> None:
        """Adds one question.

        Args:
            answer: as the model gave it.
            human_answers: as people gave them, ten in VQAv2.
            groups: names of the groups the question belongs to, such as "answer type number".

        Raises:
            ValueError: an answer is no text, or there are none of people.
        """
        if isinstance(human_answers, str) or not human_answers:
            raise ValueError(f"VQA accuracy: expected a list of answers that people gave, got {human_answers!r:.80}")
        for text in (answer, *human_answers):
            if not isinstance(text, str):
                raise ValueError(f"VQA accuracy: expected a text as answer, got {text!r:.80}")
        answer, *people = [re.sub(r"[\n\t]", " ", text).strip() for text in (answer, *human_answers)]
        # Where all people agree the evaluator compares what is written, capital letters and full stops included.
        if len(set(people)) > 1:
            answer, *people = map(normalise_answer, (answer, *people))
        outcome = len(people), people.count(answer)
        for group in {"", *groups}:
            self.questions.setdefault(group, Counter())[outcome] += 1

    def compute(self) -> dict[str, float]:
        """Numbers in percent: "accuracy" of all questions, and "accuracy, <group>" of each group."""
        self.require(self.questions, "question")
        return accuracies(((group,), _worth(outcomes), outcomes.total()) for group, outcomes in self.questions.items())


def _worth(outcomes: Counter[tuple[int, int]]) -> Fraction:
    """Worth of the answers to some questions, each in [0, 1]: those that `same` of the people gave, of whom each has one other less."""
    return sum(
        number * Fraction(same * min(3, same - 1) + (people - same) * min(3, same), 3 * people)
        for (people, same), number in outcomes.items()
    )
