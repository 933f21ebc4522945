"""LVIS on a drawn folder of its layout, and on the real sample, compared with pycocotools."""

import json

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image
from pycocotools.coco import COCO

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

SIZE = (4, 6)
CATEGORIES = [
    {"id": 2, "name": "crab_(animal)", "frequency": "r"},
    {"id": 7, "name": "crab_(food)", "frequency": "c"},
    {"id": 1203, "name": "zucchini", "frequency": "f"},
]
POLYGON = [0, 0, 3, 0, 3, 2, 0, 2]


def image(id, folder, neg=(), not_exhaustive=()):
    return {
        "id": id,
        "height": 4,
        "width": 6,
        "coco_url": f"http://images.cocodataset.org/{folder}/{id:012d}.jpg",
        "neg_category_ids": list(neg),
        "not_exhaustive_category_ids": list(not_exhaustive),
    }


@pytest.fixture
def root(tmp_path):
    """Split val: image 9 of train2017 with an object, image 5 of val2017 without any; train: the same two."""
    root = tmp_path / "data"
    (root / "lvis").mkdir(parents=True)
    images = [image(9, "train2017", neg=[7, 2], not_exhaustive=[1203]), image(5, "val2017")]
    for entry in images:
        file = root / "coco" / "/".join(entry["coco_url"].split("/")[-2:])
        file.parent.mkdir(parents=True)
        Image.new("RGB", SIZE[::-1]).save(file)
    annotations = [{"id": 31, "image_id": 9, "category_id": 1203, "segmentation": [POLYGON], "area": 5.5}]
    for split in ("train", "val"):
        write(root / f"lvis/lvis_v1_{split}.json", {"images": images, "annotations": annotations, "categories": CATEGORIES})
    return root


def write(file, content):
    file.write_text(json.dumps(content), encoding="utf-8")


def test_pictures_are_found_by_their_address_and_ids_are_the_files(root, tmp_path):
    dataset = load("lvis", "val", root, cache_dir=tmp_path, check_images=True)
    assert [sample.image.removeprefix(str(root)) for sample in dataset] == [
        "/coco/train2017/000000000009.jpg",
        "/coco/val2017/000000000005.jpg",
    ]
    (segment,) = dataset[0].segments
    assert (segment.category_id, segment.annotation_id, segment.is_crowd, segment.area) == (1203, 31, False, 5.5)
    expected = np.zeros(SIZE, dtype=bool)
    expected[:2, :3] = True
    assert np.array_equal(bitmap_from_rle(segment.mask_rle), expected)
    assert dict(dataset[0].categories) == {2: "crab_(animal)", 7: "crab_(food)", 1203: "zucchini"} and dataset[0].class_labels == (2,)
    assert dataset.task == "instance"


def test_what_is_known_not_to_be_there_is_in_the_tags(root, tmp_path):
    rows = load("lvis", "val", root, cache_dir=tmp_path).rows
    assert rows["tags"][:] == [["neg:7", "neg:2", "not_exhaustive:1203"], []]


def test_categories_know_their_frequency(root, tmp_path):
    for _ in range(2):  # from the file, and from what is kept beside the rows
        dataset = load("lvis", "val", root, cache_dir=tmp_path)
        assert {category.id: category.frequency for category in dataset.categories} == {2: "r", 7: "c", 1203: "f"}


def test_names_can_be_made_readable(root, tmp_path):
    dataset = load("lvis", "val", root, cache_dir=tmp_path, names="readable")
    assert [category.name for category in dataset.categories] == ["crab (animal)", "crab (food)", "zucchini"]
    with pytest.raises(ValueError, match="lvis: unknown names 'long', expected one of file, readable"):
        load("lvis", "val", root, cache_dir=tmp_path, names="long")


def test_both_may_lie_in_one_folder(root, tmp_path):
    for split in ("train", "val"):
        (root / f"lvis/lvis_v1_{split}.json").rename(root / f"coco/lvis_v1_{split}.json")
    dataset = load("lvis", "train", root / "coco", cache_dir=tmp_path, annotation_folder=".", image_folder=".")
    assert [sample.image_id for sample in dataset] == ["9"]  # without objects there is nothing to learn


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content["images"][0].pop("coco_url"), "the field 'coco_url' is missing"),
        (lambda content: content["annotations"][0].update(category_id=3), "segment 0 has the unknown category id 3"),
        (lambda content: content["annotations"][0].update(segmentation=[[1, 2]]), "annotation 31: polygon 0"),
        (lambda content: content["annotations"][0].update(area="5"), "segment 0 has the area '5', which is no number"),
        (lambda content: content["images"].pop(0), "1 annotations are of this image, but `images` does not list it"),
    ],
)
def test_a_broken_annotation_is_named(change, message, root, tmp_path):
    file = root / "lvis/lvis_v1_val.json"
    content = json.loads(file.read_text())
    change(content)
    write(file, content)
    with pytest.raises(ValueError, match=f"lvis val: lvis/lvis_v1_val.json, image 9: {message}.*docs page LVIS v1"):
        load("lvis", "val", root, cache_dir=tmp_path)
    assert [sample.image_id for sample in load("lvis", "val", root, cache_dir=tmp_path, on_error="skip")] == ["5"]


@pytest.mark.samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_masks_are_those_of_pycocotools(split, tmp_path):
    file = SAMPLES / f"lvis/lvis_v1_{split}.json"
    content, tool = json.loads(file.read_text()), COCO(str(file))
    dataset = load("lvis", split, SAMPLES, cache_dir=tmp_path, keep_empty=True, check_images=True)
    assert [sample.image_id for sample in dataset] == [str(entry["id"]) for entry in content["images"]]
    assert [(entry.id, entry.name) for entry in dataset.categories] == [(entry["id"], entry["name"]) for entry in content["categories"]]
    for entry, row, sample in zip(content["images"], dataset.rows, dataset, strict=True):
        annotations = tool.imgToAnns[entry["id"]]
        assert [segment.annotation_id for segment in sample.segments] == [annotation["id"] for annotation in annotations]
        assert [segment.category_id for segment in sample.segments] == [annotation["category_id"] for annotation in annotations]
        for annotation, segment in zip(annotations, sample.segments, strict=True):
            assert np.array_equal(bitmap_from_rle(segment.mask_rle), tool.annToMask(annotation))
        tagged = {kind: [int(tag.split(":")[1]) for tag in row["tags"] if tag.startswith(kind)] for kind in ("neg", "not_exhaustive")}
        assert tagged == {kind: entry[f"{kind}_category_ids"] for kind in tagged}


@pytest.mark.samples
def test_passes_processes_and_ranks_give_the_same_real_rows(tmp_path):
    stream = load("lvis", "train", SAMPLES, cache_dir=tmp_path, streaming=True)
    rows = list(stream.rows)
    assert list(stream.rows) == rows == list(load("lvis", "train", SAMPLES, cache_dir=tmp_path, num_proc=2).rows)
    parts = [list(split_dataset_by_node(stream.rows, rank=rank, world_size=2)) for rank in range(2)]
    assert all(parts) and sorted(row["image_id"] for part in parts for row in part) == sorted(row["image_id"] for row in rows)
