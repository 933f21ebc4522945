"""Measures of texts, on questions drawn here and on the real samples: right, wrong and senseless answers."""

import math
import pickle

import pytest

from psalm_hf.data import load
from psalm_hf.data.benchmarks.mmbench import ROTATION
from psalm_hf.evaluation.evaluators.text import MmBenchEvaluator, PopeEvaluator, ScienceQaEvaluator, VqaEvaluator
from psalm_hf.structures import Sample
from tests.conftest import SAMPLES


def question(id, answers, choices=(), tags=()):
    conversation = ({"role": "user", "content": "What is it?"},)
    return Sample(None, "1", None, conversation=conversation, record_id=id, choices=choices, answers=answers, tags=tags)


def judged(measure, *answered):
    for sample, text in answered:
        measure.add(sample, {"text": text})
    return measure


def test_vqa_by_types():
    number = question("1", ("2", "two") * 5, tags=("question_type:how many", "answer_type:number"))
    other = question("2", ("cat",) * 3 + ("dog",) * 7, tags=("question_type:what is", "answer_type:other"))
    measure = judged(VqaEvaluator(), (number, "Two."), (other, "a cat"))
    assert measure.numbers() == {
        "text accuracy": 95,
        "text accuracy, answer type number": 100,
        "text accuracy, answer type other": 90,
        "text accuracy, question type how many": 100,
        "text accuracy, question type what is": 90,
    }
    assert measure.counts() == {"questions": 2}


def test_scienceqa_by_subject_context_and_grade():
    choices = ("no", "yes")
    pictured = question("1", ("B",), choices, ("subject:natural science", "grade:grade6", "context:text", "context:image"))
    plain = question("2", ("A",), choices, ("subject:language science", "grade:grade7", "context:none"))
    measure = judged(ScienceQaEvaluator(), (pictured, "B. yes"), (plain, "C"))
    assert measure.numbers() == {
        "text accuracy": 50,
        "text accuracy, context image": 100,
        "text accuracy, context none": 0,
        "text accuracy, context text": 100,
        "text accuracy, grades 1-6": 100,
        "text accuracy, grades 7-12": 0,
        "text accuracy, subject language science": 0,
        "text accuracy, subject natural science": 100,
    }


def rotated(id, *rights):
    """Question `id` under both rotations of its options, answered right or not."""
    choices, tags = ("a cup", "a can"), ("category:ocr", "l2-category:seeing")
    for rotation, is_right in enumerate(rights):
        turned = choices[rotation:] + choices[:rotation]
        right = "AB"[turned.index("a can")]
        sample = question(str(id + rotation * ROTATION), (right,), turned, tags)
        yield sample, right if is_right else {"A": "B", "B": "A"}[right]


def test_mmbench_counts_a_question_if_all_its_rotations_are_right():
    answered = [*rotated(7, True, True), *rotated(3, True, False), *rotated(4, False, False)]
    measure = judged(MmBenchEvaluator(), *answered)
    expected = 100 / 3
    assert measure.numbers() == {
        "text accuracy": expected,
        "text accuracy, category ocr": expected,
        "text accuracy, l2-category seeing": expected,
    }
    assert measure.counts() == {"passes": 6, "questions": 3, "questions without all rotations": 0}
    assert measure.protocol()["text"]["evaluation"] == "circular"


def test_mmbench_vanilla_counts_the_first_pass_alone():
    answered = [*rotated(7, True, True), *rotated(3, True, False), *rotated(4, False, True)]
    measure = judged(MmBenchEvaluator("vanilla"), *answered)
    assert measure.numbers()["text accuracy"] == pytest.approx(200 / 3)
    assert measure.counts() == {"passes": 6, "questions": 3}
    assert measure.protocol()["text"]["evaluation"] == "vanilla"


def test_mmbench_says_what_is_missing():
    with pytest.raises(ValueError, match="no question was asked under all rotations of its options, for example question 7"):
        judged(MmBenchEvaluator(), *rotated(7, True)).numbers()
    measure = judged(MmBenchEvaluator(), *rotated(7, True), *rotated(8, True, True))
    assert measure.numbers()["text accuracy"] == 100
    assert measure.counts() == {"passes": 3, "questions": 1, "questions without all rotations": 1}


def test_pope_by_file():
    def asked(split, label):
        return question("1", (label,), tags=(f"split:{split}",))

    measure = judged(
        PopeEvaluator(),
        (asked("random", "yes"), "Yes, it is"),
        (asked("random", "no"), "not there"),
        (asked("popular", "yes"), "no"),
        (asked("popular", "yes"), "what?"),
    )
    numbers = measure.numbers()
    assert numbers["text F1, random"] == 100 and numbers["text F1, popular"] == pytest.approx(200 / 3)
    assert numbers["text F1, mean of files"] == pytest.approx(250 / 3)
    assert numbers["text accuracy"] == 75 and numbers["text yes-ratio, popular"] == 50
    assert measure.counts() == {"questions": 4}


