"""The shapes world in two views: the same things in two pictures, each time elsewhere, of another size and tilt, on other stuff.

A pair of views is a pure function of (seed, split, index). No two things of it have colour, shape and pattern in common, so that what is
meant in one view is known in the other. The rows are those of `ego_exo4d`: regions are drawn on one view and looked for in the other. See
docs/shapes.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from ...masks import rle_from_bitmap
from ..features import Category, RowBuilder, RowConfig, encode_png
from ..region_files import mask_entry, object_tag
from .scene import (
    HELD_OUT,
    LARGE,
    MAX_TILT,
    PATTERNS,
    SMALL,
    SMALL_PERCENT,
    SPLITS,
    VIEWS,
    Canvas,
    Dice,
    Plan,
    palette,
    place,
)

NUM_PAIRS = {"train": 10_000, "validation": 500, "test": 500, "unseen": 500}  # where nobody says otherwise; every split is endless
DIRECTIONS = ("first2second", "second2first")
PAIRS_PER_SHARD = 250

NUM_OBJECTS = (4, 8)
SHOWN_PERCENT = 80  # how often a thing is in a view
LEAST_SHOWN = 2  # things that both views show
SCALE = (60, 150)  # percent, of a side, from the first view to the second


@dataclass(frozen=True, eq=False)
class View:
    """A picture of the things.

    Attributes:
        name: unique among all views of one image size.
        image: (H, W, 3) uint8 RGB.
        masks: object number -> (H, W) bool, what is visible of it, at least half; objects that it does not show are left out.
    """

    name: str
    image: np.ndarray
    masks: dict[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Two views of the same things, of which either shows some."""

    name: str
    first: View
    second: View


def make_views(split: str, index: int, *, seed: int = 0, image_size: int = 128) -> ViewPair:
    """Pair `index` of a split: a pure function of its arguments.

    Args:
        split: one of `shapes_scene.SPLITS`; "unseen" has pairs of colour and shape that the others never show.
        index: 0, 1, 2, ... without end.
        seed: another seed is another world of the same kind.
        image_size: side of the square pictures in pixels. The same index at another size is another pair.
    """
    name, dice = f"{split}-{seed}-{index}", Dice(seed, SPLITS.index(split), index, VIEWS)
    while True:
        plans = _draw_plans(dice, split == "unseen")
        first = _draw_view(dice, f"{name}/first", plans, image_size)
        second = _draw_view(dice, f"{name}/second", {number: _seen_anew(dice, plan) for number, plan in plans.items()}, image_size)
        shared = first.masks.keys() & second.masks.keys()
        has_held_out = any((plan.color, plan.shape) in HELD_OUT for number, plan in plans.items() if number in shared)
        if len(shared) >= LEAST_SHOWN and has_held_out == (split == "unseen"):
            return ViewPair(name, first, second)


