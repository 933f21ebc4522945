"""The images of a run: where each is, listed in an order that depends on their names alone, and opened one by one.

A folder, a pattern, a list of paths, tar shards, parquet files of a dataset and COCO annotations are all the same afterwards: a list of
`SourceImage`. What cannot be read is an entry too, which says so when it is opened: the rest of a run goes on.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from PIL import Image

from ..model.image_processing_psalm import load_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".avif"}
MAX_BYTES = 2**28  # of an image inside of another file; beyond any photograph


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a run, not opened yet.

    Attributes:
        name: as results call it, no two images of a run share it.
        path: of the file that is or holds it.
        image_id: of the dataset, or its number in the run, from 1; None where the dataset has none.
        start, size: bytes in a tar shard; `start` alone is a row of a parquet file; neither of a file that is the image.
        column: of a parquet file.
        problem: why there is no image, else None.
    """

    name: str
    path: str
    image_id: int | str | None = None
    start: int | None = None
    size: int | None = None
    column: str | None = None
    problem: str | None = None


class _NamedBytes(io.BytesIO):
    name = ""


def list_images(
    sources: Sequence[str | os.PathLike], *, image_column: str | None = None, image_folder: str | os.PathLike | None = None
) -> list[SourceImage]:
    """The images of a run, sorted by name, each once.

    Names are paths below the folder that all sources have in common, followed by the member of a tar shard or the row of a parquet file.
    Ids are those of the dataset where all images have one (COCO annotations, a column `image_id` of whole numbers), else 1, 2, ...
    A file of such a dataset that cannot be read has the id None, and the others keep theirs.

    Args:
        sources: images, folders (with all folders inside), patterns such as "shards/*.tar", text files with a path per line (as seen from
            the file), tar shards, parquet files, or a JSON file with `images` as COCO has them.
        image_column: of parquet files; default "image", or the only one that holds images.
        image_folder: of the images that a JSON file names; default its own.

    Raises:
        ValueError: a source that is missing or without images; ids that occur twice.
    """
    found: list[SourceImage] = []
    origins: list[str] = []
    seen: dict[str | tuple[str, int], int | str | None] = {}
    for source in sources:
        number = 0
        for image in _images_of(os.fspath(source), image_column, image_folder):
            number += 1
            key = image.path if image.start is None else (image.path, image.start)
            if key not in seen:
                seen[key] = image.image_id
                found.append(image)
                origins.append(os.fspath(source))
            elif seen[key] != image.image_id and None not in (seen[key], image.image_id):
                raise ValueError(f"{source}: {image.path} has the ids {seen[key]!r:.60} and {image.image_id!r:.60}; give each image one")
        if not number:
            raise ValueError(f"{source}: has no images; expected {_expected(os.fspath(source))}")
    if not found:
        raise ValueError("no images were named; give folders, files, patterns, lists, tar shards or parquet files")
    del seen  # of a million images, this is as large as the list
    ids = _own_ids(found, origins)
    del origins
    common = os.path.commonpath({os.path.dirname(image.path) for image in found})
    skipped = len(os.path.join(common, ""))
    names = [image.path[skipped:] + image.name for image in found]
    order = sorted(range(len(found)), key=names.__getitem__)
    return [replace(found[place], name=names[place], image_id=ids[place] if ids else number) for number, place in enumerate(order, 1)]


