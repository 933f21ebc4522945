"""Own data drawn with Labelme: one JSON file per image. See docs/own_data.md."""

from __future__ import annotations

import base64
import io
import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ...masks import bitmap_from_box, bitmap_from_polygons, rle_from_bitmap
from ...structures import CATEGORY
from ..features import Category, segment_entry
from ..files import KeepEmptyConfig
from ..segment_map import UNREADABLE
from .config import OwnTaskBuilder, OwnTaskConfig, numbered, read_category_file

_SHAPES = ("polygon", "rectangle", "circle", "mask")
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


@dataclass
class OwnLabelmeConfig(OwnTaskConfig, KeepEmptyConfig):
    """Files, and the shapes that are used. Without `categories`, the labels of all files, sorted, are 1, 2, ...

    Attributes:
        annotations: folder of the JSON files, below `data_dir`; "." for `data_dir` itself.
        skip_shapes: types of shapes that are left out, such as ("point", "linestrip").
    """

    annotations: str = "."
    skip_shapes: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.skip_shapes, str):
            raise ValueError(f"{self.name}: skip_shapes is a list of types, got {self.skip_shapes!r}")
        known = (*_SHAPES, *_WITHOUT_AREA)
        if unknown := [kind for kind in self.skip_shapes if kind not in known]:
            raise ValueError(f"{self.name}: unknown skip_shapes {', '.join(unknown)}, expected some of {', '.join(known)}")


class OwnLabelme(OwnTaskBuilder):
    """Own data of Labelme: one row per JSON file, one segment per shape or group of shapes."""

    BUILDER_CONFIG_CLASS = OwnLabelmeConfig
    summary = "own data: shapes drawn with Labelme"

    @property
    def folder(self) -> str:
        """Folder of the JSON files, below `data_dir`."""
        return self.config.of_split(self.config.annotations)

    def annotation_files(self) -> list[str]:
        """The folder, whose time changes with what is in it, the JSON files, and that of the categories."""
        files = [self.folder, *self._files()]
        return files if self.config.categories is None else [*files, self.config.categories]

    def read_categories(self) -> tuple[Category, ...]:
        """Categories of their file, or all labels."""
        if self.config.categories is not None:
            return read_category_file(self, self.config.categories)
        return numbered(sorted({label for labels in self._labels().values() for label in labels}))

    def records(self) -> list[str]:
        """Paths of the JSON files, sorted."""
        files = self._files()
        if not files:
            raise ValueError(self.message(f"no .json files in {self.folder} of {self.config.data_dir}"))
        if self.config.keeps_empty:
            return files
        labels = self._labels()
        return [file for file in files if labels.get(file, True)]

    def image_of(self, record: str) -> str:
        return record  # the file of shapes, which Labelme names after the image: it need not be read

    def describe(self, record: str) -> str:
        return record

    def row(self, record: str) -> dict[str, Any]:
        """Row of all shapes of an image; its flags that are set are the tags."""
        content = self._read(record)
        image = self._image(content)
        return {
            **image,
            "image_id": posixpath.basename(record).removesuffix(".json"),
            "condition": CATEGORY,
            "segments": self._segments(content["shapes"], tuple(image["image_size"])),
            "tags": [flag for flag, is_set in (content.get("flags") or {}).items() if is_set],
        }

    def _segments(self, shapes: list[Mapping[str, Any]], image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Segments in the order of the first shape of each."""
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
            segment_entry(
                rle_from_bitmap(np.logical_or.reduce([_bitmap(shape, image_size) for shape in members])),
                self._ids[members[0]["label"]],
                is_crowd=any((shape.get("flags") or {}).get("crowd", False) for shape in members),
            )
            for members in grouped.values()
        ]

    def _image(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of the image in the file if there is one, because the shapes were drawn on it; else of the one that the file names."""
        size = content.get("imageHeight"), content.get("imageWidth")
        size = None if None in size else size
        if content.get("imageData"):
            return self._embedded(content["imageData"], size)
        # Relative to the JSON file, and written on Windows with its own separator.
        relative = posixpath.normpath(posixpath.join(self.folder, content["imagePath"].replace("\\", "/")))
        return self.image(relative, size, drawn_on_turned="Labelme")

    def _embedded(self, image_data: str, expected: tuple[int, int] | None) -> dict[str, Any]:
        try:
            encoded = base64.b64decode(image_data, validate=True)
        except (ValueError, TypeError) as error:
            raise ValueError(f"imageData is not base64 ({error})") from error
        columns = self.image_bytes(encoded, "imageData")
        height, width = columns["image_size"]
        if expected not in (None, (height, width)):
            raise ValueError(f"imageData is {height} x {width}, but imageHeight x imageWidth is {expected[0]} x {expected[1]}")
        return columns

    def _labels(self) -> dict[str, list[str]]:
        """Labels of the shapes of every file that can be read; the others are broken records. Labels alone are kept, because images may be
        in the files."""

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


def _bitmap(shape: Mapping[str, Any], image_size: tuple[int, int]) -> np.ndarray:
    """Bitmap (H, W) of one shape; circles and rectangles have the pixels whose centre is inside.

    Raises:
        ValueError: a shape without area, of an unknown type, or with a wrong number of points.
    """
    kind, points, label = shape.get("shape_type", "polygon"), shape["points"], shape["label"]
    if kind in _WITHOUT_AREA:
        raise ValueError(f"a {kind} labelled {label!r} has no area; leave such shapes out with skip_shapes=({kind!r},)")
    if kind not in _SHAPES:
        raise ValueError(f"{label!r} has the unknown shape_type {kind!r}, expected one of {', '.join(_SHAPES)}")
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
    """Bitmap (H, W) of a mask of Labelme, which is a PNG of the part of the image that begins at `corner` (x, y)."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as drawn:
            part = np.asarray(drawn.convert("L")) > 0
    except (*UNREADABLE, ValueError) as error:
        raise ValueError(f"the mask labelled {shape['label']!r} cannot be read ({error})") from error
    x, y = corner
    bitmap = np.zeros(image_size, dtype=bool)
    if x < 0 or y < 0 or y + part.shape[0] > image_size[0] or x + part.shape[1] > image_size[1]:
        raise ValueError(f"the mask labelled {shape['label']!r} reaches out of the image: {part.shape} at {corner}")
    bitmap[y : y + part.shape[0], x : x + part.shape[1]] = part
    return bitmap
