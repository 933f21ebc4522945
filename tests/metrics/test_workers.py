"""Laws of all measures: workers that see a part each, and are added, know what one worker knows that saw everything."""

import pickle

import numpy as np
import pytest

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import (
    ChoiceAccuracy,
    CircularAccuracy,
    CityscapesAP,
    Correspondence,
    LvisAP,
    MaskAP,
    MeanIoU,
    PanopticQuality,
    ReferringIoU,
    RegionIoU,
    VideoObjects,
    VqaAccuracy,
    YesNoScores,
)
from psalm_hf.structures import Segment
from tests.metrics.drawing import random_ids, random_mask
from tests.metrics.test_panoptic_quality import IS_THING, random_image


def ap_image(rng, image_id):
    """Arguments of an update with many equal scores, crowds, and images without predictions or objects."""
    masks = [random_mask(rng) for _ in range(rng.integers(0, 6))]
    targets = [
        Segment(rle_from_bitmap(random_mask(rng)), int(rng.integers(1, 3)), bool(rng.random() < 0.2)) for _ in range(rng.integers(4))
    ]
    # Some predictions are an object's own mask: without matches there would be nothing to compare.
    masks += [target.mask_rle for target in targets if rng.random() < 0.5]
    return image_id, masks, rng.integers(1, 3, len(masks)), rng.choice([0.3, 0.6], len(masks)), targets


def letters(rng, number):
    return [str(letter) for letter in rng.choice(list("ABCD"), number)]


def circular_pass(rng, index):
    """Two passes of every question, one after the other."""
    question, rotation = divmod(index, 2)
    return question, rotation, "A", str(rng.choice(["A", "B"], p=[0.8, 0.2])), 2, ["group A", f"group {question % 3}"]


class LvisByPosition(LvisAP):
    """LVIS AP whose last two arguments are the facts about the image."""

    def update(self, *arguments):
        *others, negative, not_exhaustive = arguments
        super().update(*others, negative_category_ids=negative, not_exhaustive_category_ids=not_exhaustive)


def lvis_image(rng, image_id):
    *predictions, targets = ap_image(rng, image_id)
    targets = [Segment(target.mask_rle, target.category_id) for target in targets]
    return *predictions, targets, [1, 2][: rng.integers(3)], [2][: rng.integers(2)]


def cityscapes_image(rng, image_id):
    """Blocks of 144 pixels; predictions are moved a little, and share their scores."""
    values = rng.integers(0, 7, (3, 4)).repeat(12, axis=0).repeat(12, axis=1)
    targets = [Segment(rle_from_bitmap(values == value), 26 + value % 2, bool(value == 4)) for value in range(2, 6)]
    masks = [np.roll(values == rng.integers(7), rng.integers(-2, 3, 2), (0, 1)) for _ in range(rng.integers(8))]
    return image_id, masks, rng.integers(26, 28, len(masks)), rng.choice([0.3, 0.6], len(masks)), targets, values == 1


# name -> (an empty measure, arguments of update number `index`)
MEASURES = {
    "panoptic": (lambda: PanopticQuality(IS_THING), lambda rng, index: random_image(rng)),
    "semantic": (lambda: MeanIoU(4), lambda rng, index: (random_ids(rng, 4), random_ids(rng, 4))),
    "instance": (MaskAP, ap_image),
    "instance of LVIS": (lambda: LvisByPosition(frequencies={1: "r", 2: "f"}), lvis_image),
    "instance of Cityscapes": (lambda: CityscapesAP([26, 27]), cityscapes_image),
    "referring": (ReferringIoU, lambda rng, index: (random_mask(rng), random_mask(rng))),
    "region": (RegionIoU, lambda rng, index: (random_mask(rng), random_mask(rng))),
    "vqa": (VqaAccuracy, lambda rng, index: (*letters(rng, 1), letters(rng, 10), letters(rng, 2))),
    "choices": (ChoiceAccuracy, lambda rng, index: (*letters(rng, 2), letters(rng, 2))),
    "circular": (CircularAccuracy, circular_pass),
    "yes or no": (YesNoScores, lambda rng, index: (*rng.choice(["yes", "no"], 2).tolist(), f"file {index % 3}")),
    "video": (VideoObjects, lambda rng, index: (f"video {index % 3}", index, random_ids(rng, 3), random_ids(rng, 4), (1, 2))),
    "correspondence": (
        Correspondence,
        lambda rng, index: (random_mask(rng), random_mask(rng) if rng.random() < 0.7 else None, rng.random()),
    ),
}


def updates(name, number=40):
    rng = np.random.default_rng(0)
    return [MEASURES[name][1](rng, index) for index in range(number)]


def numbers(metric):
    """Everything that it tells, in an order that does not depend on that of the updates."""
    per_category = metric.per_category() if hasattr(metric, "per_category") else {}
    return metric.compute(), {category: per_category[category] for category in sorted(per_category)}


def filled(name, rows):
    metric = MEASURES[name][0]()
    for arguments in rows:
        metric.update(*arguments)
    return metric


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
def test_workers_add_up_to_the_same_bits(name, num_workers):
    rows = updates(name)
    merged = filled(name, rows[0::num_workers])
    for worker in range(1, num_workers):
        merged += filled(name, rows[worker::num_workers])
    assert str(numbers(merged)) == str(numbers(filled(name, rows)))  # text: every digit, and nan equals nan


@pytest.mark.parametrize("name", MEASURES)
def test_workers_that_saw_nothing_change_nothing(name):
    metric = filled(name, updates(name, 5))
    before = str(numbers(metric))
    metric += MEASURES[name][0]()
    assert str(numbers(metric)) == before
    empty = MEASURES[name][0]()
    empty += metric
    assert str(numbers(empty)) == before


@pytest.mark.parametrize("name", MEASURES)
def test_adding_leaves_the_other_as_it_was(name):
    rows = updates(name, 6)
    first, second = filled(name, rows[:3]), filled(name, rows[3:])
    before = str(numbers(second))
    merged = MEASURES[name][0]()
    merged += second
    merged += first
    assert str(numbers(second)) == before


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_travels_between_processes(name):
    metric = filled(name, updates(name, 5))
    assert str(numbers(pickle.loads(pickle.dumps(metric)))) == str(numbers(metric))


@pytest.mark.parametrize("name", MEASURES)
def test_results_are_plain_numbers(name):
    result, per_category = numbers(filled(name, updates(name)))
    assert {type(value) for value in result.values()} == {float}
    assert {type(category) for category in per_category} <= {int}
    assert {type(value) for values in per_category.values() for value in values.values()} <= {float}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (PanopticQuality(IS_THING), PanopticQuality({1: True})),
        (PanopticQuality(IS_THING), PanopticQuality(IS_THING, (0, 100))),
        (MeanIoU(4), MeanIoU(5)),
        (MeanIoU(4), MeanIoU(4, ignore_label=7)),
        (MaskAP(), MaskAP(area_ranges={"all of them": (0, 1e9)})),
        (MaskAP(), MaskAP(max_detections=(1, 10, 300))),
        (CityscapesAP([26]), CityscapesAP([26, 27])),
    ],
)
def test_only_measures_made_alike_can_be_added(first, second):
    with pytest.raises(ValueError, match="only metrics made alike can be added"):
        first += second
