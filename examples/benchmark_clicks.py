"""Measures corrections by clicks: a simulated user clicks at the centre of the largest error, again and again. No training.

    python examples/benchmark_clicks.py                                          # psalm-tiny on drawn shapes
    python examples/benchmark_clicks.py --images 40 --clicks 5                   # quicker
    python examples/benchmark_clicks.py --dataset coco_interactive --split val --data-dir COCO     # photographs

The click is the pixel farthest from the border of what is missing (label 1) or too much (label 0), whichever is farther. The table has the
mean IoU after 1, 2, 3, ... clicks, and NoC: the mean number of clicks until an object has the IoU of --goal, --clicks for objects that
never have. These are counted by "not reached". Rules:

    one click             the first click, and no correction
    positive points       only what is missing is clicked; points are pooled
    regions               points of both labels, as find_segments uses them: what is pooled decides until a point of label 0 comes
    clicks                points of both labels, and each is also given to post_process_region_segmentation
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage

RULES = ("one click", "positive points", "regions", "clicks")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="psalm-tiny", help="folder or Hub id (default: psalm-tiny)")
    parser.add_argument("--dataset", default="shapes", choices=("shapes", "coco_interactive"), help="(default: shapes)")
    parser.add_argument("--split", default="test", help="(default: test)")
    parser.add_argument("--data-dir", help="folder of COCO")
    parser.add_argument("--images", type=int, default=500, help="at most so many (default: 500)")
    parser.add_argument("--clicks", type=int, default=20, help="at most so many for an object (default: 20)")
    parser.add_argument("--goal", type=float, default=0.85, help="IoU that is good enough (default: 0.85)")
    options = parser.parse_args(arguments)
    if min(options.images, options.clicks) < 1:
        parser.error("--images and --clicks must be at least 1")
    return options


def next_click(prediction: np.ndarray, target: np.ndarray, clicked: np.ndarray) -> tuple[int, int, int] | None:
    """Where a user clicks next: (row, column, label); None if nothing is wrong but what was clicked already.

    Args:
        prediction, target, clicked: (H, W) bool; `clicked` are the pixels of clicks before.
    """
    depths = []
    for error in (target & ~prediction, prediction & ~target):  # missing, too much
        padded = np.pad(error & ~clicked, 1)  # the border of the image is a border of the error too
        depths.append(ndimage.distance_transform_edt(padded)[1:-1, 1:-1])
    missing, excess = depths
    if missing.max() == excess.max() == 0:
        return None
    label = int(missing.max() >= excess.max())
    row, column = np.unravel_index((excess, missing)[label].argmax(), target.shape)
    return int(row), int(column), label


class Interaction:
    """One object of an encoded image, and what the network says about it for the points so far."""

    def __init__(self, model: Any, processor: Any, features: Any, prompt: dict[str, Any], target: np.ndarray):
        self.model, self.processor, self.features, self.prompt, self.target = model, processor, features, prompt, target
        self._outputs: dict[tuple, Any] = {}  # by positive points: points of label 0 change nothing in the network

    def segment(self, clicks: list[tuple[float, float, int]], rule: str) -> np.ndarray:
        """The mask (H, W) for clicks (x, y, label)."""
        size = self.target.shape
        points = tuple((x, y) for x, y, label in clicks if label)
        if points not in self._outputs:
            weights = self.processor.region_weights([{"points": points}], size)[None].to(self.model.device)
            self._outputs[points] = self.model(**self.prompt, image_features=self.features, region_weights=weights)
        is_used = rule == "clicks" or (rule == "regions" and len(points) < len(clicks))
        (found,) = self.processor.post_process_region_segmentation(
            self._outputs[points], target_sizes=[size], clicks=[[clicks]] if is_used else None
        )
        return found["masks"][0].cpu().numpy()

    def ious(self, rule: str, most: int) -> list[float]:
        """IoU after each of `most` clicks; the last one stays where nothing is left to click."""
        prediction, clicked = np.zeros_like(self.target), np.zeros_like(self.target)
        clicks: list[tuple[float, float, int]] = []
        ious: list[float] = []
        for _ in range(1 if rule == "one click" else most):
            correctable = prediction & self.target if rule == "positive points" else prediction
            click = next_click(correctable, self.target, clicked)
            if click is None:
                break
            row, column, label = click
            clicked[row, column] = True
            clicks.append((column + 0.5, row + 0.5, label))
            prediction = self.segment(clicks, rule)
            ious.append(float((prediction & self.target).sum() / (prediction | self.target).sum()))
        return ious + ious[-1:] * (most - len(ious))


def objects(options: argparse.Namespace) -> Iterator[tuple[Any, list[np.ndarray]]]:
    """Images, each with the masks of its objects."""
    from psalm_hf.data import load
    from psalm_hf.masks import bitmap_from_rle
    from psalm_hf.visualization import open_image

    if options.dataset == "shapes":
        choices = {"task": "interactive", "region_kind": "mask", "num_images": options.images}
    else:
        choices = {"kind": "mask", "data_dir": options.data_dir}
    samples = load(options.dataset, options.split, **choices)
    for index in range(min(options.images, len(samples))):
        masks = [bitmap_from_rle(segment.mask_rle) != 0 for segment in samples[index].segments]
        yield open_image(samples[index].image), [mask for mask in masks if mask.any()]


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    import torch

    from psalm_hf import PsalmForSegmentation, PsalmProcessor

    model = PsalmForSegmentation.from_pretrained(options.checkpoint, dtype="float32").eval()
    processor = PsalmProcessor.from_pretrained(options.checkpoint)
    prompt = dict(processor.encode_prompt(num_regions=1))
    ious: dict[str, list[list[float]]] = {rule: [] for rule in RULES}
    start = time.process_time()
    with torch.inference_mode():
        for image, targets in objects(options):
            features = model.get_image_features(processor.image_processor([image], return_tensors="pt")["pixel_values"])
            for target in targets:
                interaction = Interaction(model, processor, features, prompt, target)
                for rule in RULES:
                    ious[rule].append(interaction.ious(rule, options.clicks))
    shown = [number for number in (1, 2, 3, 5, 10, 20) if number <= options.clicks]
    number = len(ious[RULES[0]])
    print(f"{options.dataset} {options.split}, {number} objects, {time.process_time() - start:.0f} processor seconds")
    print("mIoU after clicks".ljust(18) + "".join(f"{count:7}" for count in shown) + f"  NoC@{100 * options.goal:.0f} not reached")
    for rule, values in ious.items():
        table = np.array(values)  # (objects, clicks)
        reached = table >= options.goal
        needed = np.where(reached.any(1), reached.argmax(1) + 1, options.clicks)
        means = "".join(f"{100 * table[:, count - 1].mean():7.1f}" for count in shown)
        print(f"{rule:18}{means} {needed.mean():7.2f} {100 * (~reached.any(1)).mean():9.1f} %")


if __name__ == "__main__":
    main()
