"""Segments one image and writes PREFIX.png, an overlay to look at, and PREFIX.json, the masks to work with.

    psalm segment                                          # a drawn image, every kind of prompt
    psalm segment kitchen.jpg --categories cup table wall --stuff table wall
    psalm segment kitchen.jpg --categories cup table wall --task semantic
    psalm segment kitchen.jpg --expression "the red cup" --expression "everything on the table"
    psalm segment kitchen.jpg --expression "all cups" --instances
    psalm segment kitchen.jpg --point 320,200 --box 10,20,90,140 --scribble 5,5 40,60 --mask prompt.png
    psalm segment kitchen.jpg --point 320,200 --negative-point 350,210

--checkpoint takes a folder or Hub id written by save_pretrained, or an original PSALM folder. Without it psalm-tiny answers, which ships
with the package: it was trained on drawn shapes alone, so on photographs its masks mean nothing.

Coordinates are pixels (x to the right, y down) of the upright image, boxes are x0,y0,x1,y1. In the JSON, masks are COCO run-length codes
at the size of the image, boxes x0,y0,x1,y1 along pixel edges.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import TINY, resolve_checkpoint
from ..structures import SENTENCE
from .command import CommandParser, add_model_options, load_model, say, verb
from .prompt_options import SHAPES_CATEGORIES, add_prompt_options, category_prompt, check_prompt_options, read_prompt

if TYPE_CHECKING:
    from PIL import Image

    from ..result import PsalmResult

DRAWN_IMAGE = "drawn shapes"  # what the record calls it
DRAWN_EXPRESSIONS = ["the purple triangle", "all dotted things", "the cross on the grass"]
DRAWN_REGIONS = [("point", (88, 23)), ("box", (91, 61, 121, 91)), ("scribble", [(28, 95), (34, 100), (44, 103)])]
OVERVIEW_CATEGORY_THRESHOLD = 0.5  # of psalm-tiny, things are worth showing above it
TARGET_COLOR = (255, 0, 160)  # of what an expression means; nothing in the shapes world has it


@verb
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    resolve_checkpoint(options.checkpoint)  # what no checkpoint can be called is refused before torch is loaded
    overlay_path, json_path = output_paths(options)

    from ..predictor import PsalmPredictor
    from ..result import loaded_region
    from ..writing import write_file, write_json

    image = chosen_image(options)
    prompts = read_prompts(options)
    for region in (region for prompt in prompts for region in prompt.get("regions", ())):
        loaded_region(region)  # masks of regions are files
    predictor = PsalmPredictor(*load_model(options), checkpoint=options.checkpoint)
    say(f"model: {predictor.model.num_parameters() / 1e6:.1f} million parameters on {predictor.model.device}")

    start = time.perf_counter()
    results = predictor.predict_all(prompts, image)
    say(f"segmented on {predictor.model.device} in {time.perf_counter() - start:.1f} s: {sum(map(len, results))} segments")
    results = [replace(result, source=options.image or DRAWN_IMAGE) for result in results]

    first = results[0]
    if first.note:
        say(first.note)
    if len(results) > 1:
        results[2] = replace(results[2], prompt=replace(results[2].prompt, names=tuple(kind for kind, _ in DRAWN_REGIONS)))
        overlay = draw_overview(results)
    else:
        notes = missing(first)
        for sentence in notes:
            say(sentence)
        overlay = first.plot(note=" ".join(filter(None, (first.note, *notes))) or None)
    write_file(overlay_path, lambda file: overlay.save(file, format="PNG"))
    records = [result.as_record() for result in results]
    write_json(json_path, first.about() | (records[0] if len(records) == 1 else {"answers": records}), indent=1)
    say(f"wrote {overlay_path} and {json_path}")


def chosen_image(options: argparse.Namespace) -> "Image.Image":
    """Opens the image of the command line, or draws one."""
    if options.image is None:
        from ..data.shapes.scene import example_image

        return example_image()
    from ..model.image_processing_psalm import load_image

    if Path(options.image).is_dir():
        raise IsADirectoryError(f"{options.image}: is a folder; give one image of it")
    image = load_image(options.image)
    say(f"read {options.image}: {image.width} x {image.height} pixels")
    return image


def read_prompts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Reads the prompt of the command line, or makes one of each kind for the drawn image; as `PsalmPredictor.predict` takes them."""
    if options.is_overview:
        return [
            category_prompt(SHAPES_CATEGORIES) | {"threshold": OVERVIEW_CATEGORY_THRESHOLD},
            {"expressions": DRAWN_EXPRESSIONS},
            {"regions": [{kind: value} for kind, value in DRAWN_REGIONS]},
        ]
    return [read_prompt(options, is_shapes=options.checkpoint == TINY or options.image is None)]


def missing(result: "PsalmResult") -> list[str]:
    """Sentences about what was not found; they name the options of `psalm segment`."""
    prompt = result.prompt
    if prompt.kind == SENTENCE:
        nothing = f"no mask scores above {prompt.no_target_threshold}; lower --no-target-threshold to see the best one."
        return [f"{text!r} means nothing here: {nothing}" for text in result.absent]
    return [] if len(result) else [f"No segment reached the threshold of {prompt.threshold}; lower --threshold to see weaker ones."]


def draw_overview(results: "list[PsalmResult]") -> "Image.Image":
    """A sheet of panels: the image, its categories, its regions, and one panel for every expression.

    Args:
        results: of categories, expressions and regions, in this order.
    """
    from ..visualization import draw_panels, draw_segmentation, label_colors

    categories, expressions, drawn = results

    def panel(masks: Any, labels: list[str], **options: Any) -> "Image.Image":
        return draw_segmentation(categories.image, masks, labels, legend=False, **options)

    panels = [
        panel([], []),
        panel(categories.masks, categories.labels, colors=label_colors(categories.prompt.names)),
        panel(drawn.masks, drawn.labels, prompts=drawn.prompt.regions),
    ]
    for index in range(len(expressions.prompt.names)):  # one without target gets a panel too
        found = expressions[expressions.label_ids == index]
        scores = [f"{score:.2f}" for score in found.scores]
        panels.append(panel(found.masks, scores, colors=dict.fromkeys(scores, TARGET_COLOR)))
    titles = [
        "the image",
        f"categories: {', '.join(categories.prompt.names)}",
        f"regions: {', '.join(f'a {kind}' for kind in drawn.prompt.names)}",
        *(f'expression: "{text}"' for text in expressions.prompt.names),
    ]
    return draw_panels(panels, titles)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser("segment", __doc__)
    parser.add_argument("image", nargs="?", help="file or URL; whatever Pillow opens (default: drawn shapes)")
    parser.add_argument(
        "--output",
        default="segmented",
        metavar="PREFIX",
        help="writes PREFIX.png and PREFIX.json; in a folder they are segmented.png and segmented.json (default: segmented)",
    )
    add_prompt_options(parser)
    add_model_options(parser)
    options = parser.parse_args(arguments)
    check_prompt_options(parser, options)
    given = (options.categories, options.tiles, options.expressions, options.regions, options.task)
    has_question = any(given) or options.threshold is not None or options.mask_threshold != parser.get_default("mask_threshold")
    options.is_overview = options.image is None and not has_question
    return options


def output_paths(options: argparse.Namespace) -> tuple[Path, Path]:
    """Paths of the two files. Their folder is made now, not after minutes of work."""
    from ..result import result_paths
    from ..writing import make_folder

    given = [options.image] if options.image else []
    given += [region["mask"] for region in options.regions if "mask" in region]
    paths = result_paths(options.output, given)
    make_folder(paths[0].parent)
    return paths
