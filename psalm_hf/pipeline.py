"""`pipeline("promptable-segmentation")`: pictures and prompts in, a list of `{"label", "score", "mask"}` per picture out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline

from .checkpoints import TINY, checkpoint_folder
from .model.image_processing_psalm import load_image
from .model.modeling_psalm import PsalmForSegmentation, PsalmSegmentationOutput
from .model.rows import RowInfo

TASK = "promptable-segmentation"

# Argument -> what each of its elements is as a region of `PsalmProcessor`.
_REGION_ARGUMENTS = {"points": "point", "boxes": "box", "scribbles": "scribble", "masks": "mask"}
_PROMPTS = ("categories", "expressions", "regions", *_REGION_ARGUMENTS)
_PROMPT_ARGUMENTS = (*_PROMPTS, "region_images", "task", "stuff")
# For instances the processor keeps everything, as average precision wants it; a list of 100 masks is of no use.
_THRESHOLDS = {"panoptic": 0.8, "instance": 0.5}
_ROW_TENSORS = (
    "masks_queries_logits",
    "class_queries_logits",
    "referring_queries_logits",
    "region_queries_logits",
    "num_conditions",
    "condition_type",
)


@dataclass(frozen=True)
class _Prompt:
    """What is asked of one picture: its rows, and what to do with the categories."""

    rows: tuple[RowInfo, ...]
    task: str
    stuff: tuple[str, ...]


@dataclass(frozen=True)
class _Answer:
    """The outputs about one picture. No dictionary, so that the base class leaves the tensors on their device for post-processing."""

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
    """Segments pictures by prompts. Arguments of a call may also be given to `pipeline(...)`, where they are defaults."""

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __call__(self, inputs: Any, **arguments: Any) -> Any:
        """Segments one picture, a list, or a stream.

        Args:
            inputs: a picture (path, URL, PIL image, array, tensor); or a dictionary with the key "image" and any of the prompt arguments
                below, each of which replaces the one of the same name of the call; or a list of these; or a dataset or iterator of them.
            categories: names. task: "panoptic" (default), "semantic" or "instance". stuff: those of the categories whose segments
                are one segment (panoptic).
            expressions: a sentence or a list of them.
            regions: dictionaries as `PsalmProcessor` takes them. points [(x, y)], boxes [(x0, y0, x1, y1)], scribbles [[(x, y), ...]]
                and masks [(H, W)] are short for such regions and follow them, in this order. region_images: see the processor.
            threshold: least score of a segment of a category; default panoptic 0.8, instance 0.5.
            mask_threshold: of the probability of a pixel, default 0.5. overlap_mask_area_threshold: see
                `post_process_panoptic_segmentation`, default 0.8.
            referring_threshold, no_target_threshold: of expressions, see `post_process_referring_segmentation`; default those that the
                processor carries.
            timeout: seconds to wait for a URL.
            batch_size: pictures of a forward pass. num_workers: processes that open and prepare pictures.

        Returns:
            Per picture a list of `{"label": str, "score": float or None, "mask": PIL image of mode "L", 255 = set}` at the size of the
            picture: segments of the categories (a semantic map has no scores), then one for each expression that means something
            in the picture, then one for each region, whose label is its kind. A list for a list; an iterator for a dataset or an iterator.

        Raises:
            ValueError: no prompt, an unknown argument or key of a dictionary, or what the processor refuses; with the path of the picture,
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

    def _sanitize_parameters(
        self,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        overlap_mask_area_threshold: float | None = None,
        referring_threshold: float | str | None = "processor",
        no_target_threshold: float | str | None = "processor",
        timeout: float | None = None,
        **prompts: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        prompts.pop("local_files_only", None)  # transformers.pipeline() hands its own argument on
        _check_names(prompts, "arguments")
        preprocess = {name: value for name, value in prompts.items() if value is not None}
        if timeout is not None:
            preprocess["timeout"] = timeout
        given = {
            "threshold": threshold,
            "mask_threshold": mask_threshold,
            "overlap_mask_area_threshold": overlap_mask_area_threshold,
        }
        postprocess = {name: value for name, value in given.items() if value is not None}
        # None means something here: the best query, and never "nothing is there".
        of_expressions = {"referring_threshold": referring_threshold, "no_target_threshold": no_target_threshold}
        postprocess |= {name: value for name, value in of_expressions.items() if value != "processor"}
        return preprocess, {}, postprocess

    def preprocess(self, item: Any, timeout: float = 20.0, **prompts: Any) -> dict[str, Any]:
        """One picture with its prompts -> the tensors of its rows."""
        if isinstance(item, Mapping):
            if "image" not in item:
                raise ValueError(f"a dictionary needs the key 'image', got {', '.join(map(str, item)) or 'none'}")
            own = {name: value for name, value in item.items() if name != "image" and value is not None}
            _check_names(own, "keys of the dictionary")
            prompts, item = {**prompts, **own}, item["image"]
        name = f"{item}: " if isinstance(item, (str, os.PathLike)) else ""
        image = load_image(item, timeout) if name else item
        try:
            arguments, task, stuff = _processor_arguments(prompts)
            inputs = self.processor(images=image, task=task, return_tensors="pt", **arguments)
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
        answers, first = [], 0
        for prompt in prompts:
            rows = slice(first, first + len(prompt.rows))
            tensors = {name: outputs[name][rows] for name in _ROW_TENSORS if outputs.get(name) is not None}
            answers.append(_Answer(prompt, PsalmSegmentationOutput(**tensors), joined["original_sizes"][rows].tolist()))
            first = rows.stop
        return {"answer": answers if is_batch else answers[0]}

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        threshold: float | None = None,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        referring_threshold: float | str | None = "processor",
        no_target_threshold: float | str | None = "processor",
    ) -> list[dict[str, Any]]:
        """The outputs about one picture -> its list of dictionaries."""
        answer: _Answer = model_outputs["answer"]
        outputs, sizes, kinds = answer.outputs, answer.sizes, [row.kind for row in answer.prompt.rows]
        found: list[tuple[str, float | None, Tensor]] = []
        if "category" in kinds:
            found += self._categories(answer, threshold, mask_threshold, overlap_mask_area_threshold)
        if "sentence" in kinds:
            results = self.processor.post_process_referring_segmentation(
                outputs,
                threshold=referring_threshold,
                no_target_threshold=no_target_threshold,
                mask_threshold=mask_threshold,
                target_sizes=sizes,
            )
            for row, result in zip(answer.prompt.rows, results, strict=True):
                if row.kind == "sentence" and not result["no_target"]:
                    found.append(("; ".join(row.conditions), result["score"], result["segmentation"]))
        if "region" in kinds:
            results = self.processor.post_process_region_segmentation(outputs, mask_threshold=mask_threshold, target_sizes=sizes)
            row = kinds.index("region")
            found += zip(answer.prompt.rows[row].conditions, results[row]["scores"].tolist(), results[row]["masks"], strict=True)
        return [{"label": label, "score": score, "mask": _picture(mask)} for label, score, mask in found]

    def _categories(
        self, answer: _Answer, threshold: float | None, mask_threshold: float, overlap: float
    ) -> list[tuple[str, float | None, Tensor]]:
        """(name, score, mask) of every segment; the row of the categories is always the first one."""
        names, task = answer.prompt.rows[0].conditions, answer.prompt.task
        if task == "semantic":
            if threshold is not None:
                raise ValueError("threshold: a semantic map has none, every pixel gets the best category; leave it out")
            classes = self.processor.post_process_semantic_segmentation(answer.outputs, target_sizes=answer.sizes)[0]
            return [(names[label], None, classes == label) for label in classes.unique().tolist()]
        options = {
            "threshold": _THRESHOLDS[task] if threshold is None else threshold,
            "mask_threshold": mask_threshold,
            "target_sizes": answer.sizes,
        }
        if task == "instance":
            result = self.processor.post_process_instance_segmentation(answer.outputs, return_binary_maps=True, **options)[0]
            masks: Iterable[Tensor] = result["segmentation"]
        else:
            stuff = [names.index(name) for name in answer.prompt.stuff]
            result = self.processor.post_process_panoptic_segmentation(
                answer.outputs, overlap_mask_area_threshold=overlap, label_ids_to_fuse=stuff, **options
            )[0]
            masks = [result["segmentation"] == segment["id"] for segment in result["segments_info"]]
        return [(names[info["label_id"]], info["score"], mask) for info, mask in zip(result["segments_info"], masks, strict=True)]


