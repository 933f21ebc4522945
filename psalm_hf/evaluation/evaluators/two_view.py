"""Evaluators of regions that are drawn on another view of the scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...data.benchmarks.ego_exo4d import read_take
from ...data.region_files import tagged_objects
from ...metrics import Correspondence
from ...metrics.base import errors_of
from ...metrics.correspondence import COMPARED_SIDE, VISIBLE_CONFIDENCE
from ...structures import Sample
from .region import RegionMasks


class CorrespondenceEvaluator(RegionMasks):
    """IoU, contour accuracy, location error and visibility accuracy of rows of Ego-Exo4D.

    The targets are taken at full resolution from the take's `annotation.json`, beside the folder of the sample's frame: a sample's own
    targets have the frame's size, and from there another pixel can be the nearest one. A score above one half says that the object is
    visible.
    """

    choices = {
        "longer side": COMPARED_SIDE,
        "contour accuracy": "masks where they are",
        "centre of an empty mask": "height and width swapped",
        "visible above": VISIBLE_CONFIDENCE,
    }

    def __init__(self) -> None:
        self.metric = Correspondence()

    def add(self, sample: Sample, prediction: Any) -> None:
        if not isinstance(sample.image, str | Path):
            raise ValueError(f"image {sample.image_id}: expected the path of a frame, beside which the masks are; give rows of Ego-Exo4D")
        targets = read_take(Path(sample.image).parents[1] / "annotation.json")["masks"]
        _, camera, frame = sample.image_id.rsplit("/", 2)
        names = tagged_objects(sample.tags)
        if len(names) != len(sample.regions):
            raise ValueError(f"image {sample.image_id}: {len(sample.regions)} regions, but tags of {len(names)} objects")
        for name, (_, mask, score) in zip(names, self.regions(sample, prediction), strict=True):
            with errors_of(f"image {sample.image_id}, object {name}"):
                self.metric.update(mask, targets[name][camera].get(frame), score)

    def counts(self) -> dict[str, int]:
        counted = self.metric
        return {"visible objects": counted.recognised + counted.overlooked, "invisible objects": counted.rejected + counted.invented}


class TwoViewEvaluator(CorrespondenceEvaluator):
    """The numbers of Ego-Exo4D, of rows of `two_view_shapes`: these hold their targets themselves.

    Args:
        visible_above: score above which an object is said to be visible, in [0, 1].
    """

    def __init__(self, visible_above: float) -> None:
        super().__init__()
        self.visible_above = visible_above
        self.choices = {"longer side": COMPARED_SIDE, "visible above": visible_above}

    def add(self, sample: Sample, prediction: Any) -> None:
        for index, (region, mask, score) in enumerate(self.regions(sample, prediction)):
            target = None if region.segment is None else sample.segments[region.segment].mask_rle
            with errors_of(f"image {sample.image_id}, region {index}"):
                self.metric.update(mask, target, float(score > self.visible_above))
