"""Clicks that correct a region: which query they agree with, and its mask moved to their side of the border.

A click is (x, y, label) in pixels of the image as given, label 1 = belongs to the region, 0 = does not. K clicks, Q mask queries, (h, w)
the resolution of the prediction, (H, W) that of the image.

The rules were chosen by measurement (docs/visual_prompts.md, docs/experiments.md); nothing of them is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .image_processing_psalm import Placement
from .regions import Click

REACH = 1 / 32  # of the longer side of the image: how far a click is meant, about the radius of a point prompt
DISAGREEMENT = 0.1  # factor of a query's score for each click that its mask contradicts
_SUREST = 6.0  # logit; what is above counts no more against a click
_BEYOND = 0.1  # logit by which a click lies on its side of the border afterwards
_JITTER = 1e-3  # keeps the equations of clicks that nearly coincide solvable


def click_agreement(mask_logits: Tensor, clicks: Sequence[Click], frame: Placement, limit: float) -> Tensor:
    """Factor of each query's score: `DISAGREEMENT` to the power of the clicks that its mask contradicts.

    A mask contradicts a click of label 0 if it covers all that lies around it, and one of label 1 if it covers nothing of that: the centre
    and eight places at the distance `REACH`. A click near the border of a mask contradicts nothing, for it corrects the border.

    Args:
        mask_logits: (Q, h, w).
        limit: logit above which a pixel is set.

    Returns:
        (Q,) float32, 1 for a query that agrees with every click.
    """
    height, width = frame.target_size
    reach = REACH * max(height, width)
    angles = torch.arange(8) * (math.pi / 4)
    around = torch.cat([torch.zeros(1, 2), reach * torch.stack([angles.cos(), angles.sin()], 1)])  # (9, 2)
    centres = torch.tensor([(int(x) + 0.5, int(y) + 0.5) for x, y, _ in clicks])  # of the pixels
    places = centres[:, None] + around  # (K, 9, 2)
    places = torch.minimum(places, torch.tensor([width, height]) - 0.5)  # what is outside of the image is not asked: there may be padding
    inside = [frame.content_size[1] / width / frame.padded_size[1], frame.content_size[0] / height / frame.padded_size[0]]
    grid = 2 * places * torch.tensor(inside) - 1
    grid = grid.to(mask_logits.device).expand(1, -1, -1, -1)
    logits = F.grid_sample(mask_logits.float()[None], grid, padding_mode="border", align_corners=False)[0]  # (Q, K, 9)
    is_set = logits > limit
    belongs = torch.tensor([click[2] == 1 for click in clicks], device=logits.device)
    contradicted = torch.where(belongs, ~is_set.any(2), is_set.all(2)).sum(1)
    return DISAGREEMENT ** contradicted.float()


def corrected_mask(logits: Tensor, clicks: Sequence[Click], limit: float) -> Tensor:
    """A mask whose border moves past the clicks that lie on its wrong side.

    Logits are raised and lowered by Gaussians about the clicks, of the standard deviation `REACH`, just enough that each click lies on its
    side; clicks that lie there already hold it. Where the model is unsure, near the border, much moves; where it is sure, little.

    Args:
        logits: (H, W) float32 of the query.
        limit: logit above which a pixel is set.

    Returns:
        (H, W) bool, False at every pixel that has a click of label 0.
    """
    height, width = logits.shape
    x, y, sign = torch.tensor([(int(x), int(y), 2 * label - 1) for x, y, label in clicks], device=logits.device).T
    lowest, highest = limit - _SUREST, limit + _SUREST
    missing = _BEYOND - sign * (logits[y, x].clamp(lowest, highest) - limit)
    if (missing > 0).any():
        variance = (REACH * max(height, width)) ** 2

        def falloff(positions: Tensor, length: int) -> Tensor:
            return torch.exp(-((torch.arange(length, device=logits.device) - positions[:, None]) ** 2) / (2 * variance))

        across, down = falloff(x, width), falloff(y, height)  # (K, W), (K, H)
        mutual = across[:, x] * down[:, y]
        heights = torch.linalg.solve(mutual + _JITTER * torch.eye(len(x), device=logits.device), sign * missing.clamp(min=0))
        logits = logits.clamp(lowest, highest).addmm(down.T, heights[:, None] * across)
    mask = logits > limit
    mask[y[sign < 0], x[sign < 0]] = False
    return mask
