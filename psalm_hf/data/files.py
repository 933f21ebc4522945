"""Base of the builders that read files below one folder.

A builder reads its annotation files once per process and lists their records; each record becomes one row. Of an image, the header alone
is read, for its size; segment maps are not decoded. A broken record ends the building with an error that names it, or is left out and
counted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import reprlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from datasets.exceptions import DatasetGenerationError
from PIL import Image
from pycocotools import mask as coco

from ..bounded_files import open_image_file, refuse_pipe
from ..masks import check_polygon, compress_rle
from ..structures import CATEGORY
from ..writing import write_json
from .features import Category, SplitBuilder, SplitConfig, sample_from_row
from .segment_map import UNREADABLE

SHARDS = 64  # of a split: many processes and workers divide it evenly
_ORIENTATION = 0x0112  # of EXIF
_TURNED = range(2, 9)  # its values for an image that viewers turn or mirror
INT64 = range(-(2**63), 2**63)  # numbers that columns hold
BROKEN = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)  # raised by what is read from a file
_HEIC = [b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")]  # how such files begin
_HALF = re.compile("[\ud800-\udfff]")  # half of a character, as JSON can write it alone, and which no column holds
_TEXTS = ("image_id", "record_id", "tags", "expressions", "conversation", "choices", "answers", "categories")  # columns
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")  # how absolute paths of Windows begin

# What a builder has read, by its cache folder. Not in the builder: builders are pickled into processes, and processes that are forked
# find it here without reading or copying it.
_READ: dict[str, dict[str, Any]] = {}


@dataclass
class FileConfig(SplitConfig):
    """Options of all datasets of files.

    Attributes:
        on_error: "raise": a broken record is an error; "skip": it is left out, and each time the rows are loaded, the number of such
            records is printed. Where records list their objects (see `FileBuilder.objects`), a broken object is left out alone.
        check_images: decode every image and every mask while the rows are made. Slow, but it finds truncated files before a training does.
    """

    on_error: Literal["raise", "skip"] = "raise"
    check_images: bool = False


@dataclass
class KeepEmptyConfig(FileConfig):
    """`keep_empty`: keep images without segments, crowds not counted. None = yes in splits for evaluation, no in those for training."""

    keep_empty: bool | None = None

    @property
    def keeps_empty(self) -> bool:
        """`keep_empty`, decided."""
        return not self.is_training if self.keep_empty is None else self.keep_empty


@dataclass
class LeftOut:
    """Number of broken records that the cached rows leave out, number of all, and the problem of the first; and the same of broken objects
    of records that are kept. And number of objects far outside of their images, which are not left out, with the first record of one. It
    is kept beside the rows, in one file for each process that made some of them."""

    number: int = 0
    total: int = 0
    first_problem: str | None = None
    objects: int = 0
    first_object: str | None = None
    far: int = 0
    first_far: str | None = None

    def write(self, folder: str, first: int) -> None:
        """Writes what one process found; `first` is the record that it began with."""
        (Path(folder) / f"left_out-{first:09d}.json").write_text(json.dumps(vars(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: str) -> LeftOut:
        """Sums up the files of all processes."""
        parts = [cls(**json.loads(file.read_text(encoding="utf-8"))) for file in cls._files(folder)]
        problems = [part.first_problem for part in parts if part.first_problem is not None]
        of_objects = [part.first_object for part in parts if part.first_object is not None]
        of_far = [part.first_far for part in parts if part.first_far is not None]
        return cls(
            sum(part.number for part in parts),
            sum(part.total for part in parts),
            problems[0] if problems else None,
            sum(part.objects for part in parts),
            of_objects[0] if of_objects else None,
            sum(part.far for part in parts),
            of_far[0] if of_far else None,
        )

    def lines(self) -> list[str]:
        """Sentences about what is left out; [] if nothing is."""
        lines = []
        if self.number:
            lines.append(f"{self.number} of {self.total} records are broken and left out, the first: {self.first_problem}")
        if self.objects:
            lines.append(f"{self.objects} broken objects are left out of records that are kept, the first: {self.first_object}")
        return lines

    def notes(self) -> list[str]:
        """Sentences about what is not left out; [] if there is nothing to say."""
        return [far_note(self.far, self.first_far)] if self.far else []

    @classmethod
    def remove(cls, folder: str) -> None:
        """Removes the files of all processes."""
        for file in cls._files(folder):
            file.unlink()

    @staticmethod
    def _files(folder: str) -> list[Path]:
        return sorted(Path(folder).glob("left_out-*.json"))


class BrokenRecordError(DatasetGenerationError, ValueError):
    """Broken record, which the message names. (`datasets` hides errors of other types behind one of its own, and between processes the
    cause of that is lost.)"""


class BrokenObjectsError(ValueError):
    """Broken objects of one record. `problems`: a message for each."""

    def __init__(self, problems: Sequence[str]):
        more = f" (and {len(problems) - 1} more broken objects)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")
        self.problems = list(problems)


class FileBuilder(SplitBuilder):
    """Base of the builders that read files. A subclass gives `file`, `records`, `describe` and `row`, and the rest if it differs.

    Attributes:
        published: split -> result of `counts` for a complete copy.
        counted: name of the records in `counts`.
        turned_remedy: what to do with an image that EXIF turns, where masks are drawn on the turned image.
        repair: what to do about a file that cannot be read at all.
    """

    BUILDER_CONFIG_CLASS = FileConfig
    needs_files = True
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    counted: ClassVar[str] = "records"
    turned_remedy: ClassVar[str] = "save it turned and without EXIF"
    repair: ClassVar[str] = "download it again"
    file: str  # the annotation file, below `data_dir`

    def annotation_files(self) -> Sequence[str]:
        """Paths below `data_dir` of the files that the rows are made of. If one of them changes, the rows are made again."""
        return (self.file,)

    def read_categories(self) -> tuple[Category, ...]:
        """Categories in the order of the prompt, from the annotation files; () if nothing is prompted by categories."""
        return ()

    def records(self) -> Sequence[Any]:
        """Records of the annotation files, in the order of the rows. `json` and `lines` read the files."""
        raise NotImplementedError

    def describe(self, record: Any) -> str:
        """Name of a record in messages: its file and id."""
        raise NotImplementedError

    def row(self, record: Any) -> dict[str, Any]:
        """Row of a record: columns of `ROW_FEATURES`, made with `image`, `segment_map` and `mask`. It does not change the record.

        Raises:
            ValueError, KeyError, TypeError: the record is broken.
        """
        raise NotImplementedError

    def objects(self, entries: Iterable[Any], read: Callable[[int, Any], dict[str, Any]]) -> dict[str, Any]:
        """Columns of the objects of a record: `segments`; and `broken_objects`, which is no column: the problems of those left out.

        Args:
            entries: what the record says of each object.
            read: position and entry -> segment, as of `segment_entry`. Its errors name the object.

        Raises:
            BrokenObjectsError: an object is broken, and broken records are errors; or all of them are, so that no truth is left.
        """
        segments, problems = [], []
        for index, entry in enumerate(entries):
            try:
                segments.append(read(index, entry))
            except BROKEN as error:
                problems.append(reason_of(error))
        if problems and (self.config.on_error == "raise" or not segments):
            raise BrokenObjectsError(problems)
        return {"segments": segments, "broken_objects": problems}

    def read_notes(self) -> Sequence[str]:
        """Sentences about the whole that somebody must know who trains on the rows or measures with them, and cannot see in them. They are
        printed whenever the rows are loaded or verified."""
        return ()

    def keeps(self, row: Mapping[str, Any]) -> bool:
        """True if a row without errors belongs to the dataset. For conditions that no record shows before its row is made."""
        return True

    def prompted(self, row: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Rows that the row of a record becomes: itself, unless objects are prompted one by one."""
        return [row]

    def counts(self) -> dict[str, int]:
        """Numbers of what the annotation files list, to be compared with `published`."""
        return {self.counted: len(self._records)}

    def records_of(self, first: int, end: int) -> Iterator[Any]:
        """Records of a span. (If `records` lists files of many records each: the records of these files.)"""
        return (self._records[position] for position in range(first, end))

    def checked_rows(self, first: int, end: int) -> Iterator[dict[str, Any] | ValueError]:
        """One row for every record of a span, or the error of a broken one; its message names file and id."""
        names = {category.id: category.name for category in self.categories}
        for position, record in enumerate(self.records_of(first, end), first):
            try:
                row = self.row(record)
                self._check(row, names)
                if broken := row.get("broken_objects"):
                    row["broken_objects"] = [f"{self.place(record, position)}: {problem}" for problem in broken]
                if "far_objects" in row:
                    row["far_objects"] = [self.place(record, position)] * row["far_objects"]
            except BrokenRecordError:  # a wrong option: it concerns all records
                raise
            except BROKEN as error:
                problem = ValueError(f"{self.place(record, position)}: {reason_of(error)}")
                problem.__cause__ = error
                yield problem
            else:
                yield row

    @property
    def title(self) -> str:
        """Name of dataset and split in messages."""
        return f"{self.config.name} {self.config.split}"

    def message(self, text: str) -> str:
        """Message of an error that concerns the whole dataset: title, text, and the page of the documentation."""
        return printable(f"{self.title}: {text}; see the docs page {self.docs_page}")

    @property
    def categories(self) -> tuple[Category, ...]:
        """Categories in the order of the prompt."""
        entries = self._kept("categories", lambda: [vars(category) for category in self._checked_categories()])
        return tuple(Category(**entry) for entry in entries)

    def _checked_categories(self) -> tuple[Category, ...]:
        found = self.read_categories()
        for category in found:
            if type(category.id) is not int or category.id not in INT64:
                raise ValueError(self.message(f"{self.annotation_files()[0]}: a category has the id {shown(category.id)}; {self.repair}"))
            if not isinstance(category.name, str) or not category.name.strip() or _HALF.search(category.name):
                fault = f"category {category.id} has the name {shown(category.name)}"
                raise ValueError(self.message(f"{self.annotation_files()[0]}: {fault}; {self.repair}"))
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences of `read_notes`."""
        return tuple(self._kept("notes", lambda: list(self.read_notes())))

    def _kept(self, name: str, read: Callable[[], list[Any]]) -> list[Any]:
        """Plain values that are kept beside the cached rows, so that these load without the annotations."""
        kept = Path(self.cache_dir) / f"{name}.json"
        if kept.is_file():
            return json.loads(kept.read_text(encoding="utf-8"))
        values = self._once(name, read)
        if kept.parent.is_dir():
            write_json(kept, values)
        return values

    def path(self, relative: str) -> str:
        """Path of a file of the dataset, which need not exist. The separators of `relative` may be those of Windows.

        Raises:
            ValueError: it is outside of `data_dir`. (A link inside of `data_dir` may lead anywhere.)
        """
        if not isinstance(relative, str) or not relative or "\0" in relative or _HALF.search(relative):
            raise ValueError(f"expected a path below the data folder, got {shown(relative)}")
        if os.path.isabs(relative) or _DRIVE.match(relative) or ".." in relative.replace("\\", "/").split("/"):
            raise ValueError(f"path {relative!r} leaves the data folder {self.config.data_dir}; paths are relative to it, without '..'")
        path = f"{self.config.data_dir}/{relative}"  # datasets puts its own os.path.join, slower by far, into modules of builders
        # Written on Windows with its own separator; elsewhere it is a letter like others, which hardly any name has.
        return path if "\\" not in relative or os.path.exists(path) else f"{self.config.data_dir}/" + relative.replace("\\", "/")

    def first_existing(self, *candidates: str) -> str:
        """First of some paths below `data_dir` at which there is a file; the first of all if there is none."""
        return next((relative for relative in candidates if os.path.isfile(self.path(relative))), candidates[0])

    def json(self, relative: str, keys: Sequence[str] = ()) -> Any:
        """Content of a JSON file. It is read once per process and shared, so nobody may change it.

        Args:
            keys: keys that the top level must have.

        Raises:
            ValueError: not JSON, or a key is missing.
        """
        return self._once(relative, lambda: self._read_json(relative, keys))

    def lines(self, relative: str) -> list[tuple[int, str]]:
        """Lines of a text file that are not blank: number, from 1, and text. Errors as of `read_text`."""
        lines = io.StringIO(read_text(self.path(relative), relative), newline=None)  # whose ends may be those of any system
        return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]

    def image(self, relative: str, image_size: tuple[int, int] | None = None, *, drawn_on_turned: str = "") -> dict[str, Any]:
        """Columns `image` and `image_size` of a row.

        Args:
            image_size: (height, width) in the annotation; None if it has none.
            drawn_on_turned: the program that showed the image turned by its EXIF orientation when the masks were drawn; "" = none, the
                masks lie on the image as it is stored.

        Raises:
            ValueError: no such file, its header cannot be read, or the stored size is another; it has an EXIF orientation, and the masks
                lie on the turned image.
        """
        found = self._size_of(relative, "image", image_size, drawn_on_turned)
        return {"image": {"bytes": None, "path": self.path(relative)}, "image_size": list(found)}

    def image_bytes(self, content: bytes, name: str) -> dict[str, Any]:
        """Columns `image` and `image_size` of a row whose image is not a file of its own; messages call it `name`.

        Raises:
            ValueError: the header cannot be read.
        """
        size = self._opened_size(io.BytesIO(content), f"image {name}")
        return {"image": {"bytes": content, "path": None}, "image_size": list(size)}

    def segment_map(self, relative: str, image_size: tuple[int, int]) -> str:
        """Column `segment_map` of a row: path of a map of the same size as the image.

        Raises:
            ValueError: no such file, its header cannot be read, or its size is another.
        """
        self._size_of(relative, "segment map", image_size)
        return self.path(relative)

    def shards(self) -> dict[str, list]:
        """Spans [first record, end]."""
        number = len(self._records)
        parts = min(SHARDS, number)
        return {"spans": [[number * part // parts, number * (part + 1) // parts] for part in range(parts)]}

    def _generate_examples(self, spans: list[list[int]]) -> Iterator[tuple[int, dict[str, Any]]]:
        found = LeftOut()
        for first, end in spans:
            for row in self.checked_rows(first, end):
                found.total += 1
                if not isinstance(row, ValueError):
                    if broken := row.pop("broken_objects", ()):
                        found.objects += len(broken)
                        found.first_object = found.first_object or broken[0]
                    if far := row.pop("far_objects", ()):
                        found.far += len(far)
                        found.first_far = found.first_far or far[0]
                    if self.keeps(row):
                        yield from ((found.total, prompted) for prompted in self.prompted(row))
                elif self.config.on_error == "skip":
                    found.number, found.first_problem = found.number + 1, found.first_problem or str(row)
                else:
                    remedy = f"correct it, or leave such records out with on_error='skip'; see the docs page {self.docs_page}"
                    raise BrokenRecordError(f"{row}; {remedy}") from row.__cause__
        if self._is_making_rows:
            if self.config.on_error == "skip" or found.far:
                found.write(self._output_dir, spans[0][0])
        else:
            for line in (*found.lines(), *found.notes()):
                print(f"{self.title}: {line}", file=sys.stderr)

    def as_streaming_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Rows as a stream; and prints the notes."""
        self._print_notes()
        return super().as_streaming_dataset(*args, **kwargs)

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Makes the rows, or finds them in the cache; and prints the notes and the number of records that they leave out, which nobody sees
        in them."""
        super().download_and_prepare(*args, **kwargs)
        self._print_notes()
        found = LeftOut.read(self.cache_dir)
        for note in found.notes():
            print(f"{self.title}: {note}", file=sys.stderr)
        for line in found.lines():
            remedy = f"when they are repaired, delete {self.cache_dir} or give another cache_dir, else the rows stay as they are"
            print(f"{self.title}: {line}; {remedy}", file=sys.stderr)

    def _print_notes(self) -> None:
        for note in self.notes:
            print(f"{self.title}: {note}", file=sys.stderr)

    def _split_generators(self, dl_manager: Any) -> list[Any]:
        if self._is_making_rows:
            LeftOut.remove(self._output_dir)  # of a process that was killed
        generators = super()._split_generators(dl_manager)
        _ = self.categories  # now: later, `datasets` would hide what is wrong with them behind an error of its own
        return generators

    @property
    def _is_making_rows(self) -> bool:
        """True while rows are written, False while they are streamed. `datasets` writes to a folder of this name, and renames it at the
        end to `cache_dir`."""
        return str(self._output_dir).endswith(".incomplete")

    @property
    def _records(self) -> Sequence[Any]:
        def read() -> Sequence[Any]:
            records = self.records()
            if not records:
                raise ValueError(self.message(f"no records in {self.annotation_files()[0]}"))
            return records

        return self._once("records", read)

    def _info(self) -> Any:
        if not os.path.isdir(self.config.data_dir):
            found = "is a file, not a folder" if os.path.exists(self.config.data_dir) else "does not exist"
            where = f"give the one that holds {self.annotation_files()[0]} as data_dir"
            raise FileNotFoundError(self.message(f"the folder {self.config.data_dir} {found}; {where}"))
        # Part of the name of the cached rows. datasets itself only looks at the arguments, and would give the rows of an older file.
        self.hash = self._fingerprint()
        return super()._info()

    def _fingerprint(self) -> str:
        stamps = []
        for relative in self.annotation_files():
            try:
                status = os.stat(self.path(relative))
            except FileNotFoundError:
                raise FileNotFoundError(self.message(f"there is no {relative} in {self.config.data_dir}")) from None
            stamps.append((relative, status.st_size, status.st_mtime_ns))
        return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]

    def _read_json(self, relative: str, keys: Sequence[str] = ()) -> Any:
        try:
            content = parse_json(read_text(self.path(relative), relative))
        except ValueError as error:
            raise ValueError(self.message(f"{self.path(relative)} is not a JSON file ({error}); {self.repair}")) from error
        missing = [key for key in keys if not isinstance(content, Mapping) or key not in content]
        if missing:
            raise ValueError(self.message(f"{self.path(relative)} has no {', '.join(missing)}"))
        return content

    def _once(self, name: str, read: Callable[[], Any]) -> Any:
        if self.cache_dir not in _READ:
            _READ[self.cache_dir] = {}
            # Annotations of COCO take gigabytes, and nobody needs them after the rows are made.
            weakref.finalize(self, _READ.pop, self.cache_dir, None).atexit = False
        read_before = _READ[self.cache_dir]
        if name not in read_before:
            try:
                read_before[name] = read()
            except BROKEN as error:
                if isinstance(error, ValueError):
                    raise
                problem = f"{self.annotation_files()[0]} holds a value of a wrong type ({error!r:.200}); {self.repair}"
                raise ValueError(self.message(problem)) from error
        return read_before[name]

    def _opened_size(self, source: Any, item: str, drawn_on_turned: str = "") -> tuple[int, int]:
        try:
            with open_image_file(source) as image:
                size = image.height, image.width
                orientation = orientation_of(image) if drawn_on_turned else None
                if self.config.check_images:
                    image.load()
        except FileNotFoundError:
            raise ValueError(f"{item} does not exist in {self.config.data_dir}") from None
        except UNREADABLE as error:
            raise ValueError(f"{item} cannot be read ({error}){_heic_remedy(source)}") from error
        if orientation in _TURNED:
            raise ValueError(
                f"{item} has the EXIF orientation {orientation}: {drawn_on_turned} turns it, and the masks are drawn on that; "
                f"{self.turned_remedy}"
            )
        return size

    def _size_of(self, relative: str, what: str, expected: tuple[int, int] | None, drawn_on_turned: str = "") -> tuple[int, int]:
        size = self._opened_size(self.path(relative), f"{what} {relative}", drawn_on_turned)
        if expected is not None and tuple(expected) != size:
            raise ValueError(
                f"{what} {relative} is {size[0]} x {size[1]}, but its annotation says {expected[0]} x {expected[1]}; "
                f"sizes are height x width as stored in the file, before any rotation"
            )
        return size

    def _check(self, row: Mapping[str, Any], names: Mapping[int, str]) -> None:
        for index, segment in enumerate(row.get("segments") or ()):
            if row["condition"] == CATEGORY and row.get("categories") is None and segment["category_id"] not in names:
                raise ValueError(f"segment {index} has the unknown category id {segment['category_id']!r}")
            for field in ("category_id", "annotation_id"):
                value = segment.get(field)
                # Arrow refuses text without saying where it stands, and cuts off what follows the point of a number.
                if value is not None and type(value) is not int:
                    raise ValueError(f"segment {index} has the {field} {value!r}, which is no whole number")
                if value is not None and value not in INT64:
                    raise ValueError(f"segment {index} has the {field} {value!r}, which is no number of 64 bits")
            area = segment.get("area")
            if area is not None and type(area) not in (int, float):
                raise ValueError(f"segment {index} has the area {area!r}, which is no number")
            mask = segment.get("mask")
            if mask is not None and list(mask["size"]) != list(row["image_size"]):
                raise ValueError(f"segment {index} has a mask of size {mask['size']}, but the image is {row['image_size']} (height, width)")
        if half := _HALF.search(json.dumps([row.get(column) for column in _TEXTS], ensure_ascii=False)):
            raise ValueError(f"a text has half of a character, {half[0]!r}; write it whole, or leave it out")
        if self.config.check_images:
            sample_from_row(row, names)

    def place(self, record: Any, position: int) -> str:
        """Name of a record in messages, also of one that is broken: dataset, split, file and id."""
        try:
            return printable(f"{self.title}: {self.describe(record)}")
        except BROKEN:  # broken records may have no id
            return f"{self.title}: record {position} of {self.annotation_files()[0]}"


def far_note(number: int, first: str) -> str:
    """Sentence about objects with corners far outside of their images; `first`: name of the first record with one."""
    return (
        f"{number} objects have corners far outside of their images (more than a tenth of the longer side); if x and y are swapped, or the "
        f"sizes are those of another image, correct it; the first is in {first}"
    )


def reason_of(error: Exception) -> str:
    """Message of an error that was raised by reading a record. (A KeyError says the name alone.)"""
    if isinstance(error, RecursionError):
        return "lists or objects lie too deep in each other to be read"
    reason = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
    return printable(reason)


def printable(text: str) -> str:
    """A text with `\\ud800` for halves of characters, which JSON may hold and no terminal prints."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_text(path: str, name: str) -> str:
    """Text of a file in UTF-8, UTF-16 or UTF-32, with or without the mark that editors of Windows write at the beginning.

    Args:
        name: of the file in messages.

    Raises:
        ValueError: another encoding, a folder, or a file that may not be read.
        FileNotFoundError: no such file.
    """
    try:
        refuse_pipe(path)
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise ValueError(f"{name} is a folder; give the file") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error})") from error
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 or UTF-16 ({error}); save it as UTF-8") from error


