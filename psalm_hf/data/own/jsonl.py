"""Own data as JSON lines: masks with category names, masks with expressions, or conversations. See docs/own_data.md."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from ...masks import rle_from_bitmap
from ...structures import CATEGORY, CONVERSATION, PROMPT_TOKENS, SENTENCE
from ..features import Category, sample_from_row, segment_entry
from ..files import is_name, parse_json, shown
from ..segment_map import read_mask
from .config import OwnTaskBuilder, OwnTaskConfig, count_far, read_category_file
from .shapes import check_seen, corners_of, is_far, outlined

_FILE = re.compile(r'"(?:[^"\\]|\\.)*\.(?:png|tiff?|bmp|gif)"', re.IGNORECASE)  # a JSON string: the file of an image or of a mask
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
        """The file of lines, that of the categories, and the files of masks, because rows hold them."""
        files = [self.file] if self.config.categories is None else [self.file, self.config.categories]
        if os.path.isfile(self.path(self.file)):
            names = dict.fromkeys(name for _, line in self._lines() for name in _mask_names(line))
            files += [name for name in names if self._exists(name)]
        return files

    def read_categories(self) -> tuple[Category, ...]:
        """Categories of their file, or of all lines that can be read; the others are broken records."""
        if self.config.categories is not None:
            return read_category_file(self, self.config.categories)
        return self.categories_of(dict.fromkeys(name for _, line in self.all_records for name in _category_names(line)))

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
        row = self._named(content, number, needs_image=given != ["conversation"])
        if given == ["conversation"]:
            row |= {"condition": CONVERSATION, "conversation": _conversation(content["conversation"])}
        elif given == ["text"]:
            masks = _list(content["masks"], "masks")  # all that is meant: without one of them the expression means something else
            segments = [self._segment(entry, index, row["image_size"]) for index, entry in enumerate(masks)]
            row |= {"condition": SENTENCE, "expressions": _texts(content["text"]), **count_far(segments)}
        else:
            row |= {"condition": CATEGORY, **self.objects(self._entries(content), partial(self._named_segment, row["image_size"]))}
        sample_from_row(row, self._names)  # nothing has to be decoded for it, and what is wrong with a text is found now
        if given == ["conversation"]:
            _check_turns(row["conversation"], has_image="image" in content)
        return row

    def _named(self, content: Mapping[str, Any], number: int, *, needs_image: bool) -> dict[str, Any]:
        """Columns of the image, if there is one, and of the ids."""
        record_id = content.get("id", number)
        if type(record_id) not in (int, str):
            raise ValueError(f"id: expected a whole number or a text, got {shown(record_id)}")
        columns = {"image_id": str(record_id), "record_id": str(record_id)}
        if "image" in content or needs_image:
            columns |= {**self.image(content["image"]), "image_id": content["image"]}
        return columns

    def _entries(self, content: Mapping[str, Any]) -> list[Any]:
        """Entries {"category", "mask"} of a line with categories."""
        entries = _list(content["masks"], "masks")
        if "categories" not in content:
            return entries
        names = _list(content["categories"], "categories")
        if len(names) != len(entries):
            raise ValueError(f"{len(names)} categories, but {len(entries)} masks; give one category for each mask")
        return [{"category": name, "mask": entry} for name, entry in zip(names, entries, strict=True)]

    def _named_segment(self, image_size: list[int], index: int, entry: Any) -> dict[str, Any]:
        if not isinstance(entry, Mapping) or not {"category", "mask"} <= entry.keys():
            expected = "expected {'category': name, 'mask': ...}"
            raise ValueError(f"mask {index}: {expected}, got {shown(entry)}; or give `text` or `categories`")
        name, is_crowd = entry["category"], entry.get("crowd", False)
        if not isinstance(name, str):
            raise ValueError(f"mask {index}: expected a text as category, got {shown(name)}")
        if not isinstance(is_crowd, bool):
            raise ValueError(f"mask {index}: crowd: expected true or false, got {shown(is_crowd)}")
        if name not in self._ids:
            raise ValueError(f"mask {index}: the category {name!r} is not in {self.config.categories or self.file}")
        return self._segment(entry["mask"], index, image_size) | {"category_id": self._ids[name], "is_crowd": is_crowd}

    def _segment(self, entry: Any, index: int, image_size: list[int]) -> dict[str, Any]:
        try:
            rle = self._painted(entry, image_size) if isinstance(entry, str) else outlined(entry, tuple(image_size))
            check_seen(rle)
        except ValueError as error:
            raise ValueError(f"mask {index}: {error}") from error
        return segment_entry(rle) | {"is_far": is_far(corners_of(entry), tuple(image_size))}

    def _painted(self, relative: str, image_size: list[int]) -> dict:
        """RLE of a mask that is a file."""
        path = self.path(relative)
        bitmap = read_mask(path, f"segment map {path}")
        if list(bitmap.shape) != list(image_size):
            raise ValueError(f"{relative} is {bitmap.shape[0]} x {bitmap.shape[1]}, its image {image_size[0]} x {image_size[1]}")
        if not bitmap.any():
            raise ValueError(f"{relative} has no pixel that is not 0, or all are transparent; leave out masks of what is not there")
        return rle_from_bitmap(bitmap)

    @cached_property
    def _names(self) -> dict[int, str]:
        return {category.id: category.name for category in self.categories}

    def _lines(self) -> list[tuple[int, str]]:
        try:
            return self.lines(self.file)
        except ValueError as error:  # its encoding, or a folder
            raise ValueError(self.message(str(error))) from error

    def _exists(self, relative: str) -> bool:
        try:
            return os.path.isfile(self.path(relative))
        except ValueError:  # leaves the folder: reported with its line
            return False


def _read_line(line: str) -> dict[str, Any]:
    """Keys of a line; null is the same as no key, as tables write it for what they lack."""
    try:
        content = parse_json(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error}); write one object {{...}} per line") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"expected an object {{...}}, got {shown(content)}; write one object per line")
    return {key: value for key, value in content.items() if value is not None}


def _category_names(line: str) -> Iterator[str]:
    """Category names of a line; of a broken line those that can be read."""
    try:
        content = _read_line(line)
        if not {"text", "conversation"} & content.keys():
            masks = _list(content.get("masks", []), "masks")
            found = [entry.get("category") for entry in masks if isinstance(entry, Mapping)]
            names = _list(content["categories"], "categories") if "categories" in content else found
            yield from filter(is_name, names)
    except ValueError:
        return


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name}: expected a list, got {shown(value)}")
    return value


def _conversation(value: Any) -> list[Mapping[str, Any]]:
    messages = _list(value, "conversation")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {index} must be {{'role': 'user' or 'assistant', 'content': text}}, got {shown(message)}")
    return messages


def _check_turns(messages: list[Mapping[str, Any]], *, has_image: bool) -> None:
    """Refuses messages, which take turns, that no training can use. The assistant alone, about an image, gives a caption (stage 1)."""
    if has_image and [message["role"] for message in messages] == ["assistant"]:
        _check_text(messages[0]["content"], "message 0")
        return
    if messages[0]["role"] != "user":
        raise ValueError("message 0: expected the role 'user', got 'assistant'; a conversation begins with the user's message")
    if messages[-1]["role"] != "assistant":
        raise ValueError(
            f"message {len(messages) - 1}: expected the role 'assistant' at the end, got 'user'; end with an answer, which is learned"
        )
    mentions = 0
    for index, message in enumerate(messages):
        text = message["content"]
        if message["role"] == "user":  # who may say where the image goes
            mentions += text.count("<image>")
            text = text.replace("<image>", "image")
        _check_text(text, f"message {index}")
    if mentions > has_image:
        raise ValueError(f"<image> is mentioned {mentions} times, but there is {'one' if has_image else 'no'} image; remove it")


def _check_text(text: str, name: str) -> None:
    if not text.strip():
        raise ValueError(f"{name} is blank; give some text")
    if token := next((token for token in PROMPT_TOKENS if token in text), None):
        raise ValueError(f"{name} contains {token!r}, which the model reads as a special token; write it in another way")


def _mask_names(line: str) -> Iterator[str]:
    for text in _FILE.findall(line):
        try:
            yield json.loads(text)
        except ValueError:  # no JSON: reported with its line
            continue


def _texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list) or not texts or not all(isinstance(entry, str) for entry in texts):
        raise ValueError(f"text: expected an expression or a list of them, got {shown(text)}")
    for entry in texts:
        if entry.strip():  # blank ones are named by the sample
            _check_text(entry, f"text: {shown(entry)}")
    return texts
