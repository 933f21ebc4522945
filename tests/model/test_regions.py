import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.model.regions import enlarge, place_region, region_clicks, region_mask, region_weights


def test_disc_holds_what_is_at_most_a_radius_away():
    mask = np.zeros((9, 9), dtype=bool)
    mask[4, 1] = True
    rows, columns = np.mgrid[:9, :9]
    np.testing.assert_array_equal(enlarge(mask, 3), (rows - 4) ** 2 + (columns - 1) ** 2 <= 9)


def test_discs_overlap_without_trace():
    mask = np.random.default_rng(0).random((40, 60)) < 0.02
    rows, columns = np.mgrid[:40, :60]
    expected = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        expected |= (rows - row) ** 2 + (columns - column) ** 2 <= 25
    np.testing.assert_array_equal(enlarge(mask, 5), expected)


def disc(size: tuple[int, int], x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_point_is_a_disc_at_original_resolution():
    np.testing.assert_array_equal(region_mask({"point": (30.9, 20.0)}, (50, 80), "r"), disc((50, 80), 30, 20, 10))
    both = region_mask({"points": [(30, 20), (70, 40)]}, (50, 80), "r")
    np.testing.assert_array_equal(both, disc((50, 80), 30, 20, 10) | disc((50, 80), 70, 40, 10))


def test_scribble_is_a_thick_line_and_one_point_a_dot():
    line = region_mask({"scribble": [(10, 10), (30, 10)]}, (40, 60), "r")
    assert line[5:16, 10:31].all() and line.sum() == 11 * 20 + disc((40, 60), 20, 20, 5).sum()
    np.testing.assert_array_equal(region_mask({"scribble": [(10, 10)]}, (40, 60), "r"), disc((40, 60), 10, 10, 5))


def test_box_covers_pixels_whose_centre_is_inside():
    box = region_mask({"box": (1.4, 0, 3.6, 2)}, (4, 6), "r")
    expected = np.zeros((4, 6), dtype=bool)
    expected[0:2, 1:4] = True
    np.testing.assert_array_equal(box, expected)
    assert region_mask({"box": (4, 2, 100, 100)}, (4, 6), "r").sum() == 4  # cut at the border
    assert np.argwhere(region_mask({"box": (2.6, 1.1, 2.7, 1.2)}, (4, 6), "r")).tolist() == [[1, 2]]  # thinner than a pixel
    assert np.argwhere(region_mask({"box": (5.9, 3.9, 6, 4)}, (4, 6), "r")).tolist() == [[3, 5]]


def test_bitmaps_and_coordinates_say_the_same():
    seed = np.zeros((40, 60), dtype=bool)
    seed[10, 20] = True
    rle = {"size": [40, 60], "counts": [20 * 40 + 10, 1, 40 * 60 - 20 * 40 - 11]}
    for kind, coordinates in (("point", (20, 10)), ("scribble", [(20, 10)])):
        expected = region_mask({kind: coordinates}, (40, 60), "r")
        for form in (seed, seed.astype(np.uint8), torch.from_numpy(seed), Image.fromarray(seed), rle):
            np.testing.assert_array_equal(region_mask({kind: form}, (40, 60), "r"), expected)
    np.testing.assert_array_equal(region_mask({"mask": rle}, (40, 60), "r"), seed)


def test_coordinates_may_be_arrays():
    assert region_mask({"point": np.array([20, 10])}, (40, 60), "r").sum() > 300
    assert region_mask({"scribble": np.array([[20, 10], [30, 12]])}, (40, 60), "r").any()


@pytest.mark.parametrize(
    "region, message",
    [
        ({"circle": (1, 2)}, "keys point, points, box, scribble, mask, got .'circle'"),
        ({"point": (1, 2), "box": (0, 0, 1, 1)}, "exactly one"),
        ((1, 2), "got tuple"),
        ({"point": (60, 5)}, r"\(60.0, 5.0\) lies outside.*60 wide and 40 high"),
        ({"point": (-1, 5)}, "lies outside"),
        ({"scribble": [(5, 5), (5, 40)]}, "lies outside"),
        ({"point": (float("nan"), 5)}, "finite"),
        ({"point": "ab"}, "expected .x, y. coordinates"),
        ({"points": []}, "expected .x, y. coordinates"),
        ({"scribble": [(1, 2, 3)]}, "expected .x, y. coordinates"),
        ({"scribble": [(1, 2), (3,)]}, "expected .x, y. coordinates"),
        ({"box": (9, 5, 3, 8)}, "x1 < x0"),
        ({"box": (3, 9, 9, 8)}, "y1 < y0"),
        ({"box": (70, 5, 80, 8)}, "lies outside"),
        ({"box": (-9, 5, -3, 8)}, "lies outside"),
        ({"box": (0, 0, float("inf"), 8)}, "finite"),
        ({"box": (0, 0, 8)}, "x0, y0, x1, y1"),
        ({"box": None}, "x0, y0, x1, y1|finite"),
        ({"mask": np.zeros((40, 60), dtype=bool)}, "empty"),
        ({"point": np.zeros((40, 60), dtype=bool)}, "empty"),
        ({"mask": np.ones((60, 40), dtype=bool)}, r"shape \(60, 40\)"),
        ({"mask": [[0, 1]]}, "got list"),
    ],
)
def test_broken_regions_are_named(region, message):
    with pytest.raises(ValueError, match=f"region 2: .*({message})"):
        region_mask(region, (40, 60), "region 2")


LINE = [(30, 5), (35, 9)]
PIXELS = np.zeros((40, 60), dtype=bool)
PIXELS[30:33, 50:55] = True


def test_prompts_of_several_kinds_are_one_region():
    kinds = {"points": [(10, 10)], "box": (20, 20, 30, 30), "scribble": LINE, "mask": PIXELS}
    expected = np.logical_or.reduce([region_mask({kind: prompt}, (40, 60), "r", (3, 1)) for kind, prompt in kinds.items()])
    np.testing.assert_array_equal(region_mask(kinds, (40, 60), "r", (3, 1)), expected)
    for kind in kinds:  # none of them is forgotten
        assert (
            region_mask({other: prompt for other, prompt in kinds.items() if other != kind}, (40, 60), "r", (3, 1)).sum() < expected.sum()
        )


def test_points_of_label_1_are_points():
    points = [(10, 10), (40.5, 20)]
    expected = region_mask({"points": points}, (40, 60), "r")
    for labels in ([1, 1], np.ones(2), torch.ones(2, dtype=torch.int64), [True, True]):
        np.testing.assert_array_equal(region_mask({"points": points, "labels": labels}, (40, 60), "r"), expected)
        assert region_clicks({"points": points, "labels": labels}, (40, 60), "r") == ()
    assert region_clicks({"points": points}, (40, 60), "r") == region_clicks({"box": (1, 2, 3, 4)}, (40, 60), "r") == ()


def test_one_point_of_label_1_is_a_point():
    expected = region_mask({"point": (10, 10)}, (40, 60), "r")
    np.testing.assert_array_equal(region_mask({"points": [(10, 10)], "labels": [1]}, (40, 60), "r"), expected)


def test_a_point_of_label_0_covers_nothing_and_is_a_click():
    region = {"points": [(10, 10), (40.5, 20)], "labels": [1, 0]}
    np.testing.assert_array_equal(region_mask(region, (40, 60), "r"), region_mask({"point": (10, 10)}, (40, 60), "r"))
    assert region_clicks(region, (40, 60), "r") == ((10, 10, 1), (40.5, 20, 0))
    only = {"points": [(40.5, 20)], "labels": [0], "mask": PIXELS}
    np.testing.assert_array_equal(region_mask(only, (40, 60), "r"), PIXELS)


@pytest.mark.parametrize(
    "region, message",
    [
        ({"labels": [1], "box": (1, 2, 3, 4)}, "labels without points"),
        ({"labels": [1]}, "labels without points"),
        ({"points": [(1, 2), (3, 4)], "labels": [1]}, r"shape \(1,\) for 2 points"),
        ({"points": [(1, 2)], "labels": [[1]]}, r"shape \(1, 1\) for 1 points"),
        ({"points": [(1, 2)], "labels": 1}, r"shape \(\) for 1 points"),
        ({"points": [(1, 2), (3, 4)], "labels": [1, [0]]}, "one label, 1 or 0, per point"),
        ({"points": [(1, 2)], "labels": [2]}, r"1 .the point belongs.* or 0 .*got \[2\]"),
        ({"points": [(1, 2)], "labels": [-1]}, r"got \[-1\]"),
        ({"points": [(1, 2)], "labels": ["1"]}, r"got \['1'\]"),
        ({"points": [(1, 2)], "labels": [float("nan")]}, r"got \[nan\]"),
        ({"points": [(1, 2)], "labels": [0]}, "all of its points have the label 0"),
        ({"points": [(1, 2), (60, 2)], "labels": [1, 0]}, "outside.*60 wide and 40 high"),
        ({"points": [(1, 2), (float("nan"), 2)], "labels": [1, 0]}, "finite"),
        ({"points": [(1.1, 2), (1.9, 2)], "labels": [1, 0]}, r"pixel \(x, y\) = \(1, 2\) has points of both"),
        ({"points": PIXELS, "labels": [1]}, "the points are a bitmap"),
        ({"point": (1, 2), "labels": [1]}, "exactly one"),
        ({"points": [(1, 2)], "circle": 3}, "exactly one"),
        ({}, r"got \[\]"),
        ({"points": [], "box": (1, 2, 3, 4)}, "expected .x, y. coordinates"),
    ],
)
def test_broken_joined_regions_are_named(region, message):
    with pytest.raises(ValueError, match=f"region 2: .*({message})"):
        region_mask(region, (40, 60), "region 2")


def test_small_region_survives_shrinking():
    mask = np.zeros((400, 600), dtype=bool)
    mask[201, 301] = True  # nearest neighbour of no pixel
    placed = place_region(mask, 60)
    assert np.argwhere(placed).tolist() == [[20, 30]]


def test_weights_interpolate_between_token_corners():
    """A 2 x 2 grid on a 4 x 4 image: the pixel of row 1, column 2 lies a quarter down and half across."""
    mask = np.zeros((4, 4), dtype=bool)
    mask[1, 2] = True
    for sampling in ("exact", "released"):
        assert region_weights(mask, (2, 2), sampling).tolist() == pytest.approx([0.375, 0.375, 0.125, 0.125])


def test_exact_weights_are_the_mean_over_pixels():
    rng = np.random.default_rng(0)
    mask = rng.random((24, 24)) < 0.3
    singles = []
    for row, column in np.argwhere(mask):
        one = np.zeros_like(mask)
        one[row, column] = True
        singles.append(region_weights(one, (3, 5), "exact"))
    torch.testing.assert_close(region_weights(mask, (3, 5), "exact"), torch.stack(singles).mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_weights_are_a_distribution(share):
    mask = np.random.default_rng(1).random((64, 64)) < share
    for sampling in ("exact", "released"):
        weights = region_weights(mask, (4, 4), sampling, torch.Generator().manual_seed(0))
        assert weights.shape == (16,) and (weights >= 0).all()
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)


def test_released_sampling_follows_the_seed():
    mask = np.random.default_rng(1).random((64, 64)) < 0.5
    draw = [region_weights(mask, (4, 4), "released", torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_radii_of_points_and_scribbles_can_be_chosen():
    np.testing.assert_array_equal(region_mask({"point": (30, 20)}, (50, 80), "r", (4, 2)), disc((50, 80), 30, 20, 4))
    np.testing.assert_array_equal(region_mask({"scribble": [(30, 20)]}, (50, 80), "r", (4, 2)), disc((50, 80), 30, 20, 2))
    assert region_mask({"point": (30, 20)}, (50, 80), "r", (0, 0)).sum() == 1
