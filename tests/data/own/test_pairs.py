"""Pairs of picture and label map: on drawn files, and on the real label maps of ADE20K as if they were somebody's own."""

import os
from pathlib import Path

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

SIZE = (4, 6)
LABELS = np.array([[0, 0, 1, 1, 2, 255]] * 4, dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    """Pictures a to d of all kinds with label maps of all kinds, and files that are none of these."""
    root = tmp_path / "streets"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "c.webp", "d.jpeg"):
        Image.new("RGB", SIZE[::-1]).save(root / "images" / name)
    Image.fromarray(LABELS).save(root / "masks/a.png")
    palette = Image.fromarray(LABELS)
    palette.putpalette([200, 100, 50] * 256)  # one colour for all: only the index tells them apart
    palette.save(root / "masks/b.png")
    Image.fromarray(LABELS.astype(np.uint16)).save(root / "masks/c.tif")
    Image.fromarray(LABELS == 1).save(root / "masks/d.png")  # one bit per pixel
    for name in ("images/notes.txt", "masks/.hidden.png", "images/.DS_Store"):
        (root / name).write_text("x", encoding="utf-8")
    (root / "categories.txt").write_text("road\ncar\ntree\n", encoding="utf-8")
    return root


def found(sample):
    return {segment.category_id: bitmap_from_rle(segment.mask_rle) for segment in sample.segments}


def test_every_value_that_is_not_ignored_is_a_segment(root, tmp_path):
    dataset = load("own_pairs", "train", root, cache_dir=tmp_path)
    assert [sample.image_id for sample in dataset] == ["a", "b", "c", "d"] and dataset.task == "semantic"
    for sample in dataset:
        labels = np.where(LABELS == 1, 1, 0) if sample.image_id == "d" else LABELS
        masks = found(sample)
        assert list(masks) == [value for value in (0, 1, 2) if (labels == value).any()]
        assert all(np.array_equal(bitmap, labels == value) for value, bitmap in masks.items())
    assert dict(dataset[0].categories) == {0: "road", 1: "car", 2: "tree"}


def test_several_values_may_be_ignored_and_categories_may_have_gaps(root, tmp_path):
    (root / "some.txt").write_text("1\tcar\n255\tborder\n", encoding="utf-8")
    options = {"categories": "some.txt", "ignore": [0, 2]}
    assert list(found(load("own_pairs", "train", root, cache_dir=tmp_path, **options)[0])) == [1, 255]
    (root / "all.txt").write_text("0\troad\n1\tcar\n2\ttree\n255\tborder\n", encoding="utf-8")
    options = {"categories": "all.txt", "ignore": None}
    assert list(found(load("own_pairs", "train", root, cache_dir=tmp_path, **options)[0])) == [0, 1, 2, 255]


def test_splits_may_be_folders(root, tmp_path):
    for split, stem in (("one", "a"), ("two", "b")):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir()
            for path in (root / folder).glob(f"{stem}.*"):
                path.rename(root / folder / split / path.name)
    options = {"images": "images/{split}", "masks": "masks/{split}", "cache_dir": tmp_path}
    assert [sample.image_id for sample in load("own_pairs", "one", root, **options)] == ["a"]
    assert [sample.image_id for sample in load("own_pairs", "two", root, **options)] == ["b"]


def no_mask(root):
    (root / "masks/b.png").unlink()


def no_picture(root):
    (root / "images/b.PNG").unlink()


def two_pictures(root):
    Image.new("RGB", SIZE[::-1]).save(root / "images/b.jpg")


def mask_of(values):
    return lambda root: Image.fromarray(values).save(root / "masks/b.png")


