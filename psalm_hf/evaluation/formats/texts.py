"""Answers to questions, in the files that the evaluators of VQAv2, ScienceQA, MMBench and POPE read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ...data.benchmarks.mmbench import LETTERS, LONGEST_CELL
from ...data.features import SampleDataset
from ...structures import Sample
from .images import json_id, write_entries
from .reading import json_lines, read_id, read_json, read_text_value, read_utf8, shown

Texts = Iterator[tuple[str, str, str]]  # question id, text, place in the file


class TextFile:
    """Base: one file with an answer to each question.

    Attributes:
        file: its name.
        without: answer where there is none; None = all questions must be answered.
    """

    file: ClassVar[str]
    without: ClassVar[dict[str, str] | None] = None

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> answer.

        Args:
            path: the file, or the folder that it lies in.

        Raises:
            ValueError: a line or entry is none of this format; answers to unknown questions, twice to the same, or not to all.
        """
        path = path / self.file if path.is_dir() else path
        rows = {id: row for row, id in enumerate(dataset.rows["record_id"])}
        answers: dict[int, Any] = {}
        for id, text, place in self.texts(path):
            if id not in rows:
                raise ValueError(f"{place}: question {id} is none of the {len(rows)} that are asked; give the predictions of this split")
            if rows[id] in answers:
                raise ValueError(f"{place}: question {id} was answered before; give one answer to each")
            answers[rows[id]] = {"text": text}
        missing = [id for id, row in rows.items() if row not in answers]
        if missing and self.without is None:
            raise ValueError(
                f"{path}: no answer to {len(missing)} of {len(rows)} questions, such as question {missing[0]}; answer them all"
            )
        return {row: answers.get(row, self.without) for row in rows.values()}

    def texts(self, path: Path) -> Texts:
        """Question id, text, and place in the file of every answer."""
        raise NotImplementedError


class VqaResults(TextFile):
    """`vqav2_results.json`: the list `[{"question_id": int, "answer": str}]` that the evaluator and the server of VQA take.

    They demand an answer to every question.
    """

    file = "vqav2_results.json"

    def write(self, folder: Path, answers: Iterable[tuple[Sample, Any]]) -> None:
        """One answer per line."""
        entries = ({"question_id": json_id(sample.record_id), "answer": answer["text"]} for sample, answer in answers)
        with (folder / self.file).open("w", encoding="utf-8") as file:
            write_entries(file, entries)

    def texts(self, path: Path) -> Texts:
        entries = read_json(path)
        if not isinstance(entries, list):
            raise ValueError(f"{path}: expected a list of {{'question_id', 'answer'}}, got {type(entries).__name__}")
        return (_fields(entry, "question_id", "answer", f"{path}, entry {index}") for index, entry in enumerate(entries))


class ScienceQaAnswers(TextFile):
    """`scienceqa_answers.jsonl`: `{"question_id", "prompt", "text"}` per line, as LLaVA's `eval_science_qa.py` reads it.

    In a prompt, "<image>" stands for the image; by it the evaluator knows which questions have one. It takes a question without answer as
    wrong, and so does `read`.
    """

    file = "scienceqa_answers.jsonl"
    without: ClassVar[dict[str, str] | None] = {"text": ""}

    def write(self, folder: Path, answers: Iterable[tuple[Sample, Any]]) -> None:
        """One answer per line."""
        with (folder / self.file).open("w", encoding="utf-8") as file:
            for sample, answer in answers:
                prompt = sample.conversation[0]["content"]
                if sample.image is not None:
                    prompt = f"<image>\n{prompt}"
                file.write(json.dumps({"question_id": sample.record_id, "prompt": prompt, "text": answer["text"]}) + "\n")

    def texts(self, path: Path) -> Texts:
        return (_fields(entry, "question_id", "text", place) for entry, place in json_lines(path))


class MmBenchTable(TextFile):
    """`mmbench_predictions.tsv`: columns index, question, A, B, C, D and prediction, a line per pass.

    The evaluation toolkit reads it; the submission page wants the same table as an xlsx file, which any spreadsheet program makes of it.
    Only index and prediction are read, so that a table of predictions with more columns can be scored.
    """

    file = "mmbench_predictions.tsv"
    columns = ("index", "question", *LETTERS, "prediction")

    def write(self, folder: Path, answers: Iterable[tuple[Sample, Any]]) -> None:
        """One pass per line; the question includes its hint."""
        with (folder / self.file).open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, self.columns, delimiter="\t", restval="")
            table.writeheader()
            for sample, answer in answers:
                question = sample.conversation[0]["content"].partition(f"\nA. {sample.choices[0]}\n")[0]
                options = dict(zip(LETTERS, sample.choices, strict=False))
                table.writerow({"index": sample.record_id, "question": question, **options, "prediction": answer["text"]})

    def texts(self, path: Path) -> Texts:
        if path.suffix == ".xlsx":
            raise ValueError(f"{path}: a spreadsheet; save it as a tab-separated table (TSV)")
        csv.field_size_limit(LONGEST_CELL)  # the table may have kept the images
        table = csv.DictReader(io.StringIO(read_utf8(path, newline=""), newline=""), delimiter="\t")
        try:
            missing = {"index", "prediction"} - set(table.fieldnames or ())
            if missing:
                raise ValueError(f"{path}: expected a tab-separated table with index and prediction, but there is no {min(missing)}")
            for number, line in enumerate(table, 1):
                yield _fields(line, "index", "prediction", f"{path}, row {number}")
        except csv.Error as error:
            raise ValueError(f"{path}, line {table.line_num}: no table ({error})") from error


class PopeAnswers(TextFile):
    """`pope_answers.jsonl`: `{"question", "answer"}` per line, as POPE's `evaluate.py` reads it.

    That goes by the order alone: line 5 answers question 5 of the file. The questions tell whether it is the right one.
    """

    file = "pope_answers.jsonl"

    def write(self, folder: Path, answers: Iterable[tuple[Sample, Any]]) -> None:
        """One answer per line, which must come in the order of the rows."""
        with (folder / self.file).open("w", encoding="utf-8") as file:
            for sample, answer in answers:
                file.write(json.dumps({"question": _question(sample.conversation), "answer": answer["text"]}) + "\n")

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """See `TextFile`; there must be a line for each row, about its question."""
        path = path / self.file if path.is_dir() else path
        found = [_fields(entry, "question", "answer", place) for entry, place in json_lines(path)]
        asked = [_question(conversation) for conversation in dataset.rows["conversation"]]
        if len(found) != len(asked):
            raise ValueError(f"{path}: {len(found)} answers to {len(asked)} questions; give a line for each line of the question file")
        for (question, _, place), expected in zip(found, asked, strict=True):
            if question != expected:
                raise ValueError(f"{place}: answers {question!r}, but the question there is {expected!r}; keep the order of the file")
        return {row: {"text": text} for row, (_, text, _) in enumerate(found)}


def _question(conversation: Iterable[Mapping[str, str]]) -> str:
    """Question of a row of POPE, without the instruction, which is a line of its own."""
    return next(iter(conversation))["content"].partition("\n")[0]


def _fields(entry: Any, id: str, text: str, place: str) -> tuple[str, str, str]:
    if not isinstance(entry, Mapping) or id not in entry or not isinstance(entry.get(text), str):
        raise ValueError(f"{place}: expected {id!r} and a text {text!r}, got {shown(entry)}")
    return read_id(entry[id], f"{place}, {id}"), read_text_value(entry[text], place, text), place
