"""`PsalmPredictor`: an image that is encoded once, any prompt about it, and one kind of result.

The pipeline, the commands, the page and the server stand on it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image

from .checkpoints import TINY
from .devices import pick_device
from .domain import domain_note
from .model.image_processing_psalm import load_image, to_rgb
from .model.modeling_psalm import PsalmForSegmentation, PsalmImageFeatures
from .model.processing_psalm import PsalmInputs, PsalmProcessor
from .model.rows import EncodedImage, RowInfo
from .model.segmentations import THRESHOLDS
from .result import Prompt, PsalmResult, loaded_region, region_name
from .structures import CATEGORY, CONVERSATION, REGION, SENTENCE, TASKS
from .vocabulary import Vocabularies, rows_of, segments_of_parts

CACHED_IMAGES = 4
MAX_NEW_TOKENS = 128
_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()  # one for each model, whoever uses it
_LOCKS_LOCK = threading.Lock()


@dataclass(frozen=True)
class EncodedPixels:
    """An image, and what the model makes of it before any prompt.

    Attributes:
        image: RGB, upright.
        features: of the model; no pixels are needed any more.
        source: its path or URL, if it was given as one.
        note: what a user must know about all results, else None.
    """

    image: Image.Image
    features: PsalmImageFeatures
    source: str | None
    note: str | None


def lock_of(model: Any) -> threading.RLock:
    """The lock that every thread takes before it calls this model."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, threading.RLock())


