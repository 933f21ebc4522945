"""Visual prompts drawn from object masks: the point, scribble, box or mask by which a person might have meant the object.

Two sets of rules. `"paper"`: one prompt per object, from the box around it, in coordinates. `"released"`: one prompt per connected part
of more than 5 pixels, all of them in one bitmap, as in the generator that made the published COCO-Interactive files. A table of the
differences: docs/visual_prompts.md.

Pure: what is drawn depends on the mask, the seed, the annotation's id, the kind and the rules, and on nothing that was drawn before. Any
subset, order or number of processes gives the same prompts.

Points and scribbles are as drawn, not yet enlarged; the processor does that.

Source: PSALM (arXiv:2403.14598), supplement; github.com/zamling/PSALM, d5dbfda, its script that builds COCO-Interactive.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

from ..masks import box_from_bitmap, rle_from_bitmap
from ..structures import REGION_KINDS, Region, RegionKind

Rules = Literal["paper", "released"]
Points = tuple[tuple[float, float], ...]

RULES: tuple[Rules, ...] = ("paper", "released")
BOX_FACTORS = (0.9, 1.1)
SCRIBBLE_FACTORS = (0.5, 1.2)  # of the box in which a scribble runs from corner to corner
SCRIBBLE_IOU = 0.5  # of that box with the object's own
AMPLITUDE = (10.0, 20.0)  # pixels
FREQUENCY = (0.2, 1.0)  # periods from one end of the scribble to the other
BLUR = 2.0  # standard deviation in pixels
BLUR_TRUNCATE = 4  # standard deviations after which the blur ends
IGNORED_AREA = 5  # released: parts of so few pixels get no prompt
MAX_TRIES = 1000
SCRIBBLE_POINTS = 33  # paper: the polygonal line is within 0.1 pixels of the widest curve (amplitude 20, one period)


def draw_prompt(
    bitmap: np.ndarray,
    kind: RegionKind,
    *,
    seed: int,
    annotation_id: int,
    rules: Rules = "paper",
    amplitude: tuple[float, float] = AMPLITUDE,
    segment: int | None = None,
) -> Region | None:
    """One visual prompt for one object.

    Args:
        bitmap: (H, W) mask of the object at the original image size, bool or numeric; what is not zero belongs to it.
        kind: "point", "scribble", "box" or "mask".
        seed, annotation_id: not negative; with `kind` they decide every draw.
        rules: "paper": points are coordinates, at the centre of a pixel; scribbles are 33 coordinates; boxes are coordinates; masks RLE.
            "released": an RLE of the image size for every kind.
        amplitude: range of a scribble's amplitude in pixels. The rules' own suits photographs; on smaller images scale it with them.
        segment: goes into the region as it is.

    Returns:
        The region, inside of the image; None where the rules leave nothing: any kind of an empty mask; "paper": a point if the object
        has no pixel in the circle, a mask so thin that its blur stays at or below 1/2; "released": no part of more than 5 pixels, except
        for masks; a point or scribble that 1000 tries did not find for any part; boxes one pixel thin that shrank to nothing.

    Raises:
        ValueError: unknown kind or rules, bitmap that is not (H, W), a negative or fractional seed or id, an amplitude that is no range.
    """
    bitmap = _checked(bitmap, kind, seed, annotation_id, rules, amplitude)
    if not bitmap.any():
        return None
    rng = prompt_generator(seed, annotation_id, kind)
    if rules == "paper" and kind != "mask":
        points = _paper_points(bitmap, kind, rng, amplitude)
        return Region(kind, points=points, segment=segment) if points else None
    drawn = _blurred(bitmap) > 0.5 if rules == "paper" else draw_as_released(bitmap, kind, rng, amplitude)
    return Region(kind, mask_rle=rle_from_bitmap(drawn), segment=segment) if drawn.any() else None


def prompt_generator(seed: int, annotation_id: int, kind: RegionKind) -> np.random.Generator:
    """The random numbers of one prompt."""
    # The id comes last: numpy cuts large numbers (crowds of COCO) into words, which must not be mistaken for the next entry.
    return np.random.default_rng([seed, REGION_KINDS.index(kind), annotation_id])


def _paper_points(bitmap: np.ndarray, kind: RegionKind, rng: np.random.Generator, amplitude: tuple[float, float]) -> Points:
    """Coordinates (x, y) in pixels by the paper's rules, none if there is no such point; for a bitmap (H, W) bool that is not empty."""
    if kind == "point":
        return _paper_point(bitmap, rng)
    if kind == "scribble":
        return _paper_scribble(bitmap, rng, amplitude)
    return _paper_box(bitmap, rng)


def draw_as_released(
    bitmap: np.ndarray, kind: RegionKind, rng: np.random.Generator, amplitude: tuple[float, float] = AMPLITUDE
) -> np.ndarray:
    """The released generator's rules, for a bitmap (H, W) bool that is not empty; the order of the draws is the generator's too.

    Returns:
        (H, W) bool, possibly empty.
    """
    if kind == "mask":
        blurred = _blurred(bitmap)
        # A mask over the whole image is its own blur: whether rounding puts that above the mean is chance.
        return bitmap if bitmap.all() else blurred > blurred.mean()
    drawn = np.zeros_like(bitmap)
    for pixels in _parts(bitmap):
        if kind == "point":
            _add_point(drawn, bitmap, pixels, rng)
        elif kind == "scribble":
            _add_scribble(drawn, pixels, rng, amplitude)
        else:
            _add_box(drawn, pixels, rng)
    return drawn


