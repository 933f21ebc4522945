"""Base of the datasets that have nothing but label maps: for every image a map whose values are numbers of categories or objects.

No list says what is in an image. So every map is decoded once while the rows are made, for its values; the masks are decoded with the
samples, as everywhere.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...structures import CATEGORY
from ..features import segment_entry
from ..files import FileBuilder, KeepEmptyConfig
from ..segment_map import read_segment_map
from .label_lists import NameRule


class MapRecord(NamedTuple):
    """Image and its map, as paths below `data_dir`."""

    image_id: str
    image: str
    label_map: str


@dataclass
class NamesConfig(KeepEmptyConfig):
    """`names`: the text that prompts a category: "first": its own name; "synonyms": all its names in the list of the benchmark, as one."""

    names: NameRule = "first"


class LabelMapBuilder(FileBuilder):
    """Base of these datasets. A subclass gives `segments`, and `folders` or `annotation_files` and `records`.

    Attributes:
        folders: of the images and of the maps, below `data_dir`. Images and maps are paired by their names without the ends.
        map_end: end of the names of the maps.
    """

    BUILDER_CONFIG_CLASS = NamesConfig
    counted = "images"
    folders: tuple[str, str]
    map_end: ClassVar[str] = ".png"

    def annotation_files(self) -> tuple[str, ...]:
        return self.folders[::-1]

    def records(self) -> list[MapRecord]:
        return self.pairs(*self.folders, map_end=self.map_end)

    def describe(self, record: MapRecord) -> str:
        return f"{record.label_map}, image {record.image_id}"

    def row(self, record: MapRecord) -> dict[str, Any]:
        image = self.image(record.image)
        path = self.segment_map(record.label_map, image["image_size"])
        segment_map = read_segment_map(path)
        return {
            **image,
            "image_id": record.image_id,
            "condition": CATEGORY,
            "segments": self.segments(present_values(segment_map), record),
            "segment_map": path,
            "tags": self.tags(segment_map),
        }

    def segments(self, values: Sequence[int], record: MapRecord) -> list[dict[str, Any]]:
        """Column `segments`.

        Args:
            values: the values of the map, each once, ascending.

        Raises:
            ValueError: a value that the dataset does not have.
        """
        raise NotImplementedError

    def tags(self, segment_map: np.ndarray) -> list[str]:
        """Column `tags` of an image with the map (H, W)."""
        return []

    def pairs(self, image_folder: str, map_folder: str, *, image_end: str = ".jpg", map_end: str = ".png") -> list[MapRecord]:
        """Images and maps of two folders, sorted by name. A file that is in one folder only makes a record too, whose row fails."""
        names = self._stems(image_folder, image_end) | self._stems(map_folder, map_end)
        return [MapRecord(name, f"{image_folder}/{name}{image_end}", f"{map_folder}/{name}{map_end}") for name in sorted(names)]

    def _stems(self, folder: str, end: str) -> set[str]:
        with os.scandir(self.path(folder)) as entries:
            return {entry.name.removesuffix(end) for entry in entries if entry.name.endswith(end)}

    def keeps(self, row: Mapping[str, Any]) -> bool:
        return self.config.keeps_empty or not all(segment["is_crowd"] for segment in row["segments"])


class SemanticMapBuilder(LabelMapBuilder):
    """Base of the datasets with maps of categories. A subclass gives `labels`."""

    task = "semantic"

    def labels(self) -> Mapping[int, int | None]:
        """Value of the map -> category id; None = of no segment. The map may have no other values."""
        raise NotImplementedError

    @cached_property
    def _labels(self) -> Mapping[int, int | None]:
        return self.labels()

    @cached_property
    def _category_ids(self) -> list[int]:
        return [category.id for category in self.categories]

    def segments(self, values: Sequence[int], record: MapRecord) -> list[dict[str, Any]]:
        """One segment per category of the image, in the order of the categories."""
        of_category = defaultdict(list)
        for value in values:
            if value not in self._labels:
                raise ValueError(
                    f"the map has the value {value}, which is no label of this dataset; maps hold label numbers or palette indices, "
                    f"not the colours that stand for them"
                )
            if self._labels[value] is not None:
                of_category[self._labels[value]].append(value)
        return [
            segment_entry(category_id=category_id, map_values=of_category[category_id])
            for category_id in self._category_ids
            if category_id in of_category
        ]


def present_values(segment_map: np.ndarray) -> list[int]:
    """Values of a map (H, W), each once, ascending."""
    pixels = segment_map.ravel()
    # One pixel of every run: sorting millions would take ten times as long.
    return np.unique(pixels[np.append(True, pixels[1:] != pixels[:-1])]).tolist()
