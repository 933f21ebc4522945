"""What a training config needs on each GPU, before anything is started: parameters, and memory by engine.

Nothing is loaded and nothing runs: the model has shapes without content. Its sizes are those of the config's `checkpoint`, or, where that
folder does not exist yet, the released ones (Swin-B, Phi-1.5, 1024 x 1024).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ..checkpoints import resolve_checkpoint
from ..model.compatibility import CHECKPOINTING
from ..model.configuration_psalm import PsalmConfig
from . import memory
from .arguments import MixtureArguments, PsalmTrainingArguments, read_config
from .configs import read_mapping
from .lora import add_adapters, read_lora
from .stages import Overrides, Run, stage_of
from .trainer import freeze_vision_tower, train_only

GIB = 2**30
# What TrainingArguments would refuse where the GPUs are not.
ON_ANY_MACHINE = {"bf16": False, "fp16": False, "use_cpu": True, "deepspeed": None, "fully_shard": False}


def read_run(config: str | Path, overrides: Overrides = ()) -> tuple[Run, PsalmTrainingArguments, str | None]:
    """The two objects of a config, and the type that it computes in: "bf16", "fp16" or None."""
    _, given = read_mapping(config, overrides)
    neutral = dict(ON_ANY_MACHINE)
    if given.get("projector_batch_norm") == "synchronised":  # needs GPUs; keeps as much as `batch`
        neutral["projector_batch_norm"] = "batch"
    run, training = read_config(config, given | neutral, (stage_of(config, overrides), PsalmTrainingArguments))
    return run, training, next((name for name in ("bf16", "fp16") if given.get(name)), None)


def build_model(run: Run, training: PsalmTrainingArguments) -> tuple:
    """The model without weights, with what trains; and what its sizes are taken from."""
    is_mixture = isinstance(run, MixtureArguments)
    changed = run.model if is_mixture else {}
    if Path(folder := _folder(run.checkpoint)).is_dir():
        config, source = PsalmConfig.from_pretrained(folder, **changed), run.checkpoint
    else:
        config, source = PsalmConfig.from_dict(changed), f"the released model ({run.checkpoint} does not exist)"
    model = memory.build_unallocated(config)
    if not is_mixture:
        train_only(model, run.trainable)
    freeze_vision_tower(model, training.learning_rates)
    if is_mixture and (lora := read_lora(run.lora)):
        model = add_adapters(model, _LastRow(config.text_config.vocab_size), lora, learning_rates=training.learning_rates).get_base_model()
    return model, source


def _folder(checkpoint: str) -> str:
    try:
        return resolve_checkpoint(checkpoint)
    except FileNotFoundError:
        if "/" not in checkpoint:
            raise
        return checkpoint  # the output of a run that has not been started


class _LastRow:
    """Stands for the processor, which is asked for the row of `[SEG]` in the embeddings; for sizes any row will do."""

    def __init__(self, vocab_size: int):
        self.tokenizer, self.row = self, vocab_size - 1

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.row


def estimate_memory(config: str | Path, overrides: Overrides = (), *, processes: int = 16, length: int | None = None) -> str:
    """A report in words and tables.

    Args:
        config, overrides: as of `build_trainer`.
        processes: GPUs of the run.
        length: tokens of a row, default the positions of the language model.

    Raises:
        ValueError, OSError: what training would refuse too.
    """
    return "\n".join(_report(*read_run(config, overrides), processes, length))


def _report(run: Run, training: PsalmTrainingArguments, half: str | None, processes: int, length: int | None) -> Iterator[str]:
    model, source = build_model(run, training)
    is_mixture = isinstance(run, MixtureArguments)
    # A source of weight 0 is never drawn.
    rows = (
        max(run.batch_sizes[name] for name, weight in run.weights.items() if weight) if is_mixture else training.per_device_train_batch_size
    )
    length = length or getattr(model.config.text_config, "max_position_embeddings", 2048)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, None: torch.float32}[half]
    is_checkpointed = bool(getattr(training, CHECKPOINTING))

    yield f"sizes of {source}\n"
    counts = memory.count_parameters(model)
    everything = sum(counts.values(), memory.Count())
    yield _table(
        ("million parameters", "trainable", "frozen"),
        [(part, f"{count.trainable / 1e6:.2f}", f"{count.frozen / 1e6:.2f}") for part, count in {**counts, "all": everything}.items()],
    )

    steps = list(memory.STEPS) if is_mixture else ["conversation"]
    # DDP computes under autocast with float32 weights, the others with weights in half precision.
    kinds = {"DDP": (torch.float32, dtype if half else None), "others": (dtype, None)}
    unit = memory.largest_unit(model)
    activations = {}
    for kind, (weights, autocast) in kinds.items():
        for step in steps:
            activations[kind, step] = memory.count_activations(
                build_model(run, training)[0], step, rows, length, dtype=weights, autocast=autocast
            )

    yield (
        f"\nGiB on each of {processes} GPUs: AdamW, {half or 'float32'}, batches of {rows} rows x {length} tokens, "
        f"{model.config.image_size} x {model.config.image_size} pixels"
    )
    lines = []
    for engine in memory.ENGINES:
        states = memory.model_states(engine, everything, processes=processes, is_half=half is not None, unit=unit)
        kept = [
            max(activations["DDP" if engine == "DDP" else "others", step].total(checkpointed) for step in steps)
            for checkpointed in (False, True)
        ]
        parts = (states.weights, states.gathered, states.gradients, states.optimizer, *kept, states.total + kept[is_checkpointed])
        lines.append((engine, *(f"{part / GIB:.2f}" for part in parts)))
    yield _table(("engine", "weights", "gathered", "gradients", "optimizer", "activations", "checkpointed", "sum"), lines)
    yield f"The sum is with gradient_checkpointing: {'true' if is_checkpointed else 'false'}.\n"

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
        f"{memory.TARGETS_PER_PICTURE} targets per picture, batches with padding. Not counted: the CUDA context and NCCL (about "
        "1 GiB), kernels' and the frozen vision tower's temporary buffers, gradients of activations (about the largest part's single "
        "layer), buckets of DeepSpeed, fragmentation: add 10 to 20 %. Counted too high: what the pixel decoder keeps when checkpointed."
    )
    if is_mixture and run.language_model_bits:
        yield f"language_model_bits: {run.language_model_bits} is not counted; the language model is shown with all of its bits."


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    text = []
    for line in (header, *lines):
        first, *others = (
            cell.ljust(width) if number == 0 else cell.rjust(width) for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        text.append("  ".join((first, *others)))
    return "\n".join(text)
