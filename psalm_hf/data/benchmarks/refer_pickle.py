"""The pickles in which RefCOCO, RefCOCO+ and RefCOCOg are published, read without running anything that they ask for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


class PlainUnpickler(pickle.Unpickler):
    """Unpickles lists, dicts, text and numbers. Every class or function, by which a pickle runs code, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"the pickle asks for {module}.{name}, but a list of refs needs no class or function")


def read_refer_pickle(path: str | Path) -> list[dict[str, Any]]:
    """The refs of a file `refs(unc).p`.

    They were written by Python 2: its byte strings become text by latin1.

    Raises:
        ValueError: the file asks for a class or function, is damaged, or holds something else than a list of dicts. The message names the
            file, and what is asked for.
    """
    with open(path, "rb") as file:
        try:
            refs = PlainUnpickler(file, encoding="latin1").load()
        except ValueError as error:
            raise ValueError(f"{path}: {error}; it is not the published file and was not opened, download it again") from error
        except Exception as error:  # a damaged pickle fails in many ways, and nothing but reading happens here
            raise ValueError(f"{path} is not a readable pickle ({type(error).__name__}: {error}); download it again") from error
    return check_refs(refs, path)


def check_refs(refs: Any, path: str | Path) -> list[dict[str, Any]]:
    """What a file of refs holds, if it is a list of dicts.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise ValueError(f"{path} holds no list of refs, but {refs!r:.80}; download it again")
    return refs
