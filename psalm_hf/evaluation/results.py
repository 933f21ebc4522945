"""What an evaluation found, as JSON and as Markdown, beside what was published."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ..data.features import SampleDataset
from ..structures import REGION_KINDS
from .benchmarks import OpenPart
from .groups import group_means, seen_and_unseen
from .measures import Measure, Numbers
from .published import published

OPEN_VOCABULARY = ("ade20k", "cityscapes", "pc59", "pc459", "voc20", "voc21", "lvis")  # with categories that COCO does not have
# In the row for a table; the other numbers, and those of groups, are in results.json.
COLUMNS = (
    "PQ",
    "PQ-things",
    "PQ-stuff",
    "AP",
    "mIoU",
    "cIoU",
    "gIoU",
    "N-acc",
    "T-acc",
    "J&F",
    "J-Mean",
    "F-Mean",
    "IoU",
    "accuracy",
    "F1",
)
MAIN = ("PQ", "AP", "mIoU")  # also averaged over the categories that training has seen, and over the others


def part_results(benchmark: str, part: OpenPart, measures: Sequence[Measure]) -> dict[str, Any]:
    """Numbers of one part: `percent` (what nothing defines is left out), `per_category` by name, `counts`, `protocol` by measure."""
    percent: Numbers = {}
    per_category: dict[str, Numbers] = {}
    for measure in measures:
        names = {category.id: category.name for category in part.truths.get(measure.name, part.dataset).categories}
        found = measure.per_category()
        percent |= measure.numbers()
        if benchmark in OPEN_VOCABULARY:
            for group, means in group_means(found, seen_and_unseen(names)).items():
                percent |= {f"{measure.name} {name}, {group}": value for name, value in means.items() if name in MAIN}
        for category_id, numbers in found.items():
            per_category.setdefault(names[category_id].partition(",")[0], {}).update(numbers)
    counts = {"pictures": len(part.dataset.rows.unique("image_id")), "rows": len(part.dataset)}
    return {
        "dataset": part.part.dataset,
        "options": dict(part.options),
        "percent": {name: value for name, value in percent.items() if not math.isnan(value)},
        "per_category": per_category,
        "counts": counts | {name: number for measure in measures for name, number in measure.counts().items()},
        "protocol": {name: choices for measure in measures for name, choices in measure.protocol().items()},
    }


def joint_results(judged: Sequence[Sequence[Measure]]) -> dict[str, Any]:
    """Numbers of all parts together; the measures of the first part hold them afterwards."""
    totals = list(judged[0])
    for measures in judged[1:]:
        for index, measure in enumerate(measures):
            totals[index] += measure
    percent = {name: value for measure in totals for name, value in measure.numbers().items() if not math.isnan(value)}
    return {"percent": percent, "counts": {name: number for measure in totals for name, number in measure.counts().items()}}


def flat(parts: Mapping[str, Mapping[str, Any]]) -> Numbers:
    """The numbers of all parts; where two parts have one of the same name, the part's name stands before it."""
    owners = Counter(name for results in parts.values() for name in results["percent"])
    return {
        name if owners[name] == 1 else f"{part} {name}": value
        for part, results in parts.items()
        for name, value in results["percent"].items()
    }


def beside(benchmark: str, parts: Sequence[OpenPart], is_joint: bool) -> dict[str, Any]:
    """What the paper says about a benchmark and about other methods on it, by part; {} where it says nothing."""
    found = {part.part.name: published(benchmark, part.split, part.part.options.get("direction")) for part in parts}
    if is_joint:
        found["all"] = published(benchmark, "all")
    return {name: asdict(entry) for name, entry in found.items() if entry is not None}


def checkpoint_hash(checkpoint: str) -> str:
    """SHA-256 of the files that make a model and its processor: weights, configs, tokenizer.

    Args:
        checkpoint: folder or Hub id.
    """
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else Path(snapshot_download(checkpoint))  # whole, the weights too
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja", ".txt", ".model") and path.is_file():
            total.update(path.name.encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def fingerprint(dataset: SampleDataset) -> dict[str, Any]:
    """By which the rows of a dataset are known again: their number, and a SHA-256 of what they are called."""
    names = zip(dataset.rows["image_id"], dataset.rows["record_id"], strict=True)
    return {"number": len(dataset), "sha256": hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()}


def markdown_row(results: Mapping[str, Any]) -> str:
    """A table of one row for docs/results.md: our numbers, and in brackets the paper's."""
    paper = {
        name if name in results["percent"] else f"{part} {name}": value
        for part, entry in results["published"].items()
        for name, value in entry["numbers"].items()
    }
    columns = {
        name: f"{value:.1f}" + (f" ({paper[name]:.1f})" if name in paper else "")
        for name, value in results["percent"].items()
        if name in paper or _is_column(name)
    }
    head = ["benchmark", "split", "protocol", "pictures", *columns]
    pictures = max(part["counts"].get("pictures", 0) for part in results["parts"].values())
    row = [results["benchmark"], results["split"], results["protocol"]["name"], str(pictures), *columns.values()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), row)) + "\n"


def _is_column(name: str) -> bool:
    number, _, group = name.partition(", ")
    return number.split()[-1] in COLUMNS and (not group or group in REGION_KINDS)
