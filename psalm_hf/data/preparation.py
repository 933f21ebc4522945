"""Writing files that are derived from a dataset: whole or not at all, by several processes, with a bar."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")


def write_file(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes beside the file and renames at the end: a file that exists is complete. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            write(file)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_picture(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """Pixels as a PNG or TIFF, by the ending of the path; `options` are those of PIL."""
    kind = {".png": "PNG", ".tif": "TIFF"}[path.suffix]
    write_file(path, lambda file: Image.fromarray(pixels).save(file, format=kind, **options))


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Content as JSON; `options` are those of `json.dumps`."""
    write_file(path, lambda file: file.write(json.dumps(content, **options).encode("utf-8")))


def copy_picture(job: tuple[Path, Path]) -> None:
    """From the first path to the second, the same bytes.

    Raises:
        ValueError: no such file.
    """
    source, path = job
    if not source.is_file():
        raise ValueError(f"{source}: does not exist; download the dataset again, or correct the folder")
    write_file(path, lambda file: file.write(source.read_bytes()))


def read_pixels(path: Path) -> np.ndarray:
    """The pixels of a picture as stored: (H, W) numbers or palette indices, or (H, W, 3) colours.

    Raises:
        ValueError: no such file, or no picture.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture)
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist; download the dataset again, or correct the folder") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); download it again") from error


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture, from its header.

    Raises:
        ValueError: no such file, or no picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist; download the dataset again, or correct the folder") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); download it again") from error


def box_and_area(mask: np.ndarray) -> tuple[list[int], int]:
    """[x, y, width, height] of a mask (H, W) with at least one pixel, and the number of its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return [int(side) for side in box], int(mask.sum())


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that fit a pattern, sorted.

    Raises:
        ValueError: none.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise ValueError(f"{folder}: no files {pattern}; download the dataset, or correct the folder")
    return found


def do_all(do: Callable[[Job], Result], jobs: Sequence[Job], *, title: str, num_proc: int = 1) -> list[Result]:
    """`do` of every job, in their order; `do` is a function of a module, so that processes find it."""
    if num_proc == 1:
        return [do(job) for job in tqdm(jobs, desc=title, disable=not jobs)]
    with Pool(num_proc) as pool:
        return list(tqdm(pool.imap(do, jobs, chunksize=8), desc=title, total=len(jobs), disable=not jobs))


def make_files(make: Callable[[Job], None], jobs: Sequence[Job], *, title: str, overwrite: bool, num_proc: int = 1) -> None:
    """`make` of every job, a tuple whose last element is the path that it writes; what exists is kept unless `overwrite`, and counted."""
    missing = [job for job in jobs if overwrite or not job[-1].exists()]
    do_all(make, missing, title=title, num_proc=num_proc)
    print(f"{title}: {len(missing)} written, {len(jobs) - len(missing)} kept")
