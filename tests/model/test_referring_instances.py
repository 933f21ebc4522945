"""Every instance of an expression: which queries become one, and that nothing else changes."""

import pytest
import torch

from psalm_hf import PsalmProcessor
from psalm_hf.model.modeling_psalm import PsalmSegmentationOutput
from psalm_hf.model.rows import RowInfo
from psalm_hf.tiny import build_tiny

SIZES = [(4, 4)] * 2
SCORES = (0.5, 0.8, 0.7, 0.75, 0.95)
ROWS = ((0,), (1,), (2, 3), (2, 3), ())  # of the image that each query covers: the third repeats the fourth, the last is empty


@pytest.fixture
def processor():
    _, processor = build_tiny()
    processor.image_processor.size = {"longest_edge": 4}
    return processor


@pytest.fixture
def outputs():
    """A row of an expression and one of categories."""
    masks = torch.full((2, len(SCORES), 4, 4), -30.0)
    for query, rows in enumerate(ROWS):
        masks[:, query, list(rows)] = 30.0
    return PsalmSegmentationOutput(
        masks_queries_logits=masks,
        class_queries_logits=torch.zeros(2, len(SCORES), 3),
        referring_queries_logits=torch.tensor(SCORES).logit()[None, :, None].expand(2, -1, -1),
        num_conditions=torch.tensor([1, 3]),
        condition_type=torch.tensor([1, 0]),
    )


def instances(processor, outputs, **options):
    """(score, rows that are set, box) of every instance."""
    found, other = processor.post_process_referring_instances(outputs, target_sizes=SIZES, **options)
    assert other is None and found["masks"].dtype == torch.bool
    rows = [mask.all(1).nonzero()[:, 0].tolist() for mask in found["masks"]]
    return list(zip([round(score, 4) for score in found["scores"].tolist()], rows, found["boxes"].tolist(), strict=True))


def test_instances_are_distinct_masks_above_the_threshold_best_first(processor, outputs):
    assert instances(processor, outputs, threshold=0.6) == [(0.8, [1], [0, 1, 4, 2]), (0.75, [2, 3], [0, 2, 4, 4])]
    assert [score for score, *_ in instances(processor, outputs, threshold=0.0)] == [0.8, 0.75, 0.5]
    assert [score for score, *_ in instances(processor, outputs, threshold=0.0, nms_threshold=1.0)] == [0.8, 0.75, 0.7, 0.5]


def test_an_expression_whose_queries_are_all_below_the_threshold_has_no_instance(processor, outputs):
    (found, _) = processor.post_process_referring_instances(outputs, threshold=0.9, target_sizes=SIZES)
    assert found["masks"].shape == (0, 4, 4) and found["scores"].shape == (0,) and found["boxes"].shape == (0, 4)


@pytest.mark.parametrize("threshold", [0.45, 0.6, 0.72, 0.78])
def test_a_higher_threshold_takes_away_from_the_end_alone(processor, outputs, threshold):
    every = instances(processor, outputs, threshold=0.0)
    assert instances(processor, outputs, threshold=threshold) == [one for one in every if one[0] > threshold]


def test_without_suppression_instances_are_the_masks_of_the_union(processor, outputs):
    (found, _) = processor.post_process_referring_instances(outputs, threshold=0.6, nms_threshold=1.0, target_sizes=SIZES)
    (union, _) = processor.post_process_referring_segmentation(outputs, threshold=0.6, target_sizes=SIZES)
    assert torch.equal(found["masks"], union["masks"]) and torch.equal(found["scores"], union["scores"])


def test_the_best_query_needs_the_no_target_threshold_alone(processor, outputs):
    assert [score for score, *_ in instances(processor, outputs, threshold=0.9, no_target_threshold=0.7)] == [0.8]
    assert [score for score, *_ in instances(processor, outputs, threshold=0.4, no_target_threshold=0.9)] == []
    assert [score for score, *_ in instances(processor, outputs, threshold=0.9, no_target_threshold=None)] == []


def test_the_threshold_is_the_processors_own_or_that_of_the_union_or_the_released_one(processor, outputs):
    assert processor.instance_thresholds() == (0.6, 0.6) and len(instances(processor, outputs)) == 2
    processor.referring_threshold = 0.78
    assert processor.instance_thresholds() == (0.78, 0.78) and len(instances(processor, outputs)) == 1
    processor.instances_threshold, processor.nms_threshold = 0.0, 1.0
    assert processor.instance_thresholds() == (0.0, 0.0) and len(instances(processor, outputs)) == 4
    processor.no_target_threshold = 0.9
    assert processor.instance_thresholds() == (0.0, 0.9) and instances(processor, outputs) == []
    assert processor.instance_thresholds(0.7) == (0.7, 0.7)  # a number decides alone
    assert processor.instance_thresholds(no_target_threshold=0.5) == (0.0, 0.5)


@pytest.mark.parametrize("no_target_threshold", [0.3, 0.79, 0.81])
@pytest.mark.parametrize("threshold", [0.2, 0.6, 0.9])
def test_an_expression_has_an_instance_where_it_has_a_mask(processor, outputs, threshold, no_target_threshold):
    processor.instances_threshold = processor.referring_threshold = threshold
    processor.no_target_threshold = no_target_threshold
    (union, _) = processor.post_process_referring_segmentation(outputs, target_sizes=SIZES)
    assert bool(instances(processor, outputs)) is not union["no_target"]


def test_thresholds_of_instances_are_saved_with_the_processor(processor, tmp_path):
    processor.instances_threshold, processor.nms_threshold = 0.8, 0.4
    processor.save_pretrained(tmp_path)
    loaded = PsalmProcessor.from_pretrained(tmp_path)
    assert (loaded.instances_threshold, loaded.nms_threshold) == (0.8, 0.4)


@pytest.mark.parametrize("value", [1.5, -0.1, "0.5", True, float("nan")])
@pytest.mark.parametrize("name", ["threshold", "no_target_threshold", "nms_threshold"])
def test_what_is_no_score_is_refused(processor, outputs, name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a number from 0 to 1, got"):
        processor.post_process_referring_instances(outputs, **{name: value})


def test_segments_are_one_per_instance_or_one_per_expression(processor, outputs):
    rows = [RowInfo(0, "sentence", ("all rows", "every row")), RowInfo(0, "category", ("cup", "wall", "background"))]

    def found(**options):
        segments, _ = processor.find_segments(outputs, rows, SIZES, **options)
        return [(one.index, one.label, round(one.score, 4), int(one.mask.sum())) for one in segments]

    label = "all rows; every row"
    assert found(instances=True) == [(0, label, 0.8, 4), (0, label, 0.75, 8)]
    assert found(instances=True, referring_threshold=0.4) == [(0, label, 0.8, 4), (0, label, 0.75, 8), (0, label, 0.5, 4)]
    assert len(found(instances=True, referring_threshold=0.4, nms_threshold=1.0)) == 4
    assert found(instances=True, referring_threshold=0.9) == []
    assert found(referring_threshold=0.4) == [(0, label, 0.8, 16)]
