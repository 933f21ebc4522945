"""IoU of the masks that points, scribbles, boxes and masks asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .overlap import Mask, intersection_and_union


@dataclass
class RegionIoU:
    """mIoU and cIoU over region prompts, one update per prompt and its object.

    Kinds of prompts are never averaged: use one measure per kind.

    Attributes:
        intersection, union: pixels, summed over all prompts.
        ious: one IoU per prompt, in [0, 1].

    Source: evaluation of COCO-Interactive in PSALM (github.com/zamling/PSALM), where mIoU is printed as gIoU.
    """

    intersection: int = 0
    union: int = 0
    ious: list[float] = field(default_factory=list)

    def update(self, predicted: Mask, target: Mask) -> None:
        """Adds one prompt.

        Args:
            predicted, target: (H, W) bool or COCO RLE, at the original image size. Both empty is an IoU of 1.

        Raises:
            ValueError: not masks, or masks of different size.
        """
        intersection, union = intersection_and_union(predicted, target)
        self.intersection += intersection
        self.union += union
        self.ious.append(intersection / union if union else 1.0)

    def __iadd__(self, other: RegionIoU) -> RegionIoU:
        self.intersection += other.intersection
        self.union += other.union
        self.ious += other.ious
        return self

    def compute(self) -> dict[str, float]:
        """In percent: "mIoU", the mean IoU of a prompt; "cIoU", all common pixels by all joint ones (nan if there are none).

        Raises:
            ValueError: before the first update.
        """
        if not self.ious:
            raise ValueError("region IoU: nothing to compute; call update for at least one prompt")
        return {
            "mIoU": 100 * math.fsum(self.ious) / len(self.ious),
            "cIoU": 100 * self.intersection / self.union if self.union else math.nan,
        }
