"""psalm_hf: PSALM (ECCV 2024) as a Hugging Face-native segmentation library. Its public names are those of `public.py`."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Importing the package registers its classes with transformers, which takes seconds. The `psalm` command (its script, or `python -m`) alone
# answers --help and mistakes before that: there the first public name that is used does it.
if TYPE_CHECKING or not (sys.argv[:1] == ["-m"] or Path(sys.argv[0] if sys.argv else "").stem == "psalm"):
    from .public import *  # noqa: F403
    from .public import __all__  # noqa: F401


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".public", __name__), name)
