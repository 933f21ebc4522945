"""Files of answers to questions: what is written is read again, and what does not fit the dataset is refused."""

import csv
import json

import datasets
import pytest

from psalm_hf.data import load
from psalm_hf.data.features import ROW_FEATURES, SampleDataset, row_from_sample
from psalm_hf.evaluation.evaluators.text import PopeEvaluator, VqaEvaluator
from psalm_hf.evaluation.formats.texts import MmBenchTable, PopeAnswers, ScienceQaAnswers, VqaResults
from psalm_hf.structures import Sample
from tests.conftest import EVAL_CASES, SAMPLES
from tests.metrics.recordings import case, cases, expected, read_json, read_json_lines

TEXTS = ["B", 'a "red", cup\twith\nlines\r\nand a carriage return \r', "", "\u676f\u5b50 \U0001f600 nan"]


def row(id, content="Is there a cup?\nAnswer shortly.", choices=(), image=None):
    size = None if image is None else (4, 6)
    return Sample(image, "1", size, conversation=({"role": "user", "content": content},), record_id=id, choices=choices)


CHOICES = ("a cup", "a can")
OPTIONS = "\nA. a cup\nB. a can\nAnswer with the letter."
ROWS = {
    "vqa": [row(id) for id in ("12", "7", "900", "1")],
    "scienceqa": [row("4", "Which?" + OPTIONS, CHOICES), *(row(id, "Why?" + OPTIONS, CHOICES, "a.png") for id in ("5", "11", "2"))],
    "mmbench": [row(id, "A hint.\nWhich?" + OPTIONS, CHOICES, "a.png") for id in ("3", "1000003", "4", "1000004")],
    "pope": [row(str(number), f"Is there a {noun}?\nShortly.") for number, noun in enumerate(["cup", "can", "cup", "dog"])],
}
FORMATS = {"vqa": VqaResults(), "scienceqa": ScienceQaAnswers(), "mmbench": MmBenchTable(), "pope": PopeAnswers()}


def dataset_of(name):
    rows = [row_from_sample(sample) for sample in ROWS[name]]
    return SampleDataset(datasets.Dataset.from_list(rows, features=ROW_FEATURES), ())


def written(name, folder):
    FORMATS[name].write(folder, ((sample, {"text": text}) for sample, text in zip(ROWS[name], TEXTS, strict=True)))
    return folder / FORMATS[name].file


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read(name, tmp_path):
    file = written(name, tmp_path)
    answers = {index: {"text": text} for index, text in enumerate(TEXTS)}
    assert FORMATS[name].read(tmp_path, dataset_of(name)) == FORMATS[name].read(file, dataset_of(name)) == answers


@pytest.mark.parametrize("name", FORMATS)
def test_no_answers_are_a_file_too(name, tmp_path):
    FORMATS[name].write(tmp_path, [])
    assert FORMATS[name].read(tmp_path, SampleDataset(dataset_of(name).rows.select([]), ())) == {}


def test_vqa_results_are_a_list_of_numbers_and_answers(tmp_path):
    assert json.loads(written("vqa", tmp_path).read_text())[:2] == [
        {"question_id": 12, "answer": "B"},
        {"question_id": 7, "answer": TEXTS[1]},
    ]


def test_answers_of_scienceqa_say_which_questions_have_a_picture(tmp_path):
    lines = [json.loads(line) for line in written("scienceqa", tmp_path).read_text().splitlines()]
    assert lines[0] == {"question_id": "4", "prompt": "Which?" + OPTIONS, "text": "B"}
    assert ["<image>" in line["prompt"] for line in lines] == [False, True, True, True]


def test_predictions_of_mmbench_are_a_table(tmp_path):
    with written("mmbench", tmp_path).open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    first = {"index": "3", "question": "A hint.\nWhich?", "A": "a cup", "B": "a can", "C": "", "D": "", "prediction": "B"}
    assert lines[0] == first
    assert [line["prediction"] for line in lines] == TEXTS


