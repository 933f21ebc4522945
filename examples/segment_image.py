"""Segments one picture and writes PREFIX.png, an overlay to look at, and PREFIX.json, the masks to work with.

    python examples/segment_image.py                                          # the bundled picture, every kind of prompt
    python examples/segment_image.py kitchen.jpg --categories cup table wall --stuff table wall
    python examples/segment_image.py kitchen.jpg --categories cup table wall --task semantic
    python examples/segment_image.py kitchen.jpg --expression "the red cup" --expression "everything on the table"
    python examples/segment_image.py kitchen.jpg --point 320,200 --box 10,20,90,140 --scribble 5,5 40,60 --mask prompt.png

--checkpoint takes a folder or Hub id written by save_pretrained, or an original PSALM folder. Without it psalm-tiny answers, which ships
with the package: it was trained on drawn shapes alone, so on photographs its masks mean nothing. More pictures it understands:
examples/pictures/draw_shapes_picture.py.

Coordinates are pixels (x to the right, y down) of the upright picture, boxes are x0,y0,x1,y1. In the JSON, masks are COCO run-length codes
at the size of the picture, boxes x0,y0,x1,y1 along pixel edges.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

BUNDLED_PICTURE = Path(__file__).parent / "pictures" / "shapes.png"
BUNDLED_EXPRESSIONS = ["the purple triangle", "all dotted things", "the cross on the grass"]
BUNDLED_REGIONS = [("point", (88, 23)), ("box", (91, 61, 121, 91)), ("scribble", [(28, 95), (34, 100), (44, 103)])]
# Name -> fused into one segment (stuff). The first list is what psalm-tiny knows, the second is a start for any photo.
SHAPES_CATEGORIES = {
    "circle": False, "square": False, "triangle": False, "star": False, "cross": False, "ring": False, "diamond": False, "moon": False,
    "grass": True, "sand": True, "water": True, "brick": True,
}  # fmt: skip
GENERAL_CATEGORIES = {
    "person": False, "animal": False, "vehicle": False, "furniture": False, "food": False,
    "building": True, "plant": True, "road": True, "floor": True, "wall": True, "water": True, "sky": True,
}  # fmt: skip
# The released thresholds; but for instances it keeps everything, as average precision wants it, and nobody can look at 100 masks.
DEFAULT_THRESHOLDS = {"panoptic": 0.8, "instance": 0.5}
OVERVIEW_CATEGORY_THRESHOLD = 0.5  # of psalm-tiny, things are worth showing above it
TARGET_COLOR = (255, 0, 160)  # of what an expression means; nothing in the shapes world has it


@dataclass(frozen=True)
class Prompt:
    """What is asked of the picture, all of one kind.

    Attributes:
        task: a row of `psalm_hf.tasks.TASKS`.
        names: categories, expressions, or how the regions are called; a segment's `label_id` counts them.
        stuff: those of the categories whose segments are fused.
        regions: (kind, value) as read from the command line.
        threshold: least score of a segment.
        no_target_threshold: of expressions, which mean nothing unless a mask scores above it; None = they always mean something.
    """

    task: str
    names: list[str]
    stuff: tuple[str, ...] = ()
    regions: tuple[tuple[str, Any], ...] = ()
    threshold: float | None = None
    no_target_threshold: float | None = None


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    import psalm_hf  # noqa: F401 - after the arguments are parsed, so that --help and mistakes answer at once

    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"segment_image: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    overlay_path, json_path = output_paths(options)

    import torch

    from psalm_hf import load_image

    image = load_image(options.image)
    say(f"read {options.image}: {image.width} x {image.height} pixels")
    prompts = read_prompts(options)
    arguments = {name: value for prompt in prompts for name, value in processor_arguments(prompt).items()}
    model, processor = load_model(options)
    prompts = [complete_thresholds(prompt, processor) for prompt in prompts]

    start = time.perf_counter()
    # One call for all prompts: the picture is encoded once.
    inputs = processor(images=image, return_tensors="pt", **arguments).to(model.device)
    with torch.inference_mode():
        outputs = model(**inputs)
    answers = [read_segments(processor, outputs, inputs["original_sizes"], prompt, options.mask_threshold) for prompt in prompts]
    say(f"segmented on {model.device} in {time.perf_counter() - start:.1f} s: {sum(map(len, answers))} segments")

    if len(prompts) > 1:
        overlay = draw_overview(image, prompts, answers, arguments["regions"])
    else:
        overlay = draw_answer(image, prompts[0], answers[0], arguments.get("regions", ()), tiny_note(options))
    write_atomically(overlay_path, lambda file: overlay.save(file, format="PNG"))
    records = [as_record(prompt, segments, options) for prompt, segments in zip(prompts, answers, strict=True)]
    record = {
        "image": options.image,
        "image_size": [image.height, image.width],
        "checkpoint": options.checkpoint or "psalm-tiny",
        **(records[0] if len(records) == 1 else {"answers": records}),
    }
    write_atomically(json_path, lambda file: file.write(json.dumps(record, indent=1).encode()))
    say(f"wrote {overlay_path} and {json_path}")


def load_model(options: argparse.Namespace) -> tuple:
    """Model in evaluation mode and its processor."""
    from psalm_hf import PsalmForSegmentation, PsalmProcessor, tiny_checkpoint
    from psalm_hf.devices import pick_device

    device = pick_device(options.device)
    checkpoint = options.checkpoint or tiny_checkpoint()
    say(f"loading {options.checkpoint or 'psalm-tiny'}")
    processor = PsalmProcessor.from_pretrained(checkpoint)
    model = PsalmForSegmentation.from_pretrained(checkpoint, dtype=options.dtype)
    model.to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"model: {parameters / 1e6:.1f} million parameters on {device}")
    return model.eval(), processor


def tiny_note(options: argparse.Namespace) -> str | None:
    """What a reader of the result must know if psalm-tiny segmented a picture of the user's."""
    if options.checkpoint or options.image == str(BUNDLED_PICTURE):
        return None
    return "By psalm-tiny, which knows drawn shapes alone; on other pictures its masks mean nothing."


