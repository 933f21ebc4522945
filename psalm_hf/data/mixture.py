"""Mixture of sources for a training run: one task per optimizer step, drawn by weight, everything from a seed."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from ..spelling import did_you_mean
from ..structures import CATEGORY, CONDITIONS, CONVERSATION, REGION, SENTENCE, Sample
from .features import SampleDataset
from .load import dataset_builder, load, no_folder
from .shapes.stream import ShapesStream

Position = tuple[str, int]  # task, index of the sample in that task's source

SHUFFLE_BUFFER = 1000  # rows of a streamed source among which the next one is drawn
_OF_SOURCES = ("dataset", "split", "data_dir", "condition", "streaming", "shuffle_buffer", "num_proc", "cache_dir")
_ROWS_AT_ONCE = 100

# Of a mixture that is chosen from files: condition -> name of its source, and samples of a batch. A row of categories has all objects of an
# image, an expression one.
_CHOSEN = {CATEGORY: ("categories", 2), SENTENCE: ("sentences", 4), REGION: ("regions", 2), CONVERSATION: ("conversations", 4)}


class EndlessEpochs:
    """Samples of a dataset again and again, every epoch in an order of its own: `source[n]` for any n >= 0.

    Args:
        dataset: has a length and `[index]`.
        seed: of the orders.
    """

    def __init__(self, dataset: Sequence[Sample], seed: int):
        self.dataset, self.seed = dataset, seed

    @property
    def epoch_length(self) -> int:
        """Samples of an epoch."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        epoch, position = divmod(index, len(self.dataset))
        return self.dataset[int(_order(self.seed, epoch, len(self.dataset))[position])]


@lru_cache(maxsize=8)  # sources, each at one epoch
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(length)


class StreamedEpochs:
    """Samples of a streamed dataset again and again, every epoch in an order of its own: `source[n]` for any n >= 0.

    Every reader (each worker of each process) reads a stream of its own and passes over the rows of the others. So the arguments and n
    alone decide sample n, for any number of workers and processes, and no sample comes twice in an epoch.

    Costs: rows are paths and RLEs, some thousands per second; images are opened later. The first `[n]` of a run that resumes reads the
    rows before it: at most one epoch to learn its length, and those before n in its own epoch. A larger n reads on, a smaller one starts
    its epoch again. Every reader keeps `shuffle_buffer` rows.

    Rows that hold their images (tar shards of captions) cost more: every reader reads every image from the disk, resuming reads them all
    again, and the buffer holds images. Unpack such shards into a folder, or leave streaming out; else use few workers and a small buffer.

    Args:
        dataset: a dataset whose `rows` are a `datasets.IterableDataset`.
        seed: of the orders.
        shuffle_buffer: number of rows among which the next one is drawn; the shards of the dataset are shuffled too.
        condition: only such rows; None if all rows have the same.

    Raises:
        ValueError: there are no rows; when it is read: rows of several conditions, and none is chosen.
    """

    def __init__(self, dataset: SampleDataset, seed: int, shuffle_buffer: int = SHUFFLE_BUFFER, condition: str | None = None):
        self.dataset, self.seed, self.shuffle_buffer, self.condition = dataset, seed, shuffle_buffer, condition
        self._length: int | None = None  # of an epoch, known when one has been read to its end
        self._epoch, self._position, self._rows = -1, 0, iter(())  # where `_rows` has come to
        # Its generator ends here: one that is open, files included, must not be shared by workers that are forked.
        if next(self._wanted(dataset.rows), None) is None:
            raise ValueError("no rows" if condition is None else f"no rows with condition {condition!r}")

    def __getitem__(self, index: int) -> Sample:
        row = None
        if self._length is None:
            row = self._read(0, index)
        if row is None:
            row = self._read(*divmod(index, self._length))
        return self.dataset.sample(row)

    def _read(self, epoch: int, position: int) -> dict[str, Any] | None:
        """Row at a position of an epoch; None if the epoch ends before."""
        if epoch != self._epoch or position < self._position:
            shuffled = self.dataset.rows.shuffle(generator=np.random.default_rng((self.seed, epoch)), buffer_size=self.shuffle_buffer)
            self._epoch, self._position, self._rows = epoch, 0, self._wanted(shuffled)
        for row in self._rows:
            self._position += 1
            if self._position > position:
                return row
        self._length = self._position
        return None

    def _wanted(self, rows: Any) -> Iterator[dict[str, Any]]:
        first = None
        # Not `for row in rows`: in a worker that gives the worker's share of the shards.
        for columns in rows.iter(batch_size=_ROWS_AT_ONCE):
            for values in zip(*columns.values(), strict=True):
                row = dict(zip(columns, values, strict=True))
                first = first or row["condition"]
                if self.condition is None and row["condition"] != first:
                    raise ValueError(_several_conditions([first, row["condition"]]))
                if self.condition in (None, row["condition"]):
                    yield row


