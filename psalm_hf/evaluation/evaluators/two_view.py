"""What regions that are drawn on the other view of the shapes world are judged by."""

from __future__ import annotations

from typing import Any

from ...metrics.correspondence import COMPARED_SIDE
from ...structures import Sample
from .video import CorrespondenceMeasure


class TwoViewMeasure(CorrespondenceMeasure):
    """The numbers of Ego-Exo4D, of rows of `two_view_shapes`: these hold their truth themselves.

    Args:
        visible_above: what an object must score to be said to be visible, in [0, 1].
    """

    def __init__(self, visible_above: float) -> None:
        super().__init__()
        self.visible_above = visible_above

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`."""
        if not len(sample.regions) == len(answer["masks"]) == len(answer["scores"]):
            raise ValueError(
                f"image {sample.image_id}: {len(sample.regions)} regions, but {len(answer['masks'])} masks and "
                f"{len(answer['scores'])} scores"
            )
        for index, (region, mask, score) in enumerate(zip(sample.regions, answer["masks"], answer["scores"], strict=True)):
            target = None if region.segment is None else sample.segments[region.segment].mask_rle
            try:
                self.correspondence.update(mask, target, float(score > self.visible_above))
            except ValueError as error:
                raise ValueError(f"image {sample.image_id}, region {index}: {error}") from error

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {"region": {"longer side": COMPARED_SIDE, "visible above": self.visible_above}}
