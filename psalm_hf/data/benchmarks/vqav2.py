"""VQA v2: open questions about COCO pictures, ten answers each. See docs/datasets/vqav2.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..features import Category
from ..files import FileBuilder, FileConfig
from .conversations import SHORT_ANSWER, question_messages

# split -> (of the question file, of the pictures); only splits of 2014 have public answers
SUBSETS = {
    "train": ("train2014", "train2014"),
    "val": ("val2014", "val2014"),
    "test_dev": ("test-dev2015", "test2015"),
    "test": ("test2015", "test2015"),
}
ANSWERED = ("train", "val")


class QuestionRecord(NamedTuple):
    """A question and its annotation; None where there is none."""

    question: Mapping[str, Any]
    annotation: Mapping[str, Any] | None


@dataclass
class VqaConfig(FileConfig):
    """`instruction`: the line after the question; "" = none."""

    instruction: str = SHORT_ANSWER


class Vqav2(FileBuilder):
    """One row per question, with the most frequent answer as the assistant's."""

    BUILDER_CONFIG_CLASS = VqaConfig
    docs_page = "VQA v2"
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "train": {"questions": 443_757},
        "val": {"questions": 214_354},
        "test": {"questions": 447_793},
    }

    @property
    def file(self) -> str:
        """The question file, below `data_dir`."""
        return f"v2_OpenEnded_mscoco_{SUBSETS[self.config.split][0]}_questions.json"

    @property
    def answer_file(self) -> str | None:
        """The annotation file; None where the answers are not public."""
        return f"v2_mscoco_{SUBSETS[self.config.split][0]}_annotations.json" if self.config.split in ANSWERED else None

    def annotation_files(self) -> tuple[str, ...]:
        """Questions and answers."""
        return (self.file,) if self.answer_file is None else (self.file, self.answer_file)

    def read_categories(self) -> tuple[Category, ...]:
        """None: there is nothing to segment."""
        return ()

    def records(self) -> list[QuestionRecord]:
        """In the order of the question file, which may list some of the questions that the annotation file answers."""
        annotations = {} if self.answer_file is None else self._by_question(self.answer_file, "annotations")
        return [QuestionRecord(question, annotations.get(id)) for id, question in self._by_question(self.file, "questions").items()]

    def counts(self) -> dict[str, int]:
        """Questions."""
        return {"questions": len(self.json(self.file, keys=("questions",))["questions"])}

    def describe(self, record: QuestionRecord) -> str:
        """The file and the question id."""
        return f"{self.file}, question {record.question['question_id']}"

    def row(self, record: QuestionRecord) -> dict[str, Any]:
        """A question, and what people answered."""
        question, annotation = record
        image_id = str(question["image_id"])
        subset = SUBSETS[self.config.split][1]
        row = {
            **self.picture(f"{subset}/COCO_{subset}_{image_id:0>12}.jpg"),
            "image_id": image_id,
            "record_id": str(question["question_id"]),
            "condition": "conversation",
        }
        if self.answer_file is None:
            return {**row, "conversation": question_messages(question["question"], self.config.instruction, None)}
        if annotation is None:
            raise ValueError(f"{self.answer_file} has no answers to it")
        if str(annotation["image_id"]) != image_id:
            raise ValueError(f"it is about image {image_id}, but its answers in {self.answer_file} about image {annotation['image_id']}")
        answers = [answer["answer"] for answer in annotation["answers"]]
        if not answers or not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"expected as answers a list of at least one text, got {answers!r:.80}")
        return {
            **row,
            "conversation": question_messages(question["question"], self.config.instruction, annotation["multiple_choice_answer"]),
            "answers": answers,
            "tags": [f"question_type:{annotation['question_type']}", f"answer_type:{annotation['answer_type']}"],
        }

    def _by_question(self, file: str, key: str) -> dict[str, Mapping[str, Any]]:
        entries = self.json(file, keys=(key,))[key]
        found = {str(entry.get("question_id")): entry for entry in entries}  # numbers in one file may be text in the other
        if len(found) < len(entries):
            raise ValueError(
                f"{self.title}: {self.path(file)} has {len(entries) - len(found)} question ids twice or more; "
                f"see the docs page {self.docs_page}"
            )
        return found
