"""AP of Cityscapes on images of 20 x 40 pixels, where every number can be found on paper.

The curve's points are (precision, recall) from the lowest score to the highest, and (1, 0); each counts with half of the recall before it
minus the recall behind it.
"""

import math

import numpy as np
import pytest

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import CityscapesAP
from psalm_hf.structures import Segment

CAR, BUS = 26, 28
SIZE = (20, 40)
NOTHING = np.zeros(SIZE, dtype=bool)


def box(left, width, top=0, height=10):
    """Pixels of a rectangle; of 10 columns and the usual height, they are 100."""
    bitmap = NOTHING.copy()
    bitmap[top : top + height, left : left + width] = True
    return bitmap


def segment(bitmap, category_id=CAR, **options):
    return Segment(rle_from_bitmap(bitmap), category_id, **options)


def measured(found, targets, void=NOTHING):
    """`found`: (bitmap, score) or (bitmap, score, category)."""
    metric = CityscapesAP([CAR, BUS])
    categories = [entry[2] if len(entry) > 2 else CAR for entry in found]
    metric.update("ulm", [entry[0] for entry in found], categories, [entry[1] for entry in found], targets, void)
    return metric


def test_found_objects_give_100():
    objects = [(box(0, 10), 0.9), (box(10, 10), 0.1), (box(20, 20), 0.5, BUS)]
    metric = measured(objects, [segment(box(0, 10)), segment(box(10, 10)), segment(box(20, 20), BUS)])
    assert metric.compute() == {"AP": 100, "AP50": 100}
    assert metric.per_category() == {CAR: {"AP": 100, "AP50": 100}, BUS: {"AP": 100, "AP50": 100}}


def test_the_iou_must_be_above_the_overlap():
    # 16 of 20 columns: IoU 0.8, above 0.50, 0.55, ... 0.75 and not above 0.80.
    assert measured([(box(0, 16), 0.5)], [segment(box(0, 20))]).compute() == {"AP": pytest.approx(60), "AP50": 100}
    assert measured([(box(0, 10), 0.5)], [segment(box(0, 20))]).compute()["AP50"] == 0


def test_an_object_that_is_missed_and_a_false_prediction():
    targets = [segment(box(0, 10)), segment(box(10, 10))]
    # Points (1/2, 1/2), (1, 1/2), (1, 0) with widths 0, 1/4, 1/4.
    assert measured([(box(0, 10), 0.9), (box(20, 10), 0.5)], targets).compute()["AP50"] == pytest.approx(50)
    # The false one is surer: points (1/2, 1/2), (0, 0), (1, 0) with widths 1/4, 1/4, 0.
    assert measured([(box(0, 10), 0.9), (box(20, 10), 0.95)], targets).compute()["AP50"] == pytest.approx(12.5)


def test_of_two_predictions_on_one_object_the_less_sure_one_is_false():
    targets = [segment(box(0, 10)), segment(box(10, 10))]
    found = [(box(0, 10), 0.9), (box(0, 10), 0.8), (box(10, 10), 0.5)]
    # Points (2/3, 1), (1/2, 1/2), (1, 1/2), (1, 0), each with width 1/4.
    assert measured(found, targets).compute()["AP50"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1 + 1) / 4)


def test_groups_and_small_objects_are_not_missed_and_may_be_found():
    group, small = segment(box(10, 10), is_crowd=True), segment(box(20, 9))
    targets = [segment(box(0, 10)), group, small]
    assert measured([(box(0, 10), 0.5)], targets).compute()["AP"] == 100
    assert measured([(box(0, 10), 0.5), (box(10, 10), 0.9), (box(20, 9), 0.8)], targets).compute()["AP"] == 100


def test_a_prediction_that_lies_by_more_than_the_overlap_on_void_groups_and_small_objects_is_ignored():
    # 6 of its 10 columns: its share is above 0.50 and 0.55, where AP is 100. From 0.60 on it is false, and surer than the hit: points
    # (1/2, 1), (0, 0), (1, 0) with widths 1/2, 1/2, 0.
    for targets, void in (
        ([], box(10, 6)),
        ([segment(box(10, 6, height=20), is_crowd=True)], NOTHING),
        ([segment(box(13, 3))], box(10, 3)),
    ):
        found = [(box(0, 10), 0.5), (box(10, 10), 0.9)]
        # (A group of 200 pixels would be found with an IoU above one half only by a larger prediction.)
        assert measured(found, [segment(box(0, 10)), *targets], void).compute() == {"AP": pytest.approx(40), "AP50": 100}


