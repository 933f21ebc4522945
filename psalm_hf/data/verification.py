"""Checks of a dataset on disk: every record, every image and mask, and the published counts; and drawings of some rows."""

import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from ..masks import area
from ..spelling import did_you_mean
from ..visualization import contact_sheet, draw_sample
from ..writing import write_file
from .features import ROW_FEATURES, sample_from_row
from .files import BrokenObjectsError, FileBuilder, far_note
from .load import dataset_builder

CHUNK = 16  # records that a process checks at a time


def verify(
    dataset: str,
    folder: str | Path | None = None,
    *,
    splits: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    limit: int = 100,
    num_proc: int = 1,
    num_shown: int = 0,
    output: Path | None = None,
) -> bool:
    """Prints what is wrong, the counts and a summary of every split.

    Args:
        dataset: a name of `list_datasets()`.
        folder: its data_dir; none for datasets without files.
        splits: splits to check; () = all whose files are there.
        options: of the dataset.
        limit: number of broken records of a split that are printed; the rest is counted.
        num_proc: processes.
        num_shown: number of rows of each split that are drawn, spread evenly, into the folder `output`.

    Returns:
        True if no record is broken and no count differs from the published one.

    Raises:
        ValueError: an unknown dataset, split or option, with a similar known one; no split is there.
        FileNotFoundError: the folder, or a file of a split that was asked for, does not exist.
    """
    results = []
    with tempfile.TemporaryDirectory() as cache_dir:  # datasets makes locks in it
        # All of them first: an option that fails for one shall not do so after hours.
        waiting = list(builders(dataset, folder, splits, options or {}, cache_dir))
        while waiting:  # a builder is freed when it is done, with what it has read
            results.append(verify_split(waiting.pop(0), limit=limit, num_proc=num_proc, num_shown=num_shown, output=output))
    if not results:
        raise ValueError(f"no split of {dataset} is in {folder}")
    return all(results)


def builders(dataset: str, folder: str | Path | None, splits: Sequence[str], options: Mapping[str, Any], cache_dir: str) -> Iterator[Any]:
    """Builders of the splits to be checked; prints those that are left out because their files are absent.

    Raises:
        ValueError, FileNotFoundError: see `verify`.
    """
    entry = dataset_builder(dataset)
    if entry.needs_files and (folder is None or not os.path.isdir(folder)):
        fault = f"{folder} is a file, not a folder" if folder and os.path.isfile(folder) else f"the folder {folder} does not exist"
        raise FileNotFoundError(f"{fault}; give the data_dir of {dataset}, see the docs page {entry.docs_page}")
    if not entry.splits and not splits:
        raise ValueError(f"{dataset}: a split may have any name; say which with --split")
    unknown = [split for split in splits if entry.splits and split not in entry.splits]
    if unknown:
        raise ValueError(
            f"{dataset}: unknown split {', '.join(unknown)}, expected some of {', '.join(entry.splits)}"
            + did_you_mean(unknown[0], entry.splits)
        )
    if "on_error" in options:
        raise ValueError(f"{dataset}: on_error is an option of load, train and evaluate; verify reports every broken record, leave it out")
    known = [option for option in entry.options() if option not in ("check_images", "on_error")]  # which are decided here
    if unknown := sorted(options.keys() - set(known)):
        raise ValueError(
            f"{dataset}: unknown option {', '.join(unknown)}, expected {', '.join(known) or 'none'}{did_you_mean(unknown[0], known)}"
        )

    of_files = {"data_dir": os.path.abspath(folder), "check_images": True} if entry.needs_files else {}
    for split in splits or entry.splits:
        try:
            yield entry(cache_dir=cache_dir, config_name=dataset, split=split, **options, **of_files)
        except FileNotFoundError as error:
            if splits:
                raise
            print(f"{dataset} {split}: left out, its files are absent ({error})")


