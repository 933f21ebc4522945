"""Objects that are followed through videos: region similarity J and contour accuracy F."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from .base import Metric, mean
from .overlap import Mask, bitmaps, integer_maps, intersection_and_union

_BACKGROUND = 0
NUM_BINS = 4  # of time: decay compares the first quarter of a sequence with the last
# What an object that a frame neither shows nor was said to show has reached there.
BOTH_ABSENT = (1.0, 1.0)


def region_similarity(predicted: Mask, target: Mask) -> float:
    """J of an object in a frame: IoU in [0, 1], 1 where both masks are empty.

    Args:
        predicted, target: (H, W) bool or COCO RLE.

    Raises:
        ValueError: not masks, or masks of different size.
    """
    intersection, union = intersection_and_union(predicted, target)
    return intersection / union if union else 1.0


def contour_accuracy(predicted: Mask, target: Mask, bound: float = 0.008) -> float:
    """F of an object in a frame: how much of each contour lies near the other one, in [0, 1].

    Harmonic mean of precision, the share of the predicted contour's pixels with a pixel of the true contour not farther away than the
    tolerance, and of recall, the same from the true contour. It is 1 if neither mask has a contour and 0 if one has none. The contour is
    one pixel wide: the pixels that differ from the one to the right, below, or both. A mask that fills the image has none.

    Args:
        predicted, target: (H, W) bool or COCO RLE.
        bound: tolerance as a fraction of the image's diagonal, rounded up to whole pixels: 8 for 480 x 854.

    Raises:
        ValueError: not masks, or masks of different size.

    Source: davis2017-evaluation (github.com/davisvideochallenge/davis2017-evaluation), which dilates contours by a disk.
    """
    predicted, target = bitmaps(predicted, target)
    radius = math.ceil(bound * math.hypot(*target.shape))
    contours = [_contour_points(mask) for mask in (predicted, target)]
    if not (len(contours[0]) and len(contours[1])):
        return float(len(contours[0]) == len(contours[1]))
    precision, recall = (_share_near(*pair, radius) for pair in (contours, contours[::-1]))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass
class VideoObjects(Metric):
    """J&F, and mean, recall and decay of J and of F, over the objects of all sequences; one update per frame.

    Frames in which objects are given, or which the protocol does not score (for DAVIS the first and the last one of every sequence), must
    not come in an update. An object that is not listed in a frame of its sequence counts there as absent from both maps: J = F = 1.

    Attributes:
        sequences: sequence -> frame -> object -> (J, F), each in [0, 1].

    Source: arXiv:1704.00675 and the evaluation named at `contour_accuracy`.
    """

    sequences: dict[str, dict[int | str, dict[int, tuple[float, float]]]] = field(default_factory=dict)

    def update(self, sequence: str, frame: int | str, predicted: np.ndarray, target: np.ndarray, object_ids: Collection[int]) -> None:
        """Adds one frame.

        Args:
            sequence: its name.
            frame: number or name; frames of a sequence are ordered by it.
            predicted: (H, W) integers at the original size: the object at each pixel, 0 = none.
            target: (H, W) integers, the same for the target. Numbers that are not listed (void, objects that appear later) are background.
            object_ids: the objects that are evaluated, whether or not this frame shows them.

        Raises:
            ValueError: not two maps of one size, predicted objects that are not listed, or the frame was there before.
        """
        item = f"sequence {sequence}, frame {frame}"
        predicted, target = integer_maps(predicted, target, "object numbers", f"{item}: ")
        if _BACKGROUND in object_ids:
            raise ValueError(f"{item}: {_BACKGROUND} means no object; number objects from 1")
        if unknown := set(np.unique(predicted).tolist()) - {_BACKGROUND, *object_ids}:
            raise ValueError(f"{item}: the prediction has objects {sorted(unknown)}, but the sequence has {sorted(object_ids)}")
        if frame in self.sequences.get(sequence, {}):
            raise ValueError(f"{item}: was added before; each frame counts once")
        found = {}
        for object_id in object_ids:
            masks = predicted == object_id, target == object_id
            found[object_id] = region_similarity(*masks), contour_accuracy(*masks)
        self.sequences.setdefault(sequence, {})[frame] = found

    def __iadd__(self, other: VideoObjects) -> VideoObjects:
        for sequence, frames in other.sequences.items():
            if twice := self.sequences.get(sequence, {}).keys() & frames.keys():
                raise ValueError(f"sequence {sequence}, frame {min(twice, key=str)}: is in both; each frame counts once")
        return super().__iadd__(other)

    def compute(self) -> dict[str, float]:
        """Numbers in percent, each the mean over the objects of all sequences: "J&F" = (J-Mean + F-Mean) / 2, and of J as of F:

        * "J-Mean": mean over the frames.
        * "J-Recall": share of the frames with J above one half.
        * "J-Decay": mean over the first quarter of the frames minus mean over the last; what is lost with time.
        """
        objects = list(self.per_object().values())
        self.require(objects, "frame with an object")
        result = {name: mean([numbers[name] for numbers in objects]) for name in objects[0]}
        return {"J&F": (result["J-Mean"] + result["F-Mean"]) / 2, **result}

    def per_object(self) -> dict[tuple[str, int], dict[str, float]]:
        """(sequence, object) -> "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay" in percent."""
        result = {}
        for sequence, frames in sorted(self.sequences.items()):
            ordered = [frames[frame] for frame in sorted(frames, key=lambda frame: (isinstance(frame, str), frame))]
            for object_id in sorted(set().union(*ordered)):
                pairs = [found.get(object_id, BOTH_ABSENT) for found in ordered]
                result[sequence, object_id] = {
                    f"{letter}-{name}": 100 * value
                    for letter, values in zip("JF", zip(*pairs, strict=True), strict=True)
                    for name, value in _statistics(values).items()
                }
        return result


def _statistics(values: tuple[float, ...]) -> dict[str, float]:
    """Mean, recall and decay of one object's values, in the order of time."""
    # The ends of the quarters, counted from 0 and rounded half up; neighbouring quarters share the frame at which they meet.
    ends = [(quarter * (len(values) - 1) * 2 + NUM_BINS) // (2 * NUM_BINS) for quarter in range(NUM_BINS + 1)]
    return {
        "Mean": mean(values),
        "Recall": sum(value > 0.5 for value in values) / len(values),
        "Decay": mean(values[: ends[1] + 1]) - mean(values[ends[-2] :]),
    }


def _contour_points(mask: np.ndarray) -> np.ndarray:
    """(N, 2) row and column of the contour's pixels; mask (H, W) bool."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.empty((0, 2), dtype=np.int64)
    # One pixel more on each side: the contour runs along the outside at the top and the left, and at the bottom and the right a mask that
    # ends inside of the image must not look as if it were cut off by its edge.
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    part = mask[top : rows[-1] + 2, left : columns[-1] + 2]
    # Where the image ends there is no neighbour, and nothing to differ from.
    contour = np.zeros_like(part)
    contour[:, :-1] = part[:, :-1] != part[:, 1:]
    contour[:-1] |= part[:-1] != part[1:]
    contour[:-1, :-1] |= part[:-1, :-1] != part[1:, 1:]
    return np.argwhere(contour) + (top, left)


def _share_near(points: np.ndarray, others: np.ndarray, radius: int) -> float:
    """Share of the points with one of the others at a distance of at most `radius`; both (N, 2) integers, N > 0."""
    # Squared distances are integers, and so exact: the bound lies between two of them, and being strict does not matter.
    distances, _ = cKDTree(others).query(points, distance_upper_bound=math.sqrt(radius**2 + 0.5))
    return int(np.count_nonzero(np.isfinite(distances))) / len(points)
