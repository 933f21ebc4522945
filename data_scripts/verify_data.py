"""Check a dataset on disk: every record, every picture and mask, and the published counts; draw some rows.

    python data_scripts/verify_data.py coco_panoptic coco
    python data_scripts/verify_data.py own_pairs mydata --split train --option ignore=[0,255] --show 12 --output pictures

Without --split, all splits of the dataset whose files are there. Nothing is written but the pictures: `OUTPUT/DATASET_SPLIT_N.png`,
where N is the number of the record from 0, and `OUTPUT/DATASET_SPLIT.png` with all of them.

The exit status is 2 if a record is broken or a count differs from the published one. A part of a dataset is legitimate: then its counts
differ, and nothing else should be wrong.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

CHUNK = 16  # records that a process checks at a time


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="name of the table that psalm_hf.data.list_datasets() prints")
    parser.add_argument("folder", nargs="?", help="its data_dir; none for datasets without files")
    parser.add_argument(
        "--split", nargs="+", action="extend", help="default: all whose files are there; needed where a split may have any name"
    )
    parser.add_argument(
        "--option", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options of the dataset, values as in YAML"
    )
    parser.add_argument("--limit", type=int, default=100, help="broken records of a split that are printed; the rest is counted (100)")
    parser.add_argument("--num-proc", type=int, default=1, help="processes (1)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="draw N rows of each split, spread evenly")
    parser.add_argument("--output", type=Path, help="folder of the pictures")
    options = parser.parse_args(arguments)
    if options.show and options.output is None:
        parser.error("--show needs --output, the folder of the pictures")
    if options.limit < 0 or options.num_proc < 1 or options.show < 0:
        parser.error("--limit and --show must be at least 0, --num-proc at least 1")
    return options


@dataclass
class Report:
    """What was found in some records; reports add up."""

    problems: list[str] = field(default_factory=list)
    rows: int = 0
    segments: int = 0
    crowds: int = 0
    empty_masks: int = 0
    categories: Counter = field(default_factory=Counter)  # id -> segments
    images: set[str] = field(default_factory=set)

    def add(self, row: dict[str, Any], empty_masks: int) -> None:
        """A row that is in order."""
        segments = row.get("segments") or ()
        self.rows += 1
        self.segments += len(segments)
        self.crowds += sum(bool(segment.get("is_crowd")) for segment in segments)
        self.empty_masks += empty_masks
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


class Rows:
    """The records of one split, whether they come from files or are drawn; given to every process."""

    def __init__(self, builder: Any):
        self.builder = builder
        self.spans = [tuple(span) for span in builder.shards()["spans"]]

    def __len__(self) -> int:
        return sum(end - first for first, end in self.spans)

    def checked(self, position: int) -> Iterator[dict[str, Any] | ValueError]:
        """The rows of a record, or what is wrong with it. Of a file dataset there is one."""
        from psalm_hf.data.files import FileBuilder

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
        """What is wrong with a record that `checked_rows` found in order, with its file and id. (`number`: which of those at this position,
        where that is a file of many records.)"""
        try:
            record = next(islice(self.builder.records_of(position, position + 1), number, None))
            place = self.builder.describe(record)
        except Exception:  # as in `FileBuilder`, broken records may have no id; and a file may break off while it is read again
            place = f"record {position} of {self.builder.annotation_files()[0]}"
        return ValueError(f"{self.builder.title}: {place}: {type(error).__name__}: {error}")

    def check(self, span: tuple[int, int]) -> Report:
        """All records from the first to the last but one."""
        import pyarrow as pa

        from psalm_hf.data.features import ROW_FEATURES
        from psalm_hf.masks import area

        report = Report()
        for position in range(*span):
            for number, row in enumerate(self.checked(position)):
                if isinstance(row, ValueError):
                    report.problems.append(str(row))
                    continue
                try:
                    pa.Table.from_pylist([row], schema=ROW_FEATURES.arrow_schema)  # whether the columns can hold it
                    masks = [segment["mask"] for segment in row.get("segments") or () if segment.get("mask") is not None]
                    report.add(row, empty_masks=sum(area(mask) == 0 for mask in masks))
                except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
                    report.problems.append(str(self.problem(position, error, number)))
        return report


_rows: Rows  # of a worker process


def _take(rows: Rows) -> None:
    global _rows
    _rows = rows


def _check(span: tuple[int, int]) -> Report:
    return _rows.check(span)


def check_rows(rows: Rows, num_proc: int, title: str) -> Report:
    """The whole split, in `num_proc` processes, with a progress bar."""
    import multiprocessing

    from tqdm import tqdm

    chunks = [(first, min(first + CHUNK, len(rows))) for first in range(0, len(rows), CHUNK)]
    report = Report()
    with tqdm(total=len(rows), desc=title, unit=" records", mininterval=0.5) as bar:
        if num_proc == 1:
            for span in chunks:
                report += rows.check(span)
                bar.update(span[1] - span[0])
            return report
        with multiprocessing.Pool(num_proc, initializer=_take, initargs=(rows,)) as pool:
            for span, part in zip(chunks, pool.imap(_check, chunks), strict=True):
                report += part
                bar.update(span[1] - span[0])
    return report


def category_problems(builder: Any) -> list[str]:
    """Ids that are given twice, and names that cannot be told apart in a prompt."""
    problems = []
    for what, counted in (
        ("id", Counter(category.id for category in builder.categories)),
        ("name", Counter(category.name for category in builder.categories)),
    ):
        problems += [f"{builder.title}: {number} categories have the {what} {value!r}" for value, number in counted.items() if number > 1]
    return problems


def compare_counts(found: dict[str, int], published: dict[str, int]) -> tuple[list[str], bool]:
    """Lines to be printed, and whether nothing differs."""
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


def show(rows: Rows, number: int, output: Path, name: str) -> int:
    """Draw some rows; broken ones are passed over. Returns how many."""
    from psalm_hf.data.features import sample_from_row
    from psalm_hf.visualization import contact_sheet, draw_sample

    names = {category.id: category.name for category in rows.builder.categories}
    pictures = []
    for turn in range(number):
        # The first row that is in order, in a part of the records of its own.
        for position in range(turn * len(rows) // number, (turn + 1) * len(rows) // number):
            row = next(rows.checked(position), None)  # a record in which there is nothing to ask for has none
            if row is not None and not isinstance(row, ValueError):
                pictures.append(draw_sample(sample_from_row(row, names)))
                _save(pictures[-1], output / f"{name}_{position}.png")
                break
    if pictures:
        _save(contact_sheet(pictures), output / f"{name}.png")
    return len(pictures)


def _save(picture: Any, path: Path) -> None:
    unfinished = path.with_name(f".{path.name}")
    picture.save(unfinished, format="PNG")
    os.replace(unfinished, path)


def verify_split(builder: Any, options: argparse.Namespace) -> bool:
    """Print what is wrong, the counts and a summary. Returns whether all is well."""
    title = f"{builder.config.name} {builder.config.split}"
    try:
        rows = Rows(builder)
        problems = category_problems(builder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # the annotation file as a whole
        print(f"{error}\n{title}: BROKEN, no record can be read")
        return False
    report = check_rows(rows, options.num_proc, title)
    problems += report.problems
    for problem in problems[: options.limit]:
        print(problem)
    if len(problems) > options.limit:
        print(f"{title}: {len(problems) - options.limit:,} further problems, see --limit")
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
    if report.empty_masks:
        print(f"  note: {report.empty_masks:,} masks have no pixel")
    if options.show:
        options.output.mkdir(parents=True, exist_ok=True)
        name = f"{options.dataset}_{builder.config.split}"
        drawn = show(rows, options.show, options.output, name)
        print(f"  drawn: {drawn} rows" + (f", {options.output / name}.png shows all" if drawn else ""))
    state = "BROKEN" if problems else "ok" if equal else "counts differ"
    in_use = f"{len(report.categories)} of {len(builder.categories)} categories in use, " if builder.categories else ""
    print(
        f"{title}: {state}: {report.rows:,} rows, {report.segments:,} segments ({report.crowds:,} crowds), {in_use}{len(report.images):,} "
        f"images, {len(problems):,} problems"
    )
    return equal and not problems


def read_options(pairs: list[str]) -> dict[str, Any]:
    """`name=value` as YAML.

    Raises:
        ValueError: no name, or no value.
    """
    import yaml

    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--option {pair}: expected NAME=VALUE")
        options[name] = yaml.safe_load(value)
    return options


def builders(options: argparse.Namespace, cache_dir: str) -> Iterator[Any]:
    """A builder for each split to be checked; says which are left out because their files are absent.

    Raises:
        ValueError: unknown dataset, split or option.
        FileNotFoundError: the folder, or a file of a split that was asked for, does not exist.
    """
    from importlib import import_module

    from psalm_hf.data import DATASETS

    if options.dataset not in DATASETS:
        raise ValueError(f"unknown dataset {options.dataset!r}, expected one of {', '.join(DATASETS)}")
    entry = DATASETS[options.dataset]
    if entry.needs_files and (options.folder is None or not os.path.isdir(options.folder)):
        raise FileNotFoundError(
            f"the folder {options.folder} does not exist; give the data_dir of {options.dataset}, see the docs page {entry.docs_page}"
        )
    if not entry.splits and not options.split:
        raise ValueError(f"{options.dataset}: a split may have any name; say which with --split")
    unknown = [split for split in options.split or () if entry.splits and split not in entry.splits]
    if unknown:
        raise ValueError(f"{options.dataset}: unknown split {', '.join(unknown)}, expected some of {', '.join(entry.splits)}")
    given = read_options(options.option)
    own = {"check_images", "on_error"} & set(entry.options)  # decided here
    if unknown := sorted(given.keys() - (set(entry.options) - own)):
        raise ValueError(
            f"{options.dataset}: unknown option {', '.join(unknown)}, expected {', '.join(set(entry.options) - own) or 'none'}"
        )
    builder_class = getattr(import_module(f"psalm_hf.data.{entry.module}"), entry.builder)
    for split in options.split or entry.splits:
        try:
            yield builder_class(
                cache_dir=cache_dir,
                config_name=options.dataset,
                data_dir=os.path.abspath(options.folder) if entry.needs_files else None,
                split=split,
                **given,
                **({"check_images": True} if entry.needs_files else {}),
            )
        except FileNotFoundError as error:
            if options.split:
                raise
            print(f"{options.dataset} {split}: left out, its files are absent ({error})")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    results = []
    with tempfile.TemporaryDirectory() as cache_dir:  # datasets makes locks in it
        try:
            waiting = list(builders(options, cache_dir))  # all of them first: an option that fails for one shall not do so after hours
            while waiting:
                results.append(verify_split(waiting.pop(0), options))  # which is freed then, with what it has read
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    if not results:
        print(f"error: no split of {options.dataset} is in {options.folder}", file=sys.stderr)
    return 0 if results and all(results) else 2


if __name__ == "__main__":
    sys.exit(main())
