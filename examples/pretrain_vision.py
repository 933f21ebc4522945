"""Vision pretraining on the shapes world, the first of three steps of a model that starts from nothing.

    python examples/pretrain_vision.py --config examples/configs/tiny_vision.yaml [--steps 100 --output_dir DIR]

Builds the model and tokenizer that the config names, trains vision tower, pixel decoder and projector under throw-away dense heads, and
writes a complete PSALM folder (language model and mask decoder still random) for the next step. With `steps: 0` everything is random:

    python examples/pretrain_vision.py --config examples/configs/photos_start.yaml
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass
class VisionArguments:
    """Fields of the config file; each is also a command-line option that overrides it."""

    model_file: str = field(
        metadata={"help": "YAML: vocab_size, fields of PsalmConfig under `model`, options of PsalmProcessor under `processor`"}
    )
    output_dir: str = field(metadata={"help": "folder for the PSALM checkpoint"})
    sources: dict = field(
        default_factory=dict,
        metadata={"help": "name -> dataset, data_dir, ... whose words the tokenizer learns; left out: those of the shapes world"},
    )
    steps: int = field(default=1400, metadata={"help": "0 = write the random model"})
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 40
    seed: int = 0
    num_workers: int = field(default=1, metadata={"help": "processes that draw scenes"})


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file with the fields below")
    for name, spec in VisionArguments.__dataclass_fields__.items():
        parser.add_argument(f"--{name}", type=yaml.safe_load if spec.type is dict else spec.type, help=spec.metadata.get("help"))
    return parser.parse_args(arguments)


def read_config(options: argparse.Namespace) -> VisionArguments:
    given = {name: value for name, value in vars(options).items() if name != "config" and value is not None}
    fields = yaml.safe_load(Path(options.config).read_text()) | given
    unknown = fields.keys() - VisionArguments.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(f"{options.config}: unknown fields {', '.join(sorted(unknown))}")
    return VisionArguments(**fields)


def shapes_texts() -> list[str]:
    """What prompts of the shapes world say."""
    from psalm_hf.data.shapes import ShapesStream

    texts = []
    for task, number in {"referring": 4000, "conversation": 2000, "caption": 400, "panoptic": 400}.items():
        stream = ShapesStream(task=task, prompts_per_image=8, phrase_percent=60)
        for index in range(number):
            sample = stream[index]
            texts += [*sample.expressions, *(message["content"] for message in sample.conversation), ", ".join(sample.categories.values())]
    return texts


def source_texts(sources: dict) -> list[str]:
    """What prompts of datasets say: expressions and conversations of all rows, and for every row the names of the categories."""
    from psalm_hf.data import load

    texts = []
    for options in sources.values():
        options = {"split": "train"} | options
        samples = load(options.pop("dataset"), **options)
        names = ", ".join(category.name for category in samples.categories)
        for row in samples.rows:
            texts += [*(row["expressions"] or ()), *(message["content"] for message in row["conversation"] or ()), names]
    return texts


def build(model_file: str, seed: int, sources: dict | None = None) -> tuple:
    """A random model and a processor whose tokenizer knows the words of the sources; without any, those of the shapes world."""
    import torch

    from psalm_hf import PsalmConfig, PsalmForSegmentation, PsalmImageProcessor, PsalmProcessor
    from psalm_hf.model.prompts import HUMAN_TURNS, SYSTEM_MESSAGE
    from psalm_hf.training.tokenizer import train_tokenizer

    sizes = yaml.safe_load(Path(model_file).read_text())
    texts = [f"[INST] <<SYS>>\n{SYSTEM_MESSAGE}\n<</SYS>>\n\n", " [/INST] \nSure, the segmentation result is ", ", background"] * 50
    texts += [turn for turns in HUMAN_TURNS.values() for turn in turns.values()] * 50
    texts += source_texts(sources) if sources else shapes_texts()
    tokenizer = train_tokenizer(texts, sizes["vocab_size"])

    fields = sizes["model"]
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    fields["text_config"] |= {"vocab_size": len(tokenizer)} | ids
    config = PsalmConfig.from_dict(fields)
    torch.manual_seed(seed)
    model = PsalmForSegmentation(config)
    processor = PsalmProcessor(
        PsalmImageProcessor(size={"longest_edge": config.image_size}),
        tokenizer,
        num_queries=config.num_queries,
        image_grid=config.image_grid,
        **sizes["processor"],
    )
    return model, processor


def train(model, processor, options: VisionArguments) -> None:
    import torch
    from torch.utils.data import DataLoader
    from tqdm import tqdm
    from transformers import get_cosine_schedule_with_warmup

    from psalm_hf.training.vision import DensePretraining, DenseScenes

    size = model.config.image_size
    scenes = DenseScenes(processor.image_processor, "train", options.steps * options.batch_size, options.seed, size)
    loader = DataLoader(scenes, batch_size=options.batch_size, num_workers=options.num_workers)
    dense = DensePretraining(model).train()
    optimizer = torch.optim.AdamW(dense.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, options.warmup_steps, options.steps)
    progress = tqdm(loader, desc="vision", total=options.steps, file=sys.stderr, mininterval=5)
    for step, batch in enumerate(progress):
        outputs = dense(**batch)
        optimizer.zero_grad()
        outputs["loss"].backward()
        torch.nn.utils.clip_grad_norm_(dense.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == options.steps - 1:
            tqdm.write(f"step {step}: loss {outputs['loss'].item():.3f}, shape accuracy {outputs['accuracy'].item():.3f}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    options = read_config(parse_arguments(arguments))
    start = time.perf_counter()
    model, processor = build(options.model_file, options.seed, options.sources)
    print(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} million parameters", file=sys.stderr)
    if options.steps:
        train(model, processor, options)
    model.eval().save_pretrained(options.output_dir)
    processor.save_pretrained(options.output_dir)
    print(f"wrote {options.output_dir} after {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
