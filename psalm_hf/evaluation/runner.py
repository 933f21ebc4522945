"""A model on a benchmark, in two steps that any number of processes share: answer every row, then judge every answer.

Answers go to disk as they come. A batch holds the same rows for any number of processes, and on a CPU a row has the same outputs in any
batch, so that these give the same answers to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data.collator import PsalmCollator
from ..data.features import SampleDataset
from ..structures import Sample
from .baselines import Baseline
from .benchmarks import OpenPart
from .evaluators.base import Measure
from .records import AnswersInMemory, Records
from .vocabulary import join_outputs, split_names, split_samples

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

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process does what is inside before the others do."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, on the first one; [] on the others."""
        if self.number == 1:
            return [value]
        values = [None] * self.number if self.rank == 0 else None
        dist.gather_object(value, values)
        return values or []


class Answerer(Protocol):
    """One way in which rows are answered.

    Attributes:
        collate: samples -> what the model takes; goes to the processes that prepare pictures.
        rows_per_sample: of a forward pass.
    """

    collate: Callable[[Sequence[Sample]], Mapping[str, Any]]
    rows_per_sample: int

    def __call__(self, samples: Sequence[Sample], inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """For each sample its answers, by the name of the measures."""


class MaskAnswers:
    """Answers of masks: a forward pass, post-processed as each measure wants it. See `Answerer`.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        part: a vocabulary that does not fit into the context is divided, see `vocabulary`.
    """

    def __init__(self, model: Any, processor: Any, part: OpenPart):
        self.model, self.processor = model, processor
        self.measures = {measure.name: measure for measure in reversed(part.measures) if not isinstance(measure, Baseline)}
        self.collate = CollateRows(processor, _chunks(processor, part.dataset))
        self.rows_per_sample = max(1, len(self.collate.chunks))

    def __call__(self, samples: Sequence[Sample], inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `Answerer`."""
        outputs = forward(self.model, inputs, self.rows_per_sample)
        found = {name: measure.answers(samples, outputs, self.processor) for name, measure in self.measures.items()}
        return [{name: answers[index] for name, answers in found.items()} for index in range(len(samples))]


class CollateRows:
    """Samples -> what the model takes; samples with categories once per part of their vocabulary.

    Args:
        chunks: the parts, see `split_names`; up to one = the vocabulary is whole.
    """

    def __init__(self, processor: Any, chunks: Sequence[Sequence[str]] = ()):
        self.processor, self.chunks = processor, chunks
        self.collator = PsalmCollator(processor, with_targets=False)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        if len(self.chunks) > 1:
            return self.collator(split_samples(samples, self.chunks))
        return with_round_length(self.collator(samples), self.processor)


def forward(model: Any, inputs: Mapping[str, Any], rows_per_sample: int = 1) -> Any:
    """Network outputs, one row per sample; those of a divided vocabulary are joined."""
    with same_bits(model):
        outputs = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
    return outputs if rows_per_sample == 1 else join_outputs(outputs, rows_per_sample, decoupled=model.config.decouple_masks)


class _Batches(Dataset):
    """Rows, their samples, and what the model takes."""

    def __init__(self, dataset: SampleDataset, batches: Sequence[Sequence[int]], collate: Callable[[Sequence[Sample]], Any]):
        self.dataset, self.batches, self.collate = dataset, batches, collate

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Sequence[int], list[Sample], Any]:
        rows = self.batches[index]
        samples = [self.dataset[row] for row in rows]
        return rows, samples, self.collate(samples)


@torch.no_grad()  # no inference mode: engines that gather weights would train on with what they gathered in it
def answer(
    answerer: Answerer,
    part: OpenPart,
    records: Records | AnswersInMemory,
    processes: Processes,
    *,
    batch_size: int,
    num_workers: int = 0,
) -> None:
    """Answers the rows of a part that have no answer yet, with a progress bar.

    Args:
        records: mended; all processes have the same folder.
        batch_size: rows of a forward pass; rows that follow each other and share a picture share its encoding.
        num_workers: processes that read and prepare pictures, for each process that computes.

    Raises:
        ValueError: whatever the collator refuses, such as a picture that is missing.
    """
    done = set(records.answers())
    processes.wait()  # before anyone writes: all must find the same rows to do
    missing = [row for row in range(len(part.dataset)) if row not in done]
    size = max(1, batch_size // answerer.rows_per_sample)
    batches = [missing[first : first + size] for first in range(0, len(missing), size)]
    mine = batches[processes.rank :: processes.number]
    loader = DataLoader(_Batches(part.dataset, mine, answerer.collate), batch_size=None, num_workers=num_workers)
    bar = tqdm(total=len(part.dataset), initial=len(done), desc=_title(part, "answer"), unit="row", disable=processes.rank > 0)
    for rows, samples, inputs in loader:
        records.append(zip(rows, answerer(samples, inputs), strict=True))
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


def judge(part: OpenPart, answers: Mapping[int, Mapping[str, Any]], processes: Processes) -> list[Measure]:
    """Copies of the part's measures with all answers in them, on the first process; [] on the others.

    Args:
        answers: row -> answers by the name of their measures.

    Raises:
        ValueError: an answer that does not fit its row.
    """
    rows, measures = sorted(answers), deepcopy(part.measures)
    share = -(-len(rows) // processes.number)
    mine = rows[processes.rank * share : (processes.rank + 1) * share]
    truths = {measure.name: _truth(part, measure.name) for measure in measures}
    for row in tqdm(mine, desc=_title(part, "judge"), unit="row", disable=processes.rank > 0):
        given, samples = answers[row], {}
        for measure in measures:
            truth = truths[measure.name]
            if truth not in samples:  # decoding a sample may cost more than judging it
                samples[truth] = truth(row)
            measure.add(samples[truth], given[measure.name])
    gathered = processes.gather(measures)
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
        answers: see `judge`.
        measure: name of the answers.
    """

    def __init__(self, part: OpenPart, answers: Mapping[int, Mapping[str, Any]], measure: str):
        self.answers, self.measure = answers, measure
        self.truth = _truth(part, measure)
        self.rows = sorted(answers)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Sample, Any]:
        row = self.rows[index]
        return row, self.truth(row), self.answers[row][self.measure]


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
