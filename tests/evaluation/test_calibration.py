"""Thresholds of expressions: what a person would choose, and no worse than the constants."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.evaluation import evaluate
from psalm_hf.evaluation.calibration import (
    BEST_QUERY,
    CalibrationEvaluator,
    ReferringThresholds,
    ScoredPrediction,
    choose_thresholds,
    numbers_at,
    open_calibration,
    score_predictions,
)
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from psalm_hf.structures import Sample, Segment
from psalm_hf.tiny import build_tiny

PICTURE = Image.new("RGB", (4, 4))


def scored(scores, ious=None):
    return ScoredPrediction(np.array(scores), None if ious is None else np.array(ious))


def test_no_target_lies_in_the_middle_between_the_scores_of_absent_and_present():
    answers = [scored([0.1]), scored([0.4]), scored([0.6], [1.0]), scored([0.9], [1.0])]
    assert choose_thresholds(answers).no_target == pytest.approx(0.5, abs=0.011)  # from 0.4, below 0.6


def test_no_target_weighs_both_kinds_alike_however_many_there_are():
    present = [scored([0.5], [1.0])] * 3 + [scored([0.9], [1.0])] * 7
    # One of the two absent ones costs 50 % of N-acc, the three weakest present ones 30 % of T-acc.
    assert 0.6 <= choose_thresholds([scored([0.1]), scored([0.6]), *present]).no_target < 0.9


def test_further_targets_keeps_the_second_query_where_it_helps_and_drops_it_where_it_harms():
    helps, harms = scored([0.9, 0.7], [0.5, 1.0]), scored([0.9, 0.3], [1.0, 0.5])
    threshold = choose_thresholds([scored([0.1]), helps, harms]).further_targets
    assert 0.3 <= threshold < 0.7


def test_the_best_query_answers_even_below_the_threshold():
    weak = [scored([0.05, 0.04], [0.8, 0.4]), scored([0.01])]
    assert choose_thresholds(weak).further_targets == pytest.approx(0.51, abs=0.01)  # all of 0.04 to 0.98 are equally good


@pytest.mark.parametrize("answers", [[scored([0.5])], [scored([0.5], [1.0])]])
def test_one_kind_of_expression_alone_is_refused(answers):
    with pytest.raises(ValueError, match="both are needed, take more images"):
        choose_thresholds(answers)


def test_numbers_at_thresholds_are_those_of_a_count_by_hand():
    answers = [scored([0.2]), scored([0.7]), scored([0.6, 0.5], [0.5, 1.0]), scored([0.4, 0.1], [1.0, 0.2])]
    # Always an answer, of the best query: both absent ones get a mask.
    assert numbers_at(BEST_QUERY, answers) == {"N-acc": 0, "T-acc": 100, "gIoU": 100 * (0.5 + 1) / 4, "mIoU": 75}
    # 0.2 and 0.4 are nothing; of the third, both queries answer.
    found = numbers_at(ReferringThresholds(no_target=0.4, further_targets=0.45), answers)
    assert found == {"N-acc": 50, "T-acc": 50, "gIoU": 100 * (1 + 1) / 4, "mIoU": 100}


class OneQueryPerSegment:
    """A processor whose queries are the targets, with scores of 0.8 and more, and the rest of the picture with 0.3."""

    def post_process_referring_segmentation(self, samples, *, threshold, no_target_threshold, target_sizes):
        assert threshold == 0.02 and no_target_threshold is None
        assert target_sizes == [sample.image_size for sample in samples]
        answers = []
        for sample in samples:
            masks = [bitmap_from_rle(segment.mask_rle) for segment in sample.segments if not segment.is_crowd]
            rest = ~np.any([np.zeros(sample.image_size, dtype=bool), *masks], axis=0)
            scores = torch.tensor([*np.linspace(0.9, 0.8, len(masks)), 0.3])
            answers.append({"masks": torch.from_numpy(np.stack([*masks, rest])), "scores": scores})
        return answers


def ask(samples, crowds="left out"):
    """Scores that the evaluator keeps of perfect queries."""
    measure = CalibrationEvaluator(crowds)
    for sample, answer in zip(samples, measure.predict(samples, samples, OneQueryPerSegment()), strict=True):
        measure.add(sample, json.loads(json.dumps(answer)))
    return measure.scored


def test_several_targets_are_united_and_the_wrong_query_is_kept_out():
    samples = [sample for number in range(8) for sample in ShapesStream("referring", "validation", prompts_per_image=4).samples(number)]
    answers = ask(samples)
    assert [answer.ious is None for answer in answers] == [not sample.segments for sample in samples]
    several = next(answer for answer in answers if answer.ious is not None and len(answer.ious) > 2)
    assert several.ious[-2] == 1 and several.ious[0] < 1 and several.ious[-1] < 1  # all targets; the first; the rest as well
    thresholds = choose_thresholds(answers)
    assert 0.3 <= thresholds.further_targets < 0.8
    assert 0.3 <= thresholds.no_target < 0.8


def test_an_expression_that_means_crowds_alone_means_nothing_unless_crowds_are_meant():
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2] = True
    crowd = Sample(PICTURE, 1, (4, 4), segments=(Segment(rle_from_bitmap(mask), is_crowd=True),), expressions=("them",))
    (left_out,), (meant,) = ask([crowd]), ask([crowd], "meant")
    assert left_out.ious is None
    assert meant.ious.tolist() == [0.5]  # the one query there is, which is the whole picture


def test_ignored_pixels_count_neither_as_right_nor_as_wrong():
    rows = np.arange(4)[:, None].repeat(4, axis=1)
    segments = (Segment(rle_from_bitmap(rows == 2)), Segment(rle_from_bitmap(rows < 2), is_crowd=True))
    (answer,) = ask([Sample(PICTURE, 1, (4, 4), segments=segments, expressions=("it",))], "ignored")
    assert answer.ious.tolist() == [1, 0.5]  # row 2 alone; the rest of the picture, of which row 3 is wrong, as well


@pytest.fixture(scope="module")
def tiny():
    return build_tiny()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")


def test_rows_without_expressions_and_no_pictures_are_refused(tiny):
    with pytest.raises(ValueError, match="image validation-0-0/00001: a prompt of kind region; calibration needs rows with expressions"):
        open_calibration("moving_shapes", tiny[1], split="validation", options={"num_clips": 1})
    with pytest.raises(ValueError, match="at least 1 image, got 0"):
        open_calibration("shapes", tiny[1], limit=0)


def test_calibration_asks_four_expressions_about_each_of_the_first_pictures(tiny):
    (part,) = open_calibration("shapes", tiny[1], limit=2).parts
    samples = list(part.dataset)
    expected = [sample for number in range(2) for sample in ShapesStream("referring", "validation", prompts_per_image=4).samples(number)]
    assert [(sample.image_id, sample.expressions, sample.segments) for sample in samples] == [
        (sample.image_id, sample.expressions, sample.segments) for sample in expected
    ]


def test_calibrated_thresholds_are_no_worse_than_the_constants_where_they_were_calibrated(tiny):
    model, processor = tiny
    answers = score_predictions(model, open_calibration("shapes", processor, limit=4), batch_size=16)
    results = {}
    for name, thresholds in (("calibrated", choose_thresholds(answers)), ("constant", ReferringThresholds())):
        processor.referring_threshold, processor.no_target_threshold = thresholds.further_targets, thresholds.no_target
        results[name] = evaluate(model, processor, "shapes", split="validation", limit=4, parts=["referring"]).percent
    accuracy = {name: numbers["referring N-acc"] + numbers["referring T-acc"] for name, numbers in results.items()}
    iou = {name: numbers["referring gIoU, target given"] for name, numbers in results.items()}
    assert accuracy["calibrated"] > accuracy["constant"]
    assert iou["calibrated"] >= iou["constant"]
    foretold = numbers_at(choose_thresholds(answers), answers)
    for name, key in (("N-acc", "referring N-acc"), ("gIoU", "referring gIoU"), ("mIoU", "referring gIoU, target given")):
        assert foretold[name] == pytest.approx(results["calibrated"][key])
