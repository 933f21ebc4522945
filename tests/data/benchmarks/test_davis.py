"""DAVIS 2017 on two drawn sequences, and on the real sample, compared with the PNG files pixel by pixel."""

import os

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

FIRST = np.array([[1, 1, 0, 2, 2, 255], [1, 1, 0, 2, 2, 0], [0, 0, 0, 0, 0, 0]])
SECOND = np.array([[0, 1, 1, 255, 2, 2], [0, 1, 1, 255, 2, 2], [0, 0, 0, 0, 0, 0]])
THIRD = np.array([[0, 0, 2, 2, 0, 255], [0, 0, 3, 2, 0, 0], [0, 0, 3, 0, 0, 0]])  # object 1 is gone, object 3 is nobody's
FOURTH = np.zeros((3, 6), dtype=int)
MAPS = (FIRST, SECOND, THIRD, FOURTH)


def draw_sequence(root, name, maps, **lists):
    """`lists`: split -> text of the list."""
    for folder in (f"JPEGImages/480p/{name}", f"Annotations/480p/{name}", "ImageSets/2017"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(maps):
        Image.new("RGB", values.shape[::-1], (number, 0, 0)).save(root / f"JPEGImages/480p/{name}/{number:05d}.jpg")
        picture = Image.fromarray(values.astype(np.uint8), mode="P")
        picture.putpalette([255 - index // 3 for index in range(768)])  # colours say nothing
        picture.save(root / f"Annotations/480p/{name}/{number:05d}.png")
    for split, text in lists.items():
        (root / f"ImageSets/2017/{split}.txt").write_text(text)


@pytest.fixture(params=["", "2017/trainval"], ids=["original", "trainval"])
def root(tmp_path, request):
    root = tmp_path / "DAVIS"
    draw_sequence(root / request.param, "cat", MAPS, train="cat\n", val="cat\n")
    return root


def regions(sample):
    return [(bitmap_from_rle(region.mask_rle), region.segment) for region in sample.regions]


def segments(sample):
    return {segment.annotation_id: bitmap_from_rle(segment.mask_rle) for segment in sample.segments}


def test_all_objects_of_the_first_frame_are_asked_for_in_every_other(root, tmp_path):
    dataset = load("davis2017", "val", root, cache_dir=tmp_path, check_images=True)
    assert [(sample.record_id, sample.image_id) for sample in dataset] == [(f"cat/0000{number}",) * 2 for number in (1, 2, 3)]
    for sample in dataset:
        assert sample.region_image.endswith("JPEGImages/480p/cat/00000.jpg") and sample.region_image_size == (3, 6)
        assert np.array_equal([bitmap for bitmap, _ in regions(sample)], [FIRST == 1, FIRST == 2])
        assert sample.condition == "region" and {region.kind for region in sample.regions} == {"mask"}
    assert [[segment for _, segment in regions(sample)] for sample in dataset] == [[0, 1], [None, 0], [None, None]]
    for sample, values, objects in zip(dataset, MAPS[1:], ([1, 2], [2], []), strict=True):
        assert list(segments(sample)) == objects
        assert all(np.array_equal(bitmap, values == number) for number, bitmap in segments(sample).items())
    assert dataset.rows["tags"][1] == ["object:1", "object:2"]


def test_the_oracle_asks_only_for_what_is_shown(root, tmp_path):
    dataset = load("davis2017", "val", root, cache_dir=tmp_path, oracle=True, check_images=True)
    assert [sample.record_id for sample in dataset] == ["cat/00001", "cat/00002"]  # nothing is shown in the last
    assert [segment for _, segment in regions(dataset[1])] == [0] and list(segments(dataset[1])) == [2]
    assert np.array_equal(regions(dataset[1])[0][0], FIRST == 2)
    assert dataset.rows["tags"][1] == ["object:2"]


def test_the_frame_that_is_not_scored_says_so(root, tmp_path):
    tags = [sample.tags for sample in load("davis2017", "val", root, cache_dir=tmp_path)]
    assert tags == [("object:1", "object:2"), ("object:1", "object:2"), ("object:1", "object:2", "last_frame")]


def test_training_has_only_what_can_be_learnt(root, tmp_path):
    dataset = load("davis2017", "train", root, cache_dir=tmp_path)
    assert [sample.record_id for sample in dataset] == ["cat/00001", "cat/00002"]
    assert all(region.segment is not None for sample in dataset for region in sample.regions)
    assert len(load("davis2017", "train", root, cache_dir=tmp_path, oracle=False)) == 3


def test_frames_may_differ_in_size_between_sequences_and_from_the_first(tmp_path):
    draw_sequence(tmp_path / "D", "dog", [FIRST, SECOND[:2]], val="dog")
    (sample,) = load("davis2017", "val", tmp_path / "D", cache_dir=tmp_path)
    assert (sample.image_size, sample.region_image_size) == ((2, 6), (3, 6))


def test_rows_are_made_again_when_frames_or_annotations_change(tmp_path):
    root = tmp_path / "D"
    draw_sequence(root, "cat", [FIRST, SECOND], val="cat\n")
    assert len(load("davis2017", "val", root, cache_dir=tmp_path)) == 1
    draw_sequence(root, "cat", [FIRST, SECOND, THIRD])
    assert len(load("davis2017", "val", root, cache_dir=tmp_path)) == 2
    values = np.where(FIRST == 2, 0, FIRST)
    file = root / "Annotations/480p/cat/00000.png"
    Image.fromarray(values.astype(np.uint8)).save(file)
    os.utime(file, (1, 1))  # another time, however coarse the clock
    assert [len(sample.regions) for sample in load("davis2017", "val", root, cache_dir=tmp_path)] == [1, 1]


def test_what_is_missing_or_of_another_size_is_named_or_left_out(tmp_path):
    root = tmp_path / "D"
    draw_sequence(root, "cat", MAPS, val="cat\nbear\n")
    with pytest.raises(
        ValueError, match="davis2017 val: ImageSets/2017/val.txt, sequence bear: there are not two frames in JPEGImages/480p/bear"
    ):
        load("davis2017", "val", root, cache_dir=tmp_path)
    assert len(load("davis2017", "val", root, cache_dir=tmp_path, on_error="skip")) == 3
    draw_sequence(root, "cat", [FIRST, SECOND], val="cat\n")
    Image.new("P", (6, 4)).save(root / "Annotations/480p/cat/00002.png")
    with pytest.raises(
        ValueError, match="davis2017 val: sequence cat, frame 00002: segment map .*cat/00002.png is 4 x 6.*docs page DAVIS 2017"
    ):
        load("davis2017", "val", root, cache_dir=tmp_path)
    (root / "Annotations/480p/cat/00000.png").unlink()
    with pytest.raises(ValueError, match="sequence cat, frame 00001: segment map Annotations/480p/cat/00000.png does not exist"):
        load("davis2017", "val", root, cache_dir=tmp_path)
    (root / "ImageSets/2017/val.txt").unlink()
    with pytest.raises(FileNotFoundError, match="davis2017 val: there is no ImageSets/2017/val.txt in"):
        load("davis2017", "val", root, cache_dir=tmp_path)


# The real files.

DAVIS = SAMPLES / "DAVIS"
FOLDER = DAVIS / "2017/trainval"


def real_map(sequence, frame):
    return np.asarray(Image.open(FOLDER / f"Annotations/480p/{sequence}/{frame}.png"))


@pytest.mark.samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_masks_are_those_of_the_png_files(split, tmp_path):
    frames = {
        sequence: sorted(file.stem for file in (FOLDER / "JPEGImages/480p" / sequence).glob("*.jpg"))
        for sequence in (FOLDER / f"ImageSets/2017/{split}.txt").read_text().split()
    }
    dataset = load("davis2017", split, DAVIS, cache_dir=tmp_path, oracle=False)
    assert [sample.record_id for sample in dataset] == [f"{name}/{frame}" for name, names in frames.items() for frame in names[1:]]
    for sample in dataset:
        sequence, frame = sample.record_id.split("/")
        first, values = real_map(sequence, frames[sequence][0]), real_map(sequence, frame)
        asked = sorted(set(np.unique(first)) - {0, 255})
        shown = [number for number in asked if (values == number).any()]
        assert np.array_equal([bitmap for bitmap, _ in regions(sample)], [first == number for number in asked])
        assert [segment for _, segment in regions(sample)] == [shown.index(number) if number in shown else None for number in asked]
        assert list(segments(sample)) == shown
        assert all(np.array_equal(bitmap, values == number) for number, bitmap in segments(sample).items())


@pytest.mark.samples
def test_passes_processes_and_ranks_give_the_same_real_rows(tmp_path):
    stream = load("davis2017", "train", DAVIS, cache_dir=tmp_path, streaming=True)
    rows = list(stream.rows)
    assert list(stream.rows) == rows == list(load("davis2017", "train", DAVIS, cache_dir=tmp_path, num_proc=2).rows)
    parts = [list(split_dataset_by_node(stream.rows, rank=rank, world_size=2)) for rank in range(2)]
    assert all(parts) and sorted(row["record_id"] for part in parts for row in part) == sorted(row["record_id"] for row in rows)