def _several_conditions(found: Sequence[str]) -> str:
    names = ", ".join(found)
    return f"rows of the conditions {names}, and a batch has one; make a source of each with condition: {found[0]}, and so on"


def open_source(name: str, options: Mapping[str, Any], *, image_size: int, seed: int) -> Sequence[Sample]:
    """Samples of a source without end, from its entry in a config.

    Args:
        name: of the source. For "shapes" it is the task.
        options: `dataset`, one of `list_datasets()`, default "shapes"; for datasets of files `split` (default "train"), `data_dir`, all
            other arguments of `load`, and `condition`, for datasets of several kinds: only such rows; for "shapes" the arguments of
            `ShapesStream`. With `streaming: true` no rows are stored, see `StreamedEpochs`, also for `shuffle_buffer`.
        image_size: side of the images that "shapes" draws.
        seed: of the order of a dataset of files.

    Raises:
        ValueError, FileNotFoundError: see `check_source` and `load`; rows of several conditions and none is chosen, or no rows of the
            chosen one. The message names the source.
    """
    check_source(name, options)
    options = {"dataset": "shapes", **options}
    dataset = options.pop("dataset")
    if dataset == "shapes":
        return ShapesStream(**{"task": name, "image_size": image_size} | options)
    condition, shuffle_buffer = options.pop("condition", None), options.pop("shuffle_buffer", SHUFFLE_BUFFER)
    with named_source(name, dataset):
        samples = load(dataset, **{"split": "train"} | options)
        if options.get("streaming"):
            return StreamedEpochs(samples, seed, shuffle_buffer, condition)
        return EndlessEpochs(with_condition(samples, condition), seed)


