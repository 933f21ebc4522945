"""Own data drawn with Labelme: one JSON file per picture. See docs/own_data.md."""

from __future__ import annotations

import base64
import io
import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...masks import bitmap_from_box, bitmap_from_polygons, rle_from_bitmap
from ...structures import TASKS, Task
from ..features import Category
from ..files import FileBuilder
from .config import DOCS_PAGE, OwnConfig, numbered, read_category_file

SHAPES = ("polygon", "rectangle", "circle", "mask")
WITHOUT_AREA = ("point", "points", "line", "linestrip")
ORIENTATION = 0x0112  # of EXIF


@dataclass
class OwnLabelmeConfig(OwnConfig):
    """Where the files lie, below `data_dir`, and what is made of them.

    Attributes:
        annotations: the folder of the JSON files; "." for `data_dir` itself.
        categories: see `read_category_file`; None = the labels of all files, sorted, as 1, 2, ...
        skip_shapes: types of shapes that are left out, such as ("point", "linestrip").
        keep_empty: keep pictures without shapes; None = for evaluation yes, for the split "train" no.
        task: "instance", "panoptic" or "semantic".
    """

    annotations: str = "."
    categories: str | None = None
    skip_shapes: Sequence[str] = ()
    keep_empty: bool | None = None
    task: Task = "instance"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in TASKS:
            raise ValueError(f"{self.name}: unknown task {self.task!r}, expected one of {', '.join(TASKS)}")
        if isinstance(self.skip_shapes, str):
            raise ValueError(f"{self.name}: skip_shapes is a list of types, got {self.skip_shapes!r}")
        unknown = [kind for kind in self.skip_shapes if kind not in (*SHAPES, *WITHOUT_AREA)]
        if unknown:
            raise ValueError(
                f"{self.name}: unknown skip_shapes {', '.join(unknown)}, expected some of {', '.join((*SHAPES, *WITHOUT_AREA))}"
            )


class OwnLabelme(FileBuilder):
    """One row per JSON file, one segment per shape or group of shapes."""

    BUILDER_CONFIG_CLASS = OwnLabelmeConfig
    docs_page = DOCS_PAGE

    @property
    def task(self) -> Task:
        """As the option says."""
        return self.config.task

    @property
    def folder(self) -> str:
        """Where the JSON files lie, below `data_dir`."""
        return self.config.of_split(self.config.annotations)

    def annotation_files(self) -> list[str]:
        """The folder, whose time changes with what is in it, the JSON files, and that of the categories."""
        files = [self.folder, *self._files()]
        return files if self.config.categories is None else [*files, self.config.categories]

    def read_categories(self) -> tuple[Category, ...]:
        """Of the file, or all labels."""
        if self.config.categories is not None:
            return read_category_file(self, self.config.categories)
        return numbered(sorted({label for labels in self._labels().values() for label in labels}))

    def records(self) -> list[str]:
        """Paths of the JSON files, sorted."""
        files = self._files()
        if not files:
            raise ValueError(f"{self.title}: no .json files in {self.folder} of {self.config.data_dir}; see the docs page {self.docs_page}")
        keep_empty = self.config.split != "train" if self.config.keep_empty is None else self.config.keep_empty
        if keep_empty:
            return files
        labels = self._labels()
        return [file for file in files if labels.get(file, True)]

    def describe(self, record: str) -> str:
        """The JSON file."""
        return record

    def row(self, record: str) -> dict[str, Any]:
        """All shapes of a picture; its flags that are set are the tags."""
        content = self._read(record)
        picture = self._picture(record, content)
        return {
            **picture,
            "image_id": posixpath.basename(record).removesuffix(".json"),
            "condition": "category",
            "segments": self._segments(content["shapes"], tuple(picture["image_size"])),
            "tags": [flag for flag, is_set in (content.get("flags") or {}).items() if is_set],
        }

    def _segments(self, shapes: list[Mapping[str, Any]], image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """In the order of the first shape of each."""
        grouped: dict[Any, list[Mapping[str, Any]]] = {}
        for index, shape in enumerate(shapes):
            if shape.get("shape_type", "polygon") in self.config.skip_shapes:
                continue
            label, group = shape["label"], shape.get("group_id")
            if label not in self._ids:
                raise ValueError(f"shape {index}: the label {label!r} is not in {self.config.categories or 'the categories'}")
            # Labelme numbers groups, but says nothing about two labels in one group: they stay two objects.
            grouped.setdefault(("alone", index) if group is None else (label, group), []).append(shape)
        return [
            {
                "mask": rle_from_bitmap(np.logical_or.reduce([_bitmap(shape, image_size) for shape in members])),
                "category_id": self._ids[members[0]["label"]],
                "is_crowd": any((shape.get("flags") or {}).get("crowd", False) for shape in members),
            }
            for members in grouped.values()
        ]

    def _picture(self, record: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """The picture in the file if there is one, because that is what was drawn on; else the one that it names."""
        size = content.get("imageHeight"), content.get("imageWidth")
        size = None if None in size else size
        if content.get("imageData"):
            return self._embedded(content["imageData"], size)
        # Relative to the JSON file, and written on Windows with its own separator.
        relative = posixpath.normpath(posixpath.join(self.folder, content["imagePath"].replace("\\", "/")))
        picture = self.picture(relative, size)
        with Image.open(self.path(relative)) as opened:
            orientation = opened.getexif().get(ORIENTATION, 1)
        if orientation != 1:
            raise ValueError(
                f"image {relative} has the EXIF orientation {orientation}: Labelme showed it turned, and the shapes are drawn on that; "
                f"save it turned and without EXIF"
            )
        return picture

    def _embedded(self, image_data: str, expected: tuple[int, int] | None) -> dict[str, Any]:
        try:
            encoded = base64.b64decode(image_data, validate=True)
        except (ValueError, TypeError) as error:
            raise ValueError(f"imageData is not base64 ({error})") from error
        picture = self.picture_bytes(encoded, "imageData")
        if expected is not None and list(expected) != picture["image_size"]:
            raise ValueError(
                f"imageData is {picture['image_size'][0]} x {picture['image_size'][1]}, but imageHeight x imageWidth is "
                f"{expected[0]} x {expected[1]}"
            )
        return picture

    def _labels(self) -> dict[str, list[str]]:
        """Labels of every file's shapes, of files that can be read; the others are reported as records. Only labels are kept: pictures
        may be in the files."""

        def read() -> dict[str, list[str]]:
            labels = {}
            for file in self._files():
                try:
                    shapes = self._read(file)["shapes"]
                    kept = [shape for shape in shapes if shape.get("shape_type", "polygon") not in self.config.skip_shapes]
                    labels[file] = [shape["label"] for shape in kept if isinstance(shape["label"], str)]
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
            return labels

        return self._once("labels", read)

    def _read(self, file: str) -> Mapping[str, Any]:
        with open(self.path(file), encoding="utf-8") as opened:
            try:
                content = json.load(opened)
            except ValueError as error:
                raise ValueError(f"not a JSON file ({error})") from error
        if not isinstance(content, Mapping) or not isinstance(content.get("shapes"), list):
            raise ValueError("not a file of Labelme: it has no list of shapes")
        return content

    def _files(self) -> list[str]:
        path = self.path(self.folder)
        if not os.path.isdir(path):  # reported by its name
            return []
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".json") and not entry.name.startswith("."))
        files = [name if self.folder == "." else f"{self.folder}/{name}" for name in names]
        return [file for file in files if file != self.config.categories]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {category.name: category.id for category in self.categories}


