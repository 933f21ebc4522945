"""Places of labels ("chips") on the masks that they name.

A label lies on its mask if it hides only a small part of it, else beside the mask, with a line to it. Labels keep off each other and off
prompts, and all labels together hide at most a quarter of what is visible of any mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the drawn image
Spot = tuple[int, int]  # x, y

MAX_HIDDEN = 0.25  # of the visible pixels of a mask
HARDLY_HIDDEN = 0.03  # so much is no reason to look for another place
NUM_RINGS, RING = 12, 0.75  # places beside a mask lie on rings, so many heights of a label apart


class Chip(NamedTuple):
    """Label with its place; `leader` is the line that joins it to its mask, None if it lies on the mask."""

    text: str
    box: Box
    leader: tuple[Spot, Spot] | None


def place_chips(
    shapes: Sequence[np.ndarray],
    names: Sequence[tuple[str, str]],
    chip_size: Callable[[str], tuple[int, int]],
    covered: Sequence[Box],
    size: tuple[int, int],
    gap: int,
) -> dict[int, Chip]:
    """Index of a mask -> its label; what finds no place is absent. Labels on masks choose first, and small masks before large ones.

    Args:
        shapes: masks (H, W) bool, smaller ones lie on larger ones.
        names: a long and a short text per mask; the long one is taken where it fits on the mask.
        chip_size: text -> width and height of its label in pixels.
        covered: boxes that no label may touch.
        size: width and height of the image.
        gap: pixels between labels.
    """
    order = sorted(range(len(shapes)), key=lambda index: int(shapes[index].sum()))
    room = _Room(shapes, order, covered, size, gap)
    spots, chips = {}, {}
    for find in (_find_place_on, _find_place_beside):
        for index in order:
            if index in chips or not shapes[index].any():
                continue
            if index not in spots:
                visible = room.owner == index + 1
                spots[index] = _inner_spots(visible if visible.any() else shapes[index], distance=2 * chip_size("")[1])
            chip = find(index, spots[index], {text: chip_size(text) for text in names[index]}, room)
            if chip is not None:
                room.take(chip)
                chips[index] = chip
    return chips


class _Room:
    """Pixels that are taken, and those of every mask that are visible or hidden by labels."""

    def __init__(self, shapes: Sequence[np.ndarray], order: Sequence[int], covered: Sequence[Box], size: tuple[int, int], gap: int):
        self.size, self.gap = size, gap
        self.owner = np.zeros(size[::-1], dtype=np.int32)  # number of the uppermost mask from 1, 0 = none
        for index in reversed(order):
            self.owner[shapes[index]] = index + 1
        self.shapes = shapes
        self.visible = np.bincount(self.owner.ravel(), minlength=len(shapes) + 1)
        self.hidden = np.zeros_like(self.visible)
        self.is_taken = np.zeros(size[::-1], dtype=bool)
        for box in covered:
            self.is_taken[self.window(box, gap)] = True

    def window(self, box: Box, margin: int = 0) -> tuple[slice, slice]:
        x0, y0, x1, y1 = box
        return slice(max(y0 - margin, 0), max(y1 + margin + 1, 0)), slice(max(x0 - margin, 0), max(x1 + margin + 1, 0))

    def box(self, center: Spot, chip: tuple[int, int]) -> Box:
        """Box of a label about `center`, moved into the image."""
        left, top = (
            int(np.clip(middle - length // 2, 0, max(side - length - 1, 0)))
            for middle, length, side in zip(center, chip, self.size, strict=True)
        )
        return left, top, left + chip[0], top + chip[1]

    def counts(self, box: Box) -> np.ndarray:
        """Pixels of every mask in a box, those of none first."""
        return np.bincount(self.owner[self.window(box)].ravel(), minlength=len(self.visible))

    def is_free(self, box: Box) -> bool:
        """True if a label there touches nothing and hides little of every mask."""
        if self.is_taken[self.window(box)].any():
            return False
        return bool((self.hidden + self.counts(box) <= MAX_HIDDEN * self.visible)[1:].all())

    def leader(self, box: Box, spot: Spot, index: int) -> tuple[tuple[Spot, Spot], bool]:
        """Line from a label to the border of its mask on the way to `spot`, and True if it touches nothing."""
        start = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        steps = np.linspace(0, 1, int(max(abs(start - spot))) + 2)[:, None]
        xs, ys = np.clip((start + steps * (np.array(spot) - start)).round().astype(int), 0, np.array(self.size) - 1).T
        end = int(self.shapes[index][ys, xs].argmax())
        is_outside = (xs < box[0]) | (xs > box[2]) | (ys < box[1]) | (ys > box[3])
        line = (int(xs[0]), int(ys[0])), (int(xs[end]), int(ys[end]))
        return line, not self.is_taken[ys[:end], xs[:end]][is_outside[:end]].any()

    def take(self, chip: Chip) -> None:
        self.hidden += self.counts(chip.box)
        self.is_taken[self.window(chip.box, self.gap)] = True
        if chip.leader is not None:
            ends = np.array(chip.leader)
            xs, ys = np.linspace(*ends, int(abs(ends[0] - ends[1]).max()) + 1).round().astype(int).T
            self.is_taken[ys, xs] = True


def _find_place_on(index: int, spots: Sequence[Spot], sizes: dict[str, tuple[int, int]], room: _Room) -> Chip | None:
    """Label on the mask."""
    for text, size in sizes.items():
        for spot in spots:
            box = room.box(spot, size)
            if room.counts(box)[index + 1] >= 0.7 * (size[0] + 1) * (size[1] + 1) and room.is_free(box):
                return Chip(text, box, None)
    return None


def _find_place_beside(index: int, spots: Sequence[Spot], sizes: dict[str, tuple[int, int]], room: _Room) -> Chip | None:
    """Label on rings about the mask: the nearest one whose line crosses nothing and that keeps off all masks but large ones, else one that
    does not; none so far away that nobody sees what belongs together."""
    text, size = list(sizes.items())[-1]
    (x, y), worse = spots[0], {}
    for radius in np.arange(1, NUM_RINGS + 1) * size[1] * RING:
        for angle in np.deg2rad(np.arange(0, 360, 30)):
            box = room.box((round(x + radius * np.sin(angle)), round(y - radius * np.cos(angle))), size)
            if box[0] <= x <= box[2] and box[1] <= y <= box[3] or not room.is_free(box):
                continue
            line, is_clear = room.leader(box, spots[0], index)
            hides = bool((room.counts(box) > HARDLY_HIDDEN * room.visible)[1:].any())
            faults = (not is_clear, bool(room.shapes[index][room.window(box, room.gap)].any()), hides)
            if not any(faults):
                return Chip(text, box, line)
            worse.setdefault(faults, Chip(text, box, line))
    return worse[min(worse)] if worse else None


def _inner_spots(mask: np.ndarray, distance: int, number: int = 24) -> list[Spot]:
    """Places inside a mask, at most `number`, the most inner one first, `distance` pixels apart from each other."""
    step = max(1, max(mask.shape) // 400)  # a label need not be placed to the pixel
    coarse = mask[::step, ::step]
    if not coarse.any():
        row, column = np.argwhere(mask)[0]
        return [(int(column), int(row))]
    depth = ndimage.distance_transform_edt(np.pad(coarse, 1))[1:-1, 1:-1]  # padded: the edge of the image is a border too
    rows, columns = np.indices(depth.shape, sparse=True)
    spots = []
    while len(spots) < number and depth.max() > 0:
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        spots.append((int(column) * step, int(row) * step))
        depth = np.where((rows - row) ** 2 + (columns - column) ** 2 <= (distance / step) ** 2, 0, depth)
    return spots
