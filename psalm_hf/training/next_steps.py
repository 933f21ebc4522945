"""Words at the end of a run: where its checkpoint lies, and the commands that measure and use it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..data.load import dataset_builder, why_not
from ..data.own.holdout import HELD_OUT_SPLIT
from ..masks import bitmap_from_rle, box_from_bitmap
from ..structures import CATEGORY, CONVERSATION, REGION, SENTENCE

_OF_READING = ("dataset", "split", "data_dir", "streaming", "shuffle_buffer", "num_proc", "cache_dir")  # not of what is asked for
_SHOWN_CATEGORIES = 5


def has_own_data(options: Mapping[str, Any]) -> bool:
    """True for a source of own data."""
    return "holdout" in dataset_builder(options.get("dataset", "shapes")).options()


def why_nothing_is_held_out(options: Mapping[str, Any]) -> str | None:
    """Tells why a source of own data has no images to be measured on; None if it has."""
    further = {name: value for name, value in options.items() if name not in (*_OF_READING, "condition")}
    return why_not(options["dataset"], HELD_OUT_SPLIT, options["data_dir"], cache_dir=options.get("cache_dir"), **further)


def evaluate_command(checkpoint: Path, options: Mapping[str, Any]) -> str:
    """Command that measures a checkpoint on the held-out images of a source, or on the benchmark of its dataset."""
    dataset = options.get("dataset", "shapes")
    words = ["psalm", "evaluate", "--benchmark", dataset, "--checkpoint", str(checkpoint), "--output-dir", str(checkpoint / "results")]
    if options.get("data_dir") is not None:
        words += ["--data-dir", str(options["data_dir"])]
    if has_own_data(options):
        further = {name: value for name, value in options.items() if name not in _OF_READING}
        words += ["--split", HELD_OUT_SPLIT]
        words += ["--options", yaml.safe_dump(further, default_flow_style=True, width=10**6).strip()] if further else []
    return shlex.join(words)


def segment_command(checkpoint: Path, source: Any) -> str:
    """Command that segments the first image of a source as its first row asks for it."""
    dataset = getattr(source, "dataset", None)
    rows = getattr(dataset, "rows", None)
    words = ["psalm", "segment"]
    if not hasattr(rows, "__len__"):  # shapes are drawn, and what is streamed is not read again for this
        return shlex.join([*words, "--checkpoint", str(checkpoint)])
    row = rows[0]
    words += [(row["image"] or {}).get("path") or "IMAGE", "--checkpoint", str(checkpoint)]
    if row["condition"] == SENTENCE:
        words += ["--expression", row["expressions"][0]]
    elif row["condition"] == CATEGORY and dataset.categories:
        words += ["--categories", *(category.name for category in dataset.categories[:_SHOWN_CATEGORIES]), "--task", dataset.task]
    elif row["condition"] == REGION:
        words += ["--box", ",".join(f"{edge:g}" for edge in box_from_bitmap(bitmap_from_rle(dataset[0].segments[0].mask_rle)))]
    return shlex.join(words)


def next_steps(checkpoint: Path, options: Mapping[str, Mapping[str, Any]], sources: Mapping[str, Any]) -> str:
    """Line that says where a checkpoint lies, which command measures it and which one uses it.

    Args:
        checkpoint: folder that was written.
        options: source -> its dataset and options.
        sources: source -> its samples, of which the first that is no conversation is named.
    """
    name = next((name for name in sources if not _is_conversation(sources[name])), next(iter(sources)))
    measure = evaluate_command(checkpoint, options.get(name, {}))
    if has_own_data(options.get(name, {})) and why_nothing_is_held_out(options[name]):
        measure = "on images of its own, of which this run held out none (holdout: 0.1)"
    return f"checkpoint: {checkpoint}; measure it: {measure}; use it: {segment_command(checkpoint, sources[name])}"


def _is_conversation(source: Any) -> bool:
    rows = getattr(getattr(source, "dataset", None), "rows", None)
    return rows[0]["condition"] == CONVERSATION if hasattr(rows, "__len__") else getattr(source, "task", None) == "conversation"
