"""Evaluator of objects that are followed through videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...data.benchmarks.davis import paint_objects, region_objects, sequence_and_frame
from ...data.region_files import FIRST_FRAME, LAST_FRAME, tagged_expressions
from ...masks import area as mask_area
from ...metrics import IdentitySwitches, VideoObjects, label_map, region_similarity
from ...metrics.base import Metric, mean, percent
from ...structures import Sample
from .base import Numbers
from .region import RegionMasks

_RIGHT, _WRONG, _NOTHING = "right at first", "wrong at first", "nothing at first"


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


@dataclass
class FirstFrames(Metric):
    """Outcomes of first frames, and the frames in which objects were found.

    Attributes:
        objects: sequence -> object -> kind of its expression, and the IoU of what that means in the first frame; None = nothing.
        shown: sequence -> frame -> the objects that it shows, and those of them that have a mask.
    """

    objects: dict[str, dict[int, tuple[str, float | None]]] = field(default_factory=dict)
    shown: dict[str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = field(default_factory=dict)

    def group(self, sequence: str, number: int) -> str:
        """Outcome of the first frame: the expression means the object, by an IoU above one half, something else, or nothing."""
        iou = self.objects[sequence][number][1]
        return _NOTHING if iou is None else _RIGHT if iou > 0.5 else _WRONG


class ExpressionVideoEvaluator(VideoEvaluator):
    """J&F of objects that an expression means, also by what it means in the first frame and by its kind; "found" is the share of the frames
    that show an object in which it has a mask. The first frame is a row, which says what expressions mean in it, and is not scored."""

    sums: ClassVar[tuple[str, ...]] = (*VideoEvaluator.sums, "first")

    def __init__(self) -> None:
        super().__init__()
        self.first = FirstFrames()

    def add(self, sample: Sample, prediction: Any) -> None:
        sequence, frame = sequence_and_frame(sample.image_id)
        targets = {segment.annotation_id: segment.mask_rle for segment in sample.segments}
        if FIRST_FRAME in sample.tags:
            said = tagged_expressions(sample.tags)
            for number, (_, mask, _) in zip(region_objects(sample), self.regions(sample, prediction), strict=True):
                iou = region_similarity(mask, targets[number]) if mask_area(mask) else None
                self.first.objects.setdefault(sequence, {})[number] = (said[str(number)][0], iou)
            return
        super().add(sample, prediction)
        if LAST_FRAME not in sample.tags:
            entries = zip(region_objects(sample), self.regions(sample, prediction), strict=True)
            shown = {number: mask for number, (_, mask, _) in entries if number in targets}
            self.first.shown.setdefault(sequence, {})[frame] = (tuple(shown), tuple(number for number in shown if mask_area(shown[number])))

    def compute(self) -> Numbers:
        scores = {key: (found["J-Mean"] + found["F-Mean"]) / 2 for key, found in self.metric.per_object().items()}
        numbers = super().compute()
        for group in (_RIGHT, _WRONG, _NOTHING):
            numbers[f"J&F, {group}"] = _mean(scores, lambda key, group=group: self.first.group(*key) == group)
        for kind in sorted({kind for objects in self.first.objects.values() for kind, _ in objects.values()}):
            numbers[f"J&F, {kind}"] = _mean(scores, lambda key, kind=kind: self.first.objects[key[0]][key[1]][0] == kind)
        ious = [iou or 0.0 for objects in self.first.objects.values() for _, iou in objects.values()]
        shown, found = self._shown_and_found()
        return {**numbers, "IoU, first frame": 100 * mean(ious), "found": percent(found, shown)}

    def counts(self) -> dict[str, int]:
        groups = Counter(self.first.group(sequence, number) for sequence, objects in self.first.objects.items() for number in objects)
        shown, found = self._shown_and_found()
        per_object = self.frames_found().values()
        return {
            **super().counts(),
            **{f"objects, {group}": groups[group] for group in (_RIGHT, _WRONG, _NOTHING)},
            "shown": shown,
            "shown, found": found,
            "objects found in every frame that shows them": sum(found == shown for shown, found in per_object),
            "objects never found": sum(not found for _, found in per_object),
        }

    def frames_found(self) -> dict[tuple[str, int], tuple[int, int]]:
        """(sequence, object) -> number of scored frames that show it, and of those of them in which it has a mask."""
        totals: dict[tuple[str, int], list[int]] = {}
        for sequence, frames in self.first.shown.items():
            for pair in frames.values():
                for place, numbers in enumerate(pair):
                    for number in numbers:
                        totals.setdefault((sequence, number), [0, 0])[place] += 1
        return {key: (shown, found) for key, (shown, found) in sorted(totals.items())}

    def _shown_and_found(self) -> tuple[int, int]:
        pairs = list(self.frames_found().values())
        return sum(shown for shown, _ in pairs), sum(found for _, found in pairs)


def _mean(scores: dict[tuple[str, int], float], belongs: Callable[[tuple[str, int]], bool]) -> float:
    return mean([score for key, score in scores.items() if belongs(key)])
