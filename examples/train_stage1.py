"""Stage 1: vision-language alignment. Pictures and captions, no instruction; only the projector learns, or what the config names.

    python examples/train_stage1.py --config examples/configs/tiny_stage1.yaml [--max_steps 100 --output_dir DIR]

Fields of the config; `--field value` overrides each of them, values are read as YAML:

    checkpoint      folder or Hub id to start from
    trainable       submodules that learn, by their names in the state dict (default [model.projector])
    source          dataset of captions and its options; left out: shapes

A source is `{dataset: llava_pretrain_595k, data_dir: FOLDER, caption_only: true}`, with the names and options of
`psalm_hf.data.list_datasets()`. To the fields above come those of `PsalmTrainingArguments`: everything that TrainingArguments of
transformers has (output_dir, max_steps, learning_rate, save_steps, seed, ...); per_device_train_batch_size is the number of captions
per batch.

A run that was interrupted goes on from its last complete checkpoint when started again with `--resume true`.
"""

import argparse
import sys


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and what overrides fields of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("--resume", choices=("true", "false"), default="false", help="go on from the last checkpoint of output_dir")
    return parser.parse_known_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options, overrides = parse_arguments(arguments)

    from psalm_hf import PsalmForSegmentation, PsalmProcessor
    from psalm_hf.data.collator import PsalmCollator
    from psalm_hf.data.mixture import OneTaskPerBatch, TaskSources, open_source
    from psalm_hf.training.arguments import AlignmentArguments, PsalmTrainingArguments, read_config
    from psalm_hf.training.trainer import PsalmTrainer, last_checkpoint, train_only

    alignment, training = read_config(options.config, overrides, (AlignmentArguments, PsalmTrainingArguments))
    checkpoint = last_checkpoint(training.output_dir) if options.resume == "true" else None

    processor = PsalmProcessor.from_pretrained(alignment.checkpoint)
    model = PsalmForSegmentation.from_pretrained(alignment.checkpoint)
    train_only(model, alignment.trainable)

    captions = open_source("caption", alignment.source, image_size=processor.image_processor.image_size, seed=training.seed)
    batch_sizes = {"caption": training.per_device_train_batch_size}
    batches_per_step = training.gradient_accumulation_steps * training.world_size

    trainer = PsalmTrainer(
        model=model,
        args=training,
        train_dataset=TaskSources({"caption": captions}),
        batch_sampler=OneTaskPerBatch({"caption": 1.0}, batch_sizes, training.max_steps, training.seed, batches_per_step),
        data_collator=PsalmCollator(processor, prompt_style="plain", seed=training.seed),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    return 0


if __name__ == "__main__":
    sys.exit(main())
