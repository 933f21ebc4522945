"""Own data drawn with Labelme: one JSON file per image. See docs/own_data.md."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...masks import rle_from_bitmap
from ...structures import CATEGORY
from ..features import Category, segment_entry
from ..files import KeepEmptyConfig, is_name, parse_json, read_text, shown
from .config import OwnTaskBuilder, OwnTaskConfig, read_category_file
from .shapes import (
    Point,
    bitmap_of_base64,
    bitmap_of_corners,
    bitmap_of_ellipse,
    bitmap_of_rectangle,
    bytes_of_base64,
    check_seen,
    is_far,
    read_points,
)

# Shapes with an area -> numbers of points, and these in words. Rectangles have four corners and the last two kinds exist in X-AnyLabeling;
# Labelme has oriented rectangles since version 6.
_SHAPES = {
    "polygon": (range(3, 1_000_000), "at least 3 finite points"),
    "rectangle": ((2, 4), "2 finite points (or 4)"),
    "circle": ((2,), "2 finite points"),
    "mask": ((2,), "2 finite points"),
    "oriented_rectangle": ((4,), "4 finite points"),
    "rotation": ((4,), "4 finite points"),
    "quadrilateral": ((4,), "4 finite points"),
}
_WITHOUT_AREA = ("point", "points", "line", "linestrip", "cuboid")  # of a cuboid nobody knows which faces are seen
_IGNORED, _NOTHING = "__ignore__", "_background_"  # labels that Labelme reserves
_RESERVED = (_IGNORED, _NOTHING)


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
            raise ValueError(f"{self.name}: skip_shapes is a list of types, got {self.skip_shapes!r}; write skip_shapes=['point']")
        known = (*_SHAPES, *_WITHOUT_AREA)
        if unknown := [kind for kind in self.skip_shapes if kind not in known]:
            raise ValueError(f"{self.name}: unknown skip_shapes {', '.join(unknown)}, expected some of {', '.join(known)}")


class Overview(NamedTuple):
    """Facts of all files of shapes, kept without the images that may be in them.

    Attributes:
        labels: file -> labels of its shapes, None for a broken one. Without files that cannot be read, which are broken records.
        of_image: path of an image -> files that name it.
        others: files in inner folders that are JSON, but not of Labelme.
    """

    labels: dict[str, list[str | None]]
    of_image: dict[str, list[str]]
    others: list[str]


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
        files = [self.folder, *self.tree(self.folder, ()).folders, *self._files()]
        files = list(dict.fromkeys(files))
        return files if self.config.categories is None else [*files, self.config.categories]

    def read_categories(self) -> tuple[Category, ...]:
        """Categories of their file, or all labels; those that Labelme reserves are none."""
        if self.config.categories is not None:
            return tuple(category for category in read_category_file(self, self.config.categories) if category.name not in _RESERVED)
        return self.categories_of(sorted({label for labels in self._overview.labels.values() for label in labels if label is not None}))

    def records(self) -> list[str]:
        """Paths of the JSON files, sorted."""
        files = self._files()
        if os.path.isfile(self.path(self.folder)):
            raise ValueError(self.message(f"{self.folder} is a file; give the folder of the .json files as annotations"))
        if not files:
            raise ValueError(self.message(f"no .json files in {self.folder} of {self.config.data_dir}"))
        labels, _, others = self._overview
        files = [file for file in files if file not in set(others)]
        return files if self.config.keeps_empty else [file for file in files if labels.get(file, True)]

    def read_notes(self) -> list[str]:
        """A note about files in inner folders that other programs wrote."""
        others = self._overview.others
        return [f"{len(others)} .json files in inner folders are left out: they have no shapes, the first: {others[0]}"] if others else []

    def image_of(self, record: str) -> str:
        return record  # the file of shapes, which Labelme names after the image: it need not be read

    def describe(self, record: str) -> str:
        return record

    def row(self, record: str) -> dict[str, Any]:
        """Row of all shapes of an image; its flags that are set are the tags."""
        content = self._read(record)
        image = self._image(content, record)
        return {
            **image,
            "image_id": posixpath.relpath(record, self.folder).removesuffix(".json"),
            "condition": CATEGORY,
            **self._objects(content["shapes"], tuple(image["image_size"])),
            "tags": [flag for flag, is_set in _flags(content).items() if is_set],
        }

    def _objects(self, shapes: list[Any], image_size: tuple[int, int]) -> dict[str, Any]:
        """Columns of the objects, in the order of the first shape of each."""
        used = [(index, shape) for index, shape in enumerate(shapes) if _kind(shape) not in self.config.skip_shapes]
        covers = [(index, shape["label"], _bitmap(index, shape, image_size)) for index, shape in used if _label(shape) in _RESERVED]
        groups = _grouped([(index, shape) for index, shape in used if _label(shape) not in _RESERVED])

        def segment(_: int, members: list[tuple[int, Any]]) -> dict[str, Any] | None:
            bitmap, is_covered = np.zeros(image_size, dtype=bool), False
            for index, shape in members:
                self._check_shape(index, shape)
                part = _bitmap(index, shape, image_size)
                for position, _, cover in covers:
                    if position > index:  # Labelme paints shapes one over the other
                        is_covered |= bool((part & cover).any())
                        part = part & ~cover
                bitmap |= part
            if is_covered and not bitmap.any():
                return None
            rle = rle_from_bitmap(bitmap)
            try:
                check_seen(rle)
            except ValueError as error:
                raise ValueError(f"shape {members[0][0]}: {error}") from error
            is_crowd = any(_flags(shape, f"shape {index}: ").get("crowd", False) for index, shape in members)
            entry = segment_entry(rle, self._ids[members[0][1]["label"]], is_crowd=is_crowd)
            return entry | {"is_far": any(is_far(shape["points"], image_size) for _, shape in members)}

        columns = self.objects(groups, segment)
        segments = [entry for entry in columns["segments"] if entry is not None]
        return columns | {"segments": segments + self._ignored([cover for _, label, cover in covers if label == _IGNORED])}

    def _ignored(self, bitmaps: list[np.ndarray]) -> list[dict[str, Any]]:
        """Crowds on pixels to be ignored, one of each category, so that average precision does not count what is found there. For the other
        tasks pixels that belong to no segment are ignored anyway."""
        ignored = np.logical_or.reduce(bitmaps) if bitmaps else np.zeros(0)
        if self.task != "instance" or not ignored.any():
            return []
        rle = rle_from_bitmap(ignored)
        return [segment_entry(rle, category.id, is_crowd=True) for category in self.categories]

    def _check_shape(self, index: int, shape: Any) -> None:
        if not isinstance(shape, Mapping):
            raise ValueError(f"shape {index}: expected an object {{...}}, got {shown(shape)}")
        if "label" not in shape:
            raise ValueError(f"shape {index}: the field 'label' is missing")
        label, group = shape["label"], shape.get("group_id")
        if not is_name(label):
            raise ValueError(f"shape {index}: expected a text as label, got {shown(label)}")
        if group is not None and _group(shape) is None:
            raise ValueError(f"shape {index}: expected a whole number or null as group_id, got {shown(group)}")
        if label not in self._ids:
            raise ValueError(f"shape {index}: the label {label!r} is not in {self.config.categories or 'the categories'}")

    def _image(self, content: Mapping[str, Any], file: str) -> dict[str, Any]:
        """Columns of the image in the file if there is one, because the shapes were drawn on it; else of the one that the file names."""
        size = content.get("imageHeight"), content.get("imageWidth")
        size = None if None in size else size
        for name in ("imageHeight", "imageWidth"):
            if size is not None and type(content[name]) is not int:
                raise ValueError(f"{name}: expected a whole number, got {shown(content[name])}")
        if content.get("imageData") not in (None, ""):
            return self._embedded(content["imageData"], size)
        path = content["imagePath"]
        if not isinstance(path, str) or not path.strip():
            raise ValueError(f"imagePath: expected the path of the image, got {shown(path)}")
        relative = _image_path(file, path)
        if len(same := self._overview.of_image[relative]) > 1:
            raise ValueError(f"{' and '.join(same)} are of the same image {relative}; leave the right one")
        return self.image(relative, size, drawn_on_turned="Labelme")

    def _embedded(self, image_data: Any, expected: tuple[int, int] | None) -> dict[str, Any]:
        try:
            encoded = bytes_of_base64(image_data)
        except ValueError as error:
            raise ValueError(f"imageData cannot be read: {error}") from error
        columns = self.image_bytes(encoded, "imageData")
        height, width = columns["image_size"]
        if expected not in (None, (height, width)):
            raise ValueError(f"imageData is {height} x {width}, but imageHeight x imageWidth is {expected[0]} x {expected[1]}")
        return columns

    @property
    def _overview(self) -> Overview:
        def read() -> Overview:
            overview = Overview({}, {}, [])
            for file in self._files():
                try:
                    content = self._parse(file)
                except ValueError:
                    continue
                if not _is_labelme(content):
                    if posixpath.dirname(posixpath.relpath(file, self.folder)):
                        overview.others.append(file)
                    continue
                kept = [_label(shape) for shape in content["shapes"] if _kind(shape) not in self.config.skip_shapes]
                overview.labels[file] = [label for label in kept if label not in _RESERVED]
                path = content.get("imagePath")
                if isinstance(path, str) and content.get("imageData") in (None, ""):
                    overview.of_image.setdefault(_image_path(file, path), []).append(file)
            return overview

        return self._once("overview", read)

    def _read(self, file: str) -> Mapping[str, Any]:
        content = self._parse(file)
        if not _is_labelme(content):
            raise ValueError("not a file of Labelme: it has no list of shapes")
        return content

    def _parse(self, file: str) -> Any:
        text = read_text(self.path(file), file)
        try:
            return parse_json(text)
        except ValueError as error:
            raise ValueError(f"not a JSON file ({error}); {self.repair}") from error

    def _files(self) -> list[str]:
        names = self.tree(self.folder, (".json",)).files
        files = [name if self.folder == "." else f"{self.folder}/{name}" for name in names]
        return [file for file in files if file != self.config.categories]


def _is_labelme(content: Any) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get("shapes"), list)


def _image_path(file: str, path: str) -> str:
    """Path below `data_dir` of the image that a file of shapes names: relative to it, and written on Windows with its own separator."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(file), path.replace("\\", "/")))


