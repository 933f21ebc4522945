"""Start of a model from nothing: random weights, a tokenizer for the words it will read, and vision parts that are trained first.

Trains vision tower, pixel decoder and projector under throw-away dense heads, and writes a complete PSALM folder (language model and mask
decoder still random) for the next step. With `steps: 0` everything is random.
"""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from ..checked_yaml import read_yaml_file
from ..data import load
from ..data.shapes.stream import ShapesStream
from ..domain import DRAWN_SHAPES
from ..locking import only_run
from ..model.prompts import HUMAN_TURNS, SYSTEM_MESSAGE
from ..public import PsalmConfig, PsalmForSegmentation, PsalmImageProcessor, PsalmProcessor
from ..writing import replaced_files
from .configs import find_config
from .vision import DensePretraining, DenseScenes


@dataclass
class VisionArguments:
    """First step of a model that starts from nothing.

    Args:
        model_file: YAML: vocab_size, fields of PsalmConfig under `model`, options of PsalmProcessor under `processor`.
        output_dir: folder for the PSALM checkpoint.
        sources: name -> dataset, data_dir, ... whose words the tokenizer learns; left out: those of the shapes world.
        steps: 0 = write the random model.
        batch_size: scenes per step.
        learning_rate: at its height, after `warmup_steps`.
        weight_decay: of AdamW.
        seed: of the weights and the scenes.
        num_workers: processes that draw scenes.
    """

    model_file: str
    output_dir: str
    sources: dict = field(default_factory=dict)
    steps: int = 1400
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 40
    seed: int = 0
    num_workers: int = 1


def shapes_texts() -> list[str]:
    """Collects the texts of prompts of the shapes world."""
    texts = []
    for task, number in {"referring": 4000, "conversation": 2000, "caption": 400, "panoptic": 400}.items():
        stream = ShapesStream(task=task, prompts_per_image=8, phrase_percent=60)
        for index in range(number):
            sample = stream[index]
            texts += [*sample.expressions, *(message["content"] for message in sample.conversation), ", ".join(sample.categories.values())]
    return texts


def source_texts(sources: dict) -> list[str]:
    """Collects the texts of prompts of datasets: expressions and conversations of all rows, and the names of the categories once a row."""
    texts = []
    for options in sources.values():
        options = {"split": "train"} | options
        samples = load(options.pop("dataset"), **options)
        names = ", ".join(category.name for category in samples.categories)
        for row in samples.rows:
            texts += [*(row["expressions"] or ()), *(message["content"] for message in row["conversation"] or ()), names]
    return texts


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE: words of `texts` become few tokens, and any other text is still tokenised, down to its bytes.

    White space separates words and is not kept. A word has the same tokens wherever it stands: a prompt is tokenised in pieces, and
    without this the category "star" and the "star" of an expression would be strangers to the model.

    Args:
        texts: what the model will read, instructions included.
        vocab_size: entries, at least the 256 bytes and three special tokens.

    Returns:
        A tokenizer with `<|endoftext|>`, `[PAD]` and `[SEG]`.

    Raises:
        ValueError: vocab_size too small.
    """
    special = ["<|endoftext|>", "[PAD]", "[SEG]"]
    if vocab_size < 256 + len(special):
        raise ValueError(f"vocab_size is {vocab_size}; a byte-level vocabulary needs at least {256 + len(special)}")
    tokenizer = Tokenizer(models.BPE())
    words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="[PAD]",
        additional_special_tokens=["[SEG]"],
        model_max_length=2048,
    )


def read_model_file(model_file: str | Path) -> dict[str, Any]:
    """Content of `model_file`, see `VisionArguments`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, or has other fields or types.
    """
    path = find_config(model_file)
    sizes = read_yaml_file(path)
    expected = {"vocab_size": int, "model": dict, "processor": dict}
    if not isinstance(sizes, dict) or sizes.keys() != expected.keys():
        raise ValueError(f"{path}: expected the fields {', '.join(expected)}, got {sizes!r:.80}")
    for name, kind in expected.items():
        if not isinstance(sizes[name], kind) or isinstance(sizes[name], bool):
            raise ValueError(f"{path}: {name} is {sizes[name]!r:.80}, expected {'a whole number' if kind is int else 'fields and values'}")
    if not isinstance(sizes["model"].get("text_config"), dict):
        raise ValueError(f"{path}: model has no text_config, the fields of the language model")
    return sizes


def build_random(model_file: str | Path, seed: int, sources: dict | None = None) -> tuple[PsalmForSegmentation, PsalmProcessor]:
    """Builds a random model, and a processor whose tokenizer knows the words of the sources; without any, those of the shapes world."""
    sizes = read_model_file(model_file)
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
    """Trains the vision parts, in place."""
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
        model.config.domain = DRAWN_SHAPES
    folder = Path(options.output_dir)
    with only_run(folder), replaced_files(folder) as unfinished:
        model.eval().save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    print(f"wrote {options.output_dir} after {time.perf_counter() - start:.0f} s", file=sys.stderr)
