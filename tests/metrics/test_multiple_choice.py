"""Letters in texts, and the share of questions that are answered right, once or under all rotations."""

from string import ascii_uppercase

import pytest

from psalm_hf.metrics import ChoiceAccuracy, CircularAccuracy, mmbench_letter, scienceqa_letter

# text -> letter, of a question with three choices
SCIENCEQA = {
    "B": "B",
    " B\n": "B",
    "B. a red cup": "B",
    "B\na red cup": "B",
    "The answer is B.": "B",
    "So the answer is this. The answer is C. Because": "C",
    "The answer is A. The answer is B.": None,
    "The answer is B": None,
    "b": None,
    "B.": None,
    "(B)": None,
    "B, a red cup": None,
    "D": None,  # there is none
    "D. nothing": None,
    "AB": None,
    "a red cup": None,
    "": None,
}


@pytest.mark.parametrize("text", SCIENCEQA)
def test_letters_by_the_rules_of_scienceqa(text):
    assert scienceqa_letter(text, 3) == SCIENCEQA[text]


CHOICES = ("cat", "A dog", "Two dogs and a cat on a mat")
MMBENCH = {
    "B": "B",
    "B.": "B",
    "(b)": None,
    "(C)": "C",
    "Answer: B": "B",
    "The answer is A.": "A",
    "B. A dog": "B",  # two letters among its words, but one option's text
    "A dog": "B",
    " a dog ": "B",
    "A dog is on it": "B",  # too far ahead to be a letter
    "two dogs and a cat on a mat": "C",
    "It is a cat": "A",
    "It is a mouse": None,
    "A or C": None,
    "D": None,
    "it is a cat " + "in a very long story " * 5: None,
    "": None,
}


@pytest.mark.parametrize("text", MMBENCH)
def test_letters_by_the_rules_of_mmbench(text):
    assert mmbench_letter(text, CHOICES) == MMBENCH[text]


def test_a_letter_comes_before_an_option_of_that_text():
    assert mmbench_letter("B", ("B", "A")) == "B"


def test_options_of_the_same_text_are_not_told_apart():
    assert mmbench_letter("red", ("red", "Red")) is None
    assert mmbench_letter("B", ("red", "Red")) == "B"


def test_accuracy_of_choices():
    metric = ChoiceAccuracy()
    metric.update("A", "A", ["subject physics", "grades 1-6"])
    metric.update("B", "A", ["subject physics"])
    metric.update(None, "A", ["subject music"])
    metric.update("C", "C")
    assert metric.compute() == {
        "accuracy": 50,
        "accuracy, grades 1-6": 100,
        "accuracy, subject music": 0,
        "accuracy, subject physics": 50,
    }


def circular(*passes):
    """Of (question, rotation, whether it is right), all questions with three options."""
    metric = CircularAccuracy()
    for question, rotation, is_right in passes:
        metric.update(question, rotation, "A" if is_right else "B", "A", num_options=3)
    return metric


def test_circular_is_right_if_every_rotation_is():
    metric = circular((7, 0, True), (7, 1, True), (7, 2, True), (8, 0, True), (8, 1, True), (8, 2, False))
    assert metric.compute() == {"accuracy": 50}


def test_circular_always_the_same_letter_is_always_wrong():
    metric, vanilla = CircularAccuracy(), ChoiceAccuracy()
    for question in range(10):
        for rotation in range(4):
            right = ascii_uppercase[(question - rotation) % 4]
            metric.update(question, rotation, "A", right, num_options=4)
            if rotation == 0:
                vanilla.update("A", right)
    assert metric.compute() == {"accuracy": 0}
    assert vanilla.compute() == {"accuracy": 30}


def test_questions_count_once_in_their_groups():
    metric = CircularAccuracy()
    for rotation in range(2):
        metric.update(1, rotation, "A", "A", num_options=2, groups=["category ocr"])
        metric.update(2, rotation, "A", "AB"[rotation], num_options=2, groups=["category ocr", "l2-category seeing"])
    assert metric.compute() == {"accuracy": 50, "accuracy, category ocr": 50, "accuracy, l2-category seeing": 0}


def test_questions_without_all_rotations_are_not_counted():
    metric = circular((7, 0, True), (7, 1, True), (7, 2, True), (8, 0, False))
    assert metric.compute() == {"accuracy": 100}
    assert (metric.complete, metric.incomplete) == ([7], 1)
    with pytest.raises(ValueError, match="no question was asked under all rotations .* question 8 1 times instead of 3"):
        circular((8, 0, True), (9, 2, True)).compute()


def test_workers_may_share_a_question():
    metric = circular((7, 0, True), (7, 2, True))
    metric += circular((7, 1, True))
    assert metric.compute() == {"accuracy": 100}
    with pytest.raises(ValueError, match="question 7: rotation 2 was there before"):
        metric += circular((7, 2, True))


def test_what_contradicts_itself_is_refused():
    metric = circular((7, 0, True))
    with pytest.raises(ValueError, match="question 7: rotation 3 of 3 options does not exist"):
        metric.update(7, 3, "A", "A", num_options=3)
    with pytest.raises(ValueError, match=r"question 7: 4 options and groups \(\), but before it was 3"):
        metric.update(7, 1, "A", "A", num_options=4)
    with pytest.raises(ValueError, match=r"question 7: 3 options and groups \('x',\), but before"):
        metric.update(7, 1, "A", "A", num_options=3, groups=["x"])
    assert metric.passes == {7: {0: True}}


@pytest.mark.parametrize(("answered", "answer"), [("a cup", "A"), ("A", "AB"), ("A", ""), ("A", "a")])
def test_what_is_no_letter_is_refused(answered, answer):
    with pytest.raises(ValueError, match="expected letters of options"):
        ChoiceAccuracy().update(answered, answer)


@pytest.mark.parametrize("metric", [ChoiceAccuracy(), CircularAccuracy()])
def test_nothing_to_compute_is_an_error(metric):
    with pytest.raises(ValueError, match="nothing to compute"):
        metric.compute()
