"""LVIS v1: objects of 1203 categories on the images of COCO. See docs/datasets/lvis.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ..features import Category
from ..files import KeepEmptyConfig
from .coco import CocoInstance, ImageRecord


@dataclass
class LvisConfig(KeepEmptyConfig):
    """Folders of the files, and names of the categories.

    Attributes:
        annotation_folder, image_folder: below `data_dir`; "." is `data_dir` itself. The images are in `train2017` and `val2017` below
            `image_folder`.
        names: of categories: "file": as they are, `crab_(animal)`; "readable": with spaces, `crab (animal)`.
    """

    annotation_folder: str = "lvis"
    image_folder: str = "coco"
    names: Literal["file", "readable"] = "file"


class Lvis(CocoInstance):
    """LVIS with one mask per object. Tags of an image: categories that are not in it, and those that are not annotated exhaustively."""

    summary = "LVIS v1: objects of 1203 categories on the images of COCO"
    BUILDER_CONFIG_CLASS = LvisConfig
    docs_page = "LVIS v1"
    published = {}

    @property
    def file(self) -> str:
        """The annotation file, below `data_dir`."""
        return f"{self.config.annotation_folder}/lvis_v1_{self.config.split}.json"

    @property
    def image_folder(self) -> str:
        return self.config.image_folder

    def read_categories(self) -> tuple[Category, ...]:
        """Categories in the order of the file. The explanations in brackets stay: they keep names apart."""
        frequencies = [entry.get("frequency") for entry in self._content["categories"]]
        pairs = zip(super().read_categories(), frequencies, strict=True)
        categories = tuple(replace(category, frequency=frequency) for category, frequency in pairs)
        if self.config.names == "file":
            return categories
        return tuple(replace(category, name=category.name.replace("_", " ")) for category in categories)

    def counts(self) -> dict[str, int]:
        return {"images": len(self._content["images"]), "annotations": len(self._content["annotations"])}

    def row(self, record: ImageRecord) -> dict[str, Any]:
        """Row as of COCO, with tags "neg:ID" for categories that are not in the image, and "not_exhaustive:ID" for those of which some
        objects may have no mask."""
        image, annotations = record
        if image is None:
            return super().row(record)
        # Images have no file name. The folder in the address counts: images of COCO's train2017 are in the val split of LVIS.
        path = "/".join(image["coco_url"].split("/")[-2:])
        row = super().row(ImageRecord({**image, "file_name": path}, annotations))
        row["tags"] = [f"neg:{id}" for id in image["neg_category_ids"]]
        row["tags"] += [f"not_exhaustive:{id}" for id in image["not_exhaustive_category_ids"]]
        return row
