"""A rectangle of an image that the model looks at by itself, and how its answers come back: what zooming and tiling share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image


class Window(NamedTuple):
    """Part of an image: pixels x0 <= x < x1, y0 <= y < y1, all inside of it."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def about(cls, mask: np.ndarray) -> Window | None:
        """The smallest window that holds a mask, (H, W) bool; None if it has no pixel."""
        from .masks import box_from_bitmap  # here, because it loads pycocotools

        return cls(*box_from_bitmap(mask)) if mask.any() else None

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.y1 - self.y0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an (H, W) array of the image."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def crop(self, image: Image.Image) -> Image.Image:
        """The pixels of the window."""
        return image.crop(self)

    def common(self, other: Window) -> Window | None:
        """The pixels of both windows; None if there are none."""
        x0, y0, x1, y1 = max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1)
        return Window(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def of(self, inner: Window) -> tuple[slice, slice]:
        """Rows and columns of `inner`, which lies inside, in an array of this window."""
        return slice(inner.y0 - self.y0, inner.y1 - self.y0), slice(inner.x0 - self.x0, inner.x1 - self.x0)
