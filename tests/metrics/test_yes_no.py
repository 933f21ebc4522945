"""POPE: what counts as a yes, and the scores of counts that can be checked on paper."""

import math

import pytest

from psalm_hf.metrics import YesNoScores
from psalm_hf.metrics.yes_no import says_yes

SAYS_YES = {
    "yes": True,
    "no": False,
    "No, there is none": False,
    "There is not": False,
    "I do not know. Yes": False,
    "Yes. There is no doubt": True,  # the first sentence alone
    "no.": False,
    "Yes,no": True,  # one word without its comma
    "NO": True,
    "no\nit is": True,  # only spaces separate words
    "Nothing": True,
    "": True,
    "7": True,
}


@pytest.mark.parametrize("text", SAYS_YES)
def test_everything_without_a_no_is_a_yes(text):
    assert says_yes(text) == SAYS_YES[text]


def scores(hits, missed, invented, rejected, file="random"):
    metric = YesNoScores()
    for label, answer, number in [("yes", "yes", hits), ("yes", "no", missed), ("no", "yes", invented), ("no", "no", rejected)]:
        for _ in range(number):
            metric.update(answer, label, file)
    return metric


def test_scores_of_a_file():
    result = scores(hits=3, missed=1, invented=2, rejected=4).compute()
    expected = {"accuracy": 70, "precision": 60, "recall": 75, "F1": 100 * 6 / 9, "yes-ratio": 50}
    assert result == {**expected, "F1, mean of files": result["F1"], **{f"{name}, random": value for name, value in expected.items()}}


def test_files_count_the_same_in_their_mean_and_by_their_questions_in_all():
    metric = scores(3, 1, 2, 4)
    metric += scores(1, 0, 0, 0, "popular")
    result = metric.compute()
    assert result["F1, popular"] == 100
    assert result["F1, mean of files"] == pytest.approx((200 / 3 + 100) / 2)
    assert result["F1"] == pytest.approx(100 * 8 / 11)


def test_what_is_not_defined_is_nan():
    result = scores(hits=0, missed=0, invented=0, rejected=2).compute()
    assert result["accuracy"] == 100 and result["yes-ratio"] == 0
    assert all(math.isnan(result[name]) for name in ("precision", "recall", "F1", "F1, mean of files"))
    result = scores(hits=0, missed=2, invented=0, rejected=2).compute()
    assert math.isnan(result["precision"]) and result["recall"] == result["F1"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "yes", "random"), "expected a text as answer, got None"),
        (("yes", "maybe", "random"), "expected as label one of yes, no, got 'maybe'"),
        (("yes", "no", ""), "give the question file a name"),
    ],
)
def test_what_is_no_question_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        YesNoScores().update(*arguments)


def test_nothing_to_compute_is_an_error():
    with pytest.raises(ValueError, match="nothing to compute"):
        YesNoScores().compute()
