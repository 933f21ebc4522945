"""`pipeline("promptable-segmentation")`: images and prompts in, a list of `{"label", "score", "mask"}` per image out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline
from transformers.utils.logging import get_logger

from .checkpoints import TINY, checkpoint_folder
from .domain import domain_note
from .model.image_processing_psalm import load_image
from .model.modeling_psalm import PsalmForSegmentation, PsalmSegmentationOutput
from .model.rows import RowInfo
from .vocabulary import Vocabularies, rows_of, segments_of_parts

logger = get_logger(__name__)

TASK = "promptable-segmentation"

# Argument -> what each of its elements is as a region of `PsalmProcessor`.
_REGION_ARGUMENTS = {"points": "point", "boxes": "box", "scribbles": "scribble", "masks": "mask"}
_PROMPTS = ("categories", "expressions", "regions", *_REGION_ARGUMENTS)
_PROMPT_ARGUMENTS = (*_PROMPTS, "region_images", "task", "stuff")
_LOADING = ("timeout", "allow_private_addresses")
_THRESHOLDS = ("threshold", "mask_threshold", "overlap_mask_area_threshold")
_EXPRESSION_THRESHOLDS = ("referring_threshold", "no_target_threshold", "nms_threshold", "instances")


@dataclass(frozen=True)
class _Prompt:
    """Prompts on one image: its rows, and what to do with the categories."""

    rows: tuple[RowInfo, ...]
    task: str
    stuff: tuple[str, ...]


@dataclass(frozen=True)
class _Prediction:
    """The outputs about one image. No dictionary, so that the base class leaves the tensors on their device for post-processing."""

    prompt: _Prompt
    outputs: PsalmSegmentationOutput
    sizes: list[list[int]]


class _Items(Dataset):
    """Anything with a length and positions, such as a `datasets.Dataset`, as a dataset that the base class streams."""

    def __init__(self, items: Any):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class PromptableSegmentationPipeline(Pipeline):
    """Segments images by prompts. Arguments of a call may also be given to `pipeline(...)`, where they are defaults."""

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._vocabularies = Vocabularies(self.processor)

    def __call__(self, inputs: Any, **arguments: Any) -> Any:
        """Segments one image, a list, or a stream.

        Args:
            inputs: an image (path, URL, PIL image, array, tensor); or a dictionary with the key "image" and any of the prompt arguments
                below, each of which replaces the one of the same name of the call; or a list of these; or a dataset or iterator of them.
            categories: names, as many as you like: what does not fit into one prompt is divided. task: "panoptic" (default),
                "semantic" or "instance". stuff: those of the categories whose segments are one segment (panoptic).
            expressions: a sentence or a list of them.
            regions: dictionaries as `PsalmProcessor` takes them. points [(x, y)], boxes [(x0, y0, x1, y1)], scribbles [[(x, y), ...]]
                and masks [(H, W)] are short for such regions and follow them, in this order. region_images: see the processor.
            threshold: least score of a segment of a category; default panoptic 0.8, instance 0.5.
            mask_threshold: of the probability of a pixel, default 0.5. overlap_mask_area_threshold: see
                `post_process_panoptic_segmentation`, default 0.8.
            referring_threshold, no_target_threshold: of expressions, see `post_process_referring_segmentation`; default those that the
                processor carries.
            instances: True = an entry for every instance that an expression means, instead of one for all together, above
                `referring_threshold`; nms_threshold: IoU from which two of them are one. See `post_process_referring_instances`.
            timeout: seconds that a URL may take. allow_private_addresses: also opens URLs of this machine and its network. See
                `load_image`, which also opens any path that it is given.
            batch_size: images of a forward pass. num_workers: processes that open and prepare images.

        Returns:
            Per image a list of `{"label": str, "score": float or None, "mask": PIL image of mode "L", 255 = set}` at the size of the
            image: segments of the categories (a semantic map has no scores), then one for each expression that means something
            in the image (with `instances` one for each instance), then one for each region, whose label is its kind. A list for a list;
            an iterator for a dataset or an iterator.

        Raises:
            ValueError: no prompt, an unknown argument or key of a dictionary, or what the processor refuses; with the path of the image,
                where it has one.
        """
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(_as_list_or_stream(inputs), **arguments)

    def save_pretrained(self, save_directory: str | os.PathLike, **options: Any) -> None:
        """Model and processor. (The base class saves no processor, and would make the folder ask for `trust_remote_code`.)"""
        # transformers hands a pipeline's dtype on to the tokenizer, which would keep it among what it writes.
        self.processor.tokenizer.init_kwargs.pop("dtype", None)
        self.processor.save_pretrained(save_directory, **options)
        self.model.save_pretrained(save_directory, **options)

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        given.pop("local_files_only", None)  # transformers.pipeline() hands its own argument on
        # None of these means something: the best query, and never "nothing is there".
        postprocess = {name: given.pop(name) for name in _EXPRESSION_THRESHOLDS if name in given}
        postprocess |= {name: value for name in _THRESHOLDS if (value := given.pop(name, None)) is not None}
        loading = {name: value for name in _LOADING if (value := given.pop(name, None)) is not None}
        _check_names(given, "arguments")
        return {name: value for name, value in given.items() if value is not None} | loading, {}, postprocess

    def preprocess(self, item: Any, timeout: float = 20.0, allow_private_addresses: bool = False, **prompts: Any) -> dict[str, Any]:
        """One image with its prompts -> the tensors of its rows."""
        if isinstance(item, Mapping):
            if "image" not in item:
                raise ValueError(f"a dictionary needs the key 'image', got {', '.join(map(str, item)) or 'none'}")
            own = {name: value for name, value in item.items() if name != "image" and value is not None}
            _check_names(own, "keys of the dictionary")
            prompts, item = {**prompts, **own}, item["image"]
        name = f"{item}: " if isinstance(item, (str, os.PathLike)) else ""
        image = load_image(item, timeout, allow_private_addresses=allow_private_addresses) if name else item
        if isinstance(image, Image.Image) and (note := domain_note(self.model.config.domain, image)):
            logger.warning_once(note)  # the entries of the result have no place for it
        try:
            arguments, task, stuff = _processor_arguments(prompts)
            inputs = self._vocabularies.rows(image, task=task, **arguments)
        except ValueError as error:
            raise ValueError(f"{name}{error}") from error
        return {"inputs": dict(inputs), "prompt": _Prompt(inputs.row_info, task, stuff)}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        inputs, prompts = model_inputs["inputs"], model_inputs["prompt"]
        is_batch = isinstance(inputs, list)
        if not is_batch:
            inputs, prompts = [inputs], [prompts]
        joined = join_rows(inputs, self.processor.tokenizer.pad_token_id)
        outputs = self.model(**joined)
        predictions, first = [], 0
        for prompt in prompts:
            rows = slice(first, first + len(prompt.rows))
            predictions.append(_Prediction(prompt, rows_of(outputs, range(first, rows.stop)), joined["original_sizes"][rows].tolist()))
            first = rows.stop
        return {"prediction": predictions if is_batch else predictions[0]}

    def postprocess(self, model_outputs: dict[str, Any], threshold: float | None = None, **options: Any) -> list[dict[str, Any]]:
        """The outputs about one image -> its list of dictionaries."""
        prediction: _Prediction = model_outputs["prediction"]
        prompt, kinds = prediction.prompt, {row.kind for row in prediction.prompt.rows}
        if threshold is not None and prompt.task == "semantic" and "category" in kinds:
            raise ValueError("threshold: a semantic map has none, every pixel gets the best category; leave it out")
        options |= {"task": prompt.task, "stuff": prompt.stuff, "threshold": threshold}
        found = segments_of_parts(self.processor, prediction.outputs, prompt.rows, prediction.sizes, **options)
        return [
            {"label": one.label, "score": one.score, "mask": Image.fromarray(one.mask.cpu().numpy().astype(np.uint8) * 255)}
            for segments in found
            for one in segments
        ]


def join_rows(items: Sequence[Mapping[str, Tensor]], pad_token_id: int) -> dict[str, Tensor]:
    """Inputs of one image each as one batch: rows follow each other, images too.

    Args:
        items: of rows that are padded on the right, without targets.
        pad_token_id: fills `input_ids` up to the longest row.
    """
    if len(items) == 1:
        return dict(items[0])
    counts = {"image_index": "pixel_values", "region_image_index": "region_pixel_values"}  # index -> what it is an index into
    fills = {"input_ids": pad_token_id, "region_image_index": -1}
    joined = {}
    for name in dict.fromkeys(name for item in items for name in item):
        sample = next(item[name] for item in items if name in item)
        of_images = name in counts.values()
        width = max(item[name].shape[1] for item in items if name in item) if sample.dim() > 1 and not of_images else None
        parts, first = [], 0
        for item in items:
            part = item.get(name)
            if part is None and not of_images:  # an item without regions: its rows have none
                part = sample.new_full((len(item["input_ids"]), 0, *sample.shape[2:]), 0)
            if part is None:
                continue
            if name in counts:
                part, first = torch.where(part >= 0, part + first, part), first + len(item.get(counts[name], ()))
            if width is not None:
                missing = width - part.shape[1]
                part = torch.cat((part, part.new_full((len(part), missing, *part.shape[2:]), fills.get(name, 0))), dim=1)
            parts.append(part)
        joined[name] = torch.cat(parts)
    return joined


def _processor_arguments(prompts: Mapping[str, Any]) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """The processor's prompt arguments for one image, the task of its categories, and which of these are stuff."""
    arguments = {name: prompts[name] for name in ("categories", "expressions", "region_images") if name in prompts}
    regions = prompts.get("regions", [])
    regions = [regions] if isinstance(regions, Mapping) else list(regions)
    for name, kind in _REGION_ARGUMENTS.items():
        regions += [{kind: value} for value in _elements(prompts.get(name, ()), name)]
    if any(name in prompts for name in ("regions", *_REGION_ARGUMENTS)):
        arguments["regions"] = regions
    if not arguments.keys() - {"region_images"}:
        raise ValueError(f"no prompt; give one of {', '.join(_PROMPTS)}")
    categories, stuff = prompts.get("categories", ()), prompts.get("stuff", ())
    if unknown := [name for name in stuff if name not in categories]:
        raise ValueError(f"stuff: {', '.join(map(repr, unknown))} not among the categories {', '.join(map(str, categories)) or '(none)'}")
    return arguments, prompts.get("task", "panoptic"), tuple(stuff)


