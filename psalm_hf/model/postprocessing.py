"""Predictions -> segmentations of one row. Pure functions on tensors; thresholds default to the released ones.

Shapes: Q mask queries, K categories without the background, R regions, (h, w) the resolution of the prediction, (H, W) that of
the result. `class_logits` are (Q, K + 1) with the background LAST and no padding columns. `frame` says where the image lies in
the prediction; None keeps the resolution of the prediction, padding included.

Mask logits are resized a few queries at a time: 100 queries of a 12-megapixel photo would take 5 GB in one piece. Queries that cannot
matter are not resized at all: whose logits are all too low, or whose probability is below the best score.

Source: evaluation of PSALM (github.com/zamling/PSALM, d5dbfda), which is Mask2Former's with other scores.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .image_processing_psalm import Placement

_CHUNK = 8  # categories whose scores are summed together
_PIXELS = 2**23  # of the result, that are resized together: 32 MB in float32
_PIXELS_ON_CPU = 2**21  # where a decision in between costs no wait, and less is resized in vain
_MARGIN = 1e-3  # by which a logit may grow when it is resized; it is an average of others, so only by rounding


@dataclass(frozen=True)
class InstancePredictions:
    """N instances, best first. Their masks: `binary_masks` of their queries."""

    scores: Tensor  # (N,) float in [0, 1]
    labels: Tensor  # (N,) int64, index of the category
    queries: Tensor  # (N,) int64, which query made it; one query may make several


def _restored(mask_logits: Tensor, queries: Tensor, frame: Placement | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of `queries` (n,) and their logits (q, H, W) float32, which belong to the caller, who may overwrite them."""
    for chunk in queries.split(_queries_at_once(mask_logits, frame)) if len(queries) else ():  # interpolation refuses an empty tensor
        logits = mask_logits[chunk].float()
        yield chunk, logits if frame is None else frame.restore(logits)


