"""Images of four rows and four columns, whose masks are whole rows."""

import numpy as np
from PIL import Image

from psalm_hf.data.features import Category
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Sample

PICTURE, SIZE = Image.new("RGB", (4, 4)), (4, 4)
CAT, GRASS = 10, 20
CATEGORIES = (Category(CAT, "cat"), Category(GRASS, "grass", is_thing=False))
NAMES = {category.id: category.name for category in CATEGORIES}


def rows(*numbers):
    """RLE of these rows of the picture."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[list(numbers)] = True
    return rle_from_bitmap(mask)


def sample(*segments, **prompt):
    return Sample(PICTURE, 1, SIZE, tuple(segments), **(prompt or {"categories": NAMES}))


def expression(*segments, tags=()):
    return sample(*segments, expressions=("it",), tags=tags)


def referred(*numbers, no_target=False):
    return {"mask": rows(*numbers), "score": 0.9, "no_target": no_target}
