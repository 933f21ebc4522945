"""A model on a benchmark, in two steps that any number of processes share: predict every row, then evaluate every prediction.

Predictions go to disk as they come. A batch holds the same rows for any number of processes, and on a CPU a row has the same outputs in
any batch, so that these give the same predictions to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
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
from ..vocabulary import join_outputs, split_names, split_samples
from .baselines import Baseline
from .benchmarks import Choices, OpenPart
from .evaluators.base import Evaluator
from .records import PredictionsInMemory, Records

LENGTH = 32  # tokens


@dataclass(frozen=True)
class Processes:
    """Processes that share the work: `rank` of `number`."""

    rank: int = 0
    number: int = 1

    @property
    def lock(self) -> str:
        """Name of this process's lock of a folder, see `only_run`: the first one has the folder, and each of the others its own file."""
        return f"process {self.rank}" if self.rank else ""

    def wait(self) -> None:
        """Waits until all are here."""
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


class Predictor(ABC):
    """Base: one way in which rows are predicted.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        part: its rows.
        choices: of the benchmark.

    Attributes:
        collate: samples -> what the model takes; goes to the processes that prepare images.
    """

    collate: Callable[[Sequence[Sample]], Any]

    def __init__(self, model: Any, processor: Any, part: OpenPart, choices: Choices):
        self.model, self.processor, self.part, self.choices = model, processor, part, choices

    def batches(self, done: Collection[int], batch_size: int) -> list[Sequence[int]]:
        """Rows of each forward pass, for all rows that are not done."""
        missing = [row for row in range(len(self.part.dataset)) if row not in done]
        return [missing[first : first + batch_size] for first in range(0, len(missing), batch_size)]

    @abstractmethod
    def predict(self, samples: Sequence[Sample], inputs: Any) -> Iterable[dict[str, Any]]:
        """Predictions of each sample, by the name of the evaluators."""


class MaskPredictor(Predictor):
    """Predicts masks: a forward pass, post-processed as each evaluator wants it.

    A vocabulary that is too long for the context is divided, see `vocabulary`.
    """

    def __init__(self, model: Any, processor: Any, part: OpenPart, choices: Choices):
        super().__init__(model, processor, part, choices)
        self.evaluators = {each.name: each for each in reversed(part.evaluators) if not isinstance(each, Baseline)}
        self.collate = CollateRows(processor, _chunks(processor, part.dataset))
        self.rows_per_sample = max(1, len(self.collate.chunks))

    def batches(self, done: Collection[int], batch_size: int) -> list[Sequence[int]]:
        return super().batches(done, max(1, batch_size // self.rows_per_sample))

    def predict(self, samples: Sequence[Sample], inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        outputs = forward(self.model, inputs, self.rows_per_sample)
        found = {name: evaluator.predict(samples, outputs, self.processor) for name, evaluator in self.evaluators.items()}
        return [{name: predictions[index] for name, predictions in found.items()} for index in range(len(samples))]


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
def predict(
    predictor: Predictor, records: Records | PredictionsInMemory, processes: Processes, *, batch_size: int, num_workers: int = 0
) -> None:
    """Predicts the rows of a part that have no prediction yet, with a progress bar.

    Args:
        records: mended; all processes have the same folder.
        batch_size: rows of a forward pass; rows that follow each other and share an image share its encoding.
        num_workers: processes that read and prepare images, for each process that computes.

    Raises:
        ValueError: whatever the collator or the model refuses, such as an image that is missing.
    """
    part, done = predictor.part, set(records.predictions())
    processes.wait()  # before anyone writes: all must find the same rows to do
    mine = predictor.batches(done, batch_size)[processes.rank :: processes.number]
    loader = DataLoader(_Batches(part.dataset, mine, predictor.collate), batch_size=None, num_workers=num_workers)
    bar = tqdm(total=len(part.dataset), initial=len(done), desc=_title("predict", part), unit="row", disable=processes.rank > 0)
    for rows, samples, inputs in loader:
        found = []
        for row, prediction in zip(rows, predictor.predict(samples, inputs), strict=True):
            if row not in done:  # a sequence is followed from its first frame on
                found.append((row, prediction))
                bar.update(processes.number)
        records.append(found)
    bar.close()
    processes.wait()


@contextmanager
def same_bits(model: Any) -> Iterator[None]:
    """Context in which, on a CPU in float32, a row's outputs have the same bits in any batch, if its tokens are `with_round_length`.

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


def evaluate_predictions(part: OpenPart, predictions: Mapping[int, Mapping[str, Any]], processes: Processes) -> list[Evaluator]:
    """Copies of the part's evaluators with all predictions in them, on the first process; [] on the others.

    Args:
        predictions: row -> predictions by the name of their evaluators.

    Raises:
        ValueError: a prediction that does not fit its row.
    """
    rows, evaluators = sorted(predictions), deepcopy(part.evaluators)
    share = -(-len(rows) // processes.number)
    mine = rows[processes.rank * share : (processes.rank + 1) * share]
    targets = {evaluator.name: _targets(part, evaluator.name) for evaluator in evaluators}
    for row in tqdm(mine, desc=_title("evaluate", part), unit="row", disable=processes.rank > 0):
        given, samples = predictions[row], {}
        for evaluator in evaluators:
            sample_of = targets[evaluator.name]
            if sample_of not in samples:  # decoding a sample may cost more than evaluating it
                samples[sample_of] = sample_of(row)
            evaluator.add(samples[sample_of], given[evaluator.name])
    return sums(processes.gather(evaluators))


def sums(of_workers: Sequence[Sequence[Evaluator]]) -> list[Evaluator]:
    """Adds the evaluators of several workers or parts, one by one, to those of the first; [] of none."""
    totals = list(of_workers[0]) if of_workers else []
    for others in of_workers[1:]:
        for index, other in enumerate(others):
            totals[index] += other
    return totals


class PredictedRows(Sequence[tuple[int, Sample, Any]]):
    """(row, sample, prediction) of one evaluator, read when they are asked for.

    Args:
        predictions: see `evaluate_predictions`.
        name: of the evaluator.
    """

    def __init__(self, part: OpenPart, predictions: Mapping[int, Mapping[str, Any]], name: str):
        self.predictions, self.name = predictions, name
        self.sample_of = _targets(part, name)
        self.rows = sorted(predictions)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Sample, Any]:
        row = self.rows[index]
        return row, self.sample_of(row), self.predictions[row][self.name]


def _targets(part: OpenPart, name: str) -> Callable[[int], Sample]:
    """Row -> sample with the targets of an evaluator."""
    if name not in part.targets:
        return part.dataset.__getitem__
    targets = part.targets[name]
    row_of = {image_id: row for row, image_id in enumerate(targets.rows["image_id"])}
    ids = part.dataset.rows["image_id"]
    if missing := [image_id for image_id in ids if image_id not in row_of]:
        raise ValueError(
            f"{part.part.targets[name]}: has no targets for {len(missing)} images of {part.part.dataset}, such as {missing[0]}"
        )
    return lambda row: targets[row_of[ids[row]]]


def _title(verb: str, part: OpenPart) -> str:
    return " ".join(filter(None, (verb, part.part.dataset, part.part.name)))