def join_rows(items: Sequence[Mapping[str, Tensor]], pad_token_id: int) -> dict[str, Tensor]:
    """What the processor returned for one picture each, as one batch: rows follow each other, pictures too.

    Args:
        items: of rows that are padded on the right, without targets.
        pad_token_id: fills `input_ids` up to the longest row.
    """
    if len(items) == 1:
        return dict(items[0])
    width = max(item["input_ids"].shape[1] for item in items)
    joined = {
        name: torch.cat([F.pad(item[name], (0, width - item[name].shape[1]), value=fill) for item in items])
        for name, fill in (("input_ids", pad_token_id), ("attention_mask", 0), ("condition_index", 0))
    }
    joined |= {name: torch.cat([item[name] for item in items]) for name in ("condition_type", "original_sizes", "pixel_values")}
    joined["image_index"] = torch.cat([item["image_index"] + number for number, item in enumerate(items)])
    if any("region_weights" in item for item in items):
        joined |= _join_regions(items)
    return joined


def _join_regions(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    given = [item["region_weights"] for item in items if "region_weights" in item]
    num_rows = sum(len(item["input_ids"]) for item in items)
    weights = given[0].new_zeros(num_rows, max(tensor.shape[1] for tensor in given), given[0].shape[2])
    image_index = torch.full(weights.shape[:2], -1, device=weights.device)
    pictures: list[Tensor] = []
    first = num_pictures = 0
    for item in items:
        rows = slice(first, first + len(item["input_ids"]))
        first = rows.stop
        if "region_weights" not in item:
            continue
        columns = slice(0, item["region_weights"].shape[1])
        weights[rows, columns] = item["region_weights"]
        if "region_pixel_values" in item:
            own = item["region_image_index"]
            image_index[rows, columns] = torch.where(own >= 0, own + num_pictures, own)
            pictures.append(item["region_pixel_values"])
            num_pictures += len(item["region_pixel_values"])
    tensors = {"region_weights": weights}
    return tensors | {"region_image_index": image_index, "region_pixel_values": torch.cat(pictures)} if pictures else tensors


def _processor_arguments(prompts: Mapping[str, Any]) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """The processor's prompt arguments for one picture, the task of its categories, and which of these are stuff."""
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
    """One picture and what the base class knows stay as they are; of the rest, what has positions becomes a dataset, else a generator."""
    if isinstance(inputs, (str, os.PathLike, Mapping, Image.Image, np.ndarray, Tensor, list, Dataset)):
        return inputs
    if isinstance(inputs, Sequence):
        return list(inputs)
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return _Items(inputs)
    if isinstance(inputs, Iterable):
        return (item for item in inputs)
    raise ValueError(f"expected a picture, a dictionary with one, or a list or stream of these, got {type(inputs).__name__}")


def _picture(mask: Tensor) -> Image.Image:
    return Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255)


PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=PromptableSegmentationPipeline,
    pt_model=PsalmForSegmentation,
    default={"model": (str(checkpoint_folder(TINY)), "main")},  # a folder has no revisions, but transformers asks for one
    type="multimodal",
)
