"""Cityscapes on a drawn folder of its layout, and on the real sample, compared with its PNG and JSON files pixel by pixel."""

import json

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

# 7 road, 21 vegetation, 24 person, 26 car (24 and 26 below 1000: a group), 4 static, 29 caravan: not evaluated.
INSTANCES = np.array([[7, 7, 21, 4], [24001, 24000, 24, 24], [26000, 29000, 65535, 0]], dtype=np.uint16)
LABELS = np.array([[7, 7, 21, 4], [24, 24, 24, 24], [26, 29, 255, 0]], dtype=np.uint8)
TRAIN_IDS = np.array([[0, 0, 8, 255], [11, 11, 11, 11], [13, 255, 255, 255]], dtype=np.uint8)


def write(root, split, city, frame, instances=INSTANCES, labels=LABELS, train_ids=TRAIN_IDS):
    name = f"{city}_{frame}"
    for folder in ("leftImg8bit", "gtFine"):
        (root / folder / split / city).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
    for kind, pixels in (("instanceIds", instances), ("labelIds", labels), ("labelTrainIds", train_ids)):
        Image.fromarray(pixels).save(root / f"gtFine/{split}/{city}/{name}_gtFine_{kind}.png")


@pytest.fixture
def root(tmp_path):
    """Two cities in train, one in test, where nothing is annotated."""
    root = tmp_path / "cityscapes"
    write(root, "train", "ulm", "000001_000019")
    write(root, "train", "aachen", "000000_000019")
    nothing = np.zeros((3, 4), dtype=np.uint8)
    write(root, "test", "bonn", "000000_000019", nothing.astype(np.uint16), nothing, nothing + np.uint8(255))
    return root


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]


def found(sample):
    return [(segment.category_id, segment.is_crowd, segment.annotation_id) for segment in sample.segments]


def test_panoptic_segments_are_stuff_objects_and_groups(root, tmp_path):
    dataset = load("cityscapes_panoptic", "train", root, cache_dir=tmp_path)
    assert [sample.image_id for sample in dataset] == ["aachen_000000_000019", "ulm_000001_000019"]
    sample = dataset[0]
    expected = [(7, False, 7), (21, False, 21), (24, True, 24), (24, False, 24000), (24, False, 24001), (26, False, 26000)]
    assert found(sample) == expected
    assert np.array_equal(bitmaps(sample), [INSTANCES == value for _, _, value in expected])
    assert [category.name for category in dataset.categories if category.is_thing][:2] == ["person", "rider"]


@pytest.mark.parametrize("name", ["cityscapes_instance", "cityscapes_panoptic"])
def test_pixels_that_are_not_evaluated_are_in_a_tag(name, root, tmp_path):
    (tag,) = load(name, "train", root, cache_dir=tmp_path)[0].tags
    void = bitmap_from_rle({"size": INSTANCES.shape, "counts": tag.removeprefix("void:")})
    # 4 static, 65535 license plate, 0 unlabeled; 29000, one caravan, is no label id.
    assert np.array_equal(void, np.isin(INSTANCES, [4, 65535, 0]))


def test_instances_are_objects_and_groups_of_things(root, tmp_path):
    dataset = load("cityscapes_instance", "train", root, cache_dir=tmp_path)
    assert found(dataset[0]) == [(24, True, 24), (24, False, 24000), (24, False, 24001), (26, False, 26000)]
    assert [category.id for category in dataset.categories] == [24, 25, 26, 27, 28, 31, 32, 33]


@pytest.mark.parametrize("masks", ["labelIds", "labelTrainIds"])
def test_semantic_ids_are_label_ids_whichever_maps_are_read(masks, root, tmp_path):
    dataset = load("cityscapes_semantic", "train", root, cache_dir=tmp_path, masks=masks)
    assert [category_id for category_id, _, _ in found(dataset[0])] == [7, 21, 24, 26]
    assert np.array_equal(bitmaps(dataset[0]), [LABELS == value for value in (7, 21, 24, 26)])


@pytest.mark.parametrize("name", ["cityscapes_semantic", "cityscapes_instance", "cityscapes_panoptic"])
def test_images_of_the_test_set_have_no_segments(name, root, tmp_path):
    (sample,) = load(name, "test", root, cache_dir=tmp_path, check_images=True)
    assert sample.image_id == "bonn_000000_000019" and sample.segments == ()


