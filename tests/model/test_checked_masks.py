"""RLEs and polygons that would end a process, fill its memory or mean nothing."""

import numpy as np
import pytest
from pycocotools import mask as coco

from psalm_hf.masks import area, bitmap_from_polygons, bitmap_from_rle, compress_rle, rle_from_bitmap, uncompress_rle
from psalm_hf.model.checked_masks import check_polygon, run_lengths
from psalm_hf.model.image_processing_psalm import read_bitmap

READERS = [area, bitmap_from_rle, compress_rle, uncompress_rle, lambda rle: read_bitmap(rle, (4, 6), "mask"), run_lengths]


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_those_of_the_library(seed):
    generator = np.random.default_rng(seed)
    bitmap = generator.random((int(generator.integers(1, 9)), int(generator.integers(1, 300)))) < generator.random()
    rle = rle_from_bitmap(bitmap)
    height, width, runs = run_lengths(rle)
    assert (height, width) == bitmap.shape
    assert np.array_equal(np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T, bitmap)
    assert np.array_equal(bitmap_from_rle({"size": [height, width], "counts": runs.tolist()}), bitmap)
    assert np.array_equal(read_bitmap(rle, bitmap.shape, "mask"), bitmap)


@pytest.mark.parametrize(
    "counts",
    [
        [2**62, 2**62, 2**62, 2**62, 24],  # 24 in 64 bits
        [2**63, 2**63, 24],
        [2**64, 24],
        [-5, 29],
        [30, -6],
        [23.5, 0.5],
        [float("nan"), 24],
        [None, 24],
        ["24"],
        [[24]],
        [12, [12]],
        [True],
        24,
        None,
        {"0": 24},
        "N3",  # -2 and then 3: together 1
        "2O",
        "o" * 40,  # no end
        "oooooooooooooooo0",  # too many digits
        "\x00\x01",
        "\u00e9",
        b"\xff",
        "",
        [],
    ],
    ids=repr,
)
@pytest.mark.parametrize("read", READERS, ids=["area", "bitmap", "compress", "uncompress", "read_bitmap", "run_lengths"])
def test_runs_that_are_no_mask_are_refused(read, counts):
    with pytest.raises(ValueError, match="RLE"):
        read({"size": [4, 6], "counts": counts})


@pytest.mark.parametrize("size", [None, 4, "46", [4], [4, 6, 1], [4.5, 6], [-4, -6], [True, 24], [2**40, 2**40], [50000, 50000]], ids=repr)
@pytest.mark.parametrize("read", READERS, ids=["area", "bitmap", "compress", "uncompress", "read_bitmap", "run_lengths"])
def test_sizes_that_no_image_has_are_refused_before_anything_is_decoded(read, size):
    number = size[0] * size[1] if isinstance(size, list) and len(size) == 2 else 24
    with pytest.raises(ValueError, match="size"):
        read({"size": size, "counts": [number]})


@pytest.mark.parametrize("far", [97.0, -97.0, 1e8, 1e300, float("inf"), float("nan"), 10**400, "1", None, [1]], ids=lambda x: repr(x)[:8])
def test_corners_far_away_and_corners_that_are_no_numbers_are_refused(far):
    with pytest.raises(ValueError, match="polygon 0: .*(farther away than 16 times|finite x, y)"):
        bitmap_from_polygons([[0, 0, far, 0, 5, 5]], (4, 6))


def test_the_counts_of_a_mask_without_pixels_are_checked_too():
    assert uncompress_rle({"size": [0, 6], "counts": []}) == {"size": [0, 6], "counts": [0]}
    for read in READERS[:4]:
        with pytest.raises(ValueError, match="the counts of an RLE are whole numbers"):
            read({"size": [0, 6], "counts": [20, [], "x"]})


def test_whole_numbers_may_be_floats():
    assert area({"size": [4, 6], "counts": [20.0, 4.0]}) == 4


def test_a_corner_may_lie_outside_of_the_image():
    assert bitmap_from_polygons([[0, 0, 96, 0, 96, 4, 0, 4]], (4, 6)).all()  # 16 times the width


def test_an_outline_that_would_take_gigabytes_is_refused():
    zigzag = [0, 0, 4000, 1] * 5000  # 10,000 corners, 40 million pixels
    with pytest.raises(ValueError, match="an outline of 40000000 pixels"):
        check_polygon(zigzag, (3000, 4000), "polygon 0")
    check_polygon([0, 0, 4000, 0, 4000, 3000, 0, 3000], (3000, 4000), "polygon 0")


def test_polygons_of_the_library_are_unchanged():
    polygon = [0.4, 0.2, 5.7, 1.1, 3.3, 3.9]
    expected = coco.decode(coco.merge(coco.frPyObjects([polygon], 4, 6))).astype(bool)
    assert np.array_equal(bitmap_from_polygons([polygon], (4, 6)), expected)
