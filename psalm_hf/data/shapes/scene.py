"""Images of the shapes world: things of eight shapes on textured stuff, with exact masks, from nothing but numbers.

They have the same bits on every machine: random numbers are raw 64-bit words of a counter-based generator, and all the rest is integer
arithmetic, on a grid of 2048 x 2048 units that does not depend on the size of the image.

Coordinates in units are (x, y) from the upper left corner; masks and pixels are (row, column).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from ...masks import rle_from_bitmap

Item = TypeVar("Item")

UNITS = 2048  # along a side of the image
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "moon")
COLORS = {
    "red": (214, 44, 44),
    "green": (30, 168, 62),
    "blue": (44, 76, 224),
    "yellow": (246, 220, 40),
    "purple": (156, 44, 200),
    "white": (244, 244, 244),
}
PATTERNS = ("solid", "striped", "dotted")
STUFF = ("grass", "sand", "water", "brick")
SPLITS = ("train", "validation", "test", "unseen")
# Purposes of the random numbers of a scene. Each has its own numbers, so that none disturbs the others.
IMAGE, EXPRESSIONS, QUESTIONS, PHRASES, PROMPTS, CLIP, VIEWS, WIDE = range(8)

# Pairs that only the "unseen" split shows. Every shape and every colour is still met in other company during training.
HELD_OUT = frozenset(
    {
        ("purple", "circle"), ("yellow", "square"), ("blue", "triangle"), ("green", "star"),
        ("red", "cross"), ("white", "ring"), ("red", "diamond"), ("blue", "moon"),
    }
)  # fmt: skip

NUM_THINGS = (3, 10)
SMALL = (208, 280)  # units, square root of the full area; 280 units are 1.9 % of the image
LARGE = (312, 544)
SMALL_PERCENT = 19
OVERLAP_PERCENT = 65  # how often a place on an earlier thing of another colour is looked for first
HIDDEN = (0.08, 0.5)  # share of a thing that another one may cover; below, it does not count as occluded and is not allowed
GAP = 32  # units between things that do not overlap
TRIES = 24

_TURN = 256  # steps of a full turn
_SINE = [round(1024 * math.sin(2 * math.pi * step / _TURN)) for step in range(_TURN)]
_WAVE = np.array([round(64 * math.sin(2 * math.pi * step / 64)) for step in range(64)], dtype=np.int32)
MAX_TILT = 21  # steps to either side, about 30 degrees: things stand upright, more or less
_SHAPE_RADIUS = {  # thousandths of the square root of the area: from the centre to the farthest point
    "circle": 565, "square": 708, "triangle": 878, "star": 947, "cross": 709, "ring": 676, "diamond": 896, "moon": 760,
}  # fmt: skip
_STUFF_COLORS = {"grass": (104, 128, 84), "sand": (198, 178, 134), "water": (96, 134, 160), "brick": (150, 100, 82)}
_MORTAR = 44  # brighter than bricks


@dataclass(frozen=True, eq=False)
class Thing:
    """Object of a scene.

    Attributes:
        shape, color, pattern: keys of `SHAPES`, `COLORS`, `PATTERNS`.
        mask: (H, W) bool, the visible part.
        full_area: pixels before anything covers it.
        ground: the stuff that at least 90 % of it stand on; None on a border.
    """

    shape: str
    color: str
    pattern: str
    mask: np.ndarray
    full_area: int
    ground: str | None

    @cached_property
    def area(self) -> int:
        """Visible pixels."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def position(self) -> tuple[float, float]:
        """Mean (x, y) of the visible part's pixel centres, in pixels."""
        rows, columns = np.nonzero(self.mask)
        return int(columns.sum()) / self.area + 0.5, int(rows.sum()) / self.area + 0.5

    @cached_property
    def mask_rle(self) -> dict:
        """Mask of the visible part, as RLE."""
        return rle_from_bitmap(self.mask)

    @property
    def is_occluded(self) -> bool:
        """True if another thing covers a part of it."""
        return self.area < self.full_area

    @property
    def is_held_out(self) -> bool:
        """True if training never shows this shape in this colour."""
        return (self.color, self.shape) in HELD_OUT