def _kind(shape: Any) -> Any:
    """Type of a shape; old files of Labelme have null for a polygon. None if the shape is broken."""
    if not isinstance(shape, Mapping):
        return None
    kind = shape.get("shape_type")
    return "polygon" if kind is None else kind


def _label(shape: Any) -> str | None:
    """Label of a shape; None if it has none."""
    label = shape.get("label") if isinstance(shape, Mapping) else None
    return label if is_name(label) else None


def _grouped(shapes: Sequence[tuple[int, Any]]) -> list[list[tuple[int, Any]]]:
    """Positions and shapes, those of one object together. Labelme numbers groups, but says nothing about two labels in one group: they stay
    two objects. A shape without a label is in all objects of its group, because nobody knows to which it belongs."""
    groups: dict[tuple[str | None, Any], list[tuple[int, Any]]] = {}
    nameless = []
    for index, shape in shapes:
        label, group = _label(shape), _group(shape)
        if label is None and group is not None:
            nameless.append((index, shape))
            continue
        groups.setdefault((None, index) if group is None else (label, group), []).append((index, shape))
    for index, shape in nameless:
        keys = [(label, group) for label, group in groups if label is not None and group == _group(shape)]
        for key in keys or [(None, index)]:
            groups.setdefault(key, []).append((index, shape))
    return list(groups.values())


