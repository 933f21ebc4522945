"""When a measured answer is "nothing is there": the rules of the protocols, and the thresholds that a processor carries."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.evaluation.evaluators.referring import ReferringEvaluator, ReferringRule
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from psalm_hf.model.modeling_psalm import PsalmSegmentationOutput
from psalm_hf.structures import Sample, Segment
from psalm_hf.tiny import build_tiny

SIZE = (4, 4)
PICTURE = Image.new("RGB", SIZE)


def logit(probability):
    return float(np.log(probability / (1 - probability)))


def outputs(scores):
    """Query q has row q of the picture, sure of it, and means the expression with this score."""
    masks = torch.full((1, len(scores), *SIZE), -30.0)
    for query in range(len(scores)):
        masks[0, query, query] = 30.0
    return PsalmSegmentationOutput(
        masks_queries_logits=masks,
        referring_queries_logits=torch.tensor([logit(score) for score in scores])[None, :, None],
        num_conditions=torch.tensor([1]),
        condition_type=torch.tensor([1]),
    )


@pytest.fixture(scope="module")
def processor():
    _, processor = build_tiny()
    processor.image_processor.size = {"longest_edge": 4}
    # Those of the processor must not reach the protocols.
    processor.referring_threshold, processor.no_target_threshold = 0.1, 0.9
    return processor


def rows_of(mask):
    return np.flatnonzero(bitmap_from_rle(mask).any(1)).tolist()


@pytest.mark.parametrize(
    ("rule", "scores", "rows", "no_target"),
    [
        (ReferringRule(), (0.3, 0.2), [0], False),  # the best query, always
        (ReferringRule(0.6, "never"), (0.8, 0.7), [0, 1], False),
        (ReferringRule(0.6, "never"), (0.3, 0.2), [0], False),
        (ReferringRule(0.6, "threshold"), (0.3, 0.7), [1], False),
        (ReferringRule(0.6, "threshold"), (0.3, 0.5), [1], True),  # the guess stays: its pixels count in cIoU
        (ReferringRule(0.6, "area", min_area=8), (0.8, 0.7), [0, 1], False),
        (ReferringRule(0.6, "area", min_area=8), (0.8, 0.3), [0], True),
        (ReferringRule(0.6, "processor", no_target_threshold=0.2), (0.3, 0.25), [0], False),
        (ReferringRule(None, "processor", no_target_threshold=0.4), (0.3, 0.25), [0], True),
    ],
)
def test_a_rule_decides_what_is_answered(processor, rule, scores, rows, no_target):
    sample = Sample(PICTURE, 1, SIZE, expressions=("it",))
    (answer,) = ReferringEvaluator(rule).predict([sample], outputs(scores), processor)
    assert rows_of(answer["mask"]) == rows
    assert answer["no_target"] is no_target
    assert answer["score"] == pytest.approx(max(scores), abs=1e-6)


def test_the_pixels_of_a_suppressed_guess_count_in_the_union(processor):
    target = np.zeros(SIZE, dtype=bool)
    target[3] = True
    sample = Sample(PICTURE, 1, SIZE, segments=(Segment(rle_from_bitmap(target)),), expressions=("it",))
    measure = ReferringEvaluator(ReferringRule(0.6, "threshold"))
    for scores in ((0.3, 0.2, 0.1, 0.05), (0.1, 0.1, 0.1, 0.9)):  # row 0 suppressed; row 3, which is right
        (answer,) = measure.predict([sample], outputs(scores), processor)
        measure.add(sample, answer)
    numbers = measure.numbers()
    assert numbers["referring cIoU"] == pytest.approx(100 * 4 / (8 + 4))
    assert numbers["referring T-acc"] == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.6, "sometimes"), "unknown no-target rule 'sometimes', expected one of never, threshold, area, processor"),
        ((None, "threshold"), "needs a referring threshold"),
        ((0.6, "processor"), "needs a no-target threshold"),
        ((0.6, "never", 50, 0.5), "no other"),
    ],
)
def test_a_rule_without_its_threshold_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReferringRule(*arguments)


def test_the_protocol_says_which_thresholds_were_used():
    rule = ReferringRule(0.91, "processor", no_target_threshold=0.87)
    assert ReferringEvaluator(rule).protocol()["referring"] == {**asdict(rule), "crowds": "meant"}
