"""Draws village.png, a picture of the size of a photograph: for `benchmark.py`, and for the page on visual prompts.

    python examples/pictures/draw_village.py [OUTPUT]

Drawn by this script alone, so it belongs to this project and is under its licence (Apache-2.0).
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 640, 448
SUPERSAMPLING = 3  # drawn larger and reduced, for smooth edges


def draw_village() -> Image.Image:
    """The scene, RGB, 640 x 448."""
    scene = vertical_gradient((92, 160, 220), (206, 230, 245))
    pen = ScaledPen(scene)
    pen.ellipse((520, 36, 584, 100), "#ffd84a")
    for x, y in ((92, 74), (330, 48)):
        for dx, dy, radius in ((-34, 6, 20), (-8, -6, 28), (24, 2, 24), (48, 10, 16)):
            pen.ellipse((x + dx - radius, y + dy - radius, x + dx + radius, y + dy + radius), "#f6f9fc")
    pen.polygon([(-20, 270), (120, 128), (210, 214), (300, 150), (460, 270)], "#7d8fb3")  # mountains
    pen.polygon([(120, 128), (96, 152), (118, 164), (134, 152), (148, 156)], "#eef2f8")
    pen.ellipse((-160, 216, 420, 520), "#7fb35a")  # hills
    pen.ellipse((240, 226, 860, 560), "#69a24c")
    pen.polygon([(-10, 352), (650, 330), (650, 418), (-10, 430)], "#6b6d73")  # road
    for x in range(0, 640, 80):
        pen.polygon([(x, 391 - x * 0.017), (x + 40, 390 - x * 0.017), (x + 40, 395 - x * 0.017), (x, 396 - x * 0.017)], "#f2efe2")
    pen.ellipse((404, 272, 612, 324), "#4f9fd0")  # pond
    pen.ellipse((430, 282, 540, 300), "#7dbbe0")
    draw_house(pen)
    draw_tree(pen, 64, 330, 1.0)
    draw_tree(pen, 372, 292, 0.62)
    draw_car(pen)
    draw_duck(pen)
    return scene.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def draw_house(pen: "ScaledPen") -> None:
    pen.polygon([(168, 226), (318, 226), (318, 334), (168, 334)], "#f1e3c6")
    pen.polygon([(150, 230), (243, 158), (336, 230)], "#b5432f")
    pen.polygon([(284, 166), (302, 166), (302, 210), (284, 196)], "#8a4b3c")
    pen.polygon([(226, 268), (260, 268), (260, 334), (226, 334)], "#6d4a2f")
    for x in (182, 274):
        pen.polygon([(x, 252), (x + 32, 252), (x + 32, 284), (x, 284)], "#4b6c8c")
        pen.polygon([(x + 14, 252), (x + 18, 252), (x + 18, 284), (x + 14, 284)], "#ffffff")


def draw_tree(pen: "ScaledPen", x: float, y: float, size: float) -> None:
    pen.polygon([(x - 9 * size, y), (x + 9 * size, y), (x + 6 * size, y - 70 * size), (x - 6 * size, y - 70 * size)], "#7a5230")
    for dx, dy, radius in ((-26, -84, 32), (26, -86, 32), (0, -118, 38), (-4, -84, 30)):
        left, top = x + (dx - radius) * size, y + (dy - radius) * size
        pen.ellipse((left, top, left + 2 * radius * size, top + 2 * radius * size), "#2f7d3b")


def draw_car(pen: "ScaledPen") -> None:
    pen.polygon([(404, 352), (424, 318), (500, 316), (528, 348)], "#cf2d2d")
    pen.polygon([(420, 348), (431, 325), (458, 324), (458, 347)], "#cfe4f2")
    pen.polygon([(466, 347), (466, 324), (495, 323), (514, 346)], "#cfe4f2")
    pen.polygon([(380, 352), (396, 346), (540, 344), (566, 354), (566, 384), (380, 386)], "#cf2d2d")
    pen.polygon([(550, 356), (566, 358), (566, 366), (552, 366)], "#fff1a8")
    for x in (418, 528):
        pen.ellipse((x - 21, 366, x + 21, 408), "#23242a")
        pen.ellipse((x - 9, 378, x + 9, 396), "#b9bdc6")


def draw_duck(pen: "ScaledPen") -> None:
    pen.ellipse((476, 280, 522, 306), "#fbfbf4")
    pen.polygon([(474, 276), (496, 290), (482, 298)], "#fbfbf4")
    pen.ellipse((506, 262, 528, 284), "#fbfbf4")
    pen.polygon([(526, 270), (540, 274), (526, 278)], "#f08a24")
    pen.ellipse((517, 268, 521, 272), "#202020")


class ScaledPen:
    """Draws in the coordinates of the final picture on the enlarged one."""

    def __init__(self, scene: Image.Image):
        self.drawing = ImageDraw.Draw(scene)

    def polygon(self, points: list[tuple[float, float]], fill: str) -> None:
        self.drawing.polygon([(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points], fill=fill)

    def ellipse(self, box: tuple[float, float, float, float], fill: str) -> None:
        self.drawing.ellipse([value * SUPERSAMPLING for value in box], fill=fill)


def vertical_gradient(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Image.Image:
    size = WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING
    fade = Image.linear_gradient("L").resize(size)  # 0 at the top, 255 at the bottom
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), fade).filter(ImageFilter.BoxBlur(2))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=Path(__file__).with_name("village.png"))
    output = parser.parse_args(arguments).output
    draw_village().save(output, optimize=True)


if __name__ == "__main__":
    main()
