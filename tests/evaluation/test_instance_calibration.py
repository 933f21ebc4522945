"""Thresholds of instances: what a person would choose, and what the evaluation then counts."""

import datasets
import numpy as np
import pytest

from psalm_hf.evaluation import evaluate
from psalm_hf.evaluation.calibration import open_calibration, score_expressions
from psalm_hf.evaluation.instance_calibration import (
    InstanceThresholds,
    ScoredInstances,
    choose_instance_thresholds,
    set_accuracies_at,
)
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Segment
from psalm_hf.tiny import build_tiny


def scored(scores, meant, repeated=()):
    """Mask i is target meant[i], or none of them (None); the pairs (i, j) of `repeated` are the same mask."""
    number = len({one for one in meant if one is not None})
    ious = np.array([[float(one == target) for target in range(number)] for one in meant]).reshape(len(meant), number)
    same = np.eye(len(meant))
    for one, other in repeated:
        same[one, other] = same[other, one] = 1
    return ScoredInstances(np.array(scores), same, ious)


def test_the_threshold_lies_between_the_instances_and_the_false_ones():
    chosen = choose_instance_thresholds([scored([0.9, 0.8, 0.4], [0, 1, None]), scored([0.9, 0.3], [0, None]), scored([0.1], [None])], 0.2)
    assert 0.4 <= chosen.instances < 0.8 and chosen.instances == pytest.approx(0.6, abs=0.02)


def test_each_number_of_instances_weighs_alike():
    several, one, weak = scored([0.9, 0.5], [0, 1]), scored([0.9, 0.6], [0, None]), scored([0.9, 0.4], [0, None])
    # From 0.4 to 0.5 the only one with several and one of ten with one are right, from 0.6 on none and all ten.
    assert 0.4 <= choose_instance_thresholds([several, *[one] * 9, weak], 0.2).instances < 0.5


def test_repetitions_are_left_out_where_they_would_make_a_set_wrong():
    repeats = scored([0.9, 0.8, 0.7], [0, 0, 1], [(0, 1)])
    assert choose_instance_thresholds([repeats], 0.2).nms < 1
    assert set_accuracies_at(InstanceThresholds(0.5, 0.9), 0.2, [repeats]) == {"several targets": 100}
    assert set_accuracies_at(InstanceThresholds(0.5, 1.0), 0.2, [repeats]) == {"several targets": 0}


def test_below_the_no_target_threshold_the_set_is_empty_and_above_it_the_best_belongs_to_it():
    expressions = [scored([0.5], [0]), scored([0.4], [None]), scored([], [])]
    thresholds = InstanceThresholds(0.8, 0.5)
    assert set_accuracies_at(thresholds, 0.45, expressions) == {"no target": 100, "one target": 100}
    assert set_accuracies_at(thresholds, 0.55, expressions) == {"no target": 100, "one target": 0}
    assert set_accuracies_at(thresholds, 0.3, expressions) == {"no target": 50, "one target": 100}


def test_masks_on_crowds_are_left_out():
    masks = [np.zeros((1, 10), dtype=bool) for _ in range(2)]
    masks[0][:, :4], masks[1][:, 6:] = True, True
    left, right = map(rle_from_bitmap, masks)
    found = ScoredInstances.of([left, right], np.array([0.9, 0.8]), [Segment(left), Segment(right, is_crowd=True)])
    assert found.scores.tolist() == [0.9] and found.ious.tolist() == [[1.0]] and found.repeated.tolist() == [[1.0]]


def test_without_expressions_there_is_nothing_to_choose():
    with pytest.raises(ValueError, match="no expressions; take more images"):
        choose_instance_thresholds([], 0.5)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")


@pytest.mark.parametrize("nms", [0.5, 1.0])
def test_calibration_foretells_what_evaluation_counts(nms):
    model, processor = build_tiny()
    _, instances = score_expressions(model, open_calibration("shapes", processor, limit=4), batch_size=16)
    best = sorted(one.scores[0] for one in instances)
    no_target, threshold = best[len(best) // 2], float(np.median([one.scores[1] for one in instances]))
    choices = {"instances_threshold": threshold, "no_target_threshold": float(no_target), "nms_threshold": nms}
    found = evaluate(model, processor, "shapes_expression_instances", split="validation", limit=4, choices=choices).percent
    foretold = set_accuracies_at(InstanceThresholds(threshold, nms), float(no_target), instances)
    assert foretold.keys() >= {"one target"}
    for kind, value in foretold.items():
        assert found[f"expression set accuracy, {kind.replace(' ', '_')}"] == pytest.approx(value)
