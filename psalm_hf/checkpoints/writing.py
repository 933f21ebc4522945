"""Writing a checkpoint folder whole or not at all."""

import shutil
from pathlib import Path
from typing import Any

from ..locking import only_run
from ..writing import finish, remove_unfinished, sync_tree, unfinished_path


def check_absent(output: Path) -> None:
    """Raises ValueError if there is something at `output`: a checkpoint is written into a new folder."""
    if output.exists():
        raise ValueError(f"{output}: exists already; remove it or give another folder")


def write_checkpoint(output: Path, *parts: Any) -> None:
    """Saves the parts into a new folder: written beside it and renamed at the end, so that a folder that exists is complete.

    Args:
        parts: what has a `save_pretrained`: model, processor.

    Raises:
        ValueError: see `check_absent`; another process is writing it.
    """
    with only_run(output.parent, output.name):
        check_absent(output)
        remove_unfinished(output.parent, output.name)
        unfinished = unfinished_path(output)
        unfinished.mkdir()
        try:
            for part in parts:
                part.save_pretrained(unfinished)
            sync_tree(unfinished)
            finish(unfinished, output)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
