"""Times PQ, mIoU and J&F against a straightforward way to compute each, on the same images, and checks that the numbers are the same.

    python examples/benchmark_metrics.py                  # a minute
    python examples/benchmark_metrics.py --images 20 --repeats 9

The straightforward way takes the definitions one image at a time, with a bitmap for every segment, class or object, and dilates contours
by a disk. Images are drawn: ellipses as target, the same ones moved and deformed as prediction. Both ways get the same arrays in memory,
so that reading files and decoding RLE is not timed. Medians of repeats that take turns.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SIZES = ((480, 854), (480, 640))  # height, width
SEGMENTS, CLASSES, OBJECTS = 24, 133, 4  # of a panoptic image, of a vocabulary, of a video
THINGS = 80  # the first classes
VOID = 0
IGNORED = 255


class Case(NamedTuple):
    """Row of the table; both ways give the same numbers, by name."""

    name: str
    size: tuple[int, int]
    reference: Callable[[], dict[str, float]]
    ours: Callable[[], dict[str, float]]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6, help="images, or frames of a video, of each size (default 6)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs after one warm-up (default 5); medians are printed")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn images (default 0)")
    options = parser.parse_args(arguments)
    for name in ("images", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    return options


# Images.


def draw_pair(rng: np.random.Generator, size: tuple[int, int], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Target and prediction: (H, W) int64, values 1 .. number of ellipses that cover each other, 0 = none."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    maps = [np.zeros(size, dtype=np.int64) for _ in range(2)]
    for value in range(1, number + 1):
        centre = rng.uniform(0, 1, 2) * size
        axes = rng.uniform(0.08, 0.3, 2) * height
        for index, painted in enumerate(maps):
            (cy, cx), (ay, ax) = centre + index * rng.normal(0, 4, 2), axes * (1 + index * rng.normal(0, 0.04, 2))
            painted[((y - cy) / ay) ** 2 + ((x - cx) / ax) ** 2 < 1] = value
    return maps[0], maps[1]


def panoptic_pair(rng: np.random.Generator, size: tuple[int, int]) -> tuple:
    """Arguments of an update of `PanopticQuality`: some segments have another category than the target, one is a crowd."""
    target, predicted = draw_pair(rng, size, SEGMENTS)
    categories = {value: int(rng.integers(CLASSES)) for value in range(1, SEGMENTS + 1)}
    guessed = {value: category if rng.random() < 0.8 else int(rng.integers(CLASSES)) for value, category in categories.items()}
    shown, present = np.unique(target).tolist(), np.unique(predicted).tolist()
    categories = {value: categories[value] for value in shown if value != VOID}
    guessed = {value: guessed[value] for value in present if value != VOID}
    return predicted, guessed, target, categories, [next(iter(categories))]


def semantic_pair(rng: np.random.Generator, size: tuple[int, int]) -> tuple:
    """Prediction and target, (H, W) uint8 as in PNG files; pixels that no ellipse covers are ignored in the target."""
    target, predicted = draw_pair(rng, size, SEGMENTS)
    classes = rng.integers(CLASSES, size=SEGMENTS + 1).astype(np.uint8)
    return classes[predicted], np.where(target == 0, IGNORED, classes[target]).astype(np.uint8)


# The straightforward way.


def reference_panoptic(images: list[tuple]) -> dict[str, float]:
    """PQ, SQ and RQ by their definition, with a bitmap per segment."""
    matched, false, missed = ({category: [] for category in range(CLASSES)} for _ in range(3))
    for predicted, guessed, target, categories, crowds in images:
        found = {value: predicted == value for value in guessed}
        true = {value: target == value for value in categories}
        void = target == VOID
        taken = set()
        for value, mask in found.items():
            category, area = guessed[value], np.count_nonzero(mask)
            partners = [other for other in true if categories[other] == category]
            for other in partners:
                common = np.count_nonzero(mask & true[other])
                union = area + np.count_nonzero(true[other]) - common - np.count_nonzero(mask & void)
                if other not in crowds and common / union > 0.5:
                    matched[category].append(common / union)
                    taken |= {("found", value), ("true", other)}
            excused = void.copy()
            for crowd in crowds:
                if crowd in partners:
                    excused |= true[crowd]
            if ("found", value) not in taken and np.count_nonzero(mask & excused) / area <= 0.5:
                false[category].append(value)
        for other in true:
            if ("true", other) not in taken and other not in crowds:
                missed[categories[other]].append(other)
    rows = []
    for category in range(CLASSES):
        total, number = math.fsum(matched[category]), len(matched[category])
        whole = number + (len(false[category]) + len(missed[category])) / 2
        if whole:
            rows.append((total / whole, total / number if number else 0.0, number / whole))
    return {name: 100 * math.fsum(values) / len(rows) for name, values in zip(("PQ", "SQ", "RQ"), zip(*rows, strict=True), strict=True)}


def reference_semantic(images: list[tuple]) -> dict[str, float]:
    """mIoU by its definition, with a bitmap per class."""
    common, true, found = (np.zeros(CLASSES, dtype=np.int64) for _ in range(3))
    for predicted, target in images:
        counted = target != IGNORED
        for label in range(CLASSES):
            is_true, is_found = target == label, (predicted == label) & counted
            common[label] += np.count_nonzero(is_true & is_found)
            true[label] += np.count_nonzero(is_true)
            found[label] += np.count_nonzero(is_found)
    present = true > 0
    return {"mIoU": float(100 * (common[present] / (true + found - common)[present]).mean())}


def reference_contour(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels that differ from the one to the right, below, or both."""
    contour = np.zeros_like(mask)
    contour[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    contour[:-1] |= mask[:-1] ^ mask[1:]
    contour[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return contour


def reference_f(predicted: np.ndarray, target: np.ndarray) -> float:
    """F by its definition: contours dilated by a disk."""
    from scipy.ndimage import binary_dilation

    radius = math.ceil(0.008 * math.hypot(*target.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x**2 + y**2 <= radius**2
    contours = [reference_contour(mask) for mask in (predicted, target)]
    if not contours[0].any() or not contours[1].any():
        return float(contours[0].any() == contours[1].any())
    precision, recall = (
        np.count_nonzero(own & binary_dilation(other, disk)) / np.count_nonzero(own) for own, other in (contours, contours[::-1])
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def reference_video(frames: list[tuple]) -> dict[str, float]:
    """J&F by its definition, with bitmaps of each object."""
    js, fs = [], []
    for value in range(1, OBJECTS + 1):
        pairs = [(predicted == value, target == value) for predicted, target in frames]
        unions = [(np.count_nonzero(mask & other), np.count_nonzero(mask | other)) for mask, other in pairs]
        js.append(math.fsum(common / union if union else 1.0 for common, union in unions) / len(frames))
        fs.append(math.fsum(reference_f(mask, other) for mask, other in pairs) / len(frames))
    return {"J-Mean": 100 * math.fsum(js) / OBJECTS, "F-Mean": 100 * math.fsum(fs) / OBJECTS}


# Ours.


def updated(metric, updates: list[tuple]) -> dict[str, float]:
    for arguments in updates:
        metric.update(*arguments)
    return metric.compute()


def cases(images: int, seed: int) -> list[Case]:
    from psalm_hf.metrics import MeanIoU, PanopticQuality, VideoObjects, contour_accuracy

    is_thing = {category: category < THINGS for category in range(CLASSES)}
    rows = []
    for size in SIZES:
        rng = np.random.default_rng(seed)
        panoptic = [panoptic_pair(rng, size) for _ in range(images)]
        semantic = [semantic_pair(rng, size) for _ in range(images)]
        frames = [(predicted, target) for target, predicted in (draw_pair(rng, size, OBJECTS) for _ in range(images))]
        video = [("drawn", number, *frame, range(1, OBJECTS + 1)) for number, frame in enumerate(frames)]
        masks = [(predicted == 1, target == 1) for predicted, target in frames]
        rows += [
            Case("PQ", size, lambda of=panoptic: reference_panoptic(of), lambda of=panoptic: updated(PanopticQuality(is_thing), of)),
            Case("mIoU", size, lambda of=semantic: reference_semantic(of), lambda of=semantic: updated(MeanIoU(CLASSES, IGNORED), of)),
            Case("J&F", size, lambda of=frames: reference_video(of), lambda of=video: updated(VideoObjects(), of)),
            Case("F alone", size, lambda of=masks: listed(reference_f, of), lambda of=masks: listed(contour_accuracy, of)),
        ]
    return rows


def listed(function: Callable[[np.ndarray, np.ndarray], float], pairs: list[tuple]) -> dict[str, float]:
    return {f"frame {number}": function(*pair) for number, pair in enumerate(pairs)}


def compare(case: Case, repeats: int) -> tuple[float, float]:
    """Median seconds of the straightforward way and of ours.

    Raises:
        RuntimeError: the numbers differ.
    """
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        results = []
        for way, times in zip((case.reference, case.ours), seconds, strict=True):
            start = time.perf_counter()
            results.append(way())
            times.append(time.perf_counter() - start)
    expected, got = results
    for name, value in expected.items():
        if not math.isclose(value, got[name], rel_tol=0, abs_tol=1e-9):
            raise RuntimeError(
                f"{case.name}, {case.size[0]} x {case.size[1]}: {name} is {got[name]}, but the straightforward way has {value}"
            )
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])  # the first run warms caches up


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    print(f"milliseconds per image (of J&F: per frame with {OBJECTS} objects), median of {options.repeats} runs over {options.images}")
    print(f"{'':<10}{'size':>12}{'straightforward':>18}{'psalm_hf':>12}{'speed-up':>11}")
    for case in cases(options.images, options.seed):
        reference, ours = (1000 * seconds / options.images for seconds in compare(case, options.repeats))
        size = f"{case.size[0]} x {case.size[1]}"
        print(f"{case.name:<10}{size:>12}{reference:>18.2f}{ours:>12.2f}{reference / ours:>10.1f}x")


if __name__ == "__main__":
    sys.exit(main())
