"""A model on videos: rows are answered sequence by sequence, because an answer depends on the frames before it.

Answers go to disk as `runner.answer` writes them, a sequence at a time. A sequence is followed by one process alone, so that any number of
them gives the same answers to the bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from ..data.collator import stored_image
from ..data.features import SampleDataset
from ..masks import rle_from_bitmap
from ..structures import Sample
from ..video import PsalmVideoSession
from .benchmarks import OpenPart
from .formats.davis import object_numbers, sequence_and_frame
from .records import AnswersInMemory, Records
from .runner import Processes


@torch.no_grad()
def answer_video(
    model: Any,
    processor: Any,
    part: OpenPart,
    records: Records | AnswersInMemory,
    processes: Processes,
    *,
    policy: Any,
    oracle: bool = False,
) -> None:
    """Answers the rows of a part that have no answer yet, with a progress bar. A sequence of which any row has none is followed anew.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        part: rows of DAVIS, or of the moving shapes.
        records: mended; all processes have the same folder.
        policy: of `PsalmVideoSession`.
        oracle: tell the session which objects the truth of a frame shows.

    Raises:
        ValueError: rows that are none of a video, or frames that the session refuses. The message names the image.
    """
    done = set(records.answers())
    processes.wait()  # before anyone writes: all must find the same rows to do
    sequences = [rows for rows in rows_by_sequence(part.dataset) if not done >= set(rows)]
    session = PsalmVideoSession(model, processor, policy)
    bar = tqdm(total=len(part.dataset), initial=len(done), desc=f"follow {part.part.dataset}", unit="frame", disable=processes.rank > 0)
    for rows in sequences[processes.rank :: processes.number]:
        answers = {}
        for row, answer in zip(rows, follow(session, part.dataset, rows, oracle=oracle), strict=True):
            answers[row] = {measure.name: answer for measure in part.measures}
            bar.update(0 if row in done else processes.number)
        records.append((row, answer) for row, answer in answers.items() if row not in done)
    bar.close()
    processes.wait()


def rows_by_sequence(dataset: SampleDataset) -> list[list[int]]:
    """The rows of each sequence, both in the order of the dataset, which is that of time."""
    sequences = defaultdict(list)
    for row, image_id in enumerate(dataset.rows["image_id"]):
        sequences[sequence_and_frame(image_id)[0]].append(row)
    return list(sequences.values())


def follow(session: PsalmVideoSession, dataset: SampleDataset, rows: Sequence[int], *, oracle: bool) -> Iterator[dict[str, Any]]:
    """An answer for each row of a sequence, in the order of its regions.

    All objects that any of the rows asks for are given on the first frame: with an oracle, a frame may not ask for all of them.

    Args:
        rows: of one sequence, in the order of time.
        oracle: see `answer_video`.

    Raises:
        ValueError: see `answer_video`.
    """
    samples = [dataset[row] for row in rows]
    given = {}
    for sample in samples:
        given |= zip(object_numbers(sample), (region.as_prompt() for region in sample.regions), strict=True)
    session.reset()
    session.add_objects(_first_frame(samples[0]), dict(sorted(given.items())))
    for sample in samples:
        name = f"image {sample.image_id}"
        numbers = object_numbers(sample)
        try:
            found = session.track(stored_image(sample.image, name), visible=_shown(sample) if oracle else None)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        yield {
            "masks": [rle_from_bitmap(found.masks[number].numpy()) for number in numbers],
            "scores": [found.scores[number] for number in numbers],
        }


def _first_frame(sample: Sample) -> Any:
    name = f"image {sample.image_id}"
    if sample.region_image is None:
        raise ValueError(f"{name}: its regions are drawn on itself, not on the first frame of a video; give rows of DAVIS or moving_shapes")
    return stored_image(sample.region_image, f"first frame of {name}")


def _shown(sample: Sample) -> list[int]:
    """Numbers of the objects that the truth of a frame shows."""
    return [number for number, region in zip(object_numbers(sample), sample.regions, strict=True) if region.segment is not None]
