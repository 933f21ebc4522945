"""Rows: whatever a sample holds survives Arrow, and rows that contradict themselves are refused."""

import copy
import io
import pickle

import datasets
import numpy as np
import pytest
from PIL import Image

from psalm_hf import PsalmImageProcessor
from psalm_hf.data import load
from psalm_hf.data.features import ROW_FEATURES, Category, SampleDataset, encode_png, row_from_sample, sample_from_row
from psalm_hf.data.segment_map import read_segment_map, rles_from_segment_map
from psalm_hf.masks import rle_from_bitmap, uncompress_rle
from psalm_hf.structures import Region, Sample, Segment

SIZE = (2, 3)
MASK = rle_from_bitmap(np.array([[1, 0, 0], [1, 1, 0]]))
PNG = encode_png(Image.fromarray(np.arange(18, dtype=np.uint8).reshape(*SIZE, 3)))
CATEGORIES = (Category(7, "cup"), Category(3, "wall", is_thing=False))
NAMES = {7: "cup", 3: "wall"}

SAMPLES = {
    "category": Sample("a.jpg", "1", SIZE, segments=(Segment(MASK, 3, area=2.5), Segment(MASK, 7, is_crowd=True)), categories=NAMES),
    "category, nothing annotated": Sample("a.jpg", "1", SIZE, categories=NAMES),
    "sentence": Sample("a.jpg", "1", SIZE, segments=(Segment(MASK),), expressions=("the cup", "it")),
    "sentence without target": Sample("a.jpg", "1", SIZE, expressions=("the spoon",), tags=("no_target", "kitchen")),
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
    "regions on another picture": Sample(
        "a.jpg",
        "1",
        SIZE,
        segments=(Segment(MASK, annotation_id=4),),
        regions=(Region("mask", mask_rle={"size": [4, 4], "counts": "0P1"}, segment=0),),
        region_image="b.jpg",
        region_image_size=(4, 4),
        record_id="4",
    ),
    "question": Sample(
        "a.jpg", "1", SIZE, conversation=({"role": "user", "content": "?"},), record_id="8", choices=("a", "b"), answers=("B", "both")
    ),
    "image": Sample(Image.open(io.BytesIO(PNG)), "1", SIZE, expressions=("it",)),
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


def test_a_pil_image_becomes_a_png_of_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    row = row_from_sample(Sample(Image.fromarray(pixels), "1", SIZE, expressions=("it",)))
    assert row["image"]["path"] is None
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), pixels)


@pytest.mark.parametrize("stored", [{"bytes": None, "path": "a.jpg"}, "a.jpg"])
def test_a_path_stays_one_in_any_of_the_forms_in_which_datasets_gives_it(stored):
    row = row_from_sample(SAMPLES["sentence"]) | {"image": stored}
    assert sample_from_row(row).image == "a.jpg"


@pytest.mark.parametrize("column", ["image", "region_image"])
@pytest.mark.parametrize("stored", [{"bytes": PNG, "path": "inside_of_a_tar.png"}, PNG])
def test_bytes_become_an_image_that_the_processor_takes(stored, column):
    row = row_from_sample(SAMPLES["regions on another picture"]) | {column: stored}
    image = getattr(sample_from_row(row), column)
    assert image.tobytes() == bytes(range(18)) and pickle.loads(pickle.dumps(image)) == image
    assert len(repr(sample_from_row(row))) < 1000
    with pytest.raises(ValueError, match=f"{column} of image 1: 4 bytes that are no image"):
        sample_from_row(row | {column: b"lost"})


@pytest.mark.parametrize("name", ["shapes", "moving_shapes", "two_view_shapes"])
def test_the_processor_takes_the_images_of_drawn_samples(name, tmp_path):
    sample = next(iter(load(name, "test", streaming=True, cache_dir=tmp_path)))
    images = [image for image in (sample.image, sample.region_image) if image is not None]
    assert len(images) == 1 + (name != "shapes")
    for image in images:
        assert PsalmImageProcessor()(image, return_tensors="pt")["pixel_values"].shape[:2] == (1, 3)
    assert len(repr(sample)) < 3000


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


SEGMENT_MAP = np.array([[7, 7, 0, 300], [7, 9, 9, 300], [0, 9, 7, 70000]])
COLOURS = np.stack([SEGMENT_MAP & 255, SEGMENT_MAP >> 8 & 255, SEGMENT_MAP >> 16], axis=-1).astype(np.uint8)


