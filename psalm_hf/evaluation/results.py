"""Results of an evaluation, as JSON and as Markdown, beside what was published."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download

from ..data.features import SampleDataset
from ..structures import REGION_KINDS
from ..writing import write_file, write_json
from .baselines import Baseline
from .benchmarks import Benchmark, OpenPart
from .evaluators.base import Evaluator, Numbers
from .groups import group_means, seen_and_unseen
from .runner import sums

# In the row for a table; the other numbers, and those of groups, are in results.json.
TABLE_COLUMNS = (
    *("PQ", "PQ-things", "PQ-stuff", "AP", "mIoU", "cIoU", "gIoU", "N-acc", "T-acc"),
    *("J&F", "J-Mean", "F-Mean", "IoU", "accuracy", "F1", "cgF1"),
)
MAIN = ("PQ", "AP", "mIoU")  # also averaged over the categories that training has seen, and over the others


@dataclass(frozen=True)
class Results:
    """Results of an evaluation: the fields of results.json. All but `run` is the same for any number of processes.

    Attributes:
        benchmark, split: names of both.
        protocol: its name, and every choice.
        data: which parts, further options of the dataset, and how many images.
        checkpoint: name and checksum; None where predictions of another origin were evaluated, or nothing was said.
        dtype: of the weights.
        rows: fingerprint of the rows by part.
        percent: all numbers by name; what nothing defines is left out. A name that two parts share has the part's before it.
        baselines: of answers that need no model, under the same names.
        parts: by part its percent, baselines, per_category, counts, and the choices by evaluator.
        published: by part the numbers of the paper and of other methods; `is_comparable` says whether it was measured as here.
        versions: of Python and the libraries.
        run: seconds, processes, batch size, device.
    """

    benchmark: str
    split: str
    protocol: dict[str, Any]
    data: dict[str, Any]
    checkpoint: dict[str, str] | None
    dtype: str | None
    rows: dict[str, Any]
    percent: Numbers
    baselines: Numbers
    parts: dict[str, Any]
    published: dict[str, Any]
    versions: dict[str, str]
    run: dict[str, Any]

    def write(self, folder: Path) -> None:
        """results.json, and results.md: a row of a table, and a table with the methods that the paper compares with."""
        tables = markdown_row(self) + "".join(markdown_comparisons(self))
        write_file(folder / "results.md", lambda file: file.write(tables.encode("utf-8")))
        write_json(folder / "results.json", asdict(self), indent=1)  # last: whoever finds it finds all

    def __str__(self) -> str:
        """The numbers line by line, groups of groups left out; in brackets those of baselines."""
        lines = [f"{self.benchmark} {self.split}, protocol {self.protocol['name']}"]
        for name, value in self.percent.items():
            if name.count(", ") < 2:
                lines.append(f"  {name:<36}{value:7.2f}" + (f" ({self.baselines[name]:.2f})" if name in self.baselines else ""))
        for part, entry in self.published.items():
            title = "paper" if entry["is_comparable"] else "paper, measured otherwise"
            lines += [f"  {title}{' ' + part if part else ''}: {name} {value}" for name, value in entry["numbers"].items()]
        return "\n".join(lines)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide about numbers."""
    from .. import __version__

    found = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    return {name: str(version) for name, version in (found | {"psalm_hf": __version__}).items()}


def _defined(numbers: Numbers) -> Numbers:
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def part_results(benchmark: Benchmark, part: OpenPart, evaluators: Sequence[Evaluator]) -> dict[str, Any]:
    """Results of a part: `percent` (numbers that nothing defines are left out), `baselines` under the same names, `per_category` by name,
    `counts`, and `protocol` by evaluator."""
    percent: Numbers = {}
    baselines: Numbers = {}
    per_category: dict[str, Numbers] = {}
    for baseline in [each for each in evaluators if isinstance(each, Baseline)]:
        baselines |= baseline.numbers()
    evaluators = [each for each in evaluators if not isinstance(each, Baseline)]
    for evaluator in evaluators:
        names = {category.id: category.name for category in part.targets_of(evaluator.name).categories}
        found = evaluator.per_category()
        percent |= evaluator.numbers()
        if benchmark.is_open:
            for group, means in group_means(found, seen_and_unseen(names)).items():
                percent |= {f"{evaluator.name} {name}, {group}": value for name, value in means.items() if name in MAIN}
        for category_id, numbers in found.items():
            per_category.setdefault(names[category_id].partition(",")[0], {}).update(numbers)
    counts = {"pictures": len(part.dataset.rows.unique("image_id")), "rows": len(part.dataset)}
    percent = _defined(percent)
    return {
        "dataset": part.part.dataset,
        "options": dict(part.options),
        "percent": percent,
        "baselines": {name: value for name, value in _defined(baselines).items() if name in percent},
        "per_category": per_category,
        "counts": counts | _counts(evaluators),
        "protocol": {name: choices for evaluator in evaluators for name, choices in evaluator.protocol().items()},
    }


