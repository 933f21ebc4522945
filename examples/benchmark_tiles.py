"""Measures tiles on wide scenes (psalm_hf.data.shapes.wide): one shrunken view of a large image against tiles and that view. No training.

    python examples/benchmark_tiles.py                                     # 512 pixels, tiles of 128, 20 images of test
    python examples/benchmark_tiles.py --tiles 128 192 256                 # several sizes of tiles
    python examples/benchmark_tiles.py --split validation                  # what the rules were chosen on
    python examples/benchmark_tiles.py --expressions 8 --tiles 128         # expressions of each image too

Panoptic quality as in `psalm evaluate`, with all categories of the shapes world; "usual" things have at most 40 x 40 pixels, as in usual
scenes, "large" ones have more, up to 136 x 136. mIoU is of task="semantic". gIoU is the mean IoU of expressions, by whether they mean
something; nothing found where nothing is meant counts 100. Seconds are processor seconds per image, and per tile, joining included.
"""

import argparse
import time
from typing import Any

import numpy as np

USUAL = 40**2  # pixels; a usual scene of 128 pixels has no larger thing


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="psalm-tiny", help="folder or Hub id (default: psalm-tiny)")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="(default: test)")
    parser.add_argument("--images", type=int, default=20, help="the first so many (default: 20)")
    parser.add_argument("--image-size", type=int, default=512, help="pixels, a multiple of 128 from 256 to 768 (default: 512)")
    parser.add_argument("--tiles", type=int, nargs="+", default=[128], metavar="PIXELS", help="along a tile (default: 128)")
    parser.add_argument("--threshold", type=float, default=0.8, help="of panoptic segments (default: 0.8)")
    parser.add_argument("--expressions", type=int, default=0, help="so many of each image (default: 0)")
    options = parser.parse_args(arguments)
    if options.images < 1:
        parser.error("--images must be at least 1")
    return options


class Measures:
    """Everything that is measured of one way to ask."""

    def __init__(self, names: list[str], things: tuple[str, ...]):
        from psalm_hf.metrics import MeanIoU, PanopticQuality

        is_thing = {number: name in things for number, name in enumerate(names, 1)}
        ranges = {"all": (0, np.inf), "usual": (0, USUAL), "large": (USUAL, np.inf)}
        self.panoptic = {name: PanopticQuality(is_thing, area_range=area) for name, area in ranges.items()}
        self.semantic = MeanIoU(len(names))
        self.ious: dict[bool, list[float]] = {True: [], False: []}
        self.seconds = 0.0

    def add_panoptic(self, result: Any, target: np.ndarray, categories: dict[int, int]) -> None:
        numbers = np.zeros(target.shape, dtype=np.int64)
        for number, mask in enumerate(result.masks, 1):
            numbers[mask] = number
        found = {number: label_id + 1 for number, label_id in enumerate(result.label_ids.tolist(), 1)}
        for metric in self.panoptic.values():
            metric.update(numbers, found, target, categories)

    def add_semantic(self, result: Any, target: np.ndarray, categories: dict[int, int]) -> None:
        labels = np.zeros(target.shape, dtype=np.int64)
        for label_id, mask in zip(result.label_ids.tolist(), result.masks, strict=True):
            labels[mask] = label_id
        table = np.array([0, *(categories[number] - 1 for number in range(1, len(categories) + 1))])  # masks cover the image
        self.semantic.update(labels, table[target])

    def add_expressions(self, result: Any, targets: list[np.ndarray]) -> None:
        found = dict(zip(result.label_ids.tolist(), result.masks, strict=True))
        for index, target in enumerate(targets):
            mask = found.get(index, np.zeros_like(target))
            union = int((mask | target).sum())
            self.ious[bool(target.any())].append(float((mask & target).sum() / union) if union else 1.0)

    def row(self, images: int, tiles: int) -> str:
        quality = self.panoptic["all"].compute()
        sizes = [self.panoptic[name].compute()["PQ-things"] for name in ("usual", "large")]
        numbers = [quality["PQ"], quality["PQ-things"], *sizes, quality["PQ-stuff"], self.semantic.compute()["mIoU"]]
        if any(self.ious.values()):
            numbers += [100 * float(np.mean(values)) if values else np.nan for values in self.ious.values()]
        return "".join(f"{number:8.1f}" for number in numbers) + f"{self.seconds / images:9.2f}" + f"{self.seconds / images / tiles:9.3f}"


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    from PIL import Image

    from psalm_hf import PsalmPredictor
    from psalm_hf.data.shapes.language import expressions
    from psalm_hf.data.shapes.scene import SHAPES, STUFF
    from psalm_hf.data.shapes.wide import make_wide_scene
    from psalm_hf.tiling import tile_windows

    predictor = PsalmPredictor.from_pretrained(options.checkpoint)
    names = [*SHAPES, *STUFF]
    ways = {None: Measures(names, SHAPES)} | {tiles: Measures(names, SHAPES) for tiles in options.tiles}
    for index in range(options.images):
        scene = make_wide_scene(options.split, index, image_size=options.image_size)
        image, size = Image.fromarray(scene.image), scene.image.shape[:2]
        masks = [(thing.mask, thing.shape) for thing in scene.things] + [(mask, name) for name, mask in scene.stuff.items()]
        target = np.zeros(size, dtype=np.int64)
        for number, (mask, _) in enumerate(masks, 1):
            target[mask] = number
        categories = {number: names.index(name) + 1 for number, (_, name) in enumerate(masks, 1)}
        said = expressions(scene, options.expressions) if options.expressions else []
        meant = [np.logical_or.reduce([np.zeros(size, dtype=bool), *(scene.things[place].mask for place in one.targets)]) for one in said]
        for tiles, measures in ways.items():
            predictor.reset_image()  # every way encodes the image
            start = time.process_time()
            result = predictor.predict(image, categories=names, stuff=STUFF, threshold=options.threshold, tiles=tiles)
            measures.seconds += time.process_time() - start
            measures.add_panoptic(result, target, categories)
            measures.add_semantic(predictor.predict(image, categories=names, task="semantic", tiles=tiles), target, categories)
            if said:
                measures.add_expressions(predictor.predict(image, expressions=[one.text for one in said], tiles=tiles), meant)
    print(f"{options.split}, {options.images} images of {options.image_size} pixels, threshold {options.threshold}")
    print(
        "tiles     number      PQ  things   usual   large   stuff    mIoU"
        + "    gIoU nothing" * bool(options.expressions)
        + "  s/image   s/tile"
    )
    for tiles, measures in ways.items():
        number = 1 if tiles is None else len(tile_windows((options.image_size,) * 2, tiles))
        print(f"{'one view' if tiles is None else tiles!s:8} {number:7}{measures.row(options.images, number)}")


if __name__ == "__main__":
    main()
