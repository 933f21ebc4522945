"""The rules of the visual prompts, one by one: ranges and distributions over many draws, small cases on paper, degenerate masks."""

import itertools
import multiprocessing

import numpy as np
import pytest
from scipy import optimize, stats

from psalm_hf.data.visual_prompts import RULES, draw_as_released, draw_prompt, prompt_generator
from psalm_hf.masks import bitmap_from_rle, box_from_bitmap
from psalm_hf.model.regions import region_mask
from psalm_hf.structures import REGION_KINDS

DRAWS = 1000
LEAST_P = 0.001  # the seeds are fixed: a test that passes once passes always


class Script:
    """Stands in for a generator: answers are given as shares of the range that is asked for, and the ranges are written down."""

    def __init__(self, *shares, corner=0):
        self.shares, self.corner, self.ranges = list(shares), corner, []

    def uniform(self, low, high):
        self.ranges.append((float(low), float(high)))
        return low + (high - low) * self.shares.pop(0)

    def integers(self, number):
        self.ranges.append(number)
        return self.corner


def rectangle(size, x0, y0, x1, y1):
    bitmap = np.zeros(size, dtype=bool)
    bitmap[y0:y1, x0:x1] = True
    return bitmap


def pixels(size, *spots):
    """Bitmap of a few (row, column)."""
    bitmap = np.zeros(size, dtype=bool)
    bitmap[tuple(zip(*spots, strict=True))] = True
    return bitmap


def draws(bitmap, kind, number=DRAWS, **options):
    return [draw_prompt(bitmap, kind, seed=3, annotation_id=index, **options) for index in range(number)]


def coordinates(regions):
    """(draws, points, 2)"""
    return np.array([region.points for region in regions])


def bitmaps(regions):
    return [bitmap_from_rle(region.mask_rle) for region in regions]


def assert_uniform(values, low, high):
    assert low <= np.min(values) and np.max(values) <= high
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LEAST_P


def blur(bitmap):
    """Gaussian of standard deviation 2, cut at 8 pixels, mirrored at the border with the outermost pixel twice: by definition."""
    kernel = np.exp(-(np.arange(-8, 9) ** 2) / 8)
    padded = np.pad(bitmap.astype(float), 8, mode="symmetric")
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, kernel / kernel.sum(), mode="valid")
    return padded


# --- the paper's rules


def test_a_paper_point_is_any_pixel_in_circle_and_mask_with_equal_chance():
    bitmap = rectangle((20, 24), 4, 5, 15, 12)  # 11 wide, 7 high: circle about (9.5, 8.5), radius 3.5
    bitmap[8, 9] = False
    y, x = np.indices(bitmap.shape) + 0.5
    allowed = bitmap & ((x - 9.5) ** 2 + (y - 8.5) ** 2 <= 3.5**2)
    points = coordinates(draws(bitmap, "point", 3000))[:, 0]
    spots, counts = np.unique(points, axis=0, return_counts=True)
    assert sorted(map(tuple, spots)) == sorted(zip(x[allowed], y[allowed], strict=True))
    assert stats.chisquare(counts).pvalue > LEAST_P


def test_a_paper_point_is_none_where_the_circle_holds_no_pixel_of_the_object():
    bitmap = rectangle((30, 30), 0, 0, 3, 3) | rectangle((30, 30), 27, 27, 30, 30)
    assert draw_prompt(bitmap, "point", seed=0, annotation_id=0) is None


def test_a_paper_box_is_scaled_apart_in_width_and_height_about_its_centre():
    bitmap = rectangle((200, 300), 50, 40, 150, 90)
    low, high = np.moveaxis(coordinates(draws(bitmap, "box")), 1, 0)
    np.testing.assert_allclose((low + high) / 2, np.broadcast_to((100, 65), low.shape))
    factors = (high - low) / (100, 50)
    for axis in (0, 1):
        assert_uniform(factors[:, axis], 0.9, 1.1)
    assert stats.spearmanr(factors).pvalue > LEAST_P


def test_a_paper_box_ends_at_the_border_of_the_image():
    low, high = np.moveaxis(coordinates(draws(np.ones((40, 60)), "box", 50)), 1, 0)
    assert low.min() == 0 and high[:, 0].max() == 60 and high[:, 1].max() == 40


