"""Files that may be anything (pipes, devices, programs for a printer, pickles that grow), opened within limits."""

from __future__ import annotations

import os
import pickle
import pickletools
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image

_PROGRAMS = ("EPS",)  # formats of Pillow for which it starts another program, Ghostscript, that runs what the file says

_MEMO_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT")


def refuse_pipe(path: str | os.PathLike) -> None:
    """Raises OSError if a path leads to a pipe, socket or device, which could be read without an end, or to nothing."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(f"{str(path)!r:.200} is a pipe, socket or device, no file")


def open_image_file(source: Any) -> Image.Image:
    """Opens an image as `PIL.Image.open` does; only its header is read.

    Args:
        source: path, or file object in binary mode.

    Raises:
        OSError: as `PIL.Image.open`; also as `refuse_pipe`, and for EPS files.
    """
    if isinstance(source, (str, os.PathLike)):
        refuse_pipe(source)
    image = Image.open(source)
    if image.format in _PROGRAMS:
        image.close()
        raise OSError(f"{image.format} files are programs, which are not run; save it as PNG")
    return image


def check_pickle(file: BinaryIO) -> None:
    """Refuses a pickle for which the unpickler in C would take far more memory than the file has bytes: it makes room for every number
    under which a value is to be remembered, and ten bytes can say any. The file is at its beginning afterwards.

    Raises:
        pickle.UnpicklingError: such a number, or damaged in another way.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_read = False
    while not is_read:
        try:
            is_read = max(_memo_numbers(file)) <= size
        except UnicodeDecodeError:
            continue  # text of Python 2, which is no ASCII: it is read, what follows it is next
        except (ValueError, IndexError) as error:
            raise pickle.UnpicklingError(str(error)) from error
        if not is_read:
            raise pickle.UnpicklingError(f"its {size} bytes ask for memory for more than {size} values")
    file.seek(0)


def _memo_numbers(file: BinaryIO) -> Iterator[int]:
    """Numbers under which values are remembered from here on, and 0."""
    yield 0
    yield from (argument for opcode, argument, _ in pickletools.genops(file) if opcode.name in _MEMO_OPCODES)
