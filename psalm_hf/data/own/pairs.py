"""Own data as pairs of image and label map: the value of a pixel is its category. See docs/own_data.md."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ...bounded_files import open_image_file
from ...structures import CATEGORY, Task
from ..features import Category, segment_entry
from ..files import BrokenRecordError, orientation_of
from ..segment_map import UNREADABLE, read_segment_map, rles_from_segment_map
from .config import OwnBuilder, OwnConfig, is_background, read_category_file, read_named_colours

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif")
_MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp")  # without loss
_LOSSY_ENDINGS = (".jpg", ".jpeg", ".webp")
_IGNORED = 255  # by default


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
        mask_suffix: what the name of a mask has behind that of its image, such as "_mask".
        categories: see `read_category_file`; the ids are the values of pixels. If it names colours, as CVAT's `labelmap.txt`, the colours
            of the pixels count, and "background" is ignored.
        ignore: value, or values, of pixels that belong to no segment; None = there are none.
        map_values: value of a pixel -> id of its category, for values that are not ids. {} says that all of them are, even where maps hold
            only 0 and 255.
        objects: folder of maps whose values are numbers of objects, 0 = none; the task is "instance" then. The category of an object is
            that of its pixels in `masks`, or the only one that there is.
    """

    images: str = "images"
    masks: str = "masks"
    mask_suffix: str = ""
    categories: str = "categories.txt"
    ignore: int | Sequence[int] | None = _IGNORED
    map_values: Mapping[int, int] | None = None
    objects: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(type(value) is int for value in self.ignored):
            raise ValueError(f"{self.name}: ignore must be a pixel value, a list of them or None, got {self.ignore!r}")
        pairs = self.map_values.items() if isinstance(self.map_values, Mapping) else [(self.map_values, None)]
        if self.map_values is not None and not all(type(value) is int for pair in pairs for value in pair):
            raise ValueError(
                f"{self.name}: map_values gives the id of a category for values of pixels, such as {{255: 1}}, got {self.map_values!r}"
            )

    @property
    def ignored(self) -> list[int]:
        """Values of `ignore`, as a list."""
        return [] if self.ignore is None else [self.ignore] if isinstance(self.ignore, (int, str)) else list(self.ignore)


