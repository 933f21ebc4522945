"""ScienceQA on a drawn folder, and on the real problems, compared with LLaVA's own form of them."""

import json

import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from tests.conftest import SAMPLES

SUFFIX = "\nAnswer with the option's letter from the given choices directly."


def problem(question, choices, answer, hint="", image=None, split="test"):
    names = {"subject": "language science", "grade": "grade3"}
    return {"question": question, "choices": choices, "answer": answer, "hint": hint, "image": image, "split": split, **names}


PROBLEMS = {
    "1": problem("Which is red?", ["the cup", "the can", "both"], 2, hint="Look.", image="image.png"),
    "2": problem("Which is a verb?", ["run", "cup"], 0),
    "3": problem("Where?", ["here", "there"], 1, hint="A text.", split="train"),
    "4": problem("What?", ["a", "b"], 1, image="image.png", split="train"),
}
SPLITS = {"test": ["2", "1"], "train": ["3"], "minitrain": ["4"], "minitest": []}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "scienceqa"
    for folder in ("test/1", "train/4"):
        (root / "images" / folder).mkdir(parents=True)
        Image.new("RGB", (6, 4)).save(root / "images" / folder / "image.png")
    write(root, PROBLEMS)
    return root


def write(root, problems, splits=SPLITS):
    (root / "problems.json").write_text(json.dumps(problems), encoding="utf-8")
    (root / "pid_splits.json").write_text(json.dumps(splits), encoding="utf-8")


def texts(sample):
    return [(message["role"], message["content"]) for message in sample.conversation]


def test_questions_are_asked_with_context_and_lettered_choices(root, tmp_path):
    dataset = load("scienceqa", "test", root, cache_dir=tmp_path)
    assert [sample.record_id for sample in dataset] == ["2", "1"]
    assert texts(dataset[0]) == [("user", f"Which is a verb?\nA. run\nB. cup{SUFFIX}"), ("assistant", "A")]
    question = f"Context: Look.\nWhich is red?\nA. the cup\nB. the can\nC. both{SUFFIX}"
    assert texts(dataset[1]) == [("user", question), ("assistant", "C")]
    assert dataset[1].choices == ("the cup", "the can", "both") and dataset[1].answers == ("C",)
    assert dataset[1].image == str(root / "images/test/1/image.png") and dataset[1].image_size == (4, 6)
    assert dataset[0].image is None
    tags = ["subject:language science", "grade:grade3"]
    assert dataset.rows["tags"][:] == [[*tags, "context:none"], [*tags, "context:text", "context:image"]]


def test_the_other_lists_are_splits_too(root, tmp_path):
    assert load("scienceqa", "minitrain", root, cache_dir=tmp_path)[0].image == str(root / "images/train/4/image.png")
    with pytest.raises(ValueError, match="scienceqa minitest: no records in problems.json"):
        load("scienceqa", "minitest", root, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="scienceqa trainval: .*pid_splits.json has no trainval"):
        load("scienceqa", "trainval", root, cache_dir=tmp_path)


def test_ids_may_be_numbers_in_the_lists(root, tmp_path):
    write(root, PROBLEMS, {"test": [2, 1]})
    dataset = load("scienceqa", "test", root, cache_dir=tmp_path)
    assert [(sample.record_id, sample.image_id) for sample in dataset] == [("2", "2"), ("1", "1")]


def test_questions_without_picture_can_be_dropped(root, tmp_path):
    assert [sample.record_id for sample in load("scienceqa", "test", root, cache_dir=tmp_path, text_only="drop")] == ["1"]
    with pytest.raises(ValueError, match="scienceqa: unknown text_only 'no', expected one of keep, drop"):
        load("scienceqa", "test", root, cache_dir=tmp_path, text_only="no")


BROKEN = {
    "not there": (None, "pid_splits.json lists it, but problems.json does not have it"),
    "no such choice": ({"answer": 3}, "expected as answer the position of one of 3 choices, got 3"),
    "letter as answer": ({"answer": "C"}, "expected as answer the position of one of 3 choices, got 'C'"),
    "one choice": ({"choices": ["x"]}, "at least 2 choices"),
    "blank choice": ({"choices": ["x", ""]}, "choice B is blank"),
    "blank question": ({"question": ""}, "the question is blank"),
    "no picture": ({"image": "choice_0.png"}, "image images/test/1/choice_0.png does not exist"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_problem_is_named_or_left_out(case, root, tmp_path):
    change, message = BROKEN[case]
    others = {id: problem for id, problem in PROBLEMS.items() if id != "1"}
    write(root, others if change is None else {**PROBLEMS, "1": {**PROBLEMS["1"], **change}})
    with pytest.raises(ValueError, match=f"scienceqa test: problems.json, problem 1: .*{message}.*docs page ScienceQA"):
        load("scienceqa", "test", root, cache_dir=tmp_path)
    assert [sample.record_id for sample in load("scienceqa", "test", root, cache_dir=tmp_path, on_error="skip")] == ["2"]


# The real files.

REAL = SAMPLES / "scienceqa"


def read(name):
    return json.loads((REAL / name).read_text(encoding="utf-8"))


@pytest.mark.samples
@pytest.mark.parametrize("split", ["train", "val", "test", "trainval", "minitrain", "minival"])
def test_real_problems_have_the_texts_of_the_file(split, tmp_path):
    ids, problems = read("pid_splits.json")[split], read("problems.json")
    dataset = load("scienceqa", split, REAL, cache_dir=tmp_path, check_images=True)
    assert [sample.record_id for sample in dataset] == [str(id) for id in ids]
    for sample in dataset:
        problem = problems[sample.record_id]
        lines = [f"Context: {problem['hint']}"] if problem["hint"] else []
        lines += [problem["question"], *(f"{'ABCDE'[number]}. {choice}" for number, choice in enumerate(problem["choices"]))]
        assert texts(sample) == [("user", "\n".join(lines) + SUFFIX), ("assistant", "ABCDE"[problem["answer"]])]
        assert list(sample.choices) == problem["choices"] and sample.answers == ("ABCDE"[problem["answer"]],)
        if problem["image"]:
            assert sample.image == str(REAL / "images" / problem["split"] / sample.record_id / problem["image"])
        else:
            assert sample.image is None
    pictured = [id for id in ids if problems[id]["image"]]
    if pictured:
        assert [sample.record_id for sample in load("scienceqa", split, REAL, cache_dir=tmp_path, text_only="drop")] == pictured


@pytest.mark.samples
def test_real_test_problems_are_written_as_llava_writes_them(tmp_path):
    entries = {entry["id"]: entry for entry in read("llava_test_CQM-A.json")}
    dataset = load("scienceqa", "test", REAL, cache_dir=tmp_path)
    assert {sample.record_id for sample in dataset} == set(entries)
    for sample in dataset:
        human, gpt = entries[sample.record_id]["conversations"]
        mark = "<image>\n" if sample.image is not None else ""
        assert [mark + sample.conversation[0]["content"], sample.conversation[1]["content"]] == [human["value"], gpt["value"]]


@pytest.mark.samples
def test_real_problems_are_the_same_twice_and_divide_among_two_ranks(tmp_path):
    dataset = load("scienceqa", "trainval", REAL, cache_dir=tmp_path, streaming=True)
    first = list(dataset)
    assert list(dataset) == first == list(load("scienceqa", "trainval", REAL, cache_dir=tmp_path, num_proc=2))
    parts = [[row["record_id"] for row in split_dataset_by_node(dataset.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(sample.record_id for sample in first)