def straight(bitmap, number=DRAWS, **options):
    """Both ends of every scribble without its sine: opposite corners of the jittered box. (draws, 2, 2)"""
    return coordinates(draws(bitmap, "scribble", number, amplitude=(0, 0), **options))[:, [0, -1]]


def test_a_paper_scribble_runs_along_either_diagonal_of_a_box_that_keeps_centre_and_iou():
    bitmap = rectangle((400, 500), 100, 100, 300, 200)
    bitmap[100:200, 100:150] &= np.eye(100, 50, dtype=bool)  # its centroid is not its box's centre
    ends = straight(bitmap)
    np.testing.assert_allclose(ends.mean(axis=1), np.broadcast_to((200, 150), (DRAWS, 2)), atol=1e-3)
    ways = ends[:, 1] - ends[:, 0]
    falling = (ways > 0).all(axis=1)
    assert (ways[~falling] * (1, -1) > 0).all()
    assert stats.binomtest(int(falling.sum()), DRAWS).pvalue > LEAST_P

    factors = np.abs(ways) / (200, 100)
    shared = np.minimum(factors, 1).prod(axis=1)
    iou = shared / (1 + factors.prod(axis=1) - shared)
    assert 0.5 < iou.min() < 0.505
    sure = (factors > 0.75).all(axis=1)  # 0.75 x 0.75 > 1/2: nothing is refused there
    for axis in (0, 1):
        assert 0.5 <= factors[:, axis].min() < 0.53
        assert_uniform(factors[sure, axis], 0.75, 1.2)


def test_a_paper_scribble_is_a_sine_across_the_diagonal():
    bitmap = rectangle((600, 700), 200, 200, 500, 400)
    waves = []
    for region, plain in zip(draws(bitmap, "scribble", 500), draws(bitmap, "scribble", 500, amplitude=(0, 0)), strict=True):
        points, line = np.array(region.points), np.array(plain.points)
        along = (line[-1] - line[0]) / np.hypot(*(line[-1] - line[0]))
        np.testing.assert_allclose((points - line) @ along, 0, atol=2e-3)  # coordinates have 3 decimals
        waves.append((points - line) @ (-along[1], along[0]))
    amplitudes, frequencies, phases = np.transpose([fitted_sine(wave) for wave in waves])
    assert_uniform(amplitudes.clip(10, 20), 10, 20)
    assert_uniform(frequencies.clip(0.2, 1), 0.2, 1)
    assert_uniform(phases, 0, 2 * np.pi)
    for one, other in itertools.combinations((amplitudes, frequencies, phases), 2):
        assert stats.spearmanr(one, other).pvalue > LEAST_P


def fitted_sine(wave):
    """Amplitude, periods per length and phase of samples at equal steps; they must be a sine."""
    way = 2 * np.pi * np.linspace(0, 1, len(wave))

    def solve(frequency):
        basis = np.stack([np.sin(frequency * way), np.cos(frequency * way)], axis=1)
        weights = np.linalg.lstsq(basis, wave, rcond=None)[0]
        return ((basis @ weights - wave) ** 2).sum(), weights

    start = min(np.arange(0.15, 1.1, 0.02), key=lambda frequency: solve(frequency)[0])
    frequency = optimize.minimize_scalar(
        lambda frequency: solve(frequency)[0], bounds=(start - 0.03, start + 0.03), method="bounded", options={"xatol": 1e-6}
    ).x
    error, weights = solve(frequency)
    assert error < len(wave) * 1e-5
    assert 0.199 < frequency < 1.001 and 9.9 < np.hypot(*weights) < 20.1
    return np.hypot(*weights), frequency, np.arctan2(weights[1], weights[0]) % (2 * np.pi)


def test_the_amplitude_of_a_scribble_can_be_scaled_with_the_picture():
    bitmap = rectangle((60, 70), 20, 20, 50, 40)
    away = coordinates(draws(bitmap, "scribble", 200, amplitude=(2, 4))) - coordinates(draws(bitmap, "scribble", 200, amplitude=(0, 0)))
    heights = np.linalg.norm(away, axis=2).max(axis=1)
    assert 3.8 < heights.max() <= 4.01


