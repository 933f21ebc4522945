"""Own data in COCO's format: instances or panoptic segments of any categories. See docs/own_data.md."""

from __future__ import annotations

import math
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from ...structures import CATEGORY, Task
from ..features import Category, segment_entry
from ..files import BROKEN, INT64, KeepEmptyConfig, reason_of, shown
from .config import OwnBuilder, OwnConfig, check_categories, is_set
from .shapes import check_seen, corners_of, is_far, outlined

# Where tools write their annotations and images, if it is elsewhere.
_LAYOUTS = (
    ("Roboflow", "{split}/_annotations.coco.json", "{split}"),
    ("Label Studio", "result.json", "."),
    ("CVAT", "annotations/instances_{split}.json", "images/{split}"),
    ("CVAT", "annotations/instances_default.json", "images"),
)


@dataclass
class OwnCocoConfig(OwnConfig, KeepEmptyConfig):
    """Files, below `data_dir`, and what crowds are.

    Attributes:
        annotations: the JSON file.
        images: the folder in which its `file_name`s are; "." for `data_dir` itself.
        masks: the folder of the PNG files of panoptic annotations; None = the file holds instances.
        crowds: "ignore": `iscrowd` marks groups, which are no targets; "objects": they are objects like others. CVAT writes every mask
            that was drawn with its brush as a crowd.
    """

    annotations: str = "annotations/{split}.json"
    images: str = "images"
    masks: str | None = None
    crowds: Literal["ignore", "objects"] = "ignore"


class ListedImage(NamedTuple):
    """Entry of `images` and its annotations, as they are in the file, and its name in messages. Annotations of an image that is not listed
    are a broken record."""

    name: str
    image: Any
    annotations: list[Any]
    is_listed: bool = True


class ListedCategories(NamedTuple):
    """Categories of a file, its ids of them, and notes about entries that are left out."""

    categories: list[Category]
    ids: dict[int | str, int]  # of the file -> of the category
    notes: list[str]


