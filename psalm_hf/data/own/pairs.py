"""Own data as pairs of image and label map: the value of a pixel is its category. See docs/own_data.md."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...structures import CATEGORY
from ..features import Category, segment_entry
from ..segment_map import read_segment_map
from .config import OwnBuilder, OwnConfig, read_category_file

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp")  # without loss


class Pair(NamedTuple):
    """Names of the files with one stem: one image and one mask, unless something is wrong."""

    stem: str
    images: list[str]
    masks: list[str]


@dataclass
class OwnPairsConfig(OwnConfig):
    """Files, below `data_dir`, and values without a category.

    Attributes:
        images, masks: folders.
        categories: see `read_category_file`; the ids are the values of pixels.
        ignore: value, or values, of pixels that belong to no segment; None = there are none.
    """

    images: str = "images"
    masks: str = "masks"
    categories: str = "categories.txt"
    ignore: int | Sequence[int] | None = 255

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(type(value) is int for value in self.ignored):
            raise ValueError(f"{self.name}: ignore must be a pixel value, a list of them or None, got {self.ignore!r}")

    @property
    def ignored(self) -> list[int]:
        """Values of `ignore`, as a list."""
        return [] if self.ignore is None else [self.ignore] if isinstance(self.ignore, (int, str)) else list(self.ignore)


class OwnPairs(OwnBuilder):
    """Own data as pairs, with one segment per category of an image."""

    BUILDER_CONFIG_CLASS = OwnPairsConfig
    summary = "own data: pairs of image and label map"
    task = "semantic"

    @property
    def image_folder(self) -> str:
        """Folder of the images, below `data_dir`."""
        return self.config.of_split(self.config.images)

    @property
    def mask_folder(self) -> str:
        """Folder of the label maps, below `data_dir`."""
        return self.config.of_split(self.config.masks)

    def annotation_files(self) -> list[str]:
        """The names, both folders, whose time changes with their files, and every label map, because rows hold its values."""
        maps = [f"{self.mask_folder}/{name}" for name in self._names(self.mask_folder, _MASK_ENDINGS)]
        return [self.config.categories, self.image_folder, self.mask_folder, *maps]

    def read_categories(self) -> tuple[Category, ...]:
        return read_category_file(self, self.config.categories)

    def records(self) -> list[Pair]:
        """Pairs in the order of their stems."""
        images, masks = self._by_stem(self.image_folder, _IMAGE_ENDINGS), self._by_stem(self.mask_folder, _MASK_ENDINGS)
        if not images and not masks:
            absent = f"no images in {self.image_folder} and no masks in {self.mask_folder} of {self.config.data_dir}"
            raise ValueError(self.message(f"{absent}; folders of splits are given as images='images/{{split}}'"))
        return [Pair(stem, images.get(stem, []), masks.get(stem, [])) for stem in sorted(images.keys() | masks.keys())]

    def image_of(self, record: Pair) -> str:
        return f"{self.image_folder}/{(record.images or record.masks)[0]}"

    def describe(self, record: Pair) -> str:
        return f"{self.mask_folder}/{record.masks[0]}" if record.masks else f"{self.image_folder}/{record.images[0]}"

    def row(self, record: Pair) -> dict[str, Any]:
        """Row with one segment per value that is not ignored, in ascending order."""
        if not record.masks:
            raise ValueError(f"the image has no mask {self.mask_folder}/{record.stem}.png")
        if not record.images:
            first, *others = _IMAGE_ENDINGS
            raise ValueError(f"the mask has no image {self.image_folder}/{record.stem}{first} (or {', '.join(others)})")
        for names in (record.images, record.masks):
            if len(names) > 1:
                raise ValueError(f"{' and '.join(names)} have the same stem")
        image = self.image(f"{self.image_folder}/{record.images[0]}")
        path = self.path(f"{self.mask_folder}/{record.masks[0]}")
        values = self._values(path, tuple(image["image_size"]))
        return {
            **image,
            "image_id": record.stem,
            "condition": CATEGORY,
            "segments": [segment_entry(category_id=value, map_values=[value]) for value in values],
            "segment_map": path,
        }

    def _values(self, path: str, image_size: tuple[int, int]) -> list[int]:
        """Values of a label map that are not ignored."""
        labels = read_segment_map(path)
        with Image.open(path) as opened:
            if opened.mode in ("RGB", "RGBA"):
                raise ValueError("a label map is grey or has a palette, but this one has colours; save the numbers of the categories")
        if labels.shape != image_size:
            raise ValueError(f"the mask is {labels.shape[0]} x {labels.shape[1]}, its image {image_size[0]} x {image_size[1]}")
        values = [value for value in np.unique(labels).tolist() if value not in self.config.ignored]
        unknown = [str(value) for value in values if value not in self._known]
        if unknown:
            raise ValueError(
                f"{self.config.categories} has no category for pixels of value {', '.join(unknown[:10])}{' ...' * (len(unknown) > 10)}; "
                f"add it, or ignore the value with ignore={[*self.config.ignored, int(unknown[0])]}"
            )
        return values

    @cached_property
    def _known(self) -> set[int]:
        return {category.id for category in self.categories}

    def _names(self, folder: str, endings: tuple[str, ...]) -> list[str]:
        """Names of the files of a folder with some endings; [] if there is no such folder, which is an error of its own."""
        path = self.path(folder)
        if not os.path.isdir(path):
            return []
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries]
        return sorted(name for name in names if name.lower().endswith(endings) and not name.startswith("."))

    def _by_stem(self, folder: str, endings: tuple[str, ...]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self._names(folder, endings):
            found.setdefault(name.rpartition(".")[0], []).append(name)
        return found
