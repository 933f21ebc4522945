"""A model on questions: every row is answered in words, and the answers go to disk as they come. They are judged by `runner.judge`.

A batch holds the same rows for any number of processes, so that these give the same answers to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data.collator import PsalmCollator
from ..data.features import SampleDataset
from ..structures import Sample
from .benchmarks import OpenPart
from .records import Records
from .runner import Processes

Asked = tuple[int, Sample]  # the row, and its question without the answer


class _Questions(Dataset):
    """Rows with what is asked in them."""

    def __init__(self, dataset: SampleDataset):
        self.dataset = dataset

    def __getitem__(self, row: int) -> Asked:
        return row, question_of(self.dataset[row])


class _Collate:
    """Rows, and what the model takes."""

    def __init__(self, processor: Any):
        self.collator = PsalmCollator(processor, with_targets=False)

    def __call__(self, asked: Sequence[Asked]) -> tuple[list[int], dict[str, Any]]:
        rows, samples = zip(*asked, strict=True)
        return list(rows), self.collator(samples)


def question_of(sample: Sample) -> Sample:
    """The sample without the assistant's answer, which must not be in the prompt.

    Raises:
        ValueError: it is not one question of the user, with an answer or without.
    """
    roles = [message["role"] for message in sample.conversation]
    if roles not in (["user"], ["user", "assistant"]):
        given = f"a conversation of {', '.join(roles)}" if roles else f"a prompt of the kind {sample.condition}"
        raise ValueError(f"image {sample.image_id}, question {sample.record_id}: expected one message of the user, got {given}")
    return replace(sample, conversation=sample.conversation[:1])


@torch.no_grad()
def answer_text(
    model: Any,
    processor: Any,
    part: OpenPart,
    records: Records,
    processes: Processes,
    *,
    batch_size: int,
    max_new_tokens: int = 16,
    num_workers: int = 0,
) -> None:
    """Answers the questions of a part that have no answer yet, with a progress bar; an answer is `{"text": {"text": str}}`.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        records: mended; all processes have the same folder.
        batch_size: questions of a batch; those that follow each other and share a picture share its encoding.
        max_new_tokens: of an answer, which is cut off there.
        num_workers: processes that read and prepare pictures, for each process that computes.

    Raises:
        ValueError: see `question_of`, and whatever the collator refuses, such as a picture that is missing.
    """
    done = records.places()
    processes.wait()  # before anyone writes: all must find the same rows to do
    missing = [row for row in range(len(part.dataset)) if row not in done]
    batches = [missing[first : first + batch_size] for first in range(0, len(missing), batch_size)]
    mine = batches[processes.rank :: processes.number]
    loader = DataLoader(_Questions(part.dataset), batch_sampler=mine, collate_fn=_Collate(processor), num_workers=num_workers)
    title = " ".join(filter(None, ("answer", part.part.dataset, part.part.name)))
    bar = tqdm(total=len(part.dataset), initial=len(done), desc=title, unit="row", disable=processes.rank > 0)
    for rows, inputs in loader:
        texts = generate_answers(model, processor, inputs, max_new_tokens=max_new_tokens)
        records.append((row, {"text": {"text": text}}) for row, text in zip(rows, texts, strict=True))
        bar.update(len(rows) * processes.number)
    bar.close()
    processes.wait()


def generate_answers(model: Any, processor: Any, inputs: dict[str, Any], *, max_new_tokens: int) -> list[str]:
    """The most probable words, token by token, without special tokens and blanks around them; one text per row."""
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    tokenizer = processor.tokenizer
    tokens = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]
