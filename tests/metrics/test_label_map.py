"""Painting truth as one number per pixel."""

import numpy as np
import pytest

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import label_map
from tests.metrics.drawing import ids, mask, random_ids

LEFT, RIGHT = rle_from_bitmap(mask("##..", "#...")), rle_from_bitmap(mask("...#", "..##"))


def test_masks_become_labels_and_the_rest_is_filled():
    assert label_map([LEFT, RIGHT], [3, 0], (2, 4), fill=9).tolist() == ids("3390", "3900").tolist()


def test_without_masks_everything_is_filled():
    assert label_map([], [], (2, 3), fill=255).tolist() == [[255] * 3] * 2


@pytest.mark.parametrize("seed", range(5))
def test_taking_a_map_apart_and_painting_it_gives_it_back(seed):
    target = random_ids(np.random.default_rng(seed), 5)
    labels = np.unique(target).tolist()
    assert (label_map([rle_from_bitmap(target == label) for label in labels], labels, target.shape, fill=-1) == target).all()


@pytest.mark.parametrize(
    ("rles", "labels", "message"),
    [
        ([LEFT], [1, 2], "1 masks but 2 labels"),
        ([LEFT, LEFT], [1, 2], "mask 1 overlaps an earlier one"),
        ([LEFT, rle_from_bitmap(mask("##"))], [1, 2], r"mask 1 is of size \(1, 2\), but the image is \(2, 4\)"),
    ],
)
def test_what_is_no_partition_of_the_image_is_refused(rles, labels, message):
    with pytest.raises(ValueError, match=message):
        label_map(rles, labels, (2, 4), fill=0)
