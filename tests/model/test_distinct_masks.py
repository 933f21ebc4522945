"""Suppression of masks that repeat a better one: strips of ten pixels, whose overlaps anyone can count."""

import pytest
import torch

from psalm_hf.model import postprocessing
from psalm_hf.model.image_processing_psalm import Placement
from psalm_hf.model.postprocessing import binary_masks, distinct_masks

LARGE = Placement((24, 24), (18, 24), (31, 43))


def strip(*spans):
    """(n, 2, 10) logits: mask i has the pixels first to last of its span, in both rows."""
    logits = torch.full((len(spans), 2, 10), -5.0)
    for index, (first, last) in enumerate(spans):
        logits[index, :, first : last + 1] = 5.0
    return logits


def kept(logits, nms_threshold, queries=None):
    queries = torch.arange(len(logits)) if queries is None else torch.tensor(queries)
    return distinct_masks(queries, logits, None, nms_threshold=nms_threshold).positions.tolist()


def test_a_mask_goes_if_its_iou_with_a_better_one_is_above_the_threshold():
    logits = strip((0, 5), (0, 3), (5, 8))  # IoU with the first: 4/6 and 1/9
    assert kept(logits, 0.5) == [0, 2]
    assert kept(logits, 0.7) == [0, 1, 2]
    assert kept(logits, 4 / 6) == [0, 1, 2]  # as much as is allowed
    assert kept(logits, 0.1) == [0]
    assert kept(logits, 0.0) == [0]


def test_a_mask_that_went_drives_no_other_away():
    logits = strip((0, 5), (1, 6), (3, 8))  # second with first 5/7, third with second 4/8, third with first 3/9
    assert kept(logits, 0.4) == [0, 2]
    assert kept(logits, 0.4, [1, 2, 0]) == [0]  # the best one here is query 1
    assert kept(logits, 0.4, [2, 1, 0]) == [0, 2]


def test_masks_are_compared_and_not_their_boxes():
    logits = torch.full((2, 4, 4), -5.0)
    logits[0, range(4), range(4)] = 5.0  # two diagonals: boxes are equal, no pixel is common
    logits[1, range(4), range(3, -1, -1)] = 5.0
    assert kept(logits, 0.0) == [0, 1]


def test_empty_masks_go_and_boxes_lie_along_pixel_edges():
    found = distinct_masks(torch.tensor([2, 0, 1]), strip((3, 3), (9, 8), (4, 6)), None)
    assert found.positions.tolist() == [0, 1]
    assert found.boxes.tolist() == [[4, 0, 7, 2], [3, 0, 4, 2]] and found.boxes.dtype == torch.float32
    assert found.masks.sum((1, 2)).tolist() == [6, 2]


def test_no_query_gives_no_mask():
    found = distinct_masks(torch.empty(0, dtype=torch.int64), strip((0, 1)), LARGE)
    assert found.masks.shape == (0, 31, 43) and found.boxes.shape == (0, 4) and found.positions.shape == (0,)


@pytest.fixture
def logits():
    logits = torch.randn(19, 6, 6, generator=torch.Generator().manual_seed(1)) * 3
    logits[::4] = -logits[::4].abs()  # empty
    return logits


def test_with_a_threshold_of_one_all_masks_with_pixels_stay_as_they_are(logits):
    found = distinct_masks(torch.arange(19), logits, LARGE, mask_threshold=0.7, nms_threshold=1.0)
    masks = binary_masks(logits, LARGE, 0.7)
    assert found.positions.tolist() == masks.any(2).any(1).nonzero()[:, 0].tolist()
    assert torch.equal(found.masks, masks[found.positions])


@pytest.mark.parametrize("nms_threshold", [0.15, 0.25, 0.35])
def test_cropped_masks_are_suppressed_as_whole_ones(logits, nms_threshold):
    order = torch.randperm(19, generator=torch.Generator().manual_seed(2))
    masks = binary_masks(logits, LARGE)[order].flatten(1).float()
    common = masks @ masks.T
    ious = common / (masks.sum(1)[:, None] + masks.sum(1) - common)
    expected = []
    for index in range(19):
        if masks[index].any() and all(ious[index, better] <= nms_threshold for better in expected):
            expected.append(index)
    assert kept_in_frame(logits, order, nms_threshold) == expected
    assert 1 < len(expected) < 14


def kept_in_frame(logits, order, nms_threshold):
    return distinct_masks(order, logits, LARGE, nms_threshold=nms_threshold).positions.tolist()


def test_pieces_change_nothing(logits, monkeypatch):
    queries = torch.tensor([7, 2, 18, 5, 9, 1, 3])
    expected = distinct_masks(queries, logits, LARGE, nms_threshold=0.2)
    sizes = []
    restore = Placement.restore
    monkeypatch.setattr(Placement, "restore", lambda self, maps: sizes.append(len(maps)) or restore(self, maps))
    monkeypatch.setattr(postprocessing, "_PIXELS", 2 * 31 * 43)
    for one, other in zip(distinct_masks(queries, logits, LARGE, nms_threshold=0.2), expected, strict=True):
        assert torch.equal(one, other)
    assert sizes == [2, 2, 2, 1]  # never more than two masks at the size of the image


def test_a_mask_that_stays_holds_no_more_than_its_box():
    whole = torch.zeros(300, 400, dtype=torch.bool)
    whole[10:13, 20:25] = True
    mask = postprocessing._CroppedMask.of(0, whole)
    assert mask.box == (20, 10, 25, 13) and mask.pixels.untyped_storage().nbytes() == 15 == mask.area
