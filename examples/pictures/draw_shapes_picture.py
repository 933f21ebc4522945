"""Draws shapes.png, the picture that `psalm segment` uses when it is given none: a scene of the shapes world that training never sees.

    python examples/pictures/draw_shapes_picture.py [OUTPUT --split unseen --scene 7]

Drawn by this project alone, so it is under its licence (Apache-2.0).
"""

import argparse
from pathlib import Path

SPLITS = ("validation", "test", "unseen")


def draw_shapes_picture(split: str, scene: int):
    """The scene, RGB, 128 x 128."""
    from PIL import Image

    from psalm_hf.data.shapes.scene import make_scene

    return Image.fromarray(make_scene(split, scene).image)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=Path(__file__).with_name("shapes.png"))
    parser.add_argument("--split", choices=SPLITS, default="test", help='"unseen" has pairs of colour and shape that training never shows')
    parser.add_argument("--scene", type=int, default=41, help="0, 1, 2, ... without end (default: 41)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    draw_shapes_picture(options.split, options.scene).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
