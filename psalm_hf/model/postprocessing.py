"""Predictions -> segmentations of one row. Pure functions on tensors; thresholds default to the released ones.

Shapes: Q mask queries, K categories without the background, R regions, (h, w) the resolution of the prediction, (H, W) that of
the result. `class_logits` are (Q, K + 1) with the background LAST and no padding columns. `frame` says where the image lies in
the prediction; None keeps the resolution of the prediction, padding included.

Mask logits are resized a few queries at a time: 100 queries of a 12-megapixel photo would take 5 GB in one piece.

Source: evaluation of PSALM (github.com/zamling/PSALM, d5dbfda), which is Mask2Former's with other scores.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .image_processing_psalm import Placement

_CHUNK = 8  # queries, or categories, that are resized together


@dataclass(frozen=True)
class InstancePredictions:
    """N instances, best first."""

    masks: Tensor  # (N, H, W) bool
    scores: Tensor  # (N,) float in [0, 1]
    labels: Tensor  # (N,) int64, index of the category
    queries: Tensor  # (N,) int64, which query made it; one query may make several


def _restored(mask_logits: Tensor, frame: Placement | None) -> Iterator[Tensor]:
    """(Q, h, w) -> chunks of (at most 8, H, W) float32."""
    if len(mask_logits) == 0:  # interpolation refuses an empty tensor
        yield mask_logits.new_zeros((0, *_result_size(mask_logits, frame)), dtype=torch.float32)
        return
    for chunk in mask_logits.split(_CHUNK):
        yield chunk.float() if frame is None else frame.restore(chunk.float())


def _result_size(mask_logits: Tensor, frame: Placement | None) -> tuple[int, int]:
    return tuple(mask_logits.shape[1:]) if frame is None else frame.target_size


def _threshold_logit(mask_threshold: float) -> float:
    """The logit whose sigmoid is `mask_threshold`: comparing logits spares a sigmoid and is exact at 0.5."""
    if not 0 < mask_threshold < 1:
        raise ValueError(f"mask_threshold: expected a probability between 0 and 1, got {mask_threshold}")
    return math.log(mask_threshold / (1 - mask_threshold))


def binary_masks(mask_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5) -> Tensor:
    """(Q, h, w) -> (Q, H, W) bool: probability above the threshold."""
    limit = _threshold_logit(mask_threshold)
    return torch.cat([logits > limit for logits in _restored(mask_logits, frame)])


def mask_scores(mask_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5) -> Tensor:
    """(Q, h, w) -> (Q,): mean probability over the pixels of each binary mask; 0 for an empty mask."""
    limit = _threshold_logit(mask_threshold)
    scores = []
    for logits in _restored(mask_logits, frame):
        is_set = logits > limit
        area = is_set.flatten(1).sum(1)
        scores.append((logits.sigmoid() * is_set).flatten(1).sum(1) / (area + 1e-6))
    return torch.cat(scores)


def semantic_scores(mask_logits: Tensor, class_logits: Tensor, frame: Placement | None, *, resize_logits: bool = False) -> Tensor:
    """Score of every category at every pixel: sum over the queries of class probability times mask probability.

    Args:
        mask_logits: (Q, h, w).
        class_logits: (Q, K + 1).
        frame: see the module.
        resize_logits: False = the released semantic task: probabilities at the padded size, and their sums are resized to the
            image. True = what the released panoptic pass reports: mask logits are resized to the image first.

    Returns:
        (K, H, W) float32.
    """
    return torch.cat(list(_semantic_chunks(mask_logits, class_logits, frame, resize_logits)))


def semantic_map(mask_logits: Tensor, class_logits: Tensor, frame: Placement | None, *, resize_logits: bool = False) -> Tensor:
    """(H, W) int64: the category with the highest `semantic_scores`, the first of equals. Background takes no pixel."""
    best = labels = None
    first = 0
    for scores in _semantic_chunks(mask_logits, class_logits, frame, resize_logits):
        top, index = scores.max(0)
        index = index + first
        if best is None:
            best, labels = top, index
        else:
            labels = torch.where(top > best, index, labels)
            best = torch.maximum(best, top)
        first += len(scores)
    return labels


def _semantic_chunks(mask_logits: Tensor, class_logits: Tensor, frame: Placement | None, resize_logits: bool) -> Iterator[Tensor]:
    class_probs = class_logits.float().softmax(-1)[:, :-1]  # (Q, K)
    if frame is None:
        mask_probs = mask_logits.float().sigmoid()  # (Q, h, w)
    elif resize_logits:
        mask_probs = frame.restore(mask_logits.float()).sigmoid_()  # (Q, H, W)
    else:
        mask_probs = frame.to_padded(mask_logits.float()).sigmoid_()  # (Q, S, S), in place: 400 MB at full size
    for probs in class_probs.split(_CHUNK, dim=1):
        scores = torch.einsum("qc,qhw->chw", probs, mask_probs)
        yield scores if frame is None or resize_logits else frame.to_target(scores)


def top_instances(
    mask_logits: Tensor,
    class_logits: Tensor,
    frame: Placement | None,
    *,
    top_k: int = 100,
    threshold: float = 0.0,
    mask_threshold: float = 0.5,
    label_ids: Collection[int] | None = None,
) -> InstancePredictions:
    """The most probable (query, category) pairs as instances.

    Args:
        mask_logits: (Q, h, w).
        class_logits: (Q, K + 1).
        frame: see the module.
        top_k: how many pairs are considered.
        threshold: instances need a score above it. A score is class probability times mean mask probability, so an empty mask
            never passes.
        mask_threshold: a pixel is set if its probability is above it.
        label_ids: categories to keep (the things of a panoptic vocabulary), chosen AFTER the best pairs; default all.
    """
    num_labels = class_logits.shape[-1] - 1
    class_probs = class_logits.float().softmax(-1)[:, :-1].flatten()  # (Q * K,)
    class_scores, pairs = class_probs.topk(min(top_k, class_probs.numel()), sorted=False)
    queries, labels = pairs // num_labels, pairs % num_labels
    if label_ids is not None:
        kept = torch.isin(labels, torch.tensor(sorted(label_ids), dtype=labels.dtype, device=labels.device)).nonzero()[:, 0]
        class_scores, queries, labels = class_scores[kept], queries[kept], labels[kept]

    used, position = queries.unique(return_inverse=True)
    # Scores and masks take a pass each: most photos keep few instances, and only their masks need to be held.
    scores = class_scores * mask_scores(mask_logits[used], frame, mask_threshold)[position]
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > threshold]
    queries = queries[order]
    kept_queries, position = queries.unique(return_inverse=True)
    masks = binary_masks(mask_logits[kept_queries], frame, mask_threshold)[position]
    return InstancePredictions(masks, scores[order], labels[order], queries)


def merge_panoptic(
    mask_logits: Tensor,
    class_logits: Tensor,
    frame: Placement | None,
    *,
    threshold: float = 0.8,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    label_ids_to_fuse: Collection[int] = (),
) -> tuple[Tensor, list[dict[str, Any]]]:
    """One segment per pixel.

    Queries whose best category is the background, or has a probability of at most `threshold`, are dropped. Each pixel goes to
    the query with the highest class probability times mask probability. A query becomes a segment if the pixels it won are at
    least `overlap_mask_area_threshold` of its own mask (probability >= `mask_threshold`); the segment is where both agree.
    Segments of a category in `label_ids_to_fuse` are one segment.

    Returns:
        (H, W) int32, 0 = no segment, and one `{"id", "label_id", "was_fused", "score"}` per segment in the order of ids, which
        start at 1. `score` is the class probability, of fused segments the highest.
    """
    limit = _threshold_logit(mask_threshold)
    scores, labels = class_logits.float().softmax(-1).max(-1)
    kept = ((labels != class_logits.shape[-1] - 1) & (scores > threshold)).nonzero()[:, 0]
    size = _result_size(mask_logits, frame)
    best = mask_logits.new_full(size, -1.0, dtype=torch.float32)
    winner = mask_logits.new_zeros(size, dtype=torch.int64)
    winner_is_set = mask_logits.new_zeros(size, dtype=torch.bool)
    own_areas = []
    if not len(kept):
        return winner.int(), []
    scores, labels = scores[kept], labels[kept]
    index = 0
    for logits in _restored(mask_logits[kept], frame):
        for query_logits in logits:
            weighted = scores[index] * query_logits.sigmoid()
            is_set = query_logits >= limit
            wins = weighted > best
            best = torch.where(wins, weighted, best)
            winner = torch.where(wins, index, winner)
            winner_is_set = torch.where(wins, is_set, winner_is_set)
            own_areas.append(is_set.sum())
            index += 1
    # Counted on the device and read together: the host waits for every read.
    winners = winner.flatten()
    won_areas = torch.zeros_like(kept).scatter_add_(0, winners, torch.ones_like(winners))
    set_areas = torch.zeros_like(kept).scatter_add_(0, winners, winner_is_set.flatten().long())
    numbers = torch.stack([torch.stack(own_areas), won_areas, set_areas, labels])

    segment_ids = [0] * len(kept)
    segments: list[dict[str, Any]] = []
    fused: dict[int, dict[str, Any]] = {}
    for index, (own_area, won_area, set_area, label, score) in enumerate(zip(*numbers.tolist(), scores.tolist(), strict=True)):
        if not set_area or won_area / own_area < overlap_mask_area_threshold:
            continue
        if label in fused:
            fused[label]["score"] = max(fused[label]["score"], score)
            segment_ids[index] = fused[label]["id"]
            continue
        segment = {"id": len(segments) + 1, "label_id": label, "was_fused": label in label_ids_to_fuse, "score": score}
        segments.append(segment)
        segment_ids[index] = segment["id"]
        if segment["was_fused"]:
            fused[label] = segment
    table = torch.tensor(segment_ids, dtype=torch.int32, device=winner.device)
    return table[winner] * winner_is_set, segments


def referring_scores(mask_logits: Tensor, referring_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5) -> Tensor:
    """(Q, h, w), (Q, 1) -> (Q,): probability that the query is meant, times the mean probability of its mask."""
    return referring_logits.float().sigmoid()[:, 0] * mask_scores(mask_logits, frame, mask_threshold)


def region_scores(mask_logits: Tensor, region_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5) -> Tensor:
    """(Q, h, w), (R, Q) -> (Q, R). Two regions may mean the same object, so they do not compete: sigmoid, not softmax."""
    return region_logits.float().sigmoid().T * mask_scores(mask_logits, frame, mask_threshold)[:, None]
