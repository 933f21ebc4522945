"""Which samples make the batches of a training run: one task per optimizer step, drawn by weight, everything from a seed."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from ..structures import Sample
from . import load
from .features import SampleDataset
from .shapes import ShapesStream

Position = tuple[str, int]  # task, index of the sample in that task's source


class EndlessEpochs:
    """The samples of a dataset again and again, every epoch in an order of its own: `source[n]` for any n >= 0.

    Args:
        dataset: has a length and `[index]`.
        seed: of the orders.
    """

    def __init__(self, dataset: Sequence[Sample], seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, index: int) -> Sample:
        epoch, position = divmod(index, len(self.dataset))
        return self.dataset[int(_order(self.seed, epoch, len(self.dataset))[position])]


@lru_cache(maxsize=8)  # sources, each at one epoch
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(length)


def open_source(name: str, options: Mapping[str, Any], *, image_size: int, seed: int) -> Sequence[Sample]:
    """Samples without end, from what a config says of a source.

    Args:
        name: of the source. For "shapes" it is the task.
        options: `dataset`, one of `list_datasets()`, default "shapes"; for datasets of files `split` (default "train"), `data_dir`,
            whatever else `load` takes, and `condition` for those that mix them: only such rows; for "shapes" what `ShapesStream` takes.
        image_size: side of the pictures that "shapes" draws.
        seed: of the order of a dataset of files.

    Raises:
        ValueError, FileNotFoundError: see `load` and `ShapesStream`; rows of several conditions and none is chosen, or none of that one.
    """
    options = {"dataset": "shapes", **options}
    dataset = options.pop("dataset")
    if dataset == "shapes":
        return ShapesStream(**{"task": name, "image_size": image_size} | options)
    condition = options.pop("condition", None)
    samples = load(dataset, **{"split": "train"} | options)
    found = samples.rows.unique("condition")
    if condition is None and len(found) > 1:
        raise ValueError(
            f"source {name}: {dataset} has rows of the conditions {', '.join(found)}, and a batch has one; make a source of each with "
            f"condition: {found[0]}, and so on"
        )
    if condition is not None:
        if condition not in found:
            raise ValueError(f"source {name}: {dataset} has no rows with condition {condition!r}, but {', '.join(found)}")
        kept = np.flatnonzero(np.asarray(samples.rows["condition"]) == condition)
        samples = SampleDataset(samples.rows.select(kept), samples.categories, samples.task)
    return EndlessEpochs(samples, seed)


class TaskSources(Dataset):
    """Several sources of samples under the names of their tasks; `sources[("panoptic", 7)]` is sample 7 of that task.

    Args:
        sources: task -> anything whose `[index]` is a `Sample`, endless streams included.
    """

    def __init__(self, sources: Mapping[str, Sequence[Sample]]):
        self.sources = sources

    def __getitem__(self, position: Position) -> Sample:
        task, index = position
        return self.sources[task][index]


class OneTaskPerBatch(Sampler[list[Position]]):
    """Batches of positions for `TaskSources`: those of an optimizer step from one task, samples of a task in their own order.

    Prompts of different kinds share no class axis, so a batch with targets holds one kind. The sequence is a function of the arguments
    alone: a run that resumes at batch n skips n batches and goes on with the same ones.

    Args:
        weights: task -> how often it is drawn, relative to the others; 0 = never.
        batch_sizes: task -> samples of a batch.
        num_steps: optimizer steps of the run.
        seed: of the draws.
        batches_per_step: batches that follow each other with one task: processes x batches that are accumulated. Accelerate gives batch
            number n to process n % processes, so all of a step have the same task, as in the paper.

    Raises:
        ValueError: tasks without batch size, weights that are negative or all 0, batch sizes, steps or batches per step below 1.
    """

    def __init__(self, weights: Mapping[str, float], batch_sizes: Mapping[str, int], num_steps: int, seed: int, batches_per_step: int = 1):
        for task, weight in weights.items():
            if weight < 0:
                raise ValueError(f"task {task!r} has weight {weight}; give 0 or a positive number")
            if batch_sizes.get(task, 0) < 1:
                raise ValueError(f"task {task!r} has batch size {batch_sizes.get(task)}; give every task one of at least 1")
        if not any(weights.values()):
            raise ValueError(f"no task has a weight above 0: {dict(weights)}; nothing could be drawn")
        if num_steps < 1 or batches_per_step < 1:
            raise ValueError(f"expected at least 1 step and 1 batch per step, got {num_steps} and {batches_per_step}; give max_steps")
        self.weights, self.batch_sizes, self.num_steps, self.seed = weights, batch_sizes, num_steps, seed
        self.batches_per_step = batches_per_step

    def __len__(self) -> int:
        return self.num_steps * self.batches_per_step

    def __iter__(self) -> Iterator[list[Position]]:
        tasks, shares = list(self.weights), np.array(list(self.weights.values()), dtype=np.float64)
        drawn = np.random.default_rng(self.seed).choice(len(tasks), size=self.num_steps, p=shares / shares.sum())
        following = dict.fromkeys(tasks, 0)
        for number in np.repeat(drawn, self.batches_per_step):
            task = tasks[number]
            first = following[task]
            following[task] = first + self.batch_sizes[task]
            yield [(task, index) for index in range(first, following[task])]
