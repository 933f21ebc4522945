"""Base of the builders of own data: options that differ by split, and files of category names. See docs/own_data.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from ...structures import Task
from ..features import Category
from ..files import ENCODING, FileBuilder, FileConfig


@dataclass
class OwnConfig(FileConfig):
    """Options of own data. A split may have any name that is one word, except `all`. In options that are paths, `{split}` is its name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"\w+", self.split) or self.split.lower() == "all":  # datasets has its own meaning of "all"
            raise ValueError(f"{self.name}: the name of a split has letters, digits and _ alone, and is not 'all', got {self.split!r}")

    def of_split(self, path: str) -> str:
        """Path of an option, for this split."""
        return path.replace("{split}", self.split)


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
