"""Correspondence measures on masks small enough to count, and their laws."""

import math

import numpy as np
import pytest

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import Correspondence, compared_size, resize_nearest
from tests.metrics.drawing import mask

DIAGONAL = 480 * math.sqrt(2)


def blank(height=240, width=480):
    return np.zeros((height, width), dtype=bool)


def box(top, left, height, width, size=(240, 480)):
    painted = np.zeros(size, dtype=bool)
    painted[top : top + height, left : left + width] = True
    return painted


def measured(*rows):
    metric = Correspondence()
    for predicted, target, confidence in rows:
        metric.update(predicted, target, confidence)
    return metric.compute()


def test_truth_as_prediction_is_right_in_everything():
    target = box(10, 20, 30, 40)
    result = measured((target, target, 1.0), (blank(), None, 0.0))
    assert result == {
        "IoU": 100, "contour accuracy": 100, "location error": 0, "existence accuracy": 100, "visibility accuracy": 100,
    }  # fmt: skip


def test_iou_and_location_are_those_of_the_boxes_that_were_drawn():
    # 30 x 40 pixels, moved by 12 rows and 16 columns: 18 x 24 in common. The centres are 20 pixels apart.
    result = measured((box(22, 36, 30, 40), box(10, 20, 30, 40), 1.0))
    assert result["IoU"] == pytest.approx(100 * 18 * 24 / (2 * 30 * 40 - 18 * 24))
    assert result["location error"] == pytest.approx(100 * 20 / DIAGONAL)
    assert result["contour accuracy"] < 100


def test_the_centre_is_that_of_the_box_rounded_down():
    # Columns 0 to 1 and 0 to 2: centres 0 and 1.
    assert measured((box(0, 0, 1, 2), box(0, 0, 1, 3), 1.0))["location error"] == pytest.approx(100 / DIAGONAL)


def test_an_empty_mask_lies_where_the_public_script_puts_it():
    # Height 240, width 480: at x = 120, y = 240, below the picture. The box of one pixel is at x = 470, y = 0.
    result = measured((blank(), box(0, 470, 1, 1), 1.0))
    assert result["location error"] == pytest.approx(100 * math.hypot(470 - 120, 240) / DIAGONAL)
    assert (result["IoU"], result["contour accuracy"], result["existence accuracy"]) == (0, 0, 0)


def test_an_annotation_without_pixels_is_met_by_an_empty_mask():
    result = measured((blank(), blank(), 1.0))
    assert (result["IoU"], result["location error"], result["existence accuracy"]) == (100, 0, 100)


def test_what_is_not_visible_is_judged_by_the_confidence_alone():
    # 3 visible ones, 2 recognised; 2 invisible ones, 1 recognised. One half is not above one half.
    target = box(0, 0, 9, 9)
    result = measured((target, target, 0.9), (target, target, 0.51), (target, target, 0.5), (target, None, 0.5), (target, None, 0.6))
    assert result["visibility accuracy"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert result["IoU"] == 100


def test_where_one_kind_is_missing_its_share_does_not_count():
    target = box(0, 0, 9, 9)
    assert measured((target, target, 0.9), (target, target, 0.1))["visibility accuracy"] == 50
    result = measured((blank(), None, 0.1))
    assert result["visibility accuracy"] == 100
    assert math.isnan(result["IoU"]) and math.isnan(result["location error"]) and math.isnan(result["existence accuracy"])


@pytest.mark.parametrize(
    ("size", "compared"),
    [((2160, 3840), (270, 480)), ((540, 960), (270, 480)), ((1408, 1408), (480, 480)), ((704, 704), (480, 480)), ((100, 60), (480, 288))],
)
def test_masks_are_compared_at_a_longer_side_of_480(size, compared):
    assert compared_size(size) == compared


def test_the_nearest_pixel_is_the_one_at_the_scaled_coordinate_rounded_down():
    assert resize_nearest(mask("##..#"), (1, 3)).tolist() == [[True, True, False]]  # columns 0, 1.67, 3.33
    assert resize_nearest(mask("#.", ".#"), (4, 4)).tolist() == np.kron(np.eye(2, dtype=bool), np.ones((2, 2), bool)).tolist()


def test_predictions_of_the_frame_and_of_the_compared_size_are_the_same():
    target = box(400, 800, 200, 300, (1080, 1920))
    small = resize_nearest(target, (270, 480))
    first = measured((small, target, 1.0), (blank(270), target, 1.0))
    assert first == measured((rle_from_bitmap(resize_nearest(target, (540, 960))), target, 1.0), (blank(270), target, 1.0))
    assert first["IoU"] == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((blank(480), blank(), 1.0), r"prediction: size \(480, 480\) is \(480, 480\) .*, but the target has \(240, 480\), \(240, 480\)"),
        ((blank().astype(float), blank(), 1.0), "prediction: expected a mask"),
        ((blank(), blank().astype(float), 1.0), "target: expected a mask"),
        ((blank(), blank(), 1.5), "confidence: expected a number from 0 to 1, got 1.5"),
        ((blank(), None, math.nan), "confidence: expected a number from 0 to 1, got nan"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(arguments, message):
    metric = Correspondence()
    with pytest.raises(ValueError, match=message):
        metric.update(*arguments)
    assert metric == Correspondence()


def test_before_the_first_update_there_is_nothing_to_compute():
    with pytest.raises(ValueError, match="nothing to compute"):
        Correspondence().compute()
