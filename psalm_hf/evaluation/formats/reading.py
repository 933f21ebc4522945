"""Reading of files that others wrote: every value that is taken from them is checked, and errors name the file and the place in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.files import shown
from ...masks import compress_rle

_HALF = re.compile("[\ud800-\udfff]")  # half of a character, which JSON can write alone and no file in UTF-8 holds


def read_utf8(path: Path, newline: str | None = None) -> str:
    """Content of a file in UTF-8.

    Args:
        path: of the file.
        newline: as of `open`; None = every end of a line becomes "\\n".

    Raises:
        ValueError: another encoding, a folder, or a file that may not be read.
        FileNotFoundError: there is no such file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8 ({error})") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


def _parse_json(text: str) -> Any:
    """Content of a text in JSON. Raises ValueError for no JSON, a name that is there twice in an object, or what is nested too deep."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("lists or objects lie too deep in each other") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r:.60} is twice in an object")
    return content


def read_json(path: Path) -> Any:
    """The content of a file.

    Raises:
        ValueError, FileNotFoundError: see `read_utf8`; no JSON, or a name that is there twice in an object.
    """
    try:
        return _parse_json(read_utf8(path))
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: no JSON ({error})") from error


def json_lines(path: Path) -> Iterator[tuple[Any, str]]:
    """Content and place of every line that is not blank.

    Raises:
        ValueError: a line is not UTF-8, no JSON, or has a name twice in an object; the message names it.
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") as file:
        for number, content in enumerate(file, 1):
            place = f"{path}, line {number}"
            try:
                line = content.decode("utf-8-sig" if number == 1 else "utf-8")
                entry = _parse_json(line) if line.strip() else None
            except UnicodeDecodeError as error:
                raise ValueError(f"{place}: is no text in UTF-8 ({error})") from error
            except ValueError as error:
                raise ValueError(f"{place}: expected a JSON object, got {line!r:.60} ({error})") from error
            if line.strip():
                yield entry, place


def read_id(value: Any, item: str) -> str:
    """An id of an image, a question or a record as text; files have texts or whole numbers.

    Raises:
        ValueError: something else; the message begins with `item`.
    """
    is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if not is_number and not (isinstance(value, str) and not _HALF.search(value)):
        raise ValueError(f"{item}: expected an id, text or a whole number, got {shown(value)}")
    return str(value)


def read_category(value: Any, known: set[int], item: str) -> int:
    """The id of a category.

    Raises:
        ValueError: it is none of those known; the message begins with `item`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value not in known:
        raise ValueError(f"{item}: category id {shown(value)} is none of the {len(known)} of the dataset")
    return value


def finite_number(value: Any, item: str, name: str = "score") -> float:
    """A finite number.

    Raises:
        ValueError: something else; the message begins with `item`.
    """
    try:
        if type(value) in (int, float) and abs(value) < float("inf"):
            return float(value)
    except OverflowError:
        pass
    raise ValueError(f"{item}: expected a finite {name}, got {shown(value)}")


def read_text_value(value: Any, item: str, name: str = "text") -> str:
    """A text that can be written again.

    Raises:
        ValueError: something else, or half of a character in it; the message begins with `item`.
    """
    if not isinstance(value, str) or _HALF.search(value):
        raise ValueError(f"{item}: expected as {name} a text that can be written, got {shown(value)}")
    return value


def read_list(values: Any, item: str, name: str) -> list[Any]:
    """A list. Raises ValueError if it is none; the message begins with `item`."""
    if not isinstance(values, list):
        raise ValueError(f"{item}: expected a list of {name}, got {shown(values)}")
    return values


def sized_mask(rle: Any, size: Sequence[int], item: str) -> dict:
    """A mask with str counts.

    Raises:
        ValueError: no COCO RLE, or of another size than (height, width). The message begins with `item`.
    """
    try:
        found = list(rle["size"]) if isinstance(rle, Mapping) and isinstance(rle.get("size"), list | tuple) else list(size)
        if len(found) == 2 and found != list(size):  # before anything as large as a wrong size says is decoded
            rule = "masks are (height, width) of the original"
            raise ValueError(f"a mask of size {shown(tuple(found))}, but the image is {tuple(size)}; {rule}")
        return compress_rle(rle)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{item}: {error}") from error


def file_inside(folder: Path, name: Any, item: str) -> Path:
    """File of a folder that a prediction names. Neither its name nor a link leads elsewhere.

    Raises:
        ValueError: the name is no relative path, or leads out of the folder; the message begins with `item`.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{item}: expected the name of a file, got {shown(name)}")
    path = folder / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{item}: {name!r:.80} must lie in {folder}")
    return path
