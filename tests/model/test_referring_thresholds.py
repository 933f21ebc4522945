"""Expressions that mean one thing, several, or nothing: the processor's thresholds, and those of a call."""

import json

import pytest
import torch

from psalm_hf import PsalmProcessor, tiny_checkpoint
from psalm_hf.model.modeling_psalm import PsalmSegmentationOutput
from psalm_hf.tiny import build_tiny

SCORES = (0.5, 0.8, 0.7)  # of three queries, each a row of a 4 x 4 picture


@pytest.fixture
def processor():
    _, processor = build_tiny()
    processor.image_processor.size = {"longest_edge": 4}
    return processor


@pytest.fixture
def outputs():
    masks = torch.full((2, 3, 4, 4), -30.0)
    for query in range(3):
        masks[:, query, query] = 30.0
    return PsalmSegmentationOutput(
        masks_queries_logits=masks,
        class_queries_logits=torch.zeros(2, 3, 3),
        referring_queries_logits=torch.tensor(SCORES).logit()[None, :, None].expand(2, -1, -1),
        num_conditions=torch.tensor([1, 3]),
        condition_type=torch.tensor([1, 0]),
    )


def answer(processor, outputs, **options):
    """(rows that are set, no_target, number of queries) of the expression; the row of categories has no answer."""
    result, other = processor.post_process_referring_segmentation(outputs, target_sizes=[(4, 4)] * 2, **options)
    assert other is None and result["score"] == pytest.approx(0.8)
    assert isinstance(result["no_target"], bool) and result["segmentation"].dtype == torch.bool
    return result["segmentation"].any(1).nonzero()[:, 0].tolist(), result["no_target"], len(result["masks"])


def test_by_default_the_best_query_answers_and_something_is_always_there(processor, outputs):
    assert processor.referring_threshold is None and processor.no_target_threshold is None
    assert answer(processor, outputs) == ([1], False, 1)


def test_the_thresholds_of_the_processor_are_taken_unless_the_call_has_its_own(processor, outputs):
    processor.referring_threshold, processor.no_target_threshold = 0.6, 0.9
    assert answer(processor, outputs) == ([], True, 2)
    assert answer(processor, outputs, no_target_threshold=0.75) == ([1, 2], False, 2)
    assert answer(processor, outputs, no_target_threshold=None) == ([1, 2], False, 2)
    assert answer(processor, outputs, threshold=None, no_target_threshold=None) == ([1], False, 1)
    assert answer(processor, outputs, threshold=0.3, no_target_threshold=0.3) == ([0, 1, 2], False, 3)


def test_no_target_leaves_the_guess_but_sets_nothing(processor, outputs):
    (result, _) = processor.post_process_referring_segmentation(outputs, no_target_threshold=0.85, target_sizes=[(4, 4)] * 2)
    assert result["no_target"] and not result["segmentation"].any()
    assert result["masks"].any() and result["scores"].tolist() == [result["score"]]


def test_a_score_equal_to_the_threshold_is_nothing(processor, outputs):
    (result, _) = processor.post_process_referring_segmentation(outputs, target_sizes=[(4, 4)] * 2)
    assert answer(processor, outputs, no_target_threshold=result["score"])[1]


@pytest.mark.parametrize("value", [1.5, -0.1, "0.5", "best", True, float("nan")])
@pytest.mark.parametrize(("option", "argument"), [("threshold", "referring_threshold"), ("no_target_threshold", "no_target_threshold")])
def test_what_is_no_score_is_refused(processor, outputs, value, option, argument):
    with pytest.raises(ValueError, match=f"{option}: expected a score from 0 to 1, or None, got"):
        processor.post_process_referring_segmentation(outputs, **{option: value})
    with pytest.raises(ValueError, match=f"{argument}: expected a score from 0 to 1, or None, got"):
        PsalmProcessor(processor.image_processor, processor.tokenizer, **{argument: value})


def test_thresholds_are_saved_with_the_processor_and_may_be_replaced_when_loading(tmp_path, processor):
    processor.referring_threshold, processor.no_target_threshold = 0.75, 0.25
    processor.save_pretrained(tmp_path)
    loaded = PsalmProcessor.from_pretrained(tmp_path)
    assert (loaded.referring_threshold, loaded.no_target_threshold) == (0.75, 0.25)
    assert PsalmProcessor.from_pretrained(tmp_path, no_target_threshold=0.5).no_target_threshold == 0.5


def test_a_processor_saved_without_thresholds_has_none(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in fields.items() if not name.endswith("_threshold")}))
    loaded = PsalmProcessor.from_pretrained(tmp_path)
    assert loaded.referring_threshold is None and loaded.no_target_threshold is None


def test_psalm_tiny_carries_what_its_card_says():
    processor = PsalmProcessor.from_pretrained(tiny_checkpoint())
    card = (tiny_checkpoint() / "README.md").read_text()
    assert f"below {processor.no_target_threshold:.2f}, and all queries above {processor.referring_threshold:.2f}" in " ".join(card.split())