class OwnCoco(OwnBuilder):
    """Own data in COCO's format: panoptic with the option `masks`, else instances."""

    BUILDER_CONFIG_CLASS = OwnCocoConfig
    summary = "own data: instances or panoptic segments in COCO's format"

    @property
    def task(self) -> Task:
        """The task of the annotations."""
        return "instance" if self.config.masks is None else "panoptic"

    @property
    def file(self) -> str:
        return self.config.of_split(self.config.annotations)

    def read_categories(self) -> tuple[Category, ...]:
        """Categories in the order of the file.

        Raises:
            ValueError: a broken one, unless these are skipped; an id or a name twice; a name that prompts cannot have; none.
        """
        categories = self._listed.categories
        try:
            if not categories:
                raise ValueError("no categories")
            check_categories(categories)
        except ValueError as error:
            raise ValueError(self.message(f"{self.file}: {error}")) from error
        return tuple(categories)

    def read_notes(self) -> list[str]:
        """Notes about categories that are left out, and about crowds."""
        notes = list(self._listed.notes)
        crowds, number = self._count_crowds()
        if crowds and self.config.crowds == "ignore":
            notes.append(
                f"{crowds} of {number} objects are crowds (iscrowd 1): they are no targets, and metrics ignore them. CVAT writes masks of "
                f"its brush so; if they are single objects, give crowds='objects'"
            )
        return notes

    def records(self) -> list[ListedImage]:
        """Images in the order of the file; at the end, annotations of images that are not listed.

        Raises:
            ValueError: an image id is listed twice, so that nobody knows which of the two an annotation means; all objects are crowds.
        """
        crowds, number = self._count_crowds()
        if crowds and crowds == number and self.config.crowds == "ignore":
            raise ValueError(
                self.message(
                    f"all {number} objects of {self.file} are crowds (iscrowd 1), which are no targets and which metrics ignore, so that "
                    f"nothing can be trained or measured; CVAT writes masks of its brush so: if they are single objects, give "
                    f"crowds='objects'"
                )
            )
        records = self._list_images()
        return records if self.config.keeps_empty else [record for record in records if not self._is_empty(record)]

    def counts(self) -> dict[str, int]:
        """Number of images in the file, empty ones too."""
        return {"images": len(self._content["images"])}

    def describe(self, record: ListedImage) -> str:
        return f"{self.file}, {record.name}"

    def row(self, record: ListedImage) -> dict[str, Any]:
        image, annotations = record.image, record.annotations
        if not record.is_listed:
            raise ValueError(f"{len(annotations)} annotations are of this image, but `images` does not list it")
        if _key(_field(image, "id")) is None:
            raise ValueError(f"expected an image with an id that is a whole number or a text, got {shown(image)}")
        for annotation in annotations:
            if isinstance(annotation["image_id"], str) != isinstance(image["id"], str):
                raise ValueError(
                    f"{_name(annotation)} has the image_id {shown(annotation['image_id'])}, a {_kind(annotation['image_id'])}, but the id "
                    f"of the image is {shown(image['id'])}, a {_kind(image['id'])}; write both in the same way"
                )
        path = self._path_of(image)
        if len(same := self._names_of_file[_file_of(image)]) > 1:
            raise ValueError(f"{' and '.join(same)} have the same file_name, {shown(image['file_name'])}; list each image once")
        columns = self.image(path, _image_size(image))
        size = tuple(columns["image_size"])
        segments = self._instances(annotations, size) if self.config.masks is None else self._panoptic(annotations, size)
        return {**columns, "image_id": str(image["id"]), "condition": CATEGORY, **segments}

    def _path_of(self, image: Mapping[str, Any]) -> str:
        name = image["file_name"]
        if not isinstance(name, str) or not name:
            raise ValueError(f"file_name: expected the path of an image, got {shown(name)}")
        name = name.replace("\\", "/")  # written on Windows
        relative = f"{self.config.of_split(self.config.images)}/{name}"
        if not os.path.isfile(self.path(relative)) and os.path.isfile(f"{self.config.data_dir}/{name}"):
            raise ValueError(f"image {relative} does not exist, but {name} does; give images='.'")
        return relative

    def _instances(self, annotations: list[Any], size: tuple[int, int]) -> dict[str, Any]:
        def read(index: int, annotation: Any) -> dict[str, Any]:
            with _naming(_name(annotation)):
                category_id = self._category_id(annotation["category_id"], index)
                is_crowd = self._is_crowd(annotation)
                rle = _outlined(annotation, size)
                entry = segment_entry(
                    rle, category_id, is_crowd=is_crowd, annotation_id=_annotation_id(annotation.get("id")), area=_area(annotation)
                )
                return entry | {"is_far": is_far(corners_of(annotation["segmentation"]), size)}

        return self.objects(annotations, read)

    def _panoptic(self, annotations: list[Any], size: tuple[int, int]) -> dict[str, Any]:
        """Segments in the order of `segments_info`; the id of a segment is its value in the PNG."""
        if not annotations:
            return {"segments": []}
        if len(annotations) > 1:
            raise ValueError(f"expected one annotation, got {len(annotations)}")
        infos, name = annotations[0]["segments_info"], annotations[0]["file_name"]
        if not isinstance(infos, list) or not isinstance(name, str):
            raise ValueError(f"expected a list segments_info and a file_name, got {shown(infos)} and {shown(name)}")
        ids = Counter(info["id"] for info in infos if type(_field(info, "id")) is int)

        def read(index: int, info: Any) -> dict[str, Any]:
            with _naming(f"segment {shown(_field(info, 'id'))}"):
                value = info["id"]
                if type(value) is not int or not 0 < value < 256**3 or ids[value] > 1:
                    raise ValueError("the id of a segment is its colour R + 256 G + 65536 B, a whole number above 0 that is listed once")
                category_id = self._category_id(info["category_id"], index)
                return segment_entry(category_id=category_id, map_values=[value], is_crowd=self._is_crowd(info), annotation_id=value)

        relative = f"{self.config.of_split(self.config.masks)}/{name}".replace("\\", "/")
        return {**self.objects(infos, read), "segment_map": self.segment_map(relative, size)}

    def _category_id(self, value: Any, index: int) -> int:
        if type(value) in (int, str) and value in self._listed.ids:
            return self._listed.ids[value]
        twin = next((id for id in self._listed.ids if str(id) == str(value)), None) if type(value) in (int, str) else None
        remedy = "" if twin is None else f", a {_kind(value)}; `categories` has {shown(twin)}, a {_kind(twin)}: write both in the same way"
        raise ValueError(f"segment {index} has the unknown category id {shown(value)}{remedy}")

    def _is_crowd(self, entry: Mapping[str, Any]) -> bool:
        return is_set(entry.get("iscrowd"), "iscrowd") and self.config.crowds == "ignore"

    def _is_empty(self, record: ListedImage) -> bool:
        """True if nothing but crowds is annotated. Whatever is broken is not empty: it is named later."""
        try:
            return isinstance(record.image, Mapping) and all(map(self._is_crowd, self._objects_of(record.annotations)))
        except BROKEN:
            return False

    def _objects_of(self, annotations: list[Any]) -> Iterator[Any]:
        """Annotations of instances, or segments of panoptic ones."""
        for annotation in annotations:
            if self.config.masks is None:
                yield annotation
            else:
                yield from annotation["segments_info"]

    def _count_crowds(self) -> tuple[int, int]:
        """Numbers of crowds and of all objects; broken ones are no crowds."""
        crowds, number = 0, 0
        for annotation in self._content["annotations"]:
            infos = [annotation] if self.config.masks is None else _field(annotation, "segments_info")
            for info in infos if isinstance(infos, list) else [None]:
                number += 1
                try:
                    crowds += is_set(_field(info, "iscrowd"), "iscrowd")
                except ValueError:
                    continue
        return crowds, number

    def _list_images(self) -> list[ListedImage]:
        images, annotations = self._content["images"], self._content["annotations"]
        keys = [_key(_field(image, "id")) for image in images]
        counted = Counter(key for key in keys if key is not None)
        if twice := [key for key, number in counted.items() if number > 1]:
            id = next(image["id"] for image, key in zip(images, keys, strict=True) if key == twice[0])
            found = f"{self.file} lists image id {id!r} more than once, and {len(twice) - 1} other ids too"
            raise ValueError(self.message(f"{found}; give each image its own id"))
        of_image: dict[str | None, list[Any]] = {key: [] for key in counted}
        others: dict[str, list[Any]] = {}
        for index, annotation in enumerate(annotations):
            key = _key(_field(annotation, "image_id"))
            if key in of_image:
                of_image[key].append(annotation)
            else:
                others.setdefault(f"annotation number {index}" if key is None else f"image {key}", []).append(annotation)
        listed = [
            ListedImage(f"image number {index}" if key is None else f"image {key}", image, of_image.get(key, []))
            for index, (image, key) in enumerate(zip(images, keys, strict=True))
        ]
        return listed + [ListedImage(name, None, found, is_listed=False) for name, found in others.items()]

    @property
    def _names_of_file(self) -> Mapping[str | None, list[str]]:
        """Normal form of a file_name -> names of the images that have it."""

        def read() -> Mapping[str | None, list[str]]:
            names = defaultdict(list)
            for record in self._list_images():
                names[_file_of(record.image)].append(record.name)
            return names

        return self._once("names of files", read)

    def image_of(self, record: ListedImage) -> str:
        return self._path_of(record.image)

    @property
    def _listed(self) -> ListedCategories:
        return self._once("listed categories", self._list_categories)

    def _list_categories(self) -> ListedCategories:
        entries, notes, kept = self._content["categories"], [], []
        root = _root_class(entries, self._used_categories)
        for position, entry in enumerate(entries):
            if position == root:
                notes.append(
                    f"the category {entry['name']!r} is left out: it is the name of the project, as Roboflow writes it, and has no object"
                )
                continue
            problem = _fault_of_category(entry)
            if problem and self.config.on_error == "raise":
                raise ValueError(self.message(f"category {position} of {self.file}: {problem}"))
            if problem:
                notes.append(f"category {position} of {self.file} is left out, and so are its objects: {problem}")
            else:
                kept.append((position, entry))
        # Columns have room for numbers of 64 bits.
        are_numbers = all(type(entry["id"]) is int and entry["id"] in INT64 for _, entry in kept)
        ids = [entry["id"] if are_numbers else position + 1 for position, entry in kept]
        if twice := [id for id, number in Counter(entry["id"] for _, entry in kept).items() if number > 1]:
            raise ValueError(self.message(f"{self.file}: the id {twice[0]!r} is given to two categories; give each its own"))
        categories = [
            Category(id, entry["name"].strip(), is_set(entry.get("isthing", 1), "isthing"))
            for id, (_, entry) in zip(ids, kept, strict=True)
        ]
        return ListedCategories(categories, {entry["id"]: id for id, (_, entry) in zip(ids, kept, strict=True)}, notes)

    @cached_property
    def _used_categories(self) -> set[int | str]:
        infos = self._content["annotations"]
        if self.config.masks is not None:
            infos = [info for annotation in infos for info in (_field(annotation, "segments_info") or ()) if isinstance(info, Mapping)]
        found = (_field(info, "category_id") for info in infos)
        return {id for id in found if type(id) in (int, str)}

    @property
    def _content(self) -> Mapping[str, Any]:
        content = self.json(self.file, keys=("images", "annotations", "categories"))
        for key in ("images", "annotations", "categories"):
            if not isinstance(content[key], list):
                raise ValueError(self.message(f"{self.file}: {key}: expected a list, got {shown(content[key])}"))
        return content

    def _fingerprint(self) -> str:
        try:
            return super()._fingerprint()
        except FileNotFoundError as error:
            for tool, annotations, images in _LAYOUTS:
                found = self.config.of_split(annotations)
                if os.path.isfile(f"{self.config.data_dir}/{found}"):
                    remedy = f"{found}, as {tool} writes it, is there: give annotations={annotations!r}, images={images!r}"
                    raise FileNotFoundError(f"{error}; {remedy}") from None
            raise