def _group(shape: Any) -> int | str | None:
    """Group of a shape; None if it has none, or none that can be one."""
    group = shape.get("group_id") if isinstance(shape, Mapping) else None
    return group if isinstance(group, (int, str)) and not isinstance(group, bool) else None


def _flags(content: Mapping[str, Any], place: str = "") -> Mapping[str, bool]:
    """Flags of an image or a shape.

    Raises:
        ValueError: they are not true or false.
    """
    flags = content.get("flags") or {}
    if not isinstance(flags, Mapping) or not all(isinstance(value, bool) for value in flags.values()):
        raise ValueError(f"{place}flags: expected {{name: true or false}}, got {shown(flags)}")
    return flags


def _bitmap(index: int, shape: Mapping[str, Any], image_size: tuple[int, int]) -> np.ndarray:
    """Bitmap (H, W) of one shape; circles and rectangles have the pixels whose centre is inside.

    Raises:
        ValueError: a shape without area, of an unknown type, or with wrong points; the message has its position.
    """
    kind, label = _kind(shape), shape["label"]
    if kind in _WITHOUT_AREA:
        raise ValueError(f"shape {index}: a {kind} labelled {label!r} has no area; leave such shapes out with skip_shapes=[{kind!r}]")
    if not isinstance(kind, str) or kind not in _SHAPES:
        raise ValueError(f"shape {index}: {label!r} has the unknown shape_type {shown(kind)}, expected one of {', '.join(_SHAPES)}")
    try:
        points = read_points(shape.get("points"), *_SHAPES[kind], max(image_size))
        if kind == "mask":
            return _drawn_mask(shape, points, image_size)
        if kind == "circle":  # the centre, and a point of the edge
            radius = math.dist(*points)
            return bitmap_of_ellipse(points[0], (radius, radius), 0, image_size)
        return (bitmap_of_rectangle if kind == "rectangle" else bitmap_of_corners)(points, image_size)
    except ValueError as error:
        found = f"the mask labelled {label!r} cannot be read" if kind == "mask" else f"a {kind} labelled {label!r}"
        raise ValueError(f"shape {index}: {found}: {error}") from error


def _drawn_mask(shape: Mapping[str, Any], points: list[Point], image_size: tuple[int, int]) -> np.ndarray:
    """Bitmap (H, W) of a mask of Labelme, which is an image of the part between two points, both included. As in Labelme, its corner is
    rounded, what reaches out of the image is cut off, and so is what reaches out of points that are whole numbers.

    Raises:
        ValueError: it cannot be read, or lies outside of the image.
    """
    part = bitmap_of_base64(shape.get("mask"))
    (left, top), (right, bottom) = (tuple(round(value) for value in point) for point in points)
    if all(value.is_integer() for point in points for value in point):
        part = part[: max(bottom - top + 1, 0), : max(right - left + 1, 0)]
    height, width = image_size
    part = part[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    if not part.size:
        raise ValueError(f"it lies outside of the image of {height} x {width} (height x width), from {points[0]} to {points[1]}")
    bitmap = np.zeros(image_size, dtype=bool)
    top, left = max(top, 0), max(left, 0)
    bitmap[top : top + part.shape[0], left : left + part.shape[1]] = part
    return bitmap
