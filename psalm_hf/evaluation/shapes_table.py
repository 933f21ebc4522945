"""Reports of the shapes world as tables: to read in a terminal, and as Markdown for a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..structures import REGION_KINDS
from .shapes import ShapesReport

_SCORED = ", scored"
_TARGETS = ("with target", "attribute", "superlative", "ordinal", "relation", "one target", "several targets")
_THINGS = ("below 2 %", "larger", "seen", "held out")
_PANOPTIC = tuple(f"{number}{part}" for number in ("PQ", "SQ", "RQ") for part in ("", "-things", "-stuff"))


@dataclass(frozen=True)
class Section:
    """A part of the table. `rows` are (label, name of the number); `has_scored` sections show both rules of an answer side by side."""

    title: str
    rows: tuple[tuple[str, str], ...]
    has_scored: bool = False


SECTIONS = (
    Section("Panoptic, released thresholds 0.8", tuple((name, f"panoptic {name}, released thresholds") for name in _PANOPTIC)),
    Section("Panoptic, thresholds 0.5", tuple((name, f"panoptic {name}, thresholds 0.5") for name in _PANOPTIC)),
    Section("Semantic", (("mIoU", "semantic mIoU"),)),
    Section(
        "Instance",
        tuple((name, f"instance {name}") for name in ("AP", "AP50", "AP, below 2 %", "AP, larger")),
    ),
    Section("Things found, thresholds 0.5", tuple((group, f"things found, {group}") for group in ("all", *_THINGS))),
    Section("Referring cIoU", tuple((group, f"referring cIoU, {group}") for group in (*_TARGETS, *_THINGS)), has_scored=True),
    Section("Referring mIoU", tuple((group, f"referring mIoU, {group}") for group in (*_TARGETS, *_THINGS)), has_scored=True),
    Section(
        "Referring, with and without target",
        (
            ("gIoU", "referring gIoU, all"),
            ("cIoU", "referring cIoU, all"),
            ("N-acc", "referring N-acc"),
            ("T-acc", "referring T-acc"),
        ),
        has_scored=True,
    ),
    *(
        Section(
            f"Region, {kind}",
            (
                ("mIoU", f"region mIoU, {kind}"),
                ("cIoU", f"region cIoU, {kind}"),
                *((f"mIoU, {group}", f"region mIoU, {kind}, {group}") for group in _THINGS),
            ),
        )
        for kind in REGION_KINDS
    ),
    Section(
        "Answers right",
        tuple((group, f"answers right, {group}") for group in ("all", "color", "count", "relation", "existence")),
    ),
)


def text_table(reports: Mapping[str, ShapesReport]) -> str:
    """Aligned columns: the model on every split, then the answers without a model ("baseline").

    Args:
        reports: split -> its report.
    """
    tables = [_cells(section, reports) for section in SECTIONS]
    width = max(len(row[0]) for table in tables for row in table) + 4
    blocks = []
    for header, *rows in tables:
        lines = [header[0].ljust(width) + _aligned(header[1:], header)]
        lines += [f"  {row[0]}".ljust(width) + _aligned(row[1:], header) for row in rows]
        if rows:
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def markdown_table(reports: Mapping[str, ShapesReport]) -> str:
    """The same as Markdown, one table per section."""
    blocks = []
    for header, *rows in (_cells(section, reports) for section in SECTIONS):
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        if rows:
            blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(blocks)


def _cells(section: Section, reports: Mapping[str, ShapesReport]) -> list[list[str]]:
    """Header and rows, the label first; rows without any number are left out, and so are columns of baselines without any."""
    columns: list[tuple[str, Mapping[str, float], str]] = []  # title, numbers, what their names end with
    for split, report in reports.items():
        columns.append((split, report.percent, ""))
        if section.has_scored:
            columns.append((f"{split}{_SCORED}", report.percent, _SCORED))
    for split, report in reports.items():
        if any(name in report.baselines for _, name in section.rows):
            columns.append((f"{split}, baseline", report.baselines, ""))
    rows = [[label, *(_number(numbers.get(name + suffix)) for _, numbers, suffix in columns)] for label, name in section.rows]
    return [[section.title, *(title for title, *_ in columns)], *(row for row in rows if any(row[1:]))]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _aligned(cells: list[str], header: list[str]) -> str:
    return "".join(cell.rjust(max(len(title), 5) + 3) for cell, title in zip(cells, header[1:], strict=True)).rstrip()
