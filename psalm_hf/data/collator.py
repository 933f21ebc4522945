"""Collator: samples -> one batch for the model. The processor does the work; here images are read, and every sample becomes a row."""

from __future__ import annotations

import io
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from PIL import Image

from ..bounded_files import open_image_file
from ..structures import CATEGORY, CONVERSATION, REGION, SENTENCE, Sample, Segment
from .segment_map import UNREADABLE

# Condition -> keyword of the processor, and its entry for a sample.
_PROMPTS: dict[str, tuple[str, Callable[[Sample], Any]]] = {
    CATEGORY: ("categories", lambda sample: list(sample.categories.values())),
    # All expressions of a sample mean the same, so they are one row: a list in the list of expressions.
    SENTENCE: ("expressions", lambda sample: [list(sample.expressions)]),
    REGION: ("regions", lambda sample: [region.as_prompt() for region in sample.regions]),
    CONVERSATION: ("conversations", lambda sample: [dict(message) for message in sample.conversation]),
}


@dataclass(eq=False, repr=False)
class PsalmCollator:
    """Collator of samples: `collator(samples)` is the batch, one row per sample and in the order of the samples.

    Category rows get the instruction of the samples' task. An image that several samples share is in the batch once, see `open_images`.
    Crowds are no targets, and neither are regions that point at them. What is random depends on `seed` and the images of the batch alone,
    so that a run that resumes sees the same batches.

    Args:
        processor: a `PsalmProcessor`.
        with_targets: add `mask_labels` and `class_labels`; for conversations `labels` come with them or without, wherever the last
            message is the assistant's.
        shuffle_categories: write the categories in random order.
        prompt_style: see `PsalmProcessor`; default its own. "plain" for captions (first stage of training).
        seed: of the random draws: the shuffle, and a processor with `region_sampling="released"`.

    Raises:
        ValueError: when called: no samples, samples of different kinds or tasks, an image that cannot be read or has another size than its
            sample says, a region without segment, an expression or regions that mean crowds only; all that the processor refuses. The
            message names the image id.
    """

    processor: Any
    _: KW_ONLY
    with_targets: bool = True
    shuffle_categories: bool = False
    prompt_style: str | None = None
    seed: int = 0

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        if not samples:
            raise ValueError("collator: no samples; a batch has at least one")
        condition = _only(samples, "condition")
        if condition == REGION and self.with_targets:
            samples = [_without_crowd_regions(sample) for sample in samples]
        keyword, prompt_of = _PROMPTS[condition]
        images, region_images = open_images(samples)
        try:
            inputs = self.processor(
                images=images,
                targets=[_targets(sample) for sample in samples] if self.with_targets else None,
                task=_only(samples, "task"),
                prompt_style=self.prompt_style,
                shuffle_categories=self.shuffle_categories,
                seed=zlib.crc32(repr((self.seed, [sample.image_id for sample in samples])).encode()),
                region_images=region_images if any(region_images) else None,
                **{keyword: [prompt_of(sample) for sample in samples]},
            )
        except ValueError as error:
            ids = ", ".join(f"{index} = {sample.image_id}" for index, sample in enumerate(samples))
            raise ValueError(f"{error} (images of this batch: {ids})") from error
        return dict(inputs)


def _only(samples: Sequence[Sample], what: str) -> str:
    """Condition or task, of which a batch has one."""
    first = getattr(samples[0], what)
    for sample in samples:
        if getattr(sample, what) != first:
            raise ValueError(
                f"image {sample.image_id}: its {what} is {getattr(sample, what)}, but that of image {samples[0].image_id} in the same "
                f"batch is {first}; a batch has one {what}, let the sampler draw all of a batch from one source"
            )
    return first


def open_images(samples: Sequence[Sample]) -> tuple[list[Image.Image | None], list[Image.Image | None]]:
    """Images of the samples, and those that their regions are drawn on; None where there is none.

    An image that occurs several times is opened once and is one object, by which the processor knows it: an image of one path or one
    object, or of equal bytes or pixels under one `image_id`.

    Raises:
        ValueError: an image that cannot be read or has another size than the sample says; the message names the image id.
    """
    opened: dict[Any, list[tuple[Any, Image.Image]]] = defaultdict(list)

    def open_once(source: Any, image_id: str | int, image_size: Sequence[int] | None, name: str) -> Image.Image | None:
        if source is None:
            return None
        # Comparing bytes or pixels takes long: ids say where it may be worth it.
        candidates = opened[source if isinstance(source, str) else image_id]
        image = next((image for other, image in candidates if other is source or (type(other) is type(source) and other == source)), None)
        if image is None:
            image = open_stored_image(source, name)
            candidates.append((source, image))
        if (image.height, image.width) != tuple(image_size):
            raise ValueError(
                f"{name}: the image is {image.height} x {image.width}, but the sample says {tuple(image_size)}; sizes are "
                f"(height, width) as stored in the file, before any rotation"
            )
        return image

    images = [open_once(sample.image, sample.image_id, sample.image_size, f"image {sample.image_id}") for sample in samples]
    region_images = [
        open_once(sample.region_image, sample.image_id, sample.region_image_size, f"region image of image {sample.image_id}")
        for sample in samples
    ]
    return images, region_images


def open_stored_image(image: Any, item: str) -> Image.Image:
    """Image of a sample as stored and decoded: an EXIF orientation is not applied, because masks and prompts are drawn without it.

    Args:
        image: path, encoded bytes, or a PIL image, which is returned as it is.
        item: name of the image in the message.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        opened = image if isinstance(image, Image.Image) else open_image_file(io.BytesIO(image) if isinstance(image, bytes) else image)
        opened.load()
    except (*UNREADABLE, ValueError, TypeError) as error:
        name = f"{len(image)} bytes" if isinstance(image, bytes) else repr(image)
        raise ValueError(f"{item}: cannot be read from {name} ({type(error).__name__}: {error})") from error
    return opened


def _targets(sample: Sample) -> dict[str, Any] | None:
    if sample.condition == CONVERSATION:
        return None
    if sample.condition == REGION:
        return {"masks": [_meant_by(sample, index).mask_rle for index in range(len(sample.regions))]}
    kept = [index for index, segment in enumerate(sample.segments) if not segment.is_crowd]
    masks = [sample.segments[index].mask_rle for index in kept]
    if sample.condition == CATEGORY:
        labels = sample.class_labels
        return {"masks": masks, "class_labels": [labels[index] for index in kept]}
    if sample.segments and not kept:
        raise ValueError(
            f"image {sample.image_id}: {sample.expressions[0]!r} means crowds only, which are no targets; leave the sample out"
        )
    return {"masks": masks}


def _meant_by(sample: Sample, index: int) -> Segment:
    segment = sample.regions[index].segment
    if segment is None:
        raise ValueError(f"image {sample.image_id}: region {index} points at no segment; training needs the segment that is meant")
    return sample.segments[segment]


def _without_crowd_regions(sample: Sample) -> Sample:
    kept = tuple(region for index, region in enumerate(sample.regions) if not _meant_by(sample, index).is_crowd)
    if len(kept) == len(sample.regions):
        return sample
    if not kept:
        raise ValueError(f"image {sample.image_id}: all regions point at crowds, which are no targets; leave it out")
    return replace(sample, regions=kept)
