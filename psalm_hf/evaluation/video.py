"""A model on videos: rows are predicted sequence by sequence, because a prediction depends on the frames before it.

A sequence is followed by one process alone, so that any number of them gives the same predictions to the bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ..data.benchmarks.davis import region_objects, sequence_and_frame
from ..data.collator import open_stored_image
from ..data.features import SampleDataset
from ..data.region_files import FIRST_FRAME, tagged_expressions
from ..masks import rle_from_bitmap
from ..metrics.base import errors_of
from ..structures import Sample
from ..video import PsalmVideoSession, VideoResult
from .benchmarks import Choices, OpenPart
from .runner import Predictor


class VideoPredictor(Predictor):
    """Follows objects through sequences, with a session of the policy `choices["memory"]`. With `choices["oracle"]` the session is told
    which objects the target of a frame shows."""

    def __init__(self, model: Any, processor: Any, part: OpenPart, choices: Choices):
        super().__init__(model, processor, part, choices)
        self.session = PsalmVideoSession(model, processor, choices["memory"])
        self.collate = list

    def batches(self, done: Collection[int], batch_size: int) -> list[Sequence[int]]:
        """The rows of each sequence of which any row is not done: it is followed anew."""
        return [rows for rows in rows_by_sequence(self.part.dataset) if not set(done) >= set(rows)]

    def predict(self, samples: Sequence[Sample], inputs: Any) -> Iterator[dict[str, Any]]:
        """See `Predictor`. Samples are those of one sequence, in the order of time.

        All objects that any of them asks for are given on the first frame: with an oracle, a frame may not ask for all of them.
        """
        self.session.reset()
        first = self.give(samples)
        for sample in samples:
            numbers, name = region_objects(sample), f"image {sample.image_id}"
            if first is not None and FIRST_FRAME in sample.tags:
                found = first
            else:
                image = open_stored_image(sample.image, name)
                with errors_of(name):
                    found = self.session.track(image, visible=_shown(sample) if self.choices.get("oracle") else None)
            masks = [rle_from_bitmap(found.masks[number].numpy()) for number in numbers]
            prediction = {"masks": masks, "scores": [found.scores[number] for number in numbers]}
            yield {evaluator.name: prediction for evaluator in self.part.evaluators}

    def give(self, samples: Sequence[Sample]) -> VideoResult | None:
        """Gives the session the objects of a sequence. Returns the prediction for its first frame, where that is a row."""
        given = {}
        for sample in samples:
            given |= zip(region_objects(sample), (region.as_prompt() for region in sample.regions), strict=True)
        self.session.add_objects(_first_frame(samples[0]), dict(sorted(given.items())))
        return None


class ExpressionVideoPredictor(VideoPredictor):
    """Follows what the expressions of the first frame mean. They are looked for again every `choices["look_every"]` frames until something
    scores above `choices["no_target_threshold"]`."""

    def __init__(self, model: Any, processor: Any, part: OpenPart, choices: Choices):
        super().__init__(model, processor, part, choices)
        threshold = choices["no_target_threshold"]
        self.session = PsalmVideoSession(model, processor, choices["memory"], look_every=choices["look_every"], threshold=threshold)

    def give(self, samples: Sequence[Sample]) -> VideoResult:
        said = tagged_expressions(samples[0].tags)
        if missing := [number for number in region_objects(samples[0]) if str(number) not in said]:
            raise ValueError(
                f"image {samples[0].image_id}: object {missing[0]} has no expression; give rows of moving_shapes with expressions"
            )
        prompts = {number: {"expression": said[str(number)][1]} for number in region_objects(samples[0])}
        return self.session.add_objects(_first_frame(samples[0]), prompts)


class FirstMaskPredictor(ExpressionVideoPredictor):
    """Follows the masks of the first frame. The prediction for that frame is what the expressions mean in it: it is not scored, and says
    which objects are the same in both parts."""

    def give(self, samples: Sequence[Sample]) -> VideoResult:
        meant = super().give(samples)
        self.session.reset()
        VideoPredictor.give(self, samples)
        return meant


def rows_by_sequence(dataset: SampleDataset) -> list[list[int]]:
    """The rows of each sequence, both in the order of the dataset, which is that of time."""
    sequences = defaultdict(list)
    for row, image_id in enumerate(dataset.rows["image_id"]):
        sequences[sequence_and_frame(image_id)[0]].append(row)
    return list(sequences.values())


def _first_frame(sample: Sample) -> Any:
    name = f"image {sample.image_id}"
    if sample.region_image is None:
        raise ValueError(f"{name}: its regions are drawn on itself, not on the first frame of a video; give rows of DAVIS or moving_shapes")
    return open_stored_image(sample.region_image, f"first frame of {name}")


def _shown(sample: Sample) -> list[int]:
    """Numbers of the objects that the target of a frame shows."""
    return [number for number, region in zip(region_objects(sample), sample.regions, strict=True) if region.segment is not None]
