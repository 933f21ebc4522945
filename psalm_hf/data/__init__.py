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
        splits: what `load` takes as `split`; () = any name.
        options: what `load` takes besides, see the page.
        needs_files: whether `load` needs a `data_dir`.
        docs_page: title of the page of the documentation that describes it, or its beginning.
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
            lines.append((name, " ".join(entry.splits) or "any", entry.docs_page, entry.summary, " ".join(entry.options)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


_FILE_OPTIONS = ("on_error", "check_images")

DATASETS: Mapping[str, DatasetEntry] = MappingProxyType(
    {
        "shapes": DatasetEntry(
            module="shapes.stream",
            builder="Shapes",
            splits=("train", "validation", "test", "unseen"),
            options=("num_images", "task", "seed", "image_size", "prompts_per_image", "phrase_percent", "region_kind"),
            needs_files=False,
            docs_page="The shapes world",
            summary="drawn things on textured stuff; every task; endless, seeded, no download",
        ),
        "moving_shapes": DatasetEntry(
            module="shapes.moving",
            builder="MovingShapes",
            splits=("train", "validation", "test", "unseen"),
            options=("num_clips", "num_frames", "seed", "image_size", "oracle"),
            needs_files=False,
            docs_page="The shapes world",
            summary="drawn things that move: objects of a clip's first frame, found in the others",
        ),
        "two_view_shapes": DatasetEntry(
            module="shapes.two_views",
            builder="TwoViewShapes",
            splits=("train", "validation", "test", "unseen"),
            options=("num_pairs", "direction", "seed", "image_size", "oracle"),
            needs_files=False,
            docs_page="The shapes world",
            summary="drawn things in two pictures: objects of one, found in the other",
        ),
        "coco_panoptic": DatasetEntry(
            module="benchmarks.coco",
            builder="CocoPanoptic",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty"),
            needs_files=True,
            docs_page="COCO 2017",
            summary="COCO 2017: 80 things and 53 kinds of stuff that cover the picture",
        ),
        "coco_instance": DatasetEntry(
            module="benchmarks.coco",
            builder="CocoInstance",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty"),
            needs_files=True,
            docs_page="COCO 2017",
            summary="COCO 2017: objects of 80 categories",
        ),
        "coco_semantic": DatasetEntry(
            module="benchmarks.coco",
            builder="CocoSemantic",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty", "masks"),
            needs_files=True,
            docs_page="COCO 2017",
            summary="COCO 2017: one mask for each of the 133 panoptic categories",
        ),
        "coco_interactive": DatasetEntry(
            module="benchmarks.coco_interactive",
            builder="CocoInteractive",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "kind", "source", "rules", "seed", "file", "rasterisation"),
            needs_files=True,
            docs_page="COCO-Interactive",
            summary="COCO-Interactive: objects of COCO meant by points, scribbles, boxes or masks",
        ),
        "lvis": DatasetEntry(
            module="benchmarks.lvis",
            builder="Lvis",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty", "annotation_folder", "image_folder", "names"),
            needs_files=True,
            docs_page="LVIS v1",
            summary="LVIS v1: objects of 1203 categories on pictures of COCO, not all annotated",
        ),
        "davis2017": DatasetEntry(
            module="benchmarks.davis",
            builder="Davis2017",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "oracle"),
            needs_files=True,
            docs_page="DAVIS 2017",
            summary="DAVIS 2017: objects of a video's first frame, found in the others",
        ),
        "ego_exo4d": DatasetEntry(
            module="benchmarks.ego_exo4d",
            builder="EgoExo4D",
            splits=("train", "val", "test"),
            options=(*_FILE_OPTIONS, "direction", "oracle", "frame_folder", "annotation_folder"),
            needs_files=True,
            docs_page="Ego-Exo4D",
            summary="Ego-Exo4D: objects of a first-person view, found in another view, or the other way round",
        ),
        "refcoco": DatasetEntry(
            module="benchmarks.refcoco",
            builder="RefCoco",
            splits=("train", "val", "test", "testA", "testB"),
            options=(*_FILE_OPTIONS, "protocol", "source", "split_by", "image_folder", "keep_empty", "rasterisation"),
            needs_files=True,
            docs_page="RefCOCO",
            summary="RefCOCO: expressions, each for one object of a COCO picture",
        ),
        "refcoco+": DatasetEntry(
            module="benchmarks.refcoco",
            builder="RefCocoPlus",
            splits=("train", "val", "test", "testA", "testB"),
            options=(*_FILE_OPTIONS, "protocol", "source", "split_by", "image_folder", "keep_empty", "rasterisation"),
            needs_files=True,
            docs_page="RefCOCO",
            summary="RefCOCO+: the same without words of place",
        ),
        "refcocog": DatasetEntry(
            module="benchmarks.refcoco",
            builder="RefCocog",
            splits=("train", "val", "test", "testA", "testB"),
            options=(*_FILE_OPTIONS, "protocol", "source", "split_by", "image_folder", "keep_empty", "rasterisation"),
            needs_files=True,
            docs_page="RefCOCO",
            summary="RefCOCOg: longer expressions",
        ),
        "grefcoco": DatasetEntry(
            module="benchmarks.grefcoco",
            builder="GRefCoco",
            splits=("train", "val", "testA", "testB"),
            options=(*_FILE_OPTIONS, "protocol", "source", "image_folder", "keep_empty", "rasterisation"),
            needs_files=True,
            docs_page="gRefCOCO",
            summary="gRefCOCO: expressions for any number of objects, or for none",
        ),
        "reasonseg": DatasetEntry(
            module="benchmarks.reasonseg",
            builder="ReasonSeg",
            splits=("train", "val", "test"),
            options=(*_FILE_OPTIONS, "protocol", "keep_empty", "rasterisation"),
            needs_files=True,
            docs_page="ReasonSeg",
            summary="ReasonSeg: instructions that have to be reasoned about",
        ),
        "own_coco": DatasetEntry(
            module="own.coco",
            builder="OwnCoco",
            splits=(),
            options=(*_FILE_OPTIONS, "annotations", "images", "masks", "keep_empty"),
            needs_files=True,
            docs_page="Own data",
            summary="own data: instances or panoptic segments in COCO's format",
        ),
        "own_pairs": DatasetEntry(
            module="own.pairs",
            builder="OwnPairs",
            splits=(),
            options=(*_FILE_OPTIONS, "images", "masks", "categories", "ignore"),
            needs_files=True,
            docs_page="Own data",
            summary="own data: pairs of picture and label map",
        ),
        "own_labelme": DatasetEntry(
            module="own.labelme",
            builder="OwnLabelme",
            splits=(),
            options=(*_FILE_OPTIONS, "annotations", "categories", "skip_shapes", "keep_empty", "task"),
            needs_files=True,
            docs_page="Own data",
            summary="own data: shapes drawn with Labelme",
        ),
        "own_jsonl": DatasetEntry(
            module="own.jsonl",
            builder="OwnJsonl",
            splits=(),
            options=(*_FILE_OPTIONS, "annotations", "categories", "task"),
            needs_files=True,
            docs_page="Own data",
            summary="own data: JSON lines with categories, sentences or conversations",
        ),
        "llava_mix665k": DatasetEntry(
            module="benchmarks.llava",
            builder="LlavaMix",
            splits=("train",),
            options=(*_FILE_OPTIONS, "file", "text_only"),
            needs_files=True,
            docs_page="LLaVA",
            summary="LLaVA-1.5 instruction data: conversations about pictures, and some without",
        ),
        "llava_pretrain_558k": DatasetEntry(
            module="benchmarks.llava",
            builder="LlavaPretrain558k",
            splits=("train",),
            options=(*_FILE_OPTIONS, "file", "image_folder", "shards", "caption_only"),
            needs_files=True,
            docs_page="LLaVA",
            summary="LLaVA-1.5 alignment data: pictures and captions, in files or tar shards",
        ),
        "llava_pretrain_595k": DatasetEntry(
            module="benchmarks.llava",
            builder="LlavaPretrain595k",
            splits=("train",),
            options=(*_FILE_OPTIONS, "file", "image_folder", "shards", "caption_only"),
            needs_files=True,
            docs_page="LLaVA",
            summary="LLaVA alignment data of CC3M: pictures and captions, in files or tar shards",
        ),
        "vqav2": DatasetEntry(
            module="benchmarks.vqav2",
            builder="Vqav2",
            splits=("train", "val", "test_dev", "test"),
            options=(*_FILE_OPTIONS, "instruction"),
            needs_files=True,
            docs_page="VQA v2",
            summary="open questions about COCO pictures, ten answers each",
        ),
        "scienceqa": DatasetEntry(
            module="benchmarks.scienceqa",
            builder="Scienceqa",
            splits=("train", "val", "test", "trainval", "minitrain", "minival", "minitest"),
            options=(*_FILE_OPTIONS, "text_only", "instruction"),
            needs_files=True,
            docs_page="ScienceQA",
            summary="multiple-choice questions of school science, some with a picture",
        ),
        "mmbench": DatasetEntry(
            module="benchmarks.mmbench",
            builder="Mmbench",
            splits=("dev", "test"),
            options=(*_FILE_OPTIONS, "file", "language", "instruction", "rotations"),
            needs_files=True,
            docs_page="MMBench",
            summary="multiple-choice questions about pictures, English or Chinese",
        ),
        "pope": DatasetEntry(
            module="benchmarks.pope",
            builder="Pope",
            splits=("random", "popular", "adversarial"),
            options=(*_FILE_OPTIONS, "file", "image_folder", "instruction"),
            needs_files=True,
            docs_page="POPE",
            summary="is this object in the picture? yes or no",
        ),
        "ade20k_semantic": DatasetEntry(
            module="benchmarks.ade20k",
            builder="Ade20kSemantic",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty", "names", "masks"),
            needs_files=True,
            docs_page="ADE20K",
            summary="ADE20K: 150 categories, things and stuff",
        ),
        "ade20k_instance": DatasetEntry(
            module="benchmarks.ade20k",
            builder="Ade20kInstance",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty", "names"),
            needs_files=True,
            docs_page="ADE20K",
            summary="ADE20K: objects of 100 categories",
        ),
        "ade20k_panoptic": DatasetEntry(
            module="benchmarks.ade20k",
            builder="Ade20kPanoptic",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty", "names"),
            needs_files=True,
            docs_page="ADE20K",
            summary="ADE20K: 100 things and 50 kinds of stuff, from prepared files",
        ),
        "cityscapes_semantic": DatasetEntry(
            module="benchmarks.cityscapes",
            builder="CityscapesSemantic",
            splits=("train", "val", "test"),
            options=(*_FILE_OPTIONS, "keep_empty", "names", "masks"),
            needs_files=True,
            docs_page="Cityscapes",
            summary="Cityscapes, fine: 19 categories",
        ),
        "cityscapes_instance": DatasetEntry(
            module="benchmarks.cityscapes",
            builder="CityscapesInstance",
            splits=("train", "val", "test"),
            options=(*_FILE_OPTIONS, "keep_empty", "names"),
            needs_files=True,
            docs_page="Cityscapes",
            summary="Cityscapes, fine: objects of 8 categories",
        ),
        "cityscapes_panoptic": DatasetEntry(
            module="benchmarks.cityscapes",
            builder="CityscapesPanoptic",
            splits=("train", "val", "test"),
            options=(*_FILE_OPTIONS, "keep_empty", "names"),
            needs_files=True,
            docs_page="Cityscapes",
            summary="Cityscapes, fine: 8 things and 11 kinds of stuff",
        ),
        "voc20": DatasetEntry(
            module="benchmarks.pascal_voc",
            builder="Voc20",
            splits=("train", "val", "trainval"),
            options=(*_FILE_OPTIONS, "keep_empty", "names", "layout"),
            needs_files=True,
            docs_page="Pascal VOC 2012",
            summary="Pascal VOC 2012: 20 categories, the background is not counted",
        ),
        "voc21": DatasetEntry(
            module="benchmarks.pascal_voc",
            builder="Voc21",
            splits=("train", "val", "trainval"),
            options=(*_FILE_OPTIONS, "keep_empty", "names", "layout"),
            needs_files=True,
            docs_page="Pascal VOC 2012",
            summary="Pascal VOC 2012: 20 categories and the background",
        ),
        "voc_instance": DatasetEntry(
            module="benchmarks.pascal_voc",
            builder="VocInstance",
            splits=("train", "val", "trainval"),
            options=(*_FILE_OPTIONS, "keep_empty", "names"),
            needs_files=True,
            docs_page="Pascal VOC 2012",
            summary="Pascal VOC 2012: objects of 20 categories",
        ),
        "pc59": DatasetEntry(
            module="benchmarks.pascal_context",
            builder="PascalContext59",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty", "names"),
            needs_files=True,
            docs_page="Pascal Context",
            summary="Pascal Context: the 59 most frequent categories",
        ),
        "pc459": DatasetEntry(
            module="benchmarks.pascal_context",
            builder="PascalContext459",
            splits=("train", "val"),
            options=(*_FILE_OPTIONS, "keep_empty", "names"),
            needs_files=True,
            docs_page="Pascal Context",
            summary="Pascal Context: all 459 categories",
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
    from ..spelling import did_you_mean

    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}, expected one of {', '.join(DATASETS)}{did_you_mean(name, DATASETS)}")
    entry = DATASETS[name]
    if entry.splits and split not in entry.splits:
        raise ValueError(f"{name}: unknown split {split!r}, expected one of {', '.join(entry.splits)}{did_you_mean(split, entry.splits)}")
    if entry.needs_files and data_dir is None:
        raise ValueError(f"{name}: is read from files; give the folder that holds them as data_dir")

    from datasets.exceptions import DatasetGenerationError

    from .features import RowConfig, SampleDataset

    builder_class = getattr(import_module(f".{entry.module}", __name__), entry.builder)
    known = {field.name for field in fields(builder_class.BUILDER_CONFIG_CLASS)} - {field.name for field in fields(RowConfig)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ValueError(
            f"{name}: unknown option {', '.join(unknown)}, expected {', '.join(sorted(known)) or 'none'}{did_you_mean(unknown[0], known)}"
        )
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
    except DatasetGenerationError as error:
        if isinstance(error, ValueError):
            raise ValueError(str(error)) from None
        # Of builders that read no files: hides the message that says which record is broken.
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise
    if not builder.info.splits[split].num_examples:
        if options.get("on_error") == "skip":
            raise ValueError(f"{name} {split}: no rows are left; load it with on_error='raise' to see what is wrong with the first record")
        raise ValueError(
            f"{name} {split}: no rows: no record has anything to ask for with these options; see the docs page {entry.docs_page}"
        )
    return SampleDataset(builder.as_dataset(split=split), builder.categories, builder.task)
