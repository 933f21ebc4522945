"""psalm_hf: PSALM (ECCV 2024) as a Hugging Face-native segmentation library. Its public names are those of `public.py`."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"


def _is_command() -> bool:
    """Whether this process is the `psalm` command: its script, or `python -m psalm_hf.cli.VERB`."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # while Python looks for the module
        return any(word.startswith("psalm_hf.cli.") for word in sys.orig_argv)
    return Path(program).stem == "psalm"


# Importing the package registers its classes with transformers, which takes seconds. The command alone answers --help and mistakes before
# that: there the first public name that is used does it.
if TYPE_CHECKING or not _is_command():
    from .public import *  # noqa: F403
    from .public import __all__  # noqa: F401


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".public", __name__), name)
