"""Objects that are taken for each other are counted."""

import numpy as np
import pytest

from psalm_hf.metrics import IdentitySwitches
from tests.metrics.drawing import ids, random_ids

TRUTH = ids("1122.", "1122.")


def counted(*frames):
    """Of frames given as maps of the predicted objects."""
    metric = IdentitySwitches()
    for number, predicted in enumerate(frames):
        metric.update("cat", number, predicted, TRUTH, [1, 2])
    return metric.compute()


def test_masks_on_their_own_objects_are_no_mistakes():
    assert counted(TRUTH, ids("1.22.", ".122."), ids("11122", "1112.")) == {"switches": 0, "mistaken": 0}


def test_objects_that_change_places_switch_once_each_and_stay_mistaken():
    swapped = ids("2211.", "2211.")
    assert counted(TRUTH, swapped, swapped, swapped) == {"switches": 2, "mistaken": 6}
    assert counted(swapped, TRUTH) == {"switches": 4, "mistaken": 2}  # there at once, and back


def test_a_mask_belongs_to_the_object_that_it_has_the_highest_iou_with():
    # Of object 1, 2 of 8 pixels in the union, and 4 of 6 of object 2: that it is on both does not make it its own.
    assert counted(ids(".111.", ".111.")) == {"switches": 1, "mistaken": 1}


def test_empty_masks_and_masks_on_nothing_change_no_identity():
    empty, beside = ids(".....", "....."), ids("....1", "....1")
    assert counted(ids("..11.", "..11."), empty, beside, ids("..11.", "..11.")) == {"switches": 1, "mistaken": 2}


def test_frames_are_ordered_by_their_number_and_sequences_are_apart():
    swapped, metric = ids("2211.", "2211."), IdentitySwitches()
    for frame, predicted in ((10, TRUTH), (2, swapped), (1, swapped), (9, TRUTH)):
        metric.update("cat", frame, predicted, TRUTH, [1, 2])
    assert metric.compute()["switches"] == 4  # in frames 1 and 9
    metric.update("dog", 1, TRUTH, TRUTH, [1, 2])
    assert metric.compute()["switches"] == 4


def test_objects_that_are_not_judged_are_background():
    metric = IdentitySwitches()
    metric.update("cat", 1, ids("..11.", "..11."), TRUTH, [1])
    assert metric.compute() == {"switches": 0, "mistaken": 0}


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_that_see_some_frames_each_know_together_what_one_knows(num_workers):
    rng = np.random.default_rng(0)
    frames = [(f"video {index % 3}", index, random_ids(rng, 3), random_ids(rng, 4), (1, 2)) for index in range(40)]
    parts = [IdentitySwitches() for _ in range(num_workers)]
    whole, total = IdentitySwitches(), IdentitySwitches()
    for index, frame in enumerate(frames):
        whole.update(*frame)
        parts[index % num_workers].update(*frame)
    for part in reversed(parts):
        total += part
    assert total.compute() == whole.compute() and whole.compute()["switches"] > 10
