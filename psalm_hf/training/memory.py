"""Memory that a training step takes on each GPU, counted before anything is started: parameters, what an engine keeps of them, and what the
forward pass keeps for the backward pass.

Nothing is loaded and nothing runs. The model is built on the meta device, and its parts are called with fake tensors: shapes and types
without content. Autograd saves of them what it would save of real ones. The sizes are those of the config's `checkpoint`, or, where that
folder does not exist yet, the released ones (Swin-B, Phi-1.5, 1024 x 1024).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention

from ..checkpoints import resolve_checkpoint
from ..data.mixture import largest_chosen_batch
from ..model.compatibility import CHECKPOINTING, set_checkpointing
from ..model.configuration_psalm import PsalmConfig
from ..model.losses import mask_bce_loss, mask_dice_loss
from ..model.mask_decoder import RowLayout
from ..model.matching import sample_points
from ..model.modeling_psalm import PsalmForSegmentation
from ..model.starting_point import STRIDES
from .arguments import MixtureArguments, PsalmTrainingArguments, read_config
from .configs import read_mapping
from .lora import add_adapters, plain_name, read_lora
from .stages import Overrides, Run, stage_of
from .trainer import check_checkpointed, checkpoint_only, freeze_vision_tower, train_only

GIB = 2**30
ENGINES = ("DDP", "ZeRO-2", "ZeRO-3", "FSDP")
STEPS = ("segmentation", "conversation")
TARGETS_PER_IMAGE = 20  # masks to be found; COCO's images have about 11 panoptic segments
LIVE_PARAMETERS = 1_000_000_000  # of ZeRO-3: `stage3_max_live_parameters`, DeepSpeed's default
# Values that TrainingArguments takes on a machine without the GPUs of the run.
ON_ANY_MACHINE = {"bf16": False, "fp16": False, "use_cpu": True, "deepspeed": None, "fully_shard": False}
MODEL_PARTS = {
    "vision tower": ("model.vision_tower.",),
    "projector": ("model.projector.",),
    "pixel decoder": ("model.pixel_decoder.",),
    "language model": ("model.language_model.",),
    "mask queries, projections": tuple(
        f"model.{name}." for name in ("mask_queries", "query_projection", "category_projection", "sentence_projection", "region_projection")
    ),
    "mask decoder": ("mask_decoder.",),
    "language head": ("lm_head.",),
}


class ModelStates(NamedTuple):
    """Bytes that an engine keeps on one GPU besides activations.

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


def build_unallocated(config: PsalmConfig) -> PsalmForSegmentation:
    """Builds the model without weights, on the meta device."""
    with torch.device("meta"):
        return PsalmForSegmentation(config)


def count_parameters(model: nn.Module) -> dict[str, Counter]:
    """Numbers of "trainable" and "frozen" parameters by the parts of `MODEL_PARTS`; tied ones count once, in the part that comes first.
    Adapters count where they sit."""
    counts = {part: Counter() for part in MODEL_PARTS}
    for name, parameter in model.named_parameters():
        part = next(part for part, prefixes in MODEL_PARTS.items() if plain_name(name).startswith(prefixes))
        counts[part]["trainable" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts


def largest_unit(model: PsalmForSegmentation) -> int:
    """Number of parameters of the largest piece that FSDP gathers at a time: layers of `_no_split_modules`, the two ends of the language
    model, and what is left."""
    units = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    units += [model.get_input_embeddings(), model.get_output_embeddings()]
    sizes = [sum(parameter.numel() for parameter in unit.parameters()) for unit in units]
    inside = {id(parameter) for unit in units for parameter in unit.parameters()}
    return max(*sizes, sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in inside))