class PsalmPredictor:
    """Answers prompts about images. An image is encoded when it is first seen, and a prompt costs what it adds.

        predictor = PsalmPredictor.from_pretrained("psalm-tiny")
        predictor.set_image("kitchen.jpg")
        predictor.predict(categories=["cup", "table", "wall"], stuff=["wall"]).plot()
        predictor.predict(regions=[{"point": (320, 200)}]).masks
        predictor.predict("other.jpg", expressions=["the red cup"])     # the image is not kept as the one that is looked at

    `predict(image, ...)` may be called by many threads. One model computes for one thread at a time; images are read and results are made
    at the same time. `set_image` belongs to one thread: it says what `predict` without an image looks at.

    Args:
        model: a `PsalmForSegmentation`; it is put into evaluation mode.
        processor: of the same checkpoint.
        cached_images: images whose features are kept, those that were used last. They take memory of the model's device: in the released
            model 70 MB each in float32, with the beginning of the prompt 200 MB.
        reuse_prefix: read the beginning of a prompt, up to the end of the image, once per image instead of once per prompt. Without, the
            same prompt gives the same bits each time; with it scores may differ by 1e-4.
        checkpoint: its name, for results.

    Raises:
        ValueError: `cached_images` below 1.
    """

    def __init__(
        self,
        model: PsalmForSegmentation,
        processor: PsalmProcessor,
        *,
        cached_images: int = CACHED_IMAGES,
        reuse_prefix: bool = True,
        checkpoint: str | None = None,
    ):
        if isinstance(cached_images, bool) or not isinstance(cached_images, int) or cached_images < 1:
            raise ValueError(f"cached_images: expected a whole number of at least 1, got {cached_images!r}")
        self.model = model.eval()
        self.processor = processor
        self.checkpoint = checkpoint
        self.cached_images = cached_images
        self.reuse_prefix = reuse_prefix
        self.lock = lock_of(model)
        self._images: OrderedDict[bytes, EncodedPixels] = OrderedDict()
        self._vocabularies = Vocabularies(processor)
        self._current: EncodedPixels | None = None

    @classmethod
    def from_pretrained(
        cls, checkpoint: str | os.PathLike | None = None, device: str | None = None, dtype: Any = None, **options: Any
    ) -> PsalmPredictor:
        """Loads model and processor.

        Args:
            checkpoint: folder or Hub id; also an original PSALM folder; default psalm-tiny.
            device: such as "cpu", "cuda:1" or "mps"; default the accelerator of this machine if there is one.
            dtype: of the weights, such as "bfloat16"; default that of the checkpoint.
            options: of `PsalmPredictor`.

        Raises:
            ValueError, OSError: no such device or checkpoint.
        """
        name = TINY if checkpoint is None else os.fspath(checkpoint)
        place = pick_device(device)
        processor = PsalmProcessor.from_pretrained(name)
        model = PsalmForSegmentation.from_pretrained(name, dtype="auto" if dtype is None else dtype).to(place)
        return cls(model, processor, checkpoint=name, **options)

    def set_image(self, image: Any) -> None:
        """Encodes an image, unless its features are kept, and looks at it from now on.

        Args:
            image: path, URL, PIL image, array or tensor, see `load_image` and `to_rgb`. A file is turned upright.

        Raises:
            ValueError: it cannot be read; then nothing has changed.
        """
        self._current = self.encode(image)

    def reset_image(self) -> None:
        """Forgets the image of `set_image`, and all features that are kept."""
        with self.lock:
            self._current = None
            self._images.clear()

    @property
    def image(self) -> Image.Image | None:
        """The image that `predict` looks at, RGB; None before `set_image`."""
        return None if self._current is None else self._current.image

    @property
    def note(self) -> str | None:
        """The note of the image that `predict` looks at, which its results carry; None = there is none."""
        return None if self._current is None else self._current.note

    @property
    def features(self) -> PsalmImageFeatures | None:
        """Features of the image that `predict` looks at, for a call of the model by hand; None before `set_image`."""
        return None if self._current is None else self._current.features

    def predict(
        self,
        image: Any = None,
        *,
        categories: Sequence[str] | None = None,
        expressions: Sequence | str | None = None,
        regions: Sequence[Mapping] | Mapping | None = None,
        question: str | Sequence[Mapping[str, str]] | None = None,
        task: str | None = None,
        stuff: Sequence[str] = (),
        instances: bool = False,
        threshold: float | None = None,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        no_target_threshold: float | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> PsalmResult:
        """Answers one prompt.

        Args:
            image: see `set_image`; default the image that was set.
            categories: names, as many as you like: what does not fit into one prompt is divided, see docs/label_lists.md.
            expressions: a sentence or a list of them; a list inside of the list is one expression of several sentences.
            regions: dictionaries as of the processor, `{"point": (x, y)}`, `{"box": (x0, y0, x1, y1)}`, `{"scribble": [...]}`,
                `{"mask": ...}`; a mask may also be the path of an image, whose pixels above 0 are the prompt.
            question: a text, or the messages of a conversation that ends with the user's.
            task: of categories: "panoptic" (default), "semantic" or "instance".
            stuff: those of the categories whose segments are fused.
            instances: True = every instance by itself; of categories the same as task="instance".
            threshold: least score; default panoptic 0.8, instance 0.5, of expressions what the processor carries. 1 = the best mask of an
                expression alone.
            mask_threshold: least probability of a pixel.
            overlap_mask_area_threshold: see `post_process_panoptic_segmentation`.
            no_target_threshold: an expression means nothing unless a mask scores above it; default what the processor carries; 0 = it
                always means something.
            max_new_tokens: of the answer to a question.

        Raises:
            ValueError: no image; not exactly one kind of prompt; what the processor refuses.
        """
        prompt = {
            "categories": categories,
            "expressions": expressions,
            "regions": regions,
            "question": question,
            "task": task,
            "stuff": stuff,
            "instances": instances,
            "threshold": threshold,
            "mask_threshold": mask_threshold,
            "overlap_mask_area_threshold": overlap_mask_area_threshold,
            "no_target_threshold": no_target_threshold,
            "max_new_tokens": max_new_tokens,
        }
        return self.predict_all([prompt], image)[0]

    def predict_all(self, prompts: Sequence[Mapping[str, Any]], image: Any = None) -> list[PsalmResult]:
        """Answers several prompts about one image in one pass of the model (each question in one of its own).

        Args:
            prompts: arguments of `predict`; the task of all categories is the same.
            image: see `set_image`; default the image that was set.

        Returns:
            A result for each prompt.

        Raises:
            ValueError: see `predict`; prompts of categories with different tasks.
        """
        asked = [_Asked.read(self.processor, prompt) for prompt in prompts]
        encoded = self._current if image is None else self.encode(image)
        if encoded is None:
            raise ValueError("no image: call set_image first, or give one with the prompt")
        masks = [one for one in asked if one.prompt.kind != CONVERSATION]
        found = iter(self._segment(encoded, masks) if masks else ())
        return [self._answer(encoded, one) if one.prompt.kind == CONVERSATION else next(found) for one in asked]

    def encode(self, image: Any) -> EncodedPixels:
        """The features of an image, kept or made now.

        Args:
            image: see `set_image`.
        """
        source = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        rgb = to_rgb(image) if source is None else load_image(source)
        key = hashlib.sha256(b"%d x %d" % rgb.size + rgb.tobytes()).digest()
        with self.lock:
            if key in self._images:
                self._images.move_to_end(key)
                return replace(self._images[key], source=source)
        pixels = self.processor.image_processor([rgb], return_tensors="pt")["pixel_values"]
        note = domain_note(self.model.config.domain, rgb)
        with self.lock, torch.inference_mode():
            if key not in self._images:  # another thread may have been here
                features = self.model.get_image_features(pixels.to(self.model.device))
                self._images[key] = EncodedPixels(rgb, features, source, note)
            self._images.move_to_end(key)
            while len(self._images) > self.cached_images:
                self._images.popitem(last=False)
            return replace(self._images[key], source=source)

    def _segment(self, encoded: EncodedPixels, asked: Sequence[_Asked]) -> list[PsalmResult]:
        inputs, rows = self._rows(asked, encoded.image.size)
        with self.lock, torch.inference_mode():
            outputs = self.model(
                **inputs.to(self.model.device), image_features=encoded.features, use_cache=None if self.reuse_prefix else False
            )
        return [self._result(encoded, one, outputs, inputs, indices) for one, indices in zip(asked, rows, strict=True)]

    def _rows(self, asked: Sequence[_Asked], size: tuple[int, int]) -> tuple[PsalmInputs, list[list[int]]]:
        """Inputs of the model without the image, and which rows belong to which prompt."""
        tasks = {one.prompt.task for one in asked if one.prompt.kind == CATEGORY}
        if len(tasks) > 1:
            raise ValueError(f"prompts of categories with the tasks {', '.join(sorted(tasks))} in one pass; ask them one after the other")
        if len(asked) == 1 and tasks:
            inputs = self._vocabularies.encoded_rows(size, asked[0].argument, *tasks)
            return inputs, [list(range(len(inputs.row_info)))]
        entries: list[tuple[int, dict[str, Any]]] = []  # one per row of the batch, or per list of expressions
        for number, one in enumerate(asked):
            if one.prompt.kind == CATEGORY:
                entries += [(number, {"categories": part}) for part in self._vocabularies.parts(one.argument, one.prompt.task)]
            else:
                entries.append((number, {"expressions" if one.prompt.kind == SENTENCE else "regions": one.argument}))
        arguments = {name: [entry.get(name) for _, entry in entries] for name in ("categories", "expressions", "regions")}
        inputs = self.processor(images=[EncodedImage(size)] * len(entries), task=tasks.pop() if tasks else TASKS[0], **arguments)
        rows: list[list[int]] = [[] for _ in asked]
        for index, row in enumerate(inputs.row_info):
            rows[entries[row.image][0]].append(index)
        return inputs, rows

    def _result(self, encoded: EncodedPixels, one: _Asked, outputs: Any, inputs: PsalmInputs, indices: list[int]) -> PsalmResult:
        """The result of the prompt that has these rows of the batch."""
        info: list[RowInfo] = [inputs.row_info[index] for index in indices]
        sizes = [encoded.image.size[::-1]] * len(indices)
        outputs = rows_of(outputs, indices)
        with torch.inference_mode():
            if one.prompt.kind == SENTENCE and not one.prompt.instances:
                segments, absent = self._meant(one, outputs, sizes)
            else:
                found = segments_of_parts(self.processor, outputs, info, sizes, **one.options)
                segments = [(segment.index, segment.score, segment.mask) for of_row in found for segment in of_row]
                absent = self._absent(one, outputs, sizes, found) if one.prompt.kind == SENTENCE else {}
        masks = [mask.cpu().numpy() for _, _, mask in segments]
        return PsalmResult(
            image=encoded.image,
            prompt=one.prompt,
            masks=np.stack(masks) if masks else np.zeros((0, *sizes[0]), dtype=bool),
            scores=np.array([np.nan if score is None else score for _, score, _ in segments], dtype=np.float64),
            label_ids=np.array([index for index, _, _ in segments], dtype=np.int64),
            note=encoded.note,
            source=encoded.source,
            checkpoint=self.checkpoint,
            absent=absent,
        )

    def _meant(self, one: _Asked, outputs: Any, sizes: Any) -> tuple[list[tuple[int, float, Any]], dict[str, float]]:
        """(index, score, mask) of every expression that means something, and the others with the score that came closest."""
        found = self.processor.post_process_referring_segmentation(
            outputs,
            threshold=one.prompt.threshold,
            mask_threshold=one.prompt.mask_threshold,
            target_sizes=sizes,
            no_target_threshold=one.prompt.no_target_threshold,
        )
        segments = [(index, result["score"], result["segmentation"]) for index, result in enumerate(found) if not result["no_target"]]
        named = zip(one.prompt.names, found, strict=True)
        return segments, {name: result["score"] for name, result in named if result["no_target"]}

    def _absent(self, one: _Asked, outputs: Any, sizes: Any, found: Any) -> dict[str, float]:
        """Expressions of which no instance was found, with the score of the mask that comes closest."""
        missing = [index for index, segments in enumerate(found) if not segments]
        if not missing:
            return {}
        options = {"threshold": None, "no_target_threshold": None, "mask_threshold": one.prompt.mask_threshold}
        best = self.processor.post_process_referring_segmentation(rows_of(outputs, missing), target_sizes=sizes[: len(missing)], **options)
        return {one.prompt.names[index]: result["score"] for index, result in zip(missing, best, strict=True)}

    def _answer(self, encoded: EncodedPixels, one: _Asked) -> PsalmResult:
        inputs = self.processor(images=EncodedImage(encoded.image.size), conversations=one.argument)
        length, tokenizer = inputs["input_ids"].shape[1], self.processor.tokenizer
        with self.lock, torch.inference_mode():
            tokens = self.model.generate(
                **inputs.to(self.model.device),
                image_features=encoded.features,
                do_sample=False,
                max_new_tokens=min(one.options["max_new_tokens"], max(1, self.processor.max_length - length)),
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        text = tokenizer.decode(tokens[0, length:], skip_special_tokens=True).strip()
        nothing = np.zeros((0, *encoded.image.size[::-1]), dtype=bool)
        return PsalmResult(
            image=encoded.image,
            prompt=one.prompt,
            masks=nothing,
            scores=np.zeros(0),
            label_ids=np.zeros(0, dtype=np.int64),
            text=text,
            note=encoded.note,
            source=encoded.source,
            checkpoint=self.checkpoint,
        )


_DEFAULTS = {
    name: parameter.default
    for name, parameter in signature(PsalmPredictor.predict).parameters.items()
    if parameter.kind is Parameter.KEYWORD_ONLY
}


@dataclass(frozen=True)
class _Asked:
    """A prompt that was read: what the processor takes, and the options of post-processing."""

    prompt: Prompt
    argument: Any
    options: dict[str, Any]

    @classmethod
    def read(cls, processor: PsalmProcessor, arguments: Mapping[str, Any]) -> _Asked:
        """Reads arguments of `PsalmPredictor.predict`; those that are left out have its defaults.

        Raises:
            ValueError: not exactly one kind of prompt, or an option that it does not have.
        """
        readers = {"categories": CATEGORY, "expressions": SENTENCE, "regions": REGION, "question": CONVERSATION}
        if unknown := arguments.keys() - _DEFAULTS.keys():
            raise ValueError(f"unknown arguments: {', '.join(sorted(unknown))}; a prompt is one of {', '.join(readers)}")
        given = _DEFAULTS | arguments
        prompts = {name: given[name] for name in readers if given[name] is not None}
        if len(prompts) != 1:
            raise ValueError(f"expected one kind of prompt, got {' and '.join(prompts) or 'none'}; give one of {', '.join(readers)}")
        task, stuff, instances, threshold = (given[name] for name in ("task", "stuff", "instances", "threshold"))
        mask_threshold = given["mask_threshold"]
        ((name, value),) = prompts.items()
        kind = readers[name]
        if kind in (REGION, CONVERSATION) and instances:
            raise ValueError(f"instances belong to categories and expressions, not to {name}")
        if kind != CATEGORY and (task or stuff):
            raise ValueError(f"{'task' if task else 'stuff'} belongs to categories, not to {name}")
        if kind == CATEGORY:
            task = "instance" if instances and task is None else task or "panoptic"
            options = _category_options(value, task, stuff, instances, threshold)
            if task != "semantic":
                options |= {"mask_threshold": mask_threshold}
            if task == "panoptic":
                options |= {"overlap_mask_area_threshold": given["overlap_mask_area_threshold"]}
            prompt = Prompt(kind, tuple(value), task, tuple(stuff), threshold=options.get("threshold"), mask_threshold=mask_threshold)
            return cls(prompt, list(value), options)
        if kind == SENTENCE:
            value = [value] if isinstance(value, str) else list(value)
            thresholds = _expression_thresholds(processor, instances, threshold, given["no_target_threshold"])
            options = dict(zip(("referring_threshold", "no_target_threshold"), thresholds, strict=True))
            options |= {"mask_threshold": mask_threshold, **({"instances": True} if instances else {})}
            names = tuple(text if isinstance(text, str) else "; ".join(text) for text in value)
            prompt = Prompt(
                kind,
                names,
                instances=instances,
                threshold=thresholds[0],
                mask_threshold=mask_threshold,
                no_target_threshold=thresholds[1],
            )
            return cls(prompt, value, options)
        if threshold is not None:
            raise ValueError(f"threshold: {name} have none; leave it out")
        if kind == REGION:
            regions = [value] if isinstance(value, Mapping) else list(value)
            read = [loaded_region(region) for region in regions]
            prompt = Prompt(kind, tuple(map(region_name, regions)), regions=tuple(regions), mask_threshold=mask_threshold)
            return cls(prompt, read, {"mask_threshold": mask_threshold})
        messages = [{"role": "user", "content": value}] if isinstance(value, str) else list(value)
        return cls(Prompt(kind, (str(messages[-1]["content"]),)), messages, {"max_new_tokens": given["max_new_tokens"]})


def _category_options(names: Any, task: str, stuff: Sequence[str], instances: bool, threshold: float | None) -> dict[str, Any]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"categories: expected a list of names, got {names!r:.80}")
    if task not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
    if instances and task != "instance":
        raise ValueError(f'instances: of categories they are task="instance", not {task!r}')
    if unknown := [name for name in stuff if name not in names]:
        raise ValueError(f"stuff: {', '.join(map(repr, unknown))} not among the categories {', '.join(map(str, names))}")
    if task == "semantic":
        if threshold is not None:
            raise ValueError("threshold: a semantic map has none, every pixel gets the best category; leave it out")
        return {"task": task}
    return {"task": task, "stuff": stuff, "threshold": THRESHOLDS[task] if threshold is None else threshold}


def _expression_thresholds(
    processor: PsalmProcessor, instances: bool, threshold: float | None, no_target_threshold: float | None
) -> tuple[float | None, float | None]:
    """`threshold` and `no_target_threshold`, where none was chosen those of the processor."""
    if not instances:
        return (
            processor.referring_threshold if threshold is None else threshold,
            processor.no_target_threshold if no_target_threshold is None else no_target_threshold,
        )
    chosen = ("processor" if value is None else value for value in (threshold, no_target_threshold))
    return processor.instance_thresholds(*chosen)
