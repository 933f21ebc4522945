"""MMBench: multiple-choice questions about pictures that lie in the table itself. See docs/datasets/mmbench.md."""

from __future__ import annotations

import base64
import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from ..features import Category
from ..files import FileBuilder, FileConfig
from .conversations import LETTER_ANSWER, check_text, lettered, question_messages

LETTERS = "ABCD"
ROTATION = 1_000_000  # legacy files have the rotations of question i as i, i + 1e6, i + 2e6, ...
ROTATIONS = ("stored", "none", "all")
COLUMNS = ("index", "question", "image", "A", "B")
LONGEST_CELL = 2**30  # csv refuses cells above 128 kB, which pictures exceed
INSTRUCTIONS = {"en": LETTER_ANSWER, "cn": "请直接回答选项字母。"}


class MmbenchRecord(NamedTuple):
    """A line of the table, and the line whose picture it uses: itself or another; None where that does not exist. Its options are
    rotated by so many places: the first one goes to the end, that many times."""

    line: Mapping[str, str]
    picture: Mapping[str, str] | None
    rotation: int = 0


@dataclass
class MmbenchConfig(FileConfig):
    """
    `file`: the table, below `data_dir`; None = the only one there that is named after split and language.
    `language`: "en" or "cn": of the table, and of the instruction.
    `instruction`: the line after the options; "" = none, None = that of the language.
    `rotations`: of the options. "stored": the lines of the table; "none": without those that are rotations of another line; "all": every
    question under all rotations, made here if the table has none.
    """

    file: str | None = None
    language: str = "en"
    instruction: str | None = None
    rotations: str = "stored"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rotations not in ROTATIONS:
            raise ValueError(f"{self.name}: unknown rotations {self.rotations!r}, expected one of {', '.join(ROTATIONS)}")
        if self.language not in INSTRUCTIONS:
            raise ValueError(f"{self.name}: unknown language {self.language!r}, expected one of {', '.join(INSTRUCTIONS)}")


class Mmbench(FileBuilder):
    """One row per line of the table, or per rotation of it."""

    BUILDER_CONFIG_CLASS = MmbenchConfig
    docs_page = "MMBench"
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {"dev": {"questions": 1_164}}

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

    def annotation_files(self) -> tuple[str, ...]:
        """The table."""
        return (self.file,)

    def read_categories(self) -> tuple[Category, ...]:
        """None: there is nothing to segment."""
        return ()

    def records(self) -> list[MmbenchRecord]:
        """In the order of the table; rotations that are made here follow their line."""
        lines = self._lines()
        by_index = {line["index"]: line for line in lines}
        if len(by_index) < len(lines):
            raise ValueError(f"{self.title}: {self.path(self.file)} has {len(lines) - len(by_index)} indices twice or more")
        records = [MmbenchRecord(line, by_index.get(line["image"]) if is_index(line["image"]) else line) for line in lines]
        unrotated = [record for record in records if not is_rotation(record.line["index"])]
        if self.config.rotations == "none":
            return unrotated
        if self.config.rotations == "all" and len(unrotated) == len(records):
            # A line without options is one record, which `row` refuses.
            return [record._replace(rotation=rotation) for record in records for rotation in range(max(1, len(_choices(record.line))))]
        return records

    def counts(self) -> dict[str, int]:
        """Lines, and questions: rotations of one question count once."""
        indices = {record.line["index"] for record in self._records}
        return {"lines": len(indices), "questions": len({int(index) % ROTATION if is_index(index) else index for index in indices})}

    def describe(self, record: MmbenchRecord) -> str:
        """The file and the index."""
        rotated = f", rotation {record.rotation}" if record.rotation else ""
        return f"{self.file}, index {record.line['index']}{rotated}"

    def row(self, record: MmbenchRecord) -> dict[str, Any]:
        """A question, its options, and the letter of the right one where the table has it."""
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
        instruction = INSTRUCTIONS[self.config.language] if self.config.instruction is None else self.config.instruction
        return {
            **self._picture(line, pictured),
            "image_id": pictured["index"],
            "record_id": str(int(line["index"]) + rotation * ROTATION) if rotation else line["index"],
            "condition": "conversation",
            "conversation": question_messages(question if is_empty(hint) else f"{hint}\n{question}", instruction, answer),
            "choices": choices,
            "answers": [] if answer is None else [answer],
            "tags": [f"{name}:{line[name]}" for name in ("category", "l2-category") if not is_empty(line.get(name, ""))],
        }

    def _picture(self, line: Mapping[str, str], pictured: Mapping[str, str] | None) -> dict[str, Any]:
        if pictured is None or is_index(pictured["image"]):
            raise ValueError(f"its picture is that of index {line['image']}, which is not in the table or has none of its own")
        try:
            content = base64.b64decode(pictured["image"], validate=True)
        except ValueError as error:
            raise ValueError(f"its picture is not base64 ({error})") from error
        return self.picture_bytes(content, f"of index {pictured['index']}")

    def _lines(self) -> list[dict[str, str]]:
        csv.field_size_limit(LONGEST_CELL)
        with open(self.path(self.file), encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(
                    f"{self.title}: {self.path(self.file)} has no column {', '.join(missing)}; "
                    f"see the docs page {self.docs_page} for what it is"
                )
            return list(reader)


def _choices(line: Mapping[str, str | None]) -> list[str]:
    """The options of a line, without empty ones at the end."""
    choices = [line.get(letter) or "" for letter in LETTERS]
    while choices and is_empty(choices[-1]):
        choices.pop()
    return choices


def is_empty(cell: str) -> bool:
    """Whether a cell says nothing; tables that went through pandas write that as "nan"."""
    return not cell.strip() or cell.strip().lower() == "nan"


def is_rotation(index: str | None) -> bool:
    """Whether a line with this index is a rotation of another one."""
    return is_index(index) and int(index) >= ROTATION


def is_index(cell: str | None) -> bool:
    """Whether a cell is the index of a line; for the cell of a picture, that of another one. (Base64 of a JPEG begins with a slash.)"""
    return cell is not None and cell.isdecimal()
