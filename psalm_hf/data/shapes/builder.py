"""Base of the builders of drawn datasets: the first scenes, clips or pairs of a split, each of which gives some rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..features import SplitBuilder, SplitConfig
from .scene import SPLITS, check_range


@dataclass
class DrawnConfig(SplitConfig):
    """Options of all drawn datasets.

    Attributes:
        seed: another seed is another world of the same kind.
        image_size: side of the square images in pixels, 64 to 1024. The same index at another size is another scene.
        number: name of the option for the number of scenes, None = that of `numbers`.
        numbers: split -> number of scenes. Every split is endless; this is the default.

    Raises:
        ValueError: an option out of its range.
    """

    seed: int = 0
    image_size: int = 128
    number: ClassVar[str]
    numbers: ClassVar[Mapping[str, int]] = {"train": 10_000, "validation": 500, "test": 500, "unseen": 500}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.name, self.number, self.length, 1)
        check_range(self.name, "seed", self.seed, 0)
        check_range(self.name, "image_size", self.image_size, 64, 1024)

    @property
    def length(self) -> int:
        """Number of scenes, decided."""
        asked = getattr(self, self.number)
        return self.numbers[self.split] if asked is None else asked


class DrawnBuilder(SplitBuilder):
    """Base of these builders. A subclass gives `rows_of`.

    Attributes:
        per_shard: number of scenes that processes and streams do not divide.
    """

    docs_page = "The shapes world"
    splits = SPLITS
    per_shard: ClassVar[int] = 250

    def rows_of(self, index: int) -> Iterable[dict[str, Any]]:
        """Rows of scene `index`."""
        raise NotImplementedError

    def shards(self) -> dict[str, list]:
        """Spans [first scene, end]."""
        end = self.config.length
        return {"spans": [[first, min(first + self.per_shard, end)] for first in range(0, end, self.per_shard)]}

    def _generate_examples(self, spans: list[list[int]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for first, end in spans:
            for index in range(first, end):
                for number, row in enumerate(self.rows_of(index)):
                    yield f"{index}-{number}", row
