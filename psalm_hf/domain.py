"""The kind of images that a checkpoint was trained on, and the note for a user who asks about another kind."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

DRAWN_SHAPES = "drawn shapes"
UNSTATED = "not stated"  # of a checkpoint that says nothing, and was trained further

# Colours of the shapes world, repeated here because data is not loaded for a prediction; a test ties them to `data.shapes.scene`.
_THINGS = ((214, 44, 44), (30, 168, 62), (44, 76, 224), (246, 220, 40), (156, 44, 200), (244, 244, 244))
_STUFF = ((104, 128, 84), (198, 178, 134), (96, 134, 160), (150, 100, 82))
_SHADES = (0.95, 0.285)  # of things, and of the ink on them
_BRIGHTNESS = range(-45, 60, 8)  # of stuff, added to each channel

_SIDE = 128  # pixels of the longer side that are compared
_TOLERANCE = 14  # largest difference of a channel
# Share of pixels of another colour. Measured on 100 scenes of the shapes test split: at most 0.01 as PNG and 0.24 as JPEG of quality 75; on
# photographs at least 0.35.
_FOREIGN_SHARE = 0.28


def domain_note(domain: str | None, image: Image.Image) -> str | None:
    """The note for an image that is not of the kind that the checkpoint was trained on, as far as that can be told: drawn shapes alone.

    Args:
        domain: `config.domain`. image: of any mode.
    """
    if domain != DRAWN_SHAPES or foreign_share(image) <= _FOREIGN_SHARE:
        return None
    return f"This checkpoint knows {domain} alone, and the image looks like something else: the result means nothing."


def foreign_share(image: Image.Image) -> float:
    """Share of the pixels, 0 to 1, whose colour the shapes world does not have."""
    scale = _SIDE / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    known = [np.multiply(color, shade) for color in _THINGS for shade in _SHADES]
    known += [np.add(color, brighter) for color in _STUFF for brighter in _BRIGHTNESS]
    farthest = np.full(pixels.shape[:2], np.inf, dtype=np.float32)
    for color in known:
        np.minimum(farthest, np.abs(pixels - color.astype(np.float32)).max(-1), out=farthest)
    return float((farthest > _TOLERANCE).mean())


def extended_domain(domain: str | None, added: Iterable[str]) -> str:
    """The domain of a checkpoint that was trained further.

    Args:
        domain: before. added: kinds of images, or names of datasets.
    """
    return ", ".join(dict.fromkeys([*(UNSTATED if domain is None else domain).split(", "), *added]))
