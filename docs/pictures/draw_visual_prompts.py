"""Draws visual_prompts.png: visual prompts for one thing of the shapes world, three draws of each kind, by both sets of rules.

    python docs/pictures/draw_visual_prompts.py [OUTPUT]

Drawn by this project alone, so it is under its licence (Apache-2.0).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from psalm_hf.data.shapes.scene import make_scene
from psalm_hf.data.visual_prompts import RULES, Rules, draw_prompt
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.model.regions import region_mask
from psalm_hf.structures import REGION_KINDS, RegionKind

SCENE, SHAPE = 19, "triangle"  # of the split "test"
WIDTH, HEIGHT, ZOOM = 224, 190, 2  # of the window around the thing, in pixels; and how much it is enlarged
SEED = 4
COLORS = ((0, 114, 178), (230, 159, 0), (204, 121, 167))  # one per draw
TITLE_HEIGHT, GAP = 34, 8


def draw_panels(image: np.ndarray, mask: np.ndarray) -> Image.Image:
    """Draws a row of panels for each set of rules, a column for each kind of prompt."""
    width, height = WIDTH * ZOOM + GAP, HEIGHT * ZOOM + TITLE_HEIGHT
    canvas = Image.new("RGB", (width * len(REGION_KINDS) - GAP, height * len(RULES)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=20)
    for row, rules in enumerate(RULES):
        for column, kind in enumerate(REGION_KINDS):
            pen.text((column * width + 4, row * height + 5), f"{kind}, {rules} rules", fill="black", font=font)
            canvas.paste(draw_panel(image, mask, kind, rules), (column * width, row * height + TITLE_HEIGHT))
    return canvas.quantize(128, dither=Image.Dither.NONE)


def draw_panel(image: np.ndarray, mask: np.ndarray, kind: RegionKind, rules: Rules) -> Image.Image:
    """Draws the thing in a pale scene, and over it the pixels that each prompt covers once the processor has enlarged it."""
    rows, columns = np.nonzero(mask)
    top, left = (max(0, int(values.mean()) - side // 2) for values, side in ((rows, HEIGHT), (columns, WIDTH)))

    def zoomed(array: np.ndarray) -> np.ndarray:
        return array[top : top + HEIGHT, left : left + WIDTH].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)

    pixels, inside = zoomed(image.astype(np.float64)), zoomed(mask)
    pixels[~inside] = 255 - 0.4 * (255 - pixels[~inside])
    colors = COLORS[:1] if kind == "mask" else COLORS  # a mask is the same in every draw
    shapes = [zoomed(covered_pixels(mask, kind, rules, draw)) for draw in range(len(colors))]
    for shape, color in zip(shapes, colors, strict=True):
        pixels[shape] += (0.15 if kind == "box" else 0.6) * (np.array(color) - pixels[shape])
    for shape, color in zip(shapes, colors, strict=True):
        pixels[shape & ~ndimage.binary_erosion(shape, iterations=ZOOM + 1)] = color
    return Image.fromarray(pixels.round().astype(np.uint8))


def covered_pixels(mask: np.ndarray, kind: RegionKind, rules: Rules, draw: int) -> np.ndarray:
    """Pixels (H, W) bool that the processor makes of a prompt."""
    region = draw_prompt(mask, kind, seed=SEED, annotation_id=draw, rules=rules)
    if region.mask_rle is None:
        return region_mask(region.as_prompt(), mask.shape, kind)
    bitmap = bitmap_from_rle(region.mask_rle)
    return region_mask({"mask" if kind == "box" else kind: bitmap}, mask.shape, kind)  # a box that is a bitmap is used as it is


if __name__ == "__main__":
    scene = make_scene("test", SCENE, image_size=640)
    thing = next(thing for thing in scene.things if thing.shape == SHAPE)
    output = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("visual_prompts.png")
    draw_panels(scene.image, thing.mask).save(output, optimize=True)
