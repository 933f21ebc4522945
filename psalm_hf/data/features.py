"""Rows: their columns, the base of all builders that make them, and the way from a row to a `Sample` and back.

A row is one `Sample`: one image with one kind of prompt. It holds plain values that Arrow stores; None where there is nothing to say.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import datasets
import pyarrow as pa
from datasets import Features, List, Value
from datasets.builder import Key
from PIL import Image

from ..bounded_files import open_image_file
from ..masks import compress_rle
from ..spelling import did_you_mean
from ..structures import CATEGORY, Region, Sample, Segment, Task
from .segment_map import UNREADABLE, read_segment_map, rles_from_segment_map

ROWS_PER_TABLE = 100  # small, because a stream waits for a whole table before its first row

_RLE = {"size": List(Value("int32")), "counts": Value("string")}

ROW_FEATURES = Features(
    {
        # Never decoded by datasets, which would turn an image by its EXIF orientation, but not its masks.
        "image": datasets.Image(decode=False),
        "image_id": Value("string"),
        "image_size": List(Value("int32")),  # [height, width]; None without an image
        "condition": Value("string"),  # one of `structures.CONDITIONS`
        # A segment has either a mask, or values: then it has the pixels of the row's segment map that have one of these values.
        "segments": List(
            {
                "mask": _RLE,
                "map_values": List(Value("int64")),
                "category_id": Value("int64"),
                "is_crowd": Value("bool"),
                "annotation_id": Value("int64"),
                "area": Value("float64"),  # as the annotation says, where that may differ from the mask
            }
        ),
        "segment_map": Value("string"),  # path of a file as `read_segment_map` takes it; decoded when the row becomes a sample
        "categories": List({"id": Value("int64"), "name": Value("string")}),  # of this row alone; None = those of the dataset
        "expressions": List(Value("string")),
        "regions": List({"kind": Value("string"), "points": List(List(Value("float64"))), "mask": _RLE, "segment": Value("int32")}),
        "conversation": List({"role": Value("string"), "content": Value("string")}),
        "record_id": Value("string"),  # of the question, expression or object, where several rows share an image
        "choices": List(Value("string")),  # of a multiple-choice question
        "answers": List(Value("string")),  # to the last question
        "region_image": datasets.Image(decode=False),  # what the regions are drawn on, if it is another image
        "region_image_size": List(Value("int32")),
        "tags": List(Value("string")),  # by which results can be printed apart, such as the kind of an expression
    }
)


@dataclass(frozen=True)
class Category:
    """Category of a dataset.

    Attributes:
        id: the dataset's own.
        name: text that prompts it.
        is_thing: True for things, which can be counted; False for stuff.
        frequency: of LVIS alone: "r" (rare), "c" (common) or "f" (frequent) in its training split.
    """

    id: int
    name: str
    is_thing: bool = True
    frequency: str | None = None


@dataclass
class SplitConfig(datasets.BuilderConfig):
    """Options of a builder: one split, so that nobody waits for the others. A subclass adds those of its dataset.

    Raises:
        ValueError: the type of an option is a `Literal`, and its value is none of it.
    """

    split: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, hint in get_type_hints(type(self)).items():
            value, allowed = getattr(self, option, None), get_args(hint)
            if get_origin(hint) is Literal and value not in allowed:
                advice = did_you_mean(value, allowed)
                raise ValueError(f"{self.name}: unknown {option} {value!r}, expected one of {', '.join(map(str, allowed))}{advice}")

    @property
    def is_training(self) -> bool:
        """True for a split to train on."""
        return self.split in ("train", "trainval")


class SplitBuilder(datasets.ArrowBasedBuilder):
    """Base of the builders of rows. A subclass gives `shards` and `_generate_examples(**shards)`, which yields (key, row).

    A row may leave out the columns that it has nothing for. Builders that read files: see `FileBuilder`.

    Attributes:
        summary: the dataset in a line.
        docs_page: title of its page of the documentation, or the beginning of it.
        splits: names that `load` takes as `split`; () = any name.
        needs_files: True if `load` needs a `data_dir`.
        task: the task of rows with categories.
    """

    BUILDER_CONFIG_CLASS = SplitConfig
    VERSION = datasets.Version("1.5.0")  # to be raised when other rows come out: it is part of the name of the cached files
    summary: ClassVar[str]
    docs_page: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    needs_files: ClassVar[bool] = False
    task: ClassVar[Task] = "panoptic"

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the options of the dataset, as `load` takes them."""
        shared = {field.name for field in fields(SplitConfig)}
        return tuple(field.name for field in fields(cls.BUILDER_CONFIG_CLASS) if field.name not in shared)

    @property
    def categories(self) -> tuple[Category, ...]:
        """Categories of the rows that have none of their own, in the order of the prompt; () for datasets without."""
        return ()

    def shards(self) -> dict[str, list]:
        """Arguments of `_generate_examples`: lists of equal length, which processes and streams divide among themselves."""
        raise NotImplementedError

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=ROW_FEATURES)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=self.config.split, gen_kwargs=self.shards())]

    def _generate_examples(self, **shards: list) -> Iterator[tuple[Any, dict[str, Any]]]:
        raise NotImplementedError

    def _generate_tables(self, **shards: list) -> Iterator[tuple[Key, pa.Table]]:
        # Rows that datasets encodes one by one take several times as long as a table of them.
        rows = (row for _, row in self._generate_examples(**shards))
        number = 0
        while some := list(islice(rows, ROWS_PER_TABLE)):
            yield Key(0, number), pa.Table.from_pylist(some, schema=ROW_FEATURES.arrow_schema)
            number += 1


