"""Hungarian matching of mask queries to targets.

Q queries, N targets of a row, P sampled points. Source: released criterion (`matcher.py`), Mask2Former (arXiv:2112.01527).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

_PIXELS_AT_ONCE = 2**22  # of bool masks that are read as floats: 16 MiB
Match = tuple[Tensor, Tensor]  # query indices and target indices of one row, both (n,) int64, n = min(Q, N)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points.

    Args:
        maps: (N, H, W), or (B, N, H, W) where the maps of a row share its points. Bool masks count as 0 and 1; they become floats a few at
            a time, so that many large ones take no more memory than they have.
        points: (N, P, 2) or (1, P, 2), or (B, P, 2); (x, y) in [0, 1] over the whole map; 0 and 1 are its outer borders, outside is 0.

    Returns:
        (N, P) or (B, N, P), float32.
    """
    if maps.ndim == 4:
        return _sample(maps, points)
    if len(points) == 1:
        return _sample(maps[None], points)[0]
    return _sample(maps[:, None], points)[:, 0]


def _sample(maps: Tensor, points: Tensor) -> Tensor:
    """(B, N, H, W), (B, P, 2) -> (B, N, P)."""
    size = max(1, _PIXELS_AT_ONCE // max(1, maps.shape[2] * maps.shape[3]))
    if maps.dtype == torch.bool and len(maps) * maps.shape[1] > size:
        if len(maps) == 1:
            return torch.cat([_sample(some, points) for some in maps.split(size, dim=1)], dim=1)
        rows = max(1, size // maps.shape[1])
        return torch.cat([_sample(some, at) for some, at in zip(maps.split(rows), points.split(rows), strict=True)])
    grid = (2 * points - 1)[:, :, None]  # (B, P, 1, 2)
    return F.grid_sample(maps.float(), grid.float(), mode="bilinear", align_corners=False)[..., 0]


def pairwise_mask_cost(mask_logits: Tensor, target_masks: Tensor) -> Tensor:
    """Binary cross entropy of every prediction against every target, mean over the same points.

    Args:
        mask_logits: (..., Q, P), before the sigmoid.
        target_masks: (..., N, P) float in [0, 1].

    Returns:
        (..., Q, N), >= 0. Without targets an empty (..., Q, 0).
    """
    # Cross entropy with target 1 is softplus(-logit), with target 0 softplus(logit): one logarithm for both.
    rest = mask_logits.abs().neg_().exp_().log1p_()
    positive, negative = F.relu(-mask_logits) + rest, F.relu(mask_logits) + rest
    return (positive @ target_masks.mT + negative @ (1 - target_masks).mT) / mask_logits.shape[-1]


def pairwise_dice_cost(mask_logits: Tensor, target_masks: Tensor) -> Tensor:
    """Dice cost of every prediction against every target, on the same points.

    Args:
        mask_logits: (..., Q, P), before the sigmoid.
        target_masks: (..., N, P) float in [0, 1].

    Returns:
        (..., Q, N) in [0, 1), 0 is a perfect overlap. Without targets an empty (..., Q, 0).

    Source: V-Net (arXiv:1606.04797); smoothing constant 1 as released.
    """
    probs = mask_logits.sigmoid()
    total = probs.sum(-1)[..., :, None] + target_masks.sum(-1)[..., None, :]
    return 1 - (2 * probs @ target_masks.mT + 1) / (total + 1)


def assign(cost: Tensor, row: int) -> Match:
    """The one-to-one assignment of least total cost.

    Args:
        cost: (Q, N), on the CPU.
        row: position of the row in the batch, for the error.

    Raises:
        ValueError: a cost is not finite (diverged weights or broken input), so that no assignment means anything.
    """
    if not torch.isfinite(cost).all():
        bad = int((~torch.isfinite(cost)).sum())
        raise ValueError(
            f"row {row}: {bad} of {cost.numel()} matching costs are not finite; the predictions of this row hold NaN or infinity: "
            "check its image and targets, and lower the learning rate if training diverged"
        )
    queries, targets = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(queries, dtype=torch.int64), torch.as_tensor(targets, dtype=torch.int64)


def assign_rows(costs: Sequence[Tensor]) -> list[Match]:
    """`assign` of every row of a batch, with the matches where the costs (Q, N_b) are. They go to the CPU and back in one piece."""
    on_cpu = torch.cat([cost.flatten() for cost in costs]).cpu().split([cost.numel() for cost in costs])
    matches = [assign(values.view(cost.shape), row) for row, (values, cost) in enumerate(zip(on_cpu, costs, strict=True))]
    numbers = torch.cat([torch.stack(match) for match in matches], dim=1).to(costs[0].device)  # (2, n of all rows)
    return list(zip(*(half.split([len(queries) for queries, _ in matches]) for half in numbers), strict=True))


@torch.no_grad()
def mask_costs(mask_logits: Tensor, target_masks: Sequence[Tensor], mask_weight: float = 5.0, dice_weight: float = 5.0) -> list[Tensor]:
    """Costs of matching each query of each of B rows to each of the row's targets, by their masks.

    The rows are computed together: targets that a row does not have are empty masks, whose costs are cut off.

    Args:
        mask_logits: (B, Q, P), before the sigmoid.
        target_masks: B tensors (N_b, P) float in [0, 1], at the same points of their maps.

    Returns:
        B tensors (Q, N_b).
    """
    targets = pad_sequence(list(target_masks), batch_first=True)  # (B, N, P)
    costs = mask_weight * pairwise_mask_cost(mask_logits, targets) + dice_weight * pairwise_dice_cost(mask_logits, targets)
    return [cost[:, : len(masks)] for cost, masks in zip(costs, target_masks, strict=True)]
