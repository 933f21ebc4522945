"""Reader of the pickles in which RefCOCO, RefCOCO+ and RefCOCOg are published; it runs nothing that they ask for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


class PlainUnpickler(pickle.Unpickler):
    """Unpickles lists, dicts, text and numbers. Every class or function, by which a pickle runs code, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"the pickle asks for {module}.{name}, but a list of refs needs no class or function")


def read_refer_pickle(path: str | Path) -> list[dict[str, Any]]:
    """Refs of a file `refs(unc).p`. It was written by Python 2, whose byte strings become text by latin1.

    Raises:
        ValueError: the file asks for a class or function, which the message names; is damaged; or is no list of dicts.
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
    """Checks the content of a file of refs, and returns it.

    Raises:
        ValueError: no list of dicts.
    """
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise ValueError(f"{path} holds no list of refs, but {refs!r:.80}; download it again")
    return refs
