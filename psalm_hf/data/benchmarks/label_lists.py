"""Names of the categories of each benchmark, with synonyms: the lists of `labels/`. See docs/label_lists.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal

# Benchmark -> file of `labels/`, and which of its lines.
_LISTS: Mapping[str, tuple[str, slice]] = {
    "coco_panoptic": ("coco_133", slice(None)),
    "coco_semantic": ("coco_133", slice(None)),
    "coco_instance": ("coco_133", slice(80)),  # the things come first
    "ade20k": ("ade20k_150", slice(None)),
    "cityscapes": ("cityscapes_19", slice(None)),
    "pc59": ("pascal_context_59", slice(None)),
    "pc459": ("pascal_context_459", slice(None)),
    "voc20": ("pascal_voc_21", slice(1, None)),  # without the background
    "voc21": ("pascal_voc_21", slice(None)),
    "lvis": ("lvis_1203", slice(None)),
}

# Option `names`: a category is prompted by one name, or by all its names with commas between them, which are ONE name.
NameRule = Literal["first", "synonyms"]

# Benchmark -> the rule of the released evaluation: all names of a category, but of more than 200 categories the first alone; for Cityscapes
# the list of synonyms is switched off. It evaluates neither voc21 nor lvis. Source: PSALM (github.com/zamling/PSALM, d5dbfda), psalm/eval.
RELEASED_RULES: Mapping[str, str] = {
    "ade20k": "synonyms",
    "cityscapes": "first",
    "pc59": "synonyms",
    "pc459": "first",
    "voc20": "synonyms",
}


@cache
def label_list(benchmark: str) -> tuple[tuple[str, ...], ...]:
    """Names of each category, the first one and its synonyms, in the order in which the benchmark counts its categories.

    Raises:
        ValueError: a benchmark without a list.
    """
    if benchmark not in _LISTS:
        raise ValueError(f"{benchmark!r} has no list of names, expected one of {', '.join(_LISTS)}")
    file, part = _LISTS[benchmark]
    return tuple(tuple(line.split(",")) for line in _lines(file)[part])


def joined_names(benchmark: str) -> list[str]:
    """Name of each category by the rule "synonyms": all its names with commas between them, without blanks behind them.

    Raises:
        ValueError: a benchmark without a list.
    """
    return [",".join(names) for names in label_list(benchmark)]


def lvis_frequencies() -> tuple[str, ...]:
    """Frequency of each category of LVIS v1: in 1 to 10 images of the training split "r", in 11 to 100 "c", in more "f"."""
    return tuple(_lines("lvis_1203_frequency"))


def _lines(file: str) -> list[str]:
    return resources.files(__package__).joinpath(f"labels/{file}.txt").read_text(encoding="utf-8").splitlines()
