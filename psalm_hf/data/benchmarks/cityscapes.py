"""Cityscapes, fine annotations: semantic, instance and panoptic segmentation. See docs/datasets/cityscapes.md."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ...masks import rle_from_bitmap
from ..features import Category, segment_entry
from .label_lists import joined_names
from .label_maps import LabelMapBuilder, MapRecord, NamesConfig, SemanticMapBuilder

# In the order of their train ids 0..18, with the dataset's own ids. Source: labels.py of cityscapesScripts.
_STUFF = {7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light", 20: "traffic sign"}
_STUFF |= {21: "vegetation", 22: "terrain", 23: "sky"}
_THINGS = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
CITYSCAPES = tuple(Category(id, name, is_thing=id in _THINGS) for id, name in (_STUFF | _THINGS).items())
LABEL_IDS = range(34)  # those that are no category are not evaluated
LICENSE_PLATE = (255, 65535)  # -1 in maps of 8 and 16 bits
VOID_LABELS = [*sorted({*LABEL_IDS} - {category.id for category in CITYSCAPES}), *LICENSE_PLATE]


class CityscapesBuilder(LabelMapBuilder):
    """Base of the three: the layout of Cityscapes. Below its folders are those of the cities."""

    splits = ("train", "val", "test")
    docs_page = "Cityscapes"
    published = {"train": {"images": 2975}, "val": {"images": 500}, "test": {"images": 1525}}
    map_kind = "instanceIds"

    @property
    def folders(self) -> tuple[str, str]:
        return f"leftImg8bit/{self.config.split}", f"gtFine/{self.config.split}"

    def annotation_files(self) -> tuple[str, ...]:
        cities = [f"{folder}/{city}" for folder in self.folders for city in self._cities(folder)]
        return (*self.folders[::-1], *cities)

    def _cities(self, folder: str) -> list[str]:
        if not os.path.isdir(self.path(folder)):
            return []
        with os.scandir(self.path(folder)) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())

    def records(self) -> list[MapRecord]:
        images, maps = self.folders
        records = []
        ends = {"image_end": "_leftImg8bit.png", "map_end": f"_gtFine_{self.map_kind}.png"}
        for city in sorted({*self._cities(images), *self._cities(maps)}):
            missing = [folder for folder in self.folders if city not in self._cities(folder)]
            if missing:
                raise ValueError(self.message(f"there is no {missing[0]}/{city} in {self.config.data_dir}"))
            records += self.pairs(f"{images}/{city}", f"{maps}/{city}", **ends)
        return records

    def read_categories(self) -> tuple[Category, ...]:
        """Categories in the order of the train ids."""
        if self.config.names == "first":
            return CITYSCAPES
        return tuple(replace(category, name=name) for category, name in zip(CITYSCAPES, joined_names("cityscapes"), strict=True))


@dataclass
class CityscapesSemanticConfig(NamesConfig):
    """`masks`: "labelIds", or "labelTrainIds", which are derived from them."""

    masks: Literal["labelIds", "labelTrainIds"] = "labelIds"


class CityscapesSemantic(CityscapesBuilder, SemanticMapBuilder):
    """Cityscapes with one mask per category, groups of objects included."""

    summary = "Cityscapes, fine: 19 categories"
    BUILDER_CONFIG_CLASS = CityscapesSemanticConfig

    @property
    def map_kind(self) -> str:
        """Part of the names of the maps."""
        return self.config.masks

    def labels(self) -> Mapping[int, int | None]:
        """Labels of the values: label ids, or train ids, both of 8 bits."""
        if self.config.masks == "labelTrainIds":
            return {position: category.id for position, category in enumerate(CITYSCAPES)} | {255: None}
        return dict.fromkeys((*LABEL_IDS, LICENSE_PLATE[0])) | {category.id: category.id for category in CITYSCAPES}


class CityscapesPanoptic(CityscapesBuilder):
    """Cityscapes with things and stuff that do not overlap; groups of objects are crowds."""

    summary = "Cityscapes, fine: 8 things and 11 kinds of stuff"

    def segments(self, values: Sequence[int], record: MapRecord) -> list[dict[str, Any]]:
        """Segments in the order of the values: label id, or from 1000 label id x 1000 + number of the object."""
        categories = {category.id: category for category in self.categories}
        segments = []
        for value in values:
            label = value if value < 1000 else value // 1000
            if value not in LICENSE_PLATE and label not in LABEL_IDS:
                raise ValueError(f"the map has the value {value}, of label {label}; labels are {LABEL_IDS[0]} to {LABEL_IDS[-1]}")
            if label in categories:
                is_crowd = categories[label].is_thing and value < 1000
                segments.append(segment_entry(category_id=label, map_values=[value], is_crowd=is_crowd, annotation_id=value))
        return segments

    def tags(self, segment_map: np.ndarray) -> list[str]:
        """One tag: "void:" and the counts of the compressed RLE of the pixels whose label is not evaluated. As in the dataset's own
        script, single caravans and trailers are not among them: their values are not label ids."""
        return [f"void:{rle_from_bitmap(np.isin(segment_map, VOID_LABELS))['counts']}"]


class CityscapesInstance(CityscapesPanoptic):
    """Cityscapes with one mask per object, and crowds."""

    summary = "Cityscapes, fine: objects of 8 categories"
    task = "instance"

    def read_categories(self) -> tuple[Category, ...]:
        return tuple(category for category in super().read_categories() if category.is_thing)
