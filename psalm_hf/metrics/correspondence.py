"""Objects of one view that are found in another one, taken at the same time, or known to be absent there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .base import Metric, percent
from .overlap import Mask, bitmap
from .video_objects import contour_accuracy, region_similarity

COMPARED_SIDE = 480  # pixels of the longer side of the masks that are compared
VISIBLE_CONFIDENCE = 0.5  # above it, an object is said to be visible


def compared_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which masks of an image of this size are compared: the longer side has 480 pixels.

    The other side is rounded down, after products in the order of the public script, because these decide where it falls.
    """
    scale = 1.0 / max(image_size) * COMPARED_SIDE
    height, width = (int(side * scale) for side in image_size)
    return height, width


def resize_nearest(mask: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) at another size (h, w), by the nearest pixel as OpenCV takes it: coordinates are scaled and rounded down."""
    rows, columns = (
        np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(np.int64), old - 1)
        for new, old in zip(image_size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


@dataclass
class Correspondence(Metric):
    """IoU, contour accuracy, location error, existence and visibility accuracy of Ego-Exo4D's correspondence benchmark.

    One update per object, pair of views and frame. Masks are compared at a longer side of 480 pixels, whatever size they have. Where the
    target view does not show the object, only the visibility is judged.

    Attributes:
        ious, contours: of the objects that the target view shows, in [0, 1].
        location_errors: of the same, distance of the centres of both boxes by the diagonal of 480 x 480 pixels.
        existing: how many of these have a mask in both, or are empty in both.
        recognised, overlooked: of the objects that the target view shows, how many were said to be visible, and how many not.
        rejected, invented: of the objects that it does not show, how many were said to be invisible, and how many visible.

    Source: `correspondence/evaluation` of github.com/EGO4D/ego-exo4d-relation. The contour accuracy is that of its script, the F measure of
    DAVIS with both masks where they are; the page of the task describes masks with their centres aligned.
    """

    ious: list[float] = field(default_factory=list)
    contours: list[float] = field(default_factory=list)
    location_errors: list[float] = field(default_factory=list)
    existing: int = 0
    recognised: int = 0
    overlooked: int = 0
    rejected: int = 0
    invented: int = 0

    def update(self, predicted: Mask, target: Mask | None, confidence: float) -> None:
        """Adds one object in one pair of views and frame.

        Args:
            predicted: (H, W) bool or COCO RLE in the target view, at any size that fits to the target's.
            target: the same, at the size of the annotation; None where the object was looked for and not found.
            confidence: that the target view shows the object, in [0, 1].

        Raises:
            ValueError: not masks, masks of different proportions, or the confidence is not between 0 and 1.
        """
        if not 0 <= confidence <= 1:
            raise ValueError(f"confidence: expected a number from 0 to 1, got {confidence}")
        predicted = bitmap(predicted, "prediction")
        is_visible = confidence > VISIBLE_CONFIDENCE
        if target is None:
            self.rejected += not is_visible
            self.invented += is_visible
            return
        target = bitmap(target, "target")
        sizes = compared_size(predicted.shape), compared_size(target.shape)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"prediction: size {predicted.shape} is {sizes[0]} with a longer side of {COMPARED_SIDE}, but the target has "
                f"{target.shape}, {sizes[1]}; predict for the target view, and without padding"
            )
        predicted, target = resize_nearest(predicted, sizes[0]), resize_nearest(target, sizes[1])
        self.ious.append(region_similarity(predicted, target))
        self.contours.append(contour_accuracy(predicted, target))
        distance = math.dist(_centre(predicted), _centre(target))
        self.location_errors.append(distance / math.hypot(COMPARED_SIDE, COMPARED_SIDE))
        self.existing += bool(predicted.any()) == bool(target.any())
        self.recognised += is_visible
        self.overlooked += not is_visible

    def compute(self) -> dict[str, float]:
        """Numbers in percent; nan where there is nothing to divide by.

        * "IoU", "contour accuracy", "location error" (of a diagonal; the lower, the better), "existence accuracy": means over what the
          target view shows.
        * "visibility accuracy": mean of the share of the visible objects that were said to be visible, and of the invisible ones that were
          not. Where there are only visible ones, or none, it is the one share.
        """
        shown, absent = self.recognised + self.overlooked, self.rejected + self.invented
        self.require(shown + absent, "object")
        recalls = [right / number for right, number in ((self.recognised, shown), (self.rejected, absent)) if number]
        return {
            "IoU": percent(math.fsum(self.ious), shown),
            "contour accuracy": percent(math.fsum(self.contours), shown),
            "location error": percent(math.fsum(self.location_errors), shown),
            "existence accuracy": percent(self.existing, shown),
            "visibility accuracy": percent(math.fsum(recalls), len(recalls)),
        }


def _centre(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the middle of the box around a mask (H, W), rounded down."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        # The public script takes (H / 2, W / 2) for (x, y) here, which is the middle of a square image only. Its numbers are the
        # benchmark's, so it stays.
        return mask.shape[0] // 2, mask.shape[1] // 2
    return int(columns[0] + columns[-1]) // 2, int(rows[0] + rows[-1]) // 2