@dataclass
class Report:
    """Counts and problems of some records; reports add up."""

    problems: list[str] = field(default_factory=list)
    rows: int = 0
    segments: int = 0
    crowds: int = 0
    empty_masks: int = 0
    categories: Counter = field(default_factory=Counter)  # id -> segments
    images: set[str] = field(default_factory=set)
    far_objects: list[str] = field(default_factory=list)  # record of each object far outside of its image

    def add(self, row: dict[str, Any], empty_masks: int) -> None:
        """Counts a row without problems."""
        segments = row.get("segments") or ()
        self.rows += 1
        self.segments += len(segments)
        self.crowds += sum(bool(segment.get("is_crowd")) for segment in segments)
        self.empty_masks += empty_masks
        self.far_objects += row.get("far_objects", ())
        self.categories.update(segment["category_id"] for segment in segments if segment.get("category_id") is not None)
        if row.get("image") is not None:  # a conversation may have none
            self.images.add(row["image_id"])

    def __iadd__(self, other: "Report") -> "Report":
        for name, value in vars(other).items():
            if isinstance(value, set):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)
        return self


class SplitCheck:
    """Records of one split, from files or drawn; every process gets them."""

    def __init__(self, builder: Any):
        self.builder = builder
        self.spans = [tuple(span) for span in builder.shards()["spans"]]

    def __len__(self) -> int:
        return sum(end - first for first, end in self.spans)

    def checked(self, position: int) -> Iterator[dict[str, Any] | ValueError]:
        """Rows of a record, or its error. A record of files has one row."""
        if not isinstance(self.builder, FileBuilder):
            for _, row in self.builder._generate_examples(spans=[[position, position + 1]]):
                yield row
            return
        number = 0
        try:
            for row in self.builder.checked_rows(position, position + 1):
                yield row
                number += 1
        except Exception as error:  # a decoder or builder that fails in a way of its own must not hide the records after it
            yield self.problem(position, error, number)

    def problem(self, position: int, error: Exception, number: int = 0) -> ValueError:
        """Error of a record in which `checked_rows` found none, with its file and id. (`number`: the record among those of this position,
        which may be a file of many.)"""
        try:
            record = next(islice(self.builder.records_of(position, position + 1), number, None))
            place = self.builder.describe(record)
        except Exception:  # as in `FileBuilder`, broken records may have no id; and a file may break off while it is read again
            place = f"record {position} of {self.builder.annotation_files()[0]}"
        return ValueError(f"{self.builder.title}: {place}: {type(error).__name__}: {error}")

    def check(self, span: tuple[int, int]) -> Report:
        """Checks the records from the first of a span to the one before its end."""
        report = Report()
        for position in range(*span):
            for number, row in enumerate(self.checked(position)):
                if isinstance(row, ValueError):
                    report.problems += problems_of(row)
                    continue
                try:
                    pa.Table.from_pylist([row], schema=ROW_FEATURES.arrow_schema)  # whether the columns can hold it
                    masks = [segment["mask"] for segment in row.get("segments") or () if segment.get("mask") is not None]
                    report.add(row, empty_masks=sum(area(mask) == 0 for mask in masks))
                except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
                    report.problems.append(str(self.problem(position, error, number)))
        return report


def problems_of(error: ValueError) -> list[str]:
    """Messages of a broken record: one for each of its broken objects."""
    of_objects = error.__cause__
    if not isinstance(of_objects, BrokenObjectsError):
        return [str(error)]
    place = str(error).removesuffix(str(of_objects))
    return [place + problem for problem in of_objects.problems]


_rows: SplitCheck  # of a worker process


def _take(rows: SplitCheck) -> None:
    global _rows
    _rows = rows


def _check(span: tuple[int, int]) -> Report:
    return _rows.check(span)


def check_rows(rows: SplitCheck, num_proc: int, title: str) -> Report:
    """Checks the whole split, in `num_proc` processes, with a progress bar."""
    chunks = [(first, min(first + CHUNK, len(rows))) for first in range(0, len(rows), CHUNK)]
    report = Report()
    processes = multiprocessing.Pool(num_proc, initializer=_take, initargs=(rows,)) if num_proc > 1 else nullcontext()
    with tqdm(total=len(rows), desc=title, unit=" records", mininterval=0.5) as bar, processes as pool:
        for span, part in zip(chunks, pool.imap(_check, chunks) if pool else map(rows.check, chunks), strict=True):
            report += part
            bar.update(span[1] - span[0])
    return report


