"""The segmentation criterion: matching, point sampling, mask and similarity terms, with auxiliary predictions.

B rows of one kind, Q queries, N_b targets of row b, n matched masks of the batch, P points. All in float32.
Source: released `SetCriterion`; PointRend (arXiv:1912.08193) for the point sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .configuration_psalm import PsalmConfig
from .matching import Match, assign_rows, mask_costs, sample_points
from .prompts import CATEGORY, IGNORED_LABEL, REGION, SENTENCE

CONDITION_LOSS = {CATEGORY: "loss_class", SENTENCE: "loss_referring", REGION: "loss_region"}


@dataclass(frozen=True)
class Prediction:
    """One depth of the mask decoder.

    `mask_logits` (B, Q, h, w). `condition_logits`: category rows (B, Q, K_max + 1) with `background` last and padding columns at the
    smallest float; sentence rows (B, Q, 1); region rows (B, R_max, Q).
    """

    mask_logits: Tensor
    condition_logits: Tensor


def class_loss(
    class_logits: Tensor,
    matches: Sequence[Match],
    class_labels: Sequence[Tensor],
    no_object_weight: float,
    is_query: Tensor | None = None,
) -> Tensor:
    """Cross entropy of all queries, unmatched ones against `background`, the last column.

    Args:
        class_logits: (B, Q, K_max + 1); class_labels: B tensors (N_b,) in [0, K_b).
        no_object_weight: weight of `background`; the mean divides by the sum of weights.
        is_query: (B, Q) bool, False on queries that only pad a row; they do not count.
    """
    targets = class_logits.new_full(class_logits.shape[:2], class_logits.shape[2] - 1, dtype=torch.int64)  # (B, Q)
    for row, (queries, indices) in enumerate(matches):
        targets[row, queries] = class_labels[row][indices]
    if is_query is not None:
        targets = targets.masked_fill(~is_query, IGNORED_LABEL)
    weight = class_logits.new_ones(class_logits.shape[2], dtype=torch.float32)
    weight[-1] = no_object_weight
    return F.cross_entropy(class_logits.float().transpose(1, 2), targets, weight, ignore_index=IGNORED_LABEL)


def referring_loss(referring_logits: Tensor, matches: Sequence[Match], num_masks: float) -> Tensor:
    """Binary cross entropy over (B, Q, 1); matched queries are positive and weigh (B*Q - num_masks) / num_masks."""
    targets = torch.zeros_like(referring_logits, dtype=torch.float32)
    for row, (queries, _) in enumerate(matches):
        targets[row, queries] = 1
    pos_weight = targets.new_full((), (targets.numel() - num_masks) / num_masks)
    return F.binary_cross_entropy_with_logits(referring_logits.float(), targets, pos_weight=pos_weight)


def region_loss(region_logits: Sequence[Tensor], matches: Sequence[Match], num_masks: float) -> Tensor:
    """Binary cross entropy over all B tensors (R_b, Q) together; positive at (region j, its matched query)."""
    targets = [torch.zeros_like(logits, dtype=torch.float32) for logits in region_logits]
    for target, (queries, regions) in zip(targets, matches, strict=True):
        target[regions, queries] = 1
    logits = torch.cat([x.float().flatten() for x in region_logits])
    target = torch.cat([x.flatten() for x in targets])
    pos_weight = target.new_full((), (target.numel() - num_masks) / num_masks)
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight)


def mask_bce_loss(point_logits: Tensor, point_targets: Tensor, num_masks: float) -> Tensor:
    """(n, P) logits against targets in [0, 1]: mean over points, sum over masks, divided by num_masks."""
    return F.binary_cross_entropy_with_logits(point_logits, point_targets, reduction="none").mean(1).sum() / num_masks


def mask_dice_loss(point_logits: Tensor, point_targets: Tensor, num_masks: float) -> Tensor:
    """(n, P) logits against targets in [0, 1]: one minus dice with smoothing 1, sum over masks, divided by num_masks."""
    probs = point_logits.sigmoid()
    dice = (2 * (probs * point_targets).sum(1) + 1) / (probs.sum(1) + point_targets.sum(1) + 1)
    return (1 - dice).sum() / num_masks


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, num_points: int, oversample_ratio: float, importance_sample_ratio: float) -> Tensor:
    """(n, h, w) logits -> (n, P, 2) points: the most uncertain of a larger uniform draw, filled up with fresh uniform ones."""
    num_masks = mask_logits.shape[0]
    num_important = int(importance_sample_ratio * num_points)
    candidates = torch.rand(num_masks, int(num_points * oversample_ratio), 2, device=mask_logits.device)
    uncertainty = -sample_points(mask_logits, candidates).abs()
    chosen = uncertainty.topk(num_important, dim=1).indices[..., None].expand(-1, -1, 2)
    fresh = torch.rand(num_masks, num_points - num_important, 2, device=mask_logits.device)
    return torch.cat((candidates.gather(1, chosen), fresh), dim=1)


def count_masks(mask_labels: Sequence[Tensor], device: torch.device) -> float:
    """Targets of the batch, averaged over processes, at least 1. Every process must call it equally often."""
    number = float(sum(len(masks) for masks in mask_labels))
    if dist.is_available() and dist.is_initialized():
        count = torch.tensor(number, device=device)
        dist.all_reduce(count)
        number = (count / dist.get_world_size()).item()
    return max(number, 1.0)


def match_predictions(
    prediction: Prediction, kind: int, mask_labels: Sequence[Tensor], class_labels: Sequence[Tensor] | None, config: PsalmConfig
) -> list[Match]:
    """Matches of every row. Without mask tokens query k is category k: present categories are matched to their masks."""
    device = prediction.mask_logits.device
    if not config.decouple_masks:
        return [(labels, torch.arange(len(labels), device=device)) for labels in class_labels]
    points = torch.cat([torch.rand(1, config.train_num_points, 2, device=device) for _ in mask_labels])  # (B, P, 2), drawn as released
    logits = sample_points(prediction.mask_logits.detach(), points)  # (B, Q, P)
    if len({masks.shape for masks in mask_labels}) == 1:  # as of sentences: one mask each
        targets = list(sample_points(torch.stack(list(mask_labels)), points))  # (N_b, P)
    else:
        targets = [sample_points(masks, points[row, None]) for row, masks in enumerate(mask_labels)]
    costs = mask_costs(logits, targets, config.mask_weight, config.dice_weight)
    for row, cost in enumerate(costs):
        if kind == CATEGORY:
            probs = prediction.condition_logits[row].detach().float().softmax(-1)  # (Q, K + 1)
            costs[row] = cost - config.class_weight * probs[:, class_labels[row]]
        elif config.score_cost > 0:  # no part of the released cost: masks alone decide there
            scores = prediction.condition_logits[row].detach().float()  # sentence (Q, 1), regions (R_max, Q)
            scores = scores if kind == SENTENCE else scores[: len(mask_labels[row])].T
            costs[row] = cost - config.score_cost * scores.sigmoid()
    return assign_rows(costs)


def check_finite(prediction: Prediction, mask_labels: Sequence[Tensor], config: PsalmConfig) -> None:
    """Rows that are matched show NaN and infinity in their costs; the others are checked here, or their loss would hide it.

    Raises:
        ValueError: naming the row.
    """
    unmatched = [row for row, masks in enumerate(mask_labels) if len(masks) == 0 or not config.decouple_masks]
    if not unmatched:
        return
    are_finite = torch.stack([torch.isfinite(prediction.mask_logits[row]).all() for row in unmatched]).tolist()
    for row, is_finite in zip(unmatched, are_finite, strict=True):
        if not is_finite:
            raise ValueError(
                f"row {row}: its mask logits are not finite; check its image, and lower the learning rate if training diverged"
            )


def prediction_losses(
    prediction: Prediction,
    kind: int,
    mask_labels: Sequence[Tensor],
    class_labels: Sequence[Tensor] | None,
    num_masks: float,
    config: PsalmConfig,
) -> dict[str, Tensor]:
    """Weighted terms of one depth. Random draws come in the released order: points of each row's matching, then mask points."""
    check_finite(prediction, mask_labels, config)
    matches = match_predictions(prediction, kind, mask_labels, class_labels, config)
    if kind == CATEGORY:
        is_query = None
        if not config.decouple_masks:  # query k is category k, and exists where that category's column is no padding
            columns = prediction.condition_logits[:, 0, :-1]
            is_query = columns > torch.finfo(columns.dtype).min
        similarity = config.class_weight * class_loss(prediction.condition_logits, matches, class_labels, config.no_object_weight, is_query)
    elif kind == SENTENCE:
        similarity = config.referring_weight * referring_loss(prediction.condition_logits, matches, num_masks)
    else:
        rows = [logits[: len(masks)] for logits, masks in zip(prediction.condition_logits, mask_labels, strict=True)]
        similarity = config.region_weight * region_loss(rows, matches, num_masks)

    logits = torch.cat([row[queries] for row, (queries, _) in zip(prediction.mask_logits, matches, strict=True)]).float()  # (n, h, w)
    targets = torch.cat([masks[indices] for masks, (_, indices) in zip(mask_labels, matches, strict=True)])  # (n, H, W)
    if len(logits) == 0:
        # No target in the whole batch: the terms stay part of the graph, so that every process has the same backward pass.
        nothing = prediction.mask_logits.float().sum() * 0
        return {CONDITION_LOSS[kind]: similarity, "loss_mask": nothing, "loss_dice": nothing}
    points = uncertain_points(logits.detach(), config.train_num_points, config.oversample_ratio, config.importance_sample_ratio)
    point_logits, point_targets = sample_points(logits, points), sample_points(targets, points)  # (n, P)
    return {
        CONDITION_LOSS[kind]: similarity,
        "loss_mask": config.mask_weight * mask_bce_loss(point_logits, point_targets, num_masks),
        "loss_dice": config.dice_weight * mask_dice_loss(point_logits, point_targets, num_masks),
    }