def _bitmap(shape: Mapping[str, Any], image_size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of one shape; of circles and rectangles the pixels whose centre lies inside.

    Raises:
        ValueError: a shape without area, of an unknown type, or with a wrong number of points.
    """
    kind, points, label = shape.get("shape_type", "polygon"), shape["points"], shape["label"]
    if kind in WITHOUT_AREA:
        raise ValueError(f"a {kind} labelled {label!r} has no area; leave such shapes out with skip_shapes=({kind!r},)")
    if kind not in SHAPES:
        raise ValueError(f"{label!r} has the unknown shape_type {kind!r}, expected one of {', '.join(SHAPES)}")
    expected = "at least 3" if kind == "polygon" else "2"
    if (len(points) < 3 if kind == "polygon" else len(points) != 2) or not np.isfinite(points).all():
        raise ValueError(f"a {kind} labelled {label!r}: expected {expected} finite points, got {points!r:.80}")
    if kind == "polygon":
        return bitmap_from_polygons([[value for point in points for value in point]], image_size)
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":  # between any two opposite corners
        return bitmap_from_box((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), image_size)
    if kind == "circle":  # the centre, and a point of the edge
        y, x = np.ogrid[: image_size[0], : image_size[1]]
        return (x + 0.5 - x0) ** 2 + (y + 0.5 - y0) ** 2 <= (x1 - x0) ** 2 + (y1 - y0) ** 2
    return _drawn_mask(shape, (int(x0), int(y0)), image_size)


def _drawn_mask(shape: Mapping[str, Any], corner: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
    """A mask of Labelme: a PNG of the part of the picture that begins at `corner` (x, y)."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as picture:
            part = np.asarray(picture.convert("L")) > 0
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise ValueError(f"the mask labelled {shape['label']!r} cannot be read ({error})") from error
    x, y = corner
    bitmap = np.zeros(image_size, dtype=bool)
    if x < 0 or y < 0 or y + part.shape[0] > image_size[0] or x + part.shape[1] > image_size[1]:
        raise ValueError(f"the mask labelled {shape['label']!r} reaches out of the picture: {part.shape} at {corner}")
    bitmap[y : y + part.shape[0], x : x + part.shape[1]] = part
    return bitmap
