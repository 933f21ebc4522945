"""ScienceQA: multiple-choice questions of school science, some with a picture. See docs/datasets/scienceqa.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, ClassVar, NamedTuple

from ..features import Category
from ..files import FileBuilder, FileConfig
from .conversations import LETTER_ANSWER, TEXT_ONLY, check_text, lettered, question_messages

PROBLEMS = "problems.json"
SPLITS = "pid_splits.json"


class ProblemRecord(NamedTuple):
    """A problem and its id; None where `problems.json` lacks it."""

    id: str
    problem: Mapping[str, Any] | None


@dataclass
class ScienceqaConfig(FileConfig):
    """
    `text_only`: questions without a picture: "keep", or "drop" for the benchmark that is called SQA-I.
    `instruction`: the line after the choices; "" = none.
    """

    text_only: str = "keep"
    instruction: str = LETTER_ANSWER

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_only not in TEXT_ONLY:
            raise ValueError(f"{self.name}: unknown text_only {self.text_only!r}, expected one of {', '.join(TEXT_ONLY)}")


class Scienceqa(FileBuilder):
    """One row per question, asked as LLaVA does (its form CQM-A: context, question, choices; answer)."""

    BUILDER_CONFIG_CLASS = ScienceqaConfig
    docs_page = "ScienceQA"
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "train": {"questions": 12_726},
        "val": {"questions": 4_241},
        "test": {"questions": 4_241, "with_picture": 2_017},
        "trainval": {"questions": 16_967},
    }

    def annotation_files(self) -> tuple[str, ...]:
        """Problems, and the lists of their ids."""
        return PROBLEMS, SPLITS

    def read_categories(self) -> tuple[Category, ...]:
        """None: there is nothing to segment."""
        return ()

    def records(self) -> list[ProblemRecord]:
        """In the order of the list of the split, without those that `text_only` drops."""
        records = self._all_records()
        if self.config.text_only == "keep":
            return records
        return [record for record in records if record.problem is None or record.problem.get("image")]

    def counts(self) -> dict[str, int]:
        """Questions of the split, and those with a picture."""
        records = self._all_records()
        return {"questions": len(records), "with_picture": sum(bool(problem and problem.get("image")) for _, problem in records)}

    def describe(self, record: ProblemRecord) -> str:
        """The file and the id."""
        return f"{PROBLEMS}, problem {record.id}"

    def row(self, record: ProblemRecord) -> dict[str, Any]:
        """A question, its choices and the letter of the right one."""
        id, problem = record
        if problem is None:
            raise ValueError(f"{SPLITS} lists it, but {PROBLEMS} does not have it")
        choices, answer, hint, image = problem["choices"], problem["answer"], problem["hint"], problem["image"]
        question = lettered(check_text(problem["question"], "the question"), choices)
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise ValueError(f"expected as answer the position of one of {len(choices)} choices, got {answer!r}")
        letter = ascii_uppercase[answer]
        contexts = ["text"] * bool(hint) + ["image"] * bool(image) or ["none"]
        return {
            **(self.picture(f"images/{problem['split']}/{id}/{image}") if image else {"image": None, "image_size": None}),
            "image_id": id,
            "record_id": id,
            "condition": "conversation",
            "conversation": question_messages(f"Context: {hint}\n{question}" if hint else question, self.config.instruction, letter),
            "choices": choices,
            "answers": [letter],
            "tags": [f"subject:{problem['subject']}", f"grade:{problem['grade']}", *(f"context:{context}" for context in contexts)],
        }

    def _all_records(self) -> list[ProblemRecord]:
        ids = self.json(SPLITS, keys=(self.config.split,))[self.config.split]
        problems = self.json(PROBLEMS)
        if not isinstance(problems, Mapping):
            raise ValueError(f"{self.title}: {self.path(PROBLEMS)} is not an object of problems by id; see the docs page {self.docs_page}")
        return [ProblemRecord(str(id), problems.get(str(id))) for id in ids]  # keys of JSON are text, also where ids are numbers
