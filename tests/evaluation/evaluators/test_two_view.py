"""Answers to rows of two views become numbers: where things are, and whether they are there."""

import numpy as np
import pytest

from psalm_hf.evaluation.evaluators.two_view import TwoViewEvaluator
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Region, Sample, Segment
from tests.metrics.drawing import mask

SIZE = (4, 4)


def row():
    """Asks for a thing that the view shows in its left half, and for one that it does not show."""
    prompt = rle_from_bitmap(np.ones(SIZE, dtype=bool))
    return Sample(
        image="second.png",
        image_id="test-0-0/second",
        image_size=SIZE,
        segments=(Segment(rle_from_bitmap(mask("##..", "##..", "##..", "##..")), annotation_id=1),),
        regions=(Region("mask", mask_rle=prompt, segment=0), Region("mask", mask_rle=prompt)),
        region_image="first.png",
        region_image_size=SIZE,
        tags=("object:1", "object:2"),
    )


def measured(*scores, visible_above=0.3):
    measure = TwoViewEvaluator(visible_above)
    found = [mask("#...", "#...", "#...", "#..."), mask("....", "....", "....", "...#")]
    measure.add(row(), {"masks": [rle_from_bitmap(one) for one in found], "scores": list(scores)})
    return measure


def test_masks_of_what_is_there_are_compared_and_those_of_what_is_not_there_are_not():
    assert measured(0.9, 0.1).numbers()["region IoU"] == 50
    assert measured(0.9, 0.1).counts() == {"visible objects": 1, "invisible objects": 1}


@pytest.mark.parametrize("scores, accuracy", [((0.4, 0.2), 100), ((0.2, 0.2), 50), ((0.4, 0.4), 50), ((0.2, 0.4), 0)])
def test_an_object_is_visible_if_it_scores_above_the_threshold(scores, accuracy):
    assert measured(*scores).numbers()["region visibility accuracy"] == accuracy


def test_the_threshold_is_part_of_the_protocol():
    assert measured(0.9, 0.1, visible_above=0.45).protocol()["region"]["visible above"] == 0.45


def test_answers_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="image test-0-0/second, prediction: 2 masks and 1 scores for 2 regions"):
        measured(0.9)
    answer = {"masks": [rle_from_bitmap(np.ones((4, 8)))] * 2, "scores": [1.0, 1.0]}
    with pytest.raises(ValueError, match=r"image test-0-0/second, region 0: prediction: size \(4, 8\)"):
        TwoViewEvaluator(0.5).add(row(), answer)
