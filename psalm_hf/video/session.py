"""PsalmVideoSession: objects that are given in some frame of a video, by a region or by words, are found in the frames that follow.

R objects asked for in a frame, M region features of all of them together, Q mask queries, G image tokens, D language width, (h, w) the
resolution of the prediction, (H, W) that of the video.

Source: cross-image region prompts of PSALM (arXiv:2403.14598, github.com/zamling/PSALM, d5dbfda) for the policies `last_frame` and
`released`; sessions as an object of their own are SAM 2's idea.
"""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as serialize
from torch import Tensor
from torch.nn import functional as F

from ..model.convert_psalm_checkpoint import opened_safetensors, reading
from ..model.image_processing_psalm import Placement, Size, content_size, to_rgb
from ..model.modeling_psalm import PsalmForSegmentation, PsalmImageFeatures, pool_regions
from ..model.postprocessing import region_scores
from ..model.processing_psalm import PsalmProcessor
from ..model.regions import Click, place_region, region_clicks, region_mask
from ..model.segmentations import check_score
from ..writing import write_file
from .memory import LastFrame, ObjectId, ObjectMemory, Picked, describe_policy, iou, read_policy
from .words import (
    Found,
    KnownObject,
    Meaning,
    Search,
    Words,
    check_texts,
    is_words,
    overlap,
    read_known_object,
    read_meanings,
    read_search,
    read_words,
    share_out,
    whole_number,
    words_inputs,
)

LOOK_EVERY = 5
MAX_FOLLOWED = 100


@dataclass(frozen=True)
class VideoResult:
    """Objects of one frame.

    Attributes:
        masks: object id -> (H, W) bool on the CPU, empty = the object is absent.
        scores: object id -> how sure the model is of the mask, in [0, 1]; also of an absent object. Of one that is given by words and was
            not found yet: of the best mask in a frame in which it is looked for, else 0.
    """

    masks: dict[ObjectId, Tensor]
    scores: dict[ObjectId, float]


@dataclass(frozen=True)
class _Encoded:
    """The frame that was seen last; the only one that is kept."""

    pixels: bytes  # of the frame as given
    features: PsalmImageFeatures


@dataclass
class _Taken:
    """Meanings of words in a frame, ready to be taken over: by id the things that are new to the session, their memories and their labels,
    the best scores of what was not found, and the searches with their next numbers."""

    found: dict[ObjectId, Found] = field(default_factory=dict)
    memories: dict[ObjectId, ObjectMemory] = field(default_factory=dict)
    missed: dict[ObjectId, float] = field(default_factory=dict)
    searches: dict[ObjectId, Search] = field(default_factory=dict)


