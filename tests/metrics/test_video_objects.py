"""J and F on masks small enough to count, and their laws."""

import math

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import VideoObjects, contour_accuracy, region_similarity
from tests.metrics.drawing import ids, mask, random_ids

BOTH = (1, 2)


def measured(*frames, object_ids=BOTH):
    """Frames of one sequence: (prediction, target), in the order of time."""
    metric = VideoObjects()
    for frame, (predicted, target) in enumerate(frames):
        metric.update("cat", frame, predicted, target, object_ids)
    return metric


def test_region_similarity_is_iou_and_1_where_nothing_is():
    assert region_similarity(mask("##.."), mask(".##.")) == pytest.approx(1 / 3)
    assert region_similarity(mask(".."), mask("..")) == 1
    assert region_similarity(mask("#."), mask("..")) == region_similarity(mask(".."), mask("#.")) == 0


def shifted(columns):
    """A 2 x 2 square in a picture of 6 x 12 pixels, whose tolerance is one pixel."""
    square = np.zeros((6, 12), dtype=bool)
    square[2:4, 2 + columns : 4 + columns] = True
    return square


@pytest.mark.parametrize(("columns", "accuracy"), [(0, 1), (1, 1), (2, 5 / 8), (3, 3 / 8), (4, 0)])
def test_contours_agree_as_far_as_one_lies_near_the_other(columns, accuracy):
    # The square is at rows and columns 2 to 3, its contour at 1 to 3, but for (2, 2), whose three neighbours are in the square as it is:
    # 8 pixels. Two columns apart, those of the nearer two columns (5 of 8) have one of the other contour at a distance of one pixel; three
    # columns apart, those of the nearest column (3 of 8).
    assert contour_accuracy(shifted(columns), shifted(0)) == pytest.approx(accuracy)


def test_a_contour_against_none_is_wrong_and_none_against_none_is_right():
    square, nothing, everything = shifted(0), np.zeros((6, 12), bool), np.ones((6, 12), bool)
    assert contour_accuracy(square, nothing) == contour_accuracy(nothing, square) == 0
    assert contour_accuracy(nothing, nothing) == contour_accuracy(nothing, everything) == 1  # a full picture has no contour either


