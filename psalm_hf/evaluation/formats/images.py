"""Parts of all formats with one prediction per image: rows by image, names of files, masks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO
from urllib.parse import quote

from ...data.features import SampleDataset


class ImageRow(NamedTuple):
    """A row of the dataset, and the (height, width) of its image."""

    row: int
    size: tuple[int, int]


def image_rows(dataset: SampleDataset) -> dict[str, ImageRow]:
    """Image id -> its row.

    Raises:
        ValueError: two rows have the same image.
    """
    rows: dict[str, ImageRow] = {}
    for row, (image_id, size) in enumerate(zip(dataset.rows["image_id"], dataset.rows["image_size"], strict=True)):
        if image_id in rows:
            raise ValueError(f"image {image_id}: rows {rows[image_id].row} and {row} are both of it; this format has one per image")
        rows[image_id] = ImageRow(row, tuple(size))
    return rows


def json_id(image_id: str) -> int | str:
    """An image id as annotation files have it: a number where it is written as one."""
    return int(image_id) if image_id.isdecimal() and image_id == str(int(image_id)) else image_id


def file_stem(image_id: str) -> str:
    """A name of a file for every id, another one for another id: what is special in paths (such as "/") becomes "%2F"."""
    return quote(image_id, safe="")


def files_of_images(folder: Path, starts: Mapping[str, str], end: str, *, is_free: bool) -> dict[str, Path]:
    """Image id -> its file, for every image.

    Args:
        folder: of the files; they may lie in folders below it.
        starts: beginning of a file name -> image id.
        end: of all names.
        is_free: true if anything may stand between the beginning and the end.

    Raises:
        ValueError: no folder; an image without a file or with several; a file with this end of no image.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with a {end} file for every image")
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob(f"*{end}")):
        stem = file.name.removesuffix(end)
        lengths = range(len(stem), 0, -1) if is_free else [len(stem)]
        image_id = next((starts[stem[:length]] for length in lengths if stem[:length] in starts), None)
        example = f"{next(iter(starts), '')}{'*' if is_free else ''}{end}"
        if image_id is None:
            raise ValueError(f"{file}: belongs to none of the {len(starts)} images of the dataset, whose files are called like {example}")
        if image_id in files:
            raise ValueError(f"image {image_id}: has two files, {files[image_id]} and {file}")
        files[image_id] = file
    if missing := [start for start, image_id in starts.items() if image_id not in files]:
        raise ValueError(
            f"{folder}: no file for {len(missing)} of {len(starts)} images, such as {missing[0]}{end}; every image needs one, even if "
            f"nothing is found in it"
        )
    return files


def write_entries(file: TextIO, entries: Iterable[Any]) -> None:
    """Writes a JSON list, an entry per line, as the entries come."""
    separator = "[\n"
    for entry in entries:
        file.write(separator + json.dumps(entry))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def check_map_size(found: tuple[int, int], size: tuple[int, int], item: str) -> None:
    """Raises ValueError if a map is of another size than its image."""
    if found != size:
        raise ValueError(f"{item}: size {found}, but the image is {size}; maps are (height, width) of the original")
