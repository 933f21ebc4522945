"""A model on a dataset, held in memory: predict, post-process, measure. For a benchmark with files and resumption see `runner`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from ..data.collator import PsalmCollator
from ..data.features import SampleDataset
from ..structures import Sample
from .measures import (
    RELEASED,
    Numbers,
    PanopticThresholds,
    judge,
    measures_of,
)


@dataclass(frozen=True)
class DatasetReport:
    """Results on one split of a dataset. What nothing defines is left out.

    Attributes:
        percent: of the whole, by name.
        per_category: category name -> its numbers in percent; categories that occur neither in the truth nor in the answers have none.
        counts: pictures, rows, and what was judged in them.
        protocol: thresholds and other choices on which the numbers depend, by task.
    """

    percent: Numbers
    per_category: dict[str, Numbers]
    counts: dict[str, int]
    protocol: dict[str, Any]


def first_images(dataset: SampleDataset, number: int) -> SampleDataset:
    """The rows on the first `number` pictures of a dataset.

    Raises:
        ValueError: fewer than one picture.
    """
    if number < 1:
        raise ValueError(f"expected at least 1 picture, got {number}")
    ids = dataset.rows["image_id"]
    kept = set(list(dict.fromkeys(ids))[:number])
    rows = dataset.rows.select([index for index, image_id in enumerate(ids) if image_id in kept])
    return SampleDataset(rows, dataset.categories, dataset.task)


@torch.no_grad()  # no inference mode: engines that gather weights would train on with what they gathered in it
def evaluate_dataset(
    model: Any,
    processor: Any,
    dataset: SampleDataset,
    *,
    batch_size: int,
    panoptic: PanopticThresholds = RELEASED,
) -> DatasetReport:
    """All numbers of a model on a dataset, with a progress bar.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        dataset: rows of one condition, not streamed.
        batch_size: rows of a forward pass; a picture that several of them share is encoded once.
        panoptic: thresholds of the panoptic map.

    Raises:
        ValueError: rows of several conditions, a batch without rows, and whatever `measures_of` refuses.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    conditions = dataset.rows.unique("condition")
    if len(conditions) > 1:
        raise ValueError(f"rows of the conditions {', '.join(conditions)}, which have no number in common; select the rows of one")
    measures = measures_of(conditions[0], dataset.task, dataset.categories, panoptic)
    collate = PsalmCollator(processor, with_targets=False)
    for samples in _batches(dataset, batch_size):
        inputs = {name: tensor.to(model.device) for name, tensor in collate(samples).items()}
        outputs = model(**inputs)
        for measure in measures:
            judge(measure, samples, outputs, processor)

    names = {category.id: category.name for category in dataset.categories}
    per_category: dict[str, Numbers] = {}
    for measure in measures:
        for category_id, numbers in measure.per_category().items():
            per_category.setdefault(names[category_id], {}).update(numbers)
    counts = {"pictures": len(dataset.rows.unique("image_id")), "rows": len(dataset)}
    return DatasetReport(
        percent={name: value for measure in measures for name, value in measure.numbers().items() if not math.isnan(value)},
        per_category=per_category,
        counts=counts | {name: number for measure in measures for name, number in measure.counts().items()},
        protocol={name: choices for measure in measures for name, choices in measure.protocol().items()},
    )


def _batches(dataset: SampleDataset, batch_size: int) -> Iterator[list[Sample]]:
    for first in tqdm(range(0, len(dataset), batch_size), desc="evaluate", unit="batch"):
        yield [dataset[index] for index in range(first, min(first + batch_size, len(dataset)))]