class PsalmVideoSession:
    """Follows objects through one video. All objects of a frame are one prompt, and each new frame is encoded once.

    An object is remembered by a few region features (vectors) and one small mask, so the memory does not grow with the video.

    What is given by words is looked for in the frame, and the mask that is found is remembered as if it had been given. What is not there
    is looked for again in every `look_every`-th call of `track`, as are new instances of what is followed with `instances=True`.

        session = PsalmVideoSession(model, processor)
        session.add_objects(frames[0], {1: mask, 2: {"box": (10, 20, 90, 140)}})
        for frame in frames:
            result = session.track(frame)

    Args:
        model: in evaluation mode.
        processor: of the same checkpoint.
        policy: "first_last_confident" (ours), "last_frame" (the paper) or "released", or an object of `psalm_hf.video.memory` with
            options of its own.
        look_every: number of calls of `track` from one in which words are looked for to the next.
        threshold: score above which what words mean counts as found. None = the processor's: of an expression `no_target_threshold`, of its
            instances see `instance_thresholds`; of categories 0.5.
        max_objects: new instances join up to so many objects of the session.

    Raises:
        ValueError: unknown policy, a model in training mode, or a number out of its range.
    """

    def __init__(
        self,
        model: PsalmForSegmentation,
        processor: PsalmProcessor,
        policy: str | LastFrame = "first_last_confident",
        *,
        look_every: int = LOOK_EVERY,
        threshold: float | None = None,
        max_objects: int = MAX_FOLLOWED,
    ):
        if model.training:
            raise ValueError("model: is in training mode, where its predictions are random; call model.eval() first")
        for name, value in (("look_every", look_every), ("max_objects", max_objects)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        check_score(threshold, "threshold")
        self.model = model
        self.processor = processor
        self.policy = read_policy(policy)
        self.look_every, self.threshold, self.max_objects = look_every, threshold, max_objects
        self.reset()

    def reset(self) -> None:
        """Forgets objects and frames: the next frame may be of another video."""
        self.frame_size: Size | None = None
        self._objects: dict[ObjectId, KnownObject] = {}
        self._memories: dict[ObjectId, ObjectMemory] = {}  # of those that were given or found
        self._searches: dict[ObjectId, Search] = {}
        self._num_tracked = 0
        self._encoded: _Encoded | None = None
        self._row: dict[str, Tensor] = {}

    @property
    def object_ids(self) -> tuple[ObjectId, ...]:
        """Ids of the objects, in the order in which they joined; also of those that were not found yet."""
        return tuple(self._objects)

    @property
    def searches(self) -> tuple[ObjectId, ...]:
        """Ids that were given with `instances=True`, whose instances are looked for."""
        return tuple(self._searches)

    @property
    def labels(self) -> dict[ObjectId, str | None]:
        """Object id -> the expression or the name of the category by which it was given or found; None = it was given as a region."""
        return {name: each.label for name, each in self._objects.items()}

    @property
    def num_found(self) -> dict[ObjectId, int]:
        """Object id -> in how many calls of `track` its mask was not empty."""
        return {name: each.num_found for name, each in self._objects.items()}

    @property
    def num_tracked(self) -> int:
        """Number of calls of `track`."""
        return self._num_tracked

    @torch.no_grad()
    def add_objects(self, frame: Any, objects: Mapping[ObjectId, Any], *, instances: bool = False) -> VideoResult:
        """Objects that the session follows from now on.

        Args:
            frame: the image that they are drawn on or looked for in, in any form that the processor takes. It need not be tracked, and is
                not encoded again if it is the frame that was given last.
            objects: id (int or str) -> mask (H, W) (array, tensor, PIL image or COCO RLE), or a region as of the processor, in pixels of
                the frame: `{"mask": ...}`, `{"box": (x0, y0, x1, y1)}`, `{"point": (x, y)}`, `{"points": [...]}`, `{"scribble": [...]}`.
                If points of label 0 say what does not belong to it, what the network finds in this frame without that is remembered. Or
                words: `{"expression": text}`, the best thing that it means, or `{"categories": [name, ...]}`, the best thing of any of
                them. If there is none in this frame that no other object has, the object has no mask until it is found.
            instances: of words every thing that is meant is an object, now and when it appears. The ids come from the given one: 1, 2, 3
                ... from 1, and "car 1", "car 2", ... from "car"; an id that is taken is left out.

        Returns:
            The objects that words mean in this frame, and those that were not found, with an empty mask and the score that came closest.

        Raises:
            ValueError: an id that the session has already, none at all, a region that is empty or outside of the frame, words that are no
                text, blank or too long, instances of a region, a frame of another size than the ones before. Then nothing is added.
        """
        objects = _checked_ids(objects)
        if known := [name for name in objects if name in self._objects or name in self._searches]:
            raise ValueError(f"object {known[0]!r}: is in the session already; use correct() to change it, or another id")
        regions, words = self._divided(objects, instances)
        memories, encoded, meanings = self._read_given(frame, regions, words)
        searches = {name: Search(each, name if isinstance(name, int) else 1) for name, each in words.items() if each.instances}
        known = self._memories | memories
        seen = self._seen(encoded, known) if words else []
        taken = self._take(encoded, words, meanings, searches, seen, {*objects, *self._objects, *self._searches})
        single = {
            name: KnownObject(words.get(name), str(words[name]) if name in words else None) for name in objects if name not in searches
        }
        self._objects |= single
        self._memories = known
        self._accept(taken)
        return self._shown(taken)

    @torch.no_grad()
    def correct(self, frame: Any, objects: Mapping[ObjectId, Any]) -> VideoResult:
        """Tells where objects really are: what was remembered of them is replaced. Arguments and result as of `add_objects`.

        Raises:
            ValueError: an unknown id, and as `add_objects`. Then nothing is changed.
        """
        objects = _checked_ids(objects)
        for name in objects:
            self._check_known(name)
        regions, words = self._divided(objects, False)
        memories, encoded, meanings = self._read_given(frame, regions, words)
        others = {name: memory for name, memory in (self._memories | memories).items() if name not in words}
        taken = self._take(encoded, words, meanings, {}, self._seen(encoded, others) if words else [], set())
        for name, memory in (memories | taken.memories).items():
            memory.renewed = self._memories[name].renewed if name in self._memories else -1
        for name in objects:
            self._objects[name].words = words.get(name)
            self._objects[name].label = str(words[name]) if name in words else None
            if name in taken.missed:
                self._memories.pop(name, None)
        self._memories |= memories
        self._accept(taken)
        return self._shown(taken)

    def remove(self, object_id: ObjectId) -> None:
        """The object is no longer looked for. With the id that was given with `instances=True`, new instances are no longer looked for
        either, and those that were found are followed on. An instance that is removed before may be found again, under another id.

        Raises:
            ValueError: unknown id.
        """
        if object_id not in self._searches:
            self._check_known(object_id)
        self._searches.pop(object_id, None)
        self._objects.pop(object_id, None)
        self._memories.pop(object_id, None)

    @torch.no_grad()
    def track(self, frame: Any, visible: Collection[ObjectId] | None = None) -> VideoResult:
        """Finds the objects in a frame and renews what is remembered of them.

        Args:
            frame: the next image of the video, in any form that the processor takes.
            visible: the objects that the frame shows, if the ground truth says so: the oracle of the released evaluation. The others are
                not asked for and score 0, and nothing is looked for by words. None = the score of an object decides if it is there.

        Raises:
            ValueError: no objects yet, unknown ids in `visible`, no image, or one of another size than the ones before.
        """
        if not self._objects and not self._searches:
            raise ValueError("there is no object to track; call add_objects() first")
        visible = None if visible is None else set(visible)  # also of an iterator, which can be read once
        for name in visible or ():
            self._check_known(name)
        asked = [name for name in self._objects if name in self._memories and (visible is None or name in visible)]
        encoded = self._encode(frame)
        masks = {name: torch.zeros(self.frame_size, dtype=torch.bool) for name in self._objects}
        scores = dict.fromkeys(self._objects, 0.0)
        words = {} if visible is not None else self._words_due()
        meanings = self._look(encoded, words, words_inputs(self.processor, list(words.values()), self.frame_size)) if words else {}
        where: dict[ObjectId, Tensor] = {}
        seen: list[Tensor] = []
        if asked:
            queries, mask_logits, picked = self._pick(encoded, asked)
            reported = self.policy.report(picked)
            where = {
                name: mask_logits[query] > 0 for name, query, mask in zip(asked, queries.tolist(), reported, strict=True) if mask.any()
            }
            seen = _reported(picked, reported)
            masks |= zip(asked, reported.cpu(), strict=True)
            scores |= zip(asked, picked.scores.tolist(), strict=True)
        taken = self._take(encoded, words, meanings, self._searches, seen, {*self._objects, *self._searches})
        # From here on nothing can fail that depends on the frame.
        if asked:
            self._renew(encoded, asked, picked, reported)
        for name, memory in self._memories.items():
            memory.mask = where.get(name)
        self._accept(taken)
        found = self._shown(taken)
        masks, scores = masks | found.masks, scores | found.scores
        for name, mask in masks.items():
            self._objects[name].num_found += bool(mask.any())
        self._num_tracked += 1
        return VideoResult(masks, scores)

    # Between the sessions

    def save(self, path: str | os.PathLike) -> None:
        """Writes what the session remembers into one safetensors file, whole or not at all."""
        tensors, entries = {}, []
        for index, (name, each) in enumerate(self._objects.items()):
            entry = {"id": name, "words": each.words and asdict(each.words), "label": each.label, "num_found": each.num_found}
            memory = self._memories.get(name)
            entry["remembered"] = memory is not None
            if memory is not None:
                tensors[f"{index}.first"] = memory.first
                tensors |= {f"{index}.recent.{age}": feature for age, feature in enumerate(memory.recent)}
                if memory.mask is not None:
                    tensors[f"{index}.mask"] = memory.mask
                entry |= {"renewed": memory.renewed, "recent": len(memory.recent), "mask": memory.mask is not None}
            entries.append(entry)
        searches = [{"id": name, "words": asdict(search.words), "number": search.number} for name, search in self._searches.items()]
        state = {"objects": entries, "frame_size": self.frame_size, "num_tracked": self._num_tracked, **describe_policy(self.policy)}
        state |= {"searches": searches, **self._looking()}
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_file(Path(path), lambda file: file.write(serialize(tensors, metadata={"session": json.dumps(state)})))
        if self._encoded is not None:
            # What was read of the prompt is read again: a session that loads the file goes on without it, and shall have the same bits.
            self._encoded.features["prefix"] = None

    def load(self, path: str | os.PathLike) -> None:
        """Remembers what `save` wrote, instead of what the session has: tracking goes on as if it had never stopped.

        Raises:
            ValueError: no such file, a damaged one, another policy, `look_every`, `threshold` or `max_objects` where something is looked
                for by words, or features of another width than the model's. Then nothing is changed.
        """
        path = Path(path)
        with reading(f"{path}: not a saved session", "give a file that save() wrote"):
            with opened_safetensors(path) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                state = json.loads(file.metadata()["session"])
            frame_size, num_tracked, entries = state["frame_size"], whole_number(state["num_tracked"], 0), list(state["objects"])
            if frame_size is not None:
                height, width = (whole_number(side, 1) for side in frame_size)
                frame_size = (height, width)
        for name, value in describe_policy(self.policy).items():
            if state.get(name) != value:
                raise ValueError(f"{path}: saved with {name} {state.get(name)!r}, but the session has {value!r}; use the same policy")
        width = self.model.config.text_config.hidden_size
        if wrong := [tensor for name, tensor in tensors.items() if name.endswith("first") and tensor.shape != (width,)]:
            raise ValueError(f"{path}: features of shape {tuple(wrong[0].shape)}, but the model's are ({width},); use the same checkpoint")
        with reading(f"{path}: not a saved session", "give a file that save() wrote"):
            ids = [entry["id"] for entry in entries]
            objects = _checked_ids(dict(zip(ids, map(read_known_object, entries), strict=True)))
            if len(objects) < len(entries):
                raise ValueError("an object is there twice")
            remembered = [(index, entry) for index, entry in enumerate(entries) if entry.get("remembered", True)]
            memories = dict(self._read_memory(index, entry, tensors) for index, entry in remembered)
            searches = {entry["id"]: read_search(entry) for entry in state.get("searches", [])}
            searches = _checked_ids(searches)
            if any(each.words is None for name, each in objects.items() if name not in memories):
                raise ValueError("an object has neither a memory nor words")
        if searches or len(memories) < len(objects):
            for name, value in self._looking().items():
                if state.get(name) != value:
                    raise ValueError(f"{path}: saved with {name} {state.get(name)!r}, but the session has {value!r}; use the same")
        self.reset()
        self.frame_size, self._num_tracked = frame_size, num_tracked
        self._objects, self._memories, self._searches = objects, memories, searches

    def _looking(self) -> dict[str, Any]:
        """Settings that decide when words are looked for, and what counts as found."""
        return {"look_every": self.look_every, "threshold": self.threshold, "max_objects": self.max_objects}

    def _read_memory(self, index: int, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[ObjectId, ObjectMemory]:
        """Id and memory of an object of a file that `save` wrote."""
        first = tensors[f"{index}.first"]
        recent = [tensors[f"{index}.recent.{age}"] for age in range(whole_number(entry["recent"], 0))]
        mask = tensors[f"{index}.mask"] if entry["mask"] else None
        vectors = torch.stack([first, *recent])
        if not vectors.is_floating_point() or not vectors.isfinite().all():
            raise ValueError(f"object {index} has features that are no finite numbers")
        if mask is not None and (mask.ndim != 2 or mask.dtype != torch.bool):
            raise ValueError(f"object {index} has a mask of shape {tuple(mask.shape)} and type {mask.dtype}")
        device = self.model.device
        renewed = whole_number(entry["renewed"], -1)
        return entry["id"], ObjectMemory(
            first.to(device), [feature.to(device) for feature in recent], renewed, None if mask is None else mask.to(device)
        )

    # Frames and prompts in

    def _encode(self, frame: Any) -> _Encoded:
        image = to_rgb(frame, "frame")
        size = (image.height, image.width)
        if self.frame_size not in (None, size):
            raise ValueError(
                f"frame: is {size[0]} high and {size[1]} wide, but the frames before were {self.frame_size[0]} high and "
                f"{self.frame_size[1]} wide; a session is for one video, call reset() before another one"
            )
        pixels = image.tobytes()
        # By content and not by identity: a camera may write every frame into the same array.
        if self._encoded is None or self.frame_size is None or self._encoded.pixels != pixels:
            pixel_values = self.processor.image_processor([image], return_tensors="pt")["pixel_values"].to(self.model.device)
            self._encoded = _Encoded(pixels, self.model.get_image_features(pixel_values))
        self.frame_size = size
        return self._encoded

    def _divided(self, objects: Mapping[ObjectId, Any], instances: bool) -> tuple[dict[ObjectId, Any], dict[ObjectId, Words]]:
        """Regions and words."""
        if not objects:
            raise ValueError("objects: is empty; give at least one id and where it is")
        words = {name: read_words(prompt, instances, f"object {name!r}") for name, prompt in objects.items() if is_words(prompt)}
        regions = {name: prompt for name, prompt in objects.items() if name not in words}
        if instances and regions:
            raise ValueError(f"object {next(iter(regions))!r}: is a region; instances belong to words, add regions without them")
        return regions, words

    def _read_given(
        self, frame: Any, regions: Mapping[ObjectId, Any], words: Mapping[ObjectId, Words]
    ) -> tuple[dict[ObjectId, ObjectMemory], _Encoded, dict[ObjectId, Meaning]]:
        """Memories of the regions, the frame, and what the words mean in it."""
        image = to_rgb(frame, "frame")
        for name, each in words.items():
            check_texts(self.processor, each, f"object {name!r}")
        inputs = words_inputs(self.processor, list(words.values()), (image.height, image.width)) if words else None
        memories = self._read_prompts(image, regions) if regions else {}
        encoded = self._encode(image)
        return memories, encoded, self._look(encoded, words, inputs) if words else {}

    def _read_prompts(self, frame: Any, objects: Mapping[ObjectId, Any]) -> dict[ObjectId, ObjectMemory]:
        image = to_rgb(frame, "frame")
        size = (image.height, image.width)
        regions = {name: _as_region(prompt) for name, prompt in objects.items()}
        names = {name: f"object {name!r}" for name in regions}
        weights = self._weights(list(regions.values()), size, list(names.values()))
        clicks = {name: found for name, region in regions.items() if (found := region_clicks(region, size, names[name]))}
        encoded = self._encode(image)
        if clicks:
            is_clicked = torch.tensor([name in clicks for name in regions])
            masks = self._corrected(encoded, weights[is_clicked], list(clicks.values()))
            regions |= {name: {"mask": mask} for name, mask in zip(clicks, masks, strict=True)}
            weights[is_clicked] = self._weights([regions[name] for name in clicks], size, [f"{names[name]}, corrected" for name in clicks])
        drawn = {name: region_mask(region, size, names[name]) for name, region in regions.items() if "mask" in region}
        features = self._pool(encoded, weights)
        return {
            name: ObjectMemory(feature.clone(), mask=self._reduce(encoded, drawn[name]) if name in drawn else None)
            for name, feature in zip(regions, features, strict=True)
        }

    def _corrected(self, encoded: _Encoded, weights: Tensor, clicks: Sequence[Sequence[Click]]) -> list[np.ndarray]:
        """Masks (H, W) of prompts (R, G) that were drawn on a frame, each corrected by its clicks: a vector cannot say what it is not."""
        outputs = self.model(
            **self._prompt_row(len(weights)), image_features=encoded.features, region_weights=weights[None].to(self.model.device)
        )
        (found,) = self.processor.post_process_region_segmentation(outputs, target_sizes=[self.frame_size], clicks=[clicks])
        return list(found["masks"].cpu().numpy())

    def _weights(self, regions: Sequence[Mapping[str, Any]], size: Size, names: Sequence[str] | None = None) -> Tensor:
        """(R, G), see `PsalmProcessor.region_weights`."""
        # Seeded by the frame: a session that was saved and loaded draws the same pixels, where the processor draws any.
        generator = torch.Generator().manual_seed(self._num_tracked)
        return self.processor.region_weights(regions, size, generator=generator, names=names)

    def _pool(self, encoded: _Encoded, weights: Tensor) -> Tensor:
        """(R, G) -> (R, D)."""
        tokens = encoded.features.image_tokens  # (1, G, D)
        index = torch.zeros((1, len(weights)), dtype=torch.int64, device=tokens.device)
        return pool_regions(weights[None].to(tokens.device), tokens, index)[0]

    def _reduce(self, encoded: _Encoded, mask: np.ndarray | Tensor) -> Tensor:
        """(H, W) bool -> (h, w) bool, as the network would predict it."""
        return self._coverage(encoded, mask).ge(0.5).to(self.model.device)

    def _coverage(self, encoded: _Encoded, mask: np.ndarray | Tensor) -> Tensor:
        """(H, W) bool -> (h, w) float on the CPU: the share of each cell that the mask covers; not 0 everywhere, however small it is."""
        mask = mask.cpu().numpy() if isinstance(mask, Tensor) else mask
        placed = torch.from_numpy(place_region(mask, self.processor.image_processor.image_size))[None, None]
        return F.interpolate(placed.float(), size=encoded.features.mask_features.shape[-2:], mode="area")[0, 0]

    # Words

    def _words_due(self) -> dict[ObjectId, Words]:
        """Words that are looked for in the next frame: they depend on its number and on what the session has, never on the calls before."""
        if (self._num_tracked + 1) % self.look_every:
            return {}
        missing = {name: each.words for name, each in self._objects.items() if name not in self._memories}
        return missing | {name: search.words for name, search in self._searches.items()}

    def _look(self, encoded: _Encoded, words: Mapping[ObjectId, Words], inputs: Any) -> dict[ObjectId, Meaning]:
        outputs = self.model(**inputs.to(self.model.device), image_features=encoded.features)
        found = read_meanings(self.processor, outputs, list(words.values()), self.frame_size, self.threshold)
        return dict(zip(words, found, strict=True))

    def _seen(self, encoded: _Encoded, memories: Mapping[ObjectId, ObjectMemory]) -> list[Tensor]:
        """Masks (H, W) bool of the objects that a frame shows, which need not be the one that was tracked last."""
        if not memories:
            return []
        _, _, picked = self._pick(encoded, list(memories), memories)
        return _reported(picked, self.policy.report(picked))

    def _take(
        self,
        encoded: _Encoded,
        words: Mapping[ObjectId, Words],
        meanings: Mapping[ObjectId, Meaning],
        searches: Mapping[ObjectId, Search],
        seen: Iterable[Tensor],
        ids: set[ObjectId],
    ) -> _Taken:
        """Chooses what is new to the session.

        Args:
            searches: by the ids of the words with instances.
            seen: masks (H, W) bool of the objects that the frame shows.
            ids: that are taken.
        """
        taken, ids = _Taken(), set(ids)
        room = self.max_objects - len(self._objects)
        limit = self.processor.nms_threshold
        things: list[Tensor] = []  # coverage of each thing that is there: those that objects have, then those that words mean
        if any(meaning.found for meaning in meanings.values()):
            things += [self._coverage(encoded, mask) for mask in seen]
        num_taken = len(things)

        def thing_of(found: Found) -> int:
            """Number of the thing that a mask is of."""
            coverage = self._coverage(encoded, found.mask)
            number = next((number for number, other in enumerate(things) if overlap(coverage, other) > limit), len(things))
            things.extend([coverage] * (number == len(things)))
            return number

        single = {name: meaning for name, meaning in meanings.items() if not words[name].instances}
        choices = {name: [(thing_of(found), found) for found in meaning.found] for name, meaning in single.items()}
        taken.found = dict(share_out(choices, num_taken))
        taken.missed = {name: meaning.best for name, meaning in single.items() if name not in taken.found}
        used = {*range(num_taken), *(thing_of(found) for found in taken.found.values())}
        for name, search in searches.items():
            # The first instance of 3 is called 3.
            occupied = (ids - {name}) | (ids & self._objects.keys())
            number = search.number
            for found in meanings[name].found if name in meanings else ():
                thing = thing_of(found)
                if room <= 0 or thing in used:
                    continue
                used.add(thing)
                while (new := number if isinstance(name, int) else f"{name} {number}") in occupied:
                    number += 1
                taken.found[new] = found
                occupied.add(new)
                ids.add(new)
                number, room = number + 1, room - 1
            taken.searches[name] = replace(search, number=number)
        if taken.found:
            masks = [found.mask for found in taken.found.values()]
            features = self._pool(encoded, self._weights([{"mask": mask} for mask in masks], self.frame_size))
            for (name, found), feature in zip(taken.found.items(), features, strict=True):
                taken.memories[name] = ObjectMemory(feature.clone(), mask=self._reduce(encoded, found.mask))
        return taken

    def _accept(self, taken: _Taken) -> None:
        for name, found in taken.found.items():
            self._objects.setdefault(name, KnownObject()).label = found.label
        self._memories |= taken.memories
        self._searches |= taken.searches

    def _shown(self, taken: _Taken) -> VideoResult:
        """Result of what was found and what was missed, in the order of the objects."""
        empty = torch.zeros(self.frame_size, dtype=torch.bool)
        names = [name for name in self._objects if name in taken.found or name in taken.missed]
        masks = {name: taken.found[name].mask.cpu() if name in taken.found else empty.clone() for name in names}
        return VideoResult(masks, {name: taken.found[name].score if name in taken.found else taken.missed[name] for name in names})

    # Predictions out

    def _pick(
        self, encoded: _Encoded, asked: Sequence[ObjectId], memories: Mapping[ObjectId, ObjectMemory] | None = None
    ) -> tuple[Tensor, Tensor, Picked]:
        """The query of each object (R,), the masks of all queries (Q, h, w) before the sigmoid, and what was picked.

        Args:
            memories: default those of the session.
        """
        if memories is None:  # in the order of the objects, whenever they were found
            memories = {name: self._memories[name] for name in self._objects if name in self._memories}
        prompts = self.policy.prompts(memories, asked)
        outputs = self.model(
            **self._prompt_row(sum(map(len, prompts))), image_features=encoded.features, region_features=torch.cat(prompts)[None]
        )
        mask_logits = outputs.masks_queries_logits[0]
        # Of several features of an object the one that fits best speaks for it.
        per_object = outputs.region_queries_logits[0].split([len(features) for features in prompts])
        region_logits = torch.stack([logits.amax(0) for logits in per_object])  # (R, Q)
        geometry = Placement.of_image(self.frame_size, self.processor.image_processor.image_size)
        scores = region_scores(mask_logits, region_logits, geometry)  # (Q, R)
        queries = self.policy.assign(scores, self._overlaps(mask_logits, asked, memories))
        logits = geometry.restore(mask_logits[queries].float())  # (R, H, W)
        chosen = scores[queries, torch.arange(len(asked), device=queries.device)]
        none_left = queries < 0
        logits[none_left] = -torch.inf
        return queries, mask_logits, Picked(logits, chosen.masked_fill(none_left, 0))

    def _overlaps(self, mask_logits: Tensor, asked: Sequence[ObjectId], memories: Mapping[ObjectId, ObjectMemory] | None = None) -> Tensor:
        """(Q, R) IoU with where the objects were in the frame before, 0 where they were not seen."""
        size, padded = content_size(self.frame_size, self.processor.image_processor.image_size), self.processor.image_processor.image_size
        # What the network predicts on the padding is of no account.
        height, width = (max(1, round(side * cells / padded)) for side, cells in zip(size, mask_logits.shape[1:], strict=True))
        masks = mask_logits[:, :height, :width] > 0
        memories = self._memories if memories is None else memories
        seen = [memories[name].mask for name in asked]
        before = torch.stack([torch.zeros_like(masks[0]) if mask is None else mask[:height, :width] for mask in seen])
        return iou(masks.flatten(1).float(), before.flatten(1).float())

    def _renew(self, encoded: _Encoded, asked: Sequence[ObjectId], picked: Picked, reported: Tensor) -> None:
        masks = {name: mask for name, mask in zip(asked, self.policy.remember(picked, reported), strict=True) if mask is not None}
        if not masks:
            return
        features = self._pool(encoded, self._weights([{"mask": mask} for mask in masks.values()], self.frame_size))
        for name, feature in zip(masks, features, strict=True):
            memory = self._memories[name]
            # A copy: a view would keep the features of all objects of its frame.
            recent = [*memory.recent, feature.clone()]
            memory.recent = recent[len(recent) - min(len(recent), self.policy.num_recent) :]
            memory.renewed = self._num_tracked

    def _prompt_row(self, num_regions: int) -> dict[str, Tensor]:
        """Tokens of the row that asks for so many regions, whose features are passed beside them."""
        if not self._row or int(self._row["condition_index"].max()) != num_regions:
            self._row = dict(self.processor.encode_prompt(num_regions=num_regions).to(self.model.device))
        return self._row

    def _check_known(self, name: ObjectId) -> None:
        if name not in self._objects:
            raise ValueError(f"object {name!r}: is not in the session, which has {list(self._objects)}; add it with add_objects()")


def _reported(picked: Picked, reported: Tensor) -> list[Tensor]:
    """Whole masks (H, W) of the objects that are reported, also where others cover them."""
    return [mask for mask, shown in zip(picked.masks, reported.flatten(1).any(1).tolist(), strict=True) if shown]


def _checked_ids(objects: Mapping[ObjectId, Any]) -> dict[ObjectId, Any]:
    """Objects by plain ints and strings.

    Raises:
        ValueError: no mapping, or another type of id.
    """
    if not isinstance(objects, Mapping):
        raise ValueError(f"objects: expected a dictionary of ids and regions, got {type(objects).__name__}")
    checked = {}
    for name, prompt in objects.items():
        if isinstance(name, bool) or not isinstance(name, (str, numbers.Integral)):
            raise ValueError(f"object {name!r}: an id is an int or a str, got {type(name).__name__}")
        checked[name if isinstance(name, str) else int(name)] = prompt
    return checked


def _as_region(prompt: Any) -> Mapping[str, Any]:
    is_region = isinstance(prompt, Mapping) and "counts" not in prompt  # a COCO RLE is a dictionary too
    return prompt if is_region else {"mask": prompt}
