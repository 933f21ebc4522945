"""How much memory a training step takes on each GPU, counted before anything is allocated: parameters, what an engine keeps of them, and
what the forward pass keeps for the backward pass.

The model is built on the meta device, and its parts are called with fake tensors: shapes and types without content. What autograd saves
of them is what it would save of real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.modeling_layers import GradientCheckpointingLayer

from ..model.compatibility import set_checkpointing
from ..model.configuration_psalm import PsalmConfig
from ..model.losses import mask_bce_loss, mask_dice_loss
from ..model.mask_decoder import RowLayout
from ..model.matching import sample_points
from ..model.modeling_psalm import PsalmForSegmentation
from ..model.starting_point import STRIDES
from .lora import plain_name

ENGINES = ("DDP", "ZeRO-2", "ZeRO-3", "FSDP")
TARGETS_PER_PICTURE = 20  # masks to be found; COCO's pictures have about 11 panoptic segments
LIVE_PARAMETERS = 1_000_000_000  # of ZeRO-3: `stage3_max_live_parameters`, DeepSpeed's default

PARTS = {
    "vision tower": ("model.vision_tower",),
    "projector": ("model.projector",),
    "pixel decoder": ("model.pixel_decoder",),
    "language model": ("model.language_model",),
    "mask queries, projections": (
        "model.mask_queries",
        "model.query_projection",
        "model.category_projection",
        "model.sentence_projection",
        "model.region_projection",
    ),
    "mask decoder": ("mask_decoder",),
    "language head": ("lm_head",),
}


@dataclass(frozen=True)
class Count:
    """Numbers of parameters."""

    trainable: int = 0
    frozen: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.trainable + other.trainable, self.frozen + other.frozen)

    @property
    def total(self) -> int:
        return self.trainable + self.frozen


@dataclass(frozen=True)
class ModelStates:
    """What an engine keeps on one GPU besides activations, in bytes.

    Attributes:
        weights: between steps; whole or this process's share.
        gathered: copies that exist for a while: buckets of gradients, weights of other processes.
        gradients: of the step.
        optimizer: AdamW's two moments, and the weights in float32 where those above are not.
    """

    weights: float
    gathered: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gathered + self.gradients + self.optimizer


def build_unallocated(config: PsalmConfig) -> PsalmForSegmentation:
    """The model without weights, on the meta device."""
    with torch.device("meta"):
        return PsalmForSegmentation(config)


def count_parameters(model: nn.Module) -> dict[str, Count]:
    """Parameters by the parts of `PARTS`; tied ones count once, in the part that comes first. Adapters count where they sit."""
    counts = dict.fromkeys(PARTS, Count())
    for name, parameter in model.named_parameters():
        own = plain_name(name)
        part = next(part for part, prefixes in PARTS.items() if own.startswith(tuple(f"{prefix}." for prefix in prefixes)))
        number = parameter.numel()
        counts[part] += Count(number, 0) if parameter.requires_grad else Count(0, number)
    return counts


def largest_unit(model: PsalmForSegmentation) -> int:
    """Parameters of the largest piece that FSDP gathers at a time: layers of `_no_split_modules`, the two ends of the language model,
    and what is left."""
    units = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    units += [model.get_input_embeddings(), model.get_output_embeddings()]
    sizes = [sum(parameter.numel() for parameter in unit.parameters()) for unit in units]
    inside = {id(parameter) for unit in units for parameter in unit.parameters()}
    return max(*sizes, sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in inside))


def model_states(engine: str, count: Count, *, processes: int, is_half: bool, unit: int = 0) -> ModelStates:
    """What `engine` keeps per GPU under the Trainer, AdamW as its optimizer.

    * DDP: float32 weights, gradients and moments on every GPU, gradients once more in DDP's buckets. (Copies of weights in half
      precision are made by autocast, and counted with the activations.)
    * ZeRO-2: DeepSpeed casts all weights, those of frozen parts too, and keeps them whole; gradients in that type are divided, and so are
      float32 weights and moments (the float32 weights also without half precision).
    * ZeRO-3: the same, and the weights are divided; up to `LIVE_PARAMETERS` of them are gathered at a time.
    * FSDP (version 2): float32 weights, gradients and moments are divided; gathered are, in half precision, the weights of the layer at
      work and of the next, and the gradients of one.

    Args:
        count: of all parameters.
        is_half: `bf16` or `fp16`.
        unit: see `largest_unit`; for FSDP.

    Raises:
        ValueError: an unknown engine.
    """
    trained, total = count.trainable, count.total
    width = 2 if is_half else 4
    if engine == "DDP":
        return ModelStates(4 * total, 4 * trained if processes > 1 else 0, 4 * trained, 8 * trained)
    if engine == "ZeRO-2":
        return ModelStates(width * total, 0, width * trained / processes, 12 * trained / processes)
    if engine == "ZeRO-3":
        gathered = width * min(total, LIVE_PARAMETERS) if processes > 1 else 0
        return ModelStates(width * total / processes, gathered, width * trained / processes, 12 * trained / processes)
    if engine == "FSDP":
        return ModelStates(4 * total / processes, 3 * width * unit, 4 * trained / processes, 8 * trained / processes)
    raise ValueError(f"unknown engine {engine!r}, expected one of {', '.join(ENGINES)}")


class SavedTensors:
    """Bytes that autograd keeps for the backward pass, by part: memory of the tensors it saves, each once, parameters left out.

    Args:
        parameters: whose memory is counted elsewhere.
    """

    def __init__(self, parameters: Iterator[Tensor]):
        self._known = {parameter.untyped_storage()._cdata for parameter in parameters}
        self._alive: list[Tensor] = []  # so that the memory of one is never taken for another's
        self.by_part: dict[str, int] = {}

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What is saved inside belongs to `part`."""

        def save(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self._alive.append(tensor)
                self.by_part[part] = self.by_part.get(part, 0) + storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            yield


def segmentation_activations(model: PsalmForSegmentation, rows: int, length: int) -> dict[str, int]:
    """Bytes kept by a step on rows that segment, one picture each, by part.

    The matching is left out (it keeps nothing), and so are the comparisons of queries with conditions, which are small.

    Args:
        model: in training mode, its weights real or fake.
        rows, length: of the prompts; `length` tokens hold the image tokens and the mask queries.
    """
    config, psalm = model.config, model.model
    saved = SavedTensors(model.parameters())
    maps = _feature_maps(model, rows, saved)
    with saved.of("projector"):
        tokens = psalm.projector(maps[config.projector_level])
    with saved.of("pixel decoder"):
        mask_features, multi_scale = psalm.pixel_decoder(tuple(maps))
    states = _language_states(model, tokens, rows, length, saved)
    dtype = model.mask_decoder.norm.weight.dtype
    with saved.of("mask decoder"):
        if config.decouple_masks:
            queries = psalm.query_projection(states[:, -config.num_queries :])
        else:
            queries = psalm.category_projection(states[:, -config.num_queries :])
        # Outside of the fake mode: the layout looks at values.
        layout = _layout(rows)
        predictions = model.mask_decoder(queries.to(dtype), mask_features, multi_scale, layout)
    supervised = predictions if config.auxiliary_loss else predictions[-1:]
    with saved.of("losses"):
        number = min(rows * TARGETS_PER_PICTURE, rows * predictions[-1][1].shape[1])
        targets = torch.empty(number, config.train_num_points)
        for _, mask_logits in supervised:
            matched = mask_logits.flatten(0, 1)[:number].clone().float()
            point_logits = sample_points(matched, torch.empty(number, config.train_num_points, 2))
            mask_bce_loss(point_logits, targets, 1.0) + mask_dice_loss(point_logits, targets, 1.0)
    pixels = config.image_size**2
    saved.by_part["predictions and targets"] = sum(logits.nbytes for _, logits in predictions) + number * pixels * (1 + 4)
    saved.by_part["pictures"] = rows * 3 * pixels * 4
    return saved.by_part


def conversation_activations(model: PsalmForSegmentation, rows: int, length: int) -> dict[str, int]:
    """Bytes kept by a step on conversations or captions, by part; every token but the image tokens is learned.

    Args:
        model, rows, length: see `segmentation_activations`.
    """
    saved = SavedTensors(model.parameters())
    maps = _feature_maps(model, rows, saved)
    with saved.of("projector"):
        tokens = model.model.projector(maps[model.config.projector_level])
    states = _language_states(model, tokens, rows, length, saved)
    with saved.of("language head"):
        logits = model.lm_head(states[:, tokens.shape[1] :]).float().flatten(0, 1)
        F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    saved.by_part["pictures"] = rows * 3 * model.config.image_size**2 * 4
    return saved.by_part


def leave_training_mode(model: PsalmForSegmentation) -> None:
    """The frozen vision tower, as in training; and layers that look for infinite values in training, which fake tensors do not have.
    These have no dropout. Out of training mode they are not checkpointed either, so what the pixel decoder keeps is counted in full."""
    model.model.vision_tower.eval()
    for layer in model.model.pixel_decoder.layers:
        layer.training = False


def _feature_maps(model: PsalmForSegmentation, rows: int, saved: SavedTensors) -> list[Tensor]:
    """A frozen tower keeps nothing: its maps come out of nowhere."""
    tower, size = model.model.vision_tower, model.config.image_size
    dtype = next(tower.parameters()).dtype
    if any(parameter.requires_grad for parameter in tower.parameters()):
        with saved.of("vision tower"):
            return list(tower(torch.empty(rows, 3, size, size, dtype=dtype)).feature_maps)
    return [
        torch.empty(rows, width, -(-size // stride), -(-size // stride), dtype=dtype)
        for width, stride in zip(tower.channels, STRIDES, strict=True)
    ]


def _language_states(model: PsalmForSegmentation, tokens: Tensor, rows: int, length: int, saved: SavedTensors) -> Tensor:
    with saved.of("language model"):
        words = model.get_input_embeddings()(torch.zeros(rows, length - tokens.shape[1], dtype=torch.long))
        embeds = torch.cat((tokens.to(words.dtype), words), dim=1)
        # The mask of a batch with padding: attention keeps it as numbers. Without padding it would need none.
        allowed = torch.ones(rows, 1, length, length, dtype=torch.bool).tril()
        return model.model.language_model(inputs_embeds=embeds, attention_mask=allowed, use_cache=False).last_hidden_state


def _layout(rows: int) -> RowLayout:
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        return RowLayout(torch.arange(rows), rows)


STEPS: Mapping[str, Callable[[PsalmForSegmentation, int, int], dict[str, int]]] = {
    "segmentation": segmentation_activations,
    "conversation": conversation_activations,
}


@dataclass(frozen=True)
class Activations:
    """Of one kind of step, in bytes by part.

    Attributes:
        kept: for the backward pass, without activation checkpointing.
        kept_checkpointed: with it: inputs of the layers.
        recomputed: the most that one layer makes again in the backward pass, then.
    """

    kept: dict[str, int]
    kept_checkpointed: dict[str, int]
    recomputed: float

    def total(self, is_checkpointed: bool) -> float:
        return sum(self.kept_checkpointed.values()) + self.recomputed if is_checkpointed else sum(self.kept.values())


def count_activations(
    model: PsalmForSegmentation,
    step: str,
    rows: int,
    length: int,
    *,
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
) -> Activations:
    """What a step of kind `step` ("segmentation", "conversation") keeps for the backward pass.

    Args:
        model: on the meta device; its weights are replaced by fake ones. What trains is said by `requires_grad`.
        rows, length: of its batch.
        dtype: of the weights: that of DeepSpeed and FSDP, where they compute in half precision.
        autocast: type of torch.autocast, which the Trainer uses with DDP.
    """
    run = STEPS[step]
    model.to(dtype)
    # Kernels are those of the CPU: attention is fused, as on GPUs, and keeps no matrix of scores.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").train()
        leave_training_mode(model)
        found = []
        for is_checkpointed in (False, True):
            set_checkpointing(model, is_checkpointed)
            with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
                found.append(run(model, rows, length))
    kept, kept_checkpointed = found
    if autocast is not None:
        # Autocast casts a weight on its first use and keeps the copy to the end of the forward pass. (In `kept` they are counted with
        # the part that saved them.)
        copies = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) * autocast.itemsize
        kept_checkpointed["weights in half precision"] = copies
    return Activations(kept, kept_checkpointed, max(_per_layer(model, part, kept, kept_checkpointed) for part in kept))


def _per_layer(model: nn.Module, part: str, kept: Mapping[str, int], kept_checkpointed: Mapping[str, int]) -> float:
    """What checkpointing saves in a part, divided by its layers, which are alike."""
    names = tuple(f"{prefix}." for prefix in PARTS.get(part, ()))
    layers = sum(
        isinstance(module, GradientCheckpointingLayer) and plain_name(name).startswith(names) for name, module in model.named_modules()
    )
    return (kept[part] - kept_checkpointed.get(part, 0)) / layers if layers else 0.0
