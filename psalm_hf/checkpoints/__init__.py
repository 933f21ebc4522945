"""Checkpoints that ship with the package, in folders as `from_pretrained` takes them, and what else a checkpoint may be called."""

from importlib import resources
from pathlib import Path

from ..spelling import did_you_mean

TINY = "psalm-tiny"


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint that ships, whether it is there or not."""
    return Path(str(resources.files(__name__))) / name


def tiny_checkpoint() -> Path:
    """The folder of psalm-tiny, a trained model for 128 x 128 images of the shapes world.

    Raises:
        FileNotFoundError: the package was installed without the weights.
    """
    folder = checkpoint_folder(TINY)
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{folder}: the weights of {TINY} are absent from this installation; install psalm_hf again from a complete checkout, or train "
            "them as the docs page Training says and write them there with examples/pack_checkpoint.py"
        )
    return folder


def resolve_checkpoint(name: str | Path) -> str:
    """Resolves a user's name of a checkpoint into what transformers' `from_pretrained` reads. All that takes a checkpoint calls it.

    Args:
        name: a folder; a Hub id, which is returned as it is; or "psalm-tiny", unless there is a folder of that name.

    Raises:
        NotADirectoryError: a file.
        FileNotFoundError: no folder, and a name that no repository can have, or almost the one of a checkpoint that ships; see also
            `tiny_checkpoint`.
    """
    if Path(name).is_file():
        raise NotADirectoryError(f"{name}: is a file, and a checkpoint is a folder with config.json and weights; give the folder")
    if Path(name).exists():
        return str(name)
    if str(name) == TINY:
        return str(tiny_checkpoint())
    from huggingface_hub.utils import HFValidationError, validate_repo_id  # here: names of what ships are wanted at once

    advice = did_you_mean(str(name), [TINY])
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        advice = advice or f"; give a folder, a Hub id (OWNER/NAME), or {TINY}, which ships with psalm_hf"
    if advice:
        siblings = [str(path) for path in Path(name).parent.glob("*/") if (path / "config.json").is_file()]
        raise FileNotFoundError(f"{name}: there is no such folder{did_you_mean(str(name), siblings) or advice}")
    return str(name)