def merge_targets(mask_labels: Tensor, class_labels: Tensor) -> tuple[Tensor, Tensor]:
    """One target per present category, the union of its masks: (N, H, W), (N,) -> (N', H, W), (N',), categories ascending."""
    present = class_labels.unique()
    unions = [(mask_labels & (class_labels == label)[:, None, None]).any(dim=0) for label in present]
    return (torch.stack(unions) if unions else mask_labels), present


def segmentation_losses(
    predictions: Sequence[Prediction],
    kind: int,
    mask_labels: Sequence[Tensor],
    class_labels: Sequence[Tensor] | None,
    config: PsalmConfig,
) -> dict[str, Tensor]:
    """All weighted terms of a batch whose rows are of one kind.

    Args:
        predictions: first to last depth; without `config.auxiliary_loss` only the last is supervised.
        kind: 0 category, 1 sentence, 2 region.
        mask_labels: B tensors (N_b, H, W), bool or 0/1, at padded network-input size; region rows: N_b regions in order.
        class_labels: B tensors (N_b,) of category indices, category rows only.

    Returns:
        `loss_class` | `loss_referring` | `loss_region`, `loss_mask`, `loss_dice` of the last depth, and the same names with
        suffix `_0`, `_1`, ... of the earlier ones. Their sum is the loss.

    Raises:
        ValueError: matching costs of a row are not finite.
    """
    device = predictions[-1].mask_logits.device
    targets = [masks.to(device=device).bool() for masks in mask_labels]
    class_labels = None if class_labels is None else [labels.to(device) for labels in class_labels]
    if not config.decouple_masks:
        merged = [merge_targets(masks, labels) for masks, labels in zip(targets, class_labels, strict=True)]
        targets, class_labels = [masks for masks, _ in merged], [labels for _, labels in merged]
    num_masks = count_masks(targets, device)
    losses = prediction_losses(predictions[-1], kind, targets, class_labels, num_masks, config)
    if config.auxiliary_loss:
        for depth, prediction in enumerate(predictions[:-1]):
            terms = prediction_losses(prediction, kind, targets, class_labels, num_masks, config)
            losses |= {f"{name}_{depth}": value for name, value in terms.items()}
    return losses
