"""POPE: is this object in the picture, yes or no? See docs/datasets/pope.md."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..features import Category
from ..files import FileBuilder, FileConfig
from .conversations import SHORT_ANSWER, question_messages

LABELS = ("yes", "no")


@dataclass
class PopeConfig(FileConfig):
    """
    `file`: the questions, below `data_dir`; None = the published name, there or in `coco/`.
    `image_folder`: where the pictures lie, below `data_dir`.
    `instruction`: the line after the question; "" = none.
    """

    file: str | None = None
    image_folder: str = "val2014"
    instruction: str = SHORT_ANSWER


class Pope(FileBuilder):
    """One row per line of the file."""

    BUILDER_CONFIG_CLASS = PopeConfig
    docs_page = "POPE"
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {
        split: {"questions": 3_000, "yes": 1_500, "images": 500} for split in ("random", "popular", "adversarial")
    }

    @property
    def file(self) -> str:
        """The questions, below `data_dir`."""
        if self.config.file is not None:
            return self.config.file
        name = f"coco_pope_{self.config.split}.json"
        nested = f"coco/{name}"
        return nested if not os.path.exists(self.path(name)) and os.path.exists(self.path(nested)) else name

    def annotation_files(self) -> tuple[str, ...]:
        """JSON lines, whatever the name says."""
        return (self.file,)

    def read_categories(self) -> tuple[Category, ...]:
        """None: there is nothing to segment."""
        return ()

    def records(self) -> list[tuple[int, str]]:
        """Number and text of the lines."""
        return self.lines(self.file)

    def counts(self) -> dict[str, int]:
        """Questions, those whose answer is yes, and pictures; lines that are broken count as questions only."""
        questions = []
        for _, line in self._records:
            try:
                questions.append(_read_line(line))
            except ValueError:
                continue
        return {
            "questions": len(self._records),
            "yes": sum(question.get("label") == "yes" for question in questions),
            "images": len({question.get("image") for question in questions}),
        }

    def describe(self, record: tuple[int, str]) -> str:
        """The file and the line."""
        return f"{self.file}, line {record[0]}"

    def row(self, record: tuple[int, str]) -> dict[str, Any]:
        """A question and its answer."""
        question = _read_line(record[1])
        image, label = question["image"], question["label"]
        if not isinstance(image, str):
            raise ValueError(f"expected the name of a picture, got {image!r:.80}")
        if label not in LABELS:
            raise ValueError(f"expected as label one of {', '.join(LABELS)}, got {label!r:.80}")
        stem = image.rpartition(".")[0]
        return {
            **self.picture(f"{self.config.image_folder}/{image}"),
            "image_id": stem.rpartition("_")[2].lstrip("0") or stem,
            "record_id": str(question["question_id"]),
            "condition": "conversation",
            "conversation": question_messages(question["text"], self.config.instruction, label),
            "answers": [label],
            "tags": [f"split:{self.config.split}"],
        }


def _read_line(line: str) -> Mapping[str, Any]:
    content = json.loads(line)
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a JSON object, got {line!r:.80}")
    return content
