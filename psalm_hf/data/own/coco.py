"""Own data in COCO's format: instances or panoptic segments of any categories. See docs/own_data.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...structures import Task
from ..benchmarks.coco import CocoInstance, CocoPanoptic, ImageRecord
from ..features import Category
from ..files import KeepEmptyConfig
from .config import OwnBuilder, OwnConfig, refuse_background


@dataclass
class OwnCocoConfig(OwnConfig, KeepEmptyConfig):
    """Files, below `data_dir`.

    Attributes:
        annotations: the JSON file.
        images: the folder in which its `file_name`s are; "." for `data_dir` itself.
        masks: the folder of the PNG files of panoptic annotations; None = the file holds instances.
    """

    annotations: str = "annotations/{split}.json"
    images: str = "images"
    masks: str | None = None


class OwnCoco(OwnBuilder, CocoPanoptic, CocoInstance):
    """Own data in COCO's format: with the option `masks` as `CocoPanoptic`, else as `CocoInstance`."""

    BUILDER_CONFIG_CLASS = OwnCocoConfig
    summary = "own data: instances or panoptic segments in COCO's format"
    published = {}

    @property
    def task(self) -> Task:
        """The task of the annotations."""
        return self._kind.task

    @property
    def file(self) -> str:
        return self.config.of_split(self.config.annotations)

    @property
    def image_folder(self) -> str:
        return self.config.of_split(self.config.images)

    @property
    def map_folder(self) -> str:
        return self.config.of_split(self.config.masks)

    def read_categories(self) -> tuple[Category, ...]:
        categories = super().read_categories()
        refuse_background(category.name for category in categories)
        return categories

    def records(self) -> list[ImageRecord]:
        """Images in the order of the file.

        Raises:
            ValueError: an image id is listed twice, so that nobody knows which of the two an annotation means.
        """
        twice = [id for id, number in Counter(image.get("id") for image in self._content["images"]).items() if number > 1]
        if twice:
            found = f"{self.file} lists image id {twice[0]!r} more than once, and {len(twice) - 1} other ids too"
            raise ValueError(self.message(f"{found}; give each image its own id"))
        return super().records()

    def image_of(self, record: ImageRecord) -> str:
        return f"{self.image_folder}/{record.image['file_name']}"

    def is_empty(self, record: ImageRecord) -> bool:
        return self._kind.is_empty(self, record)

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        return self._kind.segments(self, annotations, size)

    @property
    def _kind(self) -> type[CocoPanoptic] | type[CocoInstance]:
        return CocoInstance if self.config.masks is None else CocoPanoptic
