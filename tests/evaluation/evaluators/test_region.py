"""Regions on images of four rows, and sums by group."""

import numpy as np
import pytest

from psalm_hf.evaluation.evaluators.grouped import GroupedIoU
from psalm_hf.evaluation.evaluators.region import RegionEvaluator
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import RegionIoU
from psalm_hf.structures import Region, Segment
from tests.evaluation.evaluators.four_rows import SIZE, rows, sample


def test_regions_count_under_kind_and_size_and_whether_training_has_shown_them():
    regions = (Region("point", points=((0, 0),), segment=0), Region("point", points=((0, 3),), segment=1))
    asked = sample(Segment(rows(0)), Segment(rows(2, 3)), regions=regions, tags=("seen:0", "held_out:1"))
    measure = RegionEvaluator({"small": (0, 5), "large": (5, 100)})
    measure.add(asked, {"masks": [rows(0), rows(3)], "scores": [1.0, 1.0]})
    numbers = measure.numbers()
    assert (numbers["region mIoU, point"], numbers["region mIoU, point, small"], numbers["region mIoU, point, held_out"]) == (75, 100, 50)
    groups = {"": 2, ", held_out": 1, ", large": 1, ", seen": 1, ", small": 1}
    assert measure.counts() == {f"regions, point{group}": number for group, number in groups.items()}
    with pytest.raises(ValueError, match="image 1, prediction: 1 masks and 1 scores for 2 regions"):
        measure.add(asked, {"masks": [rows(0)], "scores": [1.0]})
    with pytest.raises(ValueError, match="image 1, region 0: "):
        measure.add(asked, {"masks": [rle_from_bitmap(np.ones((2, 2), dtype=bool))] * 2, "scores": [1.0, 1.0]})


def test_a_group_is_the_sum_of_whatever_belongs_to_it():
    iou = GroupedIoU(RegionIoU)
    iou.part(("a", "b")).update(np.ones(SIZE, dtype=bool), np.ones(SIZE, dtype=bool))
    iou.part(("a",)).update(np.ones(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool))
    assert {name: part.compute()["mIoU"] for name, part in iou.by_group().items()} == {"a": 50, "b": 100}
    assert iou.whole().compute()["mIoU"] == 50


def test_adding_groups_leaves_the_other_as_it_was():
    total, other = GroupedIoU(RegionIoU), GroupedIoU(RegionIoU)
    other.part(("a",)).update(np.ones(SIZE, dtype=bool), np.ones(SIZE, dtype=bool))
    total += other
    total.part(("a",)).update(np.ones(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool))
    assert (total.whole().compute()["mIoU"], other.whole().compute()["mIoU"]) == (50, 100)
