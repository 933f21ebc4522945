"""Instances of expressions from outputs to numbers."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.evaluation.evaluators.expression_instances import ExpressionInstancesEvaluator, InstancesRule
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from psalm_hf.model.modeling_psalm import PsalmSegmentationOutput
from psalm_hf.structures import Sample, Segment
from psalm_hf.tiny import build_tiny

SIZE = (4, 4)
IMAGE = Image.new("RGB", SIZE)
RULE = InstancesRule(instances_threshold=0.6, no_target_threshold=0.6, nms_threshold=0.5)


def rows(*indices):
    mask = np.zeros(SIZE, dtype=bool)
    mask[list(indices)] = True
    return rle_from_bitmap(mask)


def sample(record, *targets, tags=("one_target",)):
    return Sample(IMAGE, 1, SIZE, segments=tuple(map(Segment, targets)), expressions=("it",), record_id=record, tags=tags)


@pytest.fixture(scope="module")
def processor():
    _, processor = build_tiny()
    processor.image_processor.size = {"longest_edge": 4}
    processor.instances_threshold = processor.no_target_threshold = processor.nms_threshold = 0.99  # must not reach the evaluation
    return processor


@pytest.fixture
def outputs():
    """Queries with the rows (0), (1), (1, 2) and (3) of the image, for two expressions; of the second all are unsure."""
    masks = torch.full((2, 4, *SIZE), -30.0)
    for query, chosen in enumerate(([0], [1], [1, 2], [3])):
        masks[:, query, chosen] = 30.0
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.3], [0.5, 0.1, 0.2, 0.3]])
    return PsalmSegmentationOutput(
        masks_queries_logits=masks,
        referring_queries_logits=scores.logit()[..., None],
        num_conditions=torch.tensor([1, 1]),
        condition_type=torch.tensor([1, 1]),
    )


def predictions(processor, outputs, rule):
    found = ExpressionInstancesEvaluator(rule).predict([sample("a"), sample("b")], outputs, processor)
    return [
        ([np.flatnonzero(bitmap_from_rle(mask).any(1)).tolist() for mask in one["masks"]], one["number"])
        for one in json.loads(json.dumps(found))
    ]


def test_all_instances_are_ranked_and_the_best_are_the_set(processor, outputs):
    # IoU of rows (1) and (1, 2) is one half, which may stay.
    assert predictions(processor, outputs, RULE) == [([[0], [1], [1, 2], [3]], 3), ([[0], [3], [1, 2], [1]], 0)]
    assert predictions(processor, outputs, InstancesRule(0.6, 0.45, 0.4)) == [([[0], [1], [3]], 2), ([[0], [3], [1, 2]], 1)]


def test_what_is_ranked_below_the_set_changes_average_precision_alone(processor, outputs):
    samples = [sample("a", rows(0), rows(1), tags=("several_targets",)), sample("b", tags=("no_target",))]
    evaluator = ExpressionInstancesEvaluator(InstancesRule(0.75, 0.75, 0.5))
    for one, prediction in zip(samples, evaluator.predict(samples, outputs, processor), strict=True):
        evaluator.add(one, prediction)
    numbers = pickle.loads(pickle.dumps(evaluator)).numbers()
    assert numbers["expression set accuracy"] == numbers["expression cgF1"] == 100
    assert numbers["expression AP"] == numbers["expression AP, several_targets"] == pytest.approx(100)
    assert numbers["expression set accuracy, no_target"] == 100
    assert evaluator.counts()["instances, several_targets"] == 2 and "instances, no_target" not in evaluator.counts()
    assert evaluator.protocol() == {"expression": {"instances_threshold": 0.75, "no_target_threshold": 0.75, "nms_threshold": 0.5}}


def test_predictions_that_are_read_say_themselves_how_many_are_the_set():
    evaluator = ExpressionInstancesEvaluator(None)
    evaluator.add(sample("a", rows(0)), {"masks": [rows(0), rows(1)], "scores": [0.2, 0.1], "number": 1})
    assert evaluator.numbers()["expression set accuracy"] == 100 and evaluator.protocol() == {"expression": {}}


def test_a_mask_of_another_size_is_refused_by_name():
    prediction = {"masks": [rle_from_bitmap(np.ones((2, 2), dtype=bool))], "scores": [0.9], "number": 1}
    with pytest.raises(ValueError, match="image 1, record a, prediction: .*different sizes"):
        ExpressionInstancesEvaluator(RULE).add(sample("a", rows(0)), prediction)
