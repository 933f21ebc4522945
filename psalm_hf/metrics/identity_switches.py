"""Objects of videos that are taken for each other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from .base import Metric


@dataclass
class IdentitySwitches(Metric):
    """Counts how often the mask of an object lies on another object.

    In each frame a mask is that of the object with whose target it has the highest IoU; one that meets no object is nobody's. A switch is a
    frame in which a mask is another object's than it was last; it begins as its own.

    Attributes:
        sequences: sequence -> frame -> object -> the object that its mask is on, for masks that are on any.
    """

    sequences: dict[str, dict[int | str, dict[int, int]]] = field(default_factory=dict)

    def update(self, sequence: str, frame: int | str, predicted: np.ndarray, target: np.ndarray, object_ids: Collection[int]) -> None:
        """Adds one frame; arguments, and what is refused, as of `VideoObjects.update`, which counts the same frame."""
        numbers = sorted(object_ids)
        positions = np.zeros(target.shape, dtype=np.int64)  # of the true object in `numbers`, from 1; 0 = none of them
        for position, number in enumerate(numbers, 1):
            positions[target == number] = position
        areas = np.bincount(positions.ravel(), minlength=len(numbers) + 1)[1:]
        found = {}
        for number in numbers:
            mask = predicted == number
            shared = np.bincount(positions[mask], minlength=len(numbers) + 1)[1:]
            if shared.any():
                found[number] = numbers[int((shared / (np.count_nonzero(mask) + areas - shared)).argmax())]
        self.sequences.setdefault(sequence, {})[frame] = found

    def compute(self) -> dict[str, int]:
        """ "switches", and "mistaken": masks, one per object and frame, that are on another object."""
        switches = mistaken = 0
        for frames in self.sequences.values():
            last: dict[int, int] = {}
            for frame in sorted(frames, key=lambda frame: (isinstance(frame, str), frame)):
                for number, found in frames[frame].items():
                    mistaken += found != number
                    switches += found != last.get(number, number)
                    last[number] = found
        return {"switches": switches, "mistaken": mistaken}
