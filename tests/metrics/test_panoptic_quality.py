"""Panoptic quality on maps small enough to count, and its laws."""

import math

import numpy as np
import pytest

from psalm_hf.metrics import PanopticQuality
from tests.metrics.drawing import ids, random_ids

CAT, DOG, SKY = 17, 18, 187
IS_THING = {CAT: True, DOG: True, SKY: False}


def quality(predicted, predicted_categories, target, target_categories, crowd_ids=(), **options):
    metric = PanopticQuality(IS_THING, **options)
    metric.update(predicted, predicted_categories, target, target_categories, crowd_ids)
    return metric


def test_one_match_one_miss_one_false():
    # The sky has 5 of its 6 pixels and nothing else: IoU 5/6. The cat is called a dog: a miss and a false one.
    metric = quality(ids("11111.", "22...."), {1: SKY, 2: DOG}, ids("555555", "77...."), {5: SKY, 7: CAT})
    assert metric.per_category() == {
        CAT: {"PQ": 0, "SQ": 0, "RQ": 0},
        DOG: {"PQ": 0, "SQ": 0, "RQ": 0},
        SKY: {"PQ": pytest.approx(100 * 5 / 6), "SQ": pytest.approx(100 * 5 / 6), "RQ": 100},
    }
    result = metric.compute()
    assert result["PQ"] == pytest.approx(100 * 5 / 6 / 3)
    assert (result["PQ-things"], result["SQ-things"], result["RQ-things"]) == (0, 0, 0)
    assert result["PQ-stuff"] == result["SQ-stuff"] == pytest.approx(100 * 5 / 6)
    assert result["RQ"] == pytest.approx(100 / 3)


def test_recognition_quality_counts_misses_and_false_ones_by_half():
    # One match with IoU 1, one miss, two false ones: RQ = 1 / (1 + 3 / 2).
    metric = quality(ids("11..34"), {1: CAT, 3: CAT, 4: CAT}, ids("112255"), {1: CAT, 2: CAT, 5: SKY})
    assert metric.per_category()[CAT] == {"PQ": pytest.approx(40), "SQ": 100, "RQ": pytest.approx(40)}


def test_half_an_iou_is_no_match():
    metric = quality(ids("11..", "...."), {1: CAT}, ids("1111", "2222"), {1: CAT, 2: SKY})
    assert metric.compute()["PQ-things"] == 0
    metric = quality(ids("111.", "...."), {1: CAT}, ids("1111", "2222"), {1: CAT, 2: SKY})
    assert metric.compute()["PQ-things"] == 75


def test_predicted_pixels_on_void_do_not_lower_the_iou():
    metric = quality(ids("1111"), {1: CAT}, ids("11.."), {1: CAT})
    assert metric.compute()["PQ"] == 100


@pytest.mark.parametrize(("predicted", "is_false"), [("1111..", False), ("..1111", True), (".1111.", False), (".111..", False)])
def test_a_prediction_is_excused_by_more_than_half_void(predicted, is_false):
    # "..1111" has half of its pixels on void: not more than half. (".1111." has three of four, and one on the sky.)
    metric = quality(ids(predicted), {1: CAT}, ids("....22"), {2: SKY})
    assert bool(metric.false[CAT]) == is_false


def test_a_crowd_is_never_missed_and_excuses_its_own_category():
    target, categories = ids("111122"), {1: CAT, 2: SKY}
    assert not quality(ids("......"), {}, target, categories, crowd_ids=[1]).missed[CAT]
    assert not quality(ids("1122.."), {1: CAT, 2: CAT}, target, categories, crowd_ids=[1]).false[CAT]
    assert quality(ids("1122.."), {1: CAT, 2: DOG}, target, categories, crowd_ids=[1]).false == {DOG: 1}
    assert not quality(ids("1111.."), {1: CAT}, target, categories, crowd_ids=[1]).matched_ious[CAT]


def test_several_crowds_of_one_category_excuse_together():
    metric = quality(ids("1111"), {1: CAT}, ids("1233"), {1: CAT, 2: CAT, 3: SKY}, crowd_ids=[1, 2])
    assert metric.false[CAT] == 1  # half of it
    metric = quality(ids("111."), {1: CAT}, ids("1233"), {1: CAT, 2: CAT, 3: SKY}, crowd_ids=[1, 2])
    assert metric.false[CAT] == 0


def test_images_without_any_segment_leave_everything_undefined():
    result = quality(ids(".."), {}, ids(".."), {}).compute()
    assert all(math.isnan(value) for value in result.values())
    assert quality(ids(".."), {}, ids(".."), {}).per_category() == {}


