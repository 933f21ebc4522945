"""Region measures on masks small enough to count."""

import math

import numpy as np
import pytest

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import RegionIoU
from tests.metrics.drawing import mask


def measured(*rows):
    metric = RegionIoU()
    for predicted, target in rows:
        metric.update(predicted, target)
    return metric.compute()


def test_miou_weighs_by_prompts_and_ciou_by_pixels():
    # IoU 1/3 on small masks, 6/8 on large ones.
    result = measured((mask("##.."), mask(".##.")), (mask("######.."), mask("########")))
    assert result["mIoU"] == pytest.approx(100 * (1 / 3 + 6 / 8) / 2)
    assert result["cIoU"] == pytest.approx(100 * (1 + 6) / (3 + 8))


def test_truth_as_prediction_gives_100_in_any_form():
    target = mask("##..", ".#..")
    for form in (target, target.astype(np.uint8) * 255, rle_from_bitmap(target)):
        assert measured((form, target), (target, form)) == {"mIoU": 100, "cIoU": 100}


def test_two_empty_masks_agree_and_add_no_pixels():
    assert measured((mask(".."), mask("..")), (mask("#."), mask("##"))) == {"mIoU": 75, "cIoU": 50}
    result = measured((mask(".."), mask("..")))
    assert result["mIoU"] == 100 and math.isnan(result["cIoU"])


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (np.full((2, 2), 0.3), r"prediction: expected a mask \(H, W\) of bool or integers .* float64"),
        (np.ones((1, 2, 2), bool), r"prediction: expected a mask \(H, W\)"),
        (np.ones((2, 3), bool), r"prediction: size \(2, 3\), but the target has \(2, 2\)"),
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(predicted, message):
    metric = RegionIoU()
    with pytest.raises(ValueError, match=message):
        metric.update(predicted, np.ones((2, 2), bool))
    assert metric == RegionIoU()


def test_before_the_first_update_there_is_nothing_to_compute():
    with pytest.raises(ValueError, match="nothing to compute"):
        RegionIoU().compute()
