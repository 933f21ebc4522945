"""Draws shapes.jpg, the picture of the page on the shapes world.

    python docs/pictures/draw_shapes.py [OUTPUT]

Drawn by this project alone, so it is under its licence (Apache-2.0).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.structures import Sample
from psalm_hf.visualization import draw_segmentation

# (split, task, scene, which of its samples)
TILES = (
    ("test", "panoptic", 4, 0),
    ("test", "interactive", 4, 0),
    ("test", "referring", 5, 0),
    ("unseen", "panoptic", 1, 0),
    ("test", "referring", 2, 1),
    ("test", "referring", 10, 3),
)
COLUMNS, TILE_WIDTH = 3, 400
TARGET_COLORS = {"target": (255, 0, 160)}  # that no thing has


def draw_tile(sample: Sample, note: str) -> Image.Image:
    """One sample: its picture, its truth, what it was asked. Resized to the width of a tile."""
    masks = [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]
    labels = [sample.categories.get(segment.category_id, "target") for segment in sample.segments]
    prompts = []
    for region in sample.regions:
        kind, value = next(iter(region.as_prompt().items()))
        labels[region.segment] = region.kind
        prompts.append({kind: bitmap_from_rle(value) if region.mask_rle else value})
    colors = TARGET_COLORS if sample.expressions else None
    tile = draw_segmentation(sample.image, masks, labels, colors=colors, prompts=prompts, note=note)
    return tile.resize((TILE_WIDTH, tile.height * TILE_WIDTH // tile.width), Image.Resampling.LANCZOS)


def draw_sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Tiles in rows of three, each row as high as its highest."""
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    sheet = Image.new("RGB", (COLUMNS * TILE_WIDTH, sum(max(tile.height for tile in row) for row in rows)), (250, 250, 250))
    top = 0
    for row in rows:
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * TILE_WIDTH, top))
        top += max(tile.height for tile in row)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the contact sheet of the shapes world.")
    parser.add_argument("output", nargs="?", type=Path, default=Path(__file__).with_name("shapes.jpg"))
    arguments = parser.parse_args()
    tiles = []
    for split, task, scene, number in TILES:
        sample = ShapesStream(task, split=split).samples(scene)[number]
        asked = f'"{sample.expressions[0]}"' if sample.expressions else {"panoptic": "all things and stuff"}.get(task, "visual prompts")
        tiles.append(draw_tile(sample, f"{asked} ({split}, scene {scene})"))
    draw_sheet(tiles).save(arguments.output, quality=72, optimize=True)


if __name__ == "__main__":
    main()