def _checked(bitmap: np.ndarray, kind: str, seed: int, annotation_id: int, rules: str, amplitude: tuple[float, float]) -> np.ndarray:
    """The bitmap as bool."""
    name = f"annotation {annotation_id}"
    if kind not in REGION_KINDS:
        raise ValueError(f"{name}: unknown kind of visual prompt {kind!r}, expected one of {', '.join(REGION_KINDS)}")
    if rules not in RULES:
        raise ValueError(f"{name}: unknown rules {rules!r}, expected one of {', '.join(RULES)}")
    for label, number in (("seed", seed), ("annotation_id", annotation_id)):
        if not isinstance(number, (int, np.integer)) or number < 0:
            raise ValueError(f"{name}: {label} must be an integer of at least 0, got {number!r}; number what has no such id")
    low, high = amplitude
    if not 0 <= low <= high < np.inf:
        raise ValueError(f"{name}: amplitude must be (lowest, highest) in pixels, 0 <= lowest <= highest, got {amplitude}")
    bitmap = np.asarray(bitmap)
    if bitmap.ndim != 2:
        raise ValueError(f"{name}: expected a mask of shape (H, W), got shape {bitmap.shape}")
    return bitmap != 0


def _paper_point(bitmap: np.ndarray, rng: np.random.Generator) -> Points:
    """A pixel of the object, each as likely, in the circle about the box's centre whose diameter is the shorter side."""
    x0, y0, x1, y1 = box_from_bitmap(bitmap)
    rows, columns = np.nonzero(bitmap)
    x, y = columns + 0.5, rows + 0.5
    radius = min(x1 - x0, y1 - y0) / 2
    (inside,) = np.nonzero((x - (x0 + x1) / 2) ** 2 + (y - (y0 + y1) / 2) ** 2 <= radius**2)
    if not len(inside):
        return ()
    picked = inside[rng.integers(len(inside))]
    return ((float(x[picked]), float(y[picked])),)


def _paper_box(bitmap: np.ndarray, rng: np.random.Generator) -> Points:
    """The box, its width and height scaled apart about its centre, cut off at the image's border."""
    factors = np.array([rng.uniform(*BOX_FACTORS), rng.uniform(*BOX_FACTORS)])
    low, high = _scaled_box(bitmap, factors)
    return tuple(low.tolist()), tuple(high.tolist())


def _paper_scribble(bitmap: np.ndarray, rng: np.random.Generator, amplitude: tuple[float, float]) -> Points:
    """A sine across one of the two diagonals of the jittered box."""
    low, high = _scaled_box(bitmap, _jitter(rng))
    start, end = (low, high) if rng.integers(2) == 0 else (np.array([low[0], high[1]]), np.array([high[0], low[1]]))
    along = end - start
    across = np.array([-along[1], along[0]]) / np.hypot(*along)
    way = np.linspace(0, 1, SCRIBBLE_POINTS)[:, None]
    points = start + way * along + _wave(SCRIBBLE_POINTS, rng, amplitude)[:, None] * across  # (33, 2)
    # Onto the outermost pixels, not the border: a point on the far border would lie outside. Rounded, because the last bits of a
    # sine differ between processors.
    points = np.clip(points, 0.5, np.array(bitmap.shape[::-1]) - 0.5).round(3)
    return tuple(map(tuple, points.tolist()))


