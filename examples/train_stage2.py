"""Stage 2: joint training on a mixture of tasks.

    python examples/train_stage2.py --config examples/configs/tiny_shapes.yaml [--max_steps 100 --output_dir DIR]

The config holds the fields of `MixtureArguments` and `PsalmTrainingArguments`; options of the command line override them. An interrupted
run goes on from its last checkpoint when started again with `--resume true`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any


def parse_arguments(arguments: list[str] | None = None) -> tuple[str, dict[str, Any], bool]:
    """Config file, overrides, and whether to resume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("--resume", choices=("true", "false"), default="false", help="go on from the last checkpoint of output_dir")
    options, rest = parser.parse_known_args(arguments)
    if len(rest) % 2 or not all(name.startswith("--") for name in rest[::2]):
        parser.error(f"overrides are pairs `--field value`, got {' '.join(rest)}")
    return options.config, dict(zip((name[2:] for name in rest[::2]), rest[1::2], strict=True)), options.resume == "true"


def read_config(config: str, overrides: dict[str, str]) -> tuple:
    """`MixtureArguments` and `PsalmTrainingArguments`; values of the command line are read as YAML."""
    import yaml
    from transformers import HfArgumentParser

    from psalm_hf.training.arguments import MixtureArguments, PsalmTrainingArguments

    fields = yaml.safe_load(Path(config).read_text()) | {name: yaml.safe_load(value) for name, value in overrides.items()}
    return HfArgumentParser((MixtureArguments, PsalmTrainingArguments)).parse_dict(fields)


def main(arguments: list[str] | None = None) -> int:
    config, overrides, resume = parse_arguments(arguments)
    mixture, training = read_config(config, overrides)

    from psalm_hf import PsalmForSegmentation, PsalmProcessor
    from psalm_hf.data.collator import PsalmCollator
    from psalm_hf.data.mixture import OneTaskPerBatch, TaskSources
    from psalm_hf.data.shapes import ShapesStream
    from psalm_hf.training.trainer import PsalmTrainer

    processor = PsalmProcessor.from_pretrained(mixture.checkpoint)
    model = PsalmForSegmentation.from_pretrained(mixture.checkpoint)
    size = processor.image_processor.image_size
    streams = {task: ShapesStream(task=task, image_size=size, **mixture.options.get(task, {})) for task in mixture.weights}
    trainer = PsalmTrainer(
        model=model,
        args=training,
        train_dataset=TaskSources(streams),
        batch_sampler=OneTaskPerBatch(mixture.weights, mixture.batch_sizes, training.max_steps, training.seed),
        data_collator=PsalmCollator(processor, shuffle_categories=True, seed=training.seed),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=resume or None)
    trainer.save_model()
    return 0


if __name__ == "__main__":
    sys.exit(main())
