"""COCO 2017: panoptic, instance and semantic segmentation. See docs/datasets/coco.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

from ...structures import CATEGORY
from ..features import Category, segment_entry
from ..files import FileBuilder, KeepEmptyConfig, mask


class ImageRecord(NamedTuple):
    """Entry of `images` and its annotations. `image` is None for annotations of an image that is not listed, which makes them a broken
    record."""

    image: Mapping[str, Any] | None
    annotations: list[Mapping[str, Any]]


class CocoBuilder(FileBuilder):
    """Base of the three: one JSON file per split lists images, annotations and categories.

    Attributes:
        content: of the file: "panoptic" or "instances".
    """

    BUILDER_CONFIG_CLASS = KeepEmptyConfig
    docs_page = "COCO 2017"
    published = {"train": {"images": 118_287}, "val": {"images": 5_000}}
    content: ClassVar[str]

    @property
    def file(self) -> str:
        """The annotation file, below `data_dir`."""
        return f"annotations/{self.content}_{self.config.split}2017.json"

    @property
    def image_folder(self) -> str:
        """Folder of the images, below `data_dir`."""
        return f"{self.config.split}2017"

    def read_categories(self) -> tuple[Category, ...]:
        """Categories in the order of the file, with its ids and names. (All of an instance file are things; it does not say so.)"""
        entries = self._content["categories"]
        return tuple(Category(entry["id"], entry["name"], is_thing=bool(entry.get("isthing", 1))) for entry in entries)

    def records(self) -> list[ImageRecord]:
        """Images in the order of the file; at the end, annotations of images that are not listed."""
        records = image_records(self._content["images"], self._content["annotations"])
        if self.config.keeps_empty:
            return records
        return [record for record in records if record.image is None or not self.is_empty(record)]

    def is_empty(self, record: ImageRecord) -> bool:
        """True if nothing but crowds is annotated."""
        return all(annotation.get("iscrowd") for annotation in record.annotations)

    def counts(self) -> dict[str, int]:
        """Number of images in the file, empty ones too."""
        return {"images": len(self._content["images"])}

    def describe(self, record: ImageRecord) -> str:
        return image_name(self.file, record)

    def row(self, record: ImageRecord) -> dict[str, Any]:
        image, annotations = record
        if image is None:
            raise ValueError(f"{len(annotations)} annotations are of this image, but `images` does not list it")
        size = image["height"], image["width"]
        return {
            **self.image(f"{self.image_folder}/{image['file_name']}", size),
            "image_id": str(image["id"]),
            "condition": CATEGORY,
            **self.segments(annotations, size),
        }

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        """Column `segments` of an image of `size` (height, width), and `segment_map` if the masks are in a map."""
        raise NotImplementedError

    @property
    def _content(self) -> Mapping[str, Any]:
        return self.json(self.file, keys=("images", "annotations", "categories"))


def image_records(images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]) -> list[ImageRecord]:
    """Records of images, in their order; at the end, annotations of images that are not listed."""
    of_image = defaultdict(list)
    for annotation in annotations:
        of_image[annotation.get("image_id")].append(annotation)
    records = [ImageRecord(image, of_image.pop(image.get("id"), [])) for image in images]
    return records + [ImageRecord(None, orphans) for orphans in of_image.values()]


def image_name(file: str, record: ImageRecord) -> str:
    """Name of a record in messages: the file and the image id."""
    return f"{file}, image {record.annotations[0]['image_id'] if record.image is None else record.image['id']}"


def instance_segment(
    annotation: Mapping[str, Any], size: tuple[int, int], read_mask: Callable[[Any, tuple[int, int]], dict] = mask
) -> dict[str, Any]:
    """Segment of a row, from an annotation of an instance file.

    Args:
        size: (height, width) of the image.
        read_mask: as `files.mask`.

    Raises:
        ValueError: the mask is broken or has another size; the message names the annotation.
    """
    try:
        rle = read_mask(annotation["segmentation"], size)
    except ValueError as error:
        raise ValueError(f"annotation {annotation.get('id')}: {error}") from error
    facts = {"is_crowd": bool(annotation.get("iscrowd", 0)), "annotation_id": annotation.get("id"), "area": annotation.get("area")}
    return segment_entry(rle, annotation["category_id"], **facts)


class CocoInstance(CocoBuilder):
    """COCO with one mask per object, from polygons and RLEs."""

    summary = "COCO 2017: objects of 80 categories"
    task = "instance"
    content = "instances"

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        return {"segments": [instance_segment(annotation, size) for annotation in annotations]}


class CocoPanoptic(CocoBuilder):
    """COCO with things and stuff that do not overlap, from one PNG per image."""

    summary = "COCO 2017: 80 things and 53 kinds of stuff that cover the image"
    content = "panoptic"

    @property
    def map_folder(self) -> str:
        """Folder of the PNG files, below `data_dir`."""
        return f"panoptic_{self.config.split}2017"

    def is_empty(self, record: ImageRecord) -> bool:
        return all(info.get("iscrowd") for annotation in record.annotations for info in annotation.get("segments_info", [{}]))

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        """Segments in the order of `segments_info`; the id of a segment is its value in the PNG."""
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
        """One segment for each entry of `segments_info`."""
        return [
            segment_entry(
                category_id=info["category_id"], map_values=[info["id"]], is_crowd=bool(info.get("iscrowd", 0)), annotation_id=info["id"]
            )
            for info in segments_info
        ]


@dataclass
class CocoSemanticConfig(KeepEmptyConfig):
    """`masks`: "panoptic": unite the segments of `panoptic_*`; "semseg": read `panoptic_semseg_*`, whose values are category positions."""

    masks: Literal["panoptic", "semseg"] = "panoptic"


class CocoSemantic(CocoPanoptic):
    """COCO with one mask per category, crowds included."""

    summary = "COCO 2017: one mask for each of the 133 panoptic categories"
    BUILDER_CONFIG_CLASS = CocoSemanticConfig
    task = "semantic"

    @property
    def map_folder(self) -> str:
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
        return [segment_entry(category_id=category_id, map_values=values[category_id]) for category_id in ids]