def parse_json(text: str) -> Any:
    """Content of a text in JSON.

    Raises:
        ValueError: not JSON, or nested too deep.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{error.msg}, {where}") from error
    except RecursionError as error:
        raise ValueError(reason_of(error)) from error


def is_name(value: Any) -> bool:
    """True for a text that may name a category: not blank, and without control characters or halves of characters."""
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def shown(value: Any) -> str:
    """A value in messages: text has quotes, and what is long or deep is cut short."""
    return reprlib.repr(value)


def orientation_of(image: Image.Image) -> int | None:
    """Orientation that EXIF gives an opened image; None if there is none, or if PIL turns it while it decodes, as it does with TIFF."""
    return None if image.format == "TIFF" else image.getexif().get(_ORIENTATION)


def mask(segmentation: Any, image_size: tuple[int, int]) -> dict:
    """Mask of an annotation of COCO, as rows store it.

    Args:
        segmentation: list of polygons, flat [x0, y0, x1, y1, ...] of at least three corners each; or RLE, compressed or not.
        image_size: (height, width) of the image.

    Returns:
        Compressed RLE, equal to that of pycocotools.

    Raises:
        ValueError: none of these; a polygon with too few corners or with corners too far away; an RLE of another size, or whose runs do
            not add up.
    """
    height, width = image_size
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size")
        if not isinstance(size, Sequence) or list(size) != [height, width]:
            absent = "the RLE has no size" if size is None else f"the mask is of size {shown(size)}"
            raise ValueError(f"{absent}, but the image is {height} x {width} (height x width); write 'size': [{height}, {width}]")
        return compress_rle({"size": [height, width], "counts": segmentation.get("counts")})
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"expected a mask as RLE or list of polygons, got {shown(segmentation)}")
    for index, polygon in enumerate(segmentation):
        if fault := _fault_of_polygon(polygon):
            expected = "expected finite x, y of at least 3 corners in one flat list"
            raise ValueError(f"polygon {index}: {expected}, got {shown(polygon)}{fault}")
        check_polygon(polygon, image_size, f"polygon {index}")
    rle = coco.merge(coco.frPyObjects(segmentation, height, width))
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _fault_of_polygon(polygon: Any) -> str:
    """Remark about a polygon that is none; "" if it is one."""
    if not isinstance(polygon, list):
        return "; a list of polygons has a list for each"
    kinds = {type(value) for value in polygon}
    if list in kinds:
        return ", lists of numbers; write the pairs one after the other, x0, y0, x1, y1, ..."
    if not kinds <= {int, float}:
        (value, *_) = (value for value in polygon if type(value) not in (int, float))
        return f", where {shown(value)} is no number" + (" but text" if isinstance(value, str) else "")
    if len(polygon) < 6 or len(polygon) % 2:
        return f", {len(polygon)} numbers"
    return ""


def _heic_remedy(source: Any) -> str:
    """Remedy for a file that cannot be read because it is HEIC, the format of photographs of iPhones; "" for others."""
    if isinstance(source, str) and not os.path.isfile(source):
        return ""
    with open(source, "rb") if isinstance(source, str) else io.BytesIO(source.getvalue()) as file:
        if file.read(12)[4:] not in _HEIC:
            return ""
    return (
        "; it is HEIC, which PIL reads with the package pillow-heif alone: save it as JPEG or PNG, or install pillow-heif and call "
        "pillow_heif.register_heif_opener() before"
    )
