"""LVIS v1: objects of 1203 categories on the pictures of COCO. See docs/datasets/lvis.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..features import Category
from .coco import CocoConfig, CocoInstance, ImageRecord

NAMES = ("file", "readable")


@dataclass
class LvisConfig(CocoConfig):
    """Where the files lie, and how categories are called.

    Attributes:
        annotation_folder, image_folder: below `data_dir`; "." is `data_dir` itself. Pictures lie in `train2017` and `val2017` below
            the second.
        names: of categories: "file": as they are, `crab_(animal)`; "readable": with spaces, `crab (animal)`.
    """

    annotation_folder: str = "lvis"
    image_folder: str = "coco"
    names: str = "file"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.names not in NAMES:
            raise ValueError(f"{self.name}: unknown names {self.names!r}, expected one of {', '.join(NAMES)}")


class Lvis(CocoInstance):
    """One mask per object. What is known not to be in a picture, and what is not annotated exhaustively there, are tags of its row."""

    BUILDER_CONFIG_CLASS = LvisConfig
    docs_page = "LVIS v1"
    published = {}

    @property
    def file(self) -> str:
        """The annotation file, below `data_dir`."""
        return f"{self.config.annotation_folder}/lvis_v1_{self.config.split}.json"

    @property
    def image_folder(self) -> str:
        """Where the folders of pictures lie, below `data_dir`."""
        return self.config.image_folder

    def read_categories(self) -> tuple[Category, ...]:
        """In the order of the file, with its ids and frequencies. The explanations in brackets stay: they keep names apart."""
        frequencies = [entry.get("frequency") for entry in self._content["categories"]]
        pairs = zip(super().read_categories(), frequencies, strict=True)
        categories = tuple(replace(category, frequency=frequency) for category, frequency in pairs)
        if self.config.names == "file":
            return categories
        return tuple(replace(category, name=category.name.replace("_", " ")) for category in categories)

    def counts(self) -> dict[str, int]:
        """What the file lists."""
        return {"images": len(self._content["images"]), "annotations": len(self._content["annotations"])}

    def row(self, record: ImageRecord) -> dict[str, Any]:
        """As of COCO, with tags "neg:ID" of categories that are not in the picture and "not_exhaustive:ID" of those of which some objects
        may have no mask."""
        image, annotations = record
        if image is None:
            return super().row(record)
        # Images have no file name. The folder in the address counts: pictures of COCO's train2017 are in the val split of LVIS.
        path = "/".join(image["coco_url"].split("/")[-2:])
        row = super().row(ImageRecord({**image, "file_name": path}, annotations))
        row["tags"] = [f"neg:{id}" for id in image["neg_category_ids"]]
        row["tags"] += [f"not_exhaustive:{id}" for id in image["not_exhaustive_category_ids"]]
        return row
