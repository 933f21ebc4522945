"""Pascal VOC 2012: semantic segmentation with 20 or 21 categories, and instances. See docs/datasets/pascal_voc.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..features import Category
from ..segment_map import read_segment_map
from .label_lists import joined_names
from .label_maps import LabelMapBuilder, LabelMapConfig, MapRecord, SemanticMapBuilder

LAYOUTS = ("devkit", "d2")
FOLDERS = {"train": ("training",), "val": ("validation",), "trainval": ("training", "validation")}  # of the layout d2
VOID = 255

# Class 1 to 20; 0 is the background.
NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VocBuilder(LabelMapBuilder):
    """The layout of VOCdevkit."""

    docs_page = "Pascal VOC 2012"
    published = {"train": {"images": 1464}, "val": {"images": 1449}, "trainval": {"images": 2913}}
    map_folder = "VOC2012/SegmentationClass"

    @property
    def list_file(self) -> str:
        """The names of the images."""
        return f"VOC2012/ImageSets/Segmentation/{self.config.split}.txt"

    def annotation_files(self) -> tuple[str, ...]:
        """The list and the folder of the maps."""
        return (self.list_file, self.map_folder)

    def read_categories(self) -> tuple[Category, ...]:
        """20 things, ids 1..20."""
        names = joined_names("voc20") if self.config.names == "synonyms" else NAMES
        return tuple(Category(number, name) for number, name in enumerate(names, 1))

    def records(self) -> list[MapRecord]:
        """In the order of the list."""
        names = [line.strip() for _, line in self.lines(self.list_file)]
        return [MapRecord(name, f"VOC2012/JPEGImages/{name}.jpg", f"{self.map_folder}/{name}.png") for name in names]


@dataclass
class VocSemanticConfig(LabelMapConfig):
    """`layout`: "devkit": `data_dir` is VOCdevkit; "d2": it is what `psalm prepare pascal_voc` writes."""

    layout: str = "devkit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout not in LAYOUTS:
            raise ValueError(f"{self.name}: unknown layout {self.layout!r}, expected one of {', '.join(LAYOUTS)}")


class Voc20(VocBuilder, SemanticMapBuilder):
    """One mask per category; the background belongs to no segment."""

    BUILDER_CONFIG_CLASS = VocSemanticConfig
    derived_folder = "annotations_pascal20"

    @property
    def folders(self) -> list[tuple[str, str]]:
        """Of images and maps, in the layout d2."""
        return [(f"images/{folder}", f"{self.derived_folder}/{folder}") for folder in FOLDERS[self.config.split]]

    def annotation_files(self) -> tuple[str, ...]:
        """The list and the folder of the maps, or the folders."""
        if self.config.layout == "devkit":
            return super().annotation_files()
        return tuple(folder for pair in self.folders for folder in pair)

    def records(self) -> list[MapRecord]:
        """In the order of the list, or by name."""
        if self.config.layout == "devkit":
            return super().records()
        return [record for pair in self.folders for record in self.pairs(*pair)]

    def labels(self) -> Mapping[int, int | None]:
        """1..20, or 0..19 in derived maps; 255 is the border of objects, and in derived maps the background too."""
        if self.config.layout == "devkit":
            return {number: number for number in range(1, 21)} | {0: None, VOID: None}
        return {number - 1: number for number in range(1, 21)} | {VOID: None}


class Voc21(Voc20):
    """One mask per category, the background is one of them: id 0."""

    derived_folder = "annotations_pascal21"

    def read_categories(self) -> tuple[Category, ...]:
        """The background, which is stuff, and 20 things."""
        # Not "background", by which prompts mean "no object", and which therefore stands last. A list that begins with it may be prompted.
        name = joined_names("voc21")[0] if self.config.names == "synonyms" else "the background"
        return (Category(0, name, is_thing=False), *super().read_categories())

    def labels(self) -> Mapping[int, int | None]:
        """The same in both layouts."""
        return {number: number for number in range(21)} | {VOID: None}


class VocInstance(VocBuilder):
    """One mask per object of `SegmentationObject`; its category is that of most of its pixels in `SegmentationClass`."""

    task = "instance"
    map_folder = "VOC2012/SegmentationObject"
    class_folder = "VOC2012/SegmentationClass"

    def annotation_files(self) -> tuple[str, ...]:
        """The list and the folders of the maps."""
        return (*super().annotation_files(), self.class_folder)

    def segments(self, values: Sequence[int], record: MapRecord) -> list[dict[str, Any]]:
        """By the numbers of the objects, which are their annotation ids.

        Raises:
            ValueError: no pixel of an object has a class.
        """
        objects = read_segment_map(self.path(record.label_map))
        relative = f"{self.class_folder}/{record.image_id}.png"
        classes = read_segment_map(self.segment_map(relative, objects.shape))
        segments = []
        for value in values:
            if value in (0, VOID):
                continue
            found = classes[objects == value]
            known = found[(found >= 1) & (found <= len(NAMES))]  # void and background may reach into an object by some pixels
            if not known.size:
                raise ValueError(
                    f"object {value} has no class in {relative}, but {', '.join(map(str, np.unique(found)))}; expected 1 to {len(NAMES)}"
                )
            category_id = int(np.bincount(known).argmax())
            segments.append({"map_values": [value], "category_id": category_id, "is_crowd": False, "annotation_id": value})
        return segments
