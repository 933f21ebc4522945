"""Post-processing of recorded logits against the released code; the complete forwards are in test_golden_forward.py."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from psalm_hf.model.image_processing_psalm import Placement
from psalm_hf.model.postprocessing import (
    best_scores,
    binary_masks,
    mask_scores,
    merge_panoptic,
    region_scores,
    semantic_map,
    semantic_scores,
    top_instances,
)
from tests.model.golden import case_entry, case_tensors, cases_with

pytestmark = pytest.mark.golden

LOGIT_TOLERANCE = 2e-4
CASES = [case for case in cases_with("in.pred_masks") if case.startswith("post_")]
PANOPTIC = [case for case in CASES if "panoptic" in case]
INSTANCE = [case for case in CASES if "instance" in case]
SEMANTIC = [case for case in CASES if "semantic" in case]
REFERRING = [case for case in CASES if "referring" in case]
REGION = [case for case in CASES if "region" in case]


def frame_of(case: str) -> Placement:
    entry = case_entry(case)
    return Placement((entry["padded"],) * 2, tuple(entry["content_hw"]), (entry["height"], entry["width"]))


def mask_logits(case: str) -> Tensor:
    return case_tensors(case)["in.pred_masks"][0]


def class_logits(case: str) -> Tensor:
    return case_tensors(case)["in.pred_class_name_logits"][0]


def strided(case: str, name: str, full: Tensor) -> Tensor:
    strides = case_entry(case)["spatial_stride_stored"]
    stride = strides.get(name, strides["default"])
    return full[..., ::stride, ::stride]


def assert_same_pixels(case: str, name: str, ours: Tensor, recorded: Tensor, logits: Tensor) -> None:
    """Equal but where a logit (broadcast against the masks) is within tolerance of zero."""
    different = strided(case, name, ours) != recorded
    undecided = strided(case, name, logits.abs() < LOGIT_TOLERANCE)
    assert ours.shape[-2:] == (case_entry(case)["height"], case_entry(case)["width"])
    assert not (different & ~undecided).any(), f"{int(different.sum())} pixels differ"


def restored(case: str) -> Tensor:
    return frame_of(case).restore(mask_logits(case))


def assert_same_set(case: str, masks: Tensor, scores: Tensor, labels: Tensor, logits: Tensor) -> None:
    """One of ours for each recorded mask, with its label, score and pixels: the recordings are in no order."""
    recorded = case_tensors(case)
    recorded_labels = recorded.get("out.pred_classes", torch.zeros(len(recorded["out.scores"]), dtype=torch.int64))
    assert scores.shape == recorded["out.scores"].shape
    differs = strided(case, "pred_masks", masks)[:, None] != (recorded["out.pred_masks"] != 0)[None]  # (N, N, H, W)
    wrong = differs & (strided(case, "pred_masks", logits).abs() >= LOGIT_TOLERANCE)[:, None]
    same = (scores[:, None] - recorded["out.scores"]).abs() < 1e-5
    same &= (labels[:, None] == recorded_labels) & ~wrong.flatten(2).any(2)
    ours, theirs = linear_sum_assignment(same, maximize=True)
    assert same[ours, theirs].all(), f"{int((~same.any(0)).sum())} recorded masks have no counterpart"


@pytest.mark.parametrize("case", PANOPTIC)
def test_panoptic_segments(case):
    entry, recorded = case_entry(case), case_tensors(case)
    stuff = [label for label, is_thing in enumerate(entry["is_thing_list"]) if not is_thing]
    segmentation, segments = merge_panoptic(mask_logits(case), class_logits(case), frame_of(case), label_ids_to_fuse=stuff)
    undecided = restored(case).abs().min(0).values
    assert_same_pixels(case, "panoptic_seg", segmentation, recorded["out.panoptic_seg"], undecided)
    assert [(segment["id"], segment["label_id"], not segment["was_fused"]) for segment in segments] == [
        (segment["id"], segment["category_id"], segment["isthing"]) for segment in entry["segments_info"]
    ]


@pytest.mark.parametrize("case", SEMANTIC + PANOPTIC)
def test_semantic_scores(case):
    resize_logits = case in PANOPTIC  # the panoptic pass reports semantics from masks already at the image's size
    scores = semantic_scores(mask_logits(case), class_logits(case), frame_of(case), resize_logits=resize_logits)
    torch.testing.assert_close(strided(case, "sem_seg", scores), case_tensors(case)["out.sem_seg"], atol=1e-5, rtol=1e-5)
    best = semantic_map(mask_logits(case), class_logits(case), frame_of(case), resize_logits=resize_logits)
    assert torch.equal(best, scores.argmax(0))


@pytest.mark.parametrize("case", INSTANCE + PANOPTIC)
def test_instances(case):
    entry, logits = case_entry(case), mask_logits(case)
    things = None
    if case in PANOPTIC:
        things = [label for label, is_thing in enumerate(entry["is_thing_list"]) if is_thing]
    # The recordings keep as many pairs as there are queries, empty masks included, in no order.
    found = top_instances(logits, class_logits(case), frame_of(case), top_k=len(logits), threshold=-1, label_ids=things)
    masks = binary_masks(logits[found.queries], frame_of(case))
    assert_same_set(case, masks, found.scores, found.labels, restored(case)[found.queries])
    assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize("case", REFERRING)
def test_referring_scores(case):
    recorded, logits = case_tensors(case), mask_logits(case)
    scores = best_scores(recorded["in.pred_SEG_logits"][0].sigmoid().T, logits, frame_of(case), threshold=-1.0)[0]
    labels = torch.zeros(len(scores), dtype=torch.int64)
    assert_same_set(case, binary_masks(logits, frame_of(case)), scores, labels, restored(case))


@pytest.mark.parametrize("case", REGION)
def test_region_scores_masks_and_targets(case):
    recorded, logits = case_tensors(case), mask_logits(case)
    scores = region_scores(logits, recorded["in.pred_region_logits"], frame_of(case))
    torch.testing.assert_close(scores, recorded["out.scores"], atol=1e-5, rtol=0)
    masks = binary_masks(logits, frame_of(case))
    assert_same_pixels(case, "pred_masks", masks, recorded["out.pred_masks"] != 0, restored(case))
    targets = frame_of(case).to_target(recorded["in.gt_masks"].float())
    torch.testing.assert_close(strided(case, "gt", targets), recorded["out.gt"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_a_frame_of_the_whole_prediction_changes_nothing(case):
    logits = mask_logits(case)
    whole = Placement(tuple(logits.shape[-2:]), tuple(logits.shape[-2:]), tuple(logits.shape[-2:]))
    torch.testing.assert_close(mask_scores(logits, whole), mask_scores(logits, None))