@contextmanager
def named_source(name: str, dataset: str) -> Iterator[None]:
    """Adds the name of the source to the errors inside."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
        raise kind(f"source {name}, dataset {dataset}: {error}") from error


def with_condition(samples: SampleDataset, condition: str | None) -> SampleDataset:
    """Rows of one condition; None = all, which must have the same.

    Raises:
        ValueError: no such rows; rows of several conditions and none is chosen.
    """
    found = samples.rows.unique("condition")
    if not found:
        raise ValueError("no rows")
    if condition is None and len(found) > 1:
        raise ValueError(_several_conditions(found))
    if condition not in (None, *found):
        advice = "; own data has them with the option regions: all" if condition == REGION else did_you_mean(condition, found)
        raise ValueError(f"no rows with condition {condition!r}, but {', '.join(found)}{advice}")
    if len(found) == 1:
        return samples
    kept = np.flatnonzero(np.asarray(samples.rows["condition"]) == condition)
    return SampleDataset(samples.rows.select(kept), samples.categories, samples.task)


@dataclass(frozen=True)
class ChosenMixture:
    """Mixture for the rows of a dataset. Its text is a table.

    Attributes:
        data: the dataset and its options.
        weights, batch_sizes, sources: fields of a config.
        rows: source -> number of its rows.
    """

    data: Mapping[str, Any]
    weights: dict[str, float]
    batch_sizes: dict[str, int]
    sources: dict[str, dict[str, Any]]
    rows: dict[str, int]

    def __str__(self) -> str:
        lines = [", ".join(f"{option}: {value}" for option, value in self.data.items())]
        for name, options in self.sources.items():
            further = "".join(f", {option}: {value}" for option, value in options.items() if option not in self.data)
            lines.append(f"  {name}: {self.rows[name]:,} rows{further}, weight {self.weights[name]:g}, batch size {self.batch_sizes[name]}")
        return "\n".join(lines)


def choose_mixture(
    data: Mapping[str, Any], weights: Mapping[str, float] | None = None, batch_sizes: Mapping[str, int] | None = None
) -> ChosenMixture:
    """Chooses a mixture from what a dataset holds: a source for each kind of condition, all drawn as often.

    Own data whose objects have masks also get a source of visual prompts, in which every object is prompted by every kind of region.

    Args:
        data: the dataset and its options, as an entry of `sources`.
        weights, batch_sizes: those that are to be otherwise, by the names of the sources; weight 0 leaves one out.

    Raises:
        ValueError, FileNotFoundError: see `check_source` and `load`; a streamed dataset, whose rows are not known before; names of sources
            that the dataset does not give.
    """
    dataset, options = data.get("dataset", "shapes"), {name: value for name, value in data.items() if name not in ("dataset", "condition")}
    if dataset == "shapes" or data.get("streaming"):
        raise ValueError(
            "data: names a dataset of files, such as {dataset: own_coco, data_dir: FOLDER}, whose rows are counted; for shapes or streamed "
            "rows give weights, batch_sizes and sources"
        )
    check_source("data", data)
    with named_source("data", dataset):
        samples = load(dataset, **{"split": "train"} | options)
        found = Counter(samples.rows["condition"])
        counted = {each: found[each] for each in CONDITIONS if found[each] and data.get("condition") in (None, each)}
        sources = {each: {**data, "condition": each} if len(found) > 1 else dict(data) for each in counted}
        if "condition" not in data and _can_prompt_regions(dataset, options, samples):
            sources[REGION] = {**data, "regions": "all"}
            counted[REGION] = len(load(dataset, **{"split": "train"} | options | {"regions": "all"}))
        if not counted:
            with_condition(samples, data["condition"])  # which refuses it
    chosen = {_CHOSEN[each][0]: each for each in CONDITIONS if each in counted}
    for field, given in (("weights", weights or {}), ("batch_sizes", batch_sizes or {})):
        if unknown := sorted(given.keys() - chosen.keys()):
            raise ValueError(
                f"{field} names {', '.join(unknown)}, but the sources that {dataset} gives are {', '.join(chosen)}"
                + did_you_mean(unknown[0], chosen)
            )
    return ChosenMixture(
        data=data,
        weights={name: 1.0 for name in chosen} | dict(weights or {}),
        batch_sizes={name: _CHOSEN[each][1] for name, each in chosen.items()} | dict(batch_sizes or {}),
        sources={name: sources[each] for name, each in chosen.items()},
        rows={name: counted[each] for name, each in chosen.items()},
    )


def largest_chosen_batch(batch_sizes: Mapping[str, int]) -> int:
    """Samples of the largest batch that `choose_mixture` may choose."""
    return max((dict(_CHOSEN.values()) | dict(batch_sizes)).values())


def _can_prompt_regions(dataset: str, options: Mapping[str, Any], samples: SampleDataset) -> bool:
    """True for own data in which there is an object with a mask, and whose prompts were not chosen already."""
    if "regions" not in dataset_builder(dataset).options() or options.get("regions"):
        return False
    return any(not segment["is_crowd"] for segments in samples.rows["segments"] for segment in segments or ())


def check_mixture(weights: Mapping[str, float], batch_sizes: Mapping[str, int], sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks the mixture of a config before anything is read or built.

    Args:
        weights: source -> share of the steps.
        batch_sizes: source -> samples per batch.
        sources: source -> its dataset and options, see `open_source`.

    Raises:
        ValueError: a weight that is no number or negative, none above 0, a source without batch size, batch sizes or options of a source
            without weight; a source that `check_source` refuses.
        FileNotFoundError: see `check_source`.
    """
    _check_shares(weights, batch_sizes)
    for field, names in (("batch_sizes", batch_sizes), ("sources", sources)):
        if unknown := sorted(names.keys() - weights.keys()):
            raise ValueError(
                f"{field} names {', '.join(unknown)}, which has no weight; give it one in weights (0 = never drawn), or take it out; "
                f"weights has {', '.join(weights)}"
            )
    for name in weights:
        check_source(name, sources.get(name, {}))


