"""Instances of expressions: images of one row of ten pixels, whose matches anyone can count."""

import math
import pickle

import numpy as np
import pytest

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import ExpressionInstances, MaskAP
from psalm_hf.metrics.expression_instances import match
from psalm_hf.structures import Segment


def span(first, last):
    """RLE of the pixels first to last, of ten."""
    mask = np.zeros((1, 10), dtype=bool)
    mask[:, first : last + 1] = True
    return rle_from_bitmap(mask)


def target(first, last, **options):
    return Segment(span(first, last), **options)


def metric_of(*expressions):
    """Expressions: (predicted spans, of which the first `number` are the set; spans that are meant; number)."""
    metric = ExpressionInstances()
    for index, (predicted, meant, number) in enumerate(expressions):
        scores = [0.9 - 0.1 * place for place in range(len(predicted))]
        metric.update(str(index), [span(*one) for one in predicted], scores, [target(*one) for one in meant], number)
    return metric


def test_a_set_is_right_if_every_instance_has_its_own_match_and_none_is_left():
    two = [(0, 3), (5, 8)]
    for predicted, number, right in (
        (two, 2, 100),
        (two[::-1], 2, 100),
        ([(0, 2), (5, 8)], 2, 100),  # IoU 3/4
        ([(0, 1), (5, 8)], 2, 100),  # 2/4, just enough
        ([(0, 0), (5, 8)], 2, 0),  # 1/4
        (two, 1, 0),  # one is missing
        ([*two, (9, 9)], 3, 0),  # one too many
        ([*two, (9, 9)], 2, 100),  # which is not in the set
        ([two[0], (0, 2)], 2, 0),  # both are the same one
        ([(0, 8)], 1, 0),  # both in one mask
    ):
        assert metric_of((predicted, two, number)).compute()["set accuracy"] == right


def test_what_means_nothing_is_right_if_nothing_is_predicted():
    metric = metric_of(([], [], 0), ([(0, 3)], [], 0), ([(0, 3)], [], 1))
    numbers = metric.compute()
    assert numbers["set accuracy"] == pytest.approx(100 * 2 / 3)
    assert numbers["precision"] == 0
    assert all(math.isnan(numbers[name]) for name in ("AP", "recall", "pmF1", "IL-MCC", "cgF1"))
    assert metric.counts()["expressions without target"] == 3 and metric.counts()["false"] == 1


def test_numbers_are_those_of_a_count_by_hand():
    metric = metric_of(
        ([(0, 3), (5, 8)], [(0, 3), (5, 8)], 2),  # both, exactly
        ([(0, 3), (0, 2), (9, 9)], [(0, 3), (5, 8)], 3),  # one, once more, and a false one
        ([], [(0, 3)], 0),  # missed
        ([(4, 4)], [], 1),  # invented
        ([], [], 0),
    )
    counts = metric.counts()
    assert counts == {
        "expressions with a target": 3, "expressions without target": 2, "instances": 5, "found": 3, "false": 2, "duplicates": 1,
    }  # fmt: skip
    numbers = metric.compute()
    assert numbers["set accuracy"] == 100 * 2 / 5
    assert (numbers["recall"], numbers["precision"]) == (100 * 3 / 5, 100 * 3 / 6)
    assert numbers["pmF1"] == pytest.approx(100 * 2 * 3 / (5 + 5))  # five were predicted where something is meant, at every IoU
    # Something was said: tp 2, fn 1, fp 1, tn 1.
    assert numbers["IL-MCC"] == pytest.approx(100 * (2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))
    assert numbers["cgF1"] == pytest.approx(60 / 6)


def test_f1_is_the_mean_over_ious():
    # IoU 4/5: right at 0.50, 0.55, ... 0.80, which are 7 of 10.
    assert metric_of(([(0, 3)], [(0, 4)], 1)).compute()["pmF1"] == pytest.approx(70)


def test_average_precision_is_that_of_coco_with_an_image_per_expression():
    rng = np.random.default_rng(0)
    metric, coco = ExpressionInstances(), MaskAP({})
    for index in range(20):
        predicted = [span(first, first + int(rng.integers(4))) for first in rng.integers(0, 7, 3)]
        meant = [target(first, first + 2, category_id=1) for first in rng.permutation([0, 3, 6])[: index % 4]]
        scores = rng.random(3).tolist()
        metric.update(str(index), predicted, scores, meant, 1)
        coco.update(str(index), predicted, [1] * 3, scores, meant)
    expected = {name: value for name, value in coco.compute().items() if name.startswith("AP")}
    assert expected["AP"] > 0 and metric.compute().items() >= expected.items()


def test_matches_have_the_highest_sum_of_ious():
    masks, targets = match(np.array([[0.9, 0.8], [0.8, 0.0]]))  # not 0.9 + 0
    assert list(zip(masks.tolist(), targets.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_crowds_are_not_meant_and_what_lies_on_them_is_not_counted():
    metric = ExpressionInstances()
    crowd = target(5, 9, is_crowd=True)
    metric.update("on the crowd", [span(0, 3), span(6, 8)], [0.9, 0.8], [target(0, 3), crowd], 2)
    metric.update("beside it", [span(0, 3), span(3, 5)], [0.9, 0.8], [target(0, 3), crowd], 2)
    metric.update("alone", [span(6, 8)], [0.9], [crowd], 1)
    assert (metric.right, metric.absent_right, metric.present, metric.absent) == (1, 1, 2, 1)


def test_workers_add_up_to_one_that_saw_everything():
    expressions = [([(0, 3), (5, 8)], [(0, 3)], 2), ([(0, 2)], [], 1), ([(4, 7)], [(4, 8), (0, 1)], 1), ([], [], 0)]
    whole, first, second = ExpressionInstances(), ExpressionInstances(), ExpressionInstances()
    for index, (predicted, meant, number) in enumerate(expressions):
        for metric in (whole, (first, second)[index % 2]):
            metric.update(str(index), [span(*one) for one in predicted], [0.5] * len(predicted), [target(*one) for one in meant], number)
    first += pickle.loads(pickle.dumps(second))
    assert first.compute() == pytest.approx(whole.compute(), abs=0, nan_ok=True) and first.counts() == whole.counts()


@pytest.mark.parametrize("number", [-1, 2, 1.0, True, None])
def test_a_number_that_is_none_of_the_masks_is_refused(number):
    with pytest.raises(ValueError, match="number: expected how many of the 1 masks are the set, from 0 to 1"):
        metric_of(([(0, 3)], [(0, 3)], number))


def test_an_expression_counts_once_and_nothing_gives_no_number():
    metric = metric_of(([(0, 3)], [(0, 3)], 1))
    with pytest.raises(ValueError, match="0: was added before"):
        metric.update("0", [], [], [], 0)
    with pytest.raises(ValueError, match="at least one expression"):
        ExpressionInstances().compute()
