"""`PsalmPredictor`: an image that is encoded once, any prompt about it, and one kind of result.

The pipeline, the commands, the page and the server stand on it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from itertools import islice
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image

from .checkpoints import TINY
from .devices import pick_device
from .domain import domain_note
from .model.image_processing_psalm import Size, load_image, to_rgb
from .model.modeling_psalm import PsalmForSegmentation, PsalmImageFeatures
from .model.processing_psalm import PsalmInputs, PsalmProcessor
from .model.rows import EncodedImage, RowInfo
from .model.segmentations import THRESHOLDS
from .result import Prompt, PsalmResult, loaded_region, region_name
from .structures import CATEGORY, CONVERSATION, REGION, SENTENCE, TASKS
from .tiling import join_results, read_tiles, tile_windows
from .vocabulary import Vocabularies, rows_of, segments_of_parts
from .zoom import best_answers, crop_question, crops_of

CACHED_IMAGES = 4
PARTS_AT_ONCE = 8  # parts of images, when zooming and tiling: more in one pass were not faster
MAX_NEW_TOKENS = 128
COUNTED_SIDE = 256  # pixels of the longer side of an image, for which segments are counted before their masks are made
_TOP_K = 100  # instances of categories in one image, see `post_process_instance_segmentation`
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
        max_mask_pixels: of categories and of instances, which may be many: pixels of the image times masks of a result. What would have
            more is refused before the masks are made; None = nothing is refused.

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
        max_mask_pixels: int | None = None,
    ):
        if isinstance(cached_images, bool) or not isinstance(cached_images, int | np.integer) or cached_images < 1:
            raise ValueError(f"cached_images: expected a whole number of at least 1, got {cached_images!r}")
        self.model = model.eval()
        self.processor = processor
        self.checkpoint = checkpoint
        self.cached_images = cached_images
        self.reuse_prefix = reuse_prefix
        self.max_mask_pixels = max_mask_pixels
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
        zoom: Literal["auto"] | None = None,
        tiles: int | tuple[int, int] | None = None,
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
            zoom: of regions and expressions: "auto" = what is small in the image is asked again in enlarged crops, and the best answer
                stays, see docs/large_images.md.
            tiles: of categories and expressions: a large image is also asked in overlapping tiles, and the answers are joined; pixels along
                a tile, or (rows, columns), see `tile_windows`.

        Raises:
            ValueError: no image; not exactly one kind of prompt; an option that does not belong to it; what the processor refuses.
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
            "zoom": zoom,
            "tiles": tiles,
        }
        return self.predict_all([prompt], image)[0]

    def predict_all(self, prompts: Sequence[Mapping[str, Any]], image: Any = None) -> list[PsalmResult]:
        """Answers several prompts about one image in one pass of the model (each question in one of its own).

        Args:
            prompts: arguments of `predict`; each further task of categories is a pass of its own.
            image: see `set_image`; default the image that was set.

        Returns:
            A result for each prompt.

        Raises:
            ValueError: see `predict`.
        """
        asked = [_Asked.read(self.processor, prompt) for prompt in prompts]
        encoded = self._current if image is None else self.encode(image)
        if encoded is None:
            raise ValueError("no image: call set_image first, or give one with the prompt")
        return self._predict([(encoded, asked)])[0]

    def predict_batch(self, requests: Sequence[tuple[Any, Sequence[Mapping[str, Any]]]]) -> list[list[PsalmResult]]:
        """Answers prompts about several images in one pass of the model (each further task of categories, and each question, in one of its
        own). Images that are not kept are encoded together.

        A result does not depend on what else is asked, but for rounding: scores differ by less than 1e-4.

        Args:
            requests: an image, see `set_image`, with its own prompts, arguments of `predict`.

        Returns:
            Per image a result for each of its prompts.

        Raises:
            ValueError: see `predict`; of the first prompt or image that is refused, and then nothing is answered.
        """
        asked = [[_Asked.read(self.processor, prompt) for prompt in prompts] for _, prompts in requests]
        return self._predict(list(zip(self.encode_all([image for image, _ in requests]), asked, strict=True)))

    def encode(self, image: Any) -> EncodedPixels:
        """The features of an image, kept or made now.

        Args:
            image: see `set_image`.
        """
        return self.encode_all([image])[0]

    def encode_all(self, images: Sequence[Any]) -> list[EncodedPixels]:
        """The features of images; those that are not kept are made in one call of the model.

        Args:
            images: see `set_image`.
        """
        sources = [os.fspath(image) if isinstance(image, (str, os.PathLike)) else None for image in images]
        pairs = zip(images, sources, strict=True)
        rgbs = [to_rgb(image) if source is None else load_image(source) for image, source in pairs]
        keys = [hashlib.sha256(b"%d x %d" % rgb.size + rgb.tobytes()).digest() for rgb in rgbs]
        with self.lock:
            found = {key: self._images[key] for key in keys if key in self._images}
            for key in found:
                self._images.move_to_end(key)
        if missing := {key: rgb for key, rgb in zip(keys, rgbs, strict=True) if key not in found}:
            found |= self._encode(missing)
        return [replace(found[key], source=source) for key, source in zip(keys, sources, strict=True)]

    def _encode(self, images: Mapping[bytes, Image.Image]) -> dict[bytes, EncodedPixels]:
        """Encodes images in one call of the model, and keeps those that were used last."""
        pixels = self.processor.image_processor(list(images.values()), return_tensors="pt")["pixel_values"]
        notes = {key: domain_note(self.model.config.domain, rgb) for key, rgb in images.items()}
        with self.lock, torch.inference_mode():
            missing = {key: position for position, key in enumerate(images) if key not in self._images}  # others: by another thread
            if missing:
                features = self.model.get_image_features(pixels[list(missing.values())].to(self.model.device))
                for key, of_image in zip(missing, _split_features(features), strict=True):
                    self._images[key] = EncodedPixels(images[key], of_image, None, notes[key])
            for key in images:
                self._images.move_to_end(key)
            found = {key: self._images[key] for key in images}
            while len(self._images) > self.cached_images:
                self._images.popitem(last=False)
        return found

    def _predict(self, requests: Sequence[tuple[EncodedPixels, Sequence[_Asked]]]) -> list[list[PsalmResult]]:
        jobs = [(encoded, one) for encoded, asked in requests for one in asked if one.prompt.kind != CONVERSATION]
        for encoded, one in jobs:
            if one.tiles is not None:
                tile_windows(encoded.image.size[::-1], one.tiles)  # refuses what does not suit the image before anything is computed
        found: dict[int, PsalmResult] = {}
        # The words around categories name the task, so that prompts of another task are another pass.
        tasks = list(dict.fromkeys(one.prompt.task for _, one in jobs if one.prompt.task)) or [None]
        for task in tasks:
            chosen = [job for job in jobs if job[1].prompt.task == task or (job[1].prompt.task is None and task == tasks[0])]
            if chosen:
                results = self._segment(chosen, task)
                found |= {id(one): result for (_, one), result in zip(chosen, results, strict=True)}
        self._zoom([one for _, one in jobs if one.zoom], found)
        for encoded, one in jobs:
            if one.tiles is not None:
                found[id(one)] = self._tile(encoded.image, one, found[id(one)])
        return [
            [self._answer(encoded, one) if one.prompt.kind == CONVERSATION else found[id(one)] for one in asked]
            for encoded, asked in requests
        ]

    def _zoom(self, asked: Sequence[_Asked], found: dict[int, PsalmResult]) -> None:
        """Puts better answers from crops into the results of these prompts."""
        longest = self.processor.image_processor.image_size
        jobs = [(found[id(one)], one, crops_of(found[id(one)], one.argument)) for one in asked]
        questions = (crop_question(crop, result, one.argument, longest) for result, one, crops in jobs for crop in crops)
        answers = self._predict_parts((image, _Asked.read(self.processor, prompt)) for image, prompt in questions)
        for result, one, crops in jobs:
            found[id(one)] = best_answers(result, one.argument, crops, answers)

    def _tile(self, image: Image.Image, one: _Asked, whole: PsalmResult) -> PsalmResult:
        """The answer about an image from its tiles, and from that about the whole of it."""
        windows = tile_windows(image.size[::-1], one.tiles)
        results = list(self._predict_parts((window.crop(image), replace(one, tiles=None)) for window in windows))
        return join_results(whole, results, windows)

    def _predict_parts(self, parts: Iterable[tuple[Image.Image, _Asked]]) -> Iterator[PsalmResult]:
        """Answers about parts of images, `PARTS_AT_ONCE` in a pass. Their features are not kept: they would drive out those of images."""
        waiting = iter(parts)
        while some := list(islice(waiting, PARTS_AT_ONCE)):
            pixels = self.processor.image_processor([image for image, _ in some], return_tensors="pt")["pixel_values"]
            with self.lock, torch.inference_mode():
                features = _split_features(self.model.get_image_features(pixels.to(self.model.device)))
            requests = [(EncodedPixels(image, own, None, None), [one]) for (image, one), own in zip(some, features, strict=True)]
            yield from (result for (result,) in self._predict(requests))

    def _segment(self, jobs: Sequence[tuple[EncodedPixels, _Asked]], task: str | None) -> list[PsalmResult]:
        """Results of prompts about masks, in one pass.

        Args:
            task: of all categories; None = no prompt has categories.
        """
        images = list({id(encoded.features): encoded.features for encoded, _ in jobs}.values())
        inputs, rows = self._rows(jobs, images, task)
        with self.lock, torch.inference_mode():
            features = _join_features(images)
            outputs = self.model(**inputs.to(self.model.device), image_features=features, use_cache=None if self.reuse_prefix else False)
        return [self._result(*job, outputs, inputs, indices) for job, indices in zip(jobs, rows, strict=True)]

    def _rows(
        self, jobs: Sequence[tuple[EncodedPixels, _Asked]], images: Sequence[PsalmImageFeatures], task: str | None
    ) -> tuple[PsalmInputs, list[list[int]]]:
        """Inputs of the model without the images, and which rows belong to which prompt."""
        names = jobs[0][1].argument
        if all(one.prompt.kind == CATEGORY and one.argument == names for _, one in jobs):
            inputs = self._vocabularies.encoded_rows([encoded.image.size for encoded, _ in jobs], names, task)
            number = len(inputs.row_info) // len(jobs)
            rows = [list(range(index * number, (index + 1) * number)) for index in range(len(jobs))]
        else:
            entries: list[tuple[int, dict[str, Any]]] = []  # one per row of the batch, or per list of expressions
            for index, (_, one) in enumerate(jobs):
                if one.prompt.kind == CATEGORY:
                    entries += [(index, {"categories": part}) for part in self._vocabularies.parts(one.argument, task)]
                else:
                    entries.append((index, {"expressions" if one.prompt.kind == SENTENCE else "regions": one.argument}))
            arguments = {name: [entry.get(name) for _, entry in entries] for name in ("categories", "expressions", "regions")}
            sizes = [EncodedImage(jobs[index][0].image.size) for index, _ in entries]
            inputs = self.processor(images=sizes, task=task or TASKS[0], **arguments)
            rows = [[] for _ in jobs]
            for row, info in enumerate(inputs.row_info):
                rows[entries[info.image][0]].append(row)
        positions = {id(features): position for position, features in enumerate(images)}
        image_of_row = {row: positions[id(encoded.features)] for (encoded, _), of_job in zip(jobs, rows, strict=True) for row in of_job}
        inputs["image_index"] = torch.tensor([image_of_row[row] for row in range(len(image_of_row))])
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
                self._check_mask_pixels(one, outputs, info, sizes[0])
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

    def _check_mask_pixels(self, one: _Asked, outputs: Any, info: Sequence[RowInfo], size: Size) -> None:
        """Raises ValueError if the masks of the segments would have too many pixels. They are counted at a small size, at which scores
        hardly differ: masks of the size of the image are what must not be made."""
        queries = outputs.masks_queries_logits
        if self.max_mask_pixels is None or one.prompt.kind == REGION:
            return
        most = self.max_mask_pixels // (size[0] * size[1])
        if most >= max(len(queries) * queries.shape[1], len(one.prompt.names), _TOP_K):
            return  # there are no more in any case
        scale = min(1, COUNTED_SIDE / max(size))
        small = [(max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))] * len(info)
        number = sum(map(len, segments_of_parts(self.processor, outputs, info, small, **one.options)))
        if number > most:
            raise ValueError(
                f"{number} masks of {size[1]} x {size[0]} pixels are found, and at most {self.max_mask_pixels} pixels are answered; "
                f"make the image smaller, ask for fewer names{'' if one.prompt.task == 'semantic' else ', or give a higher threshold'}"
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


def _split_features(features: PsalmImageFeatures) -> list[PsalmImageFeatures]:
    """Features of each image by themselves, copied where there are several: what is forgotten of one frees its memory."""
    number = len(features.image_tokens)
    if number == 1:
        return [features]

    def own(tensor: torch.Tensor, index: int) -> torch.Tensor:
        return tensor[index : index + 1].clone()

    return [
        PsalmImageFeatures(
            image_tokens=own(features.image_tokens, index),
            mask_features=own(features.mask_features, index),
            multi_scale=tuple(own(level, index) for level in features.multi_scale),
        )
        for index in range(number)
    ]


def _join_features(images: Sequence[PsalmImageFeatures]) -> PsalmImageFeatures:
    """Features of several images as those of one call; of one image they are the same object, with the beginning of an earlier prompt."""
    if len(images) == 1:
        return images[0]
    return PsalmImageFeatures(
        image_tokens=torch.cat([image.image_tokens for image in images]),
        mask_features=torch.cat([image.mask_features for image in images]),
        multi_scale=tuple(torch.cat(level) for level in zip(*(image.multi_scale for image in images), strict=True)),
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
    zoom: bool = False
    tiles: int | tuple[int, int] | None = None

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
        zoom = _read_zoom(given["zoom"], name, kind, instances)
        tiles = given["tiles"]
        if tiles is not None:
            tiles = read_tiles(tiles)
            if kind not in (CATEGORY, SENTENCE):
                raise ValueError(f'tiles belong to categories and expressions, not to {name}; a small region is found with zoom="auto"')
            if zoom:
                raise ValueError("zoom and tiles exclude each other: tiles show all of the image as large as zoom would; leave one out")
        if kind in (REGION, CONVERSATION) and instances:
            raise ValueError(f"instances belong to categories and expressions, not to {name}")
        if kind != CATEGORY and (task or stuff):
            raise ValueError(f"{'task' if task else 'stuff'} belongs to categories, not to {name}")
        if kind != SENTENCE and given["no_target_threshold"] is not None:
            raise ValueError(f"no_target_threshold belongs to expressions, not to {name}; leave it out")
        if kind == CATEGORY:
            task = "instance" if instances and task is None else task or "panoptic"
        _refuse_idle(given, name, kind, task)
        if kind == CATEGORY:
            options = _category_options(value, task, stuff, instances, threshold)
            if task != "semantic":
                options |= {"mask_threshold": mask_threshold}
            if task == "panoptic":
                options |= {"overlap_mask_area_threshold": given["overlap_mask_area_threshold"]}
            prompt = Prompt(
                kind, tuple(value), task, tuple(stuff), threshold=options.get("threshold"), mask_threshold=mask_threshold, tiles=tiles
            )
            return cls(prompt, list(value), options, tiles=tiles)
        if kind == SENTENCE:
            value = _read_expressions(value)
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
                zoom=given["zoom"],
                tiles=tiles,
            )
            return cls(prompt, value, options, zoom, tiles)
        if threshold is not None:
            raise ValueError(f"threshold: {name} have none; leave it out")
        if kind == REGION:
            regions = _read_regions(value)
            read = [loaded_region(region) for region in regions]
            names = tuple(map(region_name, regions))
            prompt = Prompt(kind, names, regions=tuple(regions), mask_threshold=mask_threshold, zoom=given["zoom"])
            return cls(prompt, read, {"mask_threshold": mask_threshold}, zoom)
        messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
        if not (isinstance(messages, Sequence) and messages and all(isinstance(turn, Mapping) and "content" in turn for turn in messages)):
            raise ValueError(
                f"question: expected a text, or a list of messages {{role, content}} that ends with the user's, got {value!r:.80}"
            )
        messages = list(messages)
        return cls(Prompt(kind, (str(messages[-1]["content"]),)), messages, {"max_new_tokens": given["max_new_tokens"]})


def _read_expressions(value: Any) -> list[Any]:
    """The expressions of a list, or the one that was given without a list."""
    found = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    for one in found:
        if not isinstance(one, str | Sequence) or not all(isinstance(text, str) for text in one):
            raise ValueError(f"expressions: expected a sentence, or a list of sentences or of lists of them, got {one!r:.80}")
    return found


def _read_regions(value: Any) -> list[Mapping[str, Any]]:
    """The regions of a list, or the one that was given without a list."""
    found = [value] if isinstance(value, Mapping) or not isinstance(value, Iterable) else list(value)
    if wrong := [region for region in found if not isinstance(region, Mapping)]:
        raise ValueError(f'regions: expected dictionaries such as {{"point": (x, y)}}, got {wrong[0]!r:.80}')
    return found


def _refuse_idle(given: Mapping[str, Any], name: str, kind: str, task: str | None) -> None:
    """Raises ValueError for a number that was chosen and would change nothing."""
    idle = {
        "mask_threshold": "masks that are decided one by one" if task == "semantic" or kind == CONVERSATION else None,
        "overlap_mask_area_threshold": "panoptic categories" if task != "panoptic" else None,
        "max_new_tokens": "questions" if kind != CONVERSATION else None,
    }
    for option, owner in idle.items():
        if owner is not None and given[option] != _DEFAULTS[option]:
            raise ValueError(f"{option} belongs to {owner}, not to {f'{task} ' if task else ''}{name}; leave it out")


def _read_zoom(zoom: Any, name: str, kind: str, instances: bool) -> bool:
    """True where small things are looked at again."""
    if zoom is None:
        return False
    if zoom != "auto":
        raise ValueError(f'zoom: expected "auto" or None, got {zoom!r:.80}')
    if kind not in (REGION, SENTENCE) or instances:
        raise ValueError(
            f"zoom belongs to regions and to expressions without instances, not to {'instances' if instances else name}; "
            "of a large image, categories are found in tiles"
        )
    return True


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