def read_prompts(options: argparse.Namespace) -> list[Prompt]:
    """The prompt of the command line, or one of each kind for the bundled picture."""
    if options.is_overview:
        return [
            category_prompt("panoptic", SHAPES_CATEGORIES, OVERVIEW_CATEGORY_THRESHOLD),
            Prompt("referring", BUNDLED_EXPRESSIONS),
            Prompt("interactive", [kind for kind, _ in BUNDLED_REGIONS], regions=tuple(BUNDLED_REGIONS)),
        ]
    if options.expressions:
        return [Prompt("referring", options.expressions, threshold=options.threshold, no_target_threshold=options.no_target_threshold)]
    if options.regions:
        return [Prompt("interactive", [region_name(*region) for region in options.regions], regions=tuple(options.regions))]
    task = options.task or "panoptic"
    threshold = DEFAULT_THRESHOLDS.get(task) if options.threshold is None else options.threshold
    if options.categories is None:
        is_shapes = options.checkpoint is None or options.image == str(BUNDLED_PICTURE)
        prompt = category_prompt(task, SHAPES_CATEGORIES if is_shapes else GENERAL_CATEGORIES, threshold)
        say(f"no prompt was given, looking for: {', '.join(prompt.names)}")
        return [prompt]
    unknown = set(options.stuff) - set(options.categories)
    if unknown:
        raise ValueError(f"--stuff: {', '.join(sorted(unknown))} not among the --categories {', '.join(options.categories)}")
    return [Prompt(task, options.categories, stuff=tuple(options.stuff), threshold=threshold)]


def category_prompt(task: str, categories: dict[str, bool], threshold: float | None) -> Prompt:
    return Prompt(task, list(categories), stuff=tuple(name for name, is_stuff in categories.items() if is_stuff), threshold=threshold)


def complete_thresholds(prompt: Prompt, processor) -> Prompt:
    """Those of expressions that were not chosen are what the processor carries."""
    if prompt.task != "referring":
        return prompt
    threshold = processor.referring_threshold if prompt.threshold is None else prompt.threshold
    no_target = processor.no_target_threshold if prompt.no_target_threshold is None else prompt.no_target_threshold
    return replace(prompt, threshold=threshold, no_target_threshold=no_target)


def processor_arguments(prompt: Prompt) -> dict[str, Any]:
    """The arguments of the processor that carry a prompt."""
    if prompt.task == "referring":
        return {"expressions": prompt.names}
    if prompt.task == "interactive":
        return {"regions": [read_region(kind, value) for kind, value in prompt.regions]}
    return {"categories": prompt.names, "task": prompt.task}


def read_region(kind: str, value: tuple | list | Path) -> dict:
    """A region as the processor takes it; the set pixels of a mask file are the prompt."""
    if kind != "mask":
        return {kind: value}
    import numpy as np
    from PIL import Image

    with Image.open(value) as file:
        is_set = np.asarray(file.convert("L")) > 0
        if file.has_transparency_data:  # what is transparent is not drawn, whatever colour hides there
            is_set &= np.asarray(file.convert("RGBA"))[..., 3] > 0
        return {"mask": is_set}