def test_a_paper_mask_is_the_blurred_mask_above_one_half():
    bitmap = rectangle((60, 70), 0, 10, 30, 40) | rectangle((60, 70), 40, 50, 46, 60)
    bitmap[20:30, 10:14] = False
    (drawn,) = bitmaps([draw_prompt(bitmap, "mask", seed=0, annotation_id=0)])
    assert (drawn == (blur(bitmap) > 0.5)).all()
    assert drawn[30, 0] and not drawn[10, 29]  # at the border the mask goes on, at a corner it does not


# --- the released generator's rules


def test_a_released_point_has_two_radii_about_the_centroid_and_is_cut_off_to_a_pixel():
    bitmap = rectangle((40, 60), 10, 10, 50, 30)  # centroid (row 19.5, column 29.5), radius 10
    script = Script(0.125, 0.5, 0.9)  # 45 degrees; 5 for the row, 9 for the column
    drawn = draw_as_released(bitmap, "point", script)
    assert np.argwhere(drawn).tolist() == [[int(19.5 + 5 * 0.5**0.5), int(29.5 + 9 * 0.5**0.5)]]
    assert script.ranges == [(0, 2 * np.pi), (0, 10), (0, 10)]


def test_a_released_point_is_drawn_again_until_it_lies_on_the_mask():
    bitmap = rectangle((40, 60), 10, 10, 50, 30)
    bitmap[14:26, 24:36] = False  # centroid and surroundings
    drawn = draw_as_released(bitmap, "point", Script(0, 0.1, 0.9, 0, 0.8, 0.9))  # straight down by 1, then by 8
    assert np.argwhere(drawn).tolist() == [[27, 29]]


def test_a_released_point_beyond_the_box_of_its_part_is_moved_to_the_edge():
    bitmap = rectangle((40, 60), 10, 10, 14, 30)
    bitmap[20, 14:30] = True  # box of 20 x 20, centroid (row 19.6, column 13.2)
    assert np.argwhere(draw_as_released(bitmap, "point", Script(0.75, 0, 0.9))).tolist() == [[19, 10]]  # 9 to the left
    mirrored = bitmap[:, ::-1]
    assert np.argwhere(draw_as_released(mirrored, "point", Script(0.25, 0, 0.9))).tolist() == [[19, 49]]


def test_released_points_spread_as_two_independent_radii_do():
    bitmap = rectangle((120, 120), 20, 20, 100, 100)  # centroid 59.5, radius 40; a fraction is cut off
    spots = np.array([np.argwhere(drawn)[0] for drawn in bitmaps(draws(bitmap, "point", 2000, rules="released"))])
    row, column = ((spots + 0.5 - 59.5) / 40).T
    assert np.abs([row, column]).max() <= 1.02
    # E[u^2] = 1/3 for a radius, E[cos^2] = 1/2 and E[sin^2 cos^2] = 1/8 for an angle; a common radius would give 1/40 in the last line.
    for moment, expected in ((row**2, 1 / 6), (column**2, 1 / 6), ((row * column) ** 2, 1 / 72)):
        assert abs(moment.mean() - expected) < 4 * moment.std() / len(spots) ** 0.5


def test_a_released_box_is_scaled_by_one_factor():
    bitmap = rectangle((350, 600), 50, 50, 550, 300)
    boxes = np.array([box_from_bitmap(drawn) for drawn in bitmaps(draws(bitmap, "box", 300, rules="released"))])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert_uniform(widths / 500, 0.9, 1.1)
    assert np.abs(widths - 2 * heights).max() <= 4  # whole pixels
    assert np.abs(boxes[:, :2] + boxes[:, 2:] - (600, 350)).max() <= 2


def test_a_released_box_is_filled_and_its_edges_lose_their_fractions():
    bitmap = rectangle((40, 40), 10, 10, 20, 15)
    drawn = draw_as_released(bitmap, "box", Script(0.75))  # factor 1.05: columns 9.75 to 20.25, rows 9.875 to 15.125
    assert (drawn == rectangle((40, 40), 9, 9, 20, 15)).all()


