"""PsalmVideoSession: objects that are given in some frame of a video are found in the frames that follow.

R objects asked for in a frame, M region features of all of them together, Q mask queries, G image tokens, D language width, (h, w) the
resolution of the prediction, (H, W) that of the video.

Source: cross-image region prompts of PSALM (arXiv:2403.14598, github.com/zamling/PSALM, d5dbfda) for the policies `last_frame` and
`released`; sessions as an object of their own are SAM 2's idea.
"""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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
from ..writing import write_file
from .memory import LastFrame, ObjectId, ObjectMemory, Picked, describe_policy, iou, read_policy


@dataclass(frozen=True)
class VideoResult:
    """Objects of one frame.

    Attributes:
        masks: object id -> (H, W) bool on the CPU, empty = the object is absent.
        scores: object id -> how sure the model is of the mask, in [0, 1]; also of an absent object.
    """

    masks: dict[ObjectId, Tensor]
    scores: dict[ObjectId, float]


@dataclass(frozen=True)
class _Encoded:
    """The frame that was seen last; the only one that is kept."""

    pixels: bytes  # of the frame as given
    features: PsalmImageFeatures


class PsalmVideoSession:
    """Follows objects through one video. All objects of a frame are one prompt, and each new frame is encoded once.

    An object is remembered by a few region features (vectors) and one small mask, so the memory does not grow with the video.

        session = PsalmVideoSession(model, processor)
        session.add_objects(frames[0], {1: mask, 2: {"box": (10, 20, 90, 140)}})
        for frame in frames:
            result = session.track(frame)

    Args:
        model: in evaluation mode.
        processor: of the same checkpoint.
        policy: "first_last_confident" (ours), "last_frame" (the paper) or "released", or an object of `psalm_hf.video.memory` with
            options of its own.

    Raises:
        ValueError: unknown policy, or a model in training mode.
    """

    def __init__(self, model: PsalmForSegmentation, processor: PsalmProcessor, policy: str | LastFrame = "first_last_confident"):
        if model.training:
            raise ValueError("model: is in training mode, where its predictions are random; call model.eval() first")
        self.model = model
        self.processor = processor
        self.policy = read_policy(policy)
        self.reset()

    def reset(self) -> None:
        """Forgets objects and frames: the next frame may be of another video."""
        self.frame_size: Size | None = None
        self._memories: dict[ObjectId, ObjectMemory] = {}
        self._num_tracked = 0
        self._encoded: _Encoded | None = None
        self._row: dict[str, Tensor] = {}

    @property
    def object_ids(self) -> tuple[ObjectId, ...]:
        """Ids of the objects, in the order in which they joined."""
        return tuple(self._memories)

    @property
    def num_tracked(self) -> int:
        """Number of calls of `track`."""
        return self._num_tracked

    def add_objects(self, frame: Any, objects: Mapping[ObjectId, Any]) -> None:
        """Objects that the session follows from now on.

        Args:
            frame: the image that they are drawn on, in any form that the processor takes. It need not be tracked, and is not encoded
                again if it is the frame that was given last.
            objects: id (int or str) -> mask (H, W) (array, tensor, PIL image or COCO RLE), or a region as of the processor, in pixels of
                the frame: `{"mask": ...}`, `{"box": (x0, y0, x1, y1)}`, `{"point": (x, y)}`, `{"points": [...]}`, `{"scribble": [...]}`.
                If points of label 0 say what does not belong to it, what the network finds in this frame without that is remembered.

        Raises:
            ValueError: an id that the session has already, none at all, a region that is empty or outside of the frame, a frame of another
                size than the ones before. Then nothing is added.
        """
        objects = _checked_ids(objects)
        if known := [name for name in objects if name in self._memories]:
            raise ValueError(f"object {known[0]!r}: is in the session already; use correct() to change it, or another id")
        self._memories |= self._read_prompts(frame, objects)

    def correct(self, frame: Any, objects: Mapping[ObjectId, Any]) -> None:
        """Tells where objects really are: what was remembered of them is replaced. Arguments as of `add_objects`.

        Raises:
            ValueError: an unknown id, and as `add_objects`. Then nothing is changed.
        """
        objects = _checked_ids(objects)
        for name in objects:
            self._check_known(name)
        for name, memory in self._read_prompts(frame, objects).items():
            memory.renewed = self._memories[name].renewed
            self._memories[name] = memory

    def remove(self, object_id: ObjectId) -> None:
        """The object is no longer looked for.

        Raises:
            ValueError: unknown id.
        """
        self._check_known(object_id)
        del self._memories[object_id]

    @torch.no_grad()
    def track(self, frame: Any, visible: Collection[ObjectId] | None = None) -> VideoResult:
        """Finds the objects in a frame and renews what is remembered of them.

        Args:
            frame: the next image of the video, in any form that the processor takes.
            visible: the objects that the frame shows, if the ground truth says so: the oracle of the released evaluation. The others are
                not asked for and score 0. None = the score of an object decides if it is there.

        Raises:
            ValueError: no objects yet, unknown ids in `visible`, no image, or one of another size than the ones before.
        """
        if not self._memories:
            raise ValueError("there is no object to track; call add_objects() first")
        visible = None if visible is None else set(visible)  # also of an iterator, which can be read once
        for name in visible or ():
            self._check_known(name)
        asked = [name for name in self._memories if visible is None or name in visible]
        encoded = self._encode(frame)
        masks = {name: torch.zeros(self.frame_size, dtype=torch.bool) for name in self._memories}
        scores = dict.fromkeys(self._memories, 0.0)
        if asked:
            queries, mask_logits, picked = self._pick(encoded, asked)
            reported = self.policy.report(picked)
            self._renew(encoded, asked, picked, reported)
            for name, query, mask in zip(asked, queries.tolist(), reported, strict=True):
                self._memories[name].mask = mask_logits[query] > 0 if mask.any() else None
            masks |= zip(asked, reported.cpu(), strict=True)
            scores |= zip(asked, picked.scores.tolist(), strict=True)
        for name in self._memories.keys() - set(asked):
            self._memories[name].mask = None
        self._num_tracked += 1
        return VideoResult(masks, scores)

    # Between the sessions

    def save(self, path: str | os.PathLike) -> None:
        """Writes what the session remembers into one safetensors file, whole or not at all."""
        tensors, entries = {}, []
        for index, (name, memory) in enumerate(self._memories.items()):
            tensors[f"{index}.first"] = memory.first
            tensors |= {f"{index}.recent.{age}": feature for age, feature in enumerate(memory.recent)}
            if memory.mask is not None:
                tensors[f"{index}.mask"] = memory.mask
            entries.append({"id": name, "renewed": memory.renewed, "recent": len(memory.recent), "mask": memory.mask is not None})
        state = {"objects": entries, "frame_size": self.frame_size, "num_tracked": self._num_tracked, **describe_policy(self.policy)}
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_file(Path(path), lambda file: file.write(serialize(tensors, metadata={"session": json.dumps(state)})))

    def load(self, path: str | os.PathLike) -> None:
        """Remembers what `save` wrote, instead of what the session has: tracking goes on as if it had never stopped.

        Raises:
            ValueError: no such file, a damaged one, another policy, or features of another width than the model's. Then nothing is changed.
        """
        path = Path(path)
        with reading(f"{path}: not a saved session", "give a file that save() wrote"):
            with opened_safetensors(path) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                state = json.loads(file.metadata()["session"])
            frame_size, num_tracked, entries = state["frame_size"], _read_number(state["num_tracked"], 0), list(state["objects"])
            if frame_size is not None:
                height, width = (_read_number(side, 1) for side in frame_size)
                frame_size = (height, width)
        for name, value in describe_policy(self.policy).items():
            if state.get(name) != value:
                raise ValueError(f"{path}: saved with {name} {state.get(name)!r}, but the session has {value!r}; use the same policy")
        width = self.model.config.text_config.hidden_size
        if wrong := [tensor for name, tensor in tensors.items() if name.endswith("first") and tensor.shape != (width,)]:
            raise ValueError(f"{path}: features of shape {tuple(wrong[0].shape)}, but the model's are ({width},); use the same checkpoint")
        with reading(f"{path}: not a saved session", "give a file that save() wrote"):
            memories = [self._read_memory(index, entry, tensors) for index, entry in enumerate(entries)]
            found = _checked_ids(dict(memories))
            if len(found) < len(entries):
                raise ValueError("an object is there twice")
        self.reset()
        self.frame_size, self._num_tracked, self._memories = frame_size, num_tracked, found

    def _read_memory(self, index: int, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[ObjectId, ObjectMemory]:
        """Id and memory of an object of a file that `save` wrote."""
        first = tensors[f"{index}.first"]
        recent = [tensors[f"{index}.recent.{age}"] for age in range(_read_number(entry["recent"], 0))]
        mask = tensors[f"{index}.mask"] if entry["mask"] else None
        vectors = torch.stack([first, *recent])
        if not vectors.is_floating_point() or not vectors.isfinite().all():
            raise ValueError(f"object {index} has features that are no finite numbers")
        if mask is not None and (mask.ndim != 2 or mask.dtype != torch.bool):
            raise ValueError(f"object {index} has a mask of shape {tuple(mask.shape)} and type {mask.dtype}")
        device = self.model.device
        renewed = _read_number(entry["renewed"], -1)
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

    @torch.no_grad()
    def _read_prompts(self, frame: Any, objects: Mapping[ObjectId, Any]) -> dict[ObjectId, ObjectMemory]:
        if not objects:
            raise ValueError("objects: is empty; give at least one id and where it is")
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

    def _reduce(self, encoded: _Encoded, mask: np.ndarray) -> Tensor:
        """(H, W) bool -> (h, w) bool, as the network would predict it."""
        placed = torch.from_numpy(place_region(mask, self.processor.image_processor.image_size))[None, None]
        size = encoded.features.mask_features.shape[-2:]
        return F.interpolate(placed.float(), size=size, mode="area")[0, 0].ge(0.5).to(self.model.device)

    # Predictions out

    def _pick(self, encoded: _Encoded, asked: Sequence[ObjectId]) -> tuple[Tensor, Tensor, Picked]:
        """The query of each object (R,), the masks of all queries (Q, h, w) before the sigmoid, and what was picked."""
        prompts = self.policy.prompts(self._memories, asked)
        outputs = self.model(
            **self._prompt_row(sum(map(len, prompts))), image_features=encoded.features, region_features=torch.cat(prompts)[None]
        )
        mask_logits = outputs.masks_queries_logits[0]
        # Of several features of an object the one that fits best speaks for it.
        per_object = outputs.region_queries_logits[0].split([len(features) for features in prompts])
        region_logits = torch.stack([logits.amax(0) for logits in per_object])  # (R, Q)
        geometry = Placement.of_image(self.frame_size, self.processor.image_processor.image_size)
        scores = region_scores(mask_logits, region_logits, geometry)  # (Q, R)
        queries = self.policy.assign(scores, self._overlaps(mask_logits, asked))
        logits = geometry.restore(mask_logits[queries].float())  # (R, H, W)
        chosen = scores[queries, torch.arange(len(asked), device=queries.device)]
        none_left = queries < 0
        logits[none_left] = -torch.inf
        return queries, mask_logits, Picked(logits, chosen.masked_fill(none_left, 0))

    def _overlaps(self, mask_logits: Tensor, asked: Sequence[ObjectId]) -> Tensor:
        """(Q, R) IoU with where the objects were in the frame before, 0 where they were not seen."""
        size, padded = content_size(self.frame_size, self.processor.image_processor.image_size), self.processor.image_processor.image_size
        # What the network predicts on the padding is of no account.
        height, width = (max(1, round(side * cells / padded)) for side, cells in zip(size, mask_logits.shape[1:], strict=True))
        masks = mask_logits[:, :height, :width] > 0
        seen = [memory.mask for memory in (self._memories[name] for name in asked)]
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
        if name not in self._memories:
            raise ValueError(f"object {name!r}: is not in the session, which has {list(self._memories)}; add it with add_objects()")


def _read_number(value: Any, lowest: int) -> int:
    if type(value) is not int or not lowest <= value < 2**62:
        raise ValueError(f"expected a whole number of at least {lowest}, got {value!r:.40}")
    return value


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
