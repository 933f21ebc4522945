"""POPE: is this object in the image, yes or no? See docs/datasets/pope.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...structures import CONVERSATION
from ..files import FileBuilder, FileConfig
from .conversations import SHORT_ANSWER, question_messages

_LABELS = ("yes", "no")


@dataclass
class PopeConfig(FileConfig):
    """Files and instruction.

    Attributes:
        file: file of the questions, below `data_dir`; None = the published name, there or in `coco/`.
        image_folder: folder of the images, below `data_dir`.
        instruction: line after the question; "" = none.
    """

    file: str | None = None
    image_folder: str = "val2014"
    instruction: str = SHORT_ANSWER


class Pope(FileBuilder):
    """POPE, one row per line of its file, which has JSON lines in spite of its name."""

    BUILDER_CONFIG_CLASS = PopeConfig
    summary = "is this object in the image? yes or no"
    docs_page = "POPE"
    splits = ("random", "popular", "adversarial")
    published = dict.fromkeys(splits, {"questions": 3_000, "yes": 1_500, "images": 500})

    @property
    def file(self) -> str:
        name = f"coco_pope_{self.config.split}.json"
        return self.config.file or self.first_existing(name, f"coco/{name}")

    def records(self) -> list[tuple[int, str]]:
        return self.lines(self.file)

    def counts(self) -> dict[str, int]:
        """Numbers of questions, of those whose answer is yes, and of images; broken lines count as questions only."""
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
        return f"{self.file}, line {record[0]}"

    def row(self, record: tuple[int, str]) -> dict[str, Any]:
        question = _read_line(record[1])
        image, label = question["image"], question["label"]
        if not isinstance(image, str):
            raise ValueError(f"expected the name of an image, got {image!r:.80}")
        if label not in _LABELS:
            raise ValueError(f"expected as label one of {', '.join(_LABELS)}, got {label!r:.80}")
        stem = image.rpartition(".")[0]
        return {
            **self.image(f"{self.config.image_folder}/{image}"),
            "image_id": stem.rpartition("_")[2].lstrip("0") or stem,
            "record_id": str(question["question_id"]),
            "condition": CONVERSATION,
            "conversation": question_messages(question["text"], self.config.instruction, label),
            "answers": [label],
            "tags": [f"split:{self.config.split}"],
        }


def _read_line(line: str) -> Mapping[str, Any]:
    content = json.loads(line)
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a JSON object, got {line!r:.80}")
    return content