class SampleDataset:
    """Rows of one split as samples: `dataset[0]`, `len(dataset)`, `for sample in dataset`.

    Attributes:
        rows: `datasets.Dataset`, or `datasets.IterableDataset` if streamed, in the schema of `ROW_FEATURES`. To select, shuffle, shard or
            filter, do it with the rows and wrap them again.
        categories: of the dataset.
        task: the task of its rows with categories.
    """

    def __init__(self, rows: datasets.Dataset | datasets.IterableDataset, categories: Sequence[Category], task: Task = "panoptic"):
        self.rows = rows
        self.task = task
        self.categories = tuple(categories)
        self._names = {category.id: category.name for category in self.categories}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(self.rows[index])

    def __iter__(self) -> Iterator[Sample]:
        return map(self.sample, self.rows)

    def first_images(self, number: int) -> SampleDataset:
        """Rows of the first `number` images; not for a stream.

        Raises:
            ValueError: `number` is below 1.
        """
        if number < 1:
            raise ValueError(f"expected at least 1 image, got {number}")
        ids = self.rows["image_id"]
        kept = set(list(dict.fromkeys(ids))[:number])
        rows = self.rows.select([index for index, image_id in enumerate(ids) if image_id in kept])
        return SampleDataset(rows, self.categories, self.task)

    def sample(self, row: Mapping[str, Any]) -> Sample:
        """Sample of a row of this dataset."""
        return sample_from_row(row, self._names, self.task)


def sample_from_row(row: Mapping[str, Any], categories: Mapping[int, str] | None = None, task: Task = "panoptic") -> Sample:
    """Sample of a row; the row stays as it is. If its masks are in a segment map, the map is decoded.

    Args:
        row: columns of `ROW_FEATURES`; a missing one counts as None. `image` and `region_image` are `{"bytes", "path"}`, a path, encoded
            bytes or a PIL image. If there are bytes, a path beside them is ignored: it may lead into an archive.
        categories: id -> name of the dataset, for rows of the condition "category" without categories of their own.
        task: the task of the dataset.

    Returns:
        A sample whose images are paths or PIL images; encoded bytes become a PIL image, which decodes them when its pixels are read.

    Raises:
        ValueError: the row contradicts itself or its segment map, or its bytes are no image; the message names the image.
    """
    condition = row["condition"]
    own = row.get("categories")
    names = dict(categories or {}) if own is None else {entry["id"]: entry["name"] for entry in own}
    if condition == CATEGORY and not names:
        raise ValueError(f"image {row['image_id']}: a row with condition {CATEGORY!r} needs categories, its own or the dataset's")
    image_size = row.get("image_size")
    sample = Sample(
        image=_read_image(row, "image"),
        image_id=row["image_id"],
        image_size=None if image_size is None else tuple(image_size),
        segments=_read_segments(row),
        categories=names if condition == CATEGORY else {},
        expressions=tuple(row.get("expressions") or ()),
        regions=tuple(_read_region(entry) for entry in row.get("regions") or ()),
        conversation=tuple(dict(message) for message in row.get("conversation") or ()),
        record_id=row.get("record_id"),
        choices=tuple(row.get("choices") or ()),
        answers=tuple(row.get("answers") or ()),
        region_image=_read_image(row, "region_image"),
        region_image_size=None if row.get("region_image_size") is None else tuple(row["region_image_size"]),
        tags=tuple(row.get("tags") or ()),
        task=task,
    )
    if sample.condition != condition:
        raise ValueError(f"image {sample.image_id}: the row says condition {condition!r}, but holds a {sample.condition} prompt")
    return sample


