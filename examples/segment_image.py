"""Segments one picture and writes PREFIX.png, an overlay to look at, and PREFIX.json, the masks to work with.

    python examples/segment_image.py                                          # the bundled picture
    python examples/segment_image.py kitchen.jpg --categories cup table wall --stuff table wall
    python examples/segment_image.py kitchen.jpg --categories cup table wall --task semantic
    python examples/segment_image.py kitchen.jpg --expression "the red cup" --expression "everything on the table"
    python examples/segment_image.py kitchen.jpg --point 320,200 --box 10,20,90,140 --scribble 5,5 40,60 --mask prompt.png

--checkpoint takes a folder or Hub id written by save_pretrained, or an original PSALM folder. Without it a tiny model with RANDOM weights
answers: everything runs, but the masks mean nothing.

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
from pathlib import Path

BUNDLED_PICTURE = Path(__file__).parent / "pictures" / "village.png"
# Name -> fused into one segment (stuff). The first list fits the bundled picture, the second is a start for any photo.
BUNDLED_CATEGORIES = {
    "house": False, "tree": False, "car": False, "duck": False, "sun": False, "cloud": False,
    "mountain": True, "pond": True, "road": True, "grass": True, "sky": True,
}  # fmt: skip
GENERAL_CATEGORIES = {
    "person": False, "animal": False, "vehicle": False, "furniture": False, "food": False,
    "building": True, "plant": True, "road": True, "floor": True, "wall": True, "water": True, "sky": True,
}  # fmt: skip
# The released thresholds; but for instances it keeps everything, as average precision wants it, and nobody can look at 100 masks.
DEFAULT_THRESHOLDS = {"panoptic": 0.8, "instance": 0.5}
RANDOM_THRESHOLDS = {"panoptic": 0.0, "instance": 0.06}  # random weights are never sure; so there is at least something to look at


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
    from psalm_hf.visualization import draw_segmentation, label_colors

    image = load_image(options.image)
    say(f"read {options.image}: {image.width} x {image.height} pixels")
    task, prompt = read_prompt(options)
    model, processor, note = load_model(options)

    start = time.perf_counter()
    inputs = processor(images=image, return_tensors="pt", **prompt).to(model.device)
    with torch.inference_mode():
        outputs = model(**inputs)
    segments = read_segments(processor, outputs, inputs["original_sizes"], task, options)
    say(f"segmented on {model.device} in {time.perf_counter() - start:.1f} s: {len(segments)} segments")
    if not segments:
        empty = f"No segment reached the threshold of {options.threshold}; lower --threshold to see weaker ones."
        say(empty)
        note = f"{note} {empty}" if note else empty

    overlay = draw_segmentation(
        image,
        [segment["mask"] for segment in segments],
        [segment["label"] for segment in segments],
        None if task == "semantic" else [segment["score"] for segment in segments],
        colors=label_colors(prompt["categories"]) if "categories" in prompt else None,
        prompts=[{name: value} for region in prompt.get("regions", ()) for name, value in region.items()],
        note=note,
    )
    write_atomically(overlay_path, lambda file: overlay.save(file, format="PNG"))
    record = as_record(segments, image, task, prompt, options)
    write_atomically(json_path, lambda file: file.write(json.dumps(record, indent=1).encode()))
    say(f"wrote {overlay_path} and {json_path}")


def load_model(options: argparse.Namespace) -> tuple:
    """Model in evaluation mode, its processor, and what a reader of the result must know about them (or None)."""
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.checkpoint is None:
        from psalm_hf.tiny import build_tiny

        model, processor = build_tiny(seed=0)
        note = "Tiny model with RANDOM weights (no --checkpoint was given): the masks mean nothing."
        say(note)
    else:
        from psalm_hf import PsalmForSegmentation, PsalmProcessor

        say(f"loading {options.checkpoint}")
        processor = PsalmProcessor.from_pretrained(options.checkpoint)
        model = PsalmForSegmentation.from_pretrained(options.checkpoint, dtype=options.dtype or "float32")
        note = None
    try:
        model.to(device)
    except RuntimeError as error:
        raise ValueError(f"--device {device}: cannot be used ({str(error).splitlines()[0]})") from error
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"model: {parameters / 1e6:.1f} million parameters on {device}")
    return model.eval(), processor, note


def read_prompt(options: argparse.Namespace) -> tuple[str, dict]:
    """Name of the task, and the processor's arguments that carry the prompt."""
    if options.expressions:
        return "referring", {"expressions": options.expressions}
    if options.regions:
        return "interactive", {"regions": [read_region(kind, value) for kind, value in options.regions]}
    unknown = set(options.stuff) - set(options.categories)
    if unknown:
        raise ValueError(f"--stuff: {', '.join(sorted(unknown))} not among the --categories {', '.join(options.categories)}")
    return options.task, {"categories": options.categories, "task": options.task}


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


def read_segments(processor, outputs, sizes, task: str, options: argparse.Namespace) -> list[dict]:
    """Post-processed outputs as one list, whatever the task: label, label_id (index into what was prompted), score, mask (H, W) bool."""
    from psalm_hf.tasks import TASKS

    post_process = getattr(processor, TASKS[task].post_process)
    masks_from = {"mask_threshold": options.mask_threshold, "target_sizes": sizes}
    if task == "referring":
        answers = post_process(outputs, threshold=options.threshold, **masks_from)
        found = [(index, answer["score"], answer["segmentation"]) for index, answer in enumerate(answers)]
        names = options.expressions
    elif task == "interactive":
        (answer,) = post_process(outputs, **masks_from)
        found = [(index, score, mask) for index, (score, mask) in enumerate(zip(answer["scores"], answer["masks"], strict=True))]
        names = [region_name(kind, value) for kind, value in options.regions]
    else:
        names = options.categories
        stuff = {names.index(name) for name in options.stuff}
        found = find_categories(post_process, outputs, task, stuff, masks_from, options.threshold)
    return [
        {"label": names[index], "label_id": int(index), "score": None if score is None else float(score), "mask": mask.cpu().numpy()}
        for index, score, mask in found
    ]


