"""ADE20K with 150 categories (ADEChallengeData2016): semantic, instance and panoptic segmentation. See docs/datasets/ade20k.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from ..features import Category, segment_entry
from ..files import FileBuilder
from ..segment_map import read_segment_map
from .coco import CocoPanoptic
from .label_lists import joined_names
from .label_maps import LabelMapBuilder, MapRecord, NamesConfig, SemanticMapBuilder, present_values

NAMES_FILE = "objectInfo150.txt"
_FOLDERS = {"train": "training", "val": "validation"}

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
    """Object in a map of `annotations_instance`: its number, its class 1..150, and the values of its pixels."""

    number: int
    category: int
    values: list[int]


def instances_of(values: Sequence[int]) -> list[Instance]:
    """Objects of a map of `annotations_instance`, in the order of their numbers.

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
    """Names of the classes: class 1..150 -> its first synonym, from the numbered lines of objectInfo150.txt.

    Raises:
        ValueError: another file.
    """
    names = {}
    for number, line in lines[1:]:
        fields = line.rstrip("\n").split("\t")
        if len(fields) != 5 or not fields[0].strip().isdigit():
            raise ValueError(f"{NAMES_FILE}, line {number}: expected Idx, Ratio, Train, Val, Name between tabs, got {line!r:.80}")
        names[int(fields[0])] = fields[4].split(",")[0].strip()
    if sorted(names) != list(range(1, 151)):
        raise ValueError(f"{NAMES_FILE}: expected the classes 1 to 150, got {len(names)} others")
    return names


@dataclass
class Ade20kSemanticConfig(NamesConfig):
    """`masks`: "raw": `annotations`, 1..150 and 0; "detectron2": `annotations_detectron2`, 0..149 and 255."""

    masks: Literal["raw", "detectron2"] = "raw"


class Ade20kBuilder(FileBuilder):
    """Base of the three: names, splits and folders of ADE20K.

    Attributes:
        first_id: id of the first of the 150 categories.
    """

    docs_page = "ADE20K"
    published = {"train": {"images": 20210}, "val": {"images": 2000}}
    first_id: ClassVar[int] = 0

    def annotation_files(self) -> tuple[str, ...]:
        return (NAMES_FILE, *self.folders)

    def read_categories(self) -> tuple[Category, ...]:
        try:
            names = names_from_lines(self.lines(NAMES_FILE))
        except ValueError as error:
            raise ValueError(self.message(str(error))) from error
        if self.config.names == "synonyms":
            names = dict(enumerate(joined_names("ade20k"), 1))
        return tuple(Category(number - 1 + self.first_id, name, number in CLASS_OF_INSTANCE) for number, name in names.items())


class Ade20kSemantic(Ade20kBuilder, SemanticMapBuilder):
    """ADE20K with one mask per category; ids 1..150, those of objectInfo150.txt, for both kinds of maps."""

    BUILDER_CONFIG_CLASS = Ade20kSemanticConfig
    summary = "ADE20K: 150 categories, things and stuff"
    first_id = 1

    @property
    def folders(self) -> tuple[str, str]:
        maps = "annotations_detectron2" if self.config.masks == "detectron2" else "annotations"
        return f"images/{_FOLDERS[self.config.split]}", f"{maps}/{_FOLDERS[self.config.split]}"

    def labels(self) -> Mapping[int, int | None]:
        if self.config.masks == "detectron2":
            return {number - 1: number for number in range(1, 151)} | {255: None}
        return {number: number for number in range(1, 151)} | {0: None}


class Ade20kInstance(Ade20kBuilder, LabelMapBuilder):
    """ADE20K with one mask per object, from `annotations_instance`; 100 of the ids 0..149, as in the derived files."""

    summary = "ADE20K: objects of 100 categories"
    task = "instance"

    @property
    def folders(self) -> tuple[str, str]:
        return f"images/{_FOLDERS[self.config.split]}", f"annotations_instance/{_FOLDERS[self.config.split]}"

    def read_categories(self) -> tuple[Category, ...]:
        return tuple(category for category in super().read_categories() if category.is_thing)

    def segments(self, values: Sequence[int], record: MapRecord) -> list[dict[str, Any]]:
        """Segments in the order of the numbers of the objects, which are their annotation ids."""
        return [
            segment_entry(category_id=instance.category - 1, map_values=instance.values, annotation_id=instance.number)
            for instance in instances_of(values)
        ]


class Ade20kPanoptic(Ade20kBuilder, CocoPanoptic):
    """ADE20K with things and stuff that do not overlap, from the files that `psalm prepare ade20k` writes; ids 0..149.

    Categories are not those of the JSON file, whose names are a mixture of single words and lists of synonyms.
    """

    BUILDER_CONFIG_CLASS = NamesConfig
    summary = "ADE20K: 100 things and 50 kinds of stuff, from prepared files"

    @property
    def file(self) -> str:
        """The annotation file, below `data_dir`."""
        return f"{self.map_folder}.json"

    @property
    def image_folder(self) -> str:
        return f"images/{_FOLDERS[self.config.split]}"

    @property
    def map_folder(self) -> str:
        return f"ade20k_panoptic_{self.config.split}"

    @property
    def folders(self) -> tuple[str, str]:
        """The JSON file and the folder of its PNG files, below `data_dir`."""
        return self.file, self.map_folder

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        """Segments in the order of `segments_info`, without stuff that objects cover entirely: it is in the file, but has no pixel left."""
        columns = super().segments(annotations, size)
        if not columns["segments"]:
            return columns
        present = set(present_values(read_segment_map(columns["segment_map"])))
        things = {number - 1 for number in CLASS_OF_INSTANCE}
        segments = [segment for segment in columns["segments"] if segment["map_values"][0] in present or segment["category_id"] in things]
        return {**columns, "segments": segments}