def _elements(value: Any, name: str) -> Iterator[Any]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f"{name}: expected a list with one element per region, got {value!r:.80}")
    return iter(value)


def _check_names(given: Mapping[str, Any], what: str) -> None:
    if unknown := given.keys() - set(_PROMPT_ARGUMENTS):
        raise ValueError(f"unknown {what}: {', '.join(sorted(map(str, unknown)))}; prompts are {', '.join(_PROMPT_ARGUMENTS)}")


def _as_list_or_stream(inputs: Any) -> Any:
    """One image and what the base class knows stay as they are; of the rest, what has positions becomes a dataset, else a generator."""
    if isinstance(inputs, (str, os.PathLike, Mapping, Image.Image, np.ndarray, Tensor, list, Dataset)):
        return inputs
    if isinstance(inputs, Sequence):
        return list(inputs)
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return _Items(inputs)
    if isinstance(inputs, Iterable):
        return (item for item in inputs)
    raise ValueError(f"expected an image, a dictionary with one, or a list or stream of these, got {type(inputs).__name__}")


PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=PromptableSegmentationPipeline,
    pt_model=PsalmForSegmentation,
    default={"model": (str(checkpoint_folder(TINY)), "main")},  # a folder has no revisions, but transformers asks for one
    type="multimodal",
)
