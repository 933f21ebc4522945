"""Draws zoom.jpg and tiles.jpg: small things by boxes without and with zoom, and a wide scene in one view and in tiles.

    python docs/pictures/draw_large_images.py [FOLDER]

Drawn by this project alone, so it is under its licence (Apache-2.0).
"""

import sys
from pathlib import Path

from PIL import Image

from psalm_hf import PsalmPredictor
from psalm_hf.data.shapes.scene import SHAPES, STUFF, make_scene
from psalm_hf.data.shapes.wide import make_wide_scene
from psalm_hf.masks import box_from_bitmap
from psalm_hf.visualization import draw_panels, draw_segmentation, label_colors

SCENE = 2  # of the split "test"
WIDE_SCENE = 0
BELOW = 0.02  # share of the image that is small
WIDTH = 1240  # pixels of a file


def draw_zoom(predictor: PsalmPredictor) -> Image.Image:
    """Draws the small things of a scene: the boxes, the first answers and those that are kept."""
    scene = make_scene("test", SCENE)
    image = Image.fromarray(scene.image)
    regions = [{"box": tuple(box_from_bitmap(thing.mask))} for thing in scene.things if thing.area < BELOW * thing.mask.size]
    panels = [draw_segmentation(image, [], [], legend=False)]
    for zoom in (None, "auto"):
        found = predictor.predict(image, regions=regions, zoom=zoom)
        labels = [f"{score:.2f}" for score in found.scores]
        panels.append(draw_segmentation(image, found.masks, labels, prompts=regions, color_by="instance", legend=False))
    return draw_panels(panels, ["the image", "boxes", 'boxes, zoom="auto"'], columns=3)


def draw_tiles(predictor: PsalmPredictor) -> Image.Image:
    """Draws a wide scene: in one view, and in tiles."""
    image = Image.fromarray(make_wide_scene("test", WIDE_SCENE).image)
    names = [*SHAPES, *STUFF]
    panels = [draw_segmentation(image, [], [], legend=False)]
    for tiles in (None, 128):
        found = predictor.predict(image, categories=names, stuff=STUFF, tiles=tiles)
        panels.append(draw_segmentation(image, found.masks, found.labels, colors=label_colors(names), legend=False))
    return draw_panels(panels, ["512 x 512 pixels", "one view of 128 x 128", "tiles of 128 x 128, and that view"], columns=3)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    loaded = PsalmPredictor.from_pretrained()
    for name, drawing in (("zoom.jpg", draw_zoom(loaded)), ("tiles.jpg", draw_tiles(loaded))):
        drawing.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
        drawing.save(folder / name, quality=60, optimize=True)