def test_a_value_of_no_label_is_named(root, tmp_path):
    write(root, "train", "ulm", "000001_000019", np.where(INSTANCES == 7, 40000, INSTANCES).astype(np.uint16))
    with pytest.raises(
        ValueError, match="cityscapes_panoptic train: gtFine/train/ulm/.*instanceIds.png, image ulm_.* the value 40000, of label 40"
    ):
        load("cityscapes_panoptic", "train", root, cache_dir=tmp_path)


def test_missing_cities_and_splits_are_named(root, tmp_path):
    (root / "leftImg8bit/train/ulm").rename(root / "ulm")
    with pytest.raises(ValueError, match="cityscapes_panoptic train: there is no leftImg8bit/train/ulm in"):
        load("cityscapes_panoptic", "train", root, cache_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="cityscapes_panoptic val: there is no gtFine/val in"):
        load("cityscapes_panoptic", "val", root, cache_dir=tmp_path)


def test_unknown_masks_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match="cityscapes_semantic: unknown masks 'color', expected one of labelIds, labelTrainIds"):
        load("cityscapes_semantic", "train", root, cache_dir=tmp_path, masks="color")


# The real files.

samples = pytest.mark.samples
ROOT = SAMPLES / "cityscapes"


def read_map(split, image_id, kind):
    return np.asarray(Image.open(ROOT / f"gtFine/{split}/{image_id.split('_')[0]}/{image_id}_gtFine_{kind}.png")).astype(int)


@samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_panoptic_segments_are_those_of_the_derived_files(split, tmp_path):
    file = json.loads((ROOT / f"gtFine/cityscapes_panoptic_{split}.json").read_text(encoding="utf-8"))
    dataset = load("cityscapes_panoptic", split, ROOT, cache_dir=tmp_path, keep_empty=True)
    expected = [(category["id"], category["name"], bool(category["isthing"])) for category in file["categories"]]
    assert [(category.id, category.name, category.is_thing) for category in dataset.categories] == expected
    annotations = {annotation["image_id"]: annotation for annotation in file["annotations"]}
    assert [sample.image_id for sample in dataset] == sorted(annotations)
    for sample in dataset:
        annotation = annotations[sample.image_id]
        infos = annotation["segments_info"]
        assert found(sample) == [(info["category_id"], bool(info["iscrowd"]), info["id"]) for info in infos]
        pixels = np.asarray(Image.open(ROOT / f"gtFine/cityscapes_panoptic_{split}/{annotation['file_name']}")).astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        for info, bitmap in zip(infos, bitmaps(sample), strict=True):
            assert bitmap.sum() == info["area"] and np.array_equal(bitmap, ids == info["id"])


@samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_instances_are_the_things_of_the_instance_maps(split, tmp_path):
    dataset = load("cityscapes_instance", split, ROOT, cache_dir=tmp_path, keep_empty=True)
    things = {category.id for category in dataset.categories}
    for sample in dataset:
        instances = read_map(split, sample.image_id, "instanceIds")
        values = [value for value in np.unique(instances).tolist() if (value if value < 1000 else value // 1000) in things]
        assert found(sample) == [(value if value < 1000 else value // 1000, value < 1000, value) for value in values]
        for value, bitmap in zip(values, bitmaps(sample), strict=True):
            assert np.array_equal(bitmap, instances == value)


@samples
@pytest.mark.parametrize("masks", ["labelIds", "labelTrainIds"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_semantic_masks_are_the_train_ids(split, masks, tmp_path):
    dataset = load("cityscapes_semantic", split, ROOT, cache_dir=tmp_path, keep_empty=True, masks=masks)
    position = {category.id: number for number, category in enumerate(dataset.categories)}
    for sample in dataset:
        labels = np.full(sample.image_size, 255)
        for segment, bitmap in zip(sample.segments, bitmaps(sample), strict=True):
            labels[bitmap] = position[segment.category_id]
        assert np.array_equal(labels, read_map(split, sample.image_id, "labelTrainIds"))
