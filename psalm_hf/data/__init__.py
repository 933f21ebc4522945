"""Datasets: files on disk, or nothing but a seed -> rows -> `Sample`s. Tokens and tensors come later, from the processor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .features import SampleDataset


@dataclass(frozen=True)
class DatasetEntry:
    """One row of the table.

    Attributes:
        module, builder: where the builder is; imported when it is asked for.
        splits: what `load` takes as `split`.
        options: what `load` takes besides, see the page.
        needs_files: whether `load` needs a `data_dir`.
        docs_page: where the dataset is described.
        summary: what it is, in a line.
    """

    module: str
    builder: str
    splits: tuple[str, ...]
    options: tuple[str, ...]
    needs_files: bool
    docs_page: str
    summary: str


class DatasetTable(Mapping[str, DatasetEntry]):
    """Name -> entry. Its text is a table."""

    def __init__(self, entries: Mapping[str, DatasetEntry]):
        self._entries = entries

    def __getitem__(self, name: str) -> DatasetEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        lines = [("name", "splits", "page", "what it is", "options")]
        for name, entry in self.items():
            lines.append((name, " ".join(entry.splits), entry.docs_page, entry.summary, " ".join(entry.options)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


_FILE_OPTIONS = ("on_error", "check_images")

DATASETS: Mapping[str, DatasetEntry] = MappingProxyType(
    {
        "shapes": DatasetEntry(
            module="shapes",
            builder="Shapes",
            splits=("train", "validation", "test", "unseen"),
            options=("num_images", "task", "seed", "image_size", "prompts_per_image", "phrase_percent", "region_kind"),
            needs_files=False,
            docs_page="docs/shapes.md",
            summary="drawn things on textured stuff; every task; endless, seeded, no download",
        ),
        "coco_panoptic": DatasetEntry(
            module="coco",
            builder="CocoPanoptic",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty"),
            needs_files=True,
            docs_page="docs/datasets/coco.md",
            summary="COCO 2017: 80 things and 53 kinds of stuff that cover the picture",
        ),
        "coco_instance": DatasetEntry(
            module="coco",
            builder="CocoInstance",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty"),
            needs_files=True,
            docs_page="docs/datasets/coco.md",
            summary="COCO 2017: objects of 80 categories",
        ),
        "coco_semantic": DatasetEntry(
            module="coco",
            builder="CocoSemantic",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty", "masks"),
            needs_files=True,
            docs_page="docs/datasets/coco.md",
            summary="COCO 2017: one mask for each of the 133 panoptic categories",
        ),
    }
)


def list_datasets() -> DatasetTable:
    """THE TABLE of datasets: name -> where it is, its splits, options and page. `print(list_datasets())` shows it."""
    return DatasetTable(DATASETS)


def load(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    *,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> SampleDataset:
    """One split of a dataset as samples.

    The rows are made once and cached by `datasets` (folder `cache_dir`, default that of the Hub), unless streamed.

    Args:
        name, split: see `list_datasets`.
        data_dir: folder of the files, for datasets that have some.
        streaming: make the rows while they are read, and keep none.
        num_proc: processes that make the rows.
        options: of the dataset, see its page; for "shapes" those of `ShapesStream`, and `num_images`; for all datasets of files
            `on_error` and `check_images`, see `files.FileConfig`.

    Raises:
        ValueError: unknown name, split or option, with the valid ones; no `data_dir` where one is needed; a broken record, by its name;
            no rows.
        FileNotFoundError: the folder or a file of annotations does not exist.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}, expected one of {', '.join(DATASETS)}")
    entry = DATASETS[name]
    if split not in entry.splits:
        raise ValueError(f"{name}: unknown split {split!r}, expected one of {', '.join(entry.splits)}")
    if entry.needs_files and data_dir is None:
        raise ValueError(f"{name}: is read from files; give the folder that holds them as data_dir")

    from datasets.exceptions import DatasetGenerationError

    from .features import RowConfig, SampleDataset

    builder_class = getattr(import_module(f".{entry.module}", __name__), entry.builder)
    known = {field.name for field in fields(builder_class.BUILDER_CONFIG_CLASS)} - {field.name for field in fields(RowConfig)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ValueError(f"{name}: unknown option {', '.join(unknown)}, expected {', '.join(sorted(known)) or 'none'}")
    builder = builder_class(
        cache_dir=None if cache_dir is None else str(cache_dir),
        config_name=name,  # in the name of the cached rows, where the datasets of a module must differ
        data_dir=os.path.abspath(os.path.expanduser(data_dir)) if entry.needs_files else None,  # rows hold paths below it
        split=split,
        **options,
    )
    if streaming:
        return SampleDataset(builder.as_streaming_dataset(split=split), builder.categories, builder.task)
    try:
        builder.download_and_prepare(num_proc=num_proc)
    except DatasetGenerationError as error:  # hides the message that says which record is broken
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise
    if not builder.info.splits[split].num_examples:
        raise ValueError(f"{name} {split}: no rows are left, all records are broken; load it with on_error='raise' to see the first")
    return SampleDataset(builder.as_dataset(split=split), builder.categories, builder.task)
