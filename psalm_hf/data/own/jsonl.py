"""Own data as JSON lines: masks with category names, masks with expressions, or conversations. See docs/own_data.md."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...masks import rle_from_bitmap
from ...structures import CATEGORY, CONVERSATION, SENTENCE
from ..features import Category, sample_from_row, segment_entry
from ..files import mask
from ..segment_map import read_segment_map
from .config import OwnTaskBuilder, OwnTaskConfig, numbered, read_category_file

_PNG = re.compile(r'"(?:[^"\\]|\\.)*\.png"', re.IGNORECASE)  # a JSON string
_PROMPTS = ("text", "conversation", "categories")


@dataclass
class OwnJsonlConfig(OwnTaskConfig):
    """`annotations`: the file of lines, below `data_dir`. Without `categories`, the names in the lines are 1, 2, ... as they appear."""

    annotations: str = "{split}.jsonl"


class OwnJsonl(OwnTaskBuilder):
    """Own data as JSON lines, one row per line."""

    BUILDER_CONFIG_CLASS = OwnJsonlConfig
    summary = "own data: JSON lines with categories, expressions or conversations"

    @property
    def file(self) -> str:
        return self.config.of_split(self.config.annotations)

    def annotation_files(self) -> list[str]:
        """The file of lines, that of the categories, and the PNG files of the lines: their masks are in the rows."""
        files = [self.file] if self.config.categories is None else [self.file, self.config.categories]
        if os.path.isfile(self.path(self.file)):
            names = dict.fromkeys(name for _, line in self._lines() for name in _png_names(line))
            files += [name for name in names if self._exists(name)]
        return files

    def read_categories(self) -> tuple[Category, ...]:
        """Categories of their file, or of all lines that can be read; the others are broken records."""
        if self.config.categories is not None:
            return read_category_file(self, self.config.categories)
        return numbered(dict.fromkeys(name for _, line in self.all_records for name in _category_names(line)))

    def records(self) -> list[tuple[int, str]]:
        return self._lines()

    def image_of(self, record: tuple[int, str]) -> str | None:
        return _read_line(record[1]).get("image")

    def describe(self, record: tuple[int, str]) -> str:
        return f"{self.file}, line {record[0]}"

    def row(self, record: tuple[int, str]) -> dict[str, Any]:
        number, line = record
        content = _read_line(line)
        given = [key for key in _PROMPTS if key in content]
        if len(given) > 1:
            raise ValueError(f"expected one of {', '.join(_PROMPTS)}, got {' and '.join(given)}; write one line for each")
        record_id = str(content.get("id", number))
        row = {"image_id": record_id, "record_id": record_id}
        if "image" in content or given != ["conversation"]:
            row |= {**self.image(content["image"]), "image_id": content["image"]}
        if given == ["conversation"]:
            row |= {"condition": CONVERSATION, "conversation": content["conversation"]}
        elif given == ["text"]:
            segments = [self._segment(entry, index, row["image_size"]) for index, entry in enumerate(content["masks"])]
            row |= {"condition": SENTENCE, "expressions": _texts(content["text"]), "segments": segments}
        else:
            row |= {"condition": CATEGORY, "segments": self._named_segments(content, row["image_size"])}
        sample_from_row(row, self._names)  # nothing has to be decoded for it, and what is wrong with a text is found now
        return row

    def _named_segments(self, content: Mapping[str, Any], image_size: list[int]) -> list[dict[str, Any]]:
        """Segments with category ids, in the order of `masks`."""
        entries = content["masks"]
        if "categories" in content:
            names = content["categories"]
            if len(names) != len(entries):
                raise ValueError(f"{len(names)} categories, but {len(entries)} masks; give one category for each mask")
            entries = [{"category": name, "mask": entry} for name, entry in zip(names, entries, strict=True)]
        segments = []
        for index, entry in enumerate(entries):
            if not isinstance(entry, Mapping) or not {"category", "mask"} <= entry.keys():
                raise ValueError(
                    f"mask {index}: expected {{'category': name, 'mask': ...}}, got {entry!r:.80}; or give `text` or `categories`"
                )
            if entry["category"] not in self._ids:
                raise ValueError(f"mask {index}: the category {entry['category']!r} is not in {self.config.categories or self.file}")
            segment = self._segment(entry["mask"], index, image_size)
            segments.append(segment | {"category_id": self._ids[entry["category"]], "is_crowd": bool(entry.get("crowd", False))})
        return segments

    def _segment(self, entry: Any, index: int, image_size: list[int]) -> dict[str, Any]:
        try:
            rle = self._png_mask(entry, image_size) if isinstance(entry, str) else mask(entry, tuple(image_size))
        except ValueError as error:
            raise ValueError(f"mask {index}: {error}") from error
        return segment_entry(rle)

    def _png_mask(self, relative: str, image_size: list[int]) -> dict:
        bitmap = read_segment_map(self.path(relative)) != 0
        if list(bitmap.shape) != list(image_size):
            raise ValueError(f"{relative} is {bitmap.shape[0]} x {bitmap.shape[1]}, its image {image_size[0]} x {image_size[1]}")
        if not bitmap.any():
            raise ValueError(f"{relative} has no pixel that is not 0; leave out masks of what is not there")
        return rle_from_bitmap(bitmap)

    @cached_property
    def _names(self) -> dict[int, str]:
        return {category.id: category.name for category in self.categories}

    def _lines(self) -> list[tuple[int, str]]:
        try:
            return self.lines(self.file)
        except UnicodeDecodeError as error:
            raise ValueError(self.message(f"{self.file} is not UTF-8 ({error}); save it as UTF-8")) from error

    def _exists(self, relative: str) -> bool:
        try:
            return os.path.isfile(self.path(relative))
        except ValueError:  # leaves the folder: reported with its line
            return False


def _read_line(line: str) -> Mapping[str, Any]:
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, column {error.colno})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"expected an object {{...}}, got {content!r:.80}")
    return content


def _category_names(line: str) -> Iterator[str]:
    """Category names of a line; of a broken line those that can be read."""
    try:
        content = _read_line(line)
        if not {"text", "conversation"} & content.keys():
            names = content["categories"] if "categories" in content else [entry["category"] for entry in content["masks"]]
            yield from (name for name in names if isinstance(name, str) and name.strip())
    except (ValueError, KeyError, TypeError):
        return


def _png_names(line: str) -> Iterator[str]:
    for text in _PNG.findall(line):
        try:
            yield json.loads(text)
        except ValueError:  # no JSON: reported with its line
            continue


def _texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list) or not texts or not all(isinstance(entry, str) for entry in texts):
        raise ValueError(f"text: expected an expression or a list of them, got {text!r:.80}")
    return texts
