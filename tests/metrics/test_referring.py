"""Referring measures on masks small enough to count: every row of the table in `ReferringIoU`."""

import math

import pytest

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import ReferringIoU
from tests.metrics.drawing import mask

NOTHING, OBJECT, HALF = mask("....", "...."), mask("####", "...."), mask("##..", "....")


def measured(*rows):
    metric = ReferringIoU()
    for predicted, target, *no_target in rows:
        metric.update(predicted, target, predicted_no_target=no_target[0] if no_target else None)
    return metric.compute()


def test_ciou_weighs_by_pixels_and_giou_by_expressions():
    large = mask("########", "########")
    result = measured((HALF, OBJECT), (large, large))
    assert result["cIoU"] == pytest.approx(100 * (2 + 16) / (4 + 16))
    assert result["gIoU"] == pytest.approx(100 * (0.5 + 1) / 2)


def test_precision_includes_the_threshold():
    result = measured((HALF, OBJECT), (OBJECT, OBJECT))
    assert [result[f"P@{threshold}"] for threshold in (0.5, 0.6, 0.7, 0.8, 0.9)] == [100, 50, 50, 50, 50]


@pytest.mark.parametrize(
    ("row", "ciou", "giou", "n_acc", "t_acc"),
    [
        ((NOTHING, NOTHING, True), 100, 100, 100, 100),
        ((HALF, NOTHING, True), 100, 100, 100, 100),  # the mask of a model that says "nothing" does not count
        ((HALF, NOTHING, False), 100 * 4 / 6, 50, 0, 100),
        ((NOTHING, NOTHING, False), 100, 50, 0, 100),
        ((HALF, OBJECT, True), 100 * 4 / 8, 50, math.nan, 50),
        ((NOTHING, OBJECT, False), 100 * 4 / 8, 50, math.nan, 100),
        ((HALF, OBJECT, False), 100 * 6 / 8, 75, math.nan, 100),
    ],
)
def test_every_combination_of_target_and_answer_beside_one_right_answer(row, ciou, giou, n_acc, t_acc):
    result = measured((OBJECT, OBJECT, False), row)
    assert result["cIoU"] == pytest.approx(ciou)
    assert result["gIoU"] == pytest.approx(giou)
    assert result["N-acc"] == pytest.approx(n_acc, nan_ok=True)
    assert result["T-acc"] == pytest.approx(t_acc)


def test_the_union_of_a_suppressed_mask_is_that_of_mask_and_target():
    outside = mask("....", "##..")
    assert measured((OBJECT, OBJECT, False), (outside, OBJECT, True))["cIoU"] == pytest.approx(100 * 4 / (4 + 6))


def test_an_empty_mask_says_that_nothing_is_there_unless_told_otherwise():
    assert measured((NOTHING, NOTHING), (NOTHING, OBJECT)) == measured((NOTHING, NOTHING, True), (NOTHING, OBJECT, True))
    assert measured((HALF, OBJECT)) == measured((HALF, OBJECT, False))
    result = measured((NOTHING, NOTHING), (NOTHING, OBJECT))
    assert (result["N-acc"], result["T-acc"]) == (100, 0)


def test_precision_and_t_acc_are_about_expressions_with_a_target():
    result = measured((OBJECT, OBJECT), (HALF, NOTHING), (HALF, NOTHING))
    assert (result["P@0.5"], result["T-acc"]) == (100, 100)


def test_only_expressions_without_target():
    result = measured((NOTHING, NOTHING))
    assert (result["gIoU"], result["N-acc"]) == (100, 100)
    assert all(math.isnan(result[name]) for name in ("cIoU", "P@0.5", "T-acc"))
    assert measured((HALF, NOTHING))["cIoU"] == 0


def test_masks_may_be_rles():
    assert measured((rle_from_bitmap(HALF), rle_from_bitmap(OBJECT))) == measured((HALF, OBJECT))


def test_masks_of_different_size_are_refused():
    metric = ReferringIoU()
    with pytest.raises(ValueError, match=r"prediction: size \(1, 2\), but the target has \(2, 4\)"):
        metric.update(mask("##"), OBJECT)
    assert metric == ReferringIoU()


def test_before_the_first_update_there_is_nothing_to_compute():
    with pytest.raises(ValueError, match="nothing to compute"):
        ReferringIoU().compute()
