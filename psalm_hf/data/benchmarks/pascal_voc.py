"""Pascal VOC 2012: semantic segmentation with 20 or 21 categories, and instances. See docs/datasets/pascal_voc.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..features import Category, segment_entry
from ..segment_map import read_segment_map
from .label_lists import joined_names
from .label_maps import LabelMapBuilder, MapRecord, NamesConfig, SemanticMapBuilder

_FOLDERS = {"train": ("training",), "val": ("validation",), "trainval": ("training", "validation")}  # of the layout d2
_BORDER = 255  # of the objects

# Class 1 to 20; 0 is the background.
VOC_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VocBuilder(LabelMapBuilder):
    """Base of the three: the layout of VOCdevkit."""

    splits = ("train", "val", "trainval")
    docs_page = "Pascal VOC 2012"
    published = {"train": {"images": 1464}, "val": {"images": 1449}, "trainval": {"images": 2913}}
    map_folder = "VOC2012/SegmentationClass"

    @property
    def list_file(self) -> str:
        """File with the names of the images, below `data_dir`."""
        return f"VOC2012/ImageSets/Segmentation/{self.config.split}.txt"

    def annotation_files(self) -> tuple[str, ...]:
        return (self.list_file, self.map_folder)

    def read_categories(self) -> tuple[Category, ...]:
        names = joined_names("voc20") if self.config.names == "synonyms" else VOC_NAMES
        return tuple(Category(number, name) for number, name in enumerate(names, 1))

    def records(self) -> list[MapRecord]:
        names = [line.strip() for _, line in self.lines(self.list_file)]
        return [MapRecord(name, f"VOC2012/JPEGImages/{name}.jpg", f"{self.map_folder}/{name}.png") for name in names]


@dataclass
class VocSemanticConfig(NamesConfig):
    """`layout`: "devkit": `data_dir` is VOCdevkit; "d2": it is the folder that `psalm prepare pascal_voc` writes."""

    layout: Literal["devkit", "d2"] = "devkit"


class Voc20(VocBuilder, SemanticMapBuilder):
    """Pascal VOC with one mask per category; the background belongs to no segment."""

    summary = "Pascal VOC 2012: 20 categories, the background is not counted"
    BUILDER_CONFIG_CLASS = VocSemanticConfig
    derived_folder = "annotations_pascal20"

    @property
    def _derived(self) -> list[tuple[str, str]]:
        """Folders of images and maps, in the layout d2."""
        return [(f"images/{folder}", f"{self.derived_folder}/{folder}") for folder in _FOLDERS[self.config.split]]

    def annotation_files(self) -> tuple[str, ...]:
        if self.config.layout == "devkit":
            return super().annotation_files()
        return tuple(folder for pair in self._derived for folder in pair)

    def records(self) -> list[MapRecord]:
        if self.config.layout == "devkit":
            return super().records()
        return [record for pair in self._derived for record in self.pairs(*pair)]

    def labels(self) -> Mapping[int, int | None]:
        """Labels 1..20, or 0..19 in derived maps; 255 is the border of objects, and in derived maps the background too."""
        if self.config.layout == "devkit":
            return {number: number for number in range(1, 21)} | {0: None, _BORDER: None}
        return {number - 1: number for number in range(1, 21)} | {_BORDER: None}


class Voc21(Voc20):
    """Pascal VOC with one mask per category; the background is one of them: id 0."""

    summary = "Pascal VOC 2012: 20 categories and the background"
    derived_folder = "annotations_pascal21"

    def read_categories(self) -> tuple[Category, ...]:
        """Categories: the background, which is stuff, and 20 things."""
        # Not "background", by which prompts mean "no object", and which therefore stands last. A list that begins with it may be prompted.
        name = joined_names("voc21")[0] if self.config.names == "synonyms" else "the background"
        return (Category(0, name, is_thing=False), *super().read_categories())

    def labels(self) -> Mapping[int, int | None]:
        return {number: number for number in range(21)} | {_BORDER: None}


class VocInstance(VocBuilder):
    """Pascal VOC with one mask per object of `SegmentationObject`; its category is that of most of its pixels in `SegmentationClass`."""

    summary = "Pascal VOC 2012: objects of 20 categories"
    task = "instance"
    map_folder = "VOC2012/SegmentationObject"
    class_folder = "VOC2012/SegmentationClass"

    def annotation_files(self) -> tuple[str, ...]:
        return (*super().annotation_files(), self.class_folder)

    def segments(self, values: Sequence[int], record: MapRecord) -> list[dict[str, Any]]:
        """Segments in the order of the numbers of the objects.

        Raises:
            ValueError: no pixel of an object has a class.
        """
        objects = read_segment_map(self.path(record.label_map))
        relative = f"{self.class_folder}/{record.image_id}.png"
        classes = read_segment_map(self.segment_map(relative, objects.shape))
        segments = []
        for value in values:
            if value in (0, _BORDER):
                continue
            found = classes[objects == value]
            known = found[(found >= 1) & (found <= len(VOC_NAMES))]  # void and background may reach into an object by some pixels
            if not known.size:
                others = ", ".join(map(str, np.unique(found)))
                raise ValueError(f"object {value} has no class in {relative}, but {others}; expected 1 to {len(VOC_NAMES)}")
            category_id = int(np.bincount(known).argmax())
            segments.append(segment_entry(category_id=category_id, map_values=[value], annotation_id=value))
        return segments
