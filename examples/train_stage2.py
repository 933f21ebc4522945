"""Stage 2: joint training on a mixture of tasks.

    python examples/train_stage2.py --config examples/configs/tiny_shapes.yaml [--max_steps 100 --output_dir DIR]
    accelerate launch examples/train_stage2.py --config examples/configs/stage2_paper.yaml

Fields of the config; `--field value` overrides each of them, values are read as YAML:

    checkpoint      folder or Hub id to start from
    weights         source -> share of the steps
    batch_sizes     source -> samples per batch
    sources         source -> its dataset and options; left out: a shapes task
    model           fields of PsalmConfig that differ from the checkpoint's; weights that they add or change start anew
    eval_images     validation pictures per evaluation, 0 = none
    eval_sources    name -> dataset that is measured; left out: shapes
    lora            adapters on the language model: rank, alpha, dropout, targets, see docs/lora.md; left out: all of it learns
    merge_adapter   also write output_dir/merged, which needs no peft
    language_model_bits   8 or 4: quantised language model under adapters

and those of `PsalmTrainingArguments`: everything that TrainingArguments of transformers has (output_dir, max_steps, learning_rate,
save_steps, eval_strategy, seed, deepspeed, bf16, gradient_checkpointing, push_to_hub, ...), and

    learning_rates           submodule -> learning rate of its own; model.vision_tower is frozen unless it is named
    frozen_vision_dropout    keep stochastic depth of the frozen vision tower (as the released code)
    projector_batch_norm     batch, synchronised or frozen statistics
    fully_shard              divide weights and states among all processes (FSDP2)

A source is `{dataset: NAME, split: train, data_dir: FOLDER, ...}` with the names and options of `psalm_hf.data.list_datasets()`, and
`condition: category` (sentence, region, conversation) to take such rows alone. Without `dataset` it is the task of its name (panoptic,
referring, interactive, conversation) of the shapes world, with the options of `ShapesStream`.

A run that was interrupted goes on from its last complete checkpoint when started again with `--resume true`. SIGTERM ends a run after
the current step, with a complete checkpoint. Several processes, DeepSpeed, FSDP: docs/training.md.
"""

import argparse
import sys


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and what overrides fields of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("--resume", choices=("true", "false"), default="false", help="go on from the last checkpoint of output_dir")
    return parser.parse_known_args(arguments)


def build_trainer(config: str, overrides: list[str], resume: bool) -> tuple:
    """Everything that can be refused is refused here: first what the config says, then what the files hold."""
    from psalm_hf import PsalmConfig, PsalmForSegmentation, PsalmProcessor
    from psalm_hf.data.collator import PsalmCollator
    from psalm_hf.data.mixture import OneTaskPerBatch, TaskSources, check_mixture, open_source
    from psalm_hf.evaluation.evaluation import measurement
    from psalm_hf.training.arguments import MixtureArguments, PsalmTrainingArguments, read_config
    from psalm_hf.training.lora import add_adapters, check_run, merged_folder, read_lora
    from psalm_hf.training.quantization import quantization_options
    from psalm_hf.training.resuming import check_schedule, last_checkpoint
    from psalm_hf.training.trainer import PsalmTrainer

    mixture, training = read_config(config, overrides, (MixtureArguments, PsalmTrainingArguments))
    check_mixture(mixture.weights, mixture.batch_sizes, mixture.sources)
    lora = read_lora(mixture.lora)
    if lora:
        check_run(training, merge=mixture.merge_adapter)
    batches_per_step = training.gradient_accumulation_steps * training.world_size
    batches = OneTaskPerBatch(mixture.weights, mixture.batch_sizes, training.max_steps, training.seed, batches_per_step)
    checkpoint = last_checkpoint(training.output_dir) if resume else None
    if checkpoint is not None:
        check_schedule(checkpoint, batches.schedule)

    psalm_config = PsalmConfig.from_pretrained(mixture.checkpoint, **mixture.model)
    num_queries = psalm_config.num_queries if psalm_config.decouple_masks else 0
    processor = PsalmProcessor.from_pretrained(mixture.checkpoint, num_queries=num_queries)
    size = processor.image_processor.image_size
    sources = {name: open_source(name, mixture.sources.get(name, {}), image_size=size, seed=training.seed) for name in mixture.weights}

    model = PsalmForSegmentation.from_pretrained(
        mixture.checkpoint,
        config=psalm_config,
        ignore_mismatched_sizes=bool(mixture.model),
        **training.loading_options,
        **quantization_options(mixture.language_model_bits, training),
    )
    if lora:
        model = add_adapters(model, processor, lora, learning_rates=training.learning_rates, seed=training.seed)
    evaluation = None
    if mixture.eval_images:
        sizes = {"images": mixture.eval_images, "batch_size": training.per_device_eval_batch_size}
        evaluation = measurement(processor, **sizes, sources=mixture.eval_sources)
    trainer = PsalmTrainer(
        model=model,
        args=training,
        train_dataset=TaskSources(sources),
        batch_sampler=batches,
        data_collator=PsalmCollator(processor, shuffle_categories=True, seed=training.seed),
        evaluation=evaluation,
        processing_class=processor,
    )
    return trainer, checkpoint, merged_folder(training) if mixture.merge_adapter else None


def main(arguments: list[str] | None = None) -> int:
    options, overrides = parse_arguments(arguments)
    try:
        trainer, checkpoint, merged = build_trainer(options.config, overrides, options.resume == "true")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    from psalm_hf.training.lora import merge_adapter

    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.was_terminated:
        trainer.accelerator.end_training()
        print(f"ended by SIGTERM after step {trainer.state.global_step}; --resume true goes on from there", file=sys.stderr)
        return 128 + 15
    trainer.save_model()
    if merged and trainer.is_world_process_zero():
        merge_adapter(trainer.args.output_dir, merged)
    # Threads of a process group that is still open when Python ends may want the interpreter once more: the process then aborts.
    trainer.accelerator.end_training()
    return 0


if __name__ == "__main__":
    sys.exit(main())
