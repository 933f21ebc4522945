"""Training from a config to a checkpoint: vision pretraining, stage 1 on captions, or stage 2 on a mixture of tasks."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import strtobool

from ..checkpoints import resolve_checkpoint
from ..data import mixture
from ..data.collator import PsalmCollator
from ..data.own.holdout import HELD_OUT_SPLIT
from ..evaluation.evaluation import measurement
from ..locking import only_run
from ..public import PsalmConfig, PsalmForSegmentation, PsalmProcessor
from ..writing import remove_unfinished, sync_tree
from .arguments import AlignmentArguments, MixtureArguments, PsalmTrainingArguments, read_config
from .configs import read_mapping
from .lora import add_adapters, merge_adapter, read_lora
from .model_card import state_domain
from .next_steps import has_own_data, next_steps, why_nothing_is_held_out
from .quantization import quantization_options
from .resuming import check_schedule, last_checkpoint
from .start import VisionArguments, make_start
from .trainer import PsalmTrainer, train_only

Overrides = Sequence[str] | Mapping[str, Any]
Run = AlignmentArguments | MixtureArguments


def train(config: str | Path, overrides: Overrides = (), *, resume: bool = False) -> PsalmTrainer | None:
    """Trains what a config describes, and writes the checkpoint into its `output_dir`.

    Args:
        config, overrides, resume: as of `build_trainer`; also a config of vision pretraining, which cannot be resumed.

    Returns:
        The trainer, or None for vision pretraining. After a SIGTERM (`was_terminated`) there is a complete checkpoint to resume from, and
        no model at the end.

    Raises:
        ValueError, OSError, ImportError: see `build_trainer`; before anything is trained.
    """
    return prepare(config, overrides, resume=resume)()


def prepare(config: str | Path, overrides: Overrides = (), *, resume: bool = False) -> Callable[[], PsalmTrainer | None]:
    """`train` in two steps: all that can be refused is refused here, and what is returned trains."""
    if stage_of(config, overrides) is VisionArguments:
        if resume:
            raise ValueError(f"{config}: vision pretraining keeps no checkpoint to go on from; start it without resuming")
        return partial(make_start, *read_config(config, overrides, (VisionArguments,)))
    run, training = read_run(config, overrides)
    return partial(_train, _build(run, training, resume), run)


def build_trainer(config: str | Path, overrides: Overrides = (), *, resume: bool = False) -> PsalmTrainer:
    """Builds the trainer of a run of stage 1 or 2, ready for `train()`.

    Everything that can be refused is refused here: first what the config says, then what the files hold.

    Args:
        config: YAML file, or the name of a config that ships (`psalm_hf.configs`), such as "tiny_shapes".
        overrides: `{"max_steps": 5}`, or words of a command line, `["--max-steps", "5"]`; stronger than the config.
        resume: `args.resume_from_checkpoint` becomes the last complete checkpoint of `output_dir`.

    Raises:
        ValueError: what cannot be meant or does not fit together, with what was probably meant; see `read_config`, `check_mixture`,
            `check_schedule`.
        OSError: a checkpoint, folder or file that does not exist.
        ImportError: a library that the run needs.
    """
    if stage_of(config, overrides) is VisionArguments:
        raise ValueError(f"{config}: is a config of vision pretraining, which needs no trainer; psalm_hf.training.train runs it")
    return _build(*read_run(config, overrides), resume)


def stage_of(config: str | Path, overrides: Overrides = ()) -> type:
    """Finds the class of arguments of a config by the fields that no other class has; `AlignmentArguments` where there are none."""
    _, given = read_mapping(config, overrides)
    stages = (AlignmentArguments, MixtureArguments, VisionArguments)
    number = Counter(field.name for stage in (*stages, PsalmTrainingArguments) for field in fields(stage))
    return max(stages, key=lambda stage: sum(field.name in given for field in fields(stage) if number[field.name] == 1))


def read_run(config: str | Path, overrides: Overrides = ()) -> tuple[Run, PsalmTrainingArguments]:
    """Reads a config of stage 1 or 2."""
    return read_config(config, overrides, (stage_of(config, overrides), PsalmTrainingArguments))


def _build(run: Run, training: PsalmTrainingArguments, resume: bool) -> PsalmTrainer:
    resolve_checkpoint(run.checkpoint)  # a name that cannot be one is refused before all others
    parts = _mixture_parts if isinstance(run, MixtureArguments) else _alignment_parts
    trainer = parts(run, training, resume)
    state_domain(trainer)
    return trainer


def _batches(
    weights: dict[str, float], batch_sizes: dict[str, int], training: PsalmTrainingArguments, resume: bool
) -> mixture.OneTaskPerBatch:
    """Draws the batches of a run, which must be those of the checkpoint that it goes on from."""
    batches_per_step = training.gradient_accumulation_steps * training.world_size
    batches = mixture.OneTaskPerBatch(weights, batch_sizes, training.max_steps, training.seed, batches_per_step)
    if resume:
        training.resume_from_checkpoint = last_checkpoint(training.output_dir)
        check_schedule(training.resume_from_checkpoint, batches.schedule)
    return batches


def _alignment_parts(run: AlignmentArguments, training: PsalmTrainingArguments, resume: bool) -> PsalmTrainer:
    mixture.check_source("caption", run.source)
    batches = _batches({"caption": 1.0}, {"caption": training.per_device_train_batch_size}, training, resume)
    processor = PsalmProcessor.from_pretrained(run.checkpoint)
    captions = mixture.open_source("caption", run.source, image_size=processor.image_processor.image_size, seed=training.seed)
    model = PsalmForSegmentation.from_pretrained(run.checkpoint, **training.loading_options)
    train_only(model, run.trainable)
    return PsalmTrainer(
        model=model,
        args=training,
        train_dataset=mixture.TaskSources({"caption": captions}),
        batch_sampler=batches,
        data_collator=PsalmCollator(processor, prompt_style="plain", seed=training.seed),
        processing_class=processor,
    )


def merged_folder(training: PsalmTrainingArguments) -> Path:
    """Folder of the merged model of a run with `merge_adapter`."""
    return Path(training.output_dir, "merged")


def check_adapters(training: PsalmTrainingArguments, *, merge: bool) -> None:
    """Refuses runs that adapters cannot make, before anything is loaded.

    Raises:
        ValueError: an engine that divides the weights (`fully_shard`, ZeRO-3, FSDP): adapters would be put on a model that is divided,
            and peft reads single rows of its embeddings; a merged folder of an earlier run.
    """
    is_fsdp = bool(training.fsdp) or strtobool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
    engine = "fully_shard" if training.fully_shard else "DeepSpeed ZeRO-3" if is_deepspeed_zero3_enabled() else "FSDP" if is_fsdp else None
    if engine:
        raise ValueError(f"lora: adapters do not work with {engine}; use several processes without it (DDP)")
    if merge and merged_folder(training).exists():
        raise ValueError(f"merge_adapter: {merged_folder(training)} exists already; remove it or give another output_dir")


def _say(training: PsalmTrainingArguments, text: str) -> None:
    """Prints on the standard error, once for all processes."""
    if training.process_index == 0:
        print(text, file=sys.stderr, flush=True)


def _choose_mixture(run: MixtureArguments, training: PsalmTrainingArguments) -> None:
    """Fills in the mixture of a run that names its data alone, and says what was chosen."""
    PsalmProcessor.from_pretrained(run.checkpoint)  # what cannot be loaded is told before rows are made, which may take long
    with training.main_process_first(local=False, desc="rows"):  # which writes the cached rows
        chosen = mixture.choose_mixture(run.data, run.weights, run.batch_sizes)
    run.weights, run.batch_sizes, run.sources = chosen.weights, chosen.batch_sizes, chosen.sources
    if not run.eval_sources:
        run.eval_sources = {name: {**options, "split": HELD_OUT_SPLIT} for name, options in run.sources.items() if name != "conversations"}
    _say(training, f"mixture, chosen from what the files hold (to have another one give weights, batch_sizes or sources): {chosen}")


def _say_what_is_not_held_out(run: MixtureArguments, training: PsalmTrainingArguments) -> None:
    for name in run.weights:
        options = run.sources.get(name, {})
        if has_own_data(options) and (reason := why_nothing_is_held_out(options)):
            _say(training, f"source {name}: no image is held out, so nothing will tell how good the checkpoint is on new images: {reason}")
            return


def _mixture_parts(run: MixtureArguments, training: PsalmTrainingArguments, resume: bool) -> PsalmTrainer:
    if run.data:
        _choose_mixture(run, training)
    mixture.check_mixture(run.weights, run.batch_sizes, run.sources)
    _say_what_is_not_held_out(run, training)
    lora = read_lora(run.lora)
    if lora:
        check_adapters(training, merge=run.merge_adapter)
    batches = _batches(run.weights, run.batch_sizes, training, resume)

    psalm_config = PsalmConfig.from_pretrained(run.checkpoint, **run.model)
    num_queries = psalm_config.num_queries if psalm_config.decouple_masks else 0
    processor = PsalmProcessor.from_pretrained(run.checkpoint, num_queries=num_queries)
    size = processor.image_processor.image_size
    sources = {name: mixture.open_source(name, run.sources.get(name, {}), image_size=size, seed=training.seed) for name in run.weights}
    evaluation = None
    if run.eval_images:
        sizes = {"images": run.eval_images, "batch_size": training.per_device_eval_batch_size}
        evaluation = measurement(processor, **sizes, sources=run.eval_sources)

    model = PsalmForSegmentation.from_pretrained(
        run.checkpoint,
        config=psalm_config,
        ignore_mismatched_sizes=bool(run.model),
        **training.loading_options,
        **quantization_options(run.language_model_bits, training),
    )
    if lora:
        model = add_adapters(model, processor, lora, learning_rates=training.learning_rates, seed=training.seed)
    return PsalmTrainer(
        model=model,
        args=training,
        train_dataset=mixture.TaskSources(sources),
        batch_sampler=batches,
        data_collator=PsalmCollator(processor, shuffle_categories=True, seed=training.seed),
        evaluation=evaluation,
        processing_class=processor,
    )


def _train(trainer: PsalmTrainer, run: Run) -> PsalmTrainer:
    with only_run(Path(trainer.args.output_dir)) if trainer.is_world_process_zero() else nullcontext():
        return _train_alone(trainer, run)


def _train_alone(trainer: PsalmTrainer, run: Run) -> PsalmTrainer:
    if trainer.is_world_process_zero():
        remove_unfinished(Path(trainer.args.output_dir))
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    merges = getattr(run, "merge_adapter", False)
    if not trainer.was_terminated:
        trainer.save_model()
        if trainer.is_world_process_zero():
            sync_tree(Path(trainer.args.output_dir))
        if merges and trainer.is_world_process_zero():
            merge_adapter(trainer.args.output_dir, merged_folder(trainer.args))
    # Threads of a process group that is still open when Python ends may want the interpreter once more: the process then aborts.
    trainer.accelerator.end_training()
    if not trainer.was_terminated:
        _say(trainer.args, _last_line(trainer, run, merged_folder(trainer.args) if merges else Path(trainer.args.output_dir)))
    return trainer


def _last_line(trainer: PsalmTrainer, run: Run, checkpoint: Path) -> str:
    if isinstance(run, AlignmentArguments):
        return f"checkpoint: {checkpoint}; go on with stage 2: psalm train --config stage2_paper --checkpoint {checkpoint}"
    drawn = {name: trainer.train_dataset.sources[name] for name, weight in run.weights.items() if weight}
    return next_steps(checkpoint, run.sources, drawn)
