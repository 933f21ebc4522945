"""Rows: whatever a sample holds survives Arrow, and rows that contradict themselves are refused."""

import copy
import io

import datasets
import numpy as np
import pytest
from PIL import Image

from psalm_hf.data.features import ROW_FEATURES, Category, SampleDataset, row_from_sample, sample_from_row
from psalm_hf.masks import rle_from_bitmap, uncompress_rle
from psalm_hf.structures import Region, Sample, Segment

SIZE = (2, 3)
MASK = rle_from_bitmap(np.array([[1, 0, 0], [1, 1, 0]]))
CATEGORIES = (Category(7, "cup"), Category(3, "wall", is_thing=False))
NAMES = {7: "cup", 3: "wall"}

SAMPLES = {
    "category": Sample("a.jpg", "1", SIZE, segments=(Segment(MASK, 3), Segment(MASK, 7, is_crowd=True)), categories=NAMES),
    "category, nothing annotated": Sample("a.jpg", "1", SIZE, categories=NAMES),
    "sentence": Sample("a.jpg", "1", SIZE, segments=(Segment(MASK),), expressions=("the cup", "it")),
    "sentence without target": Sample("a.jpg", "1", SIZE, expressions=("the spoon",)),
    "regions": Sample(
        "a.jpg",
        "1",
        SIZE,
        segments=(Segment(MASK, 7),),
        regions=(
            Region("point", points=((0.1, 1.5),), segment=0),
            Region("box", points=((0.0, 0.0), (2.0, 1.25))),
            Region("scribble", points=((0.0, 0.0), (1 / 3, 1.0), (2.0, 1.0)), segment=0),
            Region("mask", mask_rle=MASK, segment=0),
            Region("point", mask_rle=MASK),
        ),
    ),
    "conversation": Sample("a.jpg", "1", SIZE, conversation=({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})),
    "conversation without picture": Sample(None, "1", None, conversation=({"role": "user", "content": "?"},)),
    "bytes": Sample(b"not looked into", "1", SIZE, expressions=("it",)),
}


@pytest.mark.parametrize("with_categories", [True, False], ids=["own categories", "categories of the dataset"])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_survives_as_a_row(name, with_categories):
    sample = SAMPLES[name]
    rows = datasets.Dataset.from_list([row_from_sample(sample, with_categories=with_categories)], features=ROW_FEATURES)
    assert rows.features == ROW_FEATURES
    assert SampleDataset(rows, CATEGORIES)[0] == sample


def test_rows_of_all_kinds_lie_side_by_side_in_one_dataset():
    rows = datasets.Dataset.from_list([row_from_sample(sample) for sample in SAMPLES.values()], features=ROW_FEATURES)
    dataset = SampleDataset(rows, CATEGORIES)
    assert len(dataset) == len(SAMPLES)
    assert list(dataset) == list(SAMPLES.values())


def test_categories_keep_their_order_because_it_is_the_order_of_the_class_columns():
    row = row_from_sample(SAMPLES["category"])
    assert list(sample_from_row(row, NAMES).categories) == [7, 3]
    assert sample_from_row(row, NAMES).class_labels == (1, 0)


def test_the_categories_of_a_row_come_before_those_of_the_dataset():
    row = row_from_sample(SAMPLES["category"], with_categories=True)
    assert sample_from_row(row, {1: "dog"}).categories == NAMES


def test_tags_go_into_the_row_and_stay_there():
    assert row_from_sample(SAMPLES["sentence"], tags=("relation", "one_target"))["tags"] == ["relation", "one_target"]


def test_a_pil_image_becomes_a_png_of_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    row = row_from_sample(Sample(Image.fromarray(pixels), "1", SIZE, expressions=("it",)))
    assert row["image"]["path"] is None
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), pixels)


@pytest.mark.parametrize(
    "stored, read",
    [
        ({"bytes": None, "path": "a.jpg"}, "a.jpg"),
        ({"bytes": b"x", "path": "inside_of_a_tar.jpg"}, b"x"),
        ("a.jpg", "a.jpg"),
        (b"x", b"x"),
    ],
)
def test_an_image_is_a_path_or_bytes_in_any_of_the_forms_in_which_datasets_gives_it(stored, read):
    row = row_from_sample(SAMPLES["sentence"]) | {"image": stored}
    assert sample_from_row(row).image == read


def test_uncompressed_masks_are_stored_compressed():
    sample = Sample("a.jpg", "1", SIZE, segments=(Segment(uncompress_rle(MASK)),), expressions=("it",))
    assert row_from_sample(sample)["segments"][0]["mask"] == MASK


def test_reading_a_row_leaves_it_as_it_is():
    row = row_from_sample(SAMPLES["regions"])
    before = copy.deepcopy(row)
    sample_from_row(row)
    assert row == before


def test_a_row_may_leave_out_what_it_has_nothing_of():
    row = {"image": "a.jpg", "image_id": "1", "image_size": [2, 3], "condition": "sentence", "expressions": ["it"]}
    assert sample_from_row(row) == Sample("a.jpg", "1", SIZE, expressions=("it",))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"condition": "region"}, "image 1: the row says condition 'region', but holds a sentence prompt"),
        ({"condition": "category"}, "image 1: a row with condition 'category' needs categories"),
        ({"image_size": [9, 9]}, r"image 1: segment 0 has a mask of size \(2, 3\), but the image is \(9, 9\)"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sample_from_row(row_from_sample(SAMPLES["sentence"]) | change)
