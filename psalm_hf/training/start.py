"""A model that starts from nothing: random weights, a tokenizer for the words it will read, and vision parts that are trained first.

Trains vision tower, pixel decoder and projector under throw-away dense heads, and writes a complete PSALM folder (language model and mask
decoder still random) for the next step. With `steps: 0` everything is random.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from ..data import load
from ..data.shapes.stream import ShapesStream
from ..model.prompts import HUMAN_TURNS, SYSTEM_MESSAGE
from ..public import PsalmConfig, PsalmForSegmentation, PsalmImageProcessor, PsalmProcessor
from .configs import find_config
from .tokenizer import train_tokenizer
from .vision import DensePretraining, DenseScenes


@dataclass
class VisionArguments:
    """The first step of a model that starts from nothing."""

    model_file: str = field(
        metadata={"help": "YAML: vocab_size, fields of PsalmConfig under `model`, options of PsalmProcessor under `processor`"}
    )
    output_dir: str = field(metadata={"help": "folder for the PSALM checkpoint"})
    sources: dict = field(
        default_factory=dict,
        metadata={"help": "name -> dataset, data_dir, ... whose words the tokenizer learns; left out: those of the shapes world"},
    )
    steps: int = field(default=1400, metadata={"help": "0 = write the random model"})
    batch_size: int = field(default=16, metadata={"help": "scenes per step"})
    learning_rate: float = field(default=1.5e-3, metadata={"help": "at its height, after warm-up"})
    weight_decay: float = field(default=0.05, metadata={"help": "of AdamW"})
    warmup_steps: int = field(default=40, metadata={"help": "steps until the rate is at its height"})
    seed: int = field(default=0, metadata={"help": "of the weights and the scenes"})
    num_workers: int = field(default=1, metadata={"help": "processes that draw scenes"})


def shapes_texts() -> list[str]:
    """What prompts of the shapes world say."""
    texts = []
    for task, number in {"referring": 4000, "conversation": 2000, "caption": 400, "panoptic": 400}.items():
        stream = ShapesStream(task=task, prompts_per_image=8, phrase_percent=60)
        for index in range(number):
            sample = stream[index]
            texts += [*sample.expressions, *(message["content"] for message in sample.conversation), ", ".join(sample.categories.values())]
    return texts


def source_texts(sources: dict) -> list[str]:
    """What prompts of datasets say: expressions and conversations of all rows, and for every row the names of the categories."""
    texts = []
    for options in sources.values():
        options = {"split": "train"} | options
        samples = load(options.pop("dataset"), **options)
        names = ", ".join(category.name for category in samples.categories)
        for row in samples.rows:
            texts += [*(row["expressions"] or ()), *(message["content"] for message in row["conversation"] or ()), names]
    return texts


def build_random(model_file: str | Path, seed: int, sources: dict | None = None) -> tuple[PsalmForSegmentation, PsalmProcessor]:
    """A random model and a processor whose tokenizer knows the words of the sources; without any, those of the shapes world."""
    sizes = yaml.safe_load(find_config(model_file).read_text(encoding="utf-8"))
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


def train_vision(model: PsalmForSegmentation, processor: PsalmProcessor, options: VisionArguments) -> None:
    """The vision parts, in place."""
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


def make_start(options: VisionArguments) -> None:
    """Writes the folder that joint training starts from."""
    start = time.perf_counter()
    model, processor = build_random(options.model_file, options.seed, options.sources)
    print(f"{model.num_parameters() / 1e6:.2f} million parameters", file=sys.stderr)
    if options.steps:
        train_vision(model, processor, options)
    model.eval().save_pretrained(options.output_dir)
    processor.save_pretrained(options.output_dir)
    print(f"wrote {options.output_dir} after {time.perf_counter() - start:.0f} s", file=sys.stderr)
