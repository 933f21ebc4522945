"""Writing files and folders whole or not at all: a kill, a full disk or a power cut leaves what was there before, or all that is new.

What is not finished has a name of its own, by which the next run finds and removes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

LOCKS = "_psalm"  # folder of `locking`; the Trainer does not push what begins with an underscore
_UNFINISHED = re.compile(r"\.(.+)\.\d+\.unfinished", re.DOTALL)


def unfinished_path(path: Path) -> Path:
    """Path beside `path` for what will be renamed to it."""
    return path.with_name(f".{path.name}.{os.getpid()}.unfinished")


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, where there are none.

    Raises:
        ValueError: one of them is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        if file := next((path for path in (folder, *folder.parents) if path.is_file()), None):
            raise ValueError(f"{file}: is a file, and what is written needs a folder of this name; give another one") from error
        raise


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Context in which an error of the system that says no file says this one: of a write to a full disk nobody would know which."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes beside the file and renames at the end: a file that exists is complete, after a power cut too. Its folder is made."""
    make_folder(path.parent)
    unfinished = unfinished_path(path)
    try:
        with named_errors(path):
            with open(unfinished, "wb") as file:
                write(file)
            finish(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Writes content as JSON; `options` are those of `json.dumps`."""
    write_file(path, lambda file: file.write(json.dumps(content, **options).encode("utf-8")))


def finish(unfinished: Path, path: Path) -> None:
    """Gives a file or folder that is written its name; both are on the disk when this returns."""
    _sync(unfinished)
    os.replace(unfinished, path)
    _sync(path.parent)


@contextmanager
def replaced_files(folder: Path) -> Iterator[Path]:
    """Empty folder to write into. At the end its files take the places of those in `folder`, one after the other; others stay there."""
    unfinished = unfinished_path(folder)
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process with the same number
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        sync_tree(unfinished)
        for parent, _, names in os.walk(unfinished):
            target = folder / Path(parent).relative_to(unfinished)
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.replace(Path(parent, name), target / name)
            _sync(target)
        _sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Brings the files and folders of a folder to the disk, which may still be in memory."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a folder, on disks that cannot do it
            raise
    finally:
        os.close(handle)


def is_unused(folder: Path) -> bool:
    """True if the folder does not exist, or holds nothing but what a run leaves that was killed as it began."""
    if not folder.is_dir():
        return not folder.exists()
    return all(_UNFINISHED.fullmatch(path.name) or path.name == LOCKS for path in folder.iterdir())


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Removes what killed runs have left unfinished. Nobody else may be writing it.

    Args:
        folder: which is searched with all folders inside.
        name: only what would have got this name, in the folder itself.
    """
    for parent, folders, files in os.walk(folder):
        for left in [*folders, *files]:
            match = _UNFINISHED.fullmatch(left)
            if match and name in (None, match[1]):
                path = Path(parent, left)
                shutil.rmtree(path) if left in folders and not path.is_symlink() else path.unlink()
        folders[:] = [] if name is not None else [inner for inner in folders if not _UNFINISHED.fullmatch(inner)]
