"""What a training config needs on each GPU, before anything is started: parameters, and memory by engine.

    python examples/estimate_memory.py --config examples/configs/stage2_paper.yaml --processes 16 [--length 1024 --batch_sizes '{...}']

Nothing is loaded and nothing runs: the model has shapes without content. Its sizes are those of the config's `checkpoint`, or, where that
folder does not exist yet, the released ones (Swin-B, Phi-1.5, 1024 x 1024). Fields of the config are overridden as in training.
"""

import argparse
import sys
from pathlib import Path

GIB = 2**30
ON_ANY_MACHINE = (  # what TrainingArguments would refuse where the GPUs are not
    ("bf16", "false"),
    ("fp16", "false"),
    ("use_cpu", "true"),
    ("deepspeed", "null"),
    ("fully_shard", "false"),
)


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and what overrides fields of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file of train_stage1.py or train_stage2.py")
    parser.add_argument("--processes", type=int, default=16, help="GPUs of the run")
    parser.add_argument("--length", type=int, help="tokens of a row, default the positions of the language model")
    options, overrides = parser.parse_known_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes {options.processes}: give at least 1")
    return options, overrides


def read_run(config: str, overrides: list[str]) -> tuple:
    """The two objects of a config, and the type that it computes in: "bf16", "fp16" or None."""
    import yaml

    from psalm_hf.training.arguments import AlignmentArguments, MixtureArguments, PsalmTrainingArguments, read_config

    given = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    given |= {name[2:]: yaml.safe_load(value) for name, value in zip(overrides[::2], overrides[1::2], strict=False)}
    neutral = [text for name, value in ON_ANY_MACHINE for text in (f"--{name}", value)]
    if given.get("projector_batch_norm") == "synchronised":  # needs GPUs; keeps as much as `batch`
        neutral += ["--projector_batch_norm", "batch"]
    stage = MixtureArguments if "weights" in given else AlignmentArguments
    run, training = read_config(config, [*overrides, *neutral], (stage, PsalmTrainingArguments))
    return run, training, next((name for name in ("bf16", "fp16") if given.get(name)), None)


def build_model(run, training) -> tuple:
    """The model without weights, with what trains; and what its sizes are taken from."""
    from psalm_hf import PsalmConfig
    from psalm_hf.training.arguments import MixtureArguments
    from psalm_hf.training.lora import add_adapters, read_lora
    from psalm_hf.training.memory import build_unallocated
    from psalm_hf.training.trainer import freeze_vision_tower, train_only

    is_mixture = isinstance(run, MixtureArguments)
    changed = run.model if is_mixture else {}
    if Path(run.checkpoint).is_dir():
        config, source = PsalmConfig.from_pretrained(run.checkpoint, **changed), run.checkpoint
    else:
        config, source = PsalmConfig.from_dict(changed), f"the released model ({run.checkpoint} does not exist)"
    model = build_unallocated(config)
    if not is_mixture:
        train_only(model, run.trainable)
    freeze_vision_tower(model, training.learning_rates)
    if is_mixture and (lora := read_lora(run.lora)):
        model = add_adapters(model, _LastRow(config.text_config.vocab_size), lora, learning_rates=training.learning_rates).get_base_model()
    return model, source


class _LastRow:
    """Stands for the processor, which is asked for the row of `[SEG]` in the embeddings; for sizes any row will do."""

    def __init__(self, vocab_size: int):
        self.tokenizer, self.row = self, vocab_size - 1

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.row


def main(arguments: list[str] | None = None) -> int:
    options, overrides = parse_arguments(arguments)

    import torch

    from psalm_hf.model.compatibility import CHECKPOINTING
    from psalm_hf.training import memory

    try:
        run, training, half = read_run(options.config, overrides)
        model, source = build_model(run, training)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    is_mixture = hasattr(run, "weights")
    # A source of weight 0 is never drawn.
    rows = (
        max(run.batch_sizes[name] for name, weight in run.weights.items() if weight) if is_mixture else training.per_device_train_batch_size
    )
    length = options.length or getattr(model.config.text_config, "max_position_embeddings", 2048)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, None: torch.float32}[half]
    is_checkpointed = bool(getattr(training, CHECKPOINTING))

    print(f"sizes of {source}\n")
    counts = memory.count_parameters(model)
    everything = sum(counts.values(), memory.Count())
    print_table(
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

    print(
        f"\nGiB on each of {options.processes} GPUs: AdamW, {half or 'float32'}, batches of {rows} rows x {length} tokens, "
        f"{model.config.image_size} x {model.config.image_size} pixels"
    )
    lines = []
    for engine in memory.ENGINES:
        states = memory.model_states(engine, everything, processes=options.processes, is_half=half is not None, unit=unit)
        kept = [
            max(activations["DDP" if engine == "DDP" else "others", step].total(checkpointed) for step in steps)
            for checkpointed in (False, True)
        ]
        parts = (states.weights, states.gathered, states.gradients, states.optimizer, *kept, states.total + kept[is_checkpointed])
        lines.append((engine, *(f"{part / GIB:.2f}" for part in parts)))
    print_table(("engine", "weights", "gathered", "gradients", "optimizer", "activations", "checkpointed", "sum"), lines)
    print(f"The sum is with gradient_checkpointing: {'true' if is_checkpointed else 'false'}.\n")

    for step in steps:
        found = activations["others", step]
        print(f"Kept for the backward pass by a {step} step, GiB (ZeRO, FSDP)")
        parts = {**found.kept, **found.kept_checkpointed}
        lines = [(part, *(f"{kept.get(part, 0) / GIB:.2f}" for kept in (found.kept, found.kept_checkpointed))) for part in parts]
        lines.append(("one layer, made again", "", f"{found.recomputed / GIB:.2f}"))
        print_table(("part", "activations", "checkpointed"), lines)
        print()
    print(
        f"Assumed: {rows} rows in every batch{', as of the largest source that is drawn' if is_mixture else ''}, "
        f"{memory.TARGETS_PER_PICTURE} targets per picture, batches with padding. Not counted: the CUDA context and NCCL (about "
        "1 GiB), kernels' and the frozen vision tower's temporary buffers, gradients of activations (about the largest part's single "
        "layer), buckets of DeepSpeed, fragmentation: add 10 to 20 %. Counted too high: what the pixel decoder keeps when checkpointed."
    )
    if is_mixture and run.language_model_bits:
        print(f"language_model_bits: {run.language_model_bits} is not counted; the language model is shown with all of its bits.")
    return 0


def print_table(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        first, *others = (
            text.ljust(width) if number == 0 else text.rjust(width) for number, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join((first, *others)))


if __name__ == "__main__":
    sys.exit(main())