def joint_results(of_parts: Sequence[Sequence[Evaluator]]) -> dict[str, Any]:
    """Numbers of all parts together; the evaluators of the first part hold them afterwards."""
    totals = sums(of_parts)
    percent = {name: value for evaluator in totals for name, value in evaluator.numbers().items()}
    return {"percent": _defined(percent), "counts": _counts(totals)}


def _counts(evaluators: Sequence[Evaluator]) -> dict[str, int]:
    return {name: number for evaluator in evaluators for name, number in evaluator.counts().items()}


def flat(parts: Mapping[str, Mapping[str, Any]], of: str = "percent") -> Numbers:
    """The numbers of all parts; where two parts have one of the same name, the part's name stands before it."""
    owners = Counter(name for results in parts.values() for name in results["percent"])
    return {
        name if owners[name] == 1 else f"{part} {name}": value
        for part, results in parts.items()
        for name, value in results.get(of, {}).items()
    }


def beside(benchmark: Benchmark, parts: Sequence[OpenPart], is_joint: bool, is_released: bool, data: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of the paper, of PSALM and of other methods, by part; {} where it has none.

    Args:
        is_released: our choices are the released ones. Then, on all images and with the paper's options of the dataset, the entry
            `is_comparable`.
        data: of `Results`.
    """
    found = {part.part.name: benchmark.published_for(part.split, part.part.name) for part in parts}
    if is_joint:
        found["all"] = benchmark.published_for("all")
    return {
        name: asdict(entry) | {"is_comparable": is_released and data["limit"] is None and data["options"] == entry.options}
        for name, entry in found.items()
        if entry is not None
    }


def describe_checkpoint(checkpoint: str) -> dict[str, str]:
    """Name of a checkpoint (a folder, or on the Hub) and its `checkpoint_hash`."""
    name = Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint
    return {"name": name, "sha256": checkpoint_hash(checkpoint)}


def checkpoint_hash(checkpoint: str) -> str:
    """SHA-256 of the files that make a model and its processor: weights, configs, tokenizer.

    Args:
        checkpoint: folder or Hub id.
    """
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else Path(snapshot_download(checkpoint))  # whole, the weights too
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        is_part = path.suffix in (".safetensors", ".json", ".jinja", ".txt", ".model")
        is_part |= path.suffix == ".bin" and path.name.startswith(("pytorch_model", "adapter_model"))  # others are of a training run
        if is_part and path.is_file():
            total.update(path.name.encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def fingerprint(dataset: SampleDataset) -> dict[str, Any]:
    """Fingerprint by which the rows of a dataset are known again: their number, and a SHA-256 of their ids."""
    names = zip(dataset.rows["image_id"], dataset.rows["record_id"], strict=True)
    return {"number": len(dataset), "sha256": hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()}


def markdown_row(results: Results) -> str:
    """A table of one row: our numbers, and in brackets the paper's where they were measured alike."""
    paper = {
        name if name in results.percent else f"{part} {name}": value if entry["is_comparable"] else None
        for part, entry in results.published.items()
        for name, value in entry["numbers"].items()
    }
    columns = {
        name: f"{value:.1f}" + ("" if paper.get(name) is None else f" ({paper[name]:.1f})")
        for name, value in results.percent.items()
        if name in paper or _is_column(name)
    }
    pictures = max(part["counts"].get("pictures", 0) for part in results.parts.values())
    row = [results.benchmark, results.split, results.protocol["name"], str(pictures), *columns.values()]
    return _table(["benchmark", "split", "protocol", "pictures", *columns], [row])


def markdown_comparisons(results: Results) -> list[str]:
    """Tables of the methods of the paper, with notes below, one for each part that the paper reports."""
    tables = []
    for part, entry in results.published.items():
        ours = {name: results.parts[part]["percent"].get(name) for name in entry["numbers"]}
        is_alike = "this, measured as the paper" if entry["is_comparable"] else "this, measured otherwise than the paper"
        rows, notes = [[is_alike, *map(_cell, ours.values())], ["PSALM, by its paper", *map(_cell, entry["numbers"].values())]], []
        for other in entry["comparisons"]:
            if other["note"]:
                notes.append(other["note"])
            mark = f"[{len(notes)}] " if other["note"] else ""
            title = ", ".join(filter(None, (other["method"], other["details"])))
            rows.append([title, *(_cell(other["numbers"].get(name), mark) for name in ours)])
        lines = [f"Protocol of the paper: {entry['protocol']}.", *(f"[{number}] {note}." for number, note in enumerate(notes, 1))]
        tables.append("\n" + _table([f"method{' on ' + part if part else ''}", *ours], rows) + "\n" + "\n\n".join(lines) + "\n")
    return tables


def _cell(value: float | None, mark: str = "") -> str:
    if value is None:
        return ""
    return f"{mark}{value:.1f}" if value >= 1 else f"{mark}{value:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)) + "\n"


def _is_column(name: str) -> bool:
    number, _, group = name.partition(", ")
    return number.split()[-1] in TABLE_COLUMNS and (not group or group in REGION_KINDS)