def model_states(engine: str, count: Mapping[str, int], *, processes: int, is_half: bool, unit: int = 0) -> ModelStates:
    """Bytes that `engine` keeps per GPU under the Trainer, AdamW as its optimizer.

    * DDP: float32 weights, gradients and moments on every GPU, gradients once more in DDP's buckets. (Copies of weights in half
      precision are made by autocast, and counted with the activations.)
    * ZeRO-2: DeepSpeed casts all weights, those of frozen parts too, and keeps them whole; gradients in that type are divided, and so are
      float32 weights and moments (the float32 weights also without half precision).
    * ZeRO-3: the same, and the weights are divided; up to `LIVE_PARAMETERS` of them are gathered at a time.
    * FSDP (version 2): float32 weights, gradients and moments are divided; gathered are, in half precision, the weights of the layer at
      work and of the next, and the gradients of one.

    Args:
        count: "trainable" and "frozen" parameters.
        is_half: `bf16` or `fp16`.
        unit: see `largest_unit`; for FSDP.

    Raises:
        ValueError: an unknown engine.
    """
    trained, total = count["trainable"], count["trainable"] + count["frozen"]
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
        """Counts for `part` what is saved inside."""

        def save(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self._alive.append(tensor)
                self.by_part[part] = self.by_part.get(part, 0) + storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            yield


def saved_by_step(model: PsalmForSegmentation, step: str, rows: int, length: int) -> dict[str, int]:
    """Bytes that a step keeps for the backward pass, by part.

    Of rows that segment, the matching is left out (it keeps nothing), and so are the comparisons of queries with conditions, which are
    small. Of conversations and captions, every token but the image tokens is learned.

    Args:
        model: in training mode, its weights real or fake.
        step: one of `STEPS`.
        rows: of the batch, each with an image of its own.
        length: tokens of a row, image tokens and mask queries included.
    """
    config, psalm = model.config, model.model
    saved = SavedTensors(model.parameters())
    maps = _feature_maps(model, rows, saved)
    with saved.of("projector"):
        tokens = psalm.projector(maps[config.projector_level])
    if step == "segmentation":
        with saved.of("pixel decoder"):
            mask_features, multi_scale = psalm.pixel_decoder(tuple(maps))
    with saved.of("language model"):
        words = model.get_input_embeddings()(torch.zeros(rows, length - tokens.shape[1], dtype=torch.long))
        embeds = torch.cat((tokens.to(words.dtype), words), dim=1)
        # The mask of a batch with padding: attention keeps it as numbers. Without padding it would need none.
        allowed = torch.ones(rows, 1, length, length, dtype=torch.bool).tril()
        states = psalm.language_model(inputs_embeds=embeds, attention_mask=allowed, use_cache=False).last_hidden_state
    if step == "segmentation":
        _save_masks(model, states, mask_features, multi_scale, saved)
    else:
        with saved.of("language head"):
            logits = model.lm_head(states[:, tokens.shape[1] :]).float().flatten(0, 1)
            F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    saved.by_part["images"] = rows * 3 * config.image_size**2 * 4
    return saved.by_part


def _feature_maps(model: PsalmForSegmentation, rows: int, saved: SavedTensors) -> list[Tensor]:
    """Feature maps of the vision tower; a frozen tower keeps nothing, its maps come out of nowhere."""
    tower, size = model.model.vision_tower, model.config.image_size
    dtype = next(tower.parameters()).dtype
    if any(parameter.requires_grad for parameter in tower.parameters()):
        with saved.of("vision tower"):
            return list(tower(torch.empty(rows, 3, size, size, dtype=dtype)).feature_maps)
    return [
        torch.empty(rows, width, -(-size // stride), -(-size // stride), dtype=dtype)
        for width, stride in zip(tower.channels, STRIDES, strict=True)
    ]


def _save_masks(model: PsalmForSegmentation, states: Tensor, mask_features: Tensor, multi_scale: Sequence, saved: SavedTensors) -> None:
    config, psalm, rows = model.config, model.model, len(states)
    project = psalm.query_projection if config.decouple_masks else psalm.category_projection
    with saved.of("mask decoder"):
        queries = project(states[:, -config.num_queries :]).to(model.mask_decoder.norm.weight.dtype)
        predictions = model.mask_decoder(queries, mask_features, multi_scale, RowLayout(torch.arange(rows), rows, list(range(rows))))
    number = min(rows * TARGETS_PER_IMAGE, rows * predictions[-1][1].shape[1])
    with saved.of("losses"):
        targets = torch.empty(number, config.train_num_points)
        for _, mask_logits in predictions if config.auxiliary_loss else predictions[-1:]:
            matched = mask_logits.flatten(0, 1)[:number].clone().float()
            point_logits = sample_points(matched, torch.empty(number, config.train_num_points, 2))
            mask_bce_loss(point_logits, targets, 1.0) + mask_dice_loss(point_logits, targets, 1.0)
    pixels = config.image_size**2
    saved.by_part["predictions and targets"] = sum(logits.nbytes for _, logits in predictions) + number * pixels * (1 + 4)


def leave_training_mode(model: PsalmForSegmentation) -> None:
    """Puts the frozen vision tower out of training mode, as in training; and layers that look for infinite values in training, which fake
    tensors do not have. These have no dropout. They are not checkpointed then either, so what the pixel decoder keeps is counted in
    full. Its attention reads maps as on GPUs; on a CPU it keeps less."""
    model.model.vision_tower.eval()
    for layer in model.model.pixel_decoder.layers:
        layer.training = False
        layer.self_attn.__class__ = Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention


@dataclass(frozen=True)
class Activations:
    """Bytes of one kind of step, by part.

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
    checkpointed_parts: Sequence[str] = (),
) -> Activations:
    """Counts what a step keeps for the backward pass.

    Args:
        model: on the meta device; its weights are replaced by fake ones. What trains is said by `requires_grad`.
        step, rows, length: see `saved_by_step`.
        dtype: of the weights: that of DeepSpeed and FSDP, where they compute in half precision.
        autocast: type of torch.autocast, which the Trainer uses with DDP.
        checkpointed_parts: of `PsalmTrainingArguments`.
    """
    model.to(dtype)
    # Kernels are those of the CPU: attention is fused, as on GPUs, and keeps no matrix of scores.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").train()
        leave_training_mode(model)
        found = []
        for is_checkpointed in (False, True):
            set_checkpointing(model, is_checkpointed)
            checkpoint_only(model, checkpointed_parts)
            with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
                found.append(saved_by_step(model, step, rows, length))
    kept, kept_checkpointed = found
    if autocast is not None:
        # Autocast casts a weight on its first use and keeps the copy to the end of the forward pass. (In `kept` they are counted with
        # the part that saved them.)
        copies = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) * autocast.itemsize
        kept_checkpointed["weights in half precision"] = copies
    return Activations(kept, kept_checkpointed, max(_per_layer(model, part, kept, kept_checkpointed) for part in kept))


def _per_layer(model: nn.Module, part: str, kept: Mapping[str, int], kept_checkpointed: Mapping[str, int]) -> float:
    """Bytes that checkpointing saves in a part, divided by its layers, which are alike."""
    layers = sum(
        isinstance(module, GradientCheckpointingLayer) and plain_name(name).startswith(MODEL_PARTS.get(part, ()))
        for name, module in model.named_modules()
    )
    return (kept[part] - kept_checkpointed.get(part, 0)) / layers if layers else 0.0


def read_plan(config: str | Path, overrides: Overrides = ()) -> tuple[Run, PsalmTrainingArguments, str | None]:
    """Reads a config: its two objects, and the type that it computes in, "bf16", "fp16" or None."""
    _, given = read_mapping(config, overrides)
    neutral = dict(ON_ANY_MACHINE)
    if given.get("projector_batch_norm") == "synchronised":  # needs GPUs; keeps as much as `batch`
        neutral["projector_batch_norm"] = "batch"
    run, training = read_config(config, given | neutral, (stage_of(config, overrides), PsalmTrainingArguments))
    return run, training, next((name for name in ("bf16", "fp16") if given.get(name)), None)


def build_planned(run: Run, training: PsalmTrainingArguments) -> tuple:
    """Builds the model of a run without weights, with what trains; also returned is where its sizes come from."""
    is_mixture = isinstance(run, MixtureArguments)
    changed = run.model if is_mixture else {}
    try:
        folder = resolve_checkpoint(run.checkpoint)
    except FileNotFoundError:
        if "/" not in run.checkpoint:
            raise
        folder = run.checkpoint  # the output of a run that has not been started
    if Path(folder).is_dir():
        config, source = PsalmConfig.from_pretrained(folder, **changed), run.checkpoint
    else:
        config, source = PsalmConfig.from_dict(changed), f"the released model ({run.checkpoint} does not exist)"
    model = build_unallocated(config)
    if not is_mixture:
        train_only(model, run.trainable)
    freeze_vision_tower(model, training.learning_rates)
    check_checkpointed(model, training.checkpointed_parts)
    if is_mixture and (lora := read_lora(run.lora)):
        tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda _: 0)  # of `[SEG]`; for sizes any row of the embeddings will do
        model = add_adapters(model, SimpleNamespace(tokenizer=tokenizer), lora, learning_rates=training.learning_rates).get_base_model()
    return model, source


def estimate_memory(config: str | Path, overrides: Overrides = (), *, processes: int = 16, length: int | None = None) -> str:
    """Reports what a training config needs on each GPU, in words and tables.

    Args:
        config, overrides: as of `build_trainer`.
        processes: GPUs of the run.
        length: tokens of a row, default the positions of the language model.

    Raises:
        ValueError, OSError: what training would refuse too.
    """
    return "\n".join(_report(*read_plan(config, overrides), processes, length))


def _report(run: Run, training: PsalmTrainingArguments, half: str | None, processes: int, length: int | None) -> Iterator[str]:
    model, source = build_planned(run, training)
    is_mixture = isinstance(run, MixtureArguments)
    rows = training.per_device_train_batch_size
    if is_mixture:  # a source of weight 0 is never drawn
        if run.data:
            rows = largest_chosen_batch(run.batch_sizes)
        else:
            rows = max(run.batch_sizes[name] for name, weight in run.weights.items() if weight)
    length = length or getattr(model.config.text_config, "max_position_embeddings", 2048)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, None: torch.float32}[half]
    is_checkpointed = bool(getattr(training, CHECKPOINTING))

    yield f"sizes of {source}\n"
    counts = count_parameters(model)
    everything = sum(counts.values(), Counter())
    yield _table(
        ("million parameters", "trainable", "frozen"),
        [
            (part, f"{count['trainable'] / 1e6:.2f}", f"{count['frozen'] / 1e6:.2f}")
            for part, count in {**counts, "all": everything}.items()
        ],
    )

    steps = STEPS if is_mixture else STEPS[1:]
    unit = largest_unit(model)
    activations = {}
    # DDP computes under autocast with float32 weights, the others with weights in half precision.
    for kind, types in {"DDP": {"autocast": dtype if half else None}, "others": {"dtype": dtype}}.items():
        for step in steps:
            activations[kind, step] = count_activations(
                build_planned(run, training)[0], step, rows, length, checkpointed_parts=training.checkpointed_parts, **types
            )

    yield (
        f"\nGiB on each of {processes} GPUs: AdamW, {half or 'float32'}, batches of {rows} rows x {length} tokens, "
        f"{model.config.image_size} x {model.config.image_size} pixels"
    )
    lines = []
    for engine in ENGINES:
        states = model_states(engine, everything, processes=processes, is_half=half is not None, unit=unit)
        kept = [
            max(activations["DDP" if engine == "DDP" else "others", step].total(checkpointed) for step in steps)
            for checkpointed in (False, True)
        ]
        parts = (*states, *kept, sum(states) + kept[is_checkpointed])
        lines.append((engine, *(f"{part / GIB:.2f}" for part in parts)))
    yield _table(("engine", "weights", "gathered", "gradients", "optimizer", "activations", "checkpointed", "sum"), lines)
    chosen = f", checkpointed_parts: [{', '.join(training.checkpointed_parts)}]" if training.checkpointed_parts else ""
    yield f"The sum is with gradient_checkpointing: {'true' if is_checkpointed else 'false'}{chosen}.\n"

    for step in steps:
        found = activations["others", step]
        yield f"Kept for the backward pass by a {step} step, GiB (ZeRO, FSDP)"
        parts = {**found.kept, **found.kept_checkpointed}
        lines = [(part, *(f"{kept.get(part, 0) / GIB:.2f}" for kept in (found.kept, found.kept_checkpointed))) for part in parts]
        lines.append(("one layer, made again", "", f"{found.recomputed / GIB:.2f}"))
        yield _table(("part", "activations", "checkpointed"), lines)
        yield ""
    yield (
        f"Assumed: {rows} rows in every batch{', as of the largest source that is drawn' if is_mixture else ''}, "
        f"{TARGETS_PER_IMAGE} targets per image, batches with padding. Not counted: the CUDA context and NCCL (about "
        "1 GiB), kernels' and the frozen vision tower's temporary buffers, gradients of activations (about the largest part's single "
        "layer), buckets of DeepSpeed, fragmentation: add 10 to 20 %. Counted too high: what the pixel decoder keeps when checkpointed."
    )
    if is_mixture and run.language_model_bits:
        yield f"language_model_bits: {run.language_model_bits} is not counted; the language model is shown with all of its bits."


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    return "\n".join("  ".join((first.ljust(widths[0]), *map(str.rjust, others, widths[1:]))) for first, *others in (header, *lines))
