"""Clips of the shapes world: things pass in front of each other, leave the image and come back, and some look alike.

Seed, split and index alone decide a clip, and every frame can be drawn without those before it. The rows are those of `davis`: the objects
of the first frame are regions, and are looked for in the others. See docs/shapes.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from ...masks import rle_from_bitmap
from ...structures import REGION
from ..features import encode_png, segment_entry
from ..region_files import FIRST_FRAME, LAST_FRAME, OracleConfig, expression_tag, mask_entry, object_tag
from .builder import DrawnBuilder, DrawnConfig
from .language import MAX_PROMPTS, Expression, expressions
from .scene import (
    CLIP,
    GAP,
    HELD_OUT,
    LARGE,
    MAX_TILT,
    PATTERNS,
    SMALL,
    SPLITS,
    TRIES,
    UNITS,
    Canvas,
    Dice,
    Plan,
    Scene,
    Thing,
    check_range,
    palette,
)

NUM_FRAMES = 24

CLIP_OBJECTS = (3, 6)
SPEED = (24, 88)  # units per frame along the way
SWING = 2  # largest change of the tilt per frame
LOOK_ALIKE_PERCENT = 35  # how often a thing is drawn like an earlier one
LEAVE_PERCENT = 25  # how often a thing leaves the image
MEET_PERCENT = 70  # how often one of the others is sent to the place where an earlier one will be
LEAVE_FRAMES = (5, 9)  # from the first frame until nothing of it shows
AWAY_FRAMES = (2, 4)  # from there to the farthest point; it needs as many to come back
MEET_FRAMES = (5, 18)
# A thing of which less shows counts as not there: a sliver of it is no object to a person either.
LEAST_PERCENT = 5

_FIRST_TILT = 8


@dataclass(frozen=True)
class Track:
    """Thing and its way: straight at a constant speed, and back from walls.

    Attributes:
        plan: the thing as it is in frame 0.
        start: (x, y) of its centre in frame 0, in units.
        speed: (x, y) in units per frame.
        low, high: (x, y) of the walls. They may be outside of the image.
        swing: change of its tilt per frame; it turns round at `MAX_TILT`.
        looks_like: number of the earlier thing that has its colour, shape and pattern, and almost its size.
    """

    plan: Plan
    start: tuple[int, int]
    speed: tuple[int, int]
    low: tuple[int, int]
    high: tuple[int, int]
    swing: int
    looks_like: int | None

    def at(self, frame: int) -> tuple[int, int]:
        """Centre (x, y) of the thing in a frame, in units."""
        (x, y), (dx, dy) = self.start, self.speed
        return _reflected(x + frame * dx, self.low[0], self.high[0]), _reflected(y + frame * dy, self.low[1], self.high[1])

    def drawn_at(self, frame: int) -> Plan:
        """Thing with its tilt in a frame."""
        return replace(self.plan, tilt=_reflected(self.plan.tilt + frame * self.swing, -MAX_TILT, MAX_TILT))


@dataclass(frozen=True, eq=False)
class ClipFrame:
    """Image of a clip.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        masks: object number -> (H, W) bool, its visible pixels; objects that do not show are left out. Masks share no pixel.
    """

    image: np.ndarray
    masks: dict[int, np.ndarray]


class Clip:
    """Background that stands still, and things that move over it.

    Attributes:
        name: unique among all clips of one image size.
        tracks: of the objects 1, 2, ..., from the rearmost to the foremost.
    """

    def __init__(self, name: str, background: Canvas, tracks: tuple[Track, ...]):
        self.name, self.tracks = name, tracks
        self._background = background

    def frame(self, number: int) -> ClipFrame:
        """Frame 0, 1, 2, ... without end."""
        canvas = copy(self._background)
        canvas.image, canvas.owner = canvas.image.copy(), canvas.owner.copy()
        for index, track in enumerate(self.tracks, 1):
            plan = track.drawn_at(number)
            canvas.paint(index, plan, canvas.outline(plan, *track.at(number)))
        masks = {index: canvas.owner == index for index in range(1, len(self.tracks) + 1)}
        return ClipFrame(
            image=canvas.image.clip(0, 255).astype(np.uint8),
            masks={index: mask for index, mask in masks.items() if _is_there(mask, self.tracks[index - 1].plan)},
        )

    def scene(self, split: str, seed: int, index: int) -> Scene:
        """Frame 0 as a scene, about which there are expressions. Its things are the objects 1, 2, ...

        Args:
            split, seed, index: of the clip; they decide what is said.
        """
        first, ground = self.frame(0), self._background
        things = []
        for number, track in enumerate(self.tracks, 1):
            mask = first.masks[number]
            below = np.bincount(ground.stuff[mask], minlength=len(ground.stuff_names))
            stands_on = ground.stuff_names[int(below.argmax())] if 10 * int(below.max()) >= 9 * int(below.sum()) else None
            things.append(Thing(track.plan.shape, track.plan.color, track.plan.pattern, mask, int(below.sum()), stands_on))
        free = ~np.any(list(first.masks.values()), axis=0)
        stuff = {name: (ground.stuff == number) & free for number, name in enumerate(ground.stuff_names)}
        return Scene(split, seed, index, first.image, tuple(things), {name: mask for name, mask in stuff.items() if mask.any()})


def single_expressions(scene: Scene) -> dict[int, Expression]:
    """Number of an object -> an expression that means it alone, the first of those that are said about the scene; some have none."""
    found: dict[int, Expression] = {}
    for expression in expressions(scene, MAX_PROMPTS):
        if len(expression.targets) == 1:
            found.setdefault(expression.targets[0] + 1, expression)
    return dict(sorted(found.items()))


def make_clip(split: str, index: int, *, seed: int = 0, image_size: int = 128) -> Clip:
    """Clip `index` of a split; its arguments alone decide it. All of its objects show in frame 0, whole and apart.

    Args:
        split: one of `scene.SPLITS`; "unseen" has pairs of colour and shape that the others never show.
        index: 0, 1, 2, ... without end.
        seed: another seed is another world of the same kind.
        image_size: side of the square images in pixels. The same index at another size is another clip.
    """
    dice = Dice(seed, SPLITS.index(split), index, CLIP)
    while True:
        background = Canvas(dice, image_size)
        tracks = _draw_tracks(dice, split == "unseen")
        if tracks:
            return Clip(f"{split}-{seed}-{index}", background, tracks)


def _draw_tracks(dice: Dice, with_held_out: bool) -> tuple[Track, ...]:
    """Up to 6 tracks; none if fewer than 3 found a place, or none of the held-out pairs that there should be."""
    number, pairs = dice.between(*CLIP_OBJECTS), palette(dice, with_held_out)
    tracks: list[Track] = []
    for _ in range(number):
        plan, looks_like = _draw_plan(dice, pairs, tracks)
        start = _free_place(dice, plan, tracks)
        if start is not None:
            low, high = (plan.radius // 2,) * 2, (UNITS - plan.radius // 2,) * 2
            track = Track(plan, start, (0, 0), low, high, dice.between(-SWING, SWING), looks_like)
            tracks.append(_leaving(dice, track) if dice.percent(LEAVE_PERCENT) else _wandering(dice, track, tracks))
    has_held_out = any((track.plan.color, track.plan.shape) in HELD_OUT for track in tracks)
    return tuple(tracks) if len(tracks) >= CLIP_OBJECTS[0] and has_held_out == with_held_out else ()


def _draw_plan(dice: Dice, pairs: list[tuple[str, str]], tracks: list[Track]) -> tuple[Plan, int | None]:
    tilt = dice.between(-_FIRST_TILT, _FIRST_TILT)
    if tracks and dice.percent(LOOK_ALIKE_PERCENT):
        other = dice.below(len(tracks))
        plan = tracks[other].plan
        return replace(plan, size=plan.size * dice.between(92, 108) // 100, tilt=tilt), other + 1
    color, shape = dice.choice(pairs)
    return Plan(shape, color, dice.choice(PATTERNS), dice.between(SMALL[1], LARGE[1] * 5 // 6), tilt), None


def _free_place(dice: Dice, plan: Plan, tracks: list[Track]) -> tuple[int, int] | None:
    """Place (x, y) in units, apart from the other things and from the border of the image."""
    margin = plan.radius + GAP
    for _ in range(TRIES):
        x, y = dice.between(margin, UNITS - margin), dice.between(margin, UNITS - margin)
        if all((x - one.start[0]) ** 2 + (y - one.start[1]) ** 2 >= (margin + one.plan.radius) ** 2 for one in tracks):
            return x, y
    return None


def _leaving(dice: Dice, track: Track) -> Track:
    """Track that leaves the image by the nearest side, and comes back the way it went."""
    radius, (x, y) = track.plan.radius, track.start
    distance, axis, way = min((x, 0, -1), (UNITS - x, 0, 1), (y, 1, -1), (UNITS - y, 1, 1))
    step = -(-(distance + radius) // dice.between(*LEAVE_FRAMES))
    speed, low, high = [dice.between(-SPEED[0], SPEED[0])] * 2, list(track.low), list(track.high)
    speed[axis] = way * step
    wall = radius + step * dice.between(*AWAY_FRAMES)
    low[axis], high[axis] = (-wall, high[axis]) if way < 0 else (low[axis], UNITS + wall)
    return replace(track, speed=(speed[0], speed[1]), low=(low[0], low[1]), high=(high[0], high[1]))


def _wandering(dice: Dice, track: Track, tracks: list[Track]) -> Track:
    """Track to a place at which an earlier thing will be, if that is not too far, or to any place; of a track that stands still."""
    speed = track.speed
    if tracks and dice.percent(MEET_PERCENT):
        frame, other = dice.between(*MEET_FRAMES), dice.choice(tracks)
        speed = tuple((there - here) // frame for here, there in zip(track.start, other.at(frame), strict=True))
    while not SPEED[0] ** 2 <= speed[0] ** 2 + speed[1] ** 2 <= SPEED[1] ** 2:
        speed = dice.between(-SPEED[1], SPEED[1]), dice.between(-SPEED[1], SPEED[1])
    return replace(track, speed=speed)


def _reflected(value: int, low: int, high: int) -> int:
    """Position between walls at `low` and `high` of a thing that would be at `value` without them."""
    span = high - low
    way = (value - low) % (2 * span)
    return low + min(way, 2 * span - way)


def _is_there(mask: np.ndarray, plan: Plan) -> bool:
    return int(np.count_nonzero(mask)) * UNITS**2 * 100 >= LEAST_PERCENT * plan.size**2 * mask.size


@dataclass
class MovingShapesConfig(OracleConfig, DrawnConfig):
    """`num_clips` of the split, `num_frames` of a clip, the first included; `expressions`: only objects that an expression means alone in
    the first frame, which is a row too."""

    number = "num_clips"
    numbers = {"train": 200, "validation": 50, "test": 50, "unseen": 50}
    num_clips: int | None = None
    num_frames: int = NUM_FRAMES
    expressions: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.name, "num_frames", self.num_frames, 3)  # the first is given and the last is not scored


class MovingShapes(DrawnBuilder):
    """Clips as a dataset, one row per frame but the first of each clip: all objects are regions, drawn on the first frame.

    Tags, besides those of `davis`: "look_alike:2" if object 2 looks like another one, and "vanishes:2" if some frame does not show it; with
    the option `expressions` also "expression:2:attribute:the red star", and "first_frame".
    """

    BUILDER_CONFIG_CLASS = MovingShapesConfig
    summary = "drawn things that move: objects of a clip's first frame, found in the others"
    per_shard = 10

    def rows_of(self, index: int) -> Iterator[dict[str, Any]]:
        config = self.config
        clip = make_clip(config.split, index, seed=config.seed, image_size=config.image_size)
        said = single_expressions(clip.scene(config.split, config.seed, index)) if config.expressions else None
        return (row for row in rows_of_clip(clip, config.num_frames, config.visible_only, said) if row["regions"])


def rows_of_clip(clip: Clip, num_frames: int, visible_only: bool, said: Mapping[int, Expression] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of the frames 1, 2, ...

    Args:
        visible_only: regions only of objects that the frame shows; there may then be none.
        said: expressions by the number of the object; regions only of these, and the first row is that of frame 0.
    """
    frames = [clip.frame(number) for number in range(num_frames)]
    images = [encode_png(Image.fromarray(frame.image)) for frame in frames]
    rles = [{number: rle_from_bitmap(mask) for number, mask in frame.masks.items()} for frame in frames]
    prompts, image_size = rles[0], list(frames[0].image.shape[:2])
    alike = {number for index, track in enumerate(clip.tracks, 1) if track.looks_like for number in (index, track.looks_like)}
    for number in range(1 if said is None else 0, num_frames):
        shown = rles[number]
        asked = [one for one in prompts if (one in shown or not visible_only) and (said is None or one in said)]
        order = list(shown)
        tags = [object_tag(one) for one in asked] + [f"look_alike:{one}" for one in asked if one in alike]
        tags += [f"vanishes:{one}" for one in asked if any(one not in frame for frame in rles)]
        tags += [expression_tag(one, said[one].kind, said[one].text) for one in asked] if said else []
        yield {
            "image": {"bytes": images[number], "path": None},
            "image_id": f"{clip.name}/{number:05}",
            "image_size": image_size,
            "record_id": f"{clip.name}/{number:05}",
            "condition": REGION,
            "segments": [segment_entry(rle, annotation_id=one) for one, rle in shown.items()],
            "regions": [mask_entry(prompts[one], order.index(one) if one in shown else None) for one in asked],
            "region_image": {"bytes": images[0], "path": None},
            "region_image_size": image_size,
            "tags": tags + ([FIRST_FRAME] if number == 0 else [LAST_FRAME] if number == num_frames - 1 else []),
        }