def _scaled_box(bitmap: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (x0, y0), (x1, y1) of the object's box, scaled by (x, y) factors about its centre and cut off at the image's border."""
    box = np.array(box_from_bitmap(bitmap), dtype=np.float64)
    center, half = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2 * factors
    return np.maximum(center - half, 0), np.minimum(center + half, bitmap.shape[::-1])


def _jitter(rng: np.random.Generator) -> np.ndarray:
    """(x, y) factors such that a box and itself scaled by them have an IoU of more than 1/2.

    That does not depend on the box, so it ends: almost four draws of five fit. Cutting off at the image's border can only raise the IoU.
    """
    while True:
        factors = np.array([rng.uniform(*SCRIBBLE_FACTORS), rng.uniform(*SCRIBBLE_FACTORS)])
        shared = np.minimum(factors, 1).prod()
        if shared > SCRIBBLE_IOU * (1 + factors.prod() - shared):
            return factors


def _wave(number: int, rng: np.random.Generator, amplitude: tuple[float, float]) -> np.ndarray:
    """(number,) displacements in pixels at equal steps along a scribble."""
    height, frequency, phase = rng.uniform(*amplitude), rng.uniform(*FREQUENCY), rng.uniform(0, 2 * np.pi)
    return height * np.sin(2 * np.pi * frequency * np.linspace(0, 1, number) + phase)


def _blurred(bitmap: np.ndarray) -> np.ndarray:
    """(H, W) float in [0, 1]: Gaussian blur, mirrored at the image's border."""
    margin = int(BLUR * BLUR_TRUNCATE)
    x0, y0, x1, y1 = box_from_bitmap(bitmap)
    window = np.s_[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin]  # all that is not 0 afterwards
    blurred = np.zeros(bitmap.shape)
    blurred[window] = ndimage.gaussian_filter(bitmap[window].astype(np.float64), BLUR, truncate=BLUR_TRUNCATE)
    return blurred


def _parts(bitmap: np.ndarray) -> list[np.ndarray]:
    """(row, column) of the pixels, (n, 2), of every connected part of more than 5 pixels; corners connect."""
    x0, y0, x1, y1 = box_from_bitmap(bitmap)
    # Labels are numbered in reading order, inside of the box as in the whole image; most objects are small.
    labels, _ = ndimage.label(bitmap[y0:y1, x0:x1], np.ones((3, 3)))
    parts = []
    for index, window in enumerate(ndimage.find_objects(labels), 1):
        pixels = np.argwhere(labels[window] == index) + [y0 + window[0].start, x0 + window[1].start]
        if len(pixels) > IGNORED_AREA:
            parts.append(pixels)
    return parts


def _bounds(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First (row, column) of a part's box, and the one behind its last."""
    return pixels.min(axis=0), pixels.max(axis=0) + 1


def _add_point(drawn: np.ndarray, bitmap: np.ndarray, pixels: np.ndarray, rng: np.random.Generator) -> None:
    """A pixel of the object near the part's centroid; near it more often than far, as rows and columns have radii of their own."""
    low, high = _bounds(pixels)
    centroid = pixels.mean(axis=0)
    radius = (high - low).min() * 0.5
    for _ in range(MAX_TRIES):
        angle = rng.uniform(0, 2 * np.pi)
        offset = np.array([rng.uniform(0, radius) * np.cos(angle), rng.uniform(0, radius) * np.sin(angle)])
        spot = tuple(np.clip((centroid + offset).astype(int), low, high - 1))
        if bitmap[spot]:
            drawn[spot] = True
            return


def _add_box(drawn: np.ndarray, pixels: np.ndarray, rng: np.random.Generator) -> None:
    """The part's box, filled, scaled by one factor for both sides; a side of one pixel that shrinks is gone."""
    low, high = _bounds(pixels)
    margin = (high - low) * (rng.uniform(*BOX_FACTORS) - 1) / 2
    top, left = np.maximum((low - margin).astype(int), 0)
    bottom, right = np.minimum((high + margin).astype(int), drawn.shape)
    drawn[top:bottom, left:right] = True


def _add_scribble(drawn: np.ndarray, pixels: np.ndarray, rng: np.random.Generator, amplitude: tuple[float, float]) -> None:
    """A digital line from corner to corner of a jittered box, whose rows are then displaced by a sine: where that is steep, it has gaps."""
    box = _jittered_box(pixels, drawn.shape, rng)
    if box is None:
        return
    corner = rng.integers(4)
    sides = np.array([corner // 2, corner % 2])  # of row and column, 0 = low, 1 = high
    line = _line(np.choose(sides, box), np.choose(1 - sides, box))  # (n, 2)
    # To float32 before the fraction is cut off, as the generator does: a row of 6.99999999 counts as 7.
    rows = (line[:, 0] + _wave(len(line), rng, amplitude)).astype(np.float32)
    height, width = drawn.shape
    drawn[np.clip(rows, 0, height - 1).astype(int), np.clip(line[:, 1], 0, width - 1)] = True


def _jittered_box(pixels: np.ndarray, image_size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Low and high (row, column) of a box about the part's centroid; None for parts whose centroid is so far from the middle of their box
    that nothing fits."""
    low, high = _bounds(pixels)
    centroid = pixels.mean(axis=0)

    def jittered() -> tuple[np.ndarray, np.ndarray]:
        half = (high - low) * np.array([rng.uniform(*SCRIBBLE_FACTORS), rng.uniform(*SCRIBBLE_FACTORS)]) / 2
        return np.maximum((centroid - half).astype(int), 0), np.minimum((centroid + half).astype(int), image_size)

    box = jittered()
    for _ in range(MAX_TRIES):
        if _box_iou(box, (low, high)) >= SCRIBBLE_IOU:
            return box
        box = jittered()
    return None


def _box_iou(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """IoU of boxes given by low and high (row, column), BOTH taken to belong to the box."""
    shared = np.maximum(np.minimum(one[1], other[1]) - np.maximum(one[0], other[0]) + 1, 0).prod()
    total = sum((high - low + 1).prod() for low, high in (one, other))
    return float(shared / (total - shared))


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(n, 2) integers from start to end, both included: one per step of the longer axis, the other axis rounded, halves away from start."""
    way = end - start
    steps = np.abs(way).max()
    step = np.arange(steps + 1)[:, None]
    return start + np.sign(way) * ((2 * np.abs(way) * step + steps) // (2 * max(steps, 1)))  # 1: a line may be a single pixel