def _draw_plans(dice: Dice, with_held_out: bool) -> dict[int, Plan]:
    kinds = list(product(palette(dice, with_held_out), PATTERNS))
    # In a palette with held-out pairs these come several times, to be drawn more often.
    kinds = dict.fromkeys(dice.sample(kinds, len(kinds)))
    plans = {}
    for number, ((color, shape), pattern) in enumerate(list(kinds)[: dice.between(*NUM_OBJECTS)], 1):
        size = dice.between(*SMALL) if dice.percent(SMALL_PERCENT) else dice.between(LARGE[0], LARGE[1] * 5 // 6)
        plans[number] = Plan(shape, color, pattern, size, _draw_tilt(dice))
    return plans


def _seen_anew(dice: Dice, plan: Plan) -> Plan:
    size = min(max(plan.size * dice.between(*SCALE) // 100, SMALL[0]), LARGE[1])
    return replace(plan, size=size, tilt=_draw_tilt(dice))


def _draw_tilt(dice: Dice) -> int:
    return dice.between(-MAX_TILT, MAX_TILT)


def _draw_view(dice: Dice, name: str, plans: dict[int, Plan], image_size: int) -> View:
    """Things in random order, so that what covers another one differs between views; what finds no place is not shown either."""
    canvas, shown = Canvas(dice, image_size), []
    for number in dice.sample(list(plans), len(plans)):
        if dice.percent(SHOWN_PERCENT) and place(canvas, plans[number], dice):
            shown.append(number)
    masks = {number: canvas.owner == layer for layer, number in enumerate(shown, 1)}
    return View(name, canvas.image.clip(0, 255).astype(np.uint8), dict(sorted(masks.items())))


@dataclass
class TwoViewShapesConfig(RowConfig):
    """What is asked for.

    Attributes:
        num_pairs: of the split, default `NUM_PAIRS`.
        direction: "first2second": the regions are in the first view and are looked for in the second; or "second2first".
        seed, image_size: see `make_views`.
        oracle: point only at objects that the other view shows. None = in training yes, because what is not there cannot be learnt from,
            in evaluation no.

    Raises:
        ValueError: an option out of its range.
    """

    num_pairs: int | None = None
    direction: str = "first2second"
    seed: int = 0
    image_size: int = 128
    oracle: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in DIRECTIONS:
            raise ValueError(f"two_view_shapes: unknown direction {self.direction!r}, expected one of {', '.join(DIRECTIONS)}")
        for option, value, low, high in (
            ("num_pairs", self.length, 1, None),
            ("seed", self.seed, 0, None),
            ("image_size", self.image_size, 64, 1024),
        ):
            if value < low or (high is not None and value > high):
                raise ValueError(f"two_view_shapes: {option} must be {f'{low} to {high}' if high else f'at least {low}'}, got {value}")

    @property
    def length(self) -> int:
        """`num_pairs`, decided."""
        return NUM_PAIRS[self.split] if self.num_pairs is None else self.num_pairs

    @property
    def visible_only(self) -> bool:
        """`oracle`, decided."""
        return self.split == "train" if self.oracle is None else self.oracle


class TwoViewShapes(RowBuilder):
    """One row per pair: the picture is the view that is searched, the regions are masks in the other one."""

    BUILDER_CONFIG_CLASS = TwoViewShapesConfig

    @property
    def categories(self) -> tuple[Category, ...]:
        """None: objects have numbers."""
        return ()

    def shards(self) -> dict[str, list]:
        """Spans [first pair, end]."""
        end = self.config.length
        return {"spans": [[first, min(first + PAIRS_PER_SHARD, end)] for first in range(0, end, PAIRS_PER_SHARD)]}

    def _generate_examples(self, spans: list[list[int]]) -> Iterator[tuple[str, dict]]:
        config = self.config
        for first, end in spans:
            for index in range(first, end):
                pair = make_views(config.split, index, seed=config.seed, image_size=config.image_size)
                query, target = (pair.first, pair.second) if config.direction == "first2second" else (pair.second, pair.first)
                row = _row(query, target, config.visible_only)
                yield str(index), row | {"record_id": f"{pair.name}/{config.direction}"}


def _row(query: View, target: View, visible_only: bool) -> dict[str, Any]:
    """Regions in the order of the objects' numbers."""
    asked = [number for number in query.masks if number in target.masks or not visible_only]
    shown = [number for number in asked if number in target.masks]
    return {
        "image": {"bytes": encode_png(Image.fromarray(target.image)), "path": None},
        "image_id": target.name,
        "image_size": list(target.image.shape[:2]),
        "condition": "region",
        "segments": [
            {"mask": rle_from_bitmap(target.masks[number]), "category_id": None, "is_crowd": False, "annotation_id": number}
            for number in shown
        ],
        "regions": [mask_entry(rle_from_bitmap(query.masks[number]), shown.index(number) if number in shown else None) for number in asked],
        "region_image": {"bytes": encode_png(Image.fromarray(query.image)), "path": None},
        "region_image_size": list(query.image.shape[:2]),
        "tags": [object_tag(number) for number in asked],
    }
