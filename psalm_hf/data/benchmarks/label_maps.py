"""Datasets whose annotations are pictures alone: for every image a map whose values say which category or object a pixel belongs to.

Nothing lists what an image holds, so every map is decoded once, while the rows are made, for its values; masks are decoded with the
samples, as everywhere.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..files import FileBuilder, FileConfig
from ..segment_map import read_segment_map
from .label_lists import check_name_rule


class MapRecord(NamedTuple):
    """An image and its map, as paths below `data_dir`."""

    image_id: str
    image: str
    label_map: str


@dataclass
class LabelMapConfig(FileConfig):
    """Options of all of them.

    Attributes:
        keep_empty: keep images without any segment, crowds not counted; None = for evaluation yes, for training no.
        names: what a category is prompted by: "first": its own name; "synonyms": all its names in the list of the benchmark, as one.
    """

    keep_empty: bool | None = None
    names: str = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name_rule(self.name, self.names)


class LabelMapBuilder(FileBuilder):
    """What these datasets have in common. A subclass gives `records`, a list of `MapRecord`s, and `segments`."""

    BUILDER_CONFIG_CLASS = LabelMapConfig

    def counts(self) -> dict[str, int]:
        """Number of images."""
        return {"images": len(self._records)}

    def describe(self, record: MapRecord) -> str:
        """The map and the image id."""
        return f"{record.label_map}, image {record.image_id}"

    def row(self, record: MapRecord) -> dict[str, Any]:
        """All segments of an image."""
        picture = self.picture(record.image)
        path = self.segment_map(record.label_map, picture["image_size"])
        segment_map = read_segment_map(path)
        return {
            **picture,
            "image_id": record.image_id,
            "condition": "category",
            "segments": self.segments(present_values(segment_map), record),
            "segment_map": path,
            "tags": self.tags(segment_map),
        }

    def segments(self, values: Sequence[int], record: MapRecord) -> list[dict[str, Any]]:
        """The column `segments`.

        Args:
            values: those of the map, each once, ascending.

        Raises:
            ValueError: a value that the dataset does not have.
        """
        raise NotImplementedError

    def tags(self, segment_map: np.ndarray) -> list[str]:
        """The column `tags`, of a map (H, W)."""
        return []

    def pairs(self, image_folder: str, map_folder: str, *, image_end: str = ".jpg", map_end: str = ".png") -> list[MapRecord]:
        """The images and maps of two folders, paired by their names without the ends and sorted; of what is in one folder only there is a
        record as well, whose row fails."""
        names = self.names(image_folder, image_end) | self.names(map_folder, map_end)
        return [MapRecord(name, f"{image_folder}/{name}{image_end}", f"{map_folder}/{name}{map_end}") for name in sorted(names)]

    def names(self, folder: str, end: str) -> set[str]:
        """What stands before the end in the names of the files of a folder that have this end."""
        with os.scandir(self.path(folder)) as entries:
            return {entry.name.removesuffix(end) for entry in entries if entry.name.endswith(end)}

    def keeps(self, row: Mapping[str, Any]) -> bool:
        """What an image holds stands nowhere but in its map."""
        keep_empty = self.config.split not in ("train", "trainval") if self.config.keep_empty is None else self.config.keep_empty
        return keep_empty or not all(segment["is_crowd"] for segment in row["segments"])


class SemanticMapBuilder(LabelMapBuilder):
    """Maps of categories. A subclass gives `labels`."""

    task = "semantic"

    def labels(self) -> Mapping[int, int | None]:
        """Value of the map -> category id; None = belongs to no segment. The map may have no other values."""
        raise NotImplementedError

    @cached_property
    def _labels(self) -> Mapping[int, int | None]:
        return self.labels()

    @cached_property
    def _category_ids(self) -> list[int]:
        return [category.id for category in self.categories]

    def segments(self, values: Sequence[int], record: MapRecord) -> list[dict[str, Any]]:
        """One per category that the image has, in the order of the categories."""
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
            {"map_values": of_category[category_id], "category_id": category_id, "is_crowd": False}
            for category_id in self._category_ids
            if category_id in of_category
        ]


def present_values(segment_map: np.ndarray) -> list[int]:
    """The values of a map (H, W), each once, ascending."""
    pixels = segment_map.ravel()
    # Of every run one pixel: sorting millions would take ten times as long.
    return np.unique(pixels[np.append(True, pixels[1:] != pixels[:-1])]).tolist()
