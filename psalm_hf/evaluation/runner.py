"""A model on a benchmark, in two steps that any number of processes share: answer every row, then judge every answer.

Answers go to disk as they come. A batch holds the same rows for any number of processes, and on a CPU a row has the same outputs in any
batch, so that these give the same answers to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data.collator import PsalmCollator
from ..data.features import SampleDataset
from ..structures import Sample
from .benchmarks import OpenPart
from .measures import Measure
from .records import Records
from .vocabulary import segment_categories, split_names

LENGTH = 32  # tokens


@dataclass(frozen=True)
class Processes:
    """Those that share the work: `rank` of `number`."""

    rank: int = 0
    number: int = 1

    def wait(self) -> None:
        """Until all are here."""
        if self.number > 1:
            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, on the first one; [] on the others."""
        if self.number == 1:
            return [value]
        values = [None] * self.number if self.rank == 0 else None
        dist.gather_object(value, values)
        return values or []


class _Batches(Dataset):
    """Rows, their samples, and what the model takes."""

    def __init__(self, dataset: SampleDataset, batches: Sequence[Sequence[int]], collate: Callable[[Sequence[Sample]], Any] | None):
        self.dataset, self.batches, self.collate = dataset, batches, collate

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Sequence[int], list[Sample], Any]:
        rows = self.batches[index]
        samples = [self.dataset[row] for row in rows]
        return rows, samples, None if self.collate is None else self.collate(samples)


@torch.no_grad()
def answer(
    model: Any, processor: Any, part: OpenPart, records: Records, processes: Processes, *, batch_size: int, num_workers: int = 0
) -> None:
    """Answers the rows of a part that have no answer yet, with a progress bar.

    A vocabulary that does not fit into the context is divided, see `vocabulary`; a batch then holds fewer rows.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        records: mended; all processes have the same folder.
        batch_size: rows of a forward pass; rows that follow each other and share a picture share its encoding.
        num_workers: processes that read and prepare pictures, for each process that computes.
    """
    done = records.places()
    processes.wait()  # before anyone writes: all must find the same rows to do
    missing = [row for row in range(len(part.dataset)) if row not in done]
    chunks = _chunks(processor, part.dataset)
    rows_per_batch = max(1, batch_size // max(1, len(chunks)))
    batches = [missing[first : first + rows_per_batch] for first in range(0, len(missing), rows_per_batch)]
    mine = batches[processes.rank :: processes.number]
    collate = PsalmCollator(processor, with_targets=False) if len(chunks) <= 1 else None
    loader = DataLoader(_Batches(part.dataset, mine, collate), batch_size=None, num_workers=num_workers)
    bar = tqdm(total=len(part.dataset), initial=len(done), desc=_title(part, "answer"), unit="row", disable=processes.rank > 0)
    for rows, samples, inputs in loader:
        with same_bits(model):
            if inputs is None:
                outputs = segment_categories(model, processor, samples, chunks)
            else:
                outputs = model(**{name: tensor.to(model.device) for name, tensor in with_round_length(inputs, processor).items()})
        answers = {measure.name: measure.answers(samples, outputs, processor) for measure in part.measures}
        records.append((row, {name: of_rows[index] for name, of_rows in answers.items()}) for index, row in enumerate(rows))
        bar.update(len(rows) * processes.number)
    bar.close()
    processes.wait()


@contextmanager
def same_bits(model: Any) -> Iterator[None]:
    """On a CPU, in float32, a row's outputs have the same bits in any batch inside, if its tokens are `with_round_length`.

    oneDNN chooses algorithms of convolutions by the size of the batch. What is left takes images one by one, or has enough rows.
    """
    was_enabled = torch.backends.mkldnn.enabled
    if model.device.type == "cpu" and model.dtype == torch.float32:
        torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = was_enabled


def with_round_length(inputs: Mapping[str, Any], processor: Any) -> dict[str, Any]:
    """Inputs whose rows are padded, at the right, to a multiple of `LENGTH` tokens.

    Sums over the tokens of a row are made of lanes and a remainder: with further padding the lanes stay as they are.
    """
    missing = -inputs["input_ids"].shape[1] % LENGTH
    fill = {"input_ids": processor.tokenizer.pad_token_id, "attention_mask": 0, "condition_index": 0}
    padded = {name: functional.pad(inputs[name], (0, missing), value=value) for name, value in fill.items() if name in inputs}
    return {**inputs, **padded}


def _chunks(processor: Any, dataset: SampleDataset) -> list[list[str]]:
    """The names of the dataset, divided as the context demands it; [] for rows without categories or with their own."""
    if not dataset.categories or dataset.rows[0]["condition"] != "category" or dataset.rows[0]["categories"] is not None:
        return []
    return split_names(processor, [category.name for category in dataset.categories], task=dataset.task)


def judge(part: OpenPart, places: Mapping[int, Any], read: Callable[[Any], Any], processes: Processes) -> list[Measure]:
    """The part's measures of all answers, on the first process; [] on the others.

    Args:
        places: row -> where its answers are.
        read: a place -> answers by measure.

    Raises:
        ValueError: an answer that does not fit its row.
    """
    rows = sorted(places)
    share = -(-len(rows) // processes.number)
    mine = rows[processes.rank * share : (processes.rank + 1) * share]
    truths = {measure.name: _truth(part, measure.name) for measure in part.measures}
    for row in tqdm(mine, desc=_title(part, "judge"), unit="row", disable=processes.rank > 0):
        answers = read(places[row])
        for measure in part.measures:
            measure.add(truths[measure.name](row), answers[measure.name])
    gathered = processes.gather(part.measures)
    if not gathered:
        return []
    totals = list(gathered[0])
    for others in gathered[1:]:
        for index, other in enumerate(others):
            totals[index] += other
    return totals


class AnsweredRows(Sequence[tuple[int, Sample, Any]]):
    """(row, sample, answer) of one measure, read when they are asked for.

    Args:
        places, read: see `judge`.
        measure: whose answers.
    """

    def __init__(self, part: OpenPart, places: Mapping[int, Any], read: Callable[[Any], Any], measure: str):
        self.part, self.places, self.read, self.measure = part, places, read, measure
        self.truth = _truth(part, measure)
        self.rows = sorted(places)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Sample, Any]:
        row = self.rows[index]
        return row, self.truth(row), self.read(self.places[row])[self.measure]


def _truth(part: OpenPart, measure: str) -> Callable[[int], Sample]:
    if measure not in part.truths:
        return part.dataset.__getitem__
    truth = part.truths[measure]
    row_of = {image_id: row for row, image_id in enumerate(truth.rows["image_id"])}
    ids = part.dataset.rows["image_id"]
    if missing := [image_id for image_id in ids if image_id not in row_of]:
        name = part.part.truths[measure]
        raise ValueError(f"{name}: has no truth for {len(missing)} pictures of {part.part.dataset}, such as {missing[0]}")
    return lambda row: truth[row_of[ids[row]]]


def _title(part: OpenPart, what: str) -> str:
    return " ".join(filter(None, (what, part.part.dataset, part.part.name)))
