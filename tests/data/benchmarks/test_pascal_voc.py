"""Pascal VOC on a drawn folder of its layout, and on the real sample, compared with its palette PNG files pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.data.collator import PsalmCollator
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.tiny import build_tiny
from tests.conftest import SAMPLES

CLASSES = np.array([[0, 0, 255, 20], [1, 1, 255, 20], [1, 15, 15, 0]], dtype=np.uint8)
OBJECTS = np.array([[0, 0, 255, 3], [1, 2, 255, 3], [1, 4, 4, 0]], dtype=np.uint8)


def save_palette(path, indices):
    """With colours that would give other numbers than the indices."""
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette([(number * 37 + 11) % 256 for number in range(768)])
    picture.save(path)


@pytest.fixture
def root(tmp_path):
    """One image per split; b, of val, is all border."""
    root = tmp_path / "VOCdevkit"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / "VOC2012" / folder).mkdir(parents=True)
    for name, classes, objects in (("a", CLASSES, OBJECTS), ("b", np.full_like(CLASSES, 255), np.full_like(OBJECTS, 255))):
        Image.new("RGB", (4, 3)).save(root / f"VOC2012/JPEGImages/{name}.jpg")
        save_palette(root / f"VOC2012/SegmentationClass/{name}.png", classes)
        save_palette(root / f"VOC2012/SegmentationObject/{name}.png", objects)
    for split, names in (("train", "a\n"), ("val", "b\n"), ("trainval", "b\na\n")):
        (root / f"VOC2012/ImageSets/Segmentation/{split}.txt").write_text(names, encoding="utf-8")
    return root


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]


def category_ids(sample):
    return [segment.category_id for segment in sample.segments]


def test_twenty_classes_by_palette_index_without_background_and_border(root, tmp_path):
    (sample,) = dataset = load("voc20", "train", root, cache_dir=tmp_path)
    assert category_ids(sample) == [1, 15, 20] and np.array_equal(bitmaps(sample), [CLASSES == 1, CLASSES == 15, CLASSES == 20])
    assert [category.name for category in dataset.categories][:2] == ["aeroplane", "bicycle"] and len(dataset.categories) == 20


def test_the_background_is_the_first_of_twenty_one_classes(root, tmp_path):
    (sample,) = dataset = load("voc21", "train", root, cache_dir=tmp_path)
    assert category_ids(sample) == [0, 1, 15, 20] and np.array_equal(bitmaps(sample)[0], CLASSES == 0)
    assert [(category.id, category.is_thing) for category in dataset.categories][:2] == [(0, False), (1, True)]
    batch = PsalmCollator(build_tiny()[1])([sample])  # "background" would be taken for "no object"
    assert batch["class_labels"][0].tolist() == [0, 1, 15, 20]


def test_objects_have_the_class_of_their_pixels(root, tmp_path):
    (sample,) = load("voc_instance", "train", root, cache_dir=tmp_path)
    assert category_ids(sample) == [1, 1, 20, 15] and [segment.annotation_id for segment in sample.segments] == [1, 2, 3, 4]
    assert np.array_equal(bitmaps(sample), [OBJECTS == number for number in (1, 2, 3, 4)])


@pytest.mark.parametrize("name", ["voc20", "voc21", "voc_instance"])
def test_splits_follow_the_lists_and_empty_images_stay_for_evaluation(name, root, tmp_path):
    ids = {split: [sample.image_id for sample in load(name, split, root, cache_dir=tmp_path)] for split in ("train", "val", "trainval")}
    assert ids == {"train": ["a"], "val": ["b"], "trainval": ["a"]}
    assert [sample.image_id for sample in load(name, "trainval", root, cache_dir=tmp_path, keep_empty=True)] == ["b", "a"]


def test_an_object_has_the_class_of_most_of_its_pixels_but_void(root, tmp_path):
    objects = np.array([[0, 0, 5, 3], [1, 1, 5, 3], [1, 1, 4, 5]], dtype=np.uint8)
    classes = np.array([[0, 0, 255, 20], [7, 15, 255, 20], [15, 255, 15, 9]], dtype=np.uint8)
    save_palette(root / "VOC2012/SegmentationObject/a.png", objects)
    save_palette(root / "VOC2012/SegmentationClass/a.png", classes)
    (sample,) = load("voc_instance", "train", root, cache_dir=tmp_path)
    assert {segment.annotation_id: segment.category_id for segment in sample.segments} == {1: 15, 3: 20, 4: 15, 5: 9}
    assert np.array_equal(bitmaps(sample), [objects == number for number in (1, 3, 4, 5)])


def test_an_object_without_a_class_is_named(root, tmp_path):
    classes = np.where(OBJECTS == 4, [[0, 0, 0, 0], [0, 0, 0, 0], [0, 255, 21, 0]], CLASSES)
    save_palette(root / "VOC2012/SegmentationClass/a.png", classes.astype(np.uint8))
    place = "voc_instance train: VOC2012/SegmentationObject/a.png, image a: object 4 has no class in"
    with pytest.raises(ValueError, match=f"{place} VOC2012/SegmentationClass/a.png, but 21, 255; expected 1 to 20"):
        load("voc_instance", "train", root, cache_dir=tmp_path)


def test_a_map_of_colours_is_refused(root, tmp_path):
    path = root / "VOC2012/SegmentationClass/a.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(ValueError, match="voc20 train: VOC2012/SegmentationClass/a.png, image a: .*not the colours"):
        load("voc20", "train", root, cache_dir=tmp_path)


def test_an_image_of_the_list_without_a_map_is_named(root, tmp_path):
    (root / "VOC2012/ImageSets/Segmentation/train.txt").write_text("a\nz\n", encoding="utf-8")
    with pytest.raises(ValueError, match="voc20 train: VOC2012/SegmentationClass/z.png, image z: image VOC2012/JPEGImages/z.jpg does not"):
        load("voc20", "train", root, cache_dir=tmp_path)


def test_unknown_layouts_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match="voc20: unknown layout 'sbd', expected one of devkit, d2"):
        load("voc20", "train", root, cache_dir=tmp_path, layout="sbd")


# The real files.

samples = pytest.mark.samples
ROOT = SAMPLES / "VOCdevkit"
SPLITS = ["train", "val", "trainval"]


def names(split):
    return (ROOT / f"VOC2012/ImageSets/Segmentation/{split}.txt").read_text(encoding="utf-8").split()


def indices(kind, name):
    picture = Image.open(ROOT / f"VOC2012/{kind}/{name}.png")
    assert picture.mode == "P"
    return np.asarray(picture)


@samples
@pytest.mark.parametrize("name, void", [("voc20", (0, 255)), ("voc21", (255,))])
@pytest.mark.parametrize("split", SPLITS)
def test_real_semantic_masks_are_the_palette_indices_in_both_layouts(name, void, split, tmp_path):
    dataset = load(name, split, ROOT, cache_dir=tmp_path, keep_empty=True)
    assert [sample.image_id for sample in dataset] == names(split)
    for sample in dataset:
        expected = indices("SegmentationClass", sample.image_id)
        assert category_ids(sample) == [number for number in np.unique(expected).tolist() if number not in void]
        assert all(np.array_equal(bitmap, expected == id) for id, bitmap in zip(category_ids(sample), bitmaps(sample), strict=True))
    derived = load(name, split, SAMPLES / "pascal_voc_d2", cache_dir=tmp_path, keep_empty=True, layout="d2")
    by_id = {sample.image_id: sample.segments for sample in derived}
    assert by_id == {sample.image_id: sample.segments for sample in dataset}


@samples
@pytest.mark.parametrize("split", SPLITS)
def test_real_objects_are_the_palette_indices(split, tmp_path):
    for sample in load("voc_instance", split, ROOT, cache_dir=tmp_path, keep_empty=True):
        objects, classes = indices("SegmentationObject", sample.image_id), indices("SegmentationClass", sample.image_id)
        numbers = [number for number in np.unique(objects).tolist() if number not in (0, 255)]
        assert [segment.annotation_id for segment in sample.segments] == numbers
        for segment, bitmap in zip(sample.segments, bitmaps(sample), strict=True):
            assert np.array_equal(bitmap, objects == segment.annotation_id)
            known, pixels = np.unique(classes[bitmap & ~np.isin(classes, (0, 255))], return_counts=True)
            assert known[pixels.argmax()] == segment.category_id
