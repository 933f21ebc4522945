"""Wide scenes of the shapes world: large images with many things of the usual size in pixels, and a few large ones.

They are what one shrunken view of a large image loses: where a usual scene of 128 pixels has things of 13 to 34 pixels, a wide scene of 512
pixels has 16 times as many of the same size, and some of four times that size, which no part of 128 pixels holds. Patterns and textures
keep their size in pixels; those of the large things are four times as large.
"""

from __future__ import annotations

from .scene import (
    LARGE,
    MAX_TILT,
    PATTERNS,
    SMALL,
    SMALL_PERCENT,
    SPLITS,
    UNITS,
    WIDE,
    Canvas,
    Dice,
    Plan,
    Scene,
    check_range,
    palette,
    place,
)

VIEW = 128  # pixels of a usual scene
THINGS_PER_VIEW = (3, 8)
LARGE_THINGS = (1, 4)


def make_wide_scene(split: str, index: int, *, seed: int = 0, image_size: int = 512) -> Scene:
    """Wide scene `index` of a split; its arguments alone decide it.

    Args:
        split: see `make_scene`; only "train", "validation" and "test".
        index: 0, 1, 2, ... without end.
        seed: another seed is another world of the same kind.
        image_size: side of the square image in pixels, a multiple of 128 from 256 to 768.

    Raises:
        ValueError: unknown split, negative index or seed, another size.
    """
    if split not in SPLITS[:3]:
        raise ValueError(f"wide scenes: unknown split {split!r}, expected one of {', '.join(SPLITS[:3])}")
    check_range("wide scenes", "index", index, 0)
    check_range("wide scenes", "seed", seed, 0)
    check_range("wide scenes", "image_size", image_size, 2 * VIEW, 6 * VIEW)
    if image_size % VIEW:
        raise ValueError(f"wide scenes: image_size must be a multiple of {VIEW}, got {image_size}")
    views = image_size // VIEW  # along a side
    dice = Dice(seed, SPLITS.index(split), index, WIDE)
    canvas = Canvas(dice, image_size, UNITS * views)
    pairs = palette(dice, with_held_out=False)

    def plan(low: int, high: int, scale: int) -> Plan:
        color, shape = dice.choice(pairs)
        tilt = dice.between(-MAX_TILT, MAX_TILT) % 256
        return Plan(shape, color, dice.choice(PATTERNS), dice.between(low, high) * scale, tilt, scale)

    for _ in range(dice.between(*LARGE_THINGS)):
        place(canvas, plan(*LARGE, views), dice)
    for _ in range(dice.between(THINGS_PER_VIEW[0] * views**2, THINGS_PER_VIEW[1] * views**2)):
        low, high = SMALL if dice.percent(SMALL_PERCENT) else (LARGE[0], LARGE[1] * 5 // 6)
        place(canvas, plan(low, high, 1), dice)
    return canvas.scene(split, seed, index)
