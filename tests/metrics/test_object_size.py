"""Bins of object sizes."""

import math

import pytest

from psalm_hf.metrics import RegionIoU, size_bin
from tests.metrics.drawing import mask


@pytest.mark.parametrize(("area", "name"), [(0, "small"), (1023, "small"), (1024, "medium"), (9215, "medium"), (9216, "large")])
def test_coco_sizes_begin_at_32_and_96_squared(area, name):
    assert size_bin(area) == name


def test_bins_may_be_fractions_of_the_image():
    bins = {"below 2 %": (0, 0.02), "larger": (0.02, math.inf)}
    assert [size_bin(area / 128**2, bins) for area in (327, 328)] == ["below 2 %", "larger"]


def test_an_area_outside_of_all_bins_is_refused():
    with pytest.raises(ValueError, match="area 400 is in none of the bins"):
        size_bin(400, {"below 2 %": (0, 0.02), "larger": (0.02, 1)})


def test_one_measure_per_bin_gives_results_by_size():
    bins = {"thin": (0, 3), "thick": (3, math.inf)}
    measures = {name: RegionIoU() for name in bins}
    for predicted, target in ((mask("#..."), mask("##..")), (mask("####"), mask("####"))):
        measures[size_bin(int(target.sum()), bins)].update(predicted, target)
    assert {name: measure.compute()["mIoU"] for name, measure in measures.items()} == {"thin": 50, "thick": 100}
