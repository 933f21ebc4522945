"""ADE20K with 150 categories (ADEChallengeData2016): semantic, instance and panoptic segmentation. See docs/datasets/ade20k.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..features import Category
from ..files import FileBuilder
from ..segment_map import read_segment_map
from .coco import CocoConfig, CocoPanoptic
from .label_lists import check_name_rule, joined_names
from .label_maps import LabelMapBuilder, LabelMapConfig, MapRecord, SemanticMapBuilder, present_values

FOLDERS = {"train": "training", "val": "validation"}
PUBLISHED = {"train": {"images": 20210}, "val": {"images": 2000}}
NAMES = "objectInfo150.txt"
MASKS = ("raw", "detectron2")

# The number 1..150 of class 1..100 of `annotations_instance`: the things. Source: ade20k_instance_catid_mapping.txt of Mask2Former.
# fmt: off
CLASS_OF_INSTANCE = (
    8, 9, 11, 13, 15, 16, 19, 20, 21, 23, 24, 25, 28, 31, 32, 33, 34, 36, 37, 38, 39, 40, 42, 43, 44, 45, 46, 48, 50, 51, 54, 56, 57, 58,
    59, 63, 65, 66, 67, 68, 70, 71, 72, 73, 74, 75, 76, 77, 79, 81, 82, 83, 84, 86, 87, 88, 89, 90, 91, 93, 94, 96, 98, 99, 103, 104, 105,
    108, 109, 111, 112, 113, 116, 117, 119, 120, 121, 122, 124, 125, 126, 127, 128, 130, 131, 133, 134, 135, 136, 137, 138, 139, 140, 143,
    144, 145, 147, 148, 149, 150,
)
# fmt: on


class Instance(NamedTuple):
    """An object in a map of `annotations_instance`: its number, its class 1..150, and the values of its pixels."""

    number: int
    category: int
    values: list[int]


def instances_of(values: Sequence[int]) -> list[Instance]:
    """The objects of a map of `annotations_instance`, by their numbers.

    Args:
        values: R + 256 G + 65536 B of its pixels: R = class 1..100, G = number of the object from 1, 0 = none; B says nothing.

    Raises:
        ValueError: an object without a class, or with several.
    """
    of_number: dict[int, dict[int, list[int]]] = {}
    for value in values:
        number, kind = value >> 8 & 255, value & 255
        if number:
            of_number.setdefault(number, {}).setdefault(kind, []).append(value)
    instances = []
    for number, kinds in sorted(of_number.items()):
        (kind, own), *others = kinds.items()
        if others:
            raise ValueError(f"object {number} has the classes {', '.join(map(str, sorted(kinds)))}; expected one")
        if not 1 <= kind <= len(CLASS_OF_INSTANCE):
            raise ValueError(f"object {number} has the class {kind}; expected 1 to {len(CLASS_OF_INSTANCE)}")
        instances.append(Instance(number, CLASS_OF_INSTANCE[kind - 1], own))
    return instances


def names_from_lines(lines: Sequence[tuple[int, str]]) -> dict[int, str]:
    """Class 1..150 -> its first synonym, from the numbered lines of objectInfo150.txt.

    Raises:
        ValueError: another file.
    """
    names = {}
    for number, line in lines[1:]:
        fields = line.rstrip("\n").split("\t")
        if len(fields) != 5 or not fields[0].strip().isdigit():
            raise ValueError(f"{NAMES}, line {number}: expected Idx, Ratio, Train, Val, Name between tabs, got {line!r:.80}")
        names[int(fields[0])] = fields[4].split(",")[0].strip()
    if sorted(names) != list(range(1, 151)):
        raise ValueError(f"{NAMES}: expected the classes 1 to 150, got {len(names)} others")
    return names


def ade20k_categories(builder: FileBuilder, first_id: int) -> tuple[Category, ...]:
    """The 150 categories, numbered from `first_id`."""
    try:
        names = names_from_lines(builder.lines(NAMES))
    except ValueError as error:
        raise ValueError(f"{builder.title}: {error}; see the docs page {builder.docs_page}") from error
    if builder.config.names == "synonyms":
        names = dict(enumerate(joined_names("ade20k"), 1))
    return tuple(Category(number - 1 + first_id, name, is_thing=number in CLASS_OF_INSTANCE) for number, name in names.items())


@dataclass
class Ade20kSemanticConfig(LabelMapConfig):
    """`masks`: "raw": `annotations`, 1..150 and 0; "detectron2": `annotations_detectron2`, 0..149 and 255."""

    masks: str = "raw"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks not in MASKS:
            raise ValueError(f"{self.name}: unknown masks {self.masks!r}, expected one of {', '.join(MASKS)}")


class Ade20kSemantic(SemanticMapBuilder):
    """One mask per category; ids 1..150, those of objectInfo150.txt, whichever maps are read."""

    BUILDER_CONFIG_CLASS = Ade20kSemanticConfig
    docs_page = "ADE20K"
    published = PUBLISHED

    @property
    def folders(self) -> tuple[str, str]:
        """Of the images and of the maps."""
        maps = "annotations_detectron2" if self.config.masks == "detectron2" else "annotations"
        return f"images/{FOLDERS[self.config.split]}", f"{maps}/{FOLDERS[self.config.split]}"

    def annotation_files(self) -> tuple[str, ...]:
        """The names and the folders."""
        return (NAMES, *self.folders)

    def read_categories(self) -> tuple[Category, ...]:
        """150, things and stuff."""
        return ade20k_categories(self, 1)

    def records(self) -> list[MapRecord]:
        """By name."""
        return self.pairs(*self.folders)

    def labels(self) -> Mapping[int, int | None]:
        """0 (255 in derived maps) is everything else."""
        if self.config.masks == "detectron2":
            return {number - 1: number for number in range(1, 151)} | {255: None}
        return {number: number for number in range(1, 151)} | {0: None}


class Ade20kInstance(LabelMapBuilder):
    """One mask per object, from `annotations_instance`; 100 of the ids 0..149, as in the derived files."""

    task = "instance"
    docs_page = "ADE20K"
    published = PUBLISHED

    @property
    def folders(self) -> tuple[str, str]:
        """Of the images and of the maps."""
        return f"images/{FOLDERS[self.config.split]}", f"annotations_instance/{FOLDERS[self.config.split]}"

    def annotation_files(self) -> tuple[str, ...]:
        """The names and the folders."""
        return (NAMES, *self.folders)

    def read_categories(self) -> tuple[Category, ...]:
        """The things."""
        return tuple(category for category in ade20k_categories(self, 0) if category.is_thing)

    def records(self) -> list[MapRecord]:
        """By name."""
        return self.pairs(*self.folders)

    def segments(self, values: Sequence[int], record: MapRecord) -> list[dict[str, Any]]:
        """By the numbers of the objects, which are their annotation ids."""
        return [
            {
                "map_values": instance.values,
                "category_id": instance.category - 1,
                "is_crowd": False,
                "annotation_id": instance.number,
            }
            for instance in instances_of(values)
        ]


@dataclass
class Ade20kPanopticConfig(CocoConfig):
    """`names`: see `LabelMapConfig`."""

    names: str = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name_rule(self.name, self.names)


class Ade20kPanoptic(CocoPanoptic):
    """Things and stuff without overlap, from the files that `psalm prepare ade20k` writes; ids 0..149."""

    BUILDER_CONFIG_CLASS = Ade20kPanopticConfig
    docs_page = "ADE20K"
    published = PUBLISHED

    @property
    def file(self) -> str:
        """The annotation file, below `data_dir`."""
        return f"ade20k_panoptic_{self.config.split}.json"

    @property
    def image_folder(self) -> str:
        """Where the pictures lie, below `data_dir`."""
        return f"images/{FOLDERS[self.config.split]}"

    @property
    def map_folder(self) -> str:
        """Where the PNG files lie, below `data_dir`."""
        return f"ade20k_panoptic_{self.config.split}"

    def annotation_files(self) -> tuple[str, ...]:
        """The names, the JSON file and the folder of its PNG files."""
        return (NAMES, self.file, self.map_folder)

    def counts(self) -> dict[str, int]:
        """Number of images."""
        return {"images": len(self._content["images"])}

    def read_categories(self) -> tuple[Category, ...]:
        """Not those of the JSON file, whose names are a mixture of single words and lists of synonyms."""
        return ade20k_categories(self, 0)

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        """In the order of `segments_info`, without stuff that objects cover entirely: the file lists it, but no pixel is left of it."""
        columns = super().segments(annotations, size)
        if not columns["segments"]:
            return columns
        present = set(present_values(read_segment_map(columns["segment_map"])))
        things = {number - 1 for number in CLASS_OF_INSTANCE}
        segments = [segment for segment in columns["segments"] if segment["map_values"][0] in present or segment["category_id"] in things]
        return {**columns, "segments": segments}
