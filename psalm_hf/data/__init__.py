"""Datasets: files on disk, or nothing but a seed -> rows -> `Sample`s. Tokens and tensors come later, from the processor."""

from __future__ import annotations

from collections.abc import Mapping
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
        needs_files: whether `load` needs a `data_dir`.
        summary: what it is, in a line.
    """

    module: str
    builder: str
    splits: tuple[str, ...]
    needs_files: bool
    summary: str


DATASETS: Mapping[str, DatasetEntry] = MappingProxyType(
    {
        "shapes": DatasetEntry(
            module="shapes",
            builder="Shapes",
            splits=("train", "validation", "test", "unseen"),
            needs_files=False,
            summary="drawn things on textured stuff; every task; endless, seeded, no download",
        ),
    }
)


def list_datasets() -> Mapping[str, DatasetEntry]:
    """THE TABLE of datasets: name -> where it is, its splits, whether it needs files."""
    return DATASETS


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
        options: of the dataset, see its page; for "shapes" those of `ShapesStream`, and `num_images`.

    Raises:
        ValueError: unknown name, split or option, with the valid ones; no `data_dir` where one is needed; a broken record, by its name.
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
        data_dir=None if data_dir is None else str(data_dir),
        split=split,
        **options,
    )
    if streaming:
        return SampleDataset(builder.as_streaming_dataset(split=split), builder.categories)
    try:
        builder.download_and_prepare(num_proc=num_proc)
    except DatasetGenerationError as error:  # hides the message that says which record is broken
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise
    return SampleDataset(builder.as_dataset(split=split), builder.categories)