BROKEN = {
    "no mask": (no_mask, r"images/b.PNG: the image has no mask masks/b.png"),
    "no picture": (no_picture, r"masks/b.png: the mask has no image images/b.jpg \(or "),
    "two pictures": (two_pictures, r"masks/b.png: b.PNG and b.jpg have the same stem"),
    "colours": (mask_of(np.zeros((*SIZE, 3), dtype=np.uint8)), r"masks/b.png: a label map is grey or has a palette"),
    "size": (mask_of(LABELS.T.copy()), r"masks/b.png: the mask is 6 x 4, its image 4 x 6"),
    "value": (mask_of(LABELS + 3), r"masks/b.png: categories.txt has no category for pixels of value 3, 4, 5; .* 'ignore=\[255, 3\]'"),
    "no mask file": (lambda root: (root / "masks/b.png").write_bytes(b"PNG"), r"masks/b.png: segment map .* cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_pair_is_named_or_left_out(case, root, tmp_path):
    change, message = BROKEN[case]
    change(root)
    with pytest.raises(ValueError, match=f"own_pairs train: {message}.*docs page Own data"):
        load("own_pairs", "train", root, cache_dir=tmp_path)
    skipped = load("own_pairs", "train", root, cache_dir=tmp_path, on_error="skip")
    assert [sample.image_id for sample in skipped] == ["a", "c", "d"]


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(ValueError, match=r"no images in nothing and no masks in nothing .* images='images/\{split\}'"):
        (root / "nothing").mkdir()
        load("own_pairs", "train", root, cache_dir=tmp_path, images="nothing", masks="nothing")
    with pytest.raises(FileNotFoundError, match="there is no labels in .*docs page Own data"):
        load("own_pairs", "train", root, cache_dir=tmp_path, masks="labels")
    (root / "categories.txt").unlink()
    with pytest.raises(FileNotFoundError, match="there is no categories.txt in"):
        load("own_pairs", "train", root, cache_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist; give the one that holds categories.txt"):
        load("own_pairs", "train", tmp_path / "nowhere", cache_dir=tmp_path)


def test_a_label_map_that_is_painted_anew_is_read_again(root, tmp_path):
    assert list(found(load("own_pairs", "train", root, cache_dir=tmp_path)[0])) == [0, 1, 2]
    folder = os.stat(root / "masks")
    Image.fromarray(LABELS * 0 + 2).save(root / "masks/a.png")
    os.utime(root / "masks", ns=(folder.st_atime_ns, folder.st_mtime_ns))
    assert list(found(load("own_pairs", "train", root, cache_dir=tmp_path)[0])) == [2]


samples = pytest.mark.samples
ADE = SAMPLES / "ADEChallengeData2016"


@pytest.fixture
def ade(tmp_path):
    """ADE20K's own folders, beside a file of categories."""
    root = tmp_path / "ade"
    root.mkdir()
    for folder in ("images", "annotations"):
        (root / folder).symlink_to(ADE / folder)
    (root / "categories.txt").write_text("".join(f"{number}\tclass {number}\n" for number in range(1, 151)), encoding="utf-8")
    return {"data_dir": root, "images": "images/{split}", "masks": "annotations/{split}", "ignore": 0, "cache_dir": tmp_path}


@samples
def test_real_label_maps_become_their_masks(ade):
    dataset = load("own_pairs", "validation", **ade)
    paths = sorted((ADE / "annotations/validation").glob("*.png"))
    assert [sample.image_id for sample in dataset] == [path.stem for path in paths]
    for sample, path in zip(dataset, paths, strict=True):
        labels = np.asarray(Image.open(path))
        masks = found(sample)
        assert list(masks) == [value for value in np.unique(labels) if value != 0]
        assert all(np.array_equal(bitmap, labels == value) for value, bitmap in masks.items())
        assert Path(sample.image).name == f"{path.stem}.jpg"


@samples
def test_passes_streams_ranks_and_processes_agree(ade):
    cached = load("own_pairs", "validation", num_proc=2, **ade)
    stream = load("own_pairs", "validation", streaming=True, **ade)
    assert list(stream) == list(stream) == list(cached)
    parts = [[row["image_id"] for row in split_dataset_by_node(stream.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(sample.image_id for sample in cached)
