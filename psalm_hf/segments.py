"""Prompts about one image -> segments, a drawing to look at, a record to work with: the work of `psalm segment`."""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .bounded_files import open_image_file
from .masks import area, box_from_bitmap, rle_from_bitmap
from .structures import CATEGORY, REGION, SENTENCE
from .visualization import draw_panels, draw_segmentation, label_colors

_KINDS = {"referring": SENTENCE, "interactive": REGION}  # the other tasks have categories
TARGET_COLOR = (255, 0, 160)  # of what an expression means; nothing in the shapes world has it


@dataclass(frozen=True)
class Prompt:
    """Prompts on the image, all of one kind.

    Attributes:
        task: "panoptic", "semantic", "instance", "referring" or "interactive".
        names: categories, expressions, or how the regions are called; a segment's `label_id` counts them.
        stuff: those of the categories whose segments are fused.
        regions: (kind, value); a region of another kind than "mask" as the processor takes it, a mask as the path of an image.
        threshold: least score of a segment.
        no_target_threshold: of expressions, which mean nothing unless a mask scores above it; None = they always mean something.
        instances: a segment for every instance of an expression, see `PsalmProcessor.post_process_referring_instances`.
    """

    task: str
    names: list[str]
    stuff: tuple[str, ...] = ()
    regions: tuple[tuple[str, Any], ...] = ()
    threshold: float | None = None
    no_target_threshold: float | None = None
    instances: bool = False


def segment(model, processor, image: Image.Image, prompts: list[Prompt], mask_threshold: float = 0.5) -> list[list[dict]]:
    """The segments of every prompt, whose thresholds are complete (`complete_thresholds`); the image is encoded once.

    Args:
        prompts: at most one of categories, one of expressions, one of regions.
        mask_threshold: least probability of a mask's pixel.

    Returns:
        Per prompt a list of `{"label", "label_id": index into its names, "score": float or None, "mask": (H, W) bool}`; what an expression
        without target would have is left out.
    """
    arguments = {name: value for prompt in prompts for name, value in processor_arguments(prompt).items()}
    inputs = processor(images=image, return_tensors="pt", **arguments)
    options: dict[str, Any] = {"mask_threshold": mask_threshold}
    for prompt in prompts:
        if prompt.task == "referring":
            options |= {"referring_threshold": prompt.threshold, "no_target_threshold": prompt.no_target_threshold}
            options["instances"] = prompt.instances
        elif prompt.task != "interactive":
            options |= {"task": prompt.task, "stuff": prompt.stuff, "threshold": prompt.threshold}
    with torch.inference_mode():
        outputs = model(**inputs.to(model.device))
        found = processor.find_segments(outputs, inputs.row_info, inputs["original_sizes"], **options)
    by_kind = defaultdict(list)
    for row, segments in zip(inputs.row_info, found, strict=True):
        by_kind[row.kind] += segments
    return [
        [
            {"label": prompt.names[one.index], "label_id": one.index, "score": one.score, "mask": one.mask.cpu().numpy()}
            for one in by_kind[_KINDS.get(prompt.task, CATEGORY)]
        ]
        for prompt in prompts
    ]


def complete_thresholds(prompt: Prompt, processor) -> Prompt:
    """The prompt with thresholds of expressions: where none was chosen, those of the processor."""
    if prompt.task != "referring":
        return prompt
    if prompt.instances:
        given = [value if value is not None else "processor" for value in (prompt.threshold, prompt.no_target_threshold)]
        threshold, no_target = processor.instance_thresholds(*given)
        return replace(prompt, threshold=threshold, no_target_threshold=no_target)
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
    with open_image_file(value) as file:
        is_set = np.asarray(file.convert("L")) > 0
        if file.has_transparency_data:  # what is transparent is not drawn, whatever colour hides there
            is_set &= np.asarray(file.convert("RGBA"))[..., 3] > 0
        return {"mask": is_set}


def draw_prediction(image: Image.Image, prompt: Prompt, segments: list[dict], note: str | None = None) -> Image.Image:
    """The image with everything that was found, and a legend."""
    regions = processor_arguments(prompt).get("regions", ())
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
    """Sentences about what was not found; they name the options of `psalm segment`."""
    if prompt.task == "referring":
        nothing = f"no mask scores above {prompt.no_target_threshold}; lower --no-target-threshold to see the best one."
        return [f"{text!r} means nothing here: {nothing}" for text in expressions_without_target(prompt, segments)]
    return [] if segments else [f"No segment reached the threshold of {prompt.threshold}; lower --threshold to see weaker ones."]


def expressions_without_target(prompt: Prompt, segments: list[dict]) -> list[str]:
    found = {segment["label_id"] for segment in segments}
    return [text for index, text in enumerate(prompt.names) if index not in found]


def draw_overview(image: Image.Image, prompts: list[Prompt], predictions: list[list[dict]]) -> Image.Image:
    """A sheet of panels: the image, its categories, its regions, and one panel for every expression.

    Args:
        prompts, predictions: of categories, expressions and regions, in this order.
    """

    def panel(segments: list[dict], labels: list[str], **options):
        return draw_segmentation(image, [segment["mask"] for segment in segments], labels, legend=False, **options)

    categories, expressions, drawn = predictions
    panels = [
        panel([], []),
        panel(categories, [segment["label"] for segment in categories], colors=label_colors(prompts[0].names)),
        panel(drawn, [segment["label"] for segment in drawn], prompts=processor_arguments(prompts[2])["regions"]),
    ]
    for index in range(len(prompts[1].names)):  # one without target gets a panel too
        found = [segment for segment in expressions if segment["label_id"] == index]
        scores = [f"{segment['score']:.2f}" for segment in found]
        panels.append(panel(found, scores, colors=dict.fromkeys(scores, TARGET_COLOR)))
    titles = [
        "the image",
        f"categories: {', '.join(prompts[0].names)}",
        f"regions: {', '.join(f'a {kind}' for kind in prompts[2].names)}",
        *(f'expression: "{text}"' for text in prompts[1].names),
    ]
    return draw_panels(panels, titles)


def as_record(prompt: Prompt, segments: list[dict], mask_threshold: float) -> dict:
    """Entry of the JSON file about one prompt: masks are COCO run-length codes, boxes x0, y0, x1, y1 along pixel edges."""

    def entry(segment: dict) -> dict:
        rle = rle_from_bitmap(segment["mask"])
        named = {key: segment[key] for key in ("label", "label_id", "score")}
        return {**named, "box": box_from_bitmap(segment["mask"]), "area": area(rle), "mask": rle}

    regions = [{kind: str(value) if kind == "mask" else value} for kind, value in prompt.regions]
    kind = "expressions" if prompt.task == "referring" else "categories"
    thresholds = {"threshold": prompt.threshold, "mask_threshold": None if prompt.task == "semantic" else mask_threshold}
    no_target = {}
    if prompt.task == "referring":
        thresholds["no_target_threshold"] = prompt.no_target_threshold
        no_target |= {"instances": True} if prompt.instances else {}
        no_target["no_target"] = expressions_without_target(prompt, segments)
    return {
        "task": prompt.task,
        "prompt": {"regions": regions} if regions else {kind: prompt.names},
        "stuff": list(prompt.stuff),
        "thresholds": thresholds,
        **no_target,
        "segments": [entry(segment) for segment in segments],
    }