def test_a_released_scribble_on_paper():
    bitmap = rectangle((200, 200), 50, 80, 151, 101)  # 101 x 21 about (row 90, column 100)
    # Height and width as they are: rows int(79.5) to int(100.5), columns int(49.5) to int(150.5); a quarter period from 0 to 10.
    script = Script(5 / 7, 5 / 7, 0, 0.0625, 0, corner=1)  # from top right to bottom left
    spots = np.argwhere(draw_as_released(bitmap, "scribble", script))
    assert len(spots) == 102 and len(np.unique(spots[:, 1])) == 102
    assert spots[spots[:, 1].argmax()].tolist() == [79, 150]
    assert spots[spots[:, 1].argmin()].tolist() == [100 + 10, 49]
    expected = [(0.5, 1.2), (0.5, 1.2), 4, (10, 20), (0.2, 1), (0, 2 * np.pi)]
    np.testing.assert_allclose(np.hstack(script.ranges), np.hstack(expected))


def test_a_released_scribble_is_pushed_back_into_the_image():
    bitmap = rectangle((30, 100), 0, 10, 100, 20)  # row 14.5, column 49.5; at its widest, columns int(-10.5) to int(109.5) become 0 to 100
    drawn = draw_as_released(bitmap, "scribble", Script(5 / 7, 1, 0, 0, 0), amplitude=(0, 0))
    assert np.argwhere(drawn[:, 0]).tolist() == [[9]] and np.argwhere(drawn[:, 99]).tolist() == [[19]]
    drawn = draw_as_released(bitmap, "scribble", Script(5 / 7, 1, 0, 0, 0.25), amplitude=(40, 40))  # down by 40 at first, by 12 at last
    assert drawn[29].all() and drawn.sum() == 100


def test_a_released_scribble_box_has_half_the_iou_about_the_centroid():
    y, x = np.indices((300, 400))
    bitmap = (x >= 100) & (x < 250) & (y >= 100) & (y - 100 <= x - 100)  # a triangle: the centroid is off the box's centre
    low, high = np.array([100, 100]), np.array([250, 250])  # first and behind the last row, column
    centroid = np.argwhere(bitmap).mean(axis=0)
    factors, ious = [], []
    for drawn in bitmaps(draws(bitmap, "scribble", 500, amplitude=(0, 0), rules="released")):
        spots = np.argwhere(drawn)
        box = spots.min(axis=0), spots.max(axis=0)
        np.testing.assert_allclose((box[0] + box[1]) / 2, centroid - 0.5, atol=1)
        factors.append((box[1] - box[0]) / 150)
        shared = (np.minimum(box[1], high) - np.maximum(box[0], low) + 1).prod()
        ious.append(shared / ((box[1] - box[0] + 1).prod() + 151**2 - shared))
    assert 0.5 <= min(ious) < 0.52
    assert 0.49 < np.min(factors) and 1.15 < np.max(factors) < 1.21


def test_a_released_scribble_starts_in_every_corner_and_its_line_is_bresenhams():
    bitmap = rectangle((200, 300), 100, 50, 200, 120)
    corners = set()
    for drawn in bitmaps(draws(bitmap, "scribble", 40, amplitude=(0, 0), rules="released")):
        spots = [tuple(spot) for spot in np.argwhere(drawn).tolist()]
        top, left = np.min(spots, axis=0)
        bottom, right = np.max(spots, axis=0)
        lines = {
            (start, end): sorted(bresenham(start, end))
            for start, end in (
                ((top, left), (bottom, right)), ((bottom, right), (top, left)),
                ((top, right), (bottom, left)), ((bottom, left), (top, right)),
            )
        }  # fmt: skip
        found = [(start[0] == top, start[1] == left) for (start, _), line in lines.items() if line == spots]
        assert found
        corners |= set(found)
    assert len(corners) == 4


def bresenham(start, end):
    """The textbook's loop: step along the longer axis, and along the other whenever the error reaches half a pixel."""
    (row, column), (height, width) = start, (abs(end[0] - start[0]), abs(end[1] - start[1]))
    if height > width:
        return [(row, column) for column, row in bresenham(start[::-1], end[::-1])]
    down, right = (1 if end[0] > row else -1), (1 if end[1] > column else -1)
    error, line = 2 * height - width, []
    for _ in range(width + 1):
        line.append((int(row), int(column)))
        if error >= 0:
            row, error = row + down, error - 2 * width
        column, error = column + right, error + 2 * height
    return line


