"""Table of datasets, and `load`: a name of the table -> the rows of one split as samples."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spelling import did_you_mean

if TYPE_CHECKING:
    from .features import SampleDataset, SplitBuilder


class DatasetTable(Mapping[str, "type[SplitBuilder]"]):
    """Name -> builder, whose class says all about the dataset, see `SplitBuilder`. Its text is a table.

    The module of a builder is imported when its name is looked up, so that names can be listed and checked without `datasets`.
    """

    def __init__(self, places: Mapping[str, tuple[str, str]]):
        self._places = places

    def __getitem__(self, name: str) -> type[SplitBuilder]:
        module, builder = self._places[name]
        return getattr(import_module(f".{module}", __package__), builder)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        lines = [("name", "splits", "page", "summary", "options")]
        for name, builder in self.items():
            lines.append((name, " ".join(builder.splits) or "any", builder.docs_page, builder.summary, " ".join(builder.options())))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


DATASETS = DatasetTable(
    {
        "shapes": ("shapes.stream", "Shapes"),
        "moving_shapes": ("shapes.moving", "MovingShapes"),
        "two_view_shapes": ("shapes.two_views", "TwoViewShapes"),
        "coco_panoptic": ("benchmarks.coco", "CocoPanoptic"),
        "coco_instance": ("benchmarks.coco", "CocoInstance"),
        "coco_semantic": ("benchmarks.coco", "CocoSemantic"),
        "coco_interactive": ("benchmarks.coco_interactive", "CocoInteractive"),
        "lvis": ("benchmarks.lvis", "Lvis"),
        "davis2017": ("benchmarks.davis", "Davis2017"),
        "ego_exo4d": ("benchmarks.ego_exo4d", "EgoExo4D"),
        "refcoco": ("benchmarks.refcoco", "RefCoco"),
        "refcoco+": ("benchmarks.refcoco", "RefCocoPlus"),
        "refcocog": ("benchmarks.refcoco", "RefCocog"),
        "grefcoco": ("benchmarks.grefcoco", "GRefCoco"),
        "reasonseg": ("benchmarks.reasonseg", "ReasonSeg"),
        "own_coco": ("own.coco", "OwnCoco"),
        "own_pairs": ("own.pairs", "OwnPairs"),
        "own_labelme": ("own.labelme", "OwnLabelme"),
        "own_jsonl": ("own.jsonl", "OwnJsonl"),
        "own_yolo": ("own.yolo", "OwnYolo"),
        "own_label_studio": ("own.label_studio", "OwnLabelStudio"),
        "llava_mix665k": ("benchmarks.llava", "LlavaMix"),
        "llava_pretrain_558k": ("benchmarks.llava", "LlavaPretrain558k"),
        "llava_pretrain_595k": ("benchmarks.llava", "LlavaPretrain595k"),
        "vqav2": ("benchmarks.vqav2", "Vqav2"),
        "scienceqa": ("benchmarks.scienceqa", "Scienceqa"),
        "mmbench": ("benchmarks.mmbench", "Mmbench"),
        "pope": ("benchmarks.pope", "Pope"),
        "ade20k_semantic": ("benchmarks.ade20k", "Ade20kSemantic"),
        "ade20k_instance": ("benchmarks.ade20k", "Ade20kInstance"),
        "ade20k_panoptic": ("benchmarks.ade20k", "Ade20kPanoptic"),
        "cityscapes_semantic": ("benchmarks.cityscapes", "CityscapesSemantic"),
        "cityscapes_instance": ("benchmarks.cityscapes", "CityscapesInstance"),
        "cityscapes_panoptic": ("benchmarks.cityscapes", "CityscapesPanoptic"),
        "voc20": ("benchmarks.pascal_voc", "Voc20"),
        "voc21": ("benchmarks.pascal_voc", "Voc21"),
        "voc_instance": ("benchmarks.pascal_voc", "VocInstance"),
        "pc59": ("benchmarks.pascal_context", "PascalContext59"),
        "pc459": ("benchmarks.pascal_context", "PascalContext459"),
    }
)


def list_datasets() -> DatasetTable:
    """Table of datasets: name -> builder with its splits, options and page. `print(list_datasets())` shows it."""
    return DATASETS


def dataset_builder(name: str) -> type[SplitBuilder]:
    """Builder of a dataset.

    Raises:
        ValueError: unknown name, with the valid ones.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}, expected one of {', '.join(DATASETS)}{did_you_mean(name, DATASETS)}")
    return DATASETS[name]