def test_a_true_segment_without_pixels_is_missed():
    assert quality(ids("11"), {1: CAT}, ids("11"), {1: CAT, 2: CAT}).missed[CAT] == 1


def test_before_the_first_update_there_is_nothing_to_compute():
    with pytest.raises(ValueError, match="nothing to compute"):
        PanopticQuality(IS_THING).compute()


def random_image(rng):
    """Arguments of an update: prediction and truth with void, several segments per category, sometimes a crowd."""
    target = random_ids(rng, 6)
    predicted = np.where(rng.random(target.shape) < 0.8, target, random_ids(rng, 6))
    categories = {segment_id: int(rng.choice([CAT, DOG, SKY])) for segment_id in range(1, 6)}
    # Now and then the prediction takes another category than the truth.
    guessed = {
        segment_id: category if rng.random() < 0.8 else int(rng.choice([CAT, DOG, SKY])) for segment_id, category in categories.items()
    }
    present = set(np.unique(predicted).tolist()) - {0}
    crowd_ids = [segment_id for segment_id in categories if rng.random() < 0.2]
    return predicted, {segment_id: guessed[segment_id] for segment_id in present}, target, categories, crowd_ids


@pytest.mark.parametrize("seed", range(10))
def test_truth_as_prediction_gives_100(seed):
    _, _, target, categories, _ = random_image(np.random.default_rng(seed))
    present = {segment_id: category for segment_id, category in categories.items() if (target == segment_id).any()}
    result = quality(target, present, target, present).compute()
    assert {value for value in result.values() if not math.isnan(value)} == {100}


@pytest.mark.parametrize("seed", range(20))
def test_ids_and_the_order_of_segments_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    predicted, guessed, target, categories, crowd_ids = random_image(rng)
    other = np.array([0, *(rng.permutation(5) * 1000 + 16_000_000)])
    renamed = quality(
        other[predicted],
        {int(other[segment_id]): guessed[segment_id] for segment_id in reversed(guessed)},
        other[target],
        {int(other[segment_id]): categories[segment_id] for segment_id in reversed(categories)},
        [int(other[segment_id]) for segment_id in reversed(crowd_ids)],
    )
    assert renamed.per_category() == quality(predicted, guessed, target, categories, crowd_ids).per_category()


def test_area_ranges_share_the_counts_among_them():
    rng = np.random.default_rng(3)
    whole, small, large = (PanopticQuality(IS_THING, area_range) for area_range in ((0, math.inf), (0, 7), (7, math.inf)))
    for _ in range(30):
        image = random_image(rng)
        for metric in (whole, small, large):
            metric.update(*image)
    assert small.false + large.false == whole.false
    assert small.missed + large.missed == whole.missed
    for category in IS_THING:
        both = small.matched_ious[category] + large.matched_ious[category]
        assert sorted(both) == sorted(whole.matched_ious[category])
        assert small.matched_ious[category] and large.matched_ious[category]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ids("11"), {1: CAT}, ids("111"), {1: CAT}), r"size \(1, 2\), but the target has \(1, 3\)"),
        ((ids("11") / 2, {1: CAT}, ids("11"), {1: CAT}), "expected segment ids .* float64"),
        ((ids("11") - 2, {}, ids("11"), {1: CAT}), "ids from -1 to -1"),
        ((ids("11") << 31, {1 << 31: CAT}, ids("11"), {1: CAT}), "ids from 2147483648"),
        ((ids("12"), {1: CAT}, ids("11"), {1: CAT}), r"prediction: ids \[2\] are in the map"),
        ((ids("11"), {1: CAT, 3: CAT}, ids("11"), {1: CAT}), r"prediction: segments \[3\] have a category but no pixel"),
        ((ids("11"), {1: 5}, ids("11"), {1: CAT}), r"prediction: category ids \[5\] are none of the 3"),
        ((ids("11"), {1: CAT}, ids("12"), {1: CAT}), r"target: ids \[2\] are in the map"),
        ((ids("11"), {1: CAT}, ids("11"), {1: 5}), r"target: category ids \[5\]"),
        ((ids("1."), {1: CAT, 0: SKY}, ids("11"), {1: CAT}), "prediction: 0 means no segment"),
        ((ids("11"), {1: CAT}, ids("11"), {1: CAT}, [4]), r"crowd ids \[4\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(arguments, message):
    metric = PanopticQuality(IS_THING)
    with pytest.raises(ValueError, match=message):
        metric.update(*arguments)
    assert metric == PanopticQuality(IS_THING)