def _queries_at_once(mask_logits: Tensor, frame: Placement | None) -> int:
    pixels = min(_PIXELS, _PIXELS_ON_CPU) if mask_logits.device.type == "cpu" else _PIXELS
    return max(1, pixels // max(1, math.prod(_result_size(mask_logits, frame))))


def _with_pixels(mask_logits: Tensor, limit: float, frame: Placement | None) -> Tensor:
    """Indices of the queries whose resized logits may be above `limit` somewhere; all of them where they are resized in one piece."""
    if len(mask_logits) <= _queries_at_once(mask_logits, frame):
        return torch.arange(len(mask_logits), device=mask_logits.device)
    return (mask_logits.flatten(1).amax(1) > limit - _MARGIN * max(1.0, abs(limit))).nonzero()[:, 0]


def _result_size(mask_logits: Tensor, frame: Placement | None) -> tuple[int, int]:
    return tuple(mask_logits.shape[1:]) if frame is None else frame.target_size


def threshold_logit(mask_threshold: float) -> float:
    """The logit whose sigmoid is `mask_threshold`: comparing logits spares a sigmoid and is exact at 0.5."""
    if isinstance(mask_threshold, bool) or not isinstance(mask_threshold, int | float | np.number) or not 0 < mask_threshold < 1:
        raise ValueError(f"mask_threshold: expected a probability between 0 and 1, got {mask_threshold!r:.80}")
    return math.log(mask_threshold / (1 - mask_threshold))


def binary_masks(mask_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5) -> Tensor:
    """(Q, h, w) -> (Q, H, W) bool: probability above the threshold."""
    limit = threshold_logit(mask_threshold)
    masks = mask_logits.new_zeros((len(mask_logits), *_result_size(mask_logits, frame)), dtype=torch.bool)
    for queries, logits in _restored(mask_logits, _with_pixels(mask_logits, limit, frame), frame):
        masks[queries] = logits > limit
        del logits  # or it would stand beside the next
    return masks


def masks_of(queries: Tensor, mask_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5) -> Tensor:
    """`binary_masks` of chosen queries, of which some may be the same: (N,) int64 -> (N, H, W) bool."""
    if len(queries) <= _queries_at_once(mask_logits, frame):
        return binary_masks(mask_logits[queries], frame, mask_threshold)
    different, position = queries.unique(return_inverse=True)
    return binary_masks(mask_logits[different], frame, mask_threshold)[position]


class DistinctMasks(NamedTuple):
    """Masks of N queries, best first, without repetitions.

    Attributes:
        positions: (N,) int64, places of their queries among those that were given.
        masks: (N, H, W) bool, none of them empty.
        boxes: (N, 4) float32: x0, y0, x1, y1 around each mask, in pixels along pixel edges.
    """

    positions: Tensor
    masks: Tensor
    boxes: Tensor


class _CroppedMask(NamedTuple):
    position: int
    box: tuple[int, int, int, int]
    pixels: Tensor  # those in the box
    area: int

    @classmethod
    def of(cls, position: int, mask: Tensor) -> _CroppedMask | None:
        """None of an empty mask."""
        columns, rows = mask.any(0).nonzero()[:, 0], mask.any(1).nonzero()[:, 0]
        if not len(rows):
            return None
        x0, x1, y0, y1 = torch.stack([columns[0], columns[-1], rows[0], rows[-1]]).tolist()
        pixels = mask[y0 : y1 + 1, x0 : x1 + 1].clone()  # a view would keep the whole mask
        return cls(position, (x0, y0, x1 + 1, y1 + 1), pixels, int(pixels.count_nonzero()))

    def inside(self, x0: int, y0: int, x1: int, y1: int) -> Tensor:
        """The pixels in a box that lies within its own."""
        left, top = self.box[:2]
        return self.pixels[y0 - top : y1 - top, x0 - left : x1 - left]

    def iou(self, other: _CroppedMask) -> float:
        """Intersection over union, in [0, 1]."""
        x0, y0 = max(self.box[0], other.box[0]), max(self.box[1], other.box[1])
        x1, y1 = min(self.box[2], other.box[2]), min(self.box[3], other.box[3])
        if x0 >= x1 or y0 >= y1:
            return 0.0
        common = int((self.inside(x0, y0, x1, y1) & other.inside(x0, y0, x1, y1)).count_nonzero())
        return common / (self.area + other.area - common)


def distinct_masks(
    queries: Tensor, mask_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5, nms_threshold: float = 0.5
) -> DistinctMasks:
    """Masks of chosen queries after non-maximum suppression: a mask is left out if its IoU with a better one that stays is too high.

    The masks themselves are compared, not their boxes, which of things that stand close or diagonally overlap much more. Only the masks
    that stay are kept, cropped to their boxes.

    Args:
        queries: (n,) int64, best first, each once.
        mask_logits: (Q, h, w).
        frame: see the module.
        mask_threshold: a pixel is set if its probability is above it.
        nms_threshold: IoU in [0, 1] up to which two masks may both stay; 1 = all stay. Empty masks are left out in any case.

    Source: greedy suppression as of detectors (Felzenszwalb et al., 2010), on masks as SAM 3 does it for the instances of a phrase
    (arXiv:2511.16719).
    """
    limit = threshold_logit(mask_threshold)
    kept: list[_CroppedMask] = []
    position = 0
    for _, logits in _restored(mask_logits, queries, frame):
        for query_logits in logits:
            mask = _CroppedMask.of(position, query_logits > limit)
            if mask is not None and all(mask.iou(better) <= nms_threshold for better in kept):
                kept.append(mask)
            position += 1
        del logits, query_logits
    positions = torch.tensor([mask.position for mask in kept], dtype=torch.int64, device=mask_logits.device)
    boxes = torch.tensor([mask.box for mask in kept], dtype=torch.float32, device=mask_logits.device).reshape(-1, 4)
    masks = mask_logits.new_zeros((len(kept), *_result_size(mask_logits, frame)), dtype=torch.bool)
    for whole in masks:
        _, (x0, y0, x1, y1), pixels, _ = kept.pop(0)  # is free again when it is painted
        whole[y0:y1, x0:x1] = pixels
    return DistinctMasks(positions, masks, boxes)


def mask_scores(mask_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5) -> Tensor:
    """(Q, h, w) -> (Q,): mean probability over the pixels of each binary mask; 0 for an empty mask."""
    limit = threshold_logit(mask_threshold)
    scores = mask_logits.new_zeros(len(mask_logits), dtype=torch.float32)
    for queries, logits in _restored(mask_logits, _with_pixels(mask_logits, limit, frame), frame):
        is_set = logits > limit
        # A sum of bool makes integers of all pixels first: of one query that fills a chunk, 400 MB.
        area = is_set.count_nonzero()[None] if len(is_set) == 1 else is_set.flatten(1).sum(1)
        scores[queries] = logits.sigmoid_().masked_fill_(~is_set, 0.0).flatten(1).sum(1) / (area + 1e-6)
        del logits
    return scores


def best_scores(
    probabilities: Tensor, mask_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5, threshold: float | None = None
) -> Tensor:
    """Probability times mean probability of the mask, as far as it matters: the best of each row, and all above a threshold.

    The mean is at most 1, so that a query whose probability is below the best score cannot win. Its mask is not resized.

    Args:
        probabilities: (N, Q): a row per prompt.
        mask_logits: (Q, h, w).
        threshold: None = only the best is needed.

    Returns:
        (N, Q) scores; 0 where a score is neither the best of its row nor above the threshold.
    """
    number = _queries_at_once(mask_logits, frame)
    if number >= len(mask_logits):  # one piece; asking what is still needed would wait for the device
        return probabilities * mask_scores(mask_logits, frame, mask_threshold)
    quality = torch.zeros_like(probabilities[0])  # (Q,)
    is_open = torch.ones_like(quality, dtype=torch.bool)
    while True:
        scores = probabilities * quality
        is_needed = probabilities >= scores.amax(1, keepdim=True)
        if threshold is not None:
            is_needed |= probabilities > threshold
        queries = (is_needed.any(0) & is_open).nonzero()[:, 0]
        if not len(queries):
            return scores
        surest = probabilities[:, queries].amax(0).topk(min(number, len(queries))).indices
        queries = queries[surest]
        quality[queries] = mask_scores(mask_logits[queries], frame, mask_threshold)
        is_open[queries] = False


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
    label = 0
    for chunk in _semantic_chunks(mask_logits, class_logits, frame, resize_logits):
        for scores in chunk:
            if best is None:
                best, labels = scores.contiguous(), torch.zeros_like(scores, dtype=_small_integers(class_logits.shape[1]))
                label += 1
                continue
            for score_pixels, best_pixels, label_pixels in _pieces(scores, best, labels):
                label_pixels.masked_fill_(score_pixels > best_pixels, label)
                torch.maximum(best_pixels, score_pixels, out=best_pixels)
            label += 1
        score_pixels = best_pixels = None  # a view keeps the whole map
        del chunk, scores
    del best
    return labels.long()


def _pieces(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few pixels of each (H, W) map, as views: what is computed of a piece is soon free again."""
    return zip(*(x.view(-1).split(max(1, _PIXELS // 4)) for x in maps), strict=True)


def _small_integers(number: int) -> torch.dtype:
    """For maps of numbers below this one; a map of int64 of 48 megapixels takes 400 MB."""
    return torch.uint8 if number <= 256 else torch.int16


def _semantic_chunks(mask_logits: Tensor, class_logits: Tensor, frame: Placement | None, resize_logits: bool) -> Iterator[Tensor]:
    """`semantic_scores`, a few categories at a time."""
    class_probs = class_logits.float().softmax(-1)[:, :-1]  # (Q, K)
    if frame is not None and resize_logits:
        summed = mask_logits.new_zeros((class_probs.shape[1], *frame.target_size), dtype=torch.float32)
        for queries, logits in _restored(mask_logits, torch.arange(len(mask_logits), device=mask_logits.device), frame):
            summed += torch.einsum("qc,qhw->chw", class_probs[queries], logits.sigmoid_())
        yield summed
        return
    # In place: 400 MB at full size.
    mask_probs = mask_logits.float().sigmoid() if frame is None else frame.to_padded(mask_logits.float()).sigmoid_()
    sums = (torch.einsum("qc,qhw->chw", probs, mask_probs) for probs in class_probs.split(_CHUNK, dim=1))
    if class_probs.shape[1] < len(mask_probs):  # the smaller of the two stands beside maps of the size of a photo
        sums = list(sums)
        mask_probs = None
    if frame is None:
        yield from sums
        return
    for some in sums:
        for scores in some.split(_queries_at_once(mask_logits, frame)):
            yield frame.to_target(scores)


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
    may_stay = class_scores > threshold  # the score is no larger
    if label_ids is not None:
        may_stay &= torch.isin(labels, torch.tensor(sorted(label_ids), dtype=labels.dtype, device=labels.device))
    kept = may_stay.nonzero()[:, 0]
    class_scores, queries, labels = class_scores[kept], queries[kept], labels[kept]

    used, position = queries.unique(return_inverse=True)
    scores = class_scores * mask_scores(mask_logits[used], frame, mask_threshold)[position]
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > threshold]
    return InstancePredictions(scores[order], labels[order], queries[order])


def instance_map(mask_logits: Tensor, queries: Tensor, frame: Placement | None, mask_threshold: float = 0.5) -> Tensor:
    """Number of the first instance whose mask has the pixel: (H, W) int32, -1 = none.

    Args:
        mask_logits: (Q, h, w).
        queries: (N,) int64, of the instances, best first.
    """
    limit = threshold_logit(mask_threshold)
    painted = mask_logits.new_full(_result_size(mask_logits, frame), -1, dtype=torch.int32)
    number = len(queries)
    for _, logits in _restored(mask_logits, queries.flip(0), frame):
        for query_logits in logits:  # the best is painted last
            number -= 1
            painted.masked_fill_(query_logits > limit, number)
        del logits, query_logits
    return painted


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
    limit = threshold_logit(mask_threshold)
    scores, labels = class_logits.float().softmax(-1).max(-1)
    kept = ((labels != class_logits.shape[-1] - 1) & (scores > threshold)).nonzero()[:, 0]
    size = _result_size(mask_logits, frame)
    if not len(kept):
        return mask_logits.new_zeros(size, dtype=torch.int32), []
    best = mask_logits.new_full(size, -1.0, dtype=torch.float32)
    # Twice the index of the query, and 1 more where its own mask is set.
    winner = mask_logits.new_zeros(size, dtype=_small_integers(2 * len(kept)))
    scores, labels = scores[kept], labels[kept]
    own_areas = torch.zeros_like(labels)
    index = 0
    for _, logits in _restored(mask_logits, kept, frame):
        for query_logits in logits:
            for pixels, best_pixels, winner_pixels in _pieces(query_logits, best, winner):
                is_set = pixels >= limit
                own_areas[index] += is_set.count_nonzero()
                weighted = pixels.sigmoid_().mul_(scores[index])
                wins = weighted > best_pixels
                torch.maximum(best_pixels, weighted, out=best_pixels)
                winner_pixels.masked_fill_(wins, 2 * index).masked_fill_(wins.logical_and_(is_set), 2 * index + 1)
            index += 1
        del logits, query_logits, pixels, weighted
    del best, best_pixels
    # Counted on the device and read together: the host waits for every read.
    areas = torch.zeros(2 * len(kept), dtype=torch.int64, device=winner.device)
    for (pixels,) in _pieces(winner):
        areas.scatter_add_(0, pixels.long(), torch.ones_like(pixels, dtype=torch.int64))
    set_areas = areas[1::2]
    numbers = torch.stack([own_areas, areas[::2] + set_areas, set_areas, labels])

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
    table = torch.tensor([number for segment_id in segment_ids for number in (0, segment_id)], dtype=torch.int32, device=winner.device)
    segmentation = torch.empty_like(winner, dtype=torch.int32)
    for pixels, winner_pixels in _pieces(segmentation, winner):
        torch.index_select(table, 0, winner_pixels.int(), out=pixels)
    return segmentation, segments


def region_scores(mask_logits: Tensor, region_logits: Tensor, frame: Placement | None, mask_threshold: float = 0.5) -> Tensor:
    """(Q, h, w), (R, Q) -> (Q, R). Two regions may mean the same object, so they do not compete: sigmoid, not softmax."""
    return region_logits.float().sigmoid().T * mask_scores(mask_logits, frame, mask_threshold)[:, None]
