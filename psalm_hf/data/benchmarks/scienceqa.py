"""ScienceQA: multiple-choice questions of school science, some with an image. See docs/datasets/scienceqa.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, NamedTuple

from ...structures import CONVERSATION
from ..files import FileBuilder, FileConfig
from .conversations import LETTER_ANSWER, TextOnly, check_text, lettered, question_messages

_PROBLEMS = "problems.json"
_SPLIT_FILE = "pid_splits.json"


class ProblemRecord(NamedTuple):
    """Problem and its id. `problem` is None if `problems.json` lacks it."""

    id: str
    problem: Mapping[str, Any] | None


@dataclass
class ScienceqaConfig(FileConfig):
    """Questions that are asked, and the instruction.

    Attributes:
        text_only: questions without an image: "keep", or "drop" for the benchmark that is called SQA-I.
        instruction: line after the choices; "" = none.
    """

    text_only: TextOnly = "keep"
    instruction: str = LETTER_ANSWER


class Scienceqa(FileBuilder):
    """ScienceQA, one row per question, asked as LLaVA does (its form CQM-A: context, question, choices; answer)."""

    BUILDER_CONFIG_CLASS = ScienceqaConfig
    summary = "multiple-choice questions of school science, some with an image"
    docs_page = "ScienceQA"
    splits = ("train", "val", "test", "trainval", "minitrain", "minival", "minitest")
    published = {
        "train": {"questions": 12_726},
        "val": {"questions": 4_241},
        "test": {"questions": 4_241, "with_picture": 2_017},
        "trainval": {"questions": 16_967},
    }

    def annotation_files(self) -> tuple[str, ...]:
        return _PROBLEMS, _SPLIT_FILE

    def records(self) -> list[ProblemRecord]:
        """Problems in the order of the list of the split, without those that `text_only` drops."""
        records = self._all_records()
        if self.config.text_only == "keep":
            return records
        return [record for record in records if record.problem is None or record.problem.get("image")]

    def counts(self) -> dict[str, int]:
        """Numbers of questions of the split, and of those with an image."""
        records = self._all_records()
        return {"questions": len(records), "with_picture": sum(bool(problem and problem.get("image")) for _, problem in records)}

    def describe(self, record: ProblemRecord) -> str:
        return f"{_PROBLEMS}, problem {record.id}"

    def row(self, record: ProblemRecord) -> dict[str, Any]:
        id, problem = record
        if problem is None:
            raise ValueError(f"{_SPLIT_FILE} lists it, but {_PROBLEMS} does not have it")
        choices, answer, hint, image = problem["choices"], problem["answer"], problem["hint"], problem["image"]
        question = lettered(check_text(problem["question"], "the question"), choices)
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise ValueError(f"expected as answer the position of one of {len(choices)} choices, got {answer!r}")
        letter = ascii_uppercase[answer]
        contexts = ["text"] * bool(hint) + ["image"] * bool(image) or ["none"]
        return {
            **(self.image(f"images/{problem['split']}/{id}/{image}") if image else {"image": None, "image_size": None}),
            "image_id": id,
            "record_id": id,
            "condition": CONVERSATION,
            "conversation": question_messages(f"Context: {hint}\n{question}" if hint else question, self.config.instruction, letter),
            "choices": choices,
            "answers": [letter],
            "tags": [f"subject:{problem['subject']}", f"grade:{problem['grade']}", *(f"context:{context}" for context in contexts)],
        }

    def _all_records(self) -> list[ProblemRecord]:
        ids = self.json(_SPLIT_FILE, keys=(self.config.split,))[self.config.split]
        problems = self.json(_PROBLEMS)
        if not isinstance(problems, Mapping):
            raise ValueError(self.message(f"{self.path(_PROBLEMS)} is not an object of problems by id"))
        return [ProblemRecord(str(id), problems.get(str(id))) for id in ids]  # keys of JSON are text, also where ids are numbers
