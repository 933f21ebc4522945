"""Pairs of views of the shapes world: the same things in two images, each time elsewhere, of another size and tilt, on other stuff.

Seed, split and index alone decide a pair. No two of its things have the same colour, shape and pattern, so that each is known again in the
other view. The rows are those of `ego_exo4d`: regions are drawn on one view and looked for in the other. See docs/shapes.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from ...masks import rle_from_bitmap
from ...structures import REGION
from ..features import encode_png, segment_entry
from ..region_files import OracleConfig, mask_entry, object_tag
from .builder import DrawnBuilder, DrawnConfig
from .scene import HELD_OUT, LARGE, MAX_TILT, PATTERNS, SMALL, SMALL_PERCENT, SPLITS, VIEWS, Canvas, Dice, Plan, palette, place

Direction = Literal["first2second", "second2first"]
VIEW_DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

VIEW_OBJECTS = (4, 8)
SHOWN_PERCENT = 80  # how often a thing is in a view
LEAST_SHOWN = 2  # things that both views show
SCALE = (60, 150)  # percent, of a side, from the first view to the second


@dataclass(frozen=True, eq=False)
class View:
    """Image of the things.

    Attributes:
        name: unique among all views of one image size.
        image: (H, W, 3) uint8 RGB.
        masks: object number -> (H, W) bool, its visible pixels, at least half of it; objects that do not show are left out.
    """

    name: str
    image: np.ndarray
    masks: dict[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Two views of the same things; each shows some of them."""

    name: str
    first: View
    second: View


def make_views(split: str, index: int, *, seed: int = 0, image_size: int = 128) -> ViewPair:
    """Pair `index` of a split; its arguments alone decide it.

    Args:
        split: one of `scene.SPLITS`; "unseen" has pairs of colour and shape that the others never show.
        index: 0, 1, 2, ... without end.
        seed: another seed is another world of the same kind.
        image_size: side of the square images in pixels. The same index at another size is another pair.
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
    for number, ((color, shape), pattern) in enumerate(list(kinds)[: dice.between(*VIEW_OBJECTS)], 1):
        size = dice.between(*SMALL) if dice.percent(SMALL_PERCENT) else dice.between(LARGE[0], LARGE[1] * 5 // 6)
        plans[number] = Plan(shape, color, pattern, size, _draw_tilt(dice))
    return plans


def _seen_anew(dice: Dice, plan: Plan) -> Plan:
    size = min(max(plan.size * dice.between(*SCALE) // 100, SMALL[0]), LARGE[1])
    return replace(plan, size=size, tilt=_draw_tilt(dice))


def _draw_tilt(dice: Dice) -> int:
    return dice.between(-MAX_TILT, MAX_TILT)


def _draw_view(dice: Dice, name: str, plans: dict[int, Plan], image_size: int) -> View:
    """View of the things in random order, so that others are in front in each view; a thing without a place is not shown."""
    canvas, shown = Canvas(dice, image_size), []
    for number in dice.sample(list(plans), len(plans)):
        if dice.percent(SHOWN_PERCENT) and place(canvas, plans[number], dice):
            shown.append(number)
    masks = {number: canvas.owner == layer for layer, number in enumerate(shown, 1)}
    return View(name, canvas.image.clip(0, 255).astype(np.uint8), dict(sorted(masks.items())))


@dataclass
class TwoViewShapesConfig(OracleConfig, DrawnConfig):
    """`num_pairs` of the split. `direction`: "first2second": the regions are in the first view and are looked for in the second; or
    "second2first"."""

    number = "num_pairs"
    num_pairs: int | None = None
    direction: Direction = "first2second"


class TwoViewShapes(DrawnBuilder):
    """Pairs of views as a dataset, one row per pair: the image is the view that is searched, the regions are masks in the other one."""

    BUILDER_CONFIG_CLASS = TwoViewShapesConfig
    summary = "drawn things in two images: objects of one, found in the other"

    def rows_of(self, index: int) -> list[dict[str, Any]]:
        config = self.config
        pair = make_views(config.split, index, seed=config.seed, image_size=config.image_size)
        query, target = (pair.first, pair.second) if config.direction == "first2second" else (pair.second, pair.first)
        return [_row(query, target, config.visible_only) | {"record_id": f"{pair.name}/{config.direction}"}]


def _row(query: View, target: View, visible_only: bool) -> dict[str, Any]:
    """Row with the regions in the order of the numbers of the objects."""
    asked = [number for number in query.masks if number in target.masks or not visible_only]
    shown = [number for number in asked if number in target.masks]
    return {
        "image": {"bytes": encode_png(Image.fromarray(target.image)), "path": None},
        "image_id": target.name,
        "image_size": list(target.image.shape[:2]),
        "condition": REGION,
        "segments": [segment_entry(rle_from_bitmap(target.masks[number]), annotation_id=number) for number in shown],
        "regions": [mask_entry(rle_from_bitmap(query.masks[number]), shown.index(number) if number in shown else None) for number in asked],
        "region_image": {"bytes": encode_png(Image.fromarray(query.image)), "path": None},
        "region_image_size": list(query.image.shape[:2]),
        "tags": [object_tag(number) for number in asked],
    }
