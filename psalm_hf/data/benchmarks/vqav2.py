"""VQA v2: open questions about images of COCO, ten answers each. See docs/datasets/vqav2.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...structures import CONVERSATION
from ..files import FileBuilder, FileConfig
from .conversations import SHORT_ANSWER, question_messages

# split -> (of the question file, of the images); only splits of 2014 have public answers
_SUBSETS = {
    "train": ("train2014", "train2014"),
    "val": ("val2014", "val2014"),
    "test_dev": ("test-dev2015", "test2015"),
    "test": ("test2015", "test2015"),
}
_ANSWERED = ("train", "val")


class QuestionRecord(NamedTuple):
    """Question and its annotation. `annotation` is None if there is none."""

    question: Mapping[str, Any]
    annotation: Mapping[str, Any] | None


@dataclass
class VqaConfig(FileConfig):
    """`instruction`: line after the question; "" = none."""

    instruction: str = SHORT_ANSWER


class Vqav2(FileBuilder):
    """VQA v2, one row per question; the assistant gives the most frequent answer."""

    BUILDER_CONFIG_CLASS = VqaConfig
    summary = "open questions about images of COCO, ten answers each"
    docs_page = "VQA v2"
    splits = ("train", "val", "test_dev", "test")
    published = {"train": {"questions": 443_757}, "val": {"questions": 214_354}, "test": {"questions": 447_793}}

    @property
    def file(self) -> str:
        return f"v2_OpenEnded_mscoco_{_SUBSETS[self.config.split][0]}_questions.json"

    @property
    def answer_file(self) -> str | None:
        """The file of the answers, below `data_dir`; None if they are not public."""
        return f"v2_mscoco_{_SUBSETS[self.config.split][0]}_annotations.json" if self.config.split in _ANSWERED else None

    def annotation_files(self) -> tuple[str, ...]:
        return (self.file,) if self.answer_file is None else (self.file, self.answer_file)

    def records(self) -> list[QuestionRecord]:
        """Questions in the order of their file, which may have fewer than the file of the answers."""
        annotations = {} if self.answer_file is None else self._by_question(self.answer_file, "annotations")
        return [QuestionRecord(question, annotations.get(id)) for id, question in self._by_question(self.file, "questions").items()]

    def counts(self) -> dict[str, int]:
        return {"questions": len(self.json(self.file, keys=("questions",))["questions"])}

    def describe(self, record: QuestionRecord) -> str:
        return f"{self.file}, question {record.question['question_id']}"

    def row(self, record: QuestionRecord) -> dict[str, Any]:
        question, annotation = record
        image_id = str(question["image_id"])
        subset = _SUBSETS[self.config.split][1]
        row = {
            **self.image(f"{subset}/COCO_{subset}_{image_id:0>12}.jpg"),
            "image_id": image_id,
            "record_id": str(question["question_id"]),
            "condition": CONVERSATION,
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
            raise ValueError(self.message(f"{self.path(file)} has {len(entries) - len(found)} question ids twice or more"))
        return found
