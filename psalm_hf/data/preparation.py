"""Writing files that are derived from a dataset, by several processes, with a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pool
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..bounded_files import open_image_file
from ..writing import write_file, write_json

Job = TypeVar("Job")
Result = TypeVar("Result")

TrainVal = Sequence[Literal["train", "val"]]  # the splits of most datasets
TRAIN_VAL = ("train", "val")
SPLIT_FOLDERS = {"train": "training", "val": "validation"}  # of ADE20K, and of the layouts like it


def write_pixels(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """Writes pixels as a PNG or TIFF, by the ending of the path; `options` are those of PIL."""
    kind = {".png": "PNG", ".tif": "TIFF"}[path.suffix]
    write_file(path, lambda file: Image.fromarray(pixels).save(file, format=kind, **options))


def write_segment_map(path: Path, ids: np.ndarray) -> None:
    """Writes segment ids (H, W) as the colours of a PNG, R + 256 G + 65536 B."""
    write_pixels(path, np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8))


def copy_image(job: tuple[Path, Path]) -> None:
    """Copies the bytes of the first path to the second.

    Raises:
        ValueError: no such file.
    """
    source, path = job
    if not source.is_file():
        raise ValueError(f"{source}: does not exist; download the dataset again, or correct the folder")
    write_file(path, lambda file: file.write(source.read_bytes()))


def read_pixels(path: Path) -> np.ndarray:
    """Pixels of an image as stored: (H, W) numbers or palette indices, or (H, W, 3) colours. Errors as of `open_stored`."""
    with open_stored(path) as image:
        return np.asarray(image)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image, from its header. Errors as of `open_stored`."""
    with open_stored(path) as image:
        return image.height, image.width


@contextmanager
def open_stored(path: Path) -> Iterator[Image.Image]:
    """Opens an image file.

    Raises:
        ValueError: no such file, or no image.
    """
    try:
        with open_image_file(path) as image:
            yield image
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist; download the dataset again, or correct the folder") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); download it again") from error


def read_names(file: Path, advice: str) -> list[str]:
    """Names that a text file of a dataset lists.

    Raises:
        ValueError: no such file, with the advice.
    """
    if not file.is_file():
        raise ValueError(f"{file}: does not exist; {advice}")
    return file.read_text(encoding="utf-8").split()


def box_and_area(mask: np.ndarray) -> tuple[list[int], int]:
    """Box [x, y, width, height] of a mask (H, W) with at least one pixel, and the number of its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return [int(side) for side in box], int(mask.sum())


def files_in(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder that fit a pattern, sorted.

    Raises:
        ValueError: none.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise ValueError(f"{folder}: no files {pattern}; download the dataset, or correct the folder")
    return found


def do_all(do: Callable[[Job], Result], jobs: Sequence[Job], *, title: str, num_proc: int = 1) -> list[Result]:
    """Calls `do` with every job and returns the results in their order; `do` is a function of a module, so that processes find it."""
    if num_proc == 1:
        return [do(job) for job in tqdm(jobs, desc=title, disable=not jobs)]
    with Pool(num_proc) as pool:
        return list(tqdm(pool.imap(do, jobs, chunksize=8), desc=title, total=len(jobs), disable=not jobs))


def make_files(make: Callable[[Job], None], jobs: Sequence[Job], *, title: str, overwrite: bool, num_proc: int = 1) -> None:
    """Calls `make` with every job, a tuple whose last element is the path that it writes; a file that exists is kept unless `overwrite`."""
    missing = [job for job in jobs if overwrite or not job[-1].exists()]
    do_all(make, missing, title=title, num_proc=num_proc)
    print(f"{title}: {len(missing)} written, {len(jobs) - len(missing)} kept")


def make_panoptic_files(
    make: Callable[[Job], dict[str, Any]],
    jobs: Sequence[Job],
    file: Path,
    categories: list[dict[str, Any]],
    *,
    overwrite: bool,
    num_proc: int = 1,
    **options: Any,
) -> None:
    """Makes the panoptic PNG and JSON files of a split, in the form of COCO; they are kept if all of them exist, unless `overwrite`.

    Args:
        make: writes the PNG of a job, whose last element is its path, and returns its entries "image" and "annotation".
        file: the JSON file.
        options: of `json.dumps`.
    """
    if file.exists() and not overwrite and all(job[-1].exists() for job in jobs):
        print(f"{file.stem}: 0 written, {len(jobs)} kept")
        return
    # All of them: PNG files that were there without the rest may have other ids.
    made = do_all(make, jobs, title=file.stem, num_proc=num_proc)
    images, annotations = [entry["image"] for entry in made], [entry["annotation"] for entry in made]
    write_json(file, {"images": images, "annotations": annotations, "categories": categories}, **options)  # last: the PNG files exist
    print(f"{file.stem}: {len(jobs)} written, 0 kept")