ALL = {"vqav2": VqaEvaluator, "scienceqa": ScienceQaEvaluator, "mmbench": MmBenchEvaluator, "pope": PopeEvaluator}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_questions_whose_answer_is_not_public_are_refused(make):
    with pytest.raises(ValueError, match="question 9: its right answer is not known; give a split whose answers are public"):
        make().add(question("9", ()), {"text": "A"})


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_empty_measures_add_up_and_travel(make):
    measure = make()
    measure += pickle.loads(pickle.dumps(make()))
    with pytest.raises(ValueError, match="nothing to compute"):
        measure.numbers()
    assert measure.name == "text" and measure.protocol().keys() == {"text"} and measure.per_category() == {}


# The real samples.

REAL = {
    "vqav2": ("val", "vqav2", {}),
    "scienceqa": ("test", "scienceqa", {}),
    "mmbench": ("dev", "mmbench", {"language": "en", "rotations": "all"}),
    "pope": ("random", ".", {"file": "pope/coco_pope_bundle_val2017.json", "image_folder": "coco/val2017"}),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Dataset name -> its samples."""
    cache = tmp_path_factory.mktemp("rows")
    return {name: list(load(name, split, SAMPLES / folder, cache_dir=cache, **options)) for name, (split, folder, options) in REAL.items()}


@pytest.mark.samples
@pytest.mark.parametrize("name", ALL)
def test_the_truth_scores_100_on_real_questions(name, rows):
    measure = judged(ALL[name](), *((sample, sample.conversation[1]["content"]) for sample in rows[name]))
    accuracies = {key: value for key, value in measure.numbers().items() if "yes-ratio" not in key}
    if name == "vqav2":  # people differ
        assert accuracies["text accuracy"] > 75
    else:
        assert set(accuracies.values()) == {100.0}
    assert measure.counts().get("passes", measure.counts()["questions"]) == len(rows[name])


@pytest.mark.samples
@pytest.mark.parametrize("name", ["vqav2", "scienceqa", "mmbench"])
@pytest.mark.parametrize("text", ["", "I am not sure at all", "Z", "\u2603\n\t."])
def test_senseless_answers_score_nothing_on_real_questions(name, text, rows):
    numbers = judged(ALL[name](), *((sample, text) for sample in rows[name])).numbers()
    assert set(numbers.values()) == {0.0}


@pytest.mark.samples
def test_senseless_answers_are_a_yes_in_pope(rows):
    numbers = judged(PopeEvaluator(), *((sample, "\u2603") for sample in rows["pope"])).numbers()
    assert numbers["text yes-ratio"] == numbers["text recall"] == 100 and numbers["text accuracy"] < 60


@pytest.mark.samples
def test_wrong_answers_score_nothing_on_real_questions(rows):
    def next_letter(sample):
        return chr(ord("A") + (ord(sample.answers[0]) - ord("A") + 1) % len(sample.choices))

    for name in ("scienceqa", "mmbench"):
        numbers = judged(ALL[name](), *((sample, next_letter(sample)) for sample in rows[name])).numbers()
        assert set(numbers.values()) == {0.0}
    opposite = {"yes": "No", "no": "Yes"}
    numbers = judged(PopeEvaluator(), *((sample, opposite[sample.answers[0]]) for sample in rows["pope"])).numbers()
    assert numbers["text accuracy"] == numbers["text F1"] == 0


@pytest.mark.samples
def test_the_text_of_the_right_option_is_right_in_mmbench(rows):
    answered = [(sample, sample.choices["ABCD".index(sample.answers[0])]) for sample in rows["mmbench"]]
    assert judged(MmBenchEvaluator(), *answered).numbers()["text accuracy"] == 100


@pytest.mark.samples
@pytest.mark.parametrize("name", ALL)
def test_workers_and_order_change_no_bit_on_real_questions(name, rows):
    texts = ["A", "yes", "no", "B. it is", "2", "white", "The answer is C."]
    answered = [(sample, texts[index % len(texts)]) for index, sample in enumerate(rows[name])]
    whole = judged(ALL[name](), *answered)
    merged = judged(ALL[name](), *answered[1::2])
    merged += judged(ALL[name](), *reversed(answered[0::2]))
    assert str(merged.numbers()) == str(whole.numbers()) and merged.counts() == whole.counts()
    assert not math.isnan(whole.numbers()["text accuracy"])


@pytest.mark.samples
def test_scienceqa_with_a_picture_is_what_is_left_without_text_only(rows, tmp_path):
    answered = [(sample, "A") for sample in rows["scienceqa"]]
    pictured = load("scienceqa", "test", SAMPLES / "scienceqa", cache_dir=tmp_path, text_only="drop")
    alone = judged(ScienceQaEvaluator(), *((sample, "A") for sample in pictured)).numbers()["text accuracy"]
    assert judged(ScienceQaEvaluator(), *answered).numbers()["text accuracy, context image"] == alone
