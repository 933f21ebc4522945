"""Base of the metrics: sums that workers fill and add, and the checks that all of them share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np


class Metric:
    """Base of the metrics, which are dataclasses: the fields are sums, except `settings`. `update` counts, `+=` adds, `compute` divides.

    Attributes:
        settings: names of the fields that say how the metric counts. Metrics can be added only where these are equal.
    """

    settings: ClassVar[tuple[str, ...]] = ()

    def __iadd__(self, other: Self) -> Self:
        """Adds what another worker has counted, which stays as it is.

        Raises:
            ValueError: the settings differ.
        """
        for name in self.settings:
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"{type(self).__name__}: {name} differ; only metrics made alike can be added")
        for each in fields(self):
            if each.name not in self.settings:
                setattr(self, each.name, added(getattr(self, each.name), getattr(other, each.name)))
        return self

    def require(self, counted: Any, unit: str) -> None:
        """Refuses to compute from nothing.

        Args:
            counted: number or collection of what has been counted.
            unit: name of one of them.

        Raises:
            ValueError: nothing has been counted.
        """
        if not counted:
            raise ValueError(f"{type(self).__name__}: nothing to compute; call update for at least one {unit}")


@dataclass
class InstanceMetric(Metric):
    """Base of the metrics of instances, which see every image once.

    Attributes:
        images: ids of the images so far, or image id -> what is kept of it.
    """

    images: Any = field(default_factory=set, init=False, repr=False)

    def check(self, image_id: int | str, masks: Sequence[Any], category_ids: Sequence[int], scores: Sequence[float]) -> None:
        """Checks the predictions of an image.

        Raises:
            ValueError: the image was there before, numbers of entries differ, a score is not finite.
        """
        if image_id in self.images:
            raise ValueError(f"image {image_id}: was added before; each image counts once")
        if not len(masks) == len(category_ids) == len(scores):
            raise ValueError(
                f"image {image_id}: {len(masks)} masks, {len(category_ids)} category ids and {len(scores)} scores; "
                f"give one of each per prediction"
            )
        if not np.isfinite(np.asarray(scores, dtype=float)).all():
            raise ValueError(f"image {image_id}: scores must be finite, got {list(scores)!r:.80}")

    def __iadd__(self, other: Self) -> Self:
        if twice := set(self.images) & set(other.images):
            raise ValueError(f"{type(self).__name__}: {len(twice)} images are in both, such as {next(iter(twice))}; each image counts once")
        return super().__iadd__(other)


def added(mine: Any, others: Any) -> Any:
    """Sum of two values of one field: numbers, lists, arrays and metrics are added, sets united, mappings added entry by entry."""
    if isinstance(mine, Mapping):
        for key, value in others.items():
            mine[key] = added(mine[key], value) if key in mine else (deepcopy if isinstance(value, Metric) else copy)(value)
    elif isinstance(mine, set):
        mine |= others
    else:
        mine += others
    return mine


def percent(part: float, whole: float) -> float:
    """Share in percent; nan of nothing."""
    return 100 * part / whole if whole else math.nan


def mean(values: Collection[float]) -> float:
    """Mean, summed exactly; nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def accuracies(outcomes: Iterable[tuple[Iterable[str], float, int]]) -> dict[str, float]:
    """ "accuracy" and "accuracy, <group>" in percent, of (groups, right answers, questions); the group of all is ""."""
    right, questions = defaultdict(int), defaultdict(int)
    for groups, number_right, number in outcomes:
        for group in groups:
            right[group] += number_right
            questions[group] += number
    return {f"accuracy, {group}" if group else "accuracy": float(100 * right[group] / questions[group]) for group in sorted(questions)}


@contextmanager
def errors_of(item: str) -> Iterator[None]:
    """Lets the messages of ValueErrors inside begin with the item that they are about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{item}: {error}") from error