def read_segments(processor, outputs, sizes, prompt: Prompt, mask_threshold: float) -> list[dict]:
    """Post-processed outputs as one list, whatever the task: label, label_id (index into what was prompted), score, mask (H, W) bool.
    What an expression without target would have is left out."""
    from psalm_hf.tasks import TASKS

    post_process = partial(getattr(processor, TASKS[prompt.task].post_process), outputs, target_sizes=sizes)
    if prompt.task == "referring":
        thresholds = {"threshold": prompt.threshold, "no_target_threshold": prompt.no_target_threshold}
        answers = of_its_kind(post_process(mask_threshold=mask_threshold, **thresholds))
        found = [(index, answer["score"], answer["segmentation"]) for index, answer in enumerate(answers) if not answer["no_target"]]
    elif prompt.task == "interactive":
        (answer,) = of_its_kind(post_process(mask_threshold=mask_threshold))
        found = [(index, score, mask) for index, (score, mask) in enumerate(zip(answer["scores"], answer["masks"], strict=True))]
    else:
        found = find_categories(post_process, prompt, mask_threshold)
    return [
        {"label": prompt.names[index], "label_id": int(index), "score": None if score is None else float(score), "mask": mask.cpu().numpy()}
        for index, score, mask in found
    ]


def of_its_kind(answers: list) -> list:
    """Without the rows of other kinds of prompts, which post-processing answers with None."""
    return [answer for answer in answers if answer is not None]


def find_categories(post_process: Callable, prompt: Prompt, mask_threshold: float) -> list[tuple]:
    """(category index, score, mask) of every segment; a semantic map has no scores."""
    if prompt.task == "semantic":
        (classes,) = of_its_kind(post_process())
        return [(index, None, classes == index) for index in classes.unique().tolist()]
    if prompt.task == "panoptic":
        stuff = {prompt.names.index(name) for name in prompt.stuff}
        (answer,) = of_its_kind(post_process(threshold=prompt.threshold, mask_threshold=mask_threshold, label_ids_to_fuse=stuff))
        masks = [answer["segmentation"] == info["id"] for info in answer["segments_info"]]
    else:
        (answer,) = of_its_kind(post_process(threshold=prompt.threshold, mask_threshold=mask_threshold, return_binary_maps=True))
        masks = answer["segmentation"]
    return [(info["label_id"], info["score"], mask) for info, mask in zip(answer["segments_info"], masks, strict=True)]


def draw_answer(image, prompt: Prompt, segments: list[dict], regions: list[dict], note: str | None):
    """The picture with everything that was found, and a legend."""
    from psalm_hf.visualization import draw_segmentation, label_colors

    for sentence in missing(prompt, segments):
        say(sentence)
        note = f"{note} {sentence}" if note else sentence
    return draw_segmentation(
        image,
        [segment["mask"] for segment in segments],
        [segment["label"] for segment in segments],
        None if prompt.task == "semantic" else [segment["score"] for segment in segments],
        colors=None if regions else label_colors(prompt.names),
        prompts=regions,
        note=note,
    )


def missing(prompt: Prompt, segments: list[dict]) -> list[str]:
    """What was not found, in sentences."""
    if prompt.task == "referring":
        nothing = f"no mask scores above {prompt.no_target_threshold}; lower --no-target-threshold to see the best one."
        return [f"{text!r} means nothing here: {nothing}" for text in expressions_without_target(prompt, segments)]
    return [] if segments else [f"No segment reached the threshold of {prompt.threshold}; lower --threshold to see weaker ones."]


def expressions_without_target(prompt: Prompt, segments: list[dict]) -> list[str]:
    found = {segment["label_id"] for segment in segments}
    return [text for index, text in enumerate(prompt.names) if index not in found]


def draw_overview(image, prompts: list[Prompt], answers: list[list[dict]], regions: list[dict]):
    """A sheet of panels: the picture, its categories, its regions, and one panel for every expression."""
    from psalm_hf.visualization import draw_panels, draw_segmentation, label_colors

    def panel(segments: list[dict], labels: list[str], **options):
        return draw_segmentation(image, [segment["mask"] for segment in segments], labels, legend=False, **options)

    categories, expressions, drawn = answers  # in the order of `read_prompts`
    panels = [
        panel([], []),
        panel(categories, [segment["label"] for segment in categories], colors=label_colors(prompts[0].names)),
        panel(drawn, [segment["label"] for segment in drawn], prompts=regions),
    ]
    for index in range(len(prompts[1].names)):  # one without target gets a panel too
        found = [segment for segment in expressions if segment["label_id"] == index]
        scores = [f"{segment['score']:.2f}" for segment in found]
        panels.append(panel(found, scores, colors=dict.fromkeys(scores, TARGET_COLOR)))
    titles = [
        "the picture",
        f"categories: {', '.join(prompts[0].names)}",
        f"regions: {', '.join(f'a {kind}' for kind in prompts[2].names)}",
        *(f'expression: "{text}"' for text in prompts[1].names),
    ]
    return draw_panels(panels, titles)