class _naming:
    """Context whose errors begin with the name of an object."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, BROKEN):
            raise ValueError(f"{self.name}: {reason_of(error)}") from error


def _field(entry: Any, name: str) -> Any:
    """Field of an entry; None if it is absent, or the entry is no object."""
    return entry.get(name) if isinstance(entry, Mapping) else None


def _file_of(image: Any) -> str | None:
    """Normal form of the file_name of an image; None if it has none."""
    name = _field(image, "file_name")
    return posixpath.normpath(name.replace("\\", "/")) if isinstance(name, str) else None


def _key(id: Any) -> str | None:
    """Id of an image as rows have it; None if it is none."""
    return str(id) if type(id) is int or (isinstance(id, str) and id and id.isprintable()) else None


def _kind(id: Any) -> str:
    return "text" if isinstance(id, str) else "number"


def _name(annotation: Any) -> str:
    return f"annotation {shown(_field(annotation, 'id'))}"


def _annotation_id(id: Any) -> int | None:
    """Id of an annotation as columns have it. Nothing of own data needs it, so that another one is left out."""
    return id if type(id) is int and id in INT64 else None


def _area(annotation: Mapping[str, Any]) -> float | None:
    area = annotation.get("area")
    if area is None or (type(area) in (int, float) and 0 <= area < math.inf):
        return area
    raise ValueError(f"area: expected a number of pixels, got {shown(area)}")


def _image_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of an entry of `images`; None if it has none."""
    size = image.get("height"), image.get("width")
    if size == (None, None):
        return None
    for name, value in zip(("height", "width"), size, strict=True):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}: expected a number of pixels, got {shown(value)}" + ", a text" * isinstance(value, str))
    return size


