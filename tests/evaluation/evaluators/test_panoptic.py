"""Panoptic predictions of four rows: what counts, and what is refused."""

import numpy as np
import pytest

from psalm_hf.evaluation.evaluators.panoptic import PanopticEvaluator, PanopticThresholds, ThingsFound, panoptic_map
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Segment
from tests.evaluation.evaluators.four_rows import CAT, CATEGORIES, GRASS, rows, sample


def test_pq_by_size_counts_segments_of_that_size_alone():
    measure = PanopticEvaluator(CATEGORIES, sizes={"small": (0, 5), "large": (5, 100)})
    answer = {"segments": [{"category_id": CAT, "mask": rows(0)}, {"category_id": GRASS, "mask": rows(3)}]}
    measure.add(sample(Segment(rows(0), CAT), Segment(rows(2, 3), GRASS)), answer)
    numbers = measure.numbers()
    # Half of the grass is no match: one of large segments is missed, and one of small ones is false.
    assert (numbers["panoptic PQ, small"], numbers["panoptic PQ, large"]) == ((100 + 0) / 2, 0)
    assert measure.counts() == {"segments": 2}


def test_masks_of_one_picture_that_overlap_or_have_another_size_are_refused():
    overlapping = {"segments": [{"category_id": CAT, "mask": rows(0)}, {"category_id": GRASS, "mask": rows(0, 1)}]}
    with pytest.raises(ValueError, match="image 1, prediction: "):
        panoptic_map(sample(), overlapping)
    other = {"segments": [{"category_id": CAT, "mask": rle_from_bitmap(np.ones((2, 2), dtype=bool))}]}
    with pytest.raises(ValueError, match="image 1, prediction: "):
        panoptic_map(sample(), other)


def test_a_variant_has_answers_and_numbers_of_its_own():
    half = PanopticEvaluator(CATEGORIES, PanopticThresholds(0.5, 0.5), variant="thresholds 0.5")
    half.add(sample(Segment(rows(0), CAT)), {"segments": [{"category_id": CAT, "mask": rows(0)}]})
    assert half.name == "panoptic_thresholds_0.5" and half.numbers()["panoptic PQ, thresholds 0.5"] == 100
    assert half.per_category() == {} and list(half.protocol()) == ["panoptic, thresholds 0.5"]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ([(CAT, (0, 1))], True),
        ([(CAT, (0, 1, 2, 3))], False),  # an IoU of 0.5 is not above one half
        ([(CAT, (0, 1, 2))], True),  # 2 of 3
        ([(GRASS, (0, 1))], False),  # right mask, wrong name
        ([], False),
    ],
)
def test_a_thing_is_found_by_its_category_and_more_than_half(answer, found):
    measure = ThingsFound("panoptic", [CAT], {"small": (0, 5), "large": (5, 100)}, lambda sample: ["seen"])
    segments = [{"category_id": category, "mask": rows(*where)} for category, where in answer]
    measure.add(sample(Segment(rows(0, 1), CAT), Segment(rows(2), GRASS)), {"segments": segments})
    assert measure.numbers() == dict.fromkeys(("things found, all", "things found, large", "things found, seen"), 100 * found)
    assert measure.counts() == {"things, all": 1, "things, large": 1, "things, seen": 1}
    total = ThingsFound("panoptic", [CAT], {}, lambda sample: [])
    total += measure
    total += measure
    assert total.numbers() == measure.numbers() and total.counts()["things, all"] == 2
