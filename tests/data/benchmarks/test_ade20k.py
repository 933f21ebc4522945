"""ADE20K on a drawn folder of its layout, and on the real sample, compared with its PNG and JSON files pixel by pixel."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from psalm_hf.data import load
from psalm_hf.data.benchmarks.ade20k import CLASS_OF_INSTANCE
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

# Classes: 1 wall, 8 bed (thing, class 1 of the instance maps), 9 windowpane (thing, class 2).
LABELS = np.array([[1, 1, 1, 0], [8, 8, 9, 0], [8, 8, 9, 3]], dtype=np.uint8)
OBJECTS = np.zeros((3, 4, 3), dtype=np.uint8)  # class, number, nothing
OBJECTS[1:, 0] = 1, 5, 0
OBJECTS[1:, 1] = 1, 2, 0
OBJECTS[2, 1] = 1, 2, 9  # the blue channel says nothing
OBJECTS[1:, 2] = 2, 3, 0
OBJECTS[0, 3] = 2, 0, 0  # a class, but no object


def object_info():
    names = {1: "wall", 8: "bed ", 9: "windowpane, window "}
    lines = [f"{number} \t0.1\t1\t1\t{names.get(number, f'name {number}, other')}" for number in range(1, 151)]
    return "\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]) + "\n"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for folder, split in (("training", "train"), ("validation", "val")):
        for kind in ("images", "annotations", "annotations_detectron2", "annotations_instance"):
            (root / kind / folder).mkdir(parents=True)
        (root / f"ade20k_panoptic_{split}").mkdir()
        name = f"ADE_{split}_00000001"
        Image.new("RGB", (4, 3)).save(root / f"images/{folder}/{name}.jpg")
        Image.fromarray(LABELS).save(root / f"annotations/{folder}/{name}.png")
        Image.fromarray(LABELS - np.uint8(1)).save(root / f"annotations_detectron2/{folder}/{name}.png")
        Image.fromarray(OBJECTS).save(root / f"annotations_instance/{folder}/{name}.png")
        ids = np.array([[120, 120, 120, 0], [600, 601, 700, 0], [600, 601, 700, 0]])  # 6, sky, is covered by nothing that is left
        Image.fromarray(np.stack([ids & 255, ids >> 8, ids >> 16], axis=-1).astype(np.uint8)).save(
            root / f"ade20k_panoptic_{split}/{name}.png"
        )
        infos = [(120, 0), (6, 2), (600, 7), (601, 7), (700, 8)]
        content = {
            "images": [{"id": name, "file_name": f"{name}.jpg", "height": 3, "width": 4}],
            "annotations": [
                {
                    "image_id": name,
                    "file_name": f"{name}.png",
                    "segments_info": [{"id": id, "category_id": category, "iscrowd": 0} for id, category in infos],
                }
            ],
            "categories": [],
        }
        (root / f"ade20k_panoptic_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    (root / "objectInfo150.txt").write_text(object_info(), encoding="utf-8")
    return root


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]


def category_ids(sample):
    return [segment.category_id for segment in sample.segments]


@pytest.mark.parametrize("masks", ["raw", "detectron2"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_semantic_ids_are_those_of_the_class_list_whichever_maps_are_read(masks, split, root, tmp_path):
    (sample,) = dataset = load("ade20k_semantic", split, root, cache_dir=tmp_path, masks=masks)
    assert sample.image_id == f"ADE_{split}_00000001" and category_ids(sample) == [1, 3, 8, 9]
    assert np.array_equal(bitmaps(sample), [LABELS == 1, LABELS == 3, LABELS == 8, LABELS == 9])
    assert [category.id for category in dataset.categories] == list(range(1, 151))


def test_objects_have_their_class_of_the_hundred_and_their_number(root, tmp_path):
    (sample,) = dataset = load("ade20k_instance", "train", root, cache_dir=tmp_path)
    assert category_ids(sample) == [7, 8, 7] and [segment.annotation_id for segment in sample.segments] == [2, 3, 5]
    assert np.array_equal(bitmaps(sample), [OBJECTS[..., 1] == number for number in (2, 3, 5)])
    assert len(dataset.categories) == 100 and all(category.is_thing for category in dataset.categories)


def test_panoptic_segments_are_those_that_have_pixels(root, tmp_path):
    (sample,) = dataset = load("ade20k_panoptic", "train", root, cache_dir=tmp_path)
    assert category_ids(sample) == [0, 7, 7, 8]
    assert bitmaps(sample)[0].tolist() == [[True, True, True, False], [False] * 4, [False] * 4]
    assert sum(category.is_thing for category in dataset.categories) == 100


def test_names_are_first_synonyms(root, tmp_path):
    names = {category.id: category.name for category in load("ade20k_semantic", "val", root, cache_dir=tmp_path).categories}
    assert [names[number] for number in (1, 2, 8, 9)] == ["wall", "name 2", "bed", "windowpane"]


def test_an_object_of_the_file_without_pixels_is_an_error(root, tmp_path):
    path = root / "ade20k_panoptic_val.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"id": 700', '"id": 701'), encoding="utf-8")
    with pytest.raises(ValueError, match="no pixel of the segment map has the value 701"):
        load("ade20k_panoptic", "val", root, cache_dir=tmp_path)[0]


@pytest.mark.parametrize(
    "colour, message",
    [((2, 5, 0), "object 5 has the classes 1, 2; expected one"), ((0, 7, 0), "object 7 has the class 0"), ((101, 7, 0), "the class 101")],
)
def test_an_object_with_another_number_of_classes_is_refused(colour, message, root, tmp_path):
    objects = OBJECTS.copy()
    objects[0, 0] = colour
    Image.fromarray(objects).save(root / "annotations_instance/val.png")
    (root / "annotations_instance/val.png").rename(root / "annotations_instance/validation/ADE_val_00000001.png")
    with pytest.raises(ValueError, match=f"ade20k_instance val: annotations_instance/validation/ADE_val_00000001.png, image .*{message}"):
        load("ade20k_instance", "val", root, cache_dir=tmp_path)


def test_another_class_list_is_refused(root, tmp_path):
    (root / "objectInfo150.txt").write_text(object_info()[:-300], encoding="utf-8")
    with pytest.raises(ValueError, match="ade20k_semantic val: objectInfo150.txt"):
        load("ade20k_semantic", "val", root, cache_dir=tmp_path)


def test_unknown_masks_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match="ade20k_semantic: unknown masks 'png', expected one of raw, detectron2"):
        load("ade20k_semantic", "val", root, cache_dir=tmp_path, masks="png")


# The real files.

samples = pytest.mark.samples
ROOT = SAMPLES / "ADEChallengeData2016"
FOLDERS = {"train": "training", "val": "validation"}


def read_map(kind, split, image_id):
    return np.asarray(Image.open(ROOT / kind / FOLDERS[split] / f"{image_id}.png"))


def read_json(name):
    return json.loads((ROOT / f"{name}.json").read_text(encoding="utf-8"))


@samples
@pytest.mark.parametrize("masks", ["raw", "detectron2"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_semantic_masks_are_the_maps(split, masks, tmp_path):
    dataset = load("ade20k_semantic", split, ROOT, cache_dir=tmp_path, keep_empty=True, masks=masks)
    assert [sample.image_id for sample in dataset] == sorted(path.stem for path in (ROOT / "annotations" / FOLDERS[split]).iterdir())
    for sample in dataset:
        labels = np.zeros(sample.image_size, dtype=np.uint8)
        for segment, bitmap in zip(sample.segments, bitmaps(sample), strict=True):
            labels[bitmap] = segment.category_id
        assert np.array_equal(labels, read_map("annotations", split, sample.image_id))
        assert sample.image_size == Image.open(sample.image).size[::-1]


@samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_objects_are_those_of_the_derived_file(split, tmp_path):
    file = read_json(f"ade20k_instance_{split}")
    dataset = load("ade20k_instance", split, ROOT, cache_dir=tmp_path, keep_empty=True)
    assert [category.id for category in dataset.categories] == [category["id"] for category in file["categories"]]
    assert [sample.image_id for sample in dataset] == [image["id"] for image in file["images"]]
    for sample in dataset:
        annotations = [annotation for annotation in file["annotations"] if annotation["image_id"] == sample.image_id]
        assert category_ids(sample) == [annotation["category_id"] for annotation in annotations]
        for annotation, bitmap in zip(annotations, bitmaps(sample), strict=True):
            assert np.array_equal(bitmap, coco.decode(annotation["segmentation"]))
        numbers = read_map("annotations_instance", split, sample.image_id)[..., 1]
        for segment, bitmap in zip(sample.segments, bitmaps(sample), strict=True):
            assert np.array_equal(bitmap, numbers == segment.annotation_id)


@samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_panoptic_masks_are_those_of_the_png_files(split, tmp_path):
    file = read_json(f"ade20k_panoptic_{split}")
    infos = {annotation["image_id"]: annotation["segments_info"] for annotation in file["annotations"]}
    dataset = load("ade20k_panoptic", split, ROOT, cache_dir=tmp_path, keep_empty=True)
    expected = [(category["id"], bool(category["isthing"])) for category in file["categories"]]
    assert [(category.id, category.is_thing) for category in dataset.categories] == expected
    for sample in dataset:
        pixels = np.asarray(Image.open(ROOT / f"ade20k_panoptic_{split}/{sample.image_id}.png")).astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        left = [info for info in infos[sample.image_id] if (ids == info["id"]).any()]
        assert category_ids(sample) == [info["category_id"] for info in left]
        for info, bitmap in zip(left, bitmaps(sample), strict=True):
            assert np.array_equal(bitmap, ids == info["id"])


@samples
def test_the_classes_of_the_instance_maps_are_those_of_the_published_table():
    lines = (SAMPLES / "labels/ade20k_instance_catid_mapping.txt").read_text(encoding="utf-8").splitlines()[1:]
    table = {int(line.split()[0]): int(line.split()[1]) for line in lines}
    assert list(CLASS_OF_INSTANCE) == [table[number] for number in range(1, 101)]


@samples
def test_real_names_are_first_synonyms(tmp_path):
    lines = (ROOT / "objectInfo150.txt").read_text(encoding="utf-8").splitlines()[1:]
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines]
    for name in ("ade20k_semantic", "ade20k_panoptic"):
        assert [category.name for category in load(name, "val", ROOT, cache_dir=tmp_path).categories] == names