def as_record(prompt: Prompt, segments: list[dict], options: argparse.Namespace) -> dict:
    """What the JSON file holds about one prompt."""
    from psalm_hf.masks import area, box_from_bitmap, rle_from_bitmap

    def entry(segment: dict) -> dict:
        rle = rle_from_bitmap(segment["mask"])
        named = {key: segment[key] for key in ("label", "label_id", "score")}
        return {**named, "box": box_from_bitmap(segment["mask"]), "area": area(rle), "mask": rle}

    regions = [{kind: str(value) if kind == "mask" else value} for kind, value in prompt.regions]
    kind = "expressions" if prompt.task == "referring" else "categories"
    thresholds = {"threshold": prompt.threshold, "mask_threshold": None if prompt.task == "semantic" else options.mask_threshold}
    no_target = {}
    if prompt.task == "referring":
        thresholds["no_target_threshold"] = prompt.no_target_threshold
        no_target["no_target"] = expressions_without_target(prompt, segments)
    return {
        "task": prompt.task,
        "prompt": {"regions": regions} if regions else {kind: prompt.names},
        "stuff": list(prompt.stuff),
        "thresholds": thresholds,
        **no_target,
        "segments": [entry(segment) for segment in segments],
    }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=str(BUNDLED_PICTURE), help="file or URL; whatever Pillow opens (default: drawn shapes)")
    parser.add_argument("--checkpoint", help="folder or Hub id; also an original PSALM folder (default: psalm-tiny)")
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="what to look for; names of several words in quotes")
    parser.add_argument("--stuff", nargs="+", metavar="NAME", default=[], help="categories whose segments are fused into one (panoptic)")
    parser.add_argument("--task", choices=("panoptic", "semantic", "instance"), help="what to do with --categories (default: panoptic)")
    parser.add_argument("--expression", action="append", dest="expressions", default=[], metavar="TEXT", help="may be repeated")
    parser.add_argument("--point", action=AddRegion, type=numbers(2), metavar="X,Y", help="regions may be repeated and mixed")
    parser.add_argument("--box", action=AddRegion, type=numbers(4), metavar="X0,Y0,X1,Y1")
    parser.add_argument("--scribble", action=AddRegion, type=numbers(2), nargs="+", metavar="X,Y", help="a line through the points")
    parser.add_argument("--mask", action=AddRegion, type=Path, metavar="FILE", help="picture whose pixels above 0 are the prompt")
    parser.add_argument("--output", default="segmented", metavar="PREFIX", help="writes PREFIX.png and PREFIX.json (default: segmented)")
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
    parser.add_argument("--device", help="such as cpu, cuda:1, mps or xpu (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights (default: float32)")
    parser.set_defaults(regions=[])
    options = parser.parse_args(arguments)
    check_combination(parser, options)
    has_question = options.categories or options.expressions or options.regions or options.task or options.threshold is not None
    options.is_overview = options.image == str(BUNDLED_PICTURE) and not has_question
    return options


def check_combination(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    given = [name for name in ("categories", "expressions", "regions") if getattr(options, name)]
    if len(given) > 1:
        parser.error(f"give one kind of prompt a call, not {' and '.join(given)}")
    if given != ["categories"] and options.stuff:
        parser.error("--stuff goes with --categories")
    if options.no_target_threshold is not None and not options.expressions:
        parser.error("--no-target-threshold goes with --expression")
    if options.task and (options.expressions or options.regions):
        parser.error("--task goes with --categories")
    if options.threshold is not None and (options.task == "semantic" or options.regions):
        parser.error("--threshold: a semantic map and regions have none, they take the best")


class AddRegion(argparse.Action):
    """Collects all kinds of regions in one list, in the order of the command line."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        namespace.regions = [*namespace.regions, (self.dest, values)]


def numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    def parse(text: str) -> tuple[float, ...]:
        values = tuple(float(part) for part in text.split(","))
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"expected {count} numbers with commas between them, got {text!r}")
        return values

    parse.__name__ = f"{count} numbers with commas between them"  # argparse shows it when float() fails
    return parse


def region_name(kind: str, value: tuple | list | Path) -> str:
    if kind == "mask":
        return f"mask {value.name}"
    if kind == "scribble":
        return f"scribble from {value[0][0]:g},{value[0][1]:g}"
    return f"{kind} {','.join(f'{number:g}' for number in value)}"


def output_paths(options: argparse.Namespace) -> tuple[Path, Path]:
    """Where the two files go. The folder is made now, not after minutes of work."""
    paths = Path(f"{options.output}.png"), Path(f"{options.output}.json")
    if Path(options.image).resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"--output {options.output} would overwrite the picture {options.image}; choose another prefix")
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    return paths


def write_atomically(path: Path, write: Callable) -> None:
    """A reader sees the old file or the whole new one, never half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
