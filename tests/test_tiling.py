"""Tiles: they cover the image and overlap; instances that tiles share are one; a large thing comes from the whole image."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from psalm_hf import tiling
from psalm_hf.result import Prompt, PsalmResult
from psalm_hf.tiling import OVERLAP, LabelVotes, TilePiece, join_pieces, join_results, tile_weights, tile_windows
from psalm_hf.windows import Window

SIZE = (32, 56)
TILES = [Window(0, 0, 32, 32), Window(24, 0, 56, 32)]  # 8 columns of both
EVERYTHING = Window(0, 0, 56, 32)


def rectangle(x0, y0, x1, y1, window=EVERYTHING):
    """(h, w) bool of a window: the pixels of a rectangle of the image."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask[window.slices]


def result(window, segments, kind="category", names=("cup", "plate", "table"), **prompt):
    """Result of a window; each of its segments is (label id, score, rectangle of the image)."""
    masks = [rectangle(*box, window) for _, _, box in segments]
    return PsalmResult(
        Image.new("RGB", (window.width, window.height)),
        Prompt(kind, names, **prompt),
        np.stack(masks) if masks else np.zeros((0, window.height, window.width), dtype=bool),
        np.array([score for _, score, _ in segments], dtype=np.float64),
        np.array([label_id for label_id, _, _ in segments], dtype=np.int64),
    )


def joined(*per_tile, whole=(), **options):
    tiles = [result(window, segments, **options) for window, segments in zip(TILES, per_tile, strict=True)]
    return join_results(result(EVERYTHING, whole, **options), tiles, TILES)


@pytest.mark.parametrize(
    ("size", "tiles", "number"),
    [((512, 512), 128, 25), ((100, 300), 100, 4), ((100, 300), (1, 4), 4), ((60, 60), (2, 3), 6), ((7, 300), 50, 8)],
)
def test_tiles_cover_the_image_and_share_a_quarter_with_their_neighbours(size, tiles, number):
    windows = tile_windows(size, tiles)
    assert len(windows) == number and len({(window.width, window.height) for window in windows}) == 1
    covered = np.zeros(size, dtype=int)
    for window in windows:
        assert covered[window.slices].shape == (window.height, window.width)  # inside of the image
        covered[window.slices] += 1
    assert covered.min() == 1
    for first, second in zip(windows, windows[1:], strict=False):
        if first.y0 == second.y0:
            assert first.x1 - second.x0 >= math.floor(OVERLAP * first.width)


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        (100, "holds the whole 100 x 60 image"),
        ((1, 1), "are the whole image"),
        (8, "at least 16"),
        ((1, 20), "at least 16"),
        (0, "at least 1"),
        (True, "expected pixels"),
        ((1, 2, 3), "expected pixels"),
        ("2x2", "expected pixels"),
        ((2, 1.5), "whole numbers"),
    ],
)
def test_senseless_tiles_are_refused(tiles, message):
    with pytest.raises(ValueError, match=message):
        tile_windows((60, 100), tiles)


@pytest.mark.parametrize("tiles", [40, (2, 3)])
def test_numbers_of_numpy_are_numbers_of_tiles(tiles):
    of_numpy = np.int64(tiles) if isinstance(tiles, int) else tuple(np.array(tiles))
    assert tile_windows((60, 100), of_numpy) == tile_windows((60, 100), tiles)


def test_too_many_tiles_are_refused():
    with pytest.raises(ValueError, match="more than 4096"):
        tile_windows((2000, 2000), 32)


def test_a_tile_counts_less_towards_borders_inside_of_the_image():
    weights = tile_weights(TILES[0], SIZE)
    assert weights[0, 0] == weights[31, 23] == 1  # borders of the image do not count
    assert weights[5, 24:].tolist() == [0.9375, 0.8125, 0.6875, 0.5625, 0.4375, 0.3125, 0.1875, 0.0625]


def test_a_thing_that_two_tiles_see_is_one():
    found = joined([(0, 0.9, (20, 10, 32, 16))], [(0, 0.7, (24, 10, 36, 16))], task="instance")
    assert found.labels == ["cup"] and found.scores.tolist() == [0.9] and found.boxes.tolist() == [[20, 10, 36, 16]]


def test_other_labels_and_things_that_do_not_agree_stay_apart():
    assert joined([(0, 0.9, (25, 10, 30, 16))], [(1, 0.7, (25, 10, 30, 16))], task="instance").labels == ["cup", "plate"]
    apart = joined([(0, 0.9, (25, 2, 30, 8))], [(0, 0.7, (25, 7, 30, 16))], task="instance")
    assert len(apart) == 2


def test_a_piece_at_the_border_that_the_neighbour_does_not_see_is_left_out():
    pieces = [TilePiece.of(0, 0, 0.9, rectangle(29, 10, 32, 16, TILES[0]), TILES[0])]
    assert join_pieces(pieces, TILES, SIZE) == []
    pieces = [TilePiece.of(0, 0, 0.9, rectangle(10, 10, 32, 16, TILES[0]), TILES[0])]  # most of it is where no other tile looks
    assert len(join_pieces(pieces, TILES, SIZE)) == 1


def test_each_tile_decides_about_the_pixels_that_it_sees_better():
    found = joined([(0, 0.9, (16, 10, 31, 16))], [(0, 0.8, (25, 8, 40, 16))], task="instance")
    assert found.boxes.tolist() == [[16, 8, 40, 16]]
    assert found.masks[0, 8].nonzero()[0].tolist() == list(range(28, 40))  # row 8 is the second tile's alone, from the middle on


