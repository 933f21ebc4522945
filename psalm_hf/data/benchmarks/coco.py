"""COCO 2017: panoptic, instance and semantic segmentation. See docs/datasets/coco.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from ..features import Category
from ..files import FileBuilder, FileConfig, mask

MASKS = ("panoptic", "semseg")


class ImageRecord(NamedTuple):
    """An entry of `images` and what is annotated in it. `image` is None for annotations of an image that is not listed, so that they are
    reported as any broken record."""

    image: Mapping[str, Any] | None
    annotations: list[Mapping[str, Any]]


@dataclass
class CocoConfig(FileConfig):
    """`keep_empty`: keep images without any segment, crowds not counted; None = for evaluation yes, for training no."""

    keep_empty: bool | None = None


class CocoBuilder(FileBuilder):
    """What the three have in common: one JSON file per split that lists images, annotations and categories."""

    BUILDER_CONFIG_CLASS = CocoConfig
    docs_page = "COCO 2017"
    published = {"train": {"images": 118_287}, "val": {"images": 5_000}}
    content: ClassVar[str]  # of the file: "panoptic" or "instances"

    @property
    def file(self) -> str:
        """The annotation file, below `data_dir`."""
        return f"annotations/{self.content}_{self.config.split}2017.json"

    @property
    def image_folder(self) -> str:
        """Where the pictures lie, below `data_dir`."""
        return f"{self.config.split}2017"

    def annotation_files(self) -> tuple[str, ...]:
        """The JSON file."""
        return (self.file,)

    def read_categories(self) -> tuple[Category, ...]:
        """In the order of the file, with its ids and names. (Instance files do not say "isthing": all of theirs are.)"""
        entries = self._content["categories"]
        return tuple(Category(entry["id"], entry["name"], is_thing=bool(entry.get("isthing", 1))) for entry in entries)

    def records(self) -> list[ImageRecord]:
        """In the order of `images`."""
        annotations = defaultdict(list)
        for annotation in self._content["annotations"]:
            annotations[annotation.get("image_id")].append(annotation)
        records = [ImageRecord(image, annotations.pop(image.get("id"), [])) for image in self._content["images"]]
        keep_empty = self.config.split != "train" if self.config.keep_empty is None else self.config.keep_empty
        if not keep_empty:
            records = [record for record in records if not self.is_empty(record)]
        return records + [ImageRecord(None, orphans) for orphans in annotations.values()]

    def is_empty(self, record: ImageRecord) -> bool:
        """Whether nothing but crowds is annotated."""
        return all(annotation.get("iscrowd") for annotation in record.annotations)

    def counts(self) -> dict[str, int]:
        """Images that the file lists, empty ones too."""
        return {"images": len(self._content["images"])}

    def describe(self, record: ImageRecord) -> str:
        """The file and the image id."""
        return f"{self.file}, image {record.annotations[0]['image_id'] if record.image is None else record.image['id']}"

    def row(self, record: ImageRecord) -> dict[str, Any]:
        """All segments of an image."""
        image, annotations = record
        if image is None:
            raise ValueError(f"{len(annotations)} annotations are of this image, but `images` does not list it")
        size = image["height"], image["width"]
        return {
            **self.picture(f"{self.image_folder}/{image['file_name']}", size),
            "image_id": str(image["id"]),
            "condition": "category",
            **self.segments(annotations, size),
        }

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        """The columns `segments` and, where the masks lie in a picture, `segment_map`."""
        raise NotImplementedError

    @property
    def _content(self) -> Mapping[str, Any]:
        return self.json(self.file, keys=("images", "annotations", "categories"))


def instance_segment(
    annotation: Mapping[str, Any], size: tuple[int, int], read_mask: Callable[[Any, tuple[int, int]], dict] = mask
) -> dict[str, Any]:
    """An annotation of an instance file as a segment of a row; `size` is (height, width), `read_mask` takes what `mask` takes.

    Raises:
        ValueError: its mask is none of this size; the message names the annotation.
    """
    try:
        rle = read_mask(annotation["segmentation"], size)
    except ValueError as error:
        raise ValueError(f"annotation {annotation.get('id')}: {error}") from error
    return {
        "mask": rle,
        "category_id": annotation["category_id"],
        "is_crowd": bool(annotation.get("iscrowd", 0)),
        "annotation_id": annotation.get("id"),
        "area": annotation.get("area"),
    }


class CocoInstance(CocoBuilder):
    """One mask per object, from polygons and RLEs; 80 categories."""

    task = "instance"
    content = "instances"

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        """In the order of the file."""
        return {"segments": [instance_segment(annotation, size) for annotation in annotations]}


class CocoPanoptic(CocoBuilder):
    """Things and stuff without overlap, from one PNG per image; 133 categories."""

    content = "panoptic"

    @property
    def map_folder(self) -> str:
        """Where the PNG files lie, below `data_dir`."""
        return f"panoptic_{self.config.split}2017"

    def is_empty(self, record: ImageRecord) -> bool:
        """Whether nothing but crowds is annotated."""
        return all(info.get("iscrowd") for annotation in record.annotations for info in annotation.get("segments_info", [{}]))

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        """In the order of `segments_info`; a segment's id is its value in the PNG."""
        if not annotations:
            return {"segments": []}
        if len(annotations) > 1:
            raise ValueError(f"expected one annotation, got {len(annotations)}")
        annotation = annotations[0]
        return {
            "segments": self.mapped_segments(annotation["segments_info"]),
            "segment_map": self.segment_map(f"{self.map_folder}/{annotation['file_name']}", size),
        }

    def mapped_segments(self, segments_info: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One segment per entry."""
        return [
            {
                "map_values": [info["id"]],
                "category_id": info["category_id"],
                "is_crowd": bool(info.get("iscrowd", 0)),
                "annotation_id": info["id"],
            }
            for info in segments_info
        ]


@dataclass
class CocoSemanticConfig(CocoConfig):
    """`masks`: "panoptic": unite the segments of `panoptic_*`; "semseg": read `panoptic_semseg_*`, whose values are category positions."""

    masks: str = "panoptic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks not in MASKS:
            raise ValueError(f"{self.name}: unknown masks {self.masks!r}, expected one of {', '.join(MASKS)}")


class CocoSemantic(CocoPanoptic):
    """One mask per category, crowds included; the 133 categories of the panoptic annotations."""

    BUILDER_CONFIG_CLASS = CocoSemanticConfig
    task = "semantic"

    @property
    def map_folder(self) -> str:
        """Where the PNG files lie, below `data_dir`."""
        return f"panoptic_semseg_{self.config.split}2017" if self.config.masks == "semseg" else super().map_folder

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {category.id: position for position, category in enumerate(self.categories)}

    def mapped_segments(self, segments_info: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One segment per category, in the order of the categories."""
        values = defaultdict(list)
        for info in segments_info:
            if info["category_id"] not in self._positions:
                raise ValueError(f"segment {info['id']} has the unknown category id {info['category_id']!r}")
            values[info["category_id"]].append(info["id"])
        ids = sorted(values, key=self._positions.__getitem__)
        if self.config.masks == "semseg":
            values = {category_id: [self._positions[category_id]] for category_id in ids}
        return [{"map_values": values[category_id], "category_id": category_id, "is_crowd": False} for category_id in ids]
