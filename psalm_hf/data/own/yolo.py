"""Own data in the layout of YOLO: a text file of outlines for each image. See docs/own_data.md."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ...checked_yaml import read_yaml
from ...structures import CATEGORY
from ..features import Category, segment_entry
from ..files import INT64, KeepEmptyConfig, is_name, mask, read_text, shown
from .config import OwnTaskBuilder, OwnTaskConfig, check_categories, read_category_file
from .shapes import check_seen

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Names of one split: Roboflow has a folder `valid` for what its `data.yaml` calls `val`.
_VALIDATION = ("val", "valid", "validation")
_MARGIN = 0.01  # share of the image that a corner may lie outside, as in Ultralytics


class Outlines(NamedTuple):
    """Paths of the images that belong to a text file, of which there should be one; and of that file, which need not exist."""

    images: list[str]
    labels: str
    exists: bool


@dataclass
class OwnYoloConfig(OwnTaskConfig, KeepEmptyConfig):
    """Files, below `data_dir`. Without `categories` the names are those in `data`.

    Attributes:
        data: YAML file with `names`, and with the folders of the splits.
        images: folder of the images; None = the one that `data` has for the split, or else `images/{split}` or `{split}/images`. The text
            files are in a folder that is called `labels` instead of `images`; if no folder is called so, beside the images.
    """

    data: str = "data.yaml"
    images: str | None = None

    @property
    def selects_by_split(self) -> bool:
        """True if splits have folders of their own: those in `data`, or an `images` that contains `{split}`."""
        return self.images is None or "{split}" in self.images


class OwnYolo(OwnTaskBuilder):
    """Own data of YOLO: one row per image, one segment per line of its text file."""

    BUILDER_CONFIG_CLASS = OwnYoloConfig
    summary = "own data: outlines in the layout of YOLO"

    def annotation_files(self) -> list[str]:
        """The file of names, the folders, whose times change with what is in them, and the text files."""
        names = self.config.data if self.config.categories is None else self.config.categories
        if not os.path.isfile(self.path(names)):  # reported by its name
            return [names]
        records = self._listed()
        files = [record.labels for record in records if record.exists]
        folders = {posixpath.dirname(file) for record in records for file in record.images} | {posixpath.dirname(file) for file in files}
        return [names, *self._folders(), *sorted(folders), *files]

    def read_categories(self) -> tuple[Category, ...]:
        """Categories of their file, or the names in `data`."""
        if self.config.categories is not None:
            return read_category_file(self, self.config.categories)
        try:
            names = _numbered_names(self._data.get("names"))
            number = self._data.get("nc", len(names))
            if number != len(names):
                raise ValueError(f"names has {len(names)} categories, but nc says {shown(number)}")
            categories = tuple(Category(number, names[number]) for number in sorted(names))
            check_categories(categories)
        except ValueError as error:
            raise ValueError(self.message(f"{self.config.data}: {error}")) from error
        return categories

    def records(self) -> list[Outlines]:
        """Images in the order of their paths; at the end, text files without an image."""
        records = self._listed()
        if not records:
            raise ValueError(self.message(f"no images in {' or '.join(self._folders())} of {self.config.data_dir}"))
        return records if self.config.keeps_empty else [record for record in records if not self._is_empty(record)]

    def image_of(self, record: Outlines) -> str:
        return record.images[0] if record.images else record.labels

    def describe(self, record: Outlines) -> str:
        return record.labels if record.exists else record.images[0]

    def row(self, record: Outlines) -> dict[str, Any]:
        """Row of all lines about an image. An image without a text file has no objects."""
        if not record.images:
            raise ValueError("there is no image of this name; add it, or remove the file")
        if len(record.images) > 1:
            raise ValueError(f"{' and '.join(record.images)} have the same text file; give each image its own name")
        image = self.image(record.images[0], drawn_on_turned="YOLO")
        image_size = tuple(image["image_size"])
        objects = self.objects(
            self.lines(record.labels) if record.exists else [],
            lambda _, numbered_line: self._segment(*numbered_line, image_size),
        )
        return {**image, "image_id": record.images[0], "condition": CATEGORY, **objects}

    def _segment(self, number: int, line: str, image_size: tuple[int, int]) -> dict[str, Any]:
        """Segment of a line: the number of its category, and x, y of each corner as shares of width and height."""
        height, width = image_size
        try:
            category, corners = _outline(line)
            if category not in self._known:
                source = self.config.categories or self.config.data
                raise ValueError(f"the category {category} is not in {source}, which has {', '.join(map(str, sorted(self._known)[:20]))}")
            rle = mask([[value * (height if index % 2 else width) for index, value in enumerate(corners)]], image_size)
            check_seen(rle)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        return segment_entry(rle, category)

    def _is_empty(self, record: Outlines) -> bool:
        try:
            return bool(record.images) and not (record.exists and self.lines(record.labels))
        except ValueError:  # reported with its record
            return False

    @cached_property
    def _known(self) -> set[int]:
        return {category.id for category in self.categories}

    @cached_property
    def _data(self) -> Mapping[str, Any]:
        """Content of `data`; empty if there is no such file."""
        name = self.config.data
        if not os.path.exists(self.path(name)):
            return {}
        try:
            content = read_yaml(read_text(self.path(name), name), name)
        except ValueError as error:
            raise ValueError(self.message(f"{error}; {self.repair}")) from error
        if not isinstance(content, Mapping):
            raise ValueError(self.message(f"{name}: expected keys such as names and train, got {shown(content)}"))
        return content

    def _listed(self) -> list[Outlines]:
        """All images, and the text files without one."""
        images_of: dict[str, list[str]] = defaultdict(list)
        for image in sorted({image for place in self._folders() for image in self._images(place)}):
            images_of[_label_file(image)].append(image)
        folders = sorted({posixpath.dirname(labels) for labels in images_of})
        written = {file for folder in folders for file in self._files(folder, (".txt",))}
        if images_of and not written:
            labels, (image, *_) = next(iter(images_of.items()))
            raise ValueError(self.message(f"no text files in {folders[0]}: that of {image} should be {labels}"))
        # Beside images there may be texts of other kinds, and some tools write the names of categories between the outlines.
        lost = sorted(
            file for file in written - images_of.keys() if "labels" in file.split("/") and posixpath.basename(file) != "classes.txt"
        )
        found = [Outlines(images, labels, labels in written) for labels, images in images_of.items()]
        return found + [Outlines([], labels, True) for labels in lost]

    def _folders(self) -> list[str]:
        """Folders of the images of the split, or text files that list images.

        Raises:
            ValueError: there are none.
        """
        split = self.config.files_split
        names = (split, *_VALIDATION) if split in _VALIDATION else (split,)
        given = next((self._data[name] for name in names if self._data.get(name)), None)
        if self.config.images is not None:
            given, guesses = self.config.of_split(self.config.images), []
        else:
            guesses = [folder for name in names for folder in (f"images/{name}", f"{name}/images")]
        found = [self._found(place) for place in (given if isinstance(given, list) else [given])]
        if None not in found:
            return found
        for folder in guesses:
            if os.path.isdir(self.path(folder)):
                return [folder]
        source = "images" if self.config.images is not None else self.config.data
        raise ValueError(
            self.message(
                f"{source} says that the images of {split} are in {shown(given)}, which is not in {self.config.data_dir}"
                + (f", nor is {' or '.join(guesses)}" if guesses else "")
                + "; give their folder as images='...'"
            )
        )

    def _found(self, place: Any) -> str | None:
        """Path of a folder or file that was named with the folders of another computer before it; None if it is not there."""
        if not isinstance(place, str):
            return None
        parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..") and not part.endswith(":")]
        # A single folder at the end may be that of all splits: it counts only if it stands alone.
        for first in range(max(1, len(parts) - 1)):
            path = "/".join(parts[first:])
            if path and os.path.exists(self.path(path)):
                return path
        return None

    def _images(self, place: str) -> Iterator[str]:
        """Paths of the images in a folder and the folders in it, or in a file that lists them."""
        if os.path.isdir(self.path(place)):
            for folder, _, _ in os.walk(self.path(place), followlinks=True):
                yield from self._files(posixpath.relpath(folder, self.config.data_dir), _ENDINGS)
            return
        for _, line in self.lines(place):
            name = line.strip()
            yield self._found(name) or name

    def _files(self, folder: str, endings: tuple[str, ...]) -> list[str]:
        """Paths of the files of a folder with some endings; [] if there is no such folder."""
        path = self.path(folder)
        if not os.path.isdir(path):
            return []
        names = [name for name in os.listdir(path) if name.lower().endswith(endings) and not name.startswith(".")]
        return [name if folder == "." else f"{folder}/{name}" for name in names]


def _label_file(image: str) -> str:
    """Path of the text file of an image: the last folder `images` is called `labels` there."""
    *folders, name = image.split("/")
    if "images" in folders:
        position = len(folders) - 1 - folders[::-1].index("images")
        folders[position] = "labels"
    return "/".join([*folders, name.rpartition(".")[0] + ".txt"])


def _outline(line: str) -> tuple[int, Sequence[float]]:
    """Category and corners of a line.

    Raises:
        ValueError: it has something else.
    """
    first, *others = line.split()
    try:
        category, corners = float(first), [float(value) for value in others]
    except ValueError as error:
        raise ValueError(f"expected numbers, of the category and of x, y of its corners: {error}") from error
    if not category.is_integer():
        raise ValueError(f"expected a whole number as category, got {first}")
    if len(corners) == 4:
        raise ValueError("expected the outline of an object, got a box of 4 numbers; export the dataset for segmentation")
    if len(corners) < 6 or len(corners) % 2:
        raise ValueError(f"expected x, y of at least 3 corners after the category, got {len(corners)} numbers")
    for value in corners:
        if not -_MARGIN <= value <= 1 + _MARGIN:  # nor nan
            raise ValueError(f"expected corners from 0 to 1, as shares of the width and height of the image, got {value:g}")
    return int(category), corners


def _numbered_names(names: Any) -> dict[int, str]:
    """Number -> name, from a list of names or an object {number: name}.

    Raises:
        ValueError: neither, or a number or name of another type.
    """
    if not isinstance(names, (list, Mapping)) or not names:
        raise ValueError(f"names: expected the names of the categories, got {shown(names)}")
    found: dict[int, str] = {}
    for number, name in enumerate(names) if isinstance(names, list) else names.items():
        number = int(number) if isinstance(number, str) and number.isdecimal() else number
        if type(number) is not int or number not in INT64 or number in found:
            raise ValueError(f"names: expected whole numbers, each once, got {shown(number)}")
        if not is_name(name):
            remedy = "write it in quotes, without which YAML reads yes, no and numbers as something else"
            raise ValueError(f"names: expected a text as the name of {number}, got {shown(name)}; {remedy}")
        found[number] = name.strip()
    return found
