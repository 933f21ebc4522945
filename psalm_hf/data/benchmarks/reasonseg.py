"""ReasonSeg: instructions that have to be reasoned about, with one mask per image. See docs/datasets/reasonseg.md."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from ...masks import bitmap_from_polygons, rle_from_bitmap
from ...structures import SENTENCE
from ..features import segment_entry
from ..files import FileBuilder, KeepEmptyConfig
from .released_masks import Rasterisation, fill_polygons

_TARGET, _IGNORE = 1, 255


class ReasonSegRecord(NamedTuple):
    """Name of an image, content of its JSON file, and positions of the texts of one row. `content` is None if the file is broken."""

    name: str
    content: Mapping[str, Any] | None
    positions: tuple[int, ...] = ()


@dataclass
class ReasonSegConfig(KeepEmptyConfig):
    """Prompts and masks.

    Attributes:
        protocol: "per_expression": one row per text; "merged": one row per image with all its texts, which say the same.
        rasterisation: of polygons. "exact": as pycocotools does; "released": as the published script, with OpenCV.
    """

    protocol: Literal["per_expression", "merged"] = "per_expression"
    rasterisation: Rasterisation = "exact"


class ReasonSeg(FileBuilder):
    """ReasonSeg: images and JSON files side by side, a folder per split."""

    BUILDER_CONFIG_CLASS = ReasonSegConfig
    summary = "ReasonSeg: instructions that have to be reasoned about"
    docs_page = "ReasonSeg"
    splits = ("train", "val", "test")
    published = {"train": {"images": 239}, "val": {"images": 200}, "test": {"images": 779}}

    def annotation_files(self) -> list[str]:
        """The folder, and the JSON files that exist; a missing one is a broken record."""
        return [self.config.split, *(file for file in map(self._file, self._names) if os.path.isfile(self.path(file)))]

    def records(self) -> list[ReasonSegRecord]:
        """Texts in the order of the names of the images; blank ones are left out."""
        records = []
        for name in self._names:
            try:
                content = self._read(name)
            except (ValueError, KeyError):  # `row` reads it again and says what is wrong
                records.append(ReasonSegRecord(name, None))
                continue
            positions = tuple(position for position, text in enumerate(content["text"]) if text.strip())
            if self.config.protocol == "per_expression":
                records += [ReasonSegRecord(name, content, (position,)) for position in positions]
            elif positions:
                records.append(ReasonSegRecord(name, content, positions))
        return records

    def counts(self) -> dict[str, int]:
        return {"images": len(self._names)}

    def describe(self, record: ReasonSegRecord) -> str:
        texts = ", ".join(f"text {position}" for position in record.positions)
        return f"{self._file(record.name)}, {texts}" if texts else self._file(record.name)

    def row(self, record: ReasonSegRecord) -> dict[str, Any]:
        """Row with the target as one segment, and the pixels that evaluations ignore as a crowd."""
        content = self._read(record.name) if record.content is None else record.content
        image = self.image(f"{self.config.split}/{record.name}.jpg", drawn_on_turned="OpenCV, with which the published script reads it,")
        return {
            **image,
            "image_id": record.name,
            "condition": SENTENCE,
            "segments": _segments(content["shapes"], tuple(image["image_size"]), self.config.rasterisation),
            "expressions": [content["text"][position] for position in record.positions],
            "record_id": f"{record.name}/{','.join(map(str, record.positions))}",
            "tags": ["long_query" if content["is_sentence"] else "short_query"],
        }

    def keeps(self, row: Mapping[str, Any]) -> bool:
        # Known from the pixels alone: shapes may cover none, or others may cover theirs.
        return self.config.keeps_empty or not all(segment["is_crowd"] for segment in row["segments"])

    @cached_property
    def _names(self) -> list[str]:
        """Names of the images and of the JSON files; one of the two may be missing, which makes a broken record."""
        folder = self.path(self.config.split)
        files = os.listdir(folder) if os.path.isdir(folder) else []
        names = {file[: -len(kind)] for kind in (".jpg", ".json") for file in files if file.endswith(kind)}
        return sorted(name for name in names if not name.startswith("."))  # macOS leaves "._" files in archives

    def _file(self, name: str) -> str:
        return f"{self.config.split}/{name}.json"

    def _read(self, name: str) -> Mapping[str, Any]:
        """Content of a JSON file; ValueError or KeyError if it is no annotation."""
        try:
            with open(self.path(self._file(name)), "rb") as file:
                encoded = file.read()
        except FileNotFoundError:
            raise ValueError(f"there is no such file beside {self.config.split}/{name}.jpg") from None
        try:
            text = encoded.decode("utf-8")
        except UnicodeDecodeError:  # the published script expects such files too
            text = encoded.decode("cp1252")
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not a JSON file ({error})") from error
        if not isinstance(content, Mapping):
            raise ValueError(f"expected shapes, text and is_sentence, got {content!r:.80}")
        _ = content["is_sentence"]
        if not isinstance(content["text"], list) or not all(isinstance(text, str) for text in content["text"]):
            raise ValueError(f"expected text as a list of texts, got {content['text']!r:.80}")
        if not isinstance(content["shapes"], list):
            raise ValueError(f"expected shapes as a list, got {content['shapes']!r:.80}")
        for number, shape in enumerate(content["shapes"]):
            if not isinstance(shape, Mapping) or not isinstance(shape.get("label"), str) or not isinstance(shape.get("points"), list):
                raise ValueError(f"shape {number}: expected label and points, got {shape!r:.80}")
        return content


def _value(shape: Mapping[str, Any]) -> int | None:
    """Value that a shape paints; None for remains of an older labelling."""
    label = shape["label"].lower()
    if label == "flag":
        return None
    return _IGNORE if "ignore" in label else _TARGET


def _segments(shapes: Sequence[Mapping[str, Any]], size: tuple[int, int], rasterisation: str) -> list[dict[str, Any]]:
    """Paints the polygons from the largest to the smallest, as the published script does, so that small ones stay visible."""
    painted = [
        (_value(shape), _bitmap(shape, number, size, rasterisation)) for number, shape in enumerate(shapes) if _value(shape) is not None
    ]
    canvas = np.zeros(size, dtype=np.uint8)
    # Reversed after sorting, as there: of two polygons of one area, the first of the file is on top.
    for value, bitmap in reversed(sorted(painted, key=lambda entry: entry[1].sum())):
        canvas[bitmap] = value
    return [
        segment_entry(rle_from_bitmap(canvas == value), is_crowd=value == _IGNORE)
        for value in (_TARGET, _IGNORE)
        if (canvas == value).any()
    ]


def _bitmap(shape: Mapping[str, Any], number: int, size: tuple[int, int], rasterisation: str) -> np.ndarray:
    if not all(isinstance(point, list) and len(point) == 2 for point in shape["points"]):
        raise ValueError(f"shape {number}: expected points [x, y], got {shape['points']!r:.80}")
    # A shape of one or two points is no error: the published script draws a line of pixels. As an exact polygon it covers no pixel.
    corners = shape["points"] + shape["points"][-1:] * (3 - len(shape["points"]))
    polygon = [coordinate for corner in corners for coordinate in corner]
    try:
        # (That script draws the outline too, which is filled anyway.)
        return fill_polygons([polygon], size) if rasterisation == "released" else bitmap_from_polygons([polygon], size)
    except ValueError as error:
        raise ValueError(f"shape {number}: {error}") from error
