"""Base of the builders of own data: options that differ by split, and files of category names. See docs/own_data.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from ...spelling import did_you_mean
from ...structures import REGION_KINDS, RegionKind, Task
from ..features import Category, sample_from_row
from ..files import ENCODING, FileBuilder, FileConfig
from .holdout import HELD_OUT_SPLIT, TRAIN_SPLIT, check_both_sides, is_held_out
from .regions import region_rows

_PATHS = ("annotations", "images", "labels", "masks")  # options of any format


@dataclass
class OwnConfig(FileConfig):
    """Options of own data. A split may have any name that is one word, except `all`. In options that are paths, `{split}` is its name.

    Attributes:
        holdout: share of the images that are held out, between 0 and 1. The split "train" leaves them out and "val" has them alone; both
            are read from the files of "train". None = every split has its own files.
        regions: prompt every object by a region of this kind, instead of what the files ask for; "all" = by each kind, in a row of its own.

    Raises:
        ValueError: the name of the split has other characters, or selects nothing: without `{split}` in a path and without `holdout` all
            splits would have the same rows, so there is "train" alone; a share that is none.
    """

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
        """Path of an option, for this split."""
        return path.replace("{split}", self.files_split)

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


class OwnBuilder(FileBuilder):
    """Base of the builders of own data."""

    docs_page = "Own data"
    splits: ClassVar[tuple[str, ...]] = ()

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

    def _check(self, row: Mapping[str, Any], names: Mapping[int, str]) -> None:
        super()._check(row, names)
        if self.config.regions is not None:
            sample_from_row(row, names)  # decodes the masks on which prompts are drawn

    @cached_property
    def _names_by_id(self) -> dict[int, str]:
        return {category.id: category.name for category in self.categories}


class OwnTaskBuilder(OwnBuilder):
    """Base of the builders of own data whose task is an option."""

    @property
    def task(self) -> Task:
        """The task of rows with categories."""
        return self.config.task

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {category.name: category.id for category in self.categories}


def read_category_file(builder: FileBuilder, relative: str) -> tuple[Category, ...]:
    """Categories of a file below `data_dir`.

    Args:
        relative: a `.json` file is a list of names, or of `{"id", "name"}`, with "isthing" if they differ in that. Any other file is text
            with one category per line: a name, or its id, a tab and the name. Ids that are not given count from 0; blank lines of a text
            file count too.

    Raises:
        ValueError: another form, an id or a name twice, the name "background", or no categories.
    """
    try:
        if relative.endswith(".json"):
            categories = [_from_entry(entry, position) for position, entry in enumerate(builder.json(relative))]
        else:
            with open(builder.path(relative), encoding=ENCODING) as file:
                categories = [_from_line(line.strip("\r\n"), number) for number, line in enumerate(file) if line.strip()]
        if not categories:
            raise ValueError("no categories")
        _refuse_twice("id", (category.id for category in categories))
        _refuse_twice("name", (category.name for category in categories))
        refuse_background(category.name for category in categories)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"the field {error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(builder.message(f"{relative}: {reason}")) from error
    return tuple(categories)


def numbered(names: Iterable[str]) -> tuple[Category, ...]:
    """Categories with the ids 1, 2, ...

    Raises:
        ValueError: one is named "background".
    """
    names = list(names)
    refuse_background(names)
    return tuple(Category(number, name) for number, name in enumerate(names, 1))


def refuse_background(names: Iterable[str]) -> None:
    """Checks that no category is named "background": prompts end in one of their own, so it would be refused there, or mean "no object".

    Raises:
        ValueError: it is one of the names.
    """
    if any(name.strip().lower() == "background" for name in names):
        raise ValueError(
            "a category is named 'background', which in prompts means that there is no object; leave it out (in label maps: ignore its "
            "value), or give it another name, such as 'the background'"
        )


def _from_entry(entry: Any, position: int) -> Category:
    if isinstance(entry, str):
        return _category(position, entry, place=f"entry {position}")
    return _category(entry["id"], entry["name"], bool(entry.get("isthing", 1)), place=f"entry {position}")


def _from_line(line: str, number: int) -> Category:
    id, tab, name = line.partition("\t")
    if not tab:
        return _category(number, line, place=f"line {number + 1}")
    if not id.strip().isdecimal():
        raise ValueError(f"line {number + 1}: expected a whole number before the tab, got {id!r}")
    return _category(int(id), name, place=f"line {number + 1}")


def _category(id: Any, name: Any, is_thing: bool = True, *, place: str) -> Category:
    if type(id) is not int or not isinstance(name, str) or not name.strip():
        raise ValueError(f"{place}: expected a whole number as id and a name, got {id!r} and {name!r}")
    return Category(id, name.strip(), is_thing)


def _refuse_twice(what: str, values: Iterable[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"the {what} {value!r} is given twice")
        seen.add(value)
