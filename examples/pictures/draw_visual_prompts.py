"""Draws docs/pictures/visual_prompts.png: visual prompts for the car of village.png, three draws of each kind, by both sets of rules.

    python examples/pictures/draw_visual_prompts.py [OUTPUT]

Made from village.png and the script that drew it, so it belongs to this project and is under its licence (Apache-2.0).
"""

import argparse
from pathlib import Path

import numpy as np
from draw_village import HEIGHT, SUPERSAMPLING, WIDTH, ScaledPen, draw_car
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from psalm_hf.data.visual_prompts import RULES, Rules, draw_prompt
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.model.regions import region_mask
from psalm_hf.structures import REGION_KINDS, RegionKind

OUTPUT = Path(__file__).parents[2] / "docs" / "pictures" / "visual_prompts.png"
WINDOW = np.s_[298:426, 362:586]  # rows and columns of village.png around the car
ZOOM = 2
SEED = 4
COLORS = ((0, 114, 178), (230, 159, 0), (204, 121, 167))  # one per draw
TITLE_HEIGHT, GAP = 34, 8


def draw_panels() -> Image.Image:
    """A row of panels for each set of rules, a column for each kind of prompt."""
    panels = [[draw_panel(kind, rules) for kind in REGION_KINDS] for rules in RULES]
    width, height = panels[0][0].width + GAP, panels[0][0].height + TITLE_HEIGHT
    canvas = Image.new("RGB", (width * len(REGION_KINDS) - GAP, height * len(RULES)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=20)
    for row, rules in enumerate(RULES):
        for column, kind in enumerate(REGION_KINDS):
            pen.text((column * width + 4, row * height + 5), f"{kind}, {rules} rules", fill="black", font=font)
            canvas.paste(panels[row][column], (column * width, row * height + TITLE_HEIGHT))
    return canvas.quantize(128, dither=Image.Dither.NONE)


def draw_panel(kind: RegionKind, rules: Rules) -> Image.Image:
    """The car in a pale scene, and over it the pixels that each prompt covers once the processor has enlarged it."""
    car = car_mask()
    scene = Image.open(Path(__file__).with_name("village.png")).convert("RGB")
    pixels, inside = zoomed(np.asarray(scene, dtype=np.float64)), zoomed(car)
    pixels[~inside] = 255 - 0.4 * (255 - pixels[~inside])
    colors = COLORS[:1] if kind == "mask" else COLORS  # a mask is the same in every draw
    shapes = [zoomed(covered_pixels(car, kind, rules, draw)) for draw in range(len(colors))]
    for shape, color in zip(shapes, colors, strict=True):
        pixels[shape] += (0.15 if kind == "box" else 0.6) * (np.array(color) - pixels[shape])
    for shape, color in zip(shapes, colors, strict=True):
        pixels[shape & ~ndimage.binary_erosion(shape, iterations=ZOOM + 1)] = color
    return Image.fromarray(pixels.round().astype(np.uint8))


def covered_pixels(mask: np.ndarray, kind: RegionKind, rules: Rules, draw: int) -> np.ndarray:
    """(H, W) bool: what the processor makes of a prompt."""
    region = draw_prompt(mask, kind, seed=SEED, annotation_id=draw, rules=rules)
    if region.mask_rle is None:
        return region_mask(region.as_prompt(), mask.shape, kind)
    bitmap = bitmap_from_rle(region.mask_rle)
    return region_mask({"mask" if kind == "box" else kind: bitmap}, mask.shape, kind)  # a box that is a bitmap is used as it is


def car_mask() -> np.ndarray:
    """(H, W) bool of village.png: nothing in the car is black, so it is what shows of a car drawn on black."""
    scene = Image.new("RGB", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING))
    draw_car(ScaledPen(scene))
    return np.asarray(scene.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)).max(axis=2) > 16


def zoomed(array: np.ndarray) -> np.ndarray:
    return array[WINDOW].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    draw_panels().save(parser.parse_args(arguments).output, optimize=True)


if __name__ == "__main__":
    main()
