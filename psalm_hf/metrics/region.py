"""IoU of the masks that points, scribbles, boxes and masks asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .base import Metric, percent
from .overlap import Mask, intersection_and_union


@dataclass
class RegionIoU(Metric):
    """mIoU and cIoU over region prompts, one update per prompt and its object.

    Kinds of prompts are never averaged: use one metric per kind.

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

    def compute(self) -> dict[str, float]:
        """Numbers in percent: "mIoU", the mean IoU of a prompt; "cIoU", all common pixels by all joint ones (nan if there are none)."""
        self.require(self.ious, "prompt")
        return {"mIoU": percent(math.fsum(self.ious), len(self.ious)), "cIoU": percent(self.intersection, self.union)}
