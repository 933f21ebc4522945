"""Stage 1: vision-language alignment. Pictures and captions, no instruction; only the projector learns, or what the config names.

    python examples/train_stage1.py --config examples/configs/tiny_stage1.yaml [--max_steps 100 --output_dir DIR]

Fields of the config; `--field value` overrides each of them, values are read as YAML:

    checkpoint      folder or Hub id to start from
    trainable       submodules that learn, by their names in the state dict (default [model.projector])
    source          dataset of captions and its options; left out: shapes

and those of `PsalmTrainingArguments`: everything that TrainingArguments of transformers has (output_dir, max_steps, learning_rate,
save_steps, seed, deepspeed, bf16, gradient_checkpointing, push_to_hub, ...), and

    learning_rates           submodule -> learning rate of its own; model.vision_tower is frozen unless it is named
    frozen_vision_dropout    keep stochastic depth of the frozen vision tower (as the released code)
    projector_batch_norm     batch, synchronised or frozen statistics
    fully_shard              divide weights and states among all processes (FSDP2)

per_device_train_batch_size is the number of captions per batch. A source is `{dataset: llava_pretrain_595k, data_dir: FOLDER,
caption_only: true}`, with the names and options of `psalm_hf.data.list_datasets()`.

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
    from psalm_hf import PsalmForSegmentation, PsalmProcessor
    from psalm_hf.data.collator import PsalmCollator
    from psalm_hf.data.mixture import OneTaskPerBatch, TaskSources, check_source, open_source
    from psalm_hf.training.arguments import AlignmentArguments, PsalmTrainingArguments, read_config
    from psalm_hf.training.resuming import check_schedule, last_checkpoint
    from psalm_hf.training.trainer import PsalmTrainer, train_only

    alignment, training = read_config(config, overrides, (AlignmentArguments, PsalmTrainingArguments))
    check_source("caption", alignment.source)
    batch_sizes = {"caption": training.per_device_train_batch_size}
    batches_per_step = training.gradient_accumulation_steps * training.world_size
    batches = OneTaskPerBatch({"caption": 1.0}, batch_sizes, training.max_steps, training.seed, batches_per_step)
    checkpoint = last_checkpoint(training.output_dir) if resume else None
    if checkpoint is not None:
        check_schedule(checkpoint, batches.schedule)

    processor = PsalmProcessor.from_pretrained(alignment.checkpoint)
    captions = open_source("caption", alignment.source, image_size=processor.image_processor.image_size, seed=training.seed)
    model = PsalmForSegmentation.from_pretrained(alignment.checkpoint, **training.loading_options)
    train_only(model, alignment.trainable)

    trainer = PsalmTrainer(
        model=model,
        args=training,
        train_dataset=TaskSources({"caption": captions}),
        batch_sampler=batches,
        data_collator=PsalmCollator(processor, prompt_style="plain", seed=training.seed),
        processing_class=processor,
    )
    return trainer, checkpoint


def main(arguments: list[str] | None = None) -> int:
    options, overrides = parse_arguments(arguments)
    try:
        trainer, checkpoint = build_trainer(options.config, overrides, options.resume == "true")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.was_terminated:
        trainer.accelerator.end_training()
        print(f"ended by SIGTERM after step {trainer.state.global_step}; --resume true goes on from there", file=sys.stderr)
        return 128 + 15
    trainer.save_model()
    # Threads of a process group that is still open when Python ends may want the interpreter once more: the process then aborts.
    trainer.accelerator.end_training()
    return 0


if __name__ == "__main__":
    sys.exit(main())
