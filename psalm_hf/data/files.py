"""Datasets that are files below one folder: what their builders share.

A builder reads its annotation files once per process and lists their records; each record becomes one row. Pictures are only looked at
(header and size), segment maps are not decoded. A record that is broken ends the building with an error that names it, or is left out
and counted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets.exceptions import DatasetGenerationError
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco

from ..masks import compress_rle
from .features import Category, RowBuilder, RowConfig, sample_from_row

SHARDS = 64  # of a split: many processes and workers divide it evenly
ON_ERROR = ("raise", "skip")
ENCODING = "utf-8-sig"  # UTF-8, with or without the mark that editors of Windows write at the beginning

# What a builder has read, by its cache folder. Not in the builder: builders are pickled into processes, and processes that are forked
# find it here without reading or copying it.
_READ: dict[str, dict[str, Any]] = {}


@dataclass
class FileConfig(RowConfig):
    """Options of all datasets of files.

    Attributes:
        on_error: what happens to a broken record: "raise", or "skip": it is left out, and their number is printed, whenever the rows are
            loaded.
        check_images: decode every picture and every mask while the rows are made. Slow, but finds truncated files before a training does.
    """

    on_error: str = "raise"
    check_images: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_error not in ON_ERROR:
            raise ValueError(f"{self.name}: unknown on_error {self.on_error!r}, expected one of {', '.join(ON_ERROR)}")


@dataclass
class LeftOut:
    """How many broken records the cached rows leave out, of how many, and what is wrong with the first. Kept beside the rows: one file of
    each process that made some."""

    number: int = 0
    total: int = 0
    first_problem: str | None = None

    def write(self, folder: str, first: int) -> None:
        """`first`: record that the process began with."""
        (Path(folder) / f"left_out-{first:09d}.json").write_text(json.dumps(vars(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: str) -> LeftOut:
        """Of all processes."""
        parts = [cls(**json.loads(file.read_text(encoding="utf-8"))) for file in cls._files(folder)]
        problems = [part.first_problem for part in parts if part.first_problem is not None]
        return cls(sum(part.number for part in parts), sum(part.total for part in parts), problems[0] if problems else None)

    @classmethod
    def remove(cls, folder: str) -> None:
        """What `write` has written."""
        for file in cls._files(folder):
            file.unlink()

    @staticmethod
    def _files(folder: str) -> list[Path]:
        return sorted(Path(folder).glob("left_out-*.json"))


class BrokenRecordError(DatasetGenerationError, ValueError):
    """A record is broken; the message names it. Of this kind, because `datasets` hides any other error behind one of its own, whose cause
    is lost between processes."""


class FileBuilder(RowBuilder):
    """Base of the builders that read files. A subclass gives

    * `docs_page`, title of the page of the documentation that error messages point to;
    * `annotation_files()`, paths below `data_dir` that its rows are made of. When one of them changes, the rows are made again;
    * `read_categories()` and `records()`, which read them with `json`;
    * `describe(record)`, a record's file and id as messages name it;
    * `row(record)`, the row: a dict with the columns of `ROW_FEATURES`, made with `picture`, `segment_map` and `mask`. It may raise
      ValueError, KeyError or TypeError for a broken record, and must not change it.
    """

    BUILDER_CONFIG_CLASS = FileConfig
    docs_page: ClassVar[str]
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {}  # split -> what `counts` gives for a complete copy

    def annotation_files(self) -> Sequence[str]:
        raise NotImplementedError

    def read_categories(self) -> tuple[Category, ...]:
        raise NotImplementedError

    def records(self) -> Sequence[Any]:
        raise NotImplementedError

    def describe(self, record: Any) -> str:
        raise NotImplementedError

    def row(self, record: Any) -> dict[str, Any]:
        raise NotImplementedError

    def keeps(self, row: Mapping[str, Any]) -> bool:
        """Whether a row that is in order is one of the dataset; for what is only known when it is made."""
        return True

    def counts(self) -> dict[str, int]:
        """How much of what the annotation files list, by which a copy can be compared with the published one."""
        return {"records": len(self._records)}

    def records_of(self, first: int, end: int) -> Iterator[Any]:
        """The records of a span. (Where `records` lists files of many records each, those of the files.)"""
        return (self._records[position] for position in range(first, end))

    def checked_rows(self, first: int, end: int) -> Iterator[dict[str, Any] | ValueError]:
        """For every record of a span its row, or what is wrong with it; the message names file and id."""
        names = {category.id: category.name for category in self.categories}
        for position, record in enumerate(self.records_of(first, end), first):
            try:
                row = self.row(record)
                self._check(row, names)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problem = ValueError(self._message(record, position, error))
                problem.__cause__ = error
                yield problem
            else:
                yield row

    @property
    def title(self) -> str:
        """Dataset and split, as messages name them."""
        return f"{self.config.name} {self.config.split}"

    @property
    def categories(self) -> tuple[Category, ...]:
        """In the order in which they are prompted. Kept beside the cached rows, so that those can be loaded without the annotations."""
        kept = Path(self.cache_dir) / "categories.json"
        if kept.is_file():
            return tuple(Category(**entry) for entry in json.loads(kept.read_text(encoding="utf-8")))
        categories = self._once("categories", self.read_categories)
        if kept.parent.is_dir():
            unfinished = kept.with_suffix(f".{os.getpid()}")
            unfinished.write_text(json.dumps([vars(category) for category in categories]), encoding="utf-8")
            unfinished.replace(kept)
        return categories

    def path(self, relative: str) -> str:
        """A file of the dataset, whether it exists or not.

        Raises:
            ValueError: it would lie outside of `data_dir`. (A link inside of `data_dir` may lead anywhere.)
        """
        if not isinstance(relative, str) or not relative:
            raise ValueError(f"expected a path below the data folder, got {relative!r}")
        if os.path.isabs(relative) or ".." in relative.replace("\\", "/").split("/"):
            raise ValueError(f"path {relative!r} leaves the data folder {self.config.data_dir}; paths are relative to it, without '..'")
        return f"{self.config.data_dir}/{relative}"  # datasets puts its own os.path.join, slower by far, into modules of builders

    def json(self, relative: str, keys: Sequence[str] = ()) -> Any:
        """A JSON file, read once per process. It is shared: whoever changes it, changes it for all.

        Args:
            keys: what the top level must have.

        Raises:
            ValueError: not JSON, or a key is missing.
        """

        return self._once(relative, lambda: self._read_json(relative, keys))

    def lines(self, relative: str) -> list[tuple[int, str]]:
        """Number, from 1, and text of the lines of a text file that are not blank; for JSON lines, each of which is a record."""
        with open(self.path(relative), encoding=ENCODING) as file:
            return [(number, line) for number, line in enumerate(file, 1) if line.strip()]

    def picture(self, relative: str, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
        """The columns `image` and `image_size` of a row.

        Args:
            image_size: (height, width) as the annotation has it; None where it says nothing.

        Raises:
            ValueError: no such picture, its header cannot be read, or its size is another. The size is the stored one: an EXIF
                orientation turns the picture, but not its masks.
        """
        found = self._size_of(relative, "image", image_size)
        return {"image": {"bytes": None, "path": self.path(relative)}, "image_size": list(found)}

    def picture_bytes(self, content: bytes, name: str) -> dict[str, Any]:
        """The columns `image` and `image_size` of a row whose picture is no file of its own; `name` is what messages call it.

        Raises:
            ValueError: the header cannot be read.
        """
        try:
            with Image.open(io.BytesIO(content)) as picture:
                size = picture.height, picture.width
                if self.config.check_images:
                    picture.load()
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
            raise ValueError(f"image {name} cannot be read ({error})") from error
        return {"image": {"bytes": content, "path": None}, "image_size": list(size)}

    def segment_map(self, relative: str, image_size: tuple[int, int]) -> str:
        """The column `segment_map` of a row: a picture of the same size, as `read_segment_map` takes it.

        Raises:
            ValueError: see `picture`.
        """
        self._size_of(relative, "segment map", image_size)
        return self.path(relative)

    def shards(self) -> dict[str, list]:
        """Spans [first record, end]."""
        number = len(self._records)
        parts = min(SHARDS, number)
        return {"spans": [[number * part // parts, number * (part + 1) // parts] for part in range(parts)]}

    def _generate_examples(self, spans: list[list[int]]) -> Iterator[tuple[int, dict[str, Any]]]:
        total, left_out, first_problem = 0, 0, None
        for first, end in spans:
            for row in self.checked_rows(first, end):
                total += 1
                if not isinstance(row, ValueError):
                    if self.keeps(row):
                        yield total, row
                elif self.config.on_error == "skip":
                    left_out, first_problem = left_out + 1, first_problem or row
                else:
                    remedy = f"correct it, or leave such records out with on_error='skip'; see the docs page {self.docs_page}"
                    raise BrokenRecordError(f"{row}; {remedy}") from row.__cause__
        if self._is_making_rows:
            if self.config.on_error == "skip":
                LeftOut(left_out, total, first_problem and str(first_problem)).write(self._output_dir, spans[0][0])
        elif left_out:
            print(f"{self.title}: {left_out} of {total} records are broken and left out, the first: {first_problem}", file=sys.stderr)

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Make the rows, or find them in the cache; and print how many records they leave out, which nobody sees in them."""
        super().download_and_prepare(*args, **kwargs)
        found = LeftOut.read(self.cache_dir)
        if found.number:
            print(
                f"{self.title}: {found.number} of {found.total} records are broken and left out, the first: {found.first_problem}; when "
                f"they are repaired, delete {self.cache_dir} or give another cache_dir, else the rows stay as they are",
                file=sys.stderr,
            )

    def _split_generators(self, dl_manager: Any) -> list[Any]:
        if self._is_making_rows:
            LeftOut.remove(self._output_dir)  # of a process that was killed
        return super()._split_generators(dl_manager)

    @property
    def _is_making_rows(self) -> bool:
        """And not streaming them: datasets writes to a folder of this name, which becomes `cache_dir` when it is complete."""
        return str(self._output_dir).endswith(".incomplete")

    @property
    def _records(self) -> Sequence[Any]:
        def read() -> Sequence[Any]:
            records = self.records()
            if not records:
                raise ValueError(f"{self.title}: no records in {self.annotation_files()[0]}; see the docs page {self.docs_page}")
            return records

        return self._once("records", read)

    def _info(self) -> Any:
        if not os.path.isdir(self.config.data_dir):
            raise FileNotFoundError(
                f"{self.title}: the folder {self.config.data_dir} does not exist; give the one that holds {self.annotation_files()[0]} "
                f"as data_dir, see the docs page {self.docs_page}"
            )
        # Part of the name of the cached rows. datasets itself only looks at the arguments, and would give the rows of an older file.
        self.hash = self._fingerprint()
        return super()._info()

    def _fingerprint(self) -> str:
        stamps = []
        for relative in self.annotation_files():
            try:
                status = os.stat(self.path(relative))
            except FileNotFoundError:
                raise FileNotFoundError(
                    f"{self.title}: there is no {relative} in {self.config.data_dir}; "
                    f"see the docs page {self.docs_page} for the files and where they lie"
                ) from None
            stamps.append((relative, status.st_size, status.st_mtime_ns))
        return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]

    def _read_json(self, relative: str, keys: Sequence[str] = ()) -> Any:
        try:
            with open(self.path(relative), encoding=ENCODING) as file:
                content = json.load(file)
        except ValueError as error:
            raise ValueError(
                f"{self.title}: {self.path(relative)} is not a JSON file ({error}); download it again, see the docs page {self.docs_page}"
            ) from error
        missing = [key for key in keys if not isinstance(content, Mapping) or key not in content]
        if missing:
            raise ValueError(
                f"{self.title}: {self.path(relative)} has no {', '.join(missing)}; see the docs page {self.docs_page} for what it is"
            )
        return content

    def _once(self, name: str, read: Callable[[], Any]) -> Any:
        if self.cache_dir not in _READ:
            _READ[self.cache_dir] = {}
            # Annotations of COCO take gigabytes, and nobody needs them after the rows are made.
            weakref.finalize(self, _READ.pop, self.cache_dir, None).atexit = False
        read_before = _READ[self.cache_dir]
        if name not in read_before:
            read_before[name] = read()
        return read_before[name]

    def _size_of(self, relative: str, what: str, expected: tuple[int, int] | None) -> tuple[int, int]:
        try:
            with Image.open(self.path(relative)) as picture:
                size = picture.height, picture.width
                if self.config.check_images:
                    picture.load()
        except FileNotFoundError:
            raise ValueError(f"{what} {relative} does not exist in {self.config.data_dir}") from None
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
            raise ValueError(f"{what} {relative} cannot be read ({error})") from error
        if expected is not None and tuple(expected) != size:
            raise ValueError(
                f"{what} {relative} is {size[0]} x {size[1]}, but its annotation says {expected[0]} x {expected[1]}; "
                f"sizes are height x width as stored in the file, before any rotation"
            )
        return size

    def _check(self, row: Mapping[str, Any], names: Mapping[int, str]) -> None:
        for index, segment in enumerate(row.get("segments") or ()):
            if row["condition"] == "category" and row.get("categories") is None and segment["category_id"] not in names:
                raise ValueError(f"segment {index} has the unknown category id {segment['category_id']!r}")
            for field in ("category_id", "annotation_id"):
                value = segment.get(field)
                # Arrow refuses text without saying where it stands, and cuts off what follows the point of a number.
                if value is not None and type(value) is not int:
                    raise ValueError(f"segment {index} has the {field} {value!r}, which is no whole number")
            area = segment.get("area")
            if area is not None and type(area) not in (int, float):
                raise ValueError(f"segment {index} has the area {area!r}, which is no number")
            mask = segment.get("mask")
            if mask is not None and list(mask["size"]) != list(row["image_size"]):
                raise ValueError(f"segment {index} has a mask of size {mask['size']}, but the image is {row['image_size']} (height, width)")
        if self.config.check_images:
            sample_from_row(row, names)

    def _message(self, record: Any, position: int, error: Exception) -> str:
        try:
            place = self.describe(record)
        except (KeyError, TypeError, AttributeError, IndexError):  # broken records may have no id
            place = f"record {position} of {self.annotation_files()[0]}"
        reason = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        return f"{self.title}: {place}: {reason}"


def mask(segmentation: Any, image_size: tuple[int, int]) -> dict:
    """A mask of an annotation in COCO's forms, as rows store it.

    Args:
        segmentation: list of polygons, flat [x0, y0, x1, y1, ...] of at least three corners each; or RLE, compressed or not.
        image_size: (height, width) of the picture.

    Returns:
        Compressed RLE, equal to that of pycocotools.

    Raises:
        ValueError: none of these; a polygon with too few corners; an RLE of another size, or whose runs do not add up.
    """
    height, width = image_size
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", ())) != [height, width]:
            raise ValueError(f"the mask is of size {segmentation.get('size')}, but the image is {height} x {width} (height x width)")
        return compress_rle(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"expected a mask as RLE or list of polygons, got {segmentation!r:.80}")
    for index, polygon in enumerate(segmentation):
        # Four numbers would be taken for a box.
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise ValueError(f"polygon {index}: expected finite x, y of at least 3 corners in one flat list, got {polygon!r:.80}")
    rle = coco.merge(coco.frPyObjects(segmentation, height, width))
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