def dilated_accuracy(predicted, target, bound):
    """The definition: each contour is dilated by a disk."""
    radius = math.ceil(bound * math.hypot(*target.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    contours = []
    for bitmap in (predicted, target):
        # Behind the edge of the picture its last row and column go on, so that they differ from nothing there.
        padded = np.pad(bitmap, ((0, 1), (0, 1)), mode="edge")
        contour = (bitmap ^ padded[1:, :-1]) | (bitmap ^ padded[:-1, 1:])
        contour[:-1, :-1] |= bitmap[:-1, :-1] ^ bitmap[1:, 1:]
        contours.append(contour)
    near = [binary_dilation(contour, x**2 + y**2 <= radius**2) for contour in contours]
    if not (contours[0].any() and contours[1].any()):
        return float(contours[0].any() == contours[1].any())
    precision, recall = (contours[0] & near[1]).sum() / contours[0].sum(), (contours[1] & near[0]).sum() / contours[1].sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(60))
def test_near_means_within_a_disk(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 40, 2))
    bound = rng.choice([0.008, 0.05, 0.1, 0.3])
    masks = []
    for _ in range(2):  # an ellipse, which may reach over the edge, with some pixels switched
        (cy, cx), (ry, rx) = rng.uniform(0, 1, 2) * size, rng.uniform(0.5, 15, 2)
        y, x = np.mgrid[: size[0], : size[1]]
        masks.append((((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1) ^ (rng.random(size) < rng.choice([0, 0.02])))
    assert contour_accuracy(*masks, bound) == dilated_accuracy(*masks, bound)


def test_mean_recall_and_decay_of_five_frames():
    # One object of two pixels; per frame 2, 2, 1, 0, 0 of them are found: J = 1, 1, 1/2, 0, 0. Quarters: frames 0-1, 1-2, 2-3, 3-4.
    target = ids("11........")
    metric = measured(
        *((ids(found), target) for found in ("11........", "11........", "1.........", "..........", "..........")), object_ids=[1]
    )
    numbers = metric.per_object()["cat", 1]
    assert (numbers["J-Mean"], numbers["J-Decay"]) == (50, 100)
    assert numbers["J-Recall"] == 40  # one half is not above one half


@pytest.mark.parametrize(("number", "first", "last"), [(1, 1, 1), (2, 1, 1), (3, 2, 1), (4, 2, 2), (6, 2, 2), (7, 3, 2), (48, 13, 13)])
def test_quarters_share_the_frames_at_which_they_meet(number, first, last):
    # J is 1 in the one frame that is right: it is in the first quarter, in the last one, or in neither.
    target, wrong = ids("1..."), ids("...1")
    for right in range(number):
        decay = measured(*((target if frame == right else wrong, target) for frame in range(number)), object_ids=[1]).compute()["J-Decay"]
        assert decay == pytest.approx(100 * ((right < first) / first - (right >= number - last) / last))


def test_the_mean_is_over_objects_not_over_sequences():
    metric = VideoObjects()
    metric.update("cat", 1, ids("1122"), ids("1122"), BOTH)
    metric.update("dog", 1, ids("...1"), ids("11.."), [1])
    assert metric.compute()["J-Mean"] == pytest.approx(200 / 3)


def test_the_order_of_updates_does_not_matter_but_that_of_frames_does():
    right, wrong = (ids("1..."), ids("1...")), (ids("...1"), ids("1..."))
    forward, backward = VideoObjects(), VideoObjects()
    for frame in range(6):
        forward.update("cat", f"{frame:05}", *(right if frame < 3 else wrong), [1])
    for frame in reversed(range(6)):
        backward.update("cat", f"{frame:05}", *(right if frame < 3 else wrong), [1])
    assert forward.compute() == backward.compute()
    assert forward.compute()["J-Decay"] == 100


def test_an_object_that_a_frame_does_not_list_is_absent_there():
    metric = measured((ids("1122"), ids("2211")))
    metric.update("cat", 1, ids("...."), ids("...."), [])
    assert metric.per_object()["cat", 1]["J-Mean"] == 50


def test_void_and_objects_that_are_not_judged_are_background():
    target = np.array([[1, 1, 255, 3]])
    assert measured((ids("11.."), target)).compute()["J-Mean"] == 100
    assert measured((ids("111."), target)).per_object()["cat", 1]["J-Mean"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_truth_as_prediction_gives_100_and_loses_nothing(seed):
    rng = np.random.default_rng(seed)
    frames = [random_ids(rng, 3) for _ in range(6)]
    result = measured(*((frame, frame) for frame in frames)).compute()
    assert result == {
        "J&F": 100, "J-Mean": 100, "J-Recall": 100, "J-Decay": 0, "F-Mean": 100, "F-Recall": 100, "F-Decay": 0,
    }  # fmt: skip


def test_an_empty_prediction_has_j_0():
    result = measured((ids("...."), ids("1122"))).compute()
    assert result["J-Mean"] == result["F-Mean"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_numbers_of_objects_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    frames = [(random_ids(rng, 3), random_ids(rng, 3)) for _ in range(4)]
    other = np.array([0, 200, 7])
    renamed = measured(*((other[predicted], other[target]) for predicted, target in frames), object_ids=(200, 7))
    assert renamed.compute() == measured(*frames).compute()


def test_masks_come_in_any_form():
    square = shifted(0)
    assert contour_accuracy(rle_from_bitmap(square), square.astype(np.uint8) * 255) == 1
    assert region_similarity(rle_from_bitmap(square), square) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cat", 2, ids("11"), ids("111"), [1]), r"sequence cat, frame 2: prediction: size \(1, 2\), but the target has \(1, 3\)"),
        (("cat", 2, ids("13"), ids("11"), [1, 2]), r"frame 2: the prediction has objects \[3\], but the sequence has \[1, 2\]"),
        (("cat", 2, ids("11") / 1, ids("11"), [1]), r"frame 2: prediction: expected object numbers \(H, W\) of integers, got float64"),
        (("cat", 2, ids("11"), ids("11"), [0, 1]), "frame 2: 0 means no object"),
        (("cat", 1, ids("11"), ids("11"), [1]), "sequence cat, frame 1: was added before"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(arguments, message):
    metric, same = VideoObjects(), VideoObjects()
    for each in (metric, same):
        each.update("cat", 1, ids("11"), ids("11"), [1])
    with pytest.raises(ValueError, match=message):
        metric.update(*arguments)
    assert metric == same
    with pytest.raises(ValueError, match="sequence cat, frame 1: is in both"):
        metric += same


@pytest.mark.parametrize("function", [region_similarity, contour_accuracy])
def test_masks_of_different_size_are_refused(function):
    with pytest.raises(ValueError, match=r"prediction: size \(1, 2\), but the target has \(1, 3\)"):
        function(mask("##"), mask("###"))


def test_before_the_first_object_there_is_nothing_to_compute():
    with pytest.raises(ValueError, match="nothing to compute"):
        VideoObjects().compute()
    with pytest.raises(ValueError, match="nothing to compute"):
        measured((ids(".."), ids("..")), object_ids=[]).compute()
