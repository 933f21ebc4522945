"""Laws that hold whatever the masks: the truth is worth 100, and neither numbers of segments, nor their order, nor mirrors matter.

The cases are drawn by hypothesis, which looks for the smallest one that breaks a law.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import LvisAP, MaskAP, MeanIoU, PanopticQuality, ReferringIoU, RegionIoU, VideoObjects
from psalm_hf.structures import Segment

laws = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

SIZE = (4, 6)
IS_THING = {1: True, 2: True, 3: False}


def maps(high):
    """(H, W) numbers 0 .. high."""
    return st.lists(st.integers(0, high), min_size=SIZE[0] * SIZE[1], max_size=SIZE[0] * SIZE[1]).map(
        lambda values: np.array(values).reshape(SIZE)
    )


masks = maps(1).map(lambda values: values.astype(bool))
categories = st.lists(st.integers(1, 3), min_size=4, max_size=4)


def panoptic(*images):
    """PQ of (predicted map, categories of ids 1.., true map, categories of ids 1..)."""
    metric = PanopticQuality(IS_THING)
    for predicted, predicted_categories, target, target_categories in images:
        present = {id: category for id, category in predicted_categories.items() if (predicted == id).any()}
        metric.update(predicted, present, target, {id: category for id, category in target_categories.items() if (target == id).any()})
    return metric.compute()


def by_id(found):
    return dict(enumerate(found, 1))


@laws
@given(maps(4), categories)
def test_panoptic_truth_is_worth_100(target, found):
    value = panoptic((target, by_id(found), target, by_id(found)))["PQ"]
    assert value == 100 or (np.isnan(value) and not target.any())


@laws
@given(maps(4), categories, maps(4), categories, st.permutations([1, 2, 3, 4]), st.integers(0, 10**6))
def test_ids_of_segments_do_not_matter(predicted, predicted_categories, target, target_categories, order, shift):
    new = dict(zip([1, 2, 3, 4], (number + shift for number in order), strict=True))
    renamed = np.vectorize(lambda id: new.get(id, 0))(predicted)
    moved = {new[id]: category for id, category in by_id(predicted_categories).items()}
    before = panoptic((predicted, by_id(predicted_categories), target, by_id(target_categories)))
    assert str(before) == str(panoptic((renamed, moved, target, by_id(target_categories))))


@laws
@given(maps(4), categories, maps(4), categories)
def test_a_picture_and_its_mirror_are_worth_the_same(predicted, predicted_categories, target, target_categories):
    found, true = by_id(predicted_categories), by_id(target_categories)
    assert str(panoptic((predicted, found, target, true))) == str(panoptic((predicted[:, ::-1], found, target[:, ::-1], true)))


@laws
@given(maps(2), maps(2), st.permutations([0, 1, 2]))
def test_numbers_of_classes_do_not_matter(predicted, target, order):
    def measure(*pair):
        metric = MeanIoU(3)
        metric.update(*pair)
        return metric.compute(), metric.per_category()

    new = np.array(order)
    (before, before_classes), (after, after_classes) = measure(predicted, target), measure(new[predicted], new[target])
    assert after == pytest.approx(before, nan_ok=True)
    assert all(str(after_classes.get(int(new[label]))) == str(numbers) for label, numbers in before_classes.items())
    assert measure(target, target)[0]["mIoU"] == 100


@laws
@given(
    st.lists(st.tuples(masks, st.integers(1, 2), st.integers(1, 5)), max_size=5),
    st.lists(st.tuples(masks, st.integers(1, 2)), max_size=4),
    st.data(),
)
def test_the_order_of_objects_does_not_matter_where_scores_differ(found, true, data):
    found = [(mask, category, score + index / 10) for index, (mask, category, score) in enumerate(found)]
    targets = [Segment(rle_from_bitmap(mask), category) for mask, category in true if mask.any()]

    def measure(metric, **options):
        def numbers(found):
            total = metric()
            total.update(
                "one", [entry[0] for entry in found], [entry[1] for entry in found], [entry[2] for entry in found], targets, **options
            )
            return total.compute()

        return numbers

    order = data.draw(st.permutations(range(len(found))))
    known = {"negative_category_ids": [1, 2], "not_exhaustive_category_ids": []}
    for numbers in (measure(MaskAP), measure(lambda: LvisAP(frequencies={1: "r", 2: "f"}), **known)):
        assert str(numbers(found)) == str(numbers([found[index] for index in order]))


@laws
@given(masks, masks)
def test_iou_is_symmetric_and_its_truth_is_worth_100(first, second):
    def numbers(metric, *pair):
        metric.update(*pair)
        return metric.compute()

    assert numbers(RegionIoU(), first, second) == pytest.approx(numbers(RegionIoU(), second, first), nan_ok=True)
    assert numbers(RegionIoU(), first, first)["mIoU"] == 100
    assert numbers(ReferringIoU(), first, first)["gIoU"] == 100
    if first.any() and second.any():
        expected = numbers(RegionIoU(), first, second)
        found = numbers(ReferringIoU(), first, second)
        assert (found["gIoU"], found["cIoU"]) == (expected["mIoU"], expected["cIoU"])


@laws
@given(st.lists(st.tuples(maps(3), maps(3)), min_size=1, max_size=3), st.permutations([1, 2, 3]))
def test_numbers_of_objects_in_a_video_do_not_matter(frames, order):
    def measure(rename):
        metric = VideoObjects()
        for number, (predicted, target) in enumerate(frames):
            metric.update("clip", number, rename[predicted], rename[target], (1, 2, 3))
        return metric.compute()

    assert measure(np.array([0, *order])) == pytest.approx(measure(np.arange(4)), nan_ok=True)
    truth = VideoObjects()
    for number, (_, target) in enumerate(frames):
        truth.update("clip", number, target, target, (1, 2, 3))
    assert truth.compute()["J&F"] == 100
