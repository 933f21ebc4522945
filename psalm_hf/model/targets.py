"""Ground truth of a batch as the model's targets: masks at the size of the padded input, and class labels, checked.

N target masks of a row, (H, W) the size of an image as given, S the side of the padded input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checked_masks import check_polygon
from .image_processing_psalm import Size, place_mask, place_polygons, read_bitmap
from .rows import PromptRow


def read_targets(targets: Sequence[Mapping | None], rows: Sequence[PromptRow], image_size: int) -> dict[str, list[Tensor]]:
    """Targets as the call of `PsalmProcessor` takes them -> `mask_labels` B x (N, S, S) bool and `class_labels` B x (N,) int64.

    Args:
        targets: one per row; None for a conversation, which gets N = 0.
        image_size: S in pixels.

    Raises:
        ValueError: naming the row and the mask or label that is wrong.
    """
    if not isinstance(targets, Sequence) or isinstance(targets, str):
        raise ValueError(f"targets: expected a list of one dictionary (or None) per row, got {targets!r:.80}")
    if len(targets) != len(rows):
        raise ValueError(f"targets: {len(targets)} entries for {len(rows)} rows; give one per row, None for a conversation")
    read = []
    for number, (row, target) in enumerate(zip(rows, targets, strict=True)):
        name = f"targets[{number}] ({row.info})"
        if (target is None) != (row.info.kind == "conversation"):
            expected = "None" if target is not None else "a dictionary with 'masks'"
            raise ValueError(f"{name}: expected {expected}, got {'None' if target is None else type(target).__name__}")
        read.append(_read_target({"masks": []} if target is None else target, row, image_size, name))
    return {"mask_labels": [masks for masks, _ in read], "class_labels": [labels for _, labels in read]}


def _read_target(target: Mapping, row: PromptRow, image_size: int, name: str) -> tuple[Tensor, Tensor]:
    """(N, S, S) bool and (N,) int64."""
    if not isinstance(target, Mapping) or "masks" not in target:
        raise ValueError(f"{name}: expected a dictionary with 'masks', got {target!r:.80}")
    given = target["masks"]
    if not isinstance(given, (list, tuple, np.ndarray, Tensor)):
        raise ValueError(f"{name}: 'masks' is an (N, H, W) array or a list of N masks, got {type(given).__name__}")
    masks = torch.zeros((len(given), image_size, image_size), dtype=torch.bool)
    for index, mask in enumerate(given):
        masks[index] = torch.from_numpy(_place_target(mask, row.size, image_size, f"{name}, mask {index}"))
    if row.info.kind == "region" and len(masks) != len(row.region_weights):
        raise ValueError(f"{name}: {len(masks)} masks for {len(row.region_weights)} regions; give one per region, in their order")
    if row.info.kind != "category":
        return masks, torch.zeros(len(masks), dtype=torch.int64)
    try:
        labels = torch.as_tensor(target.get("class_labels", ()), dtype=torch.int64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: class_labels are indices into the categories, got {target['class_labels']!r:.80}") from error
    if labels.shape != (len(masks),):
        raise ValueError(f"{name}: {len(masks)} masks, but class_labels of shape {tuple(labels.shape)}; give one label per mask")
    num_categories = len(row.info.conditions) - 1
    wrong = ((labels < 0) | (labels >= num_categories)).nonzero()[:, 0].tolist()
    if wrong:
        raise ValueError(
            f"{name}: class_labels[{wrong[0]}] is {int(labels[wrong[0]])}, expected 0 to {num_categories - 1}: an index into the "
            "categories, background excluded"
        )
    return masks, labels


def _place_target(mask: Any, size: Size, image_size: int, name: str) -> np.ndarray:
    if not isinstance(mask, (list, tuple)):
        return place_mask(read_bitmap(mask, size, name), image_size)
    for number, polygon in enumerate(mask):
        check_polygon(polygon, size, f"{name}: polygon {number}")
    return place_polygons(mask, size, image_size) if mask else np.zeros((image_size, image_size), dtype=bool)