def find_categories(post_process: Callable, outputs, task: str, stuff: set[int], masks_from: dict, threshold: float | None) -> list[tuple]:
    """(category index, score, mask) of every segment; a semantic map has no scores."""
    if task == "semantic":
        (classes,) = post_process(outputs, target_sizes=masks_from["target_sizes"])
        return [(index, None, classes == index) for index in classes.unique().tolist()]
    if task == "panoptic":
        (answer,) = post_process(outputs, threshold=threshold, label_ids_to_fuse=stuff, **masks_from)
        masks = [answer["segmentation"] == info["id"] for info in answer["segments_info"]]
    else:
        (answer,) = post_process(outputs, threshold=threshold, return_binary_maps=True, **masks_from)
        masks = answer["segmentation"]
    return [(info["label_id"], info["score"], mask) for info, mask in zip(answer["segments_info"], masks, strict=True)]


def as_record(segments: list[dict], image, task: str, prompt: dict, options: argparse.Namespace) -> dict:
    """What the JSON file holds."""
    from psalm_hf.masks import area, box_from_bitmap, rle_from_bitmap

    def entry(segment: dict) -> dict:
        rle = rle_from_bitmap(segment["mask"])
        named = {key: segment[key] for key in ("label", "label_id", "score")}
        return {**named, "box": box_from_bitmap(segment["mask"]), "area": area(rle), "mask": rle}

    regions = [{kind: str(value) if kind == "mask" else value} for kind, value in options.regions]
    return {
        "image": options.image,
        "image_size": [image.height, image.width],
        "checkpoint": options.checkpoint,
        "random_weights": options.checkpoint is None,
        "task": task,
        "prompt": {"regions": regions} if regions else {key: prompt[key] for key in ("categories", "expressions") if key in prompt},
        "stuff": options.stuff,
        "thresholds": {"threshold": options.threshold, "mask_threshold": None if task == "semantic" else options.mask_threshold},
        "segments": [entry(segment) for segment in segments],
    }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=str(BUNDLED_PICTURE), help="file or URL; whatever Pillow opens (default: a drawing)")
    parser.add_argument("--checkpoint", help="folder or Hub id; also an original PSALM folder")
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="what to look for; names of several words in quotes")
    parser.add_argument("--stuff", nargs="+", metavar="NAME", default=[], help="categories whose segments are fused into one (panoptic)")
    parser.add_argument("--task", choices=("panoptic", "semantic", "instance"), help="what to do with --categories (default: panoptic)")
    parser.add_argument("--expression", action="append", dest="expressions", default=[], metavar="TEXT", help="may be repeated")
    parser.add_argument("--point", action=AddRegion, type=numbers(2), metavar="X,Y", help="regions may be repeated and mixed")
    parser.add_argument("--box", action=AddRegion, type=numbers(4), metavar="X0,Y0,X1,Y1")
    parser.add_argument("--scribble", action=AddRegion, type=numbers(2), nargs="+", metavar="X,Y", help="a line through the points")
    parser.add_argument("--mask", action=AddRegion, type=Path, metavar="FILE", help="picture whose pixels above 0 are the prompt")
    parser.add_argument("--output", default="segmented", metavar="PREFIX", help="writes PREFIX.png and PREFIX.json (default: segmented)")
    parser.add_argument("--threshold", type=float, help="least score of a segment (default: panoptic 0.8, instance 0.5, else the best one)")
    parser.add_argument("--mask-threshold", type=float, default=0.5, help="least probability of a mask's pixel (default: 0.5)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of a checkpoint's weights (default: float32)")
    parser.set_defaults(regions=[])
    options = parser.parse_args(arguments)
    check_combination(parser, options)
    if not options.expressions and not options.regions:
        options.task = options.task or "panoptic"
        if options.threshold is None:
            defaults = DEFAULT_THRESHOLDS if options.checkpoint else RANDOM_THRESHOLDS
            options.threshold = defaults.get(options.task)
        if options.categories is None:
            known = BUNDLED_CATEGORIES if options.image == str(BUNDLED_PICTURE) else GENERAL_CATEGORIES
            options.categories, options.stuff = list(known), [name for name, is_stuff in known.items() if is_stuff]
            say(f"no prompt was given, looking for: {', '.join(options.categories)}")
    return options


def check_combination(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    given = [name for name in ("categories", "expressions", "regions") if getattr(options, name)]
    if len(given) > 1:
        parser.error(f"give one kind of prompt a call, not {' and '.join(given)}")
    if given != ["categories"] and options.stuff:
        parser.error("--stuff goes with --categories")
    if options.task and (options.expressions or options.regions):
        parser.error("--task goes with --categories")
    if options.threshold is not None and (options.task == "semantic" or options.regions):
        parser.error("--threshold: a semantic map and regions have none, they take the best")
    if options.dtype and options.checkpoint is None:
        parser.error("--dtype goes with --checkpoint")


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