def category_problems(builder: Any) -> list[str]:
    """Problems of the categories: ids that are given twice, and names that are the same in a prompt."""
    problems = []
    for what in ("id", "name"):
        counted = Counter(getattr(category, what) for category in builder.categories)
        problems += [f"{builder.title}: {number} categories have the {what} {value!r}" for value, number in counted.items() if number > 1]
    return problems


def compare_counts(found: dict[str, int], published: dict[str, int]) -> tuple[list[str], bool]:
    """Lines to be printed, and True if no count differs."""
    lines, equal = [], True
    for name, number in found.items():
        if name not in published:
            lines.append(f"  {name}: {number:,}")
        elif number == published[name]:
            lines.append(f"  {name}: {number:,}, as published")
        else:
            equal = False
            lines.append(f"  {name}: {number:,}, differs: published are {published[name]:,} (legitimate for a part of the dataset)")
    missing = [name for name in published if name not in found]
    return lines + [f"  {name}: not counted, published are {published[name]:,}" for name in missing], equal and not missing


def show(rows: SplitCheck, number: int, output: Path, name: str) -> int:
    """Draws some rows, without broken ones, and returns their number."""
    names = {category.id: category.name for category in rows.builder.categories}
    drawings = []
    for turn in range(number):
        # The first row that is in order, in a part of the records of its own.
        for position in range(turn * len(rows) // number, (turn + 1) * len(rows) // number):
            row = next(rows.checked(position), None)  # a record in which there is nothing to ask for has none
            if isinstance(row, dict) and isinstance(rows.builder, FileBuilder):
                row = next(iter(rows.builder.prompted(row)), None)
            if row is not None and not isinstance(row, ValueError):
                drawings.append(draw_sample(sample_from_row(row, names)))
                write_file(output / f"{name}_{position}.png", partial(drawings[-1].save, format="PNG"))
                break
    if drawings:
        write_file(output / f"{name}.png", partial(contact_sheet(drawings).save, format="PNG"))
    return len(drawings)


def verify_split(builder: Any, *, limit: int, num_proc: int, num_shown: int, output: Path | None) -> bool:
    """Prints problems, counts and a summary. Returns True if all is well."""
    title = f"{builder.config.name} {builder.config.split}"
    try:
        rows = SplitCheck(builder)
        problems = category_problems(builder)
        notes = builder.notes if isinstance(builder, FileBuilder) else ()
    except Exception as error:  # the annotation file as a whole; builders name what is wrong with it by a ValueError
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        print(f"{kind}{error}\n{title}: BROKEN, no record can be read")
        return False
    report = check_rows(rows, num_proc, title)
    problems += report.problems
    for problem in problems[:limit]:
        print(problem)
    if len(problems) > limit:
        print(f"{title}: {len(problems) - limit:,} further problems, see --limit")
    equal = True
    if hasattr(builder, "counts"):
        try:
            found = builder.counts()
        except Exception as error:  # it may read files of its own, which break as records do
            print(f"  not counted: {type(error).__name__}: {error}")
            equal = False
        else:
            lines, equal = compare_counts(found, dict(builder.published.get(builder.config.split, {})))
            print(*lines, sep="\n")
    for note in notes:
        print(f"  note: {note}")
    if report.empty_masks:
        print(f"  note: {report.empty_masks:,} masks have no pixel")
    if report.far_objects:
        print(f"  note: {far_note(len(report.far_objects), report.far_objects[0])}")
    if num_shown:
        name = f"{builder.config.name}_{builder.config.split}"
        drawn = show(rows, num_shown, output, name)
        print(f"  drawn: {drawn} rows" + (f", {output / name}.png shows all" if drawn else ""))
    state = "BROKEN" if problems else "ok" if equal else "counts differ"
    in_use = f"{len(report.categories)} of {len(builder.categories)} categories in use, " if builder.categories else ""
    print(
        f"{title}: {state}: {report.rows:,} rows, {report.segments:,} segments ({report.crowds:,} crowds), {in_use}{len(report.images):,} "
        f"images, {len(problems):,} problems"
    )
    return equal and not problems