def test_a_small_group_excuses_twice_as_in_the_script():
    # 3 of 10 columns, counted as 6.
    found = [(box(0, 10), 0.5), (box(10, 10), 0.9)]
    group = segment(box(10, 3), is_crowd=True)
    assert measured(found, [segment(box(0, 10)), group]).compute() == {"AP": pytest.approx(40), "AP50": 100}


def test_groups_of_another_category_excuse_nothing():
    found = [(box(0, 10), 0.5), (box(10, 10), 0.9)]
    other = segment(box(10, 10), BUS, is_crowd=True)
    assert measured(found, [segment(box(0, 10)), other]).compute()["AP"] == pytest.approx(25)


def test_a_prediction_of_another_category_finds_nothing():
    result = measured([(box(0, 10), 0.5, BUS)], [segment(box(0, 10))])
    assert result.compute() == {"AP": 0, "AP50": 0}
    assert result.per_category() == {CAR: {"AP": 0, "AP50": 0}}  # without a bus there is no AP of buses


def test_empty_masks_and_other_categories_are_left_out():
    road = 7
    assert measured([(box(0, 10), 0.5), (NOTHING, 0.9), (box(20, 10), 0.9, road)], [segment(box(0, 10))]).compute()["AP"] == 100


def test_nothing_but_ignored_predictions_is_as_good_as_none():
    for found in ([], [(box(20, 10), 0.9)]):
        assert measured(found, [segment(box(0, 10))], void=box(20, 10)).compute() == {"AP": 0, "AP50": 0}


def test_without_objects_everything_is_undefined():
    metric = measured([(box(0, 10), 0.5)], [segment(box(0, 9)), segment(box(10, 10), is_crowd=True)])
    assert all(math.isnan(value) for value in metric.compute().values()) and metric.per_category() == {}


def test_permuting_predictions_and_targets_changes_nothing():
    rng = np.random.default_rng(0)
    for _ in range(20):
        targets = [
            segment(box(left, 10, top), int(rng.choice([CAR, BUS])), is_crowd=rng.random() < 0.2) for left in (0, 12) for top in (0, 10)
        ]
        found = [
            (box(*rng.integers(0, 20, 2), rng.integers(0, 15)), float(rng.choice([0.2, 0.4, 0.6])), int(rng.choice([CAR, BUS])))
            for _ in range(12)
        ]
        expected = str(measured(found, targets).per_category())
        shuffled = [found[index] for index in rng.permutation(len(found))]
        assert str(measured(shuffled, [targets[index] for index in rng.permutation(len(targets))]).per_category()) == expected


def test_bitmaps_and_rles_are_the_same():
    found, targets = [(box(0, 16), 0.5), (box(0, 10), 0.9)], [segment(box(0, 20))]
    rles = [(rle_from_bitmap(bitmap), score) for bitmap, score in found]
    assert measured(found, targets, box(20, 5)).compute() == measured(rles, targets, rle_from_bitmap(box(20, 5))).compute()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "ulm"}, "image ulm: was added before"),
        ({"scores": [0.5, 0.5]}, "image bonn: 1 masks, 1 category ids and 2 scores"),
        ({"scores": [math.inf]}, "image bonn: scores must be finite"),
        ({"targets": [segment(box(0, 5), 7)]}, r"image bonn: targets \[0\] have a category that is none of 26, 28"),
        ({"targets": [segment(box(0, 5)), segment(box(4, 5))]}, "image bonn: label map: mask 1 overlaps an earlier one"),
        ({"void": box(0, 5)}, "image bonn: a target has pixels that are void"),
        ({"void": np.zeros((4, 5), bool)}, r"image bonn: label map: mask 0 is of size \(20, 40\), but the image is \(4, 5\)"),
        ({"masks": [np.zeros((4, 5), bool)]}, r"image bonn, mask 0: size \(4, 5\), but the image has \(20, 40\)"),
        ({"masks": [box(0, 5) / 2]}, "image bonn, mask 0: expected a mask"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(change, message):
    metric = measured([(box(0, 16), 0.5)], [segment(box(0, 20))])
    before = str(metric)
    arguments = {"image_id": "bonn", "masks": [box(0, 9)], "category_ids": [CAR], "scores": [0.9], "targets": [segment(box(0, 9))]}
    with pytest.raises(ValueError, match=message):
        metric.update(**({"void": NOTHING} | arguments | change))
    assert str(metric) == before and metric.compute()["AP"] == pytest.approx(60)


def test_an_image_of_two_workers_is_refused():
    first, second = measured([], []), measured([], [])
    with pytest.raises(ValueError, match="1 images are in both, such as ulm"):
        first += second


def test_before_the_first_update_there_is_nothing_to_compute():
    with pytest.raises(ValueError, match="nothing to compute"):
        CityscapesAP([CAR]).compute()