def check_source(name: str, options: Mapping[str, Any]) -> None:
    """Checks the arguments of `open_source` without reading any file.

    Args:
        name, options: see `open_source`.

    Raises:
        ValueError: the dataset, the split, the condition or an option is unknown, with the valid ones; no `data_dir` where one is needed;
            an option of "shapes" out of its range; a shuffle buffer that is no whole number above 0, or of a source that is not streamed.
        FileNotFoundError: there is no folder `data_dir`.
    """
    if not isinstance(options, Mapping) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"source {name}: expected options such as {{dataset: own_jsonl, data_dir: FOLDER}}, got {options!r}")
    dataset = options.get("dataset", "shapes")
    try:
        entry, is_shapes = dataset_builder(dataset), dataset == "shapes"
    except ValueError as error:
        raise ValueError(f"source {name}: {error}") from None
    known = ("dataset", *(field.name for field in fields(ShapesStream))) if is_shapes else (*_OF_SOURCES, *entry.options())
    if unknown := sorted(options.keys() - set(known)):
        raise ValueError(
            f"source {name}: {dataset} has no option {', '.join(unknown)}, expected {', '.join(known)}{did_you_mean(unknown[0], known)}"
        )
    if is_shapes:
        try:
            ShapesStream(**{"task": name} | {option: value for option, value in options.items() if option != "dataset"})
        except ValueError as error:
            raise ValueError(f"source {name}: {error}; a source without dataset is the task of its name of shapes") from error
        return
    for option, default, allowed in (("split", "train", entry.splits), ("condition", None, (None, *CONDITIONS))):
        value = options.get(option, default)
        if allowed and value not in allowed:
            raise ValueError(
                f"source {name}: {dataset} has no {option} {value!r}, expected one of {', '.join(filter(None, allowed))}"
                + did_you_mean(str(value), filter(None, allowed))
            )
    buffer = options.get("shuffle_buffer", SHUFFLE_BUFFER)
    if not isinstance(buffer, int) or buffer < 1 or ("shuffle_buffer" in options and not options.get("streaming")):
        raise ValueError(f"source {name}: shuffle_buffer is {buffer!r}; give the rows of the buffer, at least 1, and streaming: true")
    if entry.needs_files and options.get("data_dir") is None:
        raise ValueError(
            f"source {name}: {dataset} is read from files; give the folder that holds them as data_dir, see the docs page {entry.docs_page}"
        )
    if entry.needs_files and not Path(options["data_dir"]).expanduser().is_dir():
        raise FileNotFoundError(
            f"source {name}: {no_folder(options['data_dir'])}; give the one that holds {dataset} as data_dir, "
            f"see the docs page {entry.docs_page}"
        )


def check_shares(weights: Mapping[str, float], batch_sizes: Mapping[str, int]) -> None:
    """Checks numbers of a mixture that may name some of its sources only.

    Raises:
        ValueError: a weight that is no number or negative, a batch size that is no whole number of at least 1.
    """
    for task, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= sys.float_info.max:
            raise ValueError(f"task {task!r} has weight {weight!r}; give 0 or a positive number")
    for task, size in batch_sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"task {task!r} has batch size {size!r}; give every task a whole number of at least 1")


