"""Measures zoom="auto" on small things of drawn scenes: the first answer, the one that is kept, and the better of the two. No training.

    python examples/benchmark_zoom.py                                      # boxes, 500 images of test
    python examples/benchmark_zoom.py --kinds point scribble mask expression --images 250
    python examples/benchmark_zoom.py --split validation --images 250      # what the rule was chosen on

Prompts are those of the benchmark shapes: for regions every thing whose visible part is below --below of the image has one, and of
expressions those that mean one such thing. "Better of the two" knows the target: no rule can reach more with these answers.
Numbers are mean IoU in percent, and processor seconds per image.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

KINDS = ("box", "point", "scribble", "mask", "expression")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="psalm-tiny", help="folder or Hub id (default: psalm-tiny)")
    parser.add_argument("--kinds", nargs="+", default=["box"], choices=KINDS, help="(default: box)")
    parser.add_argument("--split", default="test", choices=("validation", "test", "unseen"), help="(default: test)")
    parser.add_argument("--images", type=int, default=500, help="the first so many (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="number of the first image (default: 0)")
    parser.add_argument("--below", type=float, default=0.02, help="share of the image that is small (default: 0.02)")
    options = parser.parse_args(arguments)
    if options.images < 1 or options.first < 0:
        parser.error("--images must be at least 1, and --first at least 0")
    return options


def questions(kind: str, split: str, index: int, below: float) -> Iterator[tuple[Any, dict[str, Any], list[np.ndarray]]]:
    """Yields the image of one scene, a prompt about its small things, and the mask of each; nothing where there are none."""
    from psalm_hf.data.shapes.stream import ShapesStream
    from psalm_hf.masks import bitmap_from_rle

    if kind == "expression":
        samples = ShapesStream(task="referring", split=split).samples(index)
        asked = [(sample.expressions[0], sample.segments[0]) for sample in samples if len(sample.segments) == 1]
    else:
        samples = ShapesStream(task="interactive", split=split, region_kind=kind).samples(index)
        asked = [(region.as_prompt(), samples[0].segments[region.segment]) for region in samples[0].regions]
    pairs = [(prompt, bitmap_from_rle(segment.mask_rle) != 0) for prompt, segment in asked]
    pairs = [(prompt, target) for prompt, target in pairs if 0 < target.sum() < below * target.size]
    if pairs:
        name = "expressions" if kind == "expression" else "regions"
        yield samples[0].image, {name: [prompt for prompt, _ in pairs]}, [target for _, target in pairs]


def iou(mask: np.ndarray, target: np.ndarray) -> float:
    return float((mask & target).sum() / (mask | target).sum())


def masks_of(result: Any, number: int) -> list[np.ndarray]:
    """The mask of each prompt; without a pixel, where an expression means nothing."""
    found = dict(zip(result.label_ids.tolist(), result.masks, strict=True))
    nothing = np.zeros(result.masks.shape[1:], dtype=bool)
    return [found.get(index, nothing) for index in range(number)]


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    from psalm_hf import PsalmPredictor

    predictor = PsalmPredictor.from_pretrained(options.checkpoint)
    print(f"{options.split}, images {options.first} to {options.first + options.images - 1}, things below {options.below:.1%} of the image")
    print("prompt       things  plain   zoom  better of the two   plain s  zoom s")
    for kind in options.kinds:
        ious: list[list[float]] = [[], []]
        seconds, images = [0.0, 0.0], 0
        for index in range(options.first, options.first + options.images):
            for image, prompt, targets in questions(kind, options.split, index, options.below):
                images += 1
                for place, zoom in enumerate((None, "auto")):
                    predictor.reset_image()  # both encode the image
                    start = time.process_time()
                    result = predictor.predict(image, zoom=zoom, **prompt)
                    seconds[place] += time.process_time() - start
                    ious[place] += [iou(*pair) for pair in zip(masks_of(result, len(targets)), targets, strict=True)]
        if not images:
            print(f"{kind:12} no such things")
            continue
        plain, zoomed = np.array(ious)
        means = [100 * values.mean() for values in (plain, zoomed, np.maximum(plain, zoomed))]
        costs = [value / images for value in seconds]
        print(f"{kind:12} {len(plain):6} {means[0]:6.1f} {means[1]:6.1f} {means[2]:18.1f} {costs[0]:9.2f} {costs[1]:7.2f}", flush=True)


if __name__ == "__main__":
    main()
