"""Own data in COCO's format: instances or panoptic segments of any categories. See docs/own_data.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...structures import Task
from ..benchmarks.coco import CocoConfig, CocoInstance, CocoPanoptic, ImageRecord
from ..features import Category
from .config import DOCS_PAGE, OwnConfig, refuse_background


@dataclass
class OwnCocoConfig(OwnConfig, CocoConfig):
    """Where the files lie, below `data_dir`.

    Attributes:
        annotations: the JSON file.
        images: the folder that its `file_name`s start from; "." for `data_dir` itself.
        masks: the folder of the PNG files of panoptic annotations; None = the file holds instances.
    """

    annotations: str = "annotations/{split}.json"
    images: str = "images"
    masks: str | None = None


class OwnCoco(CocoPanoptic, CocoInstance):
    """As `CocoPanoptic` with the option `masks`, else as `CocoInstance`."""

    BUILDER_CONFIG_CLASS = OwnCocoConfig
    docs_page = DOCS_PAGE
    published = {}

    @property
    def task(self) -> Task:
        """By what the file holds."""
        return self._kind.task

    @property
    def file(self) -> str:
        """The annotation file, below `data_dir`."""
        return self.config.of_split(self.config.annotations)

    @property
    def image_folder(self) -> str:
        """Where the pictures lie, below `data_dir`."""
        return self.config.of_split(self.config.images)

    @property
    def map_folder(self) -> str:
        """Where the PNG files lie, below `data_dir`."""
        return self.config.of_split(self.config.masks)

    def read_categories(self) -> tuple[Category, ...]:
        """As in the file."""
        categories = super().read_categories()
        refuse_background(category.name for category in categories)
        return categories

    def records(self) -> list[ImageRecord]:
        """In the order of `images`.

        Raises:
            ValueError: an image id is listed twice, so that nobody knows which of the two an annotation means.
        """
        twice = [id for id, number in Counter(image.get("id") for image in self._content["images"]).items() if number > 1]
        if twice:
            raise ValueError(
                f"{self.title}: {self.file} lists image id {twice[0]!r} more than once, and {len(twice) - 1} other ids too; "
                f"give each image its own id, see the docs page {self.docs_page}"
            )
        return super().records()

    def is_empty(self, record: ImageRecord) -> bool:
        """Whether nothing but crowds is annotated."""
        return self._kind.is_empty(self, record)

    def segments(self, annotations: list[Mapping[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
        """The columns `segments` and, of panoptic annotations, `segment_map`."""
        return self._kind.segments(self, annotations, size)

    @property
    def _kind(self) -> type[CocoPanoptic] | type[CocoInstance]:
        return CocoInstance if self.config.masks is None else CocoPanoptic