def _check_shares(weights: Mapping[str, float], batch_sizes: Mapping[str, int]) -> None:
    check_shares(weights, {task: batch_sizes.get(task) for task in weights})
    if not any(weights.values()):
        raise ValueError(f"no task has a weight above 0: {dict(weights)}; nothing could be drawn")


class TaskSources(Dataset):
    """Sources of samples by the names of their tasks; `sources[("panoptic", 7)]` is sample 7 of that task.

    Args:
        sources: task -> sequence of samples; it may be endless.
    """

    def __init__(self, sources: Mapping[str, Sequence[Sample]]):
        self.sources = sources

    def epoch_length(self, names: Iterable[str]) -> int | None:
        """Samples of one epoch of all of these sources together; None if one of them has no epochs, or is streamed."""
        lengths = [getattr(self.sources[name], "epoch_length", None) for name in names]
        return None if None in lengths else sum(lengths)

    def __getitem__(self, position: Position) -> Sample:
        task, index = position
        return self.sources[task][index]


class OneTaskPerBatch(Sampler[list[Position]]):
    """Batches of positions for `TaskSources`: those of an optimizer step from one task, samples of a task in their own order.

    Prompts of different kinds share no class axis, so a batch with targets has one kind. The arguments alone decide the sequence: a run
    that resumes at batch n skips n batches and goes on with the same ones.

    Args:
        weights: task -> its share of the draws, relative to the others; 0 = never.
        batch_sizes: task -> samples of a batch.
        num_steps: optimizer steps of the run.
        seed: of the draws.
        batches_per_step: batches that follow each other with one task: processes x batches that are accumulated. Accelerate gives batch
            number n to process n % processes, so all of a step have the same task, as in the paper.

    Raises:
        ValueError: a task without batch size, a weight that is no number or negative, none above 0; batch sizes, steps or batches per step
            below 1.
    """

    def __init__(self, weights: Mapping[str, float], batch_sizes: Mapping[str, int], num_steps: int, seed: int, batches_per_step: int = 1):
        _check_shares(weights, batch_sizes)
        if num_steps < 1 or batches_per_step < 1:
            raise ValueError(f"expected at least 1 step and 1 batch per step, got {num_steps} and {batches_per_step}; give max_steps")
        self.weights, self.batch_sizes, self.num_steps, self.seed = weights, batch_sizes, num_steps, seed
        self.batches_per_step = batches_per_step

    @property
    def schedule(self) -> dict[str, Any]:
        """Arguments that decide the sequence of batches, without their number, which only ends it."""
        return {
            "weights": list(self.weights.items()),  # in order: draws follow it
            "batch_sizes": dict(self.batch_sizes),
            "seed": self.seed,
            "batches_per_step": self.batches_per_step,
        }

    def __len__(self) -> int:
        return self.num_steps * self.batches_per_step

    def samples_in(self, steps: int) -> int:
        """Samples of the first optimizer steps, all processes together."""
        sizes = np.array([self.batch_sizes[task] for task in self.weights])
        return int(sizes[self._drawn[:steps]].sum()) * self.batches_per_step

    @cached_property
    def _drawn(self) -> np.ndarray:
        """Task of every step, as its position in the weights."""
        shares = np.array(list(self.weights.values()), dtype=np.float64)
        return np.random.default_rng(self.seed).choice(len(shares), size=self.num_steps, p=shares / shares.sum())

    def __iter__(self) -> Iterator[list[Position]]:
        tasks = list(self.weights)
        following = dict.fromkeys(tasks, 0)
        for number in np.repeat(self._drawn, self.batches_per_step):
            task = tasks[number]
            first = following[task]
            following[task] = first + self.batch_sizes[task]
            yield [(task, index) for index in range(first, following[task])]
