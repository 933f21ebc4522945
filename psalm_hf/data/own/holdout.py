"""Images of own data that are held out from training, chosen by their names."""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
from collections.abc import Iterable

TRAIN_SPLIT, HELD_OUT_SPLIT = "train", "val"  # splits of data with a share that is held out

_AUGMENTED = re.compile(r"\.rf\.\w+$")  # Roboflow writes `name_jpg.rf.NUMBER.jpg` for every version of an image


def place_of(image: str) -> float:
    """Number of at least 0 and below 1 that follows from the name of an image alone. All names are spread evenly.

    Args:
        image: path below the folder of the data. Its ending does not count, so a mask or a file of shapes beside the image has the same
            place. All versions that Roboflow makes of one image have the same place too.
    """
    stem = posixpath.splitext(posixpath.normpath(image.replace("\\", "/")))[0]
    digest = hashlib.sha256(_AUGMENTED.sub("", stem).encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: a float of 64 could be rounded up to 1


def is_held_out(image: str, holdout: float) -> bool:
    """True if an image is held out. That depends on its name and the share alone, so images that come later change nothing.

    Args:
        image: see `place_of`.
        holdout: share of the images that are held out, between 0 and 1.
    """
    return place_of(image) < holdout


def check_both_sides(images: Iterable[str], holdout: float) -> None:
    """Checks that a share leaves images on both sides.

    Raises:
        ValueError: no image is held out, or all are, with a share that is better.
    """
    places = sorted(map(place_of, set(images)))
    if not places or places[0] >= holdout:
        advice = f"; give a larger share, {math.floor(places[0] * 100 + 1) / 100}" if len(places) > 1 else ""
        raise ValueError(f"holdout={holdout} holds out none of the {len(places)} images{advice}, or split the files yourself")
    if places[-1] < holdout:
        advice = f"; give a smaller share, {math.floor(places[-1] * 100) / 100}" if len(places) > 1 else ""
        raise ValueError(f"holdout={holdout} holds out all {len(places)} images{advice}, or split the files yourself")
