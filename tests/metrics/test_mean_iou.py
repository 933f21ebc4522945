"""Semantic measures on maps small enough to count, and their laws."""

import numpy as np
import pytest

from psalm_hf.metrics import MeanIoU
from tests.metrics.drawing import ids, random_ids


def measured(predicted, target, num_classes=4, ignore_label=9):
    metric = MeanIoU(num_classes, ignore_label)
    metric.update(predicted, target)
    return metric


def test_two_classes_counted_by_hand():
    # Class 1: 3 true, 2 of them found, 2 invented. Class 2: 5 true, 3 found, 1 invented.
    metric = measured(ids("1122", "1122"), ids("1112", "2222"))
    assert metric.per_category() == {
        1: {"IoU": pytest.approx(100 * 2 / 5), "ACC": pytest.approx(100 * 2 / 3)},
        2: {"IoU": pytest.approx(100 * 3 / 6), "ACC": pytest.approx(100 * 3 / 5)},
    }
    assert metric.compute() == {
        "mIoU": pytest.approx(100 * (2 / 5 + 3 / 6) / 2),
        "fwIoU": pytest.approx(100 * (3 / 8 * 2 / 5 + 5 / 8 * 3 / 6)),
        "mACC": pytest.approx(100 * (2 / 3 + 3 / 5) / 2),
        "pACC": pytest.approx(100 * 5 / 8),
    }


def test_a_class_that_is_only_predicted_lowers_the_others_but_has_no_part_in_the_mean():
    metric = measured(ids("1113"), ids("1111"))
    assert metric.compute()["mIoU"] == 75
    assert list(metric.per_category()) == [1]


def test_ignored_pixels_count_nowhere_whatever_is_predicted_there():
    assert measured(ids("1123"), ids("1199")).compute() == measured(ids("11"), ids("11")).compute()
    assert measured(ids("1188"), ids("1199")).compute()["pACC"] == 100  # 8 is no class


def test_a_png_of_uint8_and_459_classes_do_not_overflow():
    target = np.full((3, 4), 250, np.uint8)
    metric = measured(target, target.astype(np.uint16), num_classes=459, ignore_label=65535)
    assert metric.per_category() == {250: {"IoU": 100, "ACC": 100}}


@pytest.mark.parametrize("seed", range(5))
def test_truth_as_prediction_gives_100(seed):
    target = random_ids(np.random.default_rng(seed), 4)
    assert set(measured(target, target).compute().values()) == {100}


@pytest.mark.parametrize("seed", range(5))
def test_renaming_the_classes_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    predicted, target, other = random_ids(rng, 4), random_ids(rng, 4), rng.permutation(4)
    assert measured(other[predicted], other[target]).compute() == pytest.approx(measured(predicted, target).compute())


def test_the_ignore_label_must_not_be_a_class():
    with pytest.raises(ValueError, match="ignore_label 255 is also one of the 459 classes"):
        MeanIoU(459)


@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [
        (ids("11"), ids("111"), r"prediction \(1, 2\) and target \(1, 3\)"),
        (ids("11")[0], ids("11")[0], r"one shape \(H, W\)"),
        (ids("14"), ids("11"), "prediction: labels from 1 to 4, but there are 4 classes"),
        (ids("19"), ids("11"), "only the target may hold the ignore label 9"),
        (ids("11"), ids("15"), "target: labels from 1 to 5"),
        (ids("11"), ids("11") - 2, "target: labels from -1 to -1"),
        (ids("11") / 1, ids("11"), "prediction: expected integers, got float64"),
    ],
)
def test_what_does_not_fit_is_refused(predicted, target, message):
    metric = MeanIoU(4, ignore_label=9)
    with pytest.raises(ValueError, match=message):
        metric.update(predicted, target)
    assert not metric.confusion.any()


def test_without_a_pixel_there_is_nothing_to_compute():
    with pytest.raises(ValueError, match="nothing to compute"):
        MeanIoU(4).compute()
    with pytest.raises(ValueError, match="nothing to compute"):
        measured(ids("11"), ids("99")).per_category()