def no_folder(path: str | Path) -> str:
    """Words for a path at which there is no folder."""
    return f"{path} is a file, not a folder" if Path(path).expanduser().is_file() else f"there is no folder {path}"


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
    """Loads one split of a dataset as samples.

    Rows are made once and cached by `datasets`, unless they are streamed.

    Args:
        name, split: see `list_datasets`.
        data_dir: folder of the files, for datasets that need some.
        streaming: make rows while they are read, and keep none.
        num_proc: processes that make the rows.
        cache_dir: folder of the cached rows; None = that of the Hub.
        options: options of the dataset, see its page. For "shapes": `num_images`, and those of `ShapesStream`. All datasets of files have
            `on_error` and `check_images`, see `files.FileConfig`.

    Raises:
        ValueError: unknown name, split or option, with the valid ones; `data_dir` is needed and missing; a broken record, which the
            message names; no rows.
        FileNotFoundError: the folder or an annotation file does not exist.
    """
    builder_class = dataset_builder(name)
    splits, known = builder_class.splits, sorted(builder_class.options())
    if splits and split not in splits:
        raise ValueError(f"{name}: unknown split {split!r}, expected one of {', '.join(splits)}{did_you_mean(split, splits)}")
    if builder_class.needs_files and data_dir is None:
        raise ValueError(f"{name}: is read from files; give the folder that holds them as data_dir")
    if unknown := sorted(options.keys() - set(known)):
        raise ValueError(
            f"{name}: unknown option {', '.join(unknown)}, expected {', '.join(known) or 'none'}{did_you_mean(unknown[0], known)}"
        )

    from datasets.exceptions import DatasetGenerationError

    from .features import SampleDataset

    builder = _open(name, split, data_dir, cache_dir, options)
    if streaming:
        return SampleDataset(builder.as_streaming_dataset(split=split), builder.categories, builder.task)
    try:
        builder.download_and_prepare(num_proc=num_proc)
    except DatasetGenerationError as error:
        if isinstance(error, ValueError):
            raise ValueError(str(error)) from None
        # Raised by builders that read no files: it hides the message that names the broken record.
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        cause = error.__cause__ or error  # what no builder foresees; its own message is that there was an error
        raise ValueError(f"{name} {split}: {type(cause).__name__}: {cause}; see the docs page {builder.docs_page}") from error
    if not builder.info.splits[split].num_examples:
        if options.get("on_error") == "skip":
            raise ValueError(f"{name} {split}: no rows are left; load it with on_error='raise' to see what is wrong with the first record")
        raise ValueError(
            f"{name} {split}: no rows: no record has anything to ask for with these options; see the docs page {builder.docs_page}"
        )
    return SampleDataset(builder.as_dataset(split=split), builder.categories, builder.task)


def why_not(
    name: str, split: str, data_dir: str | Path | None = None, *, cache_dir: str | Path | None = None, **options: Any
) -> str | None:
    """Tells why a dataset has no such split, before its rows are made; None if its files are there. Arguments as of `load`."""
    try:
        _open(name, split, data_dir, cache_dir, options)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


def _open(name: str, split: str, data_dir: str | Path | None, cache_dir: str | Path | None, options: Mapping[str, Any]) -> SplitBuilder:
    builder_class = dataset_builder(name)
    return builder_class(
        cache_dir=None if cache_dir is None else str(cache_dir),
        config_name=name,  # part of the name of the cached rows: the datasets of one module must differ there
        data_dir=os.path.abspath(os.path.expanduser(data_dir)) if builder_class.needs_files else None,  # rows hold paths below it
        split=split,
        **options,
    )
