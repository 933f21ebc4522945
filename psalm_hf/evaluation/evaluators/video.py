"""What regions that are drawn on another picture are judged by: an earlier frame of a video, or another view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...data.benchmarks.ego_exo4d import read_take
from ...data.region_files import LAST_FRAME, tagged_objects
from ...metrics import Correspondence, IdentitySwitches, VideoObjects, label_map
from ...metrics.correspondence import COMPARED_SIDE, VISIBLE_CONFIDENCE
from ...structures import Sample
from ..formats.davis import object_numbers, paint_objects, sequence_and_frame
from .base import Numbers, RegionAnswers


class VideoMeasure(RegionAnswers):
    """J&F and identity switches of rows of DAVIS, on the map that is submitted. First frames are no rows, last ones are not scored."""

    def __init__(self) -> None:
        self.objects = VideoObjects()
        self.identities = IdentitySwitches()
        self.last_frames = 0

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`."""
        numbers = object_numbers(sample)
        found = paint_objects(answer["masks"], numbers, sample.image_size, f"image {sample.image_id}")
        if LAST_FRAME in sample.tags:
            self.last_frames += 1
            return
        masks, objects = [segment.mask_rle for segment in sample.segments], [segment.annotation_id for segment in sample.segments]
        truth = label_map(masks, objects, sample.image_size, fill=0)
        frame = sequence_and_frame(sample.image_id)
        self.objects.update(*frame, found, truth, numbers)
        self.identities.update(*frame, found, truth, numbers)

    def __iadd__(self, other: VideoMeasure) -> VideoMeasure:
        self.objects += other.objects
        self.identities += other.identities
        self.last_frames += other.last_frames
        return self

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"region {name}": value for name, value in self.objects.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return {}

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        sequences, identities = self.objects.sequences, self.identities.compute()
        return {
            "sequences": len(sequences),
            "objects": sum(len(set().union(*frames.values())) for frames in sequences.values()),
            "frames": sum(map(len, sequences.values())),
            "last frames, not scored": self.last_frames,
            "identity switches": identities["switches"],
            "masks on another object": identities["mistaken"],
        }

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {"region": {"frames": "all but the first and the last of a sequence", "overlaps": "higher numbers cover lower ones"}}


class CorrespondenceMeasure(RegionAnswers):
    """IoU, contour accuracy, location error and visibility accuracy of rows of Ego-Exo4D.

    The truth is taken at full resolution from the take's `annotation.json`, beside the folder of the sample's frame: a sample's own truth
    has the frame's size, and from there another pixel can be the nearest one. A score above one half says that the object is visible.
    """

    def __init__(self) -> None:
        self.correspondence = Correspondence()

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`."""
        if not isinstance(sample.image, str | Path):
            raise ValueError(f"image {sample.image_id}: expected the path of a frame, beside which the masks are; give rows of Ego-Exo4D")
        masks = read_take(Path(sample.image).parents[1] / "annotation.json")["masks"]
        _, camera, frame = sample.image_id.rsplit("/", 2)
        names = tagged_objects(sample.tags)
        if not len(names) == len(sample.regions) == len(answer["masks"]) == len(answer["scores"]):
            raise ValueError(
                f"image {sample.image_id}: {len(sample.regions)} regions and {len(names)} objects, but {len(answer['masks'])} masks and "
                f"{len(answer['scores'])} scores"
            )
        for name, mask, score in zip(names, answer["masks"], answer["scores"], strict=True):
            try:
                self.correspondence.update(mask, masks[name][camera].get(frame), score)
            except ValueError as error:
                raise ValueError(f"image {sample.image_id}, object {name}: {error}") from error

    def __iadd__(self, other: CorrespondenceMeasure) -> CorrespondenceMeasure:
        self.correspondence += other.correspondence
        return self

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"region {name}": value for name, value in self.correspondence.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return {}

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        counted = self.correspondence
        return {"visible objects": counted.recognised + counted.overlooked, "invisible objects": counted.rejected + counted.invented}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {
            "region": {
                "longer side": COMPARED_SIDE,
                "contour accuracy": "masks where they are",
                "centre of an empty mask": "height and width swapped",
                "visible above": VISIBLE_CONFIDENCE,
            }
        }
