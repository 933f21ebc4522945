"""Options of a prompt, which the verbs that segment images share: reading them, and what is asked where none is given."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..spelling import did_you_mean
from .command import say

# Name -> fused into one segment (stuff). The first list is what psalm-tiny knows, the second is a start for any photo.
SHAPES_CATEGORIES = {
    "circle": False, "square": False, "triangle": False, "star": False, "cross": False, "ring": False, "diamond": False, "moon": False,
    "grass": True, "sand": True, "water": True, "brick": True,
}  # fmt: skip
GENERAL_CATEGORIES = {
    "person": False, "animal": False, "vehicle": False, "furniture": False, "food": False,
    "building": True, "plant": True, "road": True, "floor": True, "wall": True, "water": True, "sky": True,
}  # fmt: skip


def add_prompt_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `read_prompt` reads: categories, expressions, regions, and their thresholds."""
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="what to look for; names of several words in quotes")
    parser.add_argument("--stuff", nargs="+", metavar="NAME", default=[], help="categories whose segments are fused into one (panoptic)")
    parser.add_argument("--task", choices=("panoptic", "semantic", "instance"), help="what to do with --categories (default: panoptic)")
    parser.add_argument("--expression", action="append", dest="expressions", default=[], metavar="TEXT", help="may be repeated")
    parser.add_argument("--instances", action="store_true", help="every instance of an --expression by itself, not all in one mask")
    parser.add_argument("--point", action=AddRegion, type=numbers(2), metavar="X,Y", help="regions may be repeated and mixed")
    parser.add_argument("--box", action=AddRegion, type=numbers(4), metavar="X0,Y0,X1,Y1")
    parser.add_argument("--scribble", action=AddRegion, type=numbers(2), nargs="+", metavar="X,Y", help="a line through the points")
    parser.add_argument("--mask", action=AddRegion, type=Path, metavar="FILE", help="image whose pixels above 0 are the prompt")
    parser.add_argument(
        "--negative-point",
        action=AddNegativePoint,
        type=numbers(2),
        metavar="X,Y",
        help="does not belong to the region before it; may be repeated",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="least score of a segment (default: panoptic 0.8, instance 0.5, expressions what the checkpoint carries or the best one)",
    )
    parser.add_argument(
        "--no-target-threshold",
        type=float,
        help="an expression means nothing unless a mask scores above it (default: what the checkpoint carries)",
    )
    parser.add_argument("--mask-threshold", type=float, default=0.5, help="least probability of a mask's pixel (default: 0.5)")
    parser.add_argument(
        "--zoom",
        choices=("auto",),
        help="what is small is asked again in enlarged crops; with regions and --expression, see docs/large_images.md",
    )
    parser.add_argument(
        "--tiles",
        type=tiles,
        metavar="PIXELS",
        help="a large image is asked in overlapping tiles too: pixels along a tile, or ROWSxCOLUMNS; with --categories and --expression",
    )
    parser.set_defaults(regions=[])


def check_prompt_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    given = [name for name in ("categories", "expressions", "regions") if getattr(options, name)]
    if len(given) > 1:
        parser.error(f"give one kind of prompt a call, not {' and '.join(given)}")
    check_category_names(parser, options.categories or ())
    if given != ["categories"] and options.stuff:
        parser.error("--stuff goes with --categories")
    if unknown := [name for name in options.stuff if name not in options.categories]:
        parser.error(
            f"--stuff: {', '.join(unknown)} not among the --categories {', '.join(options.categories)}"
            + did_you_mean(unknown[0], options.categories)
        )
    if options.instances and not options.expressions:
        parser.error("--instances goes with --expression")
    if options.no_target_threshold is not None and not options.expressions:
        parser.error("--no-target-threshold goes with --expression")
    if options.task and (options.expressions or options.regions):
        parser.error("--task goes with --categories")
    if options.threshold is not None and (options.task == "semantic" or options.regions):
        parser.error("--threshold: a semantic map and regions have none, they take the best")
    if options.task == "semantic" and options.mask_threshold != parser.get_default("mask_threshold"):
        parser.error("--mask-threshold: a semantic map has none, every pixel gets the best category")
    if options.zoom and (not (options.expressions or options.regions) or options.instances):
        parser.error("--zoom goes with regions, or with --expression without --instances; categories of a large image take --tiles")
    if options.tiles and options.regions:
        parser.error("--tiles goes with --categories and --expression; small regions take --zoom auto")
    if options.tiles and options.zoom:
        parser.error("--tiles shows all of the image as large as --zoom would; give one of the two")


def check_category_names(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Refuses names with commas between them, which would become parts of the names. Commas inside of one of several names stay."""
    if len(names) == 1 and "," in names[0]:
        apart = shlex.join(part.strip() for part in names[0].split(",") if part.strip())
        parser.error(f"--categories has one name, {names[0]!r}; names stand apart, without commas: {apart}")
    bare = [name.strip(", ") for name in names]
    if wrong := [name for name, without in zip(names, bare, strict=True) if name.strip() != without]:
        parser.error(f"--categories has the name {wrong[0]!r}; names stand apart, without commas: {shlex.join(filter(None, bare))}")


def read_prompt(options: argparse.Namespace, *, is_shapes: bool) -> dict[str, Any]:
    """The prompt of the command line, as `PsalmPredictor.predict` takes it.

    Args:
        is_shapes: without a prompt, look for what psalm-tiny knows, else for what photographs show.
    """
    chosen = {"threshold": options.threshold, "mask_threshold": options.mask_threshold}
    chosen |= {name: getattr(options, name) for name in ("zoom", "tiles") if getattr(options, name) is not None}
    if options.expressions:
        thresholds = {"no_target_threshold": options.no_target_threshold, **chosen}
        return {"expressions": options.expressions, "instances": options.instances, **thresholds}
    if options.regions:
        return {"regions": options.regions, **chosen}
    chosen["task"] = options.task or "panoptic"
    if options.categories is None:
        prompt = category_prompt(SHAPES_CATEGORIES if is_shapes else GENERAL_CATEGORIES)
        say(f"no prompt was given, looking for: {', '.join(prompt['categories'])}")
        return prompt | chosen
    return {"categories": options.categories, "stuff": options.stuff, **chosen}


def category_prompt(categories: dict[str, bool]) -> dict[str, Any]:
    return {"categories": list(categories), "stuff": [name for name, is_stuff in categories.items() if is_stuff]}


class AddRegion(argparse.Action):
    """Collects all kinds of regions in one list, in the order of the command line."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        namespace.regions = [*namespace.regions, {self.dest: values}]


class AddNegativePoint(argparse.Action):
    """Adds a point of label 0 to the region before it, whose own point is then one of several."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if not namespace.regions:
            parser.error(f"{option_string} corrects the region before it; give --point, --box, --scribble or --mask first")
        *others, last = namespace.regions
        rest = {kind: value for kind, value in last.items() if kind not in ("point", "points", "labels")}
        points = last.get("points", [last["point"]] if "point" in last else [])
        labels = last.get("labels", [1] * len(points))
        namespace.regions = [*others, {**rest, "points": [*points, values], "labels": [*labels, 0]}]


def tiles(text: str) -> int | tuple[int, int]:
    """Reads "256" or "3x4"."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f"expected pixels along a tile, such as 512, or rows and columns, such as 3x4, got {text!r}")
    return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    def parse(text: str) -> tuple[float, ...]:
        values = tuple(float(part) for part in text.split(","))
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"expected {count} numbers with commas between them, got {text!r}")
        return values

    parse.__name__ = f"{count} numbers with commas between them"  # argparse shows it when float() fails
    return parse