class OwnPairs(OwnBuilder):
    """Own data as pairs, with one segment per category of an image."""

    BUILDER_CONFIG_CLASS = OwnPairsConfig
    summary = "own data: pairs of image and label map"

    @property
    def task(self) -> Task:
        """The task of the maps."""
        return "semantic" if self.config.objects is None else "instance"

    @property
    def image_folder(self) -> str:
        """Folder of the images, below `data_dir`."""
        return self.config.of_split(self.config.images)

    @property
    def mask_folder(self) -> str:
        """Folder of the label maps, below `data_dir`; of the maps of objects, if there is one category alone."""
        return self.config.of_split(self.config.objects if self._has_objects_alone else self.config.masks)

    @property
    def _has_objects_alone(self) -> bool:
        return self.config.objects is not None and len(self.categories) == 1

    def annotation_files(self) -> list[str]:
        """The names, both folders, whose time changes with their files, and every label map, because rows hold its values."""
        folders = list(dict.fromkeys(map(self.config.of_split, filter(None, (self.config.masks, self.config.objects)))))
        if len(folders) > 1 and not os.path.isdir(self.path(folders[0])):
            folders = folders[1:]  # the objects are of one category; if not, the absent folder is named with the categories
        maps = [f"{folder}/{name}" for folder in folders for name in self._names(folder, _MASK_ENDINGS)]
        inner = [path for folder in (self.image_folder, *folders) for path in self.tree(folder, (), self._others(folder)).folders]
        return list(dict.fromkeys([self.config.categories, self.image_folder, *folders, *inner, *maps]))

    def read_categories(self) -> tuple[Category, ...]:
        return read_category_file(self, self.config.categories, self.config.ignored)

    def records(self) -> list[Pair]:
        """Pairs in the order of their stems."""
        suffix = self.config.mask_suffix
        masks = self._by_stem(self.mask_folder, _MASK_ENDINGS)
        images = self._by_stem(self.image_folder, _IMAGE_ENDINGS)
        if suffix:
            masks = {stem.removesuffix(suffix): names for stem, names in masks.items() if stem.endswith(suffix)}
            images = {stem: names for stem, names in images.items() if not (stem.endswith(suffix) and self._is_shared)}
        if not images and not masks:
            absent = f"no images in {self.image_folder} and no masks in {self.mask_folder} of {self.config.data_dir}"
            raise ValueError(self.message(f"{absent}; folders of splits are given as images='images/{{split}}'"))
        return [Pair(stem, images.get(stem, []), masks.get(stem, [])) for stem in sorted(images.keys() | masks.keys())]

    def image_of(self, record: Pair) -> str:
        return f"{self.image_folder}/{(record.images or record.masks)[0]}"

    def describe(self, record: Pair) -> str:
        return f"{self.mask_folder}/{record.masks[0]}" if record.masks else f"{self.image_folder}/{record.images[0]}"

    def row(self, record: Pair) -> dict[str, Any]:
        """Row with one segment per category, in the order of the values; or one per object."""
        if not record.masks:
            raise ValueError(
                f"the image has no mask {self.mask_folder}/{record.stem}{self.config.mask_suffix}.png{self._near(record.stem)}"
            )
        if not record.images:
            first, *others = _IMAGE_ENDINGS
            raise ValueError(f"the mask has no image {self.image_folder}/{record.stem}{first} (or {', '.join(others)})")
        for names in (record.images, record.masks):
            if len(names) > 1:
                raise ValueError(f"{' and '.join(names)} have the same stem")
        image = self.image(f"{self.image_folder}/{record.images[0]}")
        path, size = self.path(f"{self.mask_folder}/{record.masks[0]}"), tuple(image["image_size"])
        row = {**image, "image_id": record.stem, "condition": CATEGORY}
        if self._has_objects_alone:
            numbers = self._read_map(path, size)
            found = [value for value in np.unique(numbers).tolist() if value != 0]
            (category,) = self.categories
            return row | {"segments": [segment_entry(category_id=category.id, map_values=[value]) for value in found], "segment_map": path}
        labels = self._read_map(path, size)
        values = self._category_values(path, np.unique(labels).tolist())
        if self.config.objects is not None:
            return row | {"segments": list(self._object_segments(record, labels, values))}
        segments = [segment_entry(category_id=category_id, map_values=found) for category_id, found in values.items()]
        return row | {"segments": segments, "segment_map": path}

    def _read_map(self, path: str, image_size: tuple[int, int]) -> np.ndarray:
        labels = read_segment_map(path)
        if self.config.orientation == "turned":
            with open_image_file(path) as opened:
                if orientation_of(opened) not in (None, 1):
                    raise ValueError(
                        "the mask has an EXIF orientation of its own, so that nobody knows whether its pixels are turned; save it upright "
                        "and without EXIF"
                    )
        if labels.shape != image_size:
            raise ValueError(f"the mask is {labels.shape[0]} x {labels.shape[1]}, its image {image_size[0]} x {image_size[1]}")
        return labels

    def _category_values(self, path: str, values: Sequence[int]) -> dict[int, list[int]]:
        """Category id -> its values in a label map, in the order of the values, without those that are ignored."""
        if self._colours:
            return self._values_of_colours(path, values)
        with open_image_file(path) as opened:
            if opened.mode in ("RGB", "RGBA"):
                raise ValueError(
                    "a label map is grey or has a palette, but this one has colours; save the numbers of the categories, or give a file "
                    "with the colours as categories, such as the labelmap.txt of CVAT"
                )
        mapped = self.config.map_values or {}
        if set(values) <= {0, 255} and 255 in values and 255 in self.config.ignored and self.config.map_values is None:
            self._refuse_binary(path)
        category_ids = {value: mapped.get(value, value) for value in values if value in mapped or value not in self.config.ignored}
        unknown = [str(value) for value, category_id in category_ids.items() if category_id not in self._known]
        if unknown:
            raise ValueError(
                f"{self.config.categories} has no category for pixels of value {', '.join(unknown[:10])}{' ...' * (len(unknown) > 10)}; "
                f"add it, or ignore the value with 'ignore={[*self.config.ignored, int(unknown[0])]}'"
            )
        return _grouped(category_ids)

    def _refuse_binary(self, path: str) -> None:
        """Stops the loading, whatever is done with broken records: if 255 is the object, its maps without it would teach the opposite."""
        category = min(self._known)
        raise BrokenRecordError(
            self.message(
                f"the map {path} holds only 0 and 255, and 255 is ignored, so that 0 would be the object; if 255 is the object, give "
                f"'map_values={{255: {category}}}' and ignore=0; if 255 is rightly ignored, give 'map_values={{}}'"
            )
        )

    def _values_of_colours(self, path: str, values: Sequence[int]) -> dict[int, list[int]]:
        """As `_category_values`, by the colours of the pixels, which a palette gives to its indices."""
        try:
            with open_image_file(path) as opened:
                mode, palette = opened.mode, opened.getpalette("RGB")
        except UNREADABLE as error:
            raise ValueError(f"the mask cannot be read ({error})") from error
        category_ids = {}
        for value in values:
            if mode in ("RGB", "RGBA"):
                colour = value & 255, value >> 8 & 255, value >> 16
            elif mode == "P":
                colour = tuple(palette[3 * value : 3 * value + 3])
            else:
                colour = (value,) * 3
            if colour not in self._colours:
                raise ValueError(f"{self.config.categories} has no category of the colour {','.join(map(str, colour))}; add it there")
            category_id = self._colours[colour]
            if category_id is not None:
                category_ids[value] = category_id
        return _grouped(category_ids)

    def _object_segments(self, record: Pair, labels: np.ndarray, values: Mapping[int, list[int]]) -> Iterator[dict[str, Any]]:
        """Segments of the objects of an image, each with the category that its pixels have in the label map."""
        folder = self.config.of_split(self.config.objects)
        names = self._by_stem(folder, _MASK_ENDINGS).get(record.stem + self.config.mask_suffix, [])
        if len(names) != 1:
            raise ValueError(f"expected one map of objects {folder}/{record.stem}{self.config.mask_suffix}.png, got {len(names)}")
        numbers = self._read_map(self.path(f"{folder}/{names[0]}"), labels.shape)
        of_value = {value: category_id for category_id, found in values.items() for value in found}
        numbers = np.where(np.isin(labels, list(of_value)), numbers, 0)
        found = [number for number in np.unique(numbers).tolist() if number != 0]
        for number, rle in zip(found, rles_from_segment_map(numbers, [[number] for number in found]), strict=True):
            (first, *others) = sorted({of_value[value] for value in np.unique(labels[numbers == number]).tolist()})
            if others:
                raise ValueError(
                    f"the object {number} of {folder}/{names[0]} has pixels of the categories {first} and {others[0]} in its mask"
                )
            yield segment_entry(rle, first)

    def _near(self, stem: str) -> str:
        """Remark about a file that looks like the missing mask of an image; "" if there is none."""
        names = self._names(self.mask_folder, (*_MASK_ENDINGS, *_LOSSY_ENDINGS)) if not self._is_shared else []
        for name in (name for name in names if name.startswith(stem)):
            if name.lower().endswith(_LOSSY_ENDINGS):
                return f"; {name} has lost values to its compression: save masks as PNG"
            suffix = name.rpartition(".")[0].removeprefix(stem)
            if suffix and not suffix[0].isalnum():
                return f"; if {name} is its mask, give mask_suffix={suffix!r}"
        return ""

    @property
    def _is_shared(self) -> bool:
        """True if images and masks lie in one folder."""
        return self.image_folder == self.mask_folder

    @cached_property
    def _colours(self) -> dict[tuple[int, int, int], int | None]:
        """Colour -> category id, None for the background; {} if the file of the categories names no colours."""
        if self.config.categories.endswith(".json"):
            return {}
        colours = read_named_colours(self, self.config.categories)
        return {entry.colour: None if is_background(entry.name) else number for number, entry in enumerate(colours)}

    @cached_property
    def _known(self) -> set[int]:
        return {category.id for category in self.categories}

    def _names(self, folder: str, endings: tuple[str, ...]) -> list[str]:
        """Paths, below a folder, of the files with some endings; [] if there is no such folder, which is an error of its own."""
        return self.tree(folder, endings, self._others(folder)).files

    def _others(self, folder: str) -> set[str]:
        """Folders of the other files, which may lie in this one."""
        options = (self.config.images, self.config.masks, self.config.objects)
        return {posixpath.normpath(self.config.of_split(option)) for option in options if option is not None} - {posixpath.normpath(folder)}

    def _by_stem(self, folder: str, endings: tuple[str, ...]) -> dict[str, list[str]]:
        def read() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            for name in self._names(folder, endings):
                found.setdefault(name.rpartition(".")[0], []).append(name)
            return found

        return self._once(f"{endings} of {folder}", read)


def _grouped(category_ids: Mapping[int, int]) -> dict[int, list[int]]:
    """Value -> category id, the other way round."""
    grouped: dict[int, list[int]] = {}
    for value, category_id in category_ids.items():
        grouped.setdefault(category_id, []).append(value)
    return grouped