def test_a_released_sine_displaces_rows_only_and_by_at_most_20():
    bitmap = rectangle((300, 800), 100, 130, 700, 170)  # wide: one pixel per column
    furthest = []
    for number in range(300):
        waved, plain = (
            np.argwhere(draw_as_released(bitmap, "scribble", np.random.default_rng(number), amplitude).T)  # (column, row), in order
            for amplitude in ((10, 20), (0, 0))
        )
        assert (waved[:, 0] == plain[:, 0]).all()
        furthest.append(np.abs(waved[:, 1] - plain[:, 1]).max())
    assert 18 <= max(furthest) <= 20  # a fraction is cut off


def test_a_released_mask_is_the_blurred_mask_above_its_mean():
    bitmap = rectangle((60, 70), 0, 10, 30, 40) | rectangle((60, 70), 40, 50, 46, 60)
    (drawn,) = bitmaps([draw_prompt(bitmap, "mask", seed=0, annotation_id=0, rules="released")])
    assert (drawn == (blur(bitmap) > blur(bitmap).mean())).all()
    assert drawn.sum() > bitmap.sum()


def test_a_released_mask_grows_by_eight_pixels_and_no_more():
    bitmap = pixels((1000, 1000), (500, 300))  # a millionth on average; uncut, the blur were above that 9 pixels away: exp(-81 / 8) / 8 pi
    drawn = draw_as_released(bitmap, "mask", Script())
    assert box_from_bitmap(drawn) == (300 - 8, 500 - 8, 300 + 9, 500 + 9)
    assert (drawn == (blur(bitmap) > blur(bitmap).mean())).all()


def test_released_prompts_are_drawn_for_every_part_of_more_than_five_pixels():
    bitmap = rectangle((90, 90), 10, 10, 30, 30) | rectangle((90, 90), 60, 60, 63, 62)  # 400 and 6 pixels
    bitmap |= pixels((90, 90), *[(60 + step, 10 + step) for step in range(6)])  # 6 that touch at their corners
    bitmap |= rectangle((90, 90), 80, 10, 85, 11)  # 5
    for kind, count in (("point", 3), ("box", 3)):
        for drawn in bitmaps(draws(bitmap, kind, 20, rules="released")):
            assert drawn[5:35, 5:35].any() and drawn[55:70, 5:20].any() and not drawn[7:9, 80:].any()
            if kind == "point":
                assert drawn.sum() == count and not (drawn & ~bitmap).any()


def test_a_released_scribble_is_none_where_the_centroid_is_at_one_end():
    bitmap = rectangle((100, 600), 200, 10, 240, 90)
    # With the thin tail, the centroid is 27 pixels from the left end of 240: the widest box shares 27 + 1.2 x 120 = 171 columns with the
    # object's, and together they have 240 + 2 x 1.2 x 120 - 171 = 357.
    bitmap[50, 240:440] = True
    assert draw_prompt(bitmap, "scribble", seed=0, annotation_id=0, rules="released") is None
    assert draw_prompt(bitmap, "scribble", seed=0, annotation_id=0, rules="paper") is not None


# --- both


def one_prompt(task):
    bitmap, kind, annotation_id, rules = task
    return draw_prompt(bitmap, kind, seed=11, annotation_id=annotation_id, rules=rules)


def test_order_subset_and_number_of_processes_change_nothing():
    bitmap = rectangle((60, 80), 10, 10, 50, 40) | rectangle((60, 80), 60, 45, 75, 55)
    tasks = [(bitmap, kind, annotation_id, rules) for rules in RULES for kind in REGION_KINDS for annotation_id in range(3)]
    expected = [one_prompt(task) for task in tasks]
    assert [one_prompt(task) for task in reversed(tasks)] == expected[::-1]
    assert [one_prompt(task) for task in tasks[5::3]] == expected[5::3]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(one_prompt, tasks, chunksize=1) == expected


def test_another_seed_annotation_or_kind_has_other_random_numbers():
    ids = [0, 1, 2, 2**31, 2**32, 2**32 + 1, 2**33, 900100581904]  # COCO's crowds have ids beyond 32 bits
    states = [
        prompt_generator(seed, annotation_id, kind).random()
        for seed, annotation_id, kind in itertools.product((0, 1, 2), ids, REGION_KINDS)
    ]
    assert len(set(states)) == len(states)


