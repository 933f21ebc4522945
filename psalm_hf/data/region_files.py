"""Rows of datasets of visual prompts: regions, the tags that name their objects, and the base of the builders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..structures import Region
from .features import SplitConfig, region_entry
from .files import FileBuilder

LAST_FRAME = "last_frame"  # tag of the last frame of a video, which the benchmark does not score
FIRST_FRAME = "first_frame"  # tag of the first frame of a video, in which objects are given, where it is a row too
_OBJECT_TAG = "object:"
_EXPRESSION_TAG = "expression:"


@dataclass
class OracleConfig(SplitConfig):
    """`oracle`: point only at objects that the image shows, which tells the model that they are there. None = yes in training, because
    nothing can be learnt from absent objects; no in evaluation."""

    oracle: bool | None = None

    @property
    def visible_only(self) -> bool:
        """`oracle`, decided."""
        return self.is_training if self.oracle is None else self.oracle


class RegionBuilder(FileBuilder):
    """Base of the builders whose rows are prompted by regions. Rows without a region are left out, in evaluation too, because they ask for
    nothing; only the row itself may show that it has none."""

    def checked_rows(self, first: int, end: int) -> Iterator[dict[str, Any] | ValueError]:
        return (row for row in super().checked_rows(first, end) if isinstance(row, ValueError) or row["regions"])

    def _check(self, row: Mapping[str, Any], names: Mapping[int, str]) -> None:
        if row["regions"]:
            super()._check(row, names)


def mask_entry(rle: Mapping[str, Any], segment: int | None) -> dict[str, Any]:
    """Region of the kind "mask" as rows store it."""
    return region_entry(Region("mask", mask_rle=dict(rle)), segment)


def object_tag(name: str | int) -> str:
    """Tag that names the object of a region; a row has one per region, in their order."""
    return f"{_OBJECT_TAG}{name}"


def tagged_objects(tags: Iterable[str]) -> list[str]:
    """Names of the objects that the regions of a row or sample mean, in the order of the regions."""
    return [tag.removeprefix(_OBJECT_TAG) for tag in tags if tag.startswith(_OBJECT_TAG)]


def expression_tag(name: str | int, kind: str, text: str) -> str:
    """Tag of an expression that means one object alone in the image that the regions are drawn on; `kind` is what it takes to read it."""
    return f"{_EXPRESSION_TAG}{name}:{kind}:{text}"


def tagged_expressions(tags: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name of an object -> kind and text of the expression that means it, see `expression_tag`."""
    found = (tag.removeprefix(_EXPRESSION_TAG).split(":", 2) for tag in tags if tag.startswith(_EXPRESSION_TAG))
    return {name: (kind, text) for name, kind, text in found}