def open_source_image(image: SourceImage) -> Image.Image:
    """The image upright and in RGB.

    Raises:
        ValueError: it cannot be read; the message does not repeat its name.
    """
    if image.problem:
        raise ValueError(image.problem)
    try:
        if image.start is None:
            return load_image(image.path)
        content = _tar_member(image) if image.column is None else _parquet_cell(image)
        if isinstance(content, str):
            return load_image(_path_below(os.path.dirname(image.path), content, image.name))
        file = _NamedBytes(content)
        file.name = image.name
        return load_image(file)
    except ValueError as error:
        if image.start is None and os.path.isdir(image.path):
            raise ValueError("is a folder, and a list names files; give the folder beside the list") from error
        if image.start is None and has_magic(image.path) and not os.path.exists(image.path):
            raise ValueError("no such file; a list names files and no patterns, give the pattern beside the list") from error
        raise ValueError(str(error).removeprefix(f"{image.path}: ").removeprefix(f"{image.name}: ")) from error
    except Exception as error:  # of a decoder on the bytes of a stranger: whatever it raises, the other images are done
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _own_ids(images: Sequence[SourceImage], sources: Sequence[str]) -> list[int | str | None] | None:
    """Ids of the dataset, where all images have one. A file that cannot be listed says nothing about the others.

    Args:
        sources: of each image.
    """
    if any(image.image_id is None and image.problem is None for image in images):
        return None
    ids = [image.image_id for image in images]
    known = Counter(image_id for image_id in ids if image_id is not None)
    if not known:
        return None
    ((most, number),) = known.most_common(1)
    if number > 1:
        first, second, *_ = (place for place, image_id in enumerate(ids) if image_id == most)
        names = " and ".join(images[place].path + images[place].name for place in (first, second))
        is_one = sources[first] == sources[second]
        raise ValueError(
            f"{sources[first]}{'' if is_one else f' and {sources[second]}'}: {number} images have the id {most!r:.60}, such as {names}; "
            f"{'give each image an id of its own' if is_one else 'give datasets whose ids overlap one at a time'}"
        )
    return ids


def _images_of(source: str, column: str | None, image_folder: str | os.PathLike | None) -> Iterator[SourceImage]:
    """Images of one source; names are what follows the path of the file."""
    if os.path.isdir(source):
        for parent, folders, names in os.walk(source, onerror=_refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))
            yield from _images_of_files((path for path in paths if _suffix(path) in SUFFIXES | {".tar", ".parquet"}), column)
        return
    if has_magic(source) and not os.path.exists(source):
        paths = [path for path in sorted(glob(source, recursive=True)) if os.path.isfile(path)]
        if not paths:
            raise ValueError(f"{source}: no file matches this pattern")
        yield from _images_of_files(paths, column)
        return
    if not os.path.exists(source):
        raise ValueError(f"{source}: no such file or folder")
    suffix = _suffix(source)
    if suffix == ".txt":
        yield from _images_of_files(_lines(source), column)
    elif suffix == ".json":
        yield from _coco_images(source, os.fspath(image_folder or os.path.dirname(source)))
    else:
        yield from _images_of_files([source], column)


def _expected(source: str) -> str:
    """The words for content that a source must have, to hold images."""
    if os.path.isfile(source):
        kinds = {".txt": "a path per line", ".json": "entries {id, file_name} in its list `images`", ".parquet": "rows"}
        return kinds.get(_suffix(source), f"members that end in {', '.join(sorted(SUFFIXES))}")
    return f"files that end in {', '.join(sorted(SUFFIXES))}, .tar or .parquet"


def _refuse(error: OSError) -> None:
    raise error


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _images_of_files(paths: Iterable[str], column: str | None) -> Iterator[SourceImage]:
    for path in paths:
        path = _real_path(path)
        if _suffix(path) == ".tar":
            yield from _or_problem(path, _tar_images)
        elif _suffix(path) == ".parquet":
            yield from _or_problem(path, lambda path: _parquet_images(path, column))
        else:
            yield SourceImage("", path)


def _real_path(path: str) -> str:
    # Absolute: what is remembered of a relative folder is wrong after a change of the working folder.
    folder, name = os.path.split(os.path.join(os.getcwd(), path))
    return os.path.join(_real_folder(folder), name)


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _or_problem(path: str, images: Callable[[str], Iterator[SourceImage]]) -> Iterator[SourceImage]:
    """Images of a file that holds several, up to where it is broken."""
    try:
        yield from images(path)
    except (OSError, tarfile.TarError, EOFError) as error:
        yield SourceImage("", path, start=-1, problem=f"cannot be read any further ({type(error).__name__}: {error})")