def test_drawing_touches_neither_the_mask_nor_the_global_random_numbers():
    bitmap = np.ones((20, 30), dtype=np.uint8)
    bitmap.flags.writeable = False
    before = np.random.get_state()[1].copy()
    for rules, kind in itertools.product(RULES, REGION_KINDS):
        draw_prompt(bitmap, kind, seed=0, annotation_id=0, rules=rules)
    assert (np.random.get_state()[1] == before).all()


def test_the_region_carries_the_segment():
    for rules, kind in itertools.product(RULES, REGION_KINDS):
        region = draw_prompt(np.ones((20, 30)), kind, seed=0, annotation_id=0, rules=rules, segment=4)
        assert region.kind == kind and region.segment == 4


DEGENERATE = {
    "empty": np.zeros((30, 40), dtype=bool),
    "one pixel": pixels((30, 40), (10, 20)),
    "corner pixel": pixels((30, 40), (29, 39)),
    "five pixels": rectangle((30, 40), 10, 10, 15, 11),
    "row": rectangle((30, 40), 0, 29, 40, 30),
    "column": rectangle((30, 40), 0, 0, 1, 30),
    "diagonal": np.eye(30, 40, dtype=bool),
    "speckles": np.indices((30, 40)).sum(axis=0) % 4 == 0,
    "border frame": ~rectangle((30, 40), 1, 1, 39, 29),
    "whole image": np.ones((30, 40), dtype=bool),
    "image of one pixel": np.ones((1, 1), dtype=bool),
    "image of one row": rectangle((1, 40), 5, 0, 30, 1),
}
# Kinds for which the rules leave nothing, whatever is drawn; all others give a region, now and then or always.
ALL = {"point", "box", "scribble", "mask"}
NOTHING = {
    "paper": {"empty": ALL} | dict.fromkeys(["one pixel", "corner pixel", "five pixels", "row", "column", "diagonal", "speckles"], {"mask"})
    | dict.fromkeys(["image of one pixel", "image of one row"], set()),
    "released": {"empty": ALL} | dict.fromkeys(["one pixel", "corner pixel", "five pixels", "image of one pixel"], ALL - {"mask"})
    | dict.fromkeys(["row", "image of one row"], {"scribble"}),
}  # fmt: skip


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_masks_end_in_a_region_inside_the_image_or_in_none(name, rules):
    bitmap, nothing = DEGENERATE[name], set()
    for kind in REGION_KINDS:
        regions = [region for region in draws(bitmap, kind, 10, rules=rules) if region is not None]
        nothing |= set() if regions else {kind}
        for region in regions:
            prompt = {"mask": region.mask_rle} if region.mask_rle else region.as_prompt()
            assert region_mask(prompt, bitmap.shape, name).any()
            if kind == "point":
                spots = bitmaps([region])[0] if region.mask_rle else pixels(bitmap.shape, *[(int(y), int(x)) for x, y in region.points])
                assert not (spots & ~bitmap).any()
    assert nothing == NOTHING[rules].get(name, set())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "circle"}, "annotation 7: unknown kind of visual prompt 'circle', expected one of point, box, scribble, mask"),
        ({"rules": "other"}, "annotation 7: unknown rules 'other', expected one of paper, released"),
        ({"seed": -1}, "annotation 7: seed must be an integer of at least 0, got -1"),
        ({"annotation_id": "a7"}, "annotation a7: annotation_id must be an integer of at least 0, got 'a7'"),
        ({"annotation_id": 0.5}, "got 0.5"),
        ({"amplitude": (4, 2)}, r"annotation 7: amplitude must be .*got \(4, 2\)"),
        ({"amplitude": (-1, 2)}, r"got \(-1, 2\)"),
        ({"bitmap": np.ones((2, 3, 4))}, r"annotation 7: expected a mask of shape \(H, W\), got shape \(2, 3, 4\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, message):
    options = {"bitmap": np.ones((4, 5)), "kind": "point", "seed": 0, "annotation_id": 7, **changes}
    with pytest.raises(ValueError, match=message):
        draw_prompt(**options)