@dataclass(frozen=True, eq=False)
class Scene:
    """Image and all facts about it.

    Attributes:
        split, seed, index: arguments that the scene was made from.
        image: (H, W, 3) uint8 RGB.
        things: from the rearmost to the foremost.
        stuff: name -> (H, W) bool, the visible pixels; stuff without any is left out. Masks of things and stuff share no pixel, and cover
            the image.
    """

    split: str
    seed: int
    index: int
    image: np.ndarray
    things: tuple[Thing, ...]
    stuff: dict[str, np.ndarray]

    @property
    def image_id(self) -> str:
        """Id that is unique among all scenes of one image size."""
        return f"shapes/{self.split}/{self.seed}/{self.index}"

    def dice(self, purpose: int) -> Dice:
        """Random numbers of the scene for one of the purposes, from the first on."""
        return Dice(self.seed, SPLITS.index(self.split), self.index, purpose)

    def stuff_rle(self, name: str) -> dict:
        """Mask of the visible pixels of a kind of stuff, as RLE."""
        return rle_from_bitmap(self.stuff[name])


class Dice:
    """Random draws that are the same on every machine and with every numpy: integers from raw words of a counter-based generator.

    Args:
        entropy: non-negative integers, at least one; different sequences give independent draws.
    """

    def __init__(self, *entropy: int):
        self._bits = np.random.Philox(np.random.SeedSequence(entropy))
        self._words: list[int] = []

    def below(self, stop: int) -> int:
        """Draws 0 to stop - 1, each equally likely."""
        if not self._words:
            self._words = self._bits.random_raw(64).tolist()
        return (self._words.pop() >> 32) * stop >> 32

    def between(self, low: int, high: int) -> int:
        """Draws low to high, both included."""
        return low + self.below(high - low + 1)

    def percent(self, chance: int) -> bool:
        """Draws True in `chance` of a hundred cases."""
        return self.below(100) < chance

    def choice(self, items: Sequence[Item]) -> Item:
        """Draws one of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[Item], number: int) -> list[Item]:
        """Draws `number` of the items in random order, none twice."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(number)]

    def noise(self, side: int) -> np.ndarray:
        """Draws noise, (side, side) int32 in 0..255."""
        words = self._bits.random_raw(-(-side * side // 8)).astype("<u8")
        return words.view(np.uint8)[: side * side].reshape(side, side).astype(np.int32)


def check_range(owner: str, option: str, value: int, low: int, high: int | None = None) -> None:
    """Checks an option of `owner`; messages begin with that name.

    Raises:
        ValueError: `value` is not `low` to `high`, both included; without `high` only not below `low`.
    """
    if value < low or (high is not None and value > high):
        raise ValueError(f"{owner}: {option} must be {f'at least {low}' if high is None else f'{low} to {high}'}, got {value}")


def make_scene(split: str, index: int, *, seed: int = 0, image_size: int = 128) -> Scene:
    """Scene `index` of a split; its arguments alone decide it.

    Args:
        split: "train", "validation", "test", or "unseen", in which about half of the things are pairs of colour and shape that the
            other three never show.
        index: 0, 1, 2, ... without end.
        seed: another seed is another world of the same kind.
        image_size: side of the square image in pixels. The same index at another size is another scene.

    Raises:
        ValueError: unknown split, negative index or seed, image_size outside of 64 to 1024.
    """
    if split not in SPLITS:
        raise ValueError(f"shapes: unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    if index < 0 or seed < 0:
        raise ValueError(f"shapes: index and seed must be at least 0, got {index} and {seed}")
    check_range("shapes", "image_size", image_size, 64, 1024)
    dice = Dice(seed, SPLITS.index(split), index, IMAGE)
    while True:
        canvas = Canvas(dice, image_size)
        if _place_things(canvas, dice, split == "unseen"):
            return canvas.scene(split, seed, index)


@dataclass(frozen=True)
class Plan:
    """Thing without a place. `size` is the square root of its area in units, `tilt` is in steps of a 256th turn, and `scale` is by how
    much its stripes and dots are larger than those of other things."""

    shape: str
    color: str
    pattern: str
    size: int
    tilt: int
    scale: int = 1

    @cached_property
    def radius(self) -> int:
        """Radius of the circle around its centre that holds all of it, in units."""
        return self.size * _SHAPE_RADIUS[self.shape] // 1000 + 1


class Outline(NamedTuple):
    """Pixels of a thing.

    Attributes:
        window: rows and columns that it may touch, h x w of them.
        u, v: (h, w), coordinates in units from its centre, to its own right and bottom.
        mask: (h, w) bool, the pixels that are its own.
    """

    window: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray
    mask: np.ndarray


@dataclass
class _Placed:
    plan: Plan
    x: int
    y: int
    full_area: int
    ground: str | None
    is_covered: bool = False


class Canvas:
    """Image while it is painted, and the number of the thing that shows at each pixel (0 = stuff, k = the k-th thing, up to 255).

    Args:
        side: of the image in pixels.
        units: of the image; with more of them things of the same size in units are smaller in the image.
    """

    def __init__(self, dice: Dice, side: int, units: int = UNITS):
        self.side = side
        self.units = units
        self.noise = dice.noise(side)
        self.pixel_units = (2 * np.arange(side, dtype=np.int64) + 1) * (units // 2) // side  # centre of every pixel
        self.stuff_names = dice.sample(STUFF, dice.between(1, 3))
        self.stuff = _divide(dice, self.pixel_units, len(self.stuff_names), units)  # (H, W) index into stuff_names
        self.image = self._paint_stuff(dice)  # (H, W, 3) int32
        self.owner = np.zeros((side, side), dtype=np.uint8)
        self.placed: list[_Placed] = []

    def _paint_stuff(self, dice: Dice) -> np.ndarray:
        textures = [_TEXTURES[name](dice, self.noise, self.pixel_units) + dice.between(-10, 10) for name in self.stuff_names]
        brightness = np.choose(self.stuff, textures)
        colors = np.array([_STUFF_COLORS[name] for name in self.stuff_names], dtype=np.int32)
        return colors[self.stuff] + brightness[:, :, None]

    def window(self, plan: Plan, x: int, y: int) -> tuple[slice, slice]:
        """Rows and columns that a thing at (x, y) units may touch."""
        spans = []
        for center in (y, x):
            first, last = (center - plan.radius) * self.side // self.units, (center + plan.radius) * self.side // self.units
            spans.append(slice(max(first, 0), max(min(last + 1, self.side), 0)))
        return spans[0], spans[1]

    def outline(self, plan: Plan, x: int, y: int) -> Outline:
        """Pixels of a thing at (x, y) units, which may be outside of the image."""
        window = self.window(plan, x, y)
        u, v = _own_coordinates(plan, self.pixel_units[window[1]] - x, self.pixel_units[window[0]] - y)
        return Outline(window, u, v, _INSIDE[plan.shape](u, v, plan.size))

    def paint(self, number: int, plan: Plan, outline: Outline) -> None:
        """Paints a thing over all that is there; its pixels then belong to thing `number`."""
        window, u, v, mask = outline
        self.owner[window][mask] = number
        ink = _INKS[plan.pattern](u // plan.scale, v // plan.scale)
        color = np.array(COLORS[plan.color], dtype=np.int32)
        shade = (self.noise[window][mask] >> 4)[:, None]  # 0..15
        self.image[window][mask] = np.where(ink[mask][:, None], color * 3 // 10, color) * (250 - shade) >> 8

    def add(self, plan: Plan, x: int, y: int, onto: int | None) -> bool:
        """Paints a thing at (x, y) units, unless it covers too much or too little of the thing number `onto`."""
        outline = self.outline(plan, x, y)
        window, mask = outline.window, outline.mask
        if onto is not None:
            under = self.placed[onto]
            hidden = int(np.count_nonzero(mask & (self.owner[window] == onto + 1)))
            if not HIDDEN[0] * under.full_area <= hidden <= HIDDEN[1] * under.full_area:
                return False
            under.is_covered = True
        full_area = int(np.count_nonzero(mask))
        ground = np.bincount(self.stuff[window][mask], minlength=3)
        is_clear = 10 * int(ground.max()) >= 9 * full_area
        self.placed.append(_Placed(plan, x, y, full_area, self.stuff_names[int(ground.argmax())] if is_clear else None))
        self.paint(len(self.placed), plan, outline)
        return True

    def scene(self, split: str, seed: int, index: int) -> Scene:
        """Scene of the things that were added."""
        things = tuple(
            Thing(item.plan.shape, item.plan.color, item.plan.pattern, self.owner == number, item.full_area, item.ground)
            for number, item in enumerate(self.placed, 1)
        )
        visible = np.where(self.owner == 0, self.stuff, len(STUFF))
        stuff = {name: visible == number for number, name in enumerate(self.stuff_names)}
        return Scene(
            split=split,
            seed=seed,
            index=index,
            image=self.image.clip(0, 255).astype(np.uint8),
            things=things,
            stuff={name: mask for name, mask in stuff.items() if mask.any()},
        )


def example_image() -> Image.Image:
    """Image that commands take when they are given none: a scene that training never sees, RGB, 128 x 128."""
    return Image.fromarray(make_scene("test", 41).image)


def _place_things(canvas: Canvas, dice: Dice, with_held_out: bool) -> bool:
    """Paints up to 10 things; False if fewer than 3 found a place, or none of the held-out pairs that there should be."""
    number = dice.between(*NUM_THINGS)
    pairs = palette(dice, with_held_out)
    largest = LARGE[1] if number <= 5 else LARGE[1] * 5 // 6 if number <= 7 else LARGE[1] * 2 // 3
    for _ in range(number):
        color, shape = dice.choice(pairs)
        size = dice.between(*SMALL) if dice.percent(SMALL_PERCENT) else dice.between(LARGE[0], largest)
        tilt = dice.between(-MAX_TILT, MAX_TILT) % _TURN
        plan = Plan(shape, color, dice.choice(PATTERNS), size, tilt)
        place(canvas, plan, dice)
    has_held_out = any((item.plan.color, item.plan.shape) in HELD_OUT for item in canvas.placed)
    return len(canvas.placed) >= NUM_THINGS[0] and has_held_out == with_held_out


def place(canvas: Canvas, plan: Plan, dice: Dice) -> bool:
    """Paints a thing onto another one or apart from all; False if no place was found."""
    return (dice.percent(OVERLAP_PERCENT) and _put_onto_another(canvas, plan, dice)) or _put_apart(canvas, plan, dice)


def palette(dice: Dice, with_held_out: bool) -> list[tuple[str, str]]:
    """Pairs (colour, shape) of a scene, from 2 to 4 colours and 2 to 5 shapes: without anything in common, things would need no
    expression to tell them apart."""
    while True:
        colors, shapes = dice.sample(list(COLORS), dice.between(2, 4)), dice.sample(SHAPES, dice.between(2, 5))
        pairs = [(color, shape) for color in colors for shape in shapes]
        held_out = [pair for pair in pairs if pair in HELD_OUT]
        others = [pair for pair in pairs if pair not in HELD_OUT]
        if with_held_out and held_out and others:
            times = max(1, len(others) // len(held_out))  # about half of the draws
            return others + held_out * times
        if not with_held_out and len(others) > 1:
            return others


def _put_apart(canvas: Canvas, plan: Plan, dice: Dice) -> bool:
    margin = plan.radius + GAP
    for _ in range(TRIES):
        x, y = dice.between(margin, canvas.units - margin), dice.between(margin, canvas.units - margin)
        if _is_free(canvas, plan, x, y, None):
            return canvas.add(plan, x, y, None)
    return False


def _put_onto_another(canvas: Canvas, plan: Plan, dice: Dice) -> bool:
    """Onto a thing of another colour that nothing covers yet; it then touches no third thing."""
    for _ in range(TRIES // 3):
        if not canvas.placed:
            return False
        onto = dice.below(len(canvas.placed))
        under = canvas.placed[onto]
        if under.is_covered or under.plan.color == plan.color:
            continue
        reach = (plan.size + under.plan.size) * dice.between(30, 52) // 100
        step = dice.below(_TURN)
        x, y = under.x + reach * _SINE[step] // 1024, under.y + reach * _SINE[step - _TURN // 4] // 1024
        margin = plan.radius + GAP
        if not (margin <= x <= canvas.units - margin and margin <= y <= canvas.units - margin):
            continue
        if _is_free(canvas, plan, x, y, onto) and canvas.add(plan, x, y, onto):
            return True
    return False


def _is_free(canvas: Canvas, plan: Plan, x: int, y: int, onto: int | None) -> bool:
    reach = plan.radius + GAP
    for number, other in enumerate(canvas.placed):
        across, down, apart = x - other.x, y - other.y, reach + other.plan.radius
        if number != onto and across * across + down * down < apart * apart:
            return False
    return True


# Stuff


def _divide(dice: Dice, pixel_units: np.ndarray, number: int, units: int) -> np.ndarray:
    """(H, W) region of each pixel, 0 to number - 1, each at least 8 % of the image; borders are wavy lines."""
    while True:
        regions = np.zeros((len(pixel_units), len(pixel_units)), dtype=np.uint8)
        for region in range(1, number):
            regions[(regions == region - 1) & _beyond_a_line(dice, pixel_units, units)] = region
        if number == 1 or np.bincount(regions.ravel(), minlength=number).min() * 25 >= 2 * regions.size:
            return regions


def _beyond_a_line(dice: Dice, pixel_units: np.ndarray, units: int) -> np.ndarray:
    step = dice.below(_TURN)
    x = pixel_units[None, :] - dice.between(units // 4, units * 3 // 4)
    y = pixel_units[:, None] - dice.between(units // 4, units * 3 // 4)
    sine, cosine = _SINE[step], _SINE[step - _TURN // 4]
    across, along = (cosine * x + sine * y) >> 10, (cosine * y - sine * x) >> 10
    return across + _WAVE[(along // 16 + dice.below(64)) & 63] * dice.between(0, 1) > 0


def _grass(dice: Dice, noise: np.ndarray, units: np.ndarray) -> np.ndarray:
    blades = (noise + np.roll(noise, 1, 0) + np.roll(noise, 2, 0) + np.roll(noise, 3, 0)) >> 2
    return (blades - 128) * 5 >> 3


def _sand(dice: Dice, noise: np.ndarray, units: np.ndarray) -> np.ndarray:
    return (noise >> 4) - 8 - 44 * (np.roll(noise, (17, 31), (0, 1)) < 22)


def _water(dice: Dice, noise: np.ndarray, units: np.ndarray) -> np.ndarray:
    rows, columns = units[:, None] >> 4, units[None, :] >> 4  # 0..127
    swell = _WAVE[(columns * 3 + dice.below(64)) & 63] >> 3
    return (_WAVE[(rows * 7 + swell + dice.below(64)) & 63] >> 1) + (noise >> 5)


def _brick(dice: Dice, noise: np.ndarray, units: np.ndarray) -> np.ndarray:
    rows, columns = (units[:, None] >> 4) + dice.below(10), (units[None, :] >> 4) + dice.below(18)
    course = rows // 10
    columns = columns + 9 * (course & 1)
    mortar = (rows % 10 == 0) | (columns % 18 == 0)
    bricks = noise[course % len(noise), (columns // 18) % len(noise)] >> 3  # one shade per brick
    return np.where(mortar, _MORTAR, bricks - 16) + (noise >> 5)


_TEXTURES: dict[str, Any] = {"grass": _grass, "sand": _sand, "water": _water, "brick": _brick}


# Things, in their own coordinates: u to their right, v to their bottom, in units from the centre


def _own_coordinates(plan: Plan, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sine, cosine = _SINE[plan.tilt], _SINE[(plan.tilt + _TURN // 4) % _TURN]
    return (cosine * x[None, :] + sine * y[:, None]) >> 10, (cosine * y[:, None] - sine * x[None, :]) >> 10


def _circle(u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    return u * u + v * v <= (size * 564 // 1000) ** 2


def _square(u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    return np.maximum(abs(u), abs(v)) <= size // 2


def _triangle(u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    inner = size * 877 // 2000
    return (v <= inner) & (887 * abs(u) - 512 * v <= 1024 * inner)


def _star(u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    """Five points: what lies inside of at least four of the pentagram's five lines."""
    inner = 1024 * (size * 292 // 1000)
    w = abs(u)  # the two lines to each side mirror each other
    upper, lower = 974 * w - 316 * v, 602 * w + 828 * v
    lines = [-1024 * v, upper, lower, -974 * w - 316 * v, -602 * w + 828 * v]
    return sum((line <= inner).astype(np.int8) for line in lines) >= 4


def _cross(u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    long, short = size * 671 // 1000, size * 224 // 1000
    a, b = abs(u), abs(v)
    return (np.minimum(a, b) <= short) & (np.maximum(a, b) <= long)


def _ring(u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    squares = u * u + v * v
    return (squares <= (size * 675 // 1000) ** 2) & (squares >= (size * 371 // 1000) ** 2)


def _diamond(u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    return 16 * abs(u) + 10 * abs(v) <= 16 * (size * 559 // 1000)


def _moon(u: np.ndarray, v: np.ndarray, size: int) -> np.ndarray:
    bitten_out = (u - size * 485 // 1000) ** 2 + v * v <= (size * 611 // 1000) ** 2
    return (u * u + v * v <= (size * 759 // 1000) ** 2) & ~bitten_out


_INSIDE: dict[str, Any] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star,
    "cross": _cross, "ring": _ring, "diamond": _diamond, "moon": _moon,
}  # fmt: skip


def _no_ink(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.zeros(u.shape, dtype=bool)


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u + v) % 96 < 40


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u % 88 - 44) ** 2 + (v % 88 - 44) ** 2 <= 27**2


_INKS: dict[str, Any] = {"solid": _no_ink, "striped": _stripes, "dotted": _dots}
