"""What datasets of visual prompts share: what a row's region is, and that a picture in which nothing is pointed at is no row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..structures import Region
from .files import FileBuilder

_OBJECT_TAG = "object:"


class RegionBuilder(FileBuilder):
    """Base of the builders whose rows are asked for by regions. Whether any is left may only be known when the row is made; rows without
    are left out, in evaluation too, because they ask for nothing."""

    def checked_rows(self, first: int, end: int) -> Iterator[dict[str, Any] | ValueError]:
        """As of any dataset of files, but fewer than there are records."""
        return (row for row in super().checked_rows(first, end) if isinstance(row, ValueError) or row["regions"])

    def _check(self, row: Mapping[str, Any], names: Mapping[int, str]) -> None:
        if row["regions"]:
            super()._check(row, names)


def region_entry(region: Region, segment: int | None) -> dict[str, Any]:
    """A region as rows store it, with str counts."""
    return {
        "kind": region.kind,
        "points": None if region.points is None else [list(point) for point in region.points],
        "mask": region.mask_rle,
        "segment": segment,
    }


def mask_entry(rle: Mapping[str, Any], segment: int | None) -> dict[str, Any]:
    """A region of kind "mask" as rows store it; the RLE has str counts."""
    return region_entry(Region("mask", mask_rle=dict(rle)), segment)


def object_tag(name: str | int) -> str:
    """The tag that says which object a region means; a row has one per region, in their order."""
    return f"{_OBJECT_TAG}{name}"


def tagged_objects(tags: Iterable[str]) -> list[str]:
    """Names of the objects that the regions of a row or sample mean, in the order of the regions."""
    return [tag.removeprefix(_OBJECT_TAG) for tag in tags if tag.startswith(_OBJECT_TAG)]
