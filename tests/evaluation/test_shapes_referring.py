"""Thresholds of referring answers: what a person would choose, and no worse than the constants."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from psalm_hf.evaluation.shapes import evaluate_shapes
from psalm_hf.evaluation.shapes_batch import SceneBatch
from psalm_hf.evaluation.shapes_referring import ReferringThresholds, ScoredAnswer, calibrate_referring, choose_thresholds
from psalm_hf.tiny import build_tiny


def scored(scores, ious=None):
    return ScoredAnswer(np.array(scores), None if ious is None else np.array(ious))


def test_no_target_lies_in_the_middle_between_the_scores_of_absent_and_present():
    answers = [scored([0.1]), scored([0.4]), scored([0.6], [1.0]), scored([0.9], [1.0])]
    assert choose_thresholds(answers).no_target == pytest.approx(0.5, abs=0.011)  # above 0.4, not above 0.6


def test_no_target_weighs_both_kinds_alike_however_many_there_are():
    present = [scored([0.5], [1.0])] * 3 + [scored([0.9], [1.0])] * 7
    # One of the two absent ones costs 50 % of N-acc, the three weakest present ones 30 % of T-acc.
    assert 0.6 < choose_thresholds([scored([0.1]), scored([0.6]), *present]).no_target <= 0.9


def test_further_targets_keeps_the_second_query_where_it_helps_and_drops_it_where_it_harms():
    helps, harms = scored([0.9, 0.7], [0.5, 1.0]), scored([0.9, 0.3], [1.0, 0.5])
    threshold = choose_thresholds([scored([0.1]), helps, harms]).further_targets
    assert 0.3 <= threshold < 0.7


def test_the_best_query_answers_even_below_the_threshold():
    weak = [scored([0.05, 0.04], [0.8, 0.4]), scored([0.01])]
    assert choose_thresholds(weak).further_targets == pytest.approx(0.51, abs=0.01)  # all of 0.04 to 0.98 are equally good


@pytest.mark.parametrize("answers", [[scored([0.5])], [scored([0.5], [1.0])]])
def test_one_kind_of_expression_alone_is_refused(answers):
    with pytest.raises(ValueError, match="both are needed, take more pictures"):
        choose_thresholds(answers)


class OneQueryPerThing:
    """A processor whose queries are the targets, with scores of 0.8 and more, and a wrong thing with 0.3."""

    image_processor = SimpleNamespace(image_size=128)

    def post_process_referring_segmentation(self, prompts, **_):
        answers = []
        for prompt in prompts:
            other = next((thing for thing in prompt.scene.things if thing not in prompt.things), prompt.scene.things[0])
            masks = np.stack([thing.mask for thing in (*prompt.things, other)])
            scores = torch.tensor([*np.linspace(0.9, 0.8, len(prompt.things)), 0.3])
            answers.append({"masks": torch.from_numpy(masks), "scores": scores})
        return answers


def test_queries_of_several_targets_are_united_and_thresholds_keep_the_wrong_thing_out(monkeypatch):
    prompts = []
    ask = SceneBatch.prompts
    monkeypatch.setattr(SceneBatch, "prompts", lambda batch, *task, **options: prompts.append(ask(batch, *task, **options)) or prompts[-1])
    monkeypatch.setattr(SceneBatch, "forward", lambda batch, samples: prompts[-1])
    thresholds = calibrate_referring(None, OneQueryPerThing(), num_images=16, batch_size=16)
    assert 0.3 <= thresholds.further_targets < 0.8
    assert 0.3 < thresholds.no_target <= 0.8


def test_calibrated_thresholds_are_no_worse_than_the_constants_where_they_were_calibrated():
    model, processor = build_tiny()
    thresholds = calibrate_referring(model, processor, num_images=4, batch_size=4)
    results = {
        name: evaluate_shapes(model, processor, split="validation", num_images=4, batch_size=4, thresholds=value)
        for name, value in (("calibrated", thresholds), ("constant", ReferringThresholds()))
    }
    accuracy = {name: numbers["referring N-acc"] + numbers["referring T-acc"] for name, numbers in results.items()}
    iou = {name: numbers["referring mIoU, with target, scored"] for name, numbers in results.items()}
    assert accuracy["calibrated"] > accuracy["constant"]
    assert iou["calibrated"] >= iou["constant"]