def _outlined(annotation: Mapping[str, Any], size: tuple[int, int]) -> dict:
    """Mask of an annotation."""
    segmentation = annotation["segmentation"]
    try:
        rle = outlined(segmentation, size)
    except ValueError as error:
        is_box = segmentation in (None, []) and "bbox" in annotation
        raise ValueError(f"{error}{'; a box alone is no mask, draw the outline of the object' * is_box}") from error
    check_seen(rle)
    return rle


def _fault_of_category(entry: Any) -> str:
    """Remark about an entry of `categories` that is broken; "" if it is not."""
    if not isinstance(entry, Mapping):
        return f"expected an id and a name, got {shown(entry)}"
    id, name = entry.get("id"), entry.get("name")
    if not isinstance(name, str) or not name.strip():
        return f"expected a name, got {shown(name)}"
    if type(id) not in (int, str) or id == "":
        return f"expected a whole number or a text as id, got {shown(id)}"
    try:
        is_set(entry.get("isthing", 1), "isthing")
    except ValueError as error:
        return str(error)
    return ""


def _root_class(entries: list[Any], used: set[int | str]) -> int | None:
    """Position of the category that Roboflow makes of the name of the project: the first one, without an object, with no category above
    it, while all others are below one, which often has its name; None if there is none."""
    if len(entries) < 2 or any(_fault_of_category(entry) for entry in entries):
        return None
    first, *others = entries
    above = {entry.get("supercategory") if isinstance(entry.get("supercategory"), str) else None for entry in others}
    is_root = first.get("supercategory") in (None, "", "none") and first["id"] not in used
    return 0 if is_root and len(above) == 1 and not above & {None, "", "none"} else None
