"""MMBench: multiple-choice questions about images, which are in the table itself. See docs/datasets/mmbench.md."""

from __future__ import annotations

import base64
import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from ...structures import CONVERSATION
from ..files import FileBuilder, FileConfig
from .conversations import LETTER_ANSWER, check_text, lettered, question_messages

LETTERS = "ABCD"
ROTATION = 1_000_000  # legacy files have the rotations of question i as i, i + 1e6, i + 2e6, ...
LONGEST_CELL = 2**30  # csv refuses cells above 128 kB, which images exceed
_COLUMNS = ("index", "question", "image", "A", "B")
_INSTRUCTIONS = {"en": LETTER_ANSWER, "cn": "请直接回答选项字母。"}


class MmbenchRecord(NamedTuple):
    """Question of the table.

    Attributes:
        line: its line.
        pictured: the line whose image it uses, itself or another; None if that does not exist.
        rotation: number of times that the first choice goes to the end.
    """

    line: Mapping[str, str]
    pictured: Mapping[str, str] | None
    rotation: int = 0


@dataclass
class MmbenchConfig(FileConfig):
    """Table, and the questions that are asked.

    Attributes:
        file: the table, below `data_dir`; None = the only one there that is named after split and language.
        language: language of the table and of the instruction.
        instruction: line after the choices; "" = none, None = that of the language.
        rotations: of the choices. "stored": the lines of the table; "none": without lines that are rotations of another one; "all": every
            question under all rotations, made here if the table has none.
    """

    file: str | None = None
    language: Literal["en", "cn"] = "en"
    instruction: str | None = None
    rotations: Literal["stored", "none", "all"] = "stored"


class Mmbench(FileBuilder):
    """MMBench, one row per line of the table, or per rotation of it."""

    BUILDER_CONFIG_CLASS = MmbenchConfig
    summary = "multiple-choice questions about images, English or Chinese"
    docs_page = "MMBench"
    splits = ("dev", "test")
    published = {"dev": {"questions": 1_164}}

    @cached_property
    def file(self) -> str:
        """The table, below `data_dir`.

        Raises:
            ValueError: `file` is not given, and several fit.
        """
        if self.config.file is not None:
            return self.config.file
        split, language = self.config.split, self.config.language
        # mmbench_dev_20230712.tsv, the first one, does not say that it is English.
        pattern = re.compile(rf"mmbench_{split}_({language}{'|[0-9]' if language == 'en' else ''}).*\.tsv", re.IGNORECASE)
        folder = self.config.data_dir
        found = sorted(name for name in os.listdir(folder) if pattern.fullmatch(name)) if os.path.isdir(folder) else []
        if len(found) > 1:
            raise ValueError(f"{self.title}: several tables in {folder} fit: {', '.join(found)}; name one as `file`")
        return found[0] if found else f"mmbench_{split}_{language}.tsv"

    def records(self) -> list[MmbenchRecord]:
        """Questions in the order of the table; rotations that are made here follow their line."""
        lines = self._lines()
        by_index = {line["index"]: line for line in lines}
        if len(by_index) < len(lines):
            raise ValueError(f"{self.title}: {self.path(self.file)} has {len(lines) - len(by_index)} indices twice or more")
        records = [MmbenchRecord(line, by_index.get(line["image"]) if is_index(line["image"]) else line) for line in lines]
        unrotated = [record for record in records if not is_index(record.line["index"]) or int(record.line["index"]) < ROTATION]
        if self.config.rotations == "none":
            return unrotated
        if self.config.rotations == "all" and len(unrotated) == len(records):
            # A line without choices is one record, which `row` refuses.
            return [record._replace(rotation=rotation) for record in records for rotation in range(max(1, len(_choices(record.line))))]
        return records

    def counts(self) -> dict[str, int]:
        """Numbers of lines and of questions: rotations of a question count once."""
        indices = {record.line["index"] for record in self._records}
        return {"lines": len(indices), "questions": len({int(index) % ROTATION if is_index(index) else index for index in indices})}

    def describe(self, record: MmbenchRecord) -> str:
        rotated = f", rotation {record.rotation}" if record.rotation else ""
        return f"{self.file}, index {record.line['index']}{rotated}"

    def row(self, record: MmbenchRecord) -> dict[str, Any]:
        line, pictured, rotation = record
        if None in line or None in line.values():
            raise ValueError("it has another number of cells than the head of the table")
        if not line["index"].isdecimal():
            raise ValueError(f"expected a number as index, got {line['index']!r:.80}")
        split = line.get("split", "")
        if not is_empty(split) and split != self.config.split:
            raise ValueError(f"it belongs to the split {split}")
        choices = _choices(line)
        missing = [letter for letter, choice in zip(LETTERS, choices, strict=False) if is_empty(choice)]
        if missing:
            raise ValueError(f"option {missing[0]} is empty, but a later one is not")
        question = lettered(check_text(line["question"], "the question"), choices)
        hint, answer = line.get("hint", ""), line.get("answer", "")
        answer = None if is_empty(answer) else answer
        if answer is not None and answer not in LETTERS[: len(choices)]:
            raise ValueError(f"expected as answer a letter of one of {len(choices)} options, got {answer!r:.80}")
        if rotation:
            if answer is not None:
                answer = LETTERS[(LETTERS.index(answer) - rotation) % len(choices)]
            choices = choices[rotation:] + choices[:rotation]
            question = lettered(line["question"], choices)
        instruction = _INSTRUCTIONS[self.config.language] if self.config.instruction is None else self.config.instruction
        return {
            **self._image(line, pictured),
            "image_id": pictured["index"],
            "record_id": str(int(line["index"]) + rotation * ROTATION) if rotation else line["index"],
            "condition": CONVERSATION,
            "conversation": question_messages(question if is_empty(hint) else f"{hint}\n{question}", instruction, answer),
            "choices": choices,
            "answers": [] if answer is None else [answer],
            "tags": [f"{name}:{line[name]}" for name in ("category", "l2-category") if not is_empty(line.get(name, ""))],
        }

    def _image(self, line: Mapping[str, str], pictured: Mapping[str, str] | None) -> dict[str, Any]:
        if pictured is None or is_index(pictured["image"]):
            raise ValueError(f"its image is that of index {line['image']}, which is not in the table or has none of its own")
        try:
            content = base64.b64decode(pictured["image"], validate=True)
        except ValueError as error:
            raise ValueError(f"its image is not base64 ({error})") from error
        return self.image_bytes(content, f"of index {pictured['index']}")

    def _lines(self) -> list[dict[str, str]]:
        csv.field_size_limit(LONGEST_CELL)
        with open(self.path(self.file), encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(self.message(f"{self.path(self.file)} has no column {', '.join(missing)}"))
            return list(reader)


def _choices(line: Mapping[str, str | None]) -> list[str]:
    """Choices of a line, without empty ones at the end."""
    choices = [line.get(letter) or "" for letter in LETTERS]
    while choices and is_empty(choices[-1]):
        choices.pop()
    return choices


def is_empty(cell: str) -> bool:
    """True if a cell is empty; tables that went through pandas have "nan" there."""
    return not cell.strip() or cell.strip().lower() == "nan"


def is_index(cell: str | None) -> bool:
    """True if a cell is the index of a line. An index in place of an image means that of the other line. (Base64 of a JPEG begins with a
    slash.)"""
    return cell is not None and cell.isdecimal()
