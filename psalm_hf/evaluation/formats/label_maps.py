"""Semantic segmentation, as one label map per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...data.benchmarks.label_maps import present_values
from ...data.features import Category, SampleDataset
from ...data.segment_map import read_segment_map, rles_from_segment_map
from ...metrics import label_map
from ...metrics.base import errors_of
from ...structures import Sample
from .images import check_map_size, file_stem, files_of_images, image_rows


class LabelMaps:
    """A grey PNG or TIFF file per image, of 8 bits, or of 16 where there is a label above 255.

    Args:
        labels: category id -> value of its pixels.
        void: of pixels without a category.
        file_name: "{id}" stands for the image id, where "%2F" stands for "/"; "{id:0>12}" fills it up to 12 digits. A "*" before the end
            is left out of written names, and stands for anything in those that are read. The end is ".png" or ".tif".

    Raises:
        ValueError: void is a label, or two categories have the same.
    """

    def __init__(self, labels: Mapping[int, int], *, void: int, file_name: str = "{id}.png"):
        self.categories = {label: category_id for category_id, label in labels.items()}
        if len(self.categories) < len(labels) or void in self.categories:
            raise ValueError(f"label maps: {len(labels)} categories and void ({void}) need different labels, got {dict(labels)!r:.120}")
        self.labels, self.void = dict(labels), void
        name = Path(file_name)
        self.start, self.end, self.is_free = name.stem.removesuffix("*"), name.suffix, name.stem.endswith("*")
        self.type = np.uint8 if max(*labels.values(), void) < 256 else np.uint16

    @classmethod
    def of_positions(cls, categories: Sequence[Category], *, file_name: str = "{id}.png") -> LabelMaps:
        """Labels are the positions of the categories, 0 first; void is 255, or 65535 of more than 255 categories."""
        labels = {category.id: position for position, category in enumerate(categories)}
        return cls(labels, void=255 if len(labels) <= 255 else 65535, file_name=file_name)

    @classmethod
    def of_cityscapes(cls, categories: Sequence[Category]) -> LabelMaps:
        """Labels are the ids 7 road ... 33 bicycle, 0 is "unlabeled". The script takes any name that begins with CITY_SEQUENCE_FRAME."""
        return cls({category.id: category.id for category in categories}, void=0, file_name="{id}*.png")

    def write(self, folder: Path, predictions: Iterable[tuple[Sample, Any]]) -> None:
        """Image by image.

        Raises:
            ValueError: masks of an image overlap, or are of another size.
        """
        for sample, prediction in predictions:
            segments = prediction["segments"]
            values = [self.labels[segment["category_id"]] for segment in segments]
            with errors_of(f"image {sample.image_id}"):
                painted = label_map([segment["mask"] for segment in segments], values, sample.image_size, fill=self.void)
            Image.fromarray(painted.astype(self.type)).save(folder / (self._start(str(sample.image_id)) + self.end))

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> prediction, categories in the order of the labels.

        Args:
            path: the folder; maps may lie in folders below it.

        Raises:
            ValueError: an image with no map, or with several; a map of no image, of another size, or with a value that is no label.
        """
        rows = image_rows(dataset)
        files = files_of_images(path, {self._start(image_id): image_id for image_id in rows}, self.end, is_free=self.is_free)
        return {image.row: {"segments": self._segments(files[image_id], image.size)} for image_id, image in rows.items()}

    def _start(self, image_id: str) -> str:
        return self.start.format(id=file_stem(image_id))

    def _segments(self, file: Path, size: tuple[int, int]) -> list[dict[str, Any]]:
        labels = read_segment_map(file)
        check_map_size(labels.shape, size, str(file))
        values = present_values(labels)
        if unknown := [value for value in values if value != self.void and value not in self.categories]:
            raise ValueError(
                f"{file}: values {unknown[:10]} are no labels; expected those of {len(self.labels)} categories, or {self.void}"
            )
        values = [value for value in values if value != self.void]
        masks = rles_from_segment_map(labels, [[value] for value in values])
        return [{"category_id": self.categories[value], "mask": mask} for value, mask in zip(values, masks, strict=True)]
