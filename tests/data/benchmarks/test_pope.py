"""POPE on drawn lines, and on the real ones, with drawn pictures where the sample has none."""

import json

import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from tests.conftest import SAMPLES

SUFFIX = "\nAnswer the question using a single word or phrase."
SPLITS = ("random", "popular", "adversarial")
LINES = [
    {"question_id": number, "image": f"COCO_val2014_{image:012d}.jpg", "text": f"Is there a {noun} in the image?", "label": label}
    for number, (image, noun, label) in enumerate([(310, "cup", "yes"), (310, "can", "no"), (7, "cup", "no")], 1)
]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "pope"
    (root / "val2014").mkdir(parents=True)
    for name in {line["image"] for line in LINES}:
        Image.new("RGB", (6, 4)).save(root / "val2014" / name)
    write(root, "coco/coco_pope_random.json", map(json.dumps, LINES))
    return root


def write(root, name, lines):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("\n".join(lines), encoding="utf-8")


def texts(sample):
    return [(message["role"], message["content"]) for message in sample.conversation]


def test_a_line_is_a_question_and_its_answer(root, tmp_path):
    dataset = load("pope", "random", root, cache_dir=tmp_path)
    assert [(sample.record_id, sample.image_id) for sample in dataset] == [("1", "310"), ("2", "310"), ("3", "7")]
    assert texts(dataset[1]) == [("user", f"Is there a can in the image?{SUFFIX}"), ("assistant", "no")]
    assert [sample.answers for sample in dataset] == [("yes",), ("no",), ("no",)]
    assert {sample.tags for sample in dataset} == {("split:random",)}
    assert dataset[2].image == str(root / "val2014/COCO_val2014_000000000007.jpg") and dataset[2].image_size == (4, 6)


def test_files_pictures_and_instruction_are_options(root, tmp_path):
    write(root, "coco_pope_random.json", [json.dumps(LINES[2])])  # found before the one in coco/
    assert len(load("pope", "random", root, cache_dir=tmp_path)) == 1
    options = {"file": "pope/coco/coco_pope_random.json", "image_folder": "pope/val2014", "instruction": ""}
    dataset = load("pope", "popular", root.parent, cache_dir=tmp_path, **options)
    assert [texts(sample)[0][1] for sample in dataset] == [line["text"] for line in LINES]
    with pytest.raises(FileNotFoundError, match="pope popular: there is no coco_pope_popular.json"):
        load("pope", "popular", root, cache_dir=tmp_path)


BROKEN = {
    "no JSON": ('{"question_id": 2, "image"', "Expecting ':' delimiter"),
    "no object": ("[2]", "expected a JSON object"),
    "label": (json.dumps({**LINES[1], "label": "maybe"}), "expected as label one of yes, no, got 'maybe'"),
    "picture": (json.dumps({**LINES[1], "image": "COCO_val2014_000000000008.jpg"}), "val2014/COCO_val2014_000000000008.jpg does not exist"),
    "field": (json.dumps({"image": "x"}), "the field 'label' is missing"),
    "number as picture": (json.dumps({**LINES[1], "image": 310}), "expected the name of an image, got 310"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_named_or_left_out(case, root, tmp_path):
    broken, message = BROKEN[case]
    write(root, "coco/coco_pope_random.json", [json.dumps(LINES[0]), "", broken, json.dumps(LINES[2])])
    with pytest.raises(ValueError, match=f"pope random: coco/coco_pope_random.json, line 3: .*{message}.*docs page POPE"):
        load("pope", "random", root, cache_dir=tmp_path)
    assert [sample.record_id for sample in load("pope", "random", root, cache_dir=tmp_path, on_error="skip")] == ["1", "3"]


# The real files.


def check_against(lines, dataset, folder):
    assert [sample.record_id for sample in dataset] == [str(line["question_id"]) for line in lines]
    for sample, line in zip(dataset, lines, strict=True):
        assert texts(sample) == [("user", line["text"] + SUFFIX), ("assistant", line["label"])]
        assert sample.answers == (line["label"],) and sample.image == str(folder / line["image"])
        assert int(sample.image_id) == int(line["image"].split("_")[-1].split(".")[0])


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.samples
@pytest.mark.parametrize("split", SPLITS)
def test_real_questions_have_the_texts_of_the_file(split, tmp_path):
    lines = read(SAMPLES / f"pope/coco/coco_pope_{split}.json")
    root = tmp_path / "root"
    (root / "val2014").mkdir(parents=True)
    (root / "coco").symlink_to(SAMPLES / "pope/coco")
    Image.new("RGB", (6, 4)).save(tmp_path / "any.jpg")
    for name in {line["image"] for line in lines}:
        (root / "val2014" / name).symlink_to(tmp_path / "any.jpg")
    check_against(lines, load("pope", split, root, cache_dir=tmp_path), root / "val2014")


@pytest.mark.samples
def test_real_questions_with_pictures_are_the_same_twice_and_divide_among_two_ranks(tmp_path):
    options = {"file": "pope/coco_pope_bundle_val2017.json", "image_folder": "coco/val2017"}
    dataset = load("pope", "random", SAMPLES, cache_dir=tmp_path, streaming=True, **options)
    first = list(dataset)
    check_against(read(SAMPLES / options["file"]), first, SAMPLES / "coco/val2017")
    assert list(dataset) == first == list(load("pope", "random", SAMPLES, cache_dir=tmp_path, check_images=True, num_proc=2, **options))
    parts = [[row["record_id"] for row in split_dataset_by_node(dataset.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(sample.record_id for sample in first)
