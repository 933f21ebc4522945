"""Base of the builders of own data: options that differ by split, and files of category names. See docs/own_data.md."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import pyarrow as pa
from PIL import Image, ImageOps

from ...bounded_files import open_image_file
from ...spelling import did_you_mean
from ...structures import PROMPT_TOKENS, REGION_KINDS, RegionKind, Task
from ..features import ROW_FEATURES, Category, encode_png, sample_from_row
from ..files import INT64, FileBuilder, FileConfig, orientation_of, shown
from .holdout import HELD_OUT_SPLIT, TRAIN_SPLIT, check_both_sides, is_held_out
from .regions import region_rows

_NUMBERED = re.compile(r"\s*(\d+)\s*[,;]\s*(\S.*)")  # number, name
_BEGINS_WITH_NUMBER = re.compile(r"\s*(\d+)(?:\s*[:=]\s*|\s+)\S")
_COLOUR_LINE = re.compile(r"(.+):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")  # label:R,G,B:parts:actions
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_PATHS = ("annotations", "images", "labels", "masks")  # options of any format


@dataclass
class OwnConfig(FileConfig):
    """Options of own data. A split may have any name that is one word, except `all`. In options that are paths, `{split}` is its name.

    Attributes:
        orientation: of images that EXIF turns. "refuse": they are broken records. "turned": masks are drawn on the image as programs show
            it, so the image is turned, and its rows hold it as PNG. "stored": masks are drawn on the image as it is stored.
        holdout: share of the images that are held out, between 0 and 1. The split "train" leaves them out and "val" has them alone; both
            are read from the files of "train". None = every split has its own files.
        regions: prompt every object by a region of this kind, instead of what the files ask for; "all" = by each kind, in a row of its own.

    Raises:
        ValueError: the name of the split has other characters, or selects nothing: without `{split}` in a path and without `holdout` all
            splits would have the same rows, so there is "train" alone; a share that is none.
    """

    orientation: Literal["refuse", "turned", "stored"] = "refuse"
    holdout: float | None = None
    regions: Literal[RegionKind, "all", None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"\w+", self.split) or self.split.lower() == "all":  # datasets has its own meaning of "all"
            raise ValueError(f"{self.name}: the name of a split has letters, digits and _ alone, and is not 'all', got {self.split!r}")
        categories = getattr(self, "categories", None)
        if categories is not None and (not isinstance(categories, str) or "," in categories):
            raise ValueError(
                f"{self.name}: categories is the path of a file that has one name per line, got {categories!r}; write the names into a file"
            )
        if categories is not None:
            self.categories = self.of_split(categories)
        if self.holdout is not None:
            self._check_holdout()
        elif self.split != TRAIN_SPLIT and not self.selects_by_split:
            raise ValueError(
                f"{self.name}: the split {self.split!r} selects nothing, it would be the same rows as {TRAIN_SPLIT!r}; hold out a share of "
                f"the images with holdout=0.1, or give each split its own files by {{split}} in {' or '.join(self._paths())}"
            )

    @property
    def selects_by_split(self) -> bool:
        """True if splits have files of their own: an option that is a path contains `{split}`."""
        return any("{split}" in getattr(self, option) for option in self._paths())

    @property
    def files_split(self) -> str:
        """Split whose files are read: with `holdout` always "train"."""
        return self.split if self.holdout is None else TRAIN_SPLIT

    def of_split(self, path: str) -> str:
        """Path of an option, for this split. That of "val" may be called "valid", as Roboflow does."""
        given = path.replace("{split}", self.files_split)
        if self.files_split == HELD_OUT_SPLIT and not os.path.exists(f"{self.data_dir}/{given}"):
            other = path.replace("{split}", "valid")
            return other if os.path.exists(f"{self.data_dir}/{other}") else given
        return given

    def _check_holdout(self) -> None:
        if isinstance(self.holdout, bool) or not isinstance(self.holdout, int | float) or not 0 < self.holdout < 1:
            raise ValueError(f"{self.name}: holdout is a share of the images between 0 and 1, such as 0.1, got {self.holdout!r}")
        if self.split not in (TRAIN_SPLIT, HELD_OUT_SPLIT):
            raise ValueError(
                f"{self.name}: with holdout the splits are {TRAIN_SPLIT} and {HELD_OUT_SPLIT}, got {self.split!r}"
                + did_you_mean(self.split, (TRAIN_SPLIT, HELD_OUT_SPLIT))
            )

    def _paths(self) -> list[str]:
        """Options that are paths of what differs by split."""
        return [option for option in _PATHS if isinstance(getattr(self, option, None), str)]


@dataclass
class OwnTaskConfig(OwnConfig):
    """`task`: the task of rows with categories: "instance", "panoptic" or "semantic". `categories`: see `read_category_file`; None = the
    names in the annotations."""

    categories: str | None = None
    task: Task = "instance"


class FolderTree(NamedTuple):
    """Folders, below `data_dir`: one and all in it; and paths of files in them, relative to the first, sorted."""

    folders: list[str]
    files: list[str]


class OwnBuilder(FileBuilder):
    """Base of the builders of own data."""

    docs_page = "Own data"
    splits: ClassVar[tuple[str, ...]] = ()
    repair: ClassVar[str] = "correct it, or export it again"
    turned_remedy = (
        "save it turned and without EXIF (ImageMagick: mogrify -auto-orient), or give orientation='turned'; if the masks are drawn on the "
        "image as it is stored: orientation='stored'"
    )

    def image(
        self, relative: str, image_size: tuple[int, int] | None = None, *, drawn_on_turned: str = "almost every program"
    ) -> dict[str, Any]:
        """Columns `image` and `image_size` of a row, as the option `orientation` says; see `FileBuilder.image`."""
        orientation = self.config.orientation
        turned = self._turned(relative) if orientation == "turned" else None
        if turned is None:
            return super().image(relative, image_size, drawn_on_turned=drawn_on_turned if orientation == "refuse" else "")
        if image_size not in (None, (turned.height, turned.width)):
            raise ValueError(
                f"image {relative} is {turned.height} x {turned.width} (height x width) when it is turned, but its annotation says "
                f"{image_size[0]} x {image_size[1]}; if the masks are drawn on the image as it is stored: orientation='stored'"
            )
        return self.image_bytes(encode_png(turned), relative)

    def objects(self, entries: Iterable[Any], read: Callable[[int, Any], dict[str, Any]]) -> dict[str, Any]:
        """Columns of the objects of a record, and `far_objects` as of `count_far`; see `FileBuilder.objects`."""
        columns = super().objects(entries, read)
        return columns | count_far(columns["segments"])

    def tree(self, folder: str, endings: tuple[str, ...], besides: Container[str] = ()) -> FolderTree:
        """Files with some endings in a folder and in the folders in it. Hidden ones are left out; without such a folder there are none.

        Args:
            folder: path below `data_dir`.
            besides: paths of folders that are left out.

        Raises:
            ValueError: files lie in a folder of the split's name, so that those of the other splits would be read too.
        """
        found = FolderTree([], [])
        for path, inner, names in os.walk(self.path(folder), followlinks=True):
            relative = posixpath.relpath(path.replace("\\", "/"), self.path(folder))
            here = posixpath.normpath(posixpath.join(folder, relative))
            wanted = [name for name in (*names, *inner) if name.lower().endswith(endings) and not name.startswith(".")]
            inner[:] = [name for name in inner if not name.startswith(".") and posixpath.normpath(f"{here}/{name}") not in besides]
            inner[:] = sorted(set(inner) - set(wanted))  # a folder that is called as a file is named where it is read
            found.folders.append(here)
            found.files.extend(posixpath.normpath(f"{relative}/{name}") for name in wanted)
        split = self.config.files_split
        if of_split := next((file for file in found.files if file.startswith(f"{split}/")), None):
            place = posixpath.normpath(f"{folder}/{{split}}")
            raise ValueError(self.message(f"{folder} has the file {of_split}: if its folders are of splits, give {place!r} as the folder"))
        return FolderTree(sorted(found.folders), sorted(found.files))

    def _check(self, row: Mapping[str, Any], names: Mapping[int, str]) -> None:
        super()._check(row, names)
        try:
            pa.Table.from_pylist([row], schema=ROW_FEATURES.arrow_schema)  # later, `datasets` would hide which record it was
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"a field cannot be stored ({error})") from error
        if self.config.regions is not None:
            sample_from_row(row, names)  # decodes the masks on which prompts are drawn

    def _turned(self, relative: str) -> Image.Image | None:
        """Turned image of a file; None if there is nothing to turn, or if it cannot be read."""
        try:
            with open_image_file(self.path(relative)) as opened:
                if orientation_of(opened) in (None, 1):
                    return None
                turned = ImageOps.exif_transpose(opened)
        except OSError:  # named where its header is read
            return None
        return turned if turned.mode in _PNG_MODES else turned.convert("RGB")

    def image_of(self, record: Any) -> str | None:
        """Path of the image of a record, below `data_dir`, by which it is held out or not; its ending does not matter. None = no image.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: the record is broken.
        """
        raise NotImplementedError

    def prompted(self, row: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """The row itself, or with the option `regions` one row for each kind of region."""
        kinds = self.config.regions
        return [row] if kinds is None else region_rows(row, self._names_by_id, REGION_KINDS if kinds == "all" else [kinds])

    @property
    def all_records(self) -> Sequence[Any]:
        """Records of the files, those of both sides if images are held out."""
        return super()._records

    @property
    def _records(self) -> Sequence[Any]:
        return self.all_records if self.config.holdout is None else self._once("records of the side", self._records_of_side)

    def _records_of_side(self) -> list[Any]:
        """Records of the split, where images are held out. Broken ones are in both splits, so that nobody overlooks them; what has no image
        is for training."""
        holdout, wanted = self.config.holdout, self.config.split == HELD_OUT_SPLIT
        images, kept = [], []
        for record in self.all_records:
            try:
                image = self.image_of(record)
                is_wanted = wanted == (image is not None and is_held_out(image, holdout))
            except (ValueError, KeyError, TypeError, AttributeError):
                kept.append(record)
                continue
            if image is not None:
                images.append(image)
            if is_wanted:
                kept.append(record)
        try:
            check_both_sides(images, holdout)
        except ValueError as error:
            raise ValueError(self.message(str(error))) from error
        return kept

    @cached_property
    def _names_by_id(self) -> dict[int, str]:
        return {category.id: category.name for category in self.categories}


class OwnTaskBuilder(OwnBuilder):
    """Base of the builders of own data whose task is an option."""

    @property
    def task(self) -> Task:
        """The task of rows with categories."""
        return self.config.task

    def categories_of(self, names: Iterable[str]) -> tuple[Category, ...]:
        """Categories of names that the annotations give, numbered from 1. Errors as of `numbered`."""
        try:
            return numbered(names)
        except ValueError as error:
            raise ValueError(self.message(str(error))) from error

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {category.name: category.id for category in self.categories}


def count_far(segments: list[dict[str, Any]]) -> dict[str, Any]:
    """Column `segments`, without the field `is_far` that some have; and `far_objects`, which is no column: the number of those in which it
    is true."""
    return {"segments": segments, "far_objects": sum([bool(segment and segment.pop("is_far", False)) for segment in segments])}


class NamedColour(NamedTuple):
    """Line of a `labelmap.txt`."""

    name: str
    colour: tuple[int, int, int]


def read_category_file(builder: FileBuilder, relative: str, ignored: Container[int] = ()) -> tuple[Category, ...]:
    """Categories of a file below `data_dir`.

    Args:
        relative: a `.json` file is a list of names, or of `{"id", "name"}`, with "isthing" if they differ in that. Any other file is text
            with one category per line: a name; or its id, a tab, comma or semicolon, and the name; or `label:R,G,B:parts:actions`, as CVAT
            writes them, see `read_named_colours`. Ids that are not given count from 0; blank lines of a text file count too. A `.csv` file
            may begin with a line of titles.
        ignored: ids without a category; a "background" with one of them is left out.

    Raises:
        ValueError: another form, an id or a name twice, a name that prompts cannot have, or no categories.
    """
    try:
        if relative.endswith(".json"):
            entries = builder.json(relative)
            if isinstance(entries, Mapping):
                raise ValueError(f"expected a list of names, or of {{'id', 'name'}}, got an object with {shown(list(entries))}")
            categories = [_from_entry(entry, position) for position, entry in enumerate(entries)]
        elif colours := read_named_colours(builder, relative):
            categories = [Category(number, entry.name) for number, entry in enumerate(colours) if not is_background(entry.name)]
        else:
            categories = _from_lines(_lines(builder, relative), is_table=relative.endswith(".csv"))
        categories = [category for category in categories if not (is_background(category.name) and category.id in ignored)]
        if not categories:
            raise ValueError("no categories")
        check_categories(categories)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"the field {error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(builder.message(f"{relative}: {reason}")) from error
    return tuple(categories)


def read_named_colours(builder: FileBuilder, relative: str) -> list[NamedColour]:
    """Names and colours of a text file whose lines are `label:R,G,B:parts:actions`, as CVAT's `labelmap.txt`; [] if it is another one.
    Lines that begin with "#" are remarks.

    Raises:
        ValueError: some lines are so, and others are not; a colour is no colour, or is given twice.
    """
    lines = [(number, line) for number, line in _lines(builder, relative) if not line.startswith("#")]
    found = [_COLOUR_LINE.fullmatch(line.strip()) for _, line in lines]
    if not any(found):
        return []
    if None in found:
        number, line = lines[found.index(None)]
        raise ValueError(f"line {number}: expected label:R,G,B:parts:actions as in the other lines, got {line!r}")
    entries = [NamedColour(match[1].strip(), (int(match[2]), int(match[3]), int(match[4]))) for match in found]
    for (number, line), entry in zip(lines, entries, strict=True):
        if max(entry.colour) > 255:
            raise ValueError(f"line {number}: the numbers of a colour are 0 to 255, got {line!r}")
    _refuse_twice("colour", (entry.colour for entry in entries))
    return entries


def numbered(names: Iterable[str]) -> tuple[Category, ...]:
    """Categories with the ids 1, 2, ...

    Raises:
        ValueError: a name that prompts cannot have.
    """
    categories = tuple(Category(number, name) for number, name in enumerate(names, 1))
    refuse_reserved_names(category.name for category in categories)
    return categories


def check_categories(categories: Sequence[Category]) -> None:
    """Checks categories against each other.

    Raises:
        ValueError: an id or a name twice, or a name that prompts cannot have.
    """
    _refuse_twice("id", (category.id for category in categories))
    _refuse_twice("name", (category.name for category in categories))
    refuse_reserved_names(category.name for category in categories)


def is_background(name: str) -> bool:
    """True for "background"."""
    return name.strip().lower() == "background"


def refuse_reserved_names(names: Iterable[str]) -> None:
    """Checks that no category has a name that prompts cannot have: they end in a "background" of their own, so it would be refused there,
    or mean "no object"; and they have tokens of their own.

    Raises:
        ValueError: one has such a name.
    """
    for name in names:
        if not name.isprintable():
            raise ValueError(f"the category {name!r} contains a character that cannot be printed; give it another name")
        if is_background(name):
            raise ValueError(
                "a category is named 'background', which in prompts means that there is no object; leave it out (in label maps: ignore "
                "its value), or give it another name, such as 'the background'"
            )
        if token := next((token for token in PROMPT_TOKENS if token in name), None):
            raise ValueError(f"the category {name!r} contains {token!r}, which the model reads as a special token; give it another name")


def _lines(builder: FileBuilder, relative: str) -> list[tuple[int, str]]:
    """Lines that are not blank: number, from 1, and text."""
    return [(number, line.strip("\r\n")) for number, line in builder.lines(relative)]


def _from_entry(entry: Any, position: int) -> Category:
    if isinstance(entry, str):
        return _category(position, entry, place=f"entry {position}")
    if not isinstance(entry, Mapping):
        raise ValueError(f"entry {position}: expected a name, or {{'id', 'name'}}, got {shown(entry)}")
    return _category(entry["id"], entry["name"], is_set(entry.get("isthing", 1), "isthing"), place=f"entry {position}")


def _from_lines(lines: Sequence[tuple[int, str]], *, is_table: bool) -> list[Category]:
    if is_table and lines and re.search("[,;]", lines[0][1]) and not _NUMBERED.fullmatch(lines[0][1]):
        lines = lines[1:]  # titles
    pairs = [_NUMBERED.fullmatch(line) for _, line in lines]
    if lines and all(pairs):
        return [_category(int(pair[1]), pair[2], place=f"line {number}") for (number, _), pair in zip(lines, pairs, strict=True)]
    if len(lines) > 1 and any(pairs):
        number, line = lines[pairs.index(None)]
        raise ValueError(f"line {number}: expected a number, a comma and a name as in other lines, got {line!r}; write all in one way")
    if lines and all(_BEGINS_WITH_NUMBER.match(line) and "\t" not in line for _, line in lines):
        number, line = lines[0]
        raise ValueError(
            f"line {number}: {line!r} begins with a number, as all lines do; if it is the id, write a tab behind it; if it is part of the "
            f"name, give the names as a .json file"
        )
    return [_from_line(line, number) for number, line in lines]


def _from_line(line: str, number: int) -> Category:
    id, tab, name = line.partition("\t")
    if not tab:
        return _category(number - 1, line, place=f"line {number}")
    if not id.strip().isdecimal():
        raise ValueError(f"line {number}: expected a whole number before the tab, got {id!r}")
    return _category(int(id), name, place=f"line {number}")


def _category(id: Any, name: Any, is_thing: bool = True, *, place: str) -> Category:
    if type(id) is not int or id not in INT64 or not isinstance(name, str) or not name.strip():
        raise ValueError(f"{place}: expected a whole number as id and a name, got {shown(id)} and {shown(name)}")
    return Category(id, name.strip(), is_thing)


def is_set(value: Any, name: str) -> bool:
    """Value of a field that says yes or no: true and false, 1 and 0, also as text; None = no.

    Raises:
        ValueError: another value, which the message names.
    """
    if value is None or isinstance(value, (bool, int, float, str)) and value in (0, 1, "0", "1"):
        return value in (1, "1")
    raise ValueError(f"{name}: expected 0 or 1, got {shown(value)}")


def _refuse_twice(what: str, values: Iterable[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"the {what} {value!r} is given twice; give each category its own")
        seen.add(value)
