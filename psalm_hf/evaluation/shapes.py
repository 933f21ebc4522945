"""Every task on held-out pictures of the shapes world: numbers of a model, trivial answers beside them, and how much was counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .calibration import ReferringThresholds
from .shapes_answers import AnswerMeasures
from .shapes_batch import scene_batches
from .shapes_panoptic import PanopticMeasures
from .shapes_referring import ReferringMeasures
from .shapes_regions import RegionMeasures

Measures = PanopticMeasures | ReferringMeasures | RegionMeasures | AnswerMeasures


@dataclass(frozen=True)
class ShapesReport:
    """Results on one split, by name. What nothing defines is left out (held-out things where there are none).

    Attributes:
        percent: of the model.
        baselines: of answers that need no model, in percent, under the same names.
        counts: pictures, things, expressions, regions and questions that were judged, by group.
    """

    percent: dict[str, float]
    baselines: dict[str, float]
    counts: dict[str, int]


def evaluate_shapes(
    model: Any, processor: Any, *, split: str, num_images: int, batch_size: int, thresholds: ReferringThresholds | None = None
) -> dict[str, float]:
    """All numbers of a model in percent, by name: cheap enough to be called during training.

    A picture is drawn and encoded once for all tasks. A model with `decouple_masks=False` segments by categories only, so that the
    panoptic part is all there is.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        split: "validation", "test" or "unseen".
        num_images: pictures, the first of the split, the same for every task.
        batch_size: pictures of a forward pass. It changes numbers only where rounding moves a score or pixel across a threshold.
        thresholds: of referring answers, see `calibration`; default `ReferringThresholds()`.

    Raises:
        ValueError: unknown split, no pictures.
    """
    return _defined(part.numbers() for part in _measure(model, processor, split, num_images, batch_size, thresholds))


def report_shapes(
    model: Any, processor: Any, *, split: str, num_images: int, batch_size: int, thresholds: ReferringThresholds | None = None
) -> ShapesReport:
    """The numbers of `evaluate_shapes` (arguments and errors are its), those of trivial answers, and counts."""
    parts = _measure(model, processor, split, num_images, batch_size, thresholds)
    return ShapesReport(
        percent=_defined(part.numbers() for part in parts),
        baselines=_defined(part.baselines() for part in parts),
        counts={name: number for part in parts for name, number in part.counts().items()},
    )


@torch.no_grad()  # no inference mode: engines that gather weights would train on with what they gathered in it
def _measure(
    model: Any, processor: Any, split: str, num_images: int, batch_size: int, thresholds: ReferringThresholds | None
) -> list[Measures]:
    side = processor.image_processor.image_size
    parts: list[Measures] = [PanopticMeasures(side)]
    if model.config.decouple_masks:
        parts += [ReferringMeasures(thresholds or ReferringThresholds()), RegionMeasures(), AnswerMeasures(side)]
    for batch in scene_batches(model, processor, split, num_images, batch_size, split):
        for part in parts:
            part.update(batch)
    return parts


def _defined(results: Iterable[Mapping[str, float]]) -> dict[str, float]:
    return {name: value for numbers in results for name, value in numbers.items() if not math.isnan(value)}