def map_row(path, *values, **changes):
    segments = [{"map_values": list(entry), "category_id": 7, "is_crowd": False} for entry in values]
    row = {"image": "a.jpg", "image_id": "1", "image_size": [3, 4], "condition": "category", "segments": segments, "segment_map": str(path)}
    return row | changes


@pytest.fixture
def segment_map(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "map.png")
    return tmp_path / "map.png"


def test_masks_in_a_segment_map_are_decoded_when_the_sample_is_made(segment_map):
    row = dict.fromkeys(ROW_FEATURES) | map_row(segment_map, [7], [9, 300], [70000])
    rows = datasets.Dataset.from_list([row], features=ROW_FEATURES)
    sample = SampleDataset(rows, CATEGORIES)[0]
    expected = [rle_from_bitmap(np.isin(SEGMENT_MAP, values)) for values in ([7], [9, 300], [70000])]
    assert [segment.mask_rle for segment in sample.segments] == expected


def test_a_row_may_have_masks_and_values_side_by_side(segment_map):
    mask = rle_from_bitmap(SEGMENT_MAP == 0)
    row = map_row(segment_map, [7])
    row["segments"].insert(0, {"mask": mask, "category_id": 3, "is_crowd": False})
    assert [segment.mask_rle for segment in sample_from_row(row, NAMES).segments] == [mask, rle_from_bitmap(SEGMENT_MAP == 7)]


def test_a_row_without_segments_does_not_open_its_segment_map(tmp_path):
    assert sample_from_row(map_row(tmp_path / "nowhere.png"), NAMES).segments == ()


def test_a_segment_map_that_pillow_takes_for_a_bomb_is_named(segment_map, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(ValueError, match=f"segment map {segment_map} cannot be read .*decompression bomb"):
        read_segment_map(segment_map)


@pytest.mark.parametrize("seed", range(5))
def test_masks_of_a_map_equal_those_of_the_bitmaps(seed):
    draws = np.random.default_rng(seed)
    segment_map = draws.integers(0, 5, draws.integers(1, 12, size=2))
    values = [[value] for value in np.unique(segment_map).tolist()] + [[0, 1, 2, 3, 4], [99, int(segment_map[0, 0])]]
    assert rles_from_segment_map(segment_map, values) == [rle_from_bitmap(np.isin(segment_map, wanted)) for wanted in values]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": [4, 3]}, r"image 1: segment map .*map.png is \(3, 4\), but the image is \(4, 3\)"),
        ({"segments": [{"map_values": [8], "category_id": 7, "is_crowd": False}]}, "image 1: no pixel of the segment map has the value 8"),
        ({"segment_map": "/nowhere.png"}, "image 1: segment map /nowhere.png cannot be read"),
    ],
)
def test_a_segment_map_that_does_not_fit_is_refused_with_the_image(changes, message, segment_map):
    with pytest.raises(ValueError, match=message):
        sample_from_row(map_row(segment_map, [7], **changes), NAMES)


def palette_picture(values):
    picture = Image.fromarray(values.astype(np.uint8), mode="P")
    picture.putpalette([255 - value // 3 for value in range(768)])
    return picture


@pytest.mark.parametrize(
    "name, make, values",
    [
        ("grey.png", lambda values: Image.fromarray(values.astype(np.uint8)), SEGMENT_MAP % 256),
        ("palette.png", palette_picture, SEGMENT_MAP % 256),
        ("sixteen_bits.png", lambda values: Image.fromarray(values.astype(np.uint16)), np.minimum(SEGMENT_MAP, 65535)),
        ("sixteen_bits.tif", lambda values: Image.fromarray(values.astype(np.uint16)), np.minimum(SEGMENT_MAP, 65535)),
        ("colour.png", lambda values: Image.fromarray(COLOURS), SEGMENT_MAP),
        ("alpha.png", lambda values: Image.fromarray(np.dstack([COLOURS, COLOURS[..., 0]])), SEGMENT_MAP),
    ],
)
def test_the_values_of_a_map_are_the_stored_numbers(name, make, values, tmp_path):
    make(values).save(tmp_path / name)
    found = read_segment_map(tmp_path / name)
    assert found.dtype == np.int32 and np.array_equal(found, values)


def test_a_picture_of_floats_is_no_segment_map(tmp_path):
    Image.fromarray(SEGMENT_MAP.astype(np.float32)).save(tmp_path / "map.tif")
    with pytest.raises(ValueError, match="map.tif cannot be read .pixels of type F; expected grey, a palette or RGB"):
        read_segment_map(tmp_path / "map.tif")
