"""Answers that need no model: what they are, and that they are judged whatever a model says."""

import numpy as np
import pytest

from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.evaluation.baselines import Baseline, frequent_answers, largest_thing, most_frequent_answer, prompt_itself
from psalm_hf.evaluation.evaluators.region import RegionEvaluator
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.structures import Sample


def test_the_largest_thing_of_the_scene_is_the_answer_to_every_expression():
    stream = ShapesStream("referring", "test")
    largest = max(thing.area for thing in stream.scene(3).things)
    for sample in stream.samples(3):
        answer = largest_thing(sample)
        assert not answer["no_target"] and np.count_nonzero(bitmap_from_rle(answer["mask"])) == largest
    other = Sample(sample.image, "cat", sample.image_size, expressions=("it",))
    with pytest.raises(ValueError, match="image cat: expected the id of a scene"):
        largest_thing(other)


def test_a_mask_prompt_is_its_own_answer_and_a_point_is_a_disc():
    for kind in ("mask", "point"):
        (sample,) = ShapesStream("interactive", "test", region_kind=kind).samples(0)
        small, large = (prompt_itself(sample, (radius, radius))["masks"] for radius in (1, 4))
        assert len(small) == len(sample.regions)
        areas = [[np.count_nonzero(bitmap_from_rle(mask)) for mask in masks] for masks in (small, large)]
        if kind == "mask":
            assert small == large == [dict(region.mask_rle) for region in sample.regions]
        else:
            assert all(one < other for one, other in zip(*areas, strict=True))


def test_a_baseline_is_judged_whatever_was_answered():
    (sample,) = ShapesStream("interactive", "test", region_kind="mask").samples(0)
    truth = {"masks": [sample.segments[region.segment].mask_rle for region in sample.regions], "scores": [1.0] * len(sample.regions)}
    baseline, total = (Baseline(RegionEvaluator(), lambda sample: truth) for _ in range(2))
    baseline.add(sample, {"masks": [], "scores": []})
    total += baseline
    assert total.numbers()["region mIoU, mask"] == total.numbers()["region cIoU, mask"] == 100
    assert baseline.name == "region"


def test_the_most_frequent_answer_is_right_more_often_than_any_other_in_training():
    frequent = frequent_answers(128)
    told = ShapesStream("conversation", split="train")
    right = {kind: [] for kind in frequent}
    for scene in range(500):
        for sample in told.samples(scene):
            (kind,) = sample.tags
            right[kind].append(sample.conversation[1]["content"])
            assert most_frequent_answer(sample, 128) == {"text": frequent[kind]}
    assert {kind: answers.count(frequent[kind]) for kind, answers in right.items()} == {
        kind: max(map(answers.count, set(answers))) for kind, answers in right.items()
    }
