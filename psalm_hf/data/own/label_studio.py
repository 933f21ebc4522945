"""Own data of Label Studio, as its export "JSON" or "JSON-MIN" has it. See docs/own_data.md."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ...masks import bitmap_from_box, rle_from_bitmap
from ...structures import CATEGORY
from ..features import Category, segment_entry
from ..files import BROKEN, KeepEmptyConfig, is_name, shown
from .config import OwnTaskBuilder, OwnTaskConfig, read_category_file
from .shapes import bitmap_of_base64, bitmap_of_brush, bitmap_of_corners, bitmap_of_ellipse, check_seen, is_far, read_number, read_points

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio writes before the name of a file that is uploaded
# Key of the value of a region -> kind of the region; the first that is there counts.
_KIND_OF_KEY = {
    "rle": "brush",
    "imageDataURL": "bitmask",
    "points": "polygon",
    "radiusX": "ellipse",
    "height": "rectangle",
    "vertices": "vector",
    "x": "keypoint",
}
_WITHOUT_AREA = ("keypoint", "vector")
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass
class OwnLabelStudioConfig(OwnTaskConfig, KeepEmptyConfig):
    """Files, below `data_dir`, and the shapes that are used. Without `categories` the labels of the file, sorted, are 1, 2, ...

    Attributes:
        annotations: the exported file.
        images: the folder of the images; "." for `data_dir` itself.
        skip_shapes: types of regions that are left out, such as ("keypoint",).
    """

    annotations: str = "{split}.json"
    images: str = "images"
    skip_shapes: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        known = tuple(_KIND_OF_KEY.values())
        if isinstance(self.skip_shapes, str) or not set(self.skip_shapes) <= set(known):
            raise ValueError(f"{self.name}: skip_shapes is a list of some of {', '.join(known)}, got {self.skip_shapes!r}")


class OwnLabelStudio(OwnTaskBuilder):
    """Own data of Label Studio: one row per task that is annotated, one segment per region."""

    BUILDER_CONFIG_CLASS = OwnLabelStudioConfig
    summary = "own data: regions drawn in Label Studio"

    @property
    def file(self) -> str:
        return self.config.of_split(self.config.annotations)

    def annotation_files(self) -> list[str]:
        """The exported file, and that of the categories."""
        return [self.file] if self.config.categories is None else [self.file, self.config.categories]

    def read_categories(self) -> tuple[Category, ...]:
        """Categories of their file, or all labels of regions that can be read."""
        if self.config.categories is not None:
            return read_category_file(self, self.config.categories)
        labels = set()
        for task in self._tasks:
            try:
                labels |= {label for region in self._regions(task) for label in _labels(region) if is_name(label)}
            except BROKEN:  # reported with its record
                continue
        return self.categories_of(sorted(labels))

    def records(self) -> list[tuple[int, Any]]:
        """Positions and tasks. A task without an annotation, or whose annotations are cancelled, says nothing about its image."""
        records = []
        for record in enumerate(self._tasks):
            try:
                if _is_annotated(record[1]) and (self.config.keeps_empty or self._regions(record[1])):
                    records.append(record)
            except BROKEN:
                records.append(record)
        return records

    def counts(self) -> dict[str, int]:
        """Numbers of tasks, and of those that are annotated."""
        return {"tasks": len(self._tasks), "annotated tasks": sum(_is_annotated(task) for task in self._tasks)}

    def image_of(self, record: tuple[int, Any]) -> str:
        return self._image_path(record[1])

    def describe(self, record: tuple[int, Any]) -> str:
        position, task = record
        return f"{self.file}, task {task['id']}" if "id" in task else f"{self.file}, position {position}"

    def row(self, record: tuple[int, Any]) -> dict[str, Any]:
        """Row of all regions of a task."""
        position, task = record
        if not isinstance(task, Mapping):
            raise ValueError(f"expected a task {{...}}, got {shown(task)}")
        number = self._times.get(str(task.get("id")), 1)
        if number > 1:
            raise ValueError(f"the task is there {number} times, so that nobody knows which annotation is right; leave one")
        regions = self._regions(task)
        path = self._image_path(task)
        if len(same := self._addresses_of_image[path]) > 1:
            found = " and ".join(f"{name} ({address})" for address, name in same.items())
            raise ValueError(f"{found} have one file, {path}; put their images into folders that are called as in the addresses")
        image = self.image(path, drawn_on_turned="Label Studio")
        image_size = tuple(image["image_size"])
        objects = self.objects(regions, lambda index, region: self._segment(index, region, image_size))
        return {**image, "image_id": path, "record_id": str(task.get("id", position)), "condition": CATEGORY, **objects}

    @cached_property
    def _times(self) -> Counter[str]:
        """Times that each task is there. In JSON-MIN those of several people are."""
        return Counter(str(task["id"]) for task in self._tasks if isinstance(task, Mapping) and "id" in task)

    @property
    def _addresses_of_image(self) -> Mapping[str, Mapping[str, str]]:
        """Path of an image -> its addresses, each with the name of the first annotated task that has it."""

        def read() -> Mapping[str, Mapping[str, str]]:
            addresses = defaultdict(dict)
            for record in enumerate(self._tasks):
                try:
                    if _is_annotated(record[1]):
                        addresses[self._image_path(record[1])].setdefault(_image_names(record[1])[0], self.describe(record))
                except BROKEN:  # reported with its record
                    continue
            return addresses

        return self._once("addresses of images", read)

    @property
    def _tasks(self) -> list[Any]:
        tasks = self.json(self.file)
        if not isinstance(tasks, list):
            raise ValueError(self.message(f"{self.file}: expected a list of tasks, as the export JSON has it, got {shown(tasks)}"))
        return tasks

    def _regions(self, task: Any) -> list[dict[str, Any]]:
        """Regions that somebody drew on the image of a task, each with its `kind`. Choices and texts about the image, or about regions, are
        none.

        Raises:
            ValueError: the task has something else, or annotations of several people.
        """
        regions = []
        items = _results(task)
        labelled = {shown(item.get("id")) for item in items if _labels(_value(item))}
        for item in items:
            value, tag = _value(item), item.get("type")
            kind = _kind_of(tag, value)
            # The tags Labels and Brush write a region twice, once without its label.
            is_region = _labels(value) or str(tag).endswith("labels") or (tag == kind and shown(item.get("id")) not in labelled)
            if kind is not None and is_region and kind not in self.config.skip_shapes:
                facts = {key: item.get(key) for key in ("id", "original_width", "original_height", "image_rotation")}
                regions.append({**value, **facts, "kind": kind})
        return regions

    def _segment(self, index: int, region: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
        name = f"region {region['id']}" if region.get("id") else f"region {index}"
        labels = _labels(region)
        try:
            if len(labels) != 1 or not isinstance(labels[0], str) or labels[0] not in self._ids:
                known = self.config.categories or "the categories"
                raise ValueError(f"expected one label that is in {known}, got {shown(labels)}")
            if region["image_rotation"]:
                raise ValueError(f"the image was turned by {shown(region['image_rotation'])} degrees in Label Studio; annotate it upright")
            size = region["original_height"], region["original_width"]
            if size != image_size:
                raise ValueError(
                    f"it was drawn on an image of {shown(size[0])} x {shown(size[1])} (original_height x original_width), but the image is "
                    f"{image_size[0]} x {image_size[1]}"
                )
            rle = rle_from_bitmap(_bitmap(region["kind"], region, image_size))
            check_seen(rle)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return segment_entry(rle, self._ids[labels[0]]) | {"is_far": is_far(_corners(region, image_size), image_size)}

    def _image_path(self, task: Mapping[str, Any]) -> str:
        """Path of the image of a task: the longest end of what Label Studio calls it that is a file below `images`.

        Raises:
            ValueError: there is none.
        """
        names = _image_names(task)
        folder = self.config.of_split(self.config.images)
        candidates = []
        for name in names:
            query = parse_qs(urlsplit(name).query).get("d")  # of local files, whose path is an argument
            path = query[0] if query else unquote(urlsplit(name).path)
            parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
            ends = [parts[first:] for first in range(len(parts))]
            ends += [[*end[:-1], _UPLOAD.sub("", end[-1])] for end in ends]
            candidates += [posixpath.normpath(posixpath.join(folder, *end)) for end in ends]
        for path in candidates:
            if os.path.isfile(self.path(path)):
                return path
        last = candidates[-1] if candidates else folder
        where = f"{self.config.data_dir}, looked for it at last as {last}"
        raise ValueError(f"the image {names[0]} is not in {where}; put it there, or give the folder of the images as images='...'")


def _is_annotated(task: Any) -> bool:
    annotations = task.get("annotations") if isinstance(task, Mapping) else None
    if not isinstance(annotations, list):  # JSON-MIN, which has nothing else; or a broken task
        return True
    return any(not isinstance(annotation, Mapping) or not annotation.get("was_cancelled") for annotation in annotations)


def _results(task: Any) -> list[Mapping[str, Any]]:
    """Everything that was said in an annotation of a task."""
    if not isinstance(task, Mapping):
        raise ValueError(f"expected a task {{...}}, got {shown(task)}")
    if "annotations" not in task and "data" not in task:  # JSON-MIN: one key for each tag
        return [item for value in task.values() if isinstance(value, list) for item in value if isinstance(item, Mapping)]
    annotations = task.get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(annotation, Mapping) for annotation in annotations):
        raise ValueError(f"annotations: expected a list of annotations {{...}}, got {shown(annotations)}")
    valid = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    true = [annotation for annotation in valid if annotation.get("ground_truth")] or valid
    if len(true) > 1:
        remedy = "delete all but one, or mark the right one as ground truth"
        raise ValueError(f"the image has {len(true)} annotations, so that nobody knows which is right; {remedy}")
    result = true[0].get("result") if true else []
    if not isinstance(result, list) or not all(isinstance(item, Mapping) for item in result):
        raise ValueError(f"result: expected a list of regions {{...}}, got {shown(result)}")
    return result


def _value(item: Mapping[str, Any]) -> Mapping[str, Any]:
    value = item.get("value", item)
    if not isinstance(value, Mapping):
        raise ValueError(f"value: expected an object {{...}}, got {shown(value)}")
    return value


def _kind_of(tag: Any, value: Mapping[str, Any]) -> str | None:
    """Kind of a region: the one in the name of its tag, or else the one that fits what its value holds; None if it is no region."""
    named = str(tag).removesuffix("labels")
    return named if named in _KIND_OF_KEY.values() else next((kind for key, kind in _KIND_OF_KEY.items() if key in value), None)


def _labels(value: Mapping[str, Any]) -> list[Any]:
    """Labels of a region: the list whose key is that of its tag, such as `brushlabels`; [] if there is none."""
    return next((labels for key, labels in value.items() if key.endswith("labels") and isinstance(labels, list)), [])


def _image_names(task: Mapping[str, Any]) -> list[str]:
    """Addresses or paths of the image of a task, as Label Studio has it, and name of the file that was uploaded.

    Raises:
        ValueError: there is none, or several.
    """
    data = task.get("data", task)
    if not isinstance(data, Mapping):
        raise ValueError(f"data: expected an object {{...}}, got {shown(data)}")
    names = [data["image"]] if "image" in data else [value for value in data.values() if str(value).lower().endswith(_ENDINGS)]
    if len(names) != 1 or not isinstance(names[0], str) or not names[0]:
        raise ValueError(f"expected the address of one image as data.image, got {shown(names)}")
    upload = task.get("file_upload")
    return [names[0], upload] if isinstance(upload, str) and upload else names


def _corners(region: Mapping[str, Any], image_size: tuple[int, int]) -> list[tuple[float, float]]:
    """Corners of a region in pixels; of a turned one the first alone, of what is painted none."""
    corners = []
    if region["kind"] == "polygon":
        corners = region["points"]
    elif region["kind"] in ("rectangle", "ellipse"):
        corners = [(region["x"], region["y"])]
    if region["kind"] == "rectangle" and not region.get("rotation"):
        corners.append((region["x"] + region["width"], region["y"] + region["height"]))
    return [(x * image_size[1] / 100, y * image_size[0] / 100) for x, y in corners]


def _bitmap(kind: str, region: Mapping[str, Any], image_size: tuple[int, int]) -> np.ndarray:
    """Bitmap (H, W) of a region, whose numbers are percents of the width and height.

    Raises:
        ValueError: a region without area, or with wrong numbers.
    """
    height, width = image_size
    if kind in _WITHOUT_AREA:
        raise ValueError(f"a {kind} has no area; leave such regions out with skip_shapes=[{kind!r}]")
    if kind == "brush":
        return bitmap_of_brush(region.get("rle"), image_size)
    if kind == "bitmask":
        bitmap = bitmap_of_base64(str(region.get("imageDataURL")).rpartition(",")[2])
        if bitmap.shape != image_size:
            raise ValueError(f"the mask is {bitmap.shape[0]} x {bitmap.shape[1]}, its image {height} x {width} (height x width)")
        return bitmap
    if kind == "polygon":
        points = read_points(region.get("points"), range(3, 1_000_000), "at least 3 finite points", 100)
        return bitmap_of_corners([(x * width / 100, y * height / 100) for x, y in points], image_size)
    sides = ("radiusX", "radiusY") if kind == "ellipse" else ("width", "height")
    x, y, along, across = (read_number(region.get(key), key, 100) / 100 for key in ("x", "y", *sides))
    degrees = read_number(region.get("rotation") or 0, "rotation", 360)
    x, y, along, across = x * width, y * height, along * width, across * height
    if min(along, across) <= 0:
        raise ValueError(f"expected a {kind} with an area, got {sides[0]} {region[sides[0]]} and {sides[1]} {region[sides[1]]}")
    if kind == "ellipse":
        return bitmap_of_ellipse((x, y), (along, across), degrees, image_size)
    if not degrees:
        return bitmap_from_box((x, y, x + along, y + across), image_size)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))  # around the upper left corner, clockwise
    corners = ((0, 0), (along, 0), (along, across), (0, across))
    return bitmap_of_corners([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners], image_size)
