"""The checkpoint that a page has loaded, and words about it. Another one takes its place for all users at once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ..checkpoints import TINY, resolve_checkpoint
from ..domain import DRAWN_SHAPES, UNSTATED
from ..predictor import PsalmPredictor

CACHED_FEATURES = 16  # images whose features are kept, for all users together; the memory for them does not grow further


class LoadedCheckpoint:
    """The predictor of a page.

    Args:
        checkpoint: folder or Hub id.
        options: of `PsalmPredictor.from_pretrained`: device, dtype.
    """

    def __init__(self, checkpoint: str = TINY, **options: Any):
        self._options = options
        self._changing = threading.Lock()
        self.predictor = self._load(checkpoint)

    def use(self, checkpoint: str) -> None:
        """Loads another checkpoint; until it is there, the old one answers.

        Raises:
            ValueError, OSError: it cannot be loaded; then nothing has changed.
        """
        with self._changing:
            self.predictor = self._load(checkpoint)

    def _load(self, checkpoint: str) -> PsalmPredictor:
        resolve_checkpoint(checkpoint)  # a name that cannot be one is refused in the words of this package
        return PsalmPredictor.from_pretrained(checkpoint, cached_images=CACHED_FEATURES, **self._options)

    def describe(self) -> str:
        """Markdown: which checkpoint is loaded, and what to expect of it."""
        model, name = self.predictor.model, self.predictor.checkpoint or ""
        side = self.predictor.processor.image_processor.image_size
        size = f"{model.num_parameters() / 1e6:.1f} million parameters, images of {side} x {side} pixels, on {model.device}"
        shown = Path(name).name if Path(name).exists() else name
        return f"**{shown}** ({size}). {expectation(model.config.domain)}"


def expectation(domain: str | None) -> str:
    """Sentence that says what masks of a checkpoint are worth, and on which images.

    Args:
        domain: `config.domain`, the kind of images that it was trained on.
    """
    if domain == DRAWN_SHAPES:
        return (
            "It was trained on drawn shapes alone: circle, star, ring, ... in six colours, on grass, sand, water or brick. Of those it "
            "finds most; of photographs its masks mean nothing. Use it to learn the page, and as a start for drawn images of your own."
        )
    if domain is None or domain.startswith(UNSTATED):
        return (
            "It knows what it was trained on, and does not say what that was. The weights that the authors of PSALM released were trained "
            "on photographs of everyday things."
        )
    return f"It was trained on {domain}; of other images its masks may mean nothing."
