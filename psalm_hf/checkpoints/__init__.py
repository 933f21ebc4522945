"""Checkpoints that ship with the package, in folders as `from_pretrained` takes them."""

from importlib import resources
from pathlib import Path

TINY = "psalm-tiny"


def tiny_checkpoint() -> Path:
    """The folder of psalm-tiny, a trained model for 128 x 128 pictures of the shapes world.

    Raises:
        FileNotFoundError: the package was installed without the weights.
    """
    folder = Path(str(resources.files(__name__))) / TINY
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{folder}: the weights of {TINY} are absent from this installation; install psalm_hf again from a complete checkout, or train "
            "them as the docs page Training says and write them there with examples/pack_checkpoint.py"
        )
    return folder
