"""VQA accuracy: the normalisation case by case, and numbers that can be checked on paper."""

import random

import pytest

from psalm_hf.metrics import VqaAccuracy
from psalm_hf.metrics.vqa import CONTRACTIONS, normalise_answer


def people(**numbers):
    """Ten answers: `people(cat=3)` are three cats and seven others, all different."""
    given = [text for text, number in numbers.items() for _ in range(number)]
    return given + [f"other{index}" for index in range(10 - len(given))]


def accuracy(answer, human_answers):
    metric = VqaAccuracy()
    metric.update(answer, human_answers)
    return metric.compute()["accuracy"]


@pytest.mark.parametrize(("number", "expected"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (9, 100)])
def test_an_answer_of_three_others_is_right(number, expected):
    assert accuracy("cat", people(cat=number)) == expected


NORMALISED = {
    "Yes.": "yes",
    "the red bus": "red bus",
    "A man and the dog": "man and dog",
    "two cats": "2 cats",
    "none": "0",
    "ten": "10",
    "eleven": "eleven",
    # a mark beside a space vanishes, another becomes one
    "black, white": "black white",
    "black,white": "black white",
    "T-shirt": "t shirt",
    "t- shirt": "t shirt",
    "black/white - grey": "black white grey",
    "a - b-c": "bc",  # beside a space once: it vanishes everywhere
    "1,000": "1000",
    "1,000 x-ray": "1000 xray",  # a comma in a number: all marks vanish
    "what?!": "what",
    # full stops stay before a digit
    "3.50": "3.50",
    ".5": ".5",
    "U.S.A.": "usa",
    "st. 5": "st 5",
    "10:30": "10:30",
    "$5": "$5",
    # contractions
    "dont": "don't",
    "it's": "it's",
    "yall'd've": "y'all'd've",
    "somebody'd": "somebodyd",
    "shed": "shed",
    "": "",
    "the": "",
}


@pytest.mark.parametrize("text", NORMALISED)
def test_normalisation(text):
    assert normalise_answer(text) == NORMALISED[text]


def test_the_table_of_contractions_is_that_of_the_evaluator():
    assert len(CONTRACTIONS) == 114  # of 120; four have a capital I, two are what they become
    some = {"couldn'tve": "couldn't've", "couldnt've": "couldn't've", "'ow'sat": "'ow's'at", "twas": "'twas", "maam": "ma'am"}
    some |= {"hed": "he'd", "hed've": "he'd've", "y'alld've": "y'all'd've", "whove": "who've", "oclock": "o'clock"}
    assert {word: CONTRACTIONS[word] for word in some} == some


def test_people_are_normalised_like_the_prediction():
    assert accuracy("two dogs.", people(**{"2 dogs": 4})) == 100
    assert accuracy("2 dogs", people(**{"The two dogs": 4})) == 100


def test_where_all_people_agree_what_is_written_counts():
    assert accuracy("Orange", ["orange"] * 10) == 0
    assert accuracy("orange", ["Orange"] * 9 + ["red"]) == 100
    assert accuracy(" hot dog\n", ["hot dog"] * 10) == 100
    assert accuracy("hot\tdog", ["hot dog"] * 10) == 100


def test_groups_have_their_own_accuracy():
    metric = VqaAccuracy()
    metric.update("cat", people(cat=10), ["answer type other"])
    metric.update("2", people(**{"2": 2}), ["answer type number", "question type how many"])
    assert metric.compute() == {
        "accuracy": 80,
        "accuracy, answer type number": 60,
        "accuracy, answer type other": 100,
        "accuracy, question type how many": 60,
    }


def test_the_order_of_questions_and_people_changes_no_bit():
    rng = random.Random(0)
    questions = [(rng.choice("abc"), [rng.choice("abcd") for _ in range(10)], [rng.choice("xy")]) for _ in range(50)]
    results = set()
    for _ in range(3):
        rng.shuffle(questions)
        metric = VqaAccuracy()
        for answer, human, groups in questions:
            metric.update(answer, rng.sample(human, 10), groups)
        results.add(str(metric.compute()))
    assert len(results) == 1


def test_nothing_to_compute_is_an_error():
    with pytest.raises(ValueError, match="nothing to compute"):
        VqaAccuracy().compute()


@pytest.mark.parametrize(
    ("answer", "human", "message"),
    [
        ("cat", [], "expected a list of answers that people gave, got \\[\\]"),
        ("cat", "cat", "expected a list of answers that people gave, got 'cat'"),
        (2, ["2"] * 10, "expected a text as answer, got 2"),
        ("cat", ["cat", None], "expected a text as answer, got None"),
    ],
)
def test_what_is_no_answer_is_refused(answer, human, message):
    metric = VqaAccuracy()
    with pytest.raises(ValueError, match=message):
        metric.update(answer, human)
    assert not metric.questions
