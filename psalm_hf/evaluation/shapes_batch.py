"""Some scenes of the shapes world, drawn once and encoded once, about which every task asks its prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..data.collator import PsalmCollator
from ..data.shapes import ShapesStream
from ..data.shapes_scene import Scene, Thing, make_scene
from ..metrics import ReferringIoU, RegionIoU, size_bin
from ..structures import Sample

SIZES = {"below 2 %": (0.0, 0.02), "larger": (0.02, math.inf)}  # visible area as a fraction of the picture
Measure = TypeVar("Measure", ReferringIoU, RegionIoU)
MAX_ANSWER_TOKENS = 8  # answers are one word or a number


@dataclass(frozen=True)
class Prompt:
    """One row that is asked, and the scene it asks about. `tags` are the sample's, see `ShapesStream.samples`."""

    sample: Sample
    tags: tuple[str, ...]
    scene: Scene

    @cached_property
    def things(self) -> tuple[Thing, ...]:
        """The things among the sample's segments, in the order of the segments."""
        # Things share no pixel, so that the mask says which one it is; its bitmap then needs no decoding.
        by_mask = {thing.mask_rle["counts"]: thing for thing in self.scene.things}
        return tuple(by_mask[segment.mask_rle["counts"]] for segment in self.sample.segments if segment.mask_rle["counts"] in by_mask)


@dataclass(frozen=True)
class _DrawnStream(ShapesStream):
    """Drawing a scene takes longer than what any task says about it, so all tasks share one drawing."""

    drawn: Mapping[int, Scene] = field(default_factory=dict)

    def scene(self, index: int) -> Scene:
        return self.drawn[index]


@dataclass(eq=False)
class SceneBatch:
    """The scenes `numbers` of a split, for a `PsalmForSegmentation` in eval mode and its processor; the caller is in inference mode."""

    model: Any
    processor: Any
    split: str
    numbers: Sequence[int]

    @cached_property
    def scenes(self) -> dict[int, Scene]:
        """By number."""
        side = self.processor.image_processor.image_size
        return {number: make_scene(self.split, number, image_size=side) for number in self.numbers}

    @cached_property
    def _image_features(self) -> Any:
        pictures = [Image.fromarray(scene.image) for scene in self.scenes.values()]
        pixel_values = self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return self.model.get_image_features(pixel_values.to(self.model.device))

    def prompts(self, task: str, **options: Any) -> list[Prompt]:
        """What a task asks about these scenes; options of `ShapesStream`."""
        side = self.processor.image_processor.image_size
        stream = _DrawnStream(task, self.split, image_size=side, drawn=self.scenes, **options)
        return [Prompt(sample, sample.tags, scene) for number, scene in self.scenes.items() for sample in stream.samples(number)]

    def forward(self, samples: Sequence[Sample]) -> Any:
        """Network outputs, one row per sample."""
        return self.model(**self._inputs(samples))

    def answer(self, samples: Sequence[Sample]) -> list[str]:
        """What the model says, without sampling, one text per conversation."""
        inputs = self._inputs(samples)
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False)
        return self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def _inputs(self, samples: Sequence[Sample]) -> dict[str, Any]:
        inputs = PsalmCollator(self.processor, with_targets=False)(samples)
        del inputs["pixel_values"]
        places = {scene.image_id: place for place, scene in enumerate(self.scenes.values())}
        inputs["image_index"] = inputs["image_index"].new_tensor([places[sample.image_id] for sample in samples])
        tensors = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        return tensors | {"image_features": self._image_features}


def scene_batches(model: Any, processor: Any, split: str, num_images: int, batch_size: int, title: str) -> Iterator[SceneBatch]:
    """The first `num_images` scenes of a split, `batch_size` at a time, with a progress bar.

    Raises:
        ValueError: no pictures, or a batch without any.
    """
    if num_images < 1 or batch_size < 1:
        raise ValueError(f"shapes: num_images and batch_size must be at least 1, got {num_images} and {batch_size}")
    for first in tqdm(range(0, num_images, batch_size), desc=title, unit="batch"):
        yield SceneBatch(model, processor, split, range(first, min(first + batch_size, num_images)))


def area_ranges(image_size: Sequence[int]) -> dict[str, tuple[float, float]]:
    """`SIZES` in pixels: name -> (lowest area, first area beyond)."""
    pixels = image_size[0] * image_size[1]
    return {
        name: (math.ceil(low * pixels), math.inf if high == math.inf else math.ceil(high * pixels)) for name, (low, high) in SIZES.items()
    }


def closed(ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Ranges of whole numbers of pixels with both ends in them, which is what `MaskAP` wants."""
    return {name: (low, high - 1) for name, (low, high) in ranges.items()}


def size_and_novelty(mask: np.ndarray, things: Sequence[Thing]) -> tuple[str, str]:
    """The two groups of a true mask (H, W) that these things make up: one of `SIZES`, and "held out" if one of them is a pair of colour
    and shape that training never shows, else "seen"."""
    return size_bin(mask.mean(), SIZES), "held out" if any(thing.is_held_out for thing in things) else "seen"


def sums_by_group(measures: Mapping[tuple[str, ...], Measure], new: Callable[[], Measure]) -> dict[str, Measure]:
    """Measures of whatever has exactly these groups -> one measure per group, sorted by name; `new` makes an empty one.

    Comparing masks costs more than adding measures, so every mask is compared once.
    """
    sums: dict[str, Measure] = {}
    for groups, measure in measures.items():
        for group in groups:
            total = sums.setdefault(group, new())
            total += measure
    return dict(sorted(sums.items()))
