"""Small, medium, large: which bin an object falls into."""

from __future__ import annotations

import math
from collections.abc import Mapping

# COCO's bins, in pixels of the mask at the original image size: name -> (lowest area, area from which on the next bin begins).
COCO_SIZES: dict[str, tuple[float, float]] = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}


def size_bin(area: float, bins: Mapping[str, tuple[float, float]] = COCO_SIZES) -> str:
    """Name of the first bin with low <= area < high.

    Results by object size are one metric per bin, `metrics[size_bin(area)].update(...)`.

    Args:
        area: of the TRUE object, in the unit of the bins: pixels, or a fraction of the image
            (`size_bin(area / (height * width), {"below 2 %": (0, 0.02), "larger": (0.02, math.inf)})`).
        bins: name -> (low, high).

    Raises:
        ValueError: no bin holds this area.
    """
    for name, (low, high) in bins.items():
        if low <= area < high:
            return name
    raise ValueError(f"area {area} is in none of the bins {dict(bins)}; are area and bins in the same unit?")
