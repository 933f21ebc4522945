"""Trains what a config describes: vision pretraining, stage 1 (captions) or stage 2 (a mixture of tasks); its fields say which.

    psalm train --config tiny_shapes [--max-steps 100 --output-dir DIR]
    psalm train --config my_run.yaml --resume
    psalm train --config own_data --checkpoint FOLDER --data "{dataset: own_coco, data_dir: mydata, holdout: 0.1}"
    accelerate launch -m psalm_hf.cli.train --config stage2_paper

--config is a YAML file, or the name of one that ships. `--field value` overrides a field; values are read as YAML. A file that a config
names (deepspeed, model_file) is a path, a file beside the config, or one that ships.

Stage 1, vision-language alignment: images and captions, no instruction; only the projector learns, or what the config names.

    checkpoint      folder or Hub id to start from, or psalm-tiny
    trainable       submodules that learn, by their names in the state dict (default [model.projector])
    source          dataset of captions and its options; left out: shapes

Stage 2, joint training on a mixture of tasks:

    checkpoint      folder or Hub id to start from, or psalm-tiny
    data            one dataset and its options, from whose files the mixture is chosen; what was chosen is printed
    weights         source -> share of the steps; with data only to change what is chosen, 0 = never drawn
    batch_sizes     source -> samples per batch; with data only to change what is chosen
    sources         source -> its dataset and options, instead of data; left out: a shapes task
    model           fields of PsalmConfig that differ from the checkpoint's; weights that they add or change start anew
    eval_images     validation images per evaluation, 0 = none
    eval_sources    name -> dataset that is evaluated; left out: the split val of data, or shapes
    lora            adapters on the language model: rank, alpha, dropout, targets; left out: all of it learns
    merge_adapter   also write output_dir/merged, which needs no peft
    language_model_bits   8 or 4: quantised language model under adapters

Both stages, fields of `PsalmTrainingArguments`: everything that TrainingArguments of transformers has (output_dir, max_steps,
learning_rate, save_steps, eval_strategy, seed, deepspeed, bf16, gradient_checkpointing, push_to_hub, ...), and

    learning_rates           submodule -> learning rate of its own; model.vision_tower is frozen unless it is named
    frozen_vision_dropout    keep stochastic depth of the frozen vision tower (as the released code)
    projector_batch_norm     batch, synchronised or frozen statistics
    fully_shard              divide weights and states among all processes (FSDP2)

In stage 1 per_device_train_batch_size is the number of captions per batch. A source is `{dataset: NAME, split: train, data_dir: FOLDER,
...}` with the names and options of `psalm_hf.data.list_datasets()`, and `condition: category` (sentence, region, conversation) to take such
rows alone. Without `dataset` it is the task of its name (panoptic, referring, interactive, conversation) of the shapes world, with the
options of `ShapesStream`.

Vision pretraining, the first of three steps of a model that starts from nothing:

    model_file      YAML: vocab_size, fields of PsalmConfig under `model`, options of PsalmProcessor under `processor`
    output_dir      folder for the PSALM checkpoint
    sources         name -> dataset, data_dir, ... whose words the tokenizer learns; left out: those of the shapes world
    steps           0 = write the random model
    batch_size, learning_rate, weight_decay, warmup_steps, seed, num_workers

A run of stage 1 or 2 that was interrupted goes on from its last complete checkpoint when started again with --resume. SIGTERM ends it
after the current step, with a complete checkpoint. Several processes, DeepSpeed, FSDP: the page on training of the documentation.
"""

import argparse
import sys

from .command import CommandParser, refuse


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and what overrides fields of the config."""
    parser = CommandParser("train", __doc__, has_fields=True)
    parser.add_argument("--config", required=True, help="YAML file, or the name of one that ships, such as tiny_shapes")
    parser.add_argument(
        "--resume",
        nargs="?",
        choices=("true", "false"),
        const="true",
        default="false",
        help="go on from the last checkpoint of output_dir",
    )
    return parser.parse_known_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    try:
        options, overrides = parse_arguments(arguments)

        from ..training.stages import prepare

        trainer = prepare(options.config, overrides, resume=options.resume == "true")()
    except (ValueError, OSError, ImportError) as error:
        return refuse(error)
    if trainer is not None and trainer.was_terminated:
        print(f"ended by SIGTERM after step {trainer.state.global_step}; --resume goes on from there", file=sys.stderr)
        return 128 + 15
    return 0


if __name__ == "__main__":
    sys.exit(main())
