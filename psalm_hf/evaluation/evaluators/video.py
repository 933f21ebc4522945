"""Evaluator of objects that are followed through videos."""

from __future__ import annotations

from typing import Any, ClassVar

from ...data.benchmarks.davis import paint_objects, region_objects, sequence_and_frame
from ...data.region_files import LAST_FRAME
from ...metrics import IdentitySwitches, VideoObjects, label_map
from ...structures import Sample
from .region import RegionMasks


class VideoEvaluator(RegionMasks):
    """J&F and identity switches of rows of DAVIS, on the map that is submitted. First frames are no rows, last ones are not scored."""

    sums: ClassVar[tuple[str, ...]] = ("metric", "identities", "last_frames")
    choices = {"frames": "all but the first and the last of a sequence", "overlaps": "higher numbers cover lower ones"}

    def __init__(self) -> None:
        self.metric = VideoObjects()
        self.identities = IdentitySwitches()
        self.last_frames = 0

    def add(self, sample: Sample, prediction: Any) -> None:
        numbers = region_objects(sample)
        found = paint_objects(prediction["masks"], numbers, sample.image_size, f"image {sample.image_id}")
        if LAST_FRAME in sample.tags:
            self.last_frames += 1
            return
        masks, objects = [segment.mask_rle for segment in sample.segments], [segment.annotation_id for segment in sample.segments]
        target = label_map(masks, objects, sample.image_size, fill=0)
        for metric in (self.metric, self.identities):
            metric.update(*sequence_and_frame(sample.image_id), found, target, numbers)

    def counts(self) -> dict[str, int]:
        sequences, identities = self.metric.sequences, self.identities.compute()
        return {
            "sequences": len(sequences),
            "objects": sum(len(set().union(*frames.values())) for frames in sequences.values()),
            "frames": sum(map(len, sequences.values())),
            "last frames, not scored": self.last_frames,
            "identity switches": identities["switches"],
            "masks on another object": identities["mistaken"],
        }
