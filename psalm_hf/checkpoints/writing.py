"""Writing a checkpoint folder whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any


def check_absent(output: Path) -> None:
    """Raises ValueError if there is something at `output`: a checkpoint is written into a new folder."""
    if output.exists():
        raise ValueError(f"{output}: exists already; remove it or give another folder")


def write_checkpoint(output: Path, *parts: Any) -> None:
    """Saves the parts into a new folder: written beside it and renamed at the end, so that a folder that exists is complete.

    Args:
        parts: what has a `save_pretrained`: model, processor.

    Raises:
        ValueError: see `check_absent`.
    """
    check_absent(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        for part in parts:
            part.save_pretrained(unfinished)
        unfinished.chmod(0o755)  # mkdtemp makes it private
        os.rename(unfinished, output)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
