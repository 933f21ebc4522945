"""VQA v2 on a drawn folder, and on the real sample, whose files are read here once more."""

import json

import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from tests.conftest import SAMPLES

SUFFIX = "\nAnswer the question using a single word or phrase."


def question(id, image_id, text):
    return {"question_id": id, "image_id": image_id, "question": text}


def annotation(id, image_id, *answers):
    return {
        "question_id": id,
        "image_id": image_id,
        "question_type": "what is",
        "answer_type": "other",
        "multiple_choice_answer": answers[0],
        "answers": [{"answer_id": number, "answer": answer, "answer_confidence": "yes"} for number, answer in enumerate(answers, 1)],
    }


QUESTIONS = [question(420, 42, "What is it?"), question(421, 42, "Is it red?"), question(70, 7, "How many?")]
ANNOTATIONS = [annotation(70, 7, "2", *["3"] * 9), annotation(420, 42, *["cup"] * 9, "mug"), annotation(421, 42, *["yes"] * 10)]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "vqa"
    for subset, folder in (("train2014",) * 2, ("val2014",) * 2, ("test2015",) * 2, ("test-dev2015", "test2015")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for image_id in (42, 7):
            Image.new("RGB", (6, 4)).save(root / folder / f"COCO_{folder}_{image_id:012d}.jpg")
        write(root, f"v2_OpenEnded_mscoco_{subset}_questions", {"questions": QUESTIONS})
    for subset in ("train2014", "val2014"):
        write(root, f"v2_mscoco_{subset}_annotations", {"annotations": ANNOTATIONS})
    return root


def write(root, name, content):
    (root / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def texts(sample):
    return [(message["role"], message["content"]) for message in sample.conversation]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_question_has_its_ten_answers_and_is_taught_the_most_frequent(split, root, tmp_path):
    dataset = load("vqav2", split, root, cache_dir=tmp_path)
    assert [(sample.record_id, sample.image_id) for sample in dataset] == [("420", "42"), ("421", "42"), ("70", "7")]
    assert texts(dataset[0]) == [("user", f"What is it?{SUFFIX}"), ("assistant", "cup")]
    assert dataset[0].answers == ("cup",) * 9 + ("mug",) and dataset[2].answers == ("2", *["3"] * 9)
    assert dataset[0].image == str(root / f"{split}2014/COCO_{split}2014_000000000042.jpg") and dataset[0].image_size == (4, 6)
    assert dataset.rows[0]["tags"] == ["question_type:what is", "answer_type:other"]


@pytest.mark.parametrize("split", ["test", "test_dev"])
def test_questions_without_public_answers_await_one(split, root, tmp_path):
    dataset = load("vqav2", split, root, cache_dir=tmp_path)
    assert [texts(sample) for sample in dataset] == [[("user", entry["question"] + SUFFIX)] for entry in QUESTIONS]
    assert dataset[2].answers == () and dataset[2].image == str(root / "test2015/COCO_test2015_000000000007.jpg")


def test_the_instruction_is_an_option(root, tmp_path):
    assert texts(load("vqav2", "val", root, cache_dir=tmp_path, instruction="")[1])[0] == ("user", "Is it red?")
    assert texts(load("vqav2", "val", root, cache_dir=tmp_path, instruction="Briefly.")[1])[0] == ("user", "Is it red?\nBriefly.")


BROKEN = {
    "no picture": (lambda q, a: (q[0].update(image_id=5), a[1].update(image_id=5)), "COCO_val2014_000000000005.jpg does not exist"),
    "no answers": (lambda q, a: a.pop(1), "annotations.json has no answers to it"),
    "empty answers": (lambda q, a: a[1].update(answers=[]), "expected as answers a list of at least one text"),
    "answers of another picture": (lambda q, a: a[1].update(image_id=7), "it is about image 42, but its answers .* about image 7"),
    "blank": (lambda q, a: q[0].update(question=" "), "the question is blank"),
    "missing field": (lambda q, a: a[1].pop("multiple_choice_answer"), "the field 'multiple_choice_answer' is missing"),
    "no number as id": (lambda q, a: q[0].update(image_id=None), "COCO_val2014_00000000None.jpg does not exist"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_question_is_named_or_left_out(case, root, tmp_path):
    change, message = BROKEN[case]
    questions, annotations = json.loads(json.dumps([QUESTIONS, ANNOTATIONS]))
    change(questions, annotations)
    write(root, "v2_OpenEnded_mscoco_val2014_questions", {"questions": questions})
    write(root, "v2_mscoco_val2014_annotations", {"annotations": annotations})
    place = "vqav2 val: v2_OpenEnded_mscoco_val2014_questions.json, question 420"
    with pytest.raises(ValueError, match=f"{place}: .*{message}.*docs page VQA v2"):
        load("vqav2", "val", root, cache_dir=tmp_path)
    assert [sample.record_id for sample in load("vqav2", "val", root, cache_dir=tmp_path, on_error="skip")] == ["421", "70"]


def test_some_of_the_questions_load_with_the_answers_to_all(root, tmp_path, capfd):
    write(root, "v2_OpenEnded_mscoco_val2014_questions", {"questions": QUESTIONS[1:]})
    dataset = load("vqav2", "val", root, cache_dir=tmp_path, on_error="skip")
    assert [(sample.record_id, sample.answers[0]) for sample in dataset] == [("421", "yes"), ("70", "2")]
    assert "broken" not in capfd.readouterr().err
    assert len(load("vqav2", "val", root, cache_dir=tmp_path)) == 2


@pytest.mark.parametrize("is_text", ["questions", "annotations"])
def test_ids_may_be_text_in_one_of_the_files(is_text, root, tmp_path):
    changed = {"questions": QUESTIONS, "annotations": ANNOTATIONS}
    changed[is_text] = [entry | {key: str(entry[key]) for key in ("question_id", "image_id")} for entry in changed[is_text]]
    write(root, "v2_OpenEnded_mscoco_val2014_questions", {"questions": changed["questions"]})
    write(root, "v2_mscoco_val2014_annotations", {"annotations": changed["annotations"]})
    dataset = load("vqav2", "val", root, cache_dir=tmp_path)
    assert [(sample.record_id, sample.image_id, sample.answers[0]) for sample in dataset] == [
        ("420", "42", "cup"),
        ("421", "42", "yes"),
        ("70", "7", "2"),
    ]
    assert dataset[0].image == str(root / "val2014/COCO_val2014_000000000042.jpg")


def test_a_question_id_given_twice_is_refused(root, tmp_path):
    write(root, "v2_OpenEnded_mscoco_val2014_questions", {"questions": [*QUESTIONS, QUESTIONS[0]]})
    with pytest.raises(ValueError, match="vqav2 val: .*questions.json has 1 question ids twice or more"):
        load("vqav2", "val", root, cache_dir=tmp_path)


# The real files.

REAL = SAMPLES / "vqav2"


@pytest.mark.samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_questions_have_the_texts_and_answers_of_the_files(split, tmp_path):
    subset = f"{split}2014"
    questions = json.loads((REAL / f"v2_OpenEnded_mscoco_{subset}_questions.json").read_text(encoding="utf-8"))["questions"]
    annotations = json.loads((REAL / f"v2_mscoco_{subset}_annotations.json").read_text(encoding="utf-8"))["annotations"]
    by_id = {annotation["question_id"]: annotation for annotation in annotations}
    dataset = load("vqav2", split, REAL, cache_dir=tmp_path, check_images=True)
    assert [sample.record_id for sample in dataset] == [str(question["question_id"]) for question in questions]
    for sample, question, row in zip(dataset, questions, dataset.rows, strict=True):
        annotation = by_id[question["question_id"]]
        assert texts(sample) == [("user", question["question"] + SUFFIX), ("assistant", annotation["multiple_choice_answer"])]
        assert list(sample.answers) == [answer["answer"] for answer in annotation["answers"]]
        assert row["tags"] == [f"question_type:{annotation['question_type']}", f"answer_type:{annotation['answer_type']}"]
        with Image.open(sample.image) as picture:
            assert (picture.height, picture.width) == sample.image_size
        assert sample.image.endswith(f"/{subset}/COCO_{subset}_{question['image_id']:012d}.jpg")


@pytest.mark.samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_questions_are_the_same_twice_and_divide_among_two_ranks(split, tmp_path):
    dataset = load("vqav2", split, REAL, cache_dir=tmp_path, streaming=True)
    first = list(dataset)
    assert list(dataset) == first == list(load("vqav2", split, REAL, cache_dir=tmp_path, num_proc=2))
    parts = [[row["record_id"] for row in split_dataset_by_node(dataset.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(sample.record_id for sample in first)