def _lines(path: str) -> list[str]:
    folder = os.path.dirname(path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text file with a path per line ({error})") from error
    return [os.path.join(folder, line.strip()) for line in lines if line.strip()]


def _coco_images(path: str, folder: str) -> Iterator[SourceImage]:
    try:
        records = json.loads(Path(path).read_bytes())["images"]
        pairs = [(os.fspath(record["file_name"]), record["id"]) for record in records]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: expected JSON with a list `images` of {{id, file_name}}, as COCO has it ({error!r:.100})") from error
    if wrong := [image_id for _, image_id in pairs if isinstance(image_id, bool) or not isinstance(image_id, int | str) or image_id == ""]:
        raise ValueError(f"{path}: the image id {wrong[0]!r:.60} is neither a whole number nor a text")
    yield from (SourceImage("", _real_path(_path_below(folder, name, path)), image_id) for name, image_id in pairs)


def _path_below(folder: str, name: str, file: str) -> str:
    """Path of a file that a dataset names, which may be a stranger's and must not lead anywhere else."""
    path = os.path.normpath(os.path.join(folder, name))
    if os.path.isabs(name) or os.path.relpath(path, folder).split(os.sep)[0] == os.pardir:
        raise ValueError(f"{file}: the path {name!r:.200} leads out of the folder {folder or '.'}")
    return path


def _tar_images(path: str) -> Iterator[SourceImage]:
    """Members of a shard that are images. Their bytes are read later, without the other members."""
    size, names = os.path.getsize(path), set()
    with tarfile.open(path, "r:") as shard:
        for member in shard:
            shard.members = []  # else it keeps every header
            if member.isfile() and _suffix(member.name) in SUFFIXES:
                name, problem = re.sub("/+", "/", member.name), None
                while name in names:
                    name += "+"  # a shard may hold two members of one name
                names.add(name)
                if member.offset_data + member.size > size:
                    problem = "the shard ends before the image does"
                elif member.size > MAX_BYTES:
                    problem = f"has {member.size} bytes, more than {MAX_BYTES}"
                yield SourceImage(f"/{name}", path, start=member.offset_data, size=member.size, problem=problem)


def _tar_member(image: SourceImage) -> bytes:
    with open(image.path, "rb") as shard:
        shard.seek(image.start)
        return shard.read(image.size)


def _parquet_images(path: str, column: str | None) -> Iterator[SourceImage]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            ids: list[int | None] = [None] * rows
            if "image_id" in schema.names and pa.types.is_integer(schema.field("image_id").type):
                ids = file.read(columns=["image_id"]).column("image_id").to_pylist()
    except pa.ArrowException as error:
        raise OSError(str(error)) from error
    column = column or _image_column(path, schema)
    if column not in schema.names:
        raise ValueError(f"{path}: has no column {column!r}, only {', '.join(schema.names)}")
    # Rows have leading zeros, so that their names are sorted as they are.
    yield from (SourceImage(f"/{row:0{len(str(rows))}}", path, ids[row], row, column=column) for row in range(rows))


def _image_column(path: str, schema: Any) -> str:
    """Name of the column that holds images: bytes, or bytes and path as `datasets` writes them."""
    import pyarrow as pa

    def holds_images(field: Any) -> bool:
        kind = field.type
        return (
            pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        )

    names = ["image"] if "image" in schema.names else [field.name for field in schema if holds_images(field)]
    if len(names) != 1:
        raise ValueError(f"{path}: which of its columns holds the images? it has {', '.join(schema.names)}; say it with --image-column")
    return names[0]


class _RowGroup:
    """The row group of a parquet file that was read last: rows follow each other, and a group is read as a whole."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[str, str] | None = None
        self._rows, self._values = range(0), None

    def value(self, path: str, column: str, row: int) -> Any:
        """The value of one row."""
        import pyarrow.parquet as parquet

        with self._lock:
            if self._key != (path, column) or row not in self._rows:
                self._key, self._values = None, None
                with parquet.ParquetFile(path) as file:
                    first = 0
                    for group in range(file.metadata.num_row_groups):
                        number = file.metadata.row_group(group).num_rows
                        if row < first + number:
                            self._values = file.read_row_group(group, columns=[column]).column(column)
                            self._key, self._rows = (path, column), range(first, first + number)
                            break
                        first += number
            return self._values[row - self._rows.start].as_py()


_ROW_GROUP = _RowGroup()


def _parquet_cell(image: SourceImage) -> bytes | str:
    import pyarrow as pa

    try:
        value = _ROW_GROUP.value(image.path, image.column, image.start)
    except pa.ArrowException as error:
        raise ValueError(f"the row group cannot be read ({type(error).__name__}: {error})") from error
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, bytes | str) or not value:
        raise ValueError(f"column {image.column!r} holds {type(value).__name__}, no image")
    if isinstance(value, bytes) and len(value) > MAX_BYTES:
        raise ValueError(f"has {len(value)} bytes, more than {MAX_BYTES}")
    return value
