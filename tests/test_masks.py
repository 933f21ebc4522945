"""Masks small enough to check on paper, and the laws that tie their forms together."""

import numpy as np
import pytest

from psalm_hf.masks import (
    area,
    bitmap_from_box,
    bitmap_from_polygons,
    bitmap_from_rle,
    box_from_bitmap,
    compress_rle,
    polygons_from_bitmap,
    rle_from_bitmap,
    uncompress_rle,
)

# name -> (rows, column-major run lengths, box)
MASKS = {
    "empty": (["....", "....", "....", "...."], [16], (0, 0, 0, 0)),
    "full": (["####", "####", "####", "####"], [0, 16], (0, 0, 4, 4)),
    "first pixel": (["#...", "....", "....", "...."], [0, 1, 15], (0, 0, 1, 1)),
    "last pixel": (["....", "....", "....", "...#"], [15, 1], (3, 3, 4, 4)),
    "row": (["....", "####", "....", "...."], [1, 1, 3, 1, 3, 1, 3, 1, 2], (0, 1, 4, 2)),
    "column": ([".#..", ".#..", ".#..", ".#.."], [4, 4, 8], (1, 0, 2, 4)),
    "diagonal": (["#...", ".#..", "..#.", "...#"], [0, 1, 4, 1, 4, 1, 4, 1], (0, 0, 4, 4)),
    "two parts": (["##..", "##..", "...#", "...."], [0, 2, 2, 2, 8, 1, 1], (0, 0, 4, 3)),
    "hole": ([".###", ".#.#", ".###", "...."], [4, 3, 1, 1, 1, 1, 1, 3, 1], (1, 0, 4, 3)),
    "hook": (["###.", "#...", "#.#.", "###."], [0, 5, 2, 2, 1, 2, 4], (0, 0, 3, 4)),
}


def bitmap_of(rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


@pytest.mark.parametrize("name", MASKS)
def test_every_form_of_a_4x4_mask(name):
    rows, counts, box = MASKS[name]
    bitmap = bitmap_of(rows)
    rle = rle_from_bitmap(bitmap)
    assert rle["size"] == [4, 4] and isinstance(rle["counts"], str)
    assert uncompress_rle(rle) == {"size": [4, 4], "counts": counts}
    assert compress_rle({"size": [4, 4], "counts": counts}) == rle
    assert np.array_equal(bitmap_from_rle({"size": [4, 4], "counts": counts}), bitmap)
    assert box_from_bitmap(bitmap) == box
    assert area(rle) == sum(row.count("#") for row in rows)


def random_bitmaps():
    random = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 9), (9, 1), (5, 7), (13, 11), (40, 64)]:
        for density in (0.1, 0.5, 0.9):
            yield random.random((height, width)) < density


def test_rle_gives_the_bitmap_back():
    for bitmap in random_bitmaps():
        decoded = bitmap_from_rle(rle_from_bitmap(bitmap))
        assert decoded.dtype == bool and np.array_equal(decoded, bitmap)


def test_compressing_and_uncompressing_are_inverse():
    for bitmap in random_bitmaps():
        rle = rle_from_bitmap(bitmap)
        assert compress_rle(uncompress_rle(rle)) == rle
        assert compress_rle({"size": rle["size"], "counts": rle["counts"].encode()}) == rle


def test_polygons_give_the_bitmap_back_also_with_holes_and_parts():
    for bitmap in random_bitmaps():
        polygons = polygons_from_bitmap(bitmap)
        assert np.array_equal(bitmap_from_polygons(polygons, bitmap.shape), bitmap)


def test_polygons_of_thousands_of_holes_in_a_row_are_cut_one_after_the_other():
    bitmap = np.ones((3, 4001), dtype=bool)
    bitmap[1, 1::2] = False
    polygons = polygons_from_bitmap(bitmap)
    assert polygons[0] == [0, 0, 2, 0, 2, 1, 1, 1, 1, 2, 2, 2, 2, 3, 0, 3]  # as far as the right edge of the first hole
    assert len(polygons) == 2001 and np.array_equal(bitmap_from_polygons(polygons, bitmap.shape), bitmap)


def test_polygons_come_part_after_part_and_of_a_cut_part_from_left_to_right():
    left, right = [0, 0, 2, 0, 2, 1, 1, 1, 1, 2, 2, 2, 2, 3, 0, 3], [2, 0, 4, 0, 4, 3, 2, 3]
    assert polygons_from_bitmap(bitmap_of(["####.#", "#.##.#", "####.."])) == [left, right, [5, 0, 6, 0, 6, 2, 5, 2]]


def test_the_outline_of_a_pixel_has_its_four_corners():
    bitmap = np.zeros((4, 4), dtype=bool)
    bitmap[2, 1] = True
    assert polygons_from_bitmap(bitmap) == [[1, 2, 2, 2, 2, 3, 1, 3]]
    assert polygons_from_bitmap(np.zeros((4, 4))) == []


def test_a_whole_box_comes_back_and_a_box_outside_is_cut():
    for box in [(0, 0, 1, 1), (1, 2, 5, 4), (0, 0, 7, 5)]:
        assert box_from_bitmap(bitmap_from_box(box, (5, 7))) == box
    assert box_from_bitmap(bitmap_from_box((-3, -3, 2, 99), (5, 7))) == (0, 0, 2, 5)
    assert bitmap_from_box((0.6, 0, 2.5, 1), (1, 4)).tolist() == [[False, True, False, False]]  # centres at 0.5, 1.5, 2.5, 3.5


def test_polygons_are_cut_at_the_border_and_united():
    triangle_beyond = [-4, -4, 12, -4, -4, 12]
    assert bitmap_from_polygons([triangle_beyond], (3, 3)).all()
    left, right = [0, 0, 2, 0, 2, 2, 0, 2], [1, 0, 3, 0, 3, 2, 1, 2]
    assert np.array_equal(bitmap_from_polygons([left, right], (2, 4)), bitmap_from_box((0, 0, 3, 2), (2, 4)))
    assert not bitmap_from_polygons([], (2, 4)).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rle_from_bitmap(np.zeros((2, 2, 1))), r"\(H, W\).*\(2, 2, 1\)"),
        (lambda: rle_from_bitmap(np.zeros((0, 4))), r"at least one pixel"),
        (lambda: bitmap_from_rle({"counts": [4]}), "expected COCO RLE"),
        (lambda: bitmap_from_rle({"size": [2, 2], "counts": [3]}), "cover 3 pixels.*2 x 2 has 4"),
        (lambda: bitmap_from_rle({"size": [3, 2], "counts": rle_from_bitmap(np.eye(2))["counts"]}), "cover 4 pixels.*3 x 2 has 6"),
        (lambda: bitmap_from_polygons([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1]], (4, 4)), r"polygon 1.*at least 3 corners.*\[0, 0, 1, 1\]"),
        (lambda: bitmap_from_polygons([[0, 0, float("nan"), 1, 2, 2]], (4, 4)), "polygon 0.*finite"),
    ],
)
def test_what_is_no_mask_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