def test_a_large_thing_comes_from_the_whole_image_and_small_things_on_it_stay():
    tiles = [(1, 0.9, (2, 2, 32, 30)), (0, 0.9, (8, 8, 13, 13))], [(0, 0.8, (24, 2, 54, 30))]  # a plate, or a cup, and a cup on it
    found = joined(*tiles, whole=[(1, 0.7, (2, 2, 54, 30)), (0, 0.9, (40, 1, 43, 4))], task="instance")
    assert sorted(zip(found.labels, found.boxes.tolist(), strict=True)) == [("cup", [8, 8, 13, 13]), ("plate", [2, 2, 54, 30])]


def test_panoptic_segments_share_no_pixel():
    tiles = [(2, 0.8, (0, 0, 32, 32)), (0, 0.9, (20, 10, 32, 16))], [(2, 0.9, (24, 0, 56, 32)), (0, 0.7, (24, 10, 36, 16))]
    found = joined(*tiles, task="panoptic", stuff=("table",))
    assert found.labels == ["table", "cup"] and found.masks.sum(0).tolist() == np.ones(SIZE).tolist()
    assert found.areas.tolist() == [32 * 56 - 96, 96] and found.scores.tolist() == [0.9, 0.9]


def test_a_pixel_has_the_label_of_the_tile_that_counts_more_there():
    found = joined([(1, math.nan, (0, 0, 32, 32))], [(2, math.nan, (24, 0, 56, 32))], task="semantic")
    assert found.labels == ["plate", "table"] and found.boxes.tolist() == [[0, 0, 28, 32], [28, 0, 56, 32]] and np.isnan(found.scores).all()
    assert LabelVotes(SIZE, {}).winners().tolist() == np.full(SIZE, -1).tolist()


def test_an_expression_means_all_that_it_means_in_a_tile_and_else_what_it_means_in_the_whole_image():
    names = ("all cups", "the room", "the moon")
    tiles = [(0, 0.9, (2, 2, 8, 8))], [(0, 0.95, (40, 2, 48, 8))]
    found = joined(*tiles, whole=[(1, 0.6, (0, 0, 56, 32))], kind="sentence", names=names)
    assert found.labels == ["all cups", "the room"] and found.scores.tolist() == [0.95, 0.6] and found.areas.tolist() == [36 + 48, 32 * 56]
    assert found.absent == {"the moon": 0.0}


def test_instances_of_an_expression_are_joined_like_those_of_a_category():
    tiles = [(0, 0.9, (20, 10, 32, 16))], [(0, 0.95, (24, 10, 36, 16)), (0, 0.8, (50, 2, 55, 6))]
    found = joined(*tiles, kind="sentence", names=("all cups",), instances=True)
    assert found.scores.tolist() == [0.95, 0.8] and found.boxes.tolist() == [[20, 10, 36, 16], [50, 2, 55, 6]]


def test_nothing_in_all_tiles_is_an_empty_result():
    found = joined([], [], task="panoptic", stuff=("table",))
    assert len(found) == 0 and found.masks.shape == (0, *SIZE)


@pytest.mark.parametrize(
    ("label", "options", "allowed", "message"),
    [
        (0, {"task": "instance"}, 1, "masks of 2 instances in 56 x 32 pixels take .* GiB, .* a higher threshold, fewer names, or parts"),
        (1, {"kind": "sentence"}, 1, "masks of 2 expressions .* fewer expressions, or parts of the image"),
        (1, {"task": "semantic"}, 4, "votes for 2 names .* fewer names, or parts of the image"),
        (1, {"task": "panoptic", "stuff": ("cup", "plate")}, 4, "votes for 2 names"),
    ],
)
def test_what_memory_will_not_hold_is_refused_in_words(monkeypatch, label, options, allowed, message):
    tiles = [(0, 0.9, (2, 2, 8, 8))], [(label, 0.9, (40, 2, 48, 8))]
    monkeypatch.setattr(tiling, "MAX_JOINED_BYTES", 2 * allowed * 32 * 56)
    assert len(joined(*tiles, **options)) == 2
    monkeypatch.setattr(tiling, "MAX_JOINED_BYTES", 2 * allowed * 32 * 56 - 1)
    with pytest.raises(ValueError, match=f"^tiles: {message}"):
        joined(*tiles, **options)


def test_masks_of_instances_are_in_memory_once_and_refused_before():
    frame = Window(0, 0, 20_000, 20_000)
    whole = replace(result(EVERYTHING, []), masks=np.zeros((0, frame.height, frame.width), dtype=bool))
    pieces = [TilePiece(0, 0, 0.5, Window(x, x, x + 9, x + 9), np.ones((9, 9), dtype=bool)) for x in range(0, 400, 20)]
    tracemalloc.start()
    with pytest.raises(ValueError, match="masks of 22 instances in 20000 x 20000 pixels take 8.2 GiB, more than the 8 GiB"):
        tiling._with(whole, [*pieces, *pieces[:2]])
    assert tracemalloc.get_traced_memory()[1] < 10**6
    found = tiling._with(replace(whole, masks=whole.masks[:, :400, :400]), pieces)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.areas.tolist() == [81] * 20 and found.boxes[1].tolist() == [20, 20, 29, 29] and peak < 1.1 * found.masks.nbytes
