"""Reader of the pickles in which RefCOCO, RefCOCO+ and RefCOCOg are published; it runs nothing that they ask for."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from ...bounded_files import check_pickle, refuse_pipe
from ..files import shown

_LARGEST_GROWTH = 10  # the published files grow less than twofold
_DEEPEST = 20  # lists and dicts in each other; of refs, 5


class PlainUnpickler(pickle.Unpickler):
    """Unpickles lists, dicts, text and numbers. Every class or function, by which a pickle runs code, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"the pickle asks for {module}.{name}, but a list of refs needs no class or function")


def read_refer_pickle(path: str | Path) -> list[dict[str, Any]]:
    """Refs of a file `refs(unc).p`. It was written by Python 2, whose byte strings become text by latin1.

    Raises:
        ValueError: the file asks for a class or function, which the message names; is damaged; grows to more than ten times its size; or is
            no list of dicts.
        OSError: no such file, or a pipe.
    """
    refuse_pipe(path)
    with open(path, "rb") as file:
        try:
            check_pickle(file)
            refs = PlainUnpickler(file, encoding="latin1").load()
            _check_expanded(refs, _LARGEST_GROWTH * os.path.getsize(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}; it is not the published file and was not opened, download it again") from error
        except Exception as error:  # a damaged pickle fails in many ways, and nothing but reading happens here
            raise ValueError(f"{path} is not a readable pickle ({type(error).__name__}: {error}); download it again") from error
    return check_refs(refs, path)


def _check_expanded(content: Any, limit: int) -> None:
    """Refuses a content that names its parts again and again, so that written out it is far larger than the file, or that lies too deep.

    Args:
        limit: of values, characters and bytes together.
    """
    level, size = [content], 0
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                size += 2 * len(part)
            elif isinstance(part, (list, tuple, set, frozenset, str, bytes, bytearray)):
                size += len(part)
            elif isinstance(part, int):
                size += part.bit_length() // 8
            if size > limit:
                raise ValueError(f"its parts are repeated in each other, so that it grows to more than {limit} values")
            if isinstance(part, dict):
                below += part
                below += part.values()
            elif isinstance(part, (list, tuple, set, frozenset)):
                below += part
        level = below
    if level:
        raise ValueError(f"lists or dicts lie deeper in each other than {_DEEPEST}")


def check_refs(refs: Any, path: str | Path) -> list[dict[str, Any]]:
    """Checks the content of a file of refs, and returns it.

    Raises:
        ValueError: no list of dicts.
    """
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise ValueError(f"{path} holds no list of refs, but {shown(refs)}; download it again")
    return refs