def row_from_sample(sample: Sample, *, with_categories: bool = False) -> dict[str, Any]:
    """Row of a sample.

    Args:
        sample: its image may be a path, encoded bytes, or a PIL image, which is stored as PNG.
        with_categories: write the categories into the row. False if they are those of the dataset: the 133 names would be most of every
            row of COCO.
    """
    return {
        "image": _write_image(sample.image),
        "image_id": str(sample.image_id),
        "image_size": None if sample.image_size is None else list(sample.image_size),
        "condition": sample.condition,
        "segments": [segment_entry(**{**vars(segment), "mask_rle": _write_rle(segment.mask_rle)}) for segment in sample.segments],
        "segment_map": None,
        "categories": [{"id": id, "name": name} for id, name in sample.categories.items()] if with_categories else None,
        "expressions": list(sample.expressions),
        "regions": [region_entry(region, region.segment) for region in sample.regions],
        "conversation": [dict(message) for message in sample.conversation],
        "record_id": sample.record_id,
        "choices": list(sample.choices),
        "answers": list(sample.answers),
        "region_image": _write_image(sample.region_image),
        "region_image_size": None if sample.region_image_size is None else list(sample.region_image_size),
        "tags": list(sample.tags),
    }


def segment_entry(
    mask_rle: Mapping[str, Any] | None = None,
    category_id: int | None = None,
    *,
    map_values: Sequence[int] | None = None,
    is_crowd: bool = False,
    annotation_id: int | None = None,
    area: float | None = None,
) -> dict[str, Any]:
    """Segment as rows store it: with a mask, whose RLE has str counts, or with the values of its pixels in the segment map of the row."""
    return {
        "mask": mask_rle,
        "map_values": map_values,
        "category_id": category_id,
        "is_crowd": is_crowd,
        "annotation_id": annotation_id,
        "area": area,
    }


def region_entry(region: Region, segment: int | None) -> dict[str, Any]:
    """Region as rows store it; `segment` is the position of the segment that it means, None if there is none."""
    return {
        "kind": region.kind,
        "points": None if region.points is None else [list(point) for point in region.points],
        "mask": None if region.mask_rle is None else _write_rle(region.mask_rle),
        "segment": segment,
    }


def encode_png(image: Image.Image) -> bytes:
    """PNG of an image; written fast, so not as small as it could be."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _read_image(row: Mapping[str, Any], column: str) -> Any:
    image = row.get(column)
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if not isinstance(image, bytes):
        return image
    try:
        return open_image_file(io.BytesIO(image))
    except UNREADABLE as error:
        raise ValueError(f"{column} of image {row['image_id']}: {len(image)} bytes that are no image ({error})") from error


def _write_image(image: Any) -> dict[str, Any] | None:
    if image is None:
        return None
    if isinstance(image, Image.Image):
        image = encode_png(image)
    return {"bytes": image, "path": None} if isinstance(image, bytes) else {"bytes": None, "path": str(image)}


def _read_segments(row: Mapping[str, Any]) -> tuple[Segment, ...]:
    entries = row.get("segments") or ()
    masks = [entry.get("mask") for entry in entries]
    of_map = [index for index, mask in enumerate(masks) if mask is None]
    if of_map:
        try:
            segment_map = read_segment_map(row["segment_map"])
            if segment_map.shape != tuple(row["image_size"]):
                raise ValueError(f"segment map {row['segment_map']} is {segment_map.shape}, but the image is {tuple(row['image_size'])}")
            found = rles_from_segment_map(segment_map, [entries[index]["map_values"] for index in of_map])
        except ValueError as error:
            place = "" if str(row["segment_map"]) in str(error) else f"; it is {row['segment_map']}"
            raise ValueError(f"image {row['image_id']}: {error}{place}") from error
        for index, mask in zip(of_map, found, strict=True):
            masks[index] = mask
    return tuple(
        Segment(
            dict(mask),
            category_id=entry.get("category_id"),
            is_crowd=bool(entry.get("is_crowd")),
            annotation_id=entry.get("annotation_id"),
            area=entry.get("area"),
        )
        for mask, entry in zip(masks, entries, strict=True)
    )


def _read_region(entry: Mapping[str, Any]) -> Region:
    points, mask = entry.get("points"), entry.get("mask")
    return Region(
        entry["kind"],
        points=None if points is None else tuple(tuple(point) for point in points),
        mask_rle=None if mask is None else dict(mask),
        segment=entry.get("segment"),
    )


def _write_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    if isinstance(counts, str):
        return {"size": list(rle["size"]), "counts": counts}
    return compress_rle(dict(rle))