def test_answers_of_pope_repeat_the_question_alone(tmp_path):
    lines = [json.loads(line) for line in written("pope", tmp_path).read_text().splitlines()]
    assert lines[1] == {"question": "Is there a can?", "answer": TEXTS[1]}


def lines_of(*entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


VQA = [{"question_id": int(sample.record_id), "answer": "x"} for sample in ROWS["vqa"]]
SQA = [{"question_id": sample.record_id, "text": "A"} for sample in ROWS["scienceqa"]]
POPE = [{"question": sample.conversation[0]["content"].split("\n")[0], "answer": "no"} for sample in ROWS["pope"]]
TABLE = "index\tprediction\n" + "".join(f"{sample.record_id}\tA\n" for sample in ROWS["mmbench"])

REFUSED = {
    "vqa, unknown": ("vqa", json.dumps([*VQA, {"question_id": 8, "answer": "x"}]), "entry 4: question 8 is none of the 4 that are asked"),
    "vqa, twice": ("vqa", json.dumps([VQA[0], VQA[0]]), "entry 1: question 12 was answered before"),
    "vqa, missing": ("vqa", json.dumps(VQA[:1]), "no answer to 3 of 4 questions, such as question 7"),
    "vqa, no JSON": ("vqa", "question_id: 1", "no JSON"),
    "vqa, no list": ("vqa", "{}", "expected a list of .* got dict"),
    "vqa, surrogate": (
        "vqa",
        '[{"question_id": 12, "answer": "\\ud800"}]',
        "entry 0: expected as answer a text that can be",
    ),
    "vqa, id": ("vqa", '[{"question_id": [1], "answer": "x"}]', "entry 0, question_id: expected an id, text or a whole number"),
    "vqa, id twice": ("vqa", '[{"question_id": 12, "question_id": 7, "answer": "x"}]', "no JSON .*'question_id' is twice in an object"),
    "vqa, no answer": ("vqa", json.dumps([{"question_id": 12}]), "entry 0: expected 'question_id' and a text 'answer'"),
    "vqa, number": ("vqa", json.dumps([{"question_id": 12, "answer": 2}]), "entry 0: expected 'question_id' and a text 'answer'"),
    "scienceqa, unknown": ("scienceqa", lines_of(*SQA, {"question_id": "6", "text": "A"}), "line 5: question 6 is none of the 4"),
    "scienceqa, twice": ("scienceqa", lines_of(*SQA, SQA[0]), "line 5: question 4 was answered before"),
    "scienceqa, no JSON": ("scienceqa", "A\nB\n", "line 1: expected a JSON object, got 'A"),
    "scienceqa, other fields": ("scienceqa", lines_of(VQA[0]), "line 1: expected 'question_id' and a text 'text'"),
    "mmbench, unknown": ("mmbench", TABLE + "5\tA\n", "row 5: question 5 is none of the 4"),
    "mmbench, twice": ("mmbench", TABLE + "3\tA\n", "row 5: question 3 was answered before"),
    "mmbench, missing": ("mmbench", TABLE[:-10], "no answer to 1 of 4 questions, such as question 1000004"),
    "mmbench, no table": ("mmbench", "A,B\n", "expected a tab-separated table with index and prediction, but there is no index"),
    "mmbench, cut off": ("mmbench", TABLE + "5", "row 5: expected 'index' and a text 'prediction'"),
    "pope, missing": ("pope", lines_of(*POPE[:3]), "3 answers to 4 questions"),
    "pope, too many": ("pope", lines_of(*POPE, POPE[0]), "5 answers to 4 questions"),
    "pope, other order": (
        "pope",
        lines_of(*POPE[::-1]),
        "line 1: answers 'Is there a dog\\?', but the question there is 'Is there a cup\\?'",
    ),
    "pope, other fields": ("pope", lines_of(SQA[0]), "line 1: expected 'question' and a text 'answer'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name, tmp_path):
    format, content, message = REFUSED[name]
    file = tmp_path / "mine.txt"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"mine.txt.*{message}"):
        FORMATS[format].read(file, dataset_of(format))


def test_a_question_of_scienceqa_without_answer_has_an_empty_one(tmp_path):
    (tmp_path / "mine.jsonl").write_text(lines_of(SQA[2]), encoding="utf-8")
    answers = ScienceQaAnswers().read(tmp_path / "mine.jsonl", dataset_of("scienceqa"))
    assert [answers[index]["text"] for index in range(4)] == ["", "", "A", ""]


def test_a_table_of_mmbench_may_have_more_columns_in_any_order(tmp_path):
    lines = TABLE.replace("index\tprediction", "prediction\timage\tindex").splitlines()
    turned = [lines[0], *("\t".join([*line.split("\t")[1:], "x" * 200_000, line.split("\t")[0]]) for line in lines[1:])]
    (tmp_path / "mine.tsv").write_text("\n".join(turned) + "\n", encoding="utf-8")
    assert MmBenchTable().read(tmp_path / "mine.tsv", dataset_of("mmbench")) == {index: {"text": "A"} for index in range(4)}


def test_a_spreadsheet_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mine.xlsx: a spreadsheet; save it as a tab-separated table"):
        MmBenchTable().read(tmp_path / "mine.xlsx", dataset_of("mmbench"))


# Recorded predictions, through the dataset, the file and the measure.

PICTURE = next(iter(sorted((SAMPLES / "coco" / "val2017").glob("*.jpg"))), None) if SAMPLES.is_dir() else None


def scored(measure, dataset, answers):
    assert answers.keys() == set(range(len(dataset)))
    for index, answer in answers.items():
        measure.add(dataset[index], answer)
    return measure.numbers()


@pytest.mark.evaluators
@pytest.mark.samples
@pytest.mark.parametrize("name", cases("vqa"))
def test_recorded_results_of_vqa(name, tmp_path):
    recorded = case("vqa", name)
    folder = EVAL_CASES / "vqa"
    (tmp_path / "val2014").mkdir()
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").symlink_to((folder / recorded["questions"]).resolve())
    (tmp_path / "v2_mscoco_val2014_annotations.json").symlink_to((folder / recorded["annotations"]).resolve())
    for asked in read_json("vqa", recorded["questions"])["questions"]:
        link = tmp_path / "val2014" / f"COCO_val2014_{asked['image_id']:012d}.jpg"
        if not link.exists():
            link.symlink_to(PICTURE.resolve())
    dataset = load("vqav2", "val", tmp_path, cache_dir=tmp_path / "cache")
    numbers = scored(VqaEvaluator(), dataset, VqaResults().read(folder / recorded["results"], dataset))
    assert round(numbers["text accuracy"], 2) == recorded["overall"]
    for kind, value in recorded["perAnswerType"].items():
        assert round(numbers[f"text accuracy, answer type {kind}"], 2) == value
    for kind, value in recorded["perQuestionType"].items():
        assert round(numbers[f"text accuracy, question type {kind}"], 2) == value


@pytest.mark.evaluators
@pytest.mark.samples
def test_recorded_answers_of_pope(tmp_path):
    recorded = expected("pope")
    (tmp_path / "val2014").mkdir()
    (tmp_path / "coco_pope_random.json").symlink_to((EVAL_CASES / "pope" / recorded["labels"]).resolve())
    for image in {line["image"] for line in read_json_lines("pope", recorded["labels"])}:
        (tmp_path / "val2014" / image).symlink_to(PICTURE.resolve())
    dataset = load("pope", "random", tmp_path, cache_dir=tmp_path / "cache")
    numbers = scored(PopeEvaluator(), dataset, PopeAnswers().read(EVAL_CASES / "pope" / recorded["answers"], dataset))
    for key, name in {
        "accuracy": "accuracy",
        "precision": "precision",
        "recall": "recall",
        "f1_score": "F1",
        "yes_ratio": "yes-ratio",
    }.items():
        assert numbers[f"text {name}, random"] / 100 == pytest.approx(recorded[key], abs=1e-6)
