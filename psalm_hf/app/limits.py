"""Limits of what a page takes from its users: sizes of uploads, and the folder that paths must stay in."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..bounded_files import open_image_file
from ..model.image_processing_psalm import load_image


@dataclass(frozen=True)
class Limits:
    """Greatest sizes.

    Attributes:
        upload_bytes: of one uploaded file.
        pixels: of an image, or of a frame of a video.
        frames: of a video.
        text: characters of a prompt.
        sessions: users whose work is kept in memory; the work of those who were away longest is forgotten.
    """

    upload_bytes: int = 100_000_000
    pixels: int = 16_000_000
    frames: int = 2000
    text: int = 2000
    sessions: int = 32


LIMITS = Limits()


def read_upload(path: str | Path, limits: Limits = LIMITS) -> Image.Image:
    """Reads an image that somebody uploaded, RGB and upright. Its size is checked before a pixel is decoded.

    Raises:
        ValueError: no image, a broken one, or one with too many pixels or bytes. The message names the file, not its folder.
    """
    path = Path(path)
    check_bytes(path, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_image_file(path) as file:
                width, height = file.size
    except Image.DecompressionBombError:
        raise ValueError(f"{path.name}: has far more than {limits.pixels / 1e6:g} million pixels; make it smaller first") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path.name}: is no image that can be read; save it as PNG or JPEG") from error
    check_pixels(path.name, width, height, limits)
    try:
        return load_image(path)
    except ValueError as error:
        raise ValueError(f"{path.name}: is damaged, not all of its pixels can be read; save it anew as PNG or JPEG") from error


def check_bytes(path: Path, limits: Limits = LIMITS) -> None:
    """Raises ValueError for a file that is too large."""
    size = path.stat().st_size
    if size > limits.upload_bytes:
        raise ValueError(f"{path.name}: has {size / 1e6:.1f} MB, and at most {limits.upload_bytes / 1e6:.1f} MB are taken")


def check_pixels(name: str, width: int, height: int, limits: Limits = LIMITS) -> None:
    """Raises ValueError for an image with too many pixels."""
    if width * height > limits.pixels:
        raise ValueError(
            f"{name}: has {width} x {height} = {width * height / 1e6:.0f} million pixels, and at most {limits.pixels / 1e6:g} million are "
            "taken; make it smaller first"
        )


def short_text(text: str | None, limits: Limits = LIMITS) -> str:
    """The text without blanks around it.

    Raises:
        ValueError: it is longer than the limit.
    """
    text = (text or "").strip()
    if len(text) > limits.text:
        raise ValueError(f"the text has {len(text)} characters, and at most {limits.text} are taken")
    return text


def path_below(root: Path, relative: str) -> Path:
    """A path that stays in a folder, links followed.

    Raises:
        ValueError: it leads out of the folder.
    """
    root = root.resolve()
    path = Path(os.path.realpath(root / (relative or ".").strip()))
    if not path.is_relative_to(root):
        raise ValueError(f"{relative}: lies outside of the folder {root.name} of this page, which alone is read and written")
    return path
