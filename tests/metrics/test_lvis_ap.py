"""What LVIS leaves out of the count. How AP comes from what is left is pycocotools' matter, see test_mask_ap.py."""

import math

import numpy as np
import pytest

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import LvisAP, MaskAP
from psalm_hf.structures import Segment
from tests.metrics.test_workers import ap_image

CAT, DOG, CUP = 1, 2, 3
FREQUENCIES = {CAT: "f", DOG: "r", CUP: "c"}


def square(side, left=0):
    bitmap = np.zeros((120, 240), dtype=bool)
    bitmap[:side, left : left + side] = True
    return bitmap


def segment(bitmap, category_id=CAT, **options):
    return Segment(rle_from_bitmap(bitmap), category_id, **options)


def measured(found, targets, negative=(), not_exhaustive=(), **options):
    """`found`: (bitmap, category, score)."""
    metric = LvisAP(frequencies=FREQUENCIES, **options)
    masks, category_ids, scores = zip(*found, strict=True)
    metric.update(1, masks, category_ids, scores, targets, negative_category_ids=negative, not_exhaustive_category_ids=not_exhaustive)
    return metric


def test_found_objects_give_100_in_each_group_of_frequency():
    objects = [(square(20), CAT, 0.9), (square(50, left=20), DOG, 0.8), (square(110, left=100), DOG, 0.7)]
    result = measured(objects, [segment(bitmap, category_id) for bitmap, category_id, _ in objects]).compute()
    assert math.isnan(result.pop("AP-common"))
    sizes = ("small", "medium", "large")
    names = {"AP", "AP50", "AP75", "AR300", "AP-rare", "AP-frequent", *(f"{kind}-{size}" for kind in ("AP", "AR") for size in sizes)}
    assert result == dict.fromkeys(names, pytest.approx(100))


def test_groups_of_frequency_are_means_over_their_categories():
    found = [(square(20), CAT, 0.9), (square(20, left=100), DOG, 0.9), (square(50), CUP, 0.9)]
    targets = [segment(square(20)), segment(square(20, left=50), DOG), segment(square(50), CUP), segment(square(50, left=60), CUP)]
    result = measured(found, targets).compute()
    # One of two cups is found: precision 1 up to recall 1/2, at 51 of the 101 recalls.
    assert (result["AP-frequent"], result["AP-rare"], result["AP-common"]) == (pytest.approx(100), 0, pytest.approx(5100 / 101))
    assert result["AP"] == pytest.approx((100 + 5100 / 101) / 3)


def two_images(negative, not_exhaustive=()):
    """A cat found in image 1, and a surer cat in image 2, which has none."""
    metric = LvisAP(frequencies=FREQUENCIES)
    cat = [segment(square(20))]
    metric.update(1, [square(20)], [CAT], [0.5], cat, negative_category_ids=[], not_exhaustive_category_ids=[])
    metric.update(2, [square(20)], [CAT], [0.9], [], negative_category_ids=negative, not_exhaustive_category_ids=not_exhaustive)
    return metric.compute()["AP"]


def test_a_prediction_is_judged_only_where_its_category_was_looked_for():
    assert two_images(negative=[]) == pytest.approx(100)
    assert two_images(negative=[CAT]) == pytest.approx(50)
    assert two_images(negative=[DOG]) == pytest.approx(100)


def test_where_not_all_objects_are_annotated_false_predictions_are_ignored_and_hits_count():
    found, targets = [(square(20, left=100), CAT, 0.9), (square(20), CAT, 0.5)], [segment(square(20)), segment(square(20, left=50))]
    # One of two objects is found, at 51 of 101 recalls, with precision 1/2 or 1.
    assert measured(found, targets).compute()["AP"] == pytest.approx(2550 / 101)
    assert measured(found, targets, not_exhaustive=[DOG]).compute()["AP"] == pytest.approx(2550 / 101)
    assert measured(found, targets, not_exhaustive=[CAT]).compute()["AP"] == pytest.approx(5100 / 101)
    assert two_images(negative=[CAT], not_exhaustive=[CAT]) == pytest.approx(100)


def test_the_limit_is_on_all_predictions_of_an_image_also_those_that_are_not_judged():
    found = [(square(20), CAT, 0.5), (square(20), DOG, 0.9), (square(30), DOG, 0.8)]
    for limit, value in ((3, 100), (2, 0)):
        result = measured(found, [segment(square(20))], max_detections=(limit,)).compute()
        assert (result["AP"], result[f"AR{limit}"]) == (pytest.approx(value), pytest.approx(value))


def test_of_equally_sure_predictions_the_first_ones_stay():
    found = [(square(20), CAT, 0.5), (square(30), CAT, 0.5)]
    assert measured(found, [segment(square(20))], max_detections=(1,)).compute()["AP"] == pytest.approx(100)
    assert measured(found[::-1], [segment(square(20))], max_detections=(1,)).compute()["AP"] == 0


def test_where_everything_was_looked_for_it_is_the_ap_of_coco():
    rng = np.random.default_rng(3)
    federated, plain = LvisAP(frequencies=FREQUENCIES), MaskAP()
    for image_id in range(20):
        *predictions, targets = ap_image(rng, image_id)
        targets = [Segment(target.mask_rle, target.category_id) for target in targets]
        plain.update(*predictions, targets)
        federated.update(*predictions, targets, negative_category_ids=FREQUENCIES, not_exhaustive_category_ids=[])
    expected, result = plain.compute(), federated.compute()
    assert 0 < expected["AP"] < 100
    assert all(result[name] == expected[name] for name in ("AP", "AP50", "AP75", "AP-small"))
    assert federated.per_category() == plain.per_category()


def test_crowds_and_categories_without_frequency_are_refused():
    with pytest.raises(ValueError, match="image 1: a target is a crowd; LVIS has none"):
        measured([(square(20), CAT, 0.9)], [segment(square(20), is_crowd=True)])
    for category, target in ((9, CAT), (CAT, 9)):
        with pytest.raises(ValueError, match=r"image 1: categories \[9\] are none of the 3 with a frequency"):
            measured([(square(20), category, 0.9)], [segment(square(20), target)])
    with pytest.raises(ValueError, match="frequencies are r, c, f, got {1: 'often'}"):
        LvisAP(frequencies={CAT: "often"})
    with pytest.raises(ValueError, match="expected one number of detections"):
        LvisAP(frequencies=FREQUENCIES, max_detections=(1, 10))


def test_only_default_evaluators_the_same_frequencies_can_be_added():
    first = LvisAP(frequencies=FREQUENCIES)
    with pytest.raises(ValueError, match="only metrics made alike can be added"):
        first += LvisAP(frequencies={CAT: "r"})
