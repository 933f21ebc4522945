"""Objects in videos, in the files that DAVIS takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.benchmarks.davis import paint_objects, region_objects, save_painted, sequence_and_frame
from ...data.features import SampleDataset
from ...data.region_files import LAST_FRAME, tagged_objects
from ...data.segment_map import read_segment_map
from ...masks import rle_from_bitmap
from ...structures import Sample


class DavisFrames:
    """`SEQUENCE/FRAME.png`: an image with a palette per frame, whose values are the objects' numbers; 0 = background.

    Scores are not held. Where masks overlap, the object with the higher number is kept.
    """

    def write(self, folder: Path, predictions: Iterable[tuple[Sample, Any]]) -> None:
        """Frame by frame; of each sequence also the given objects in its first frame, which the server wants to have."""
        begun = set()
        for sample, prediction in predictions:
            sequence, frame = sequence_and_frame(sample.image_id)
            numbers = region_objects(sample)
            if sequence not in begun:
                begun.add(sequence)
                (folder / sequence).mkdir(exist_ok=True)
                given = [region.mask_rle for region in sample.regions]
                first = paint_objects(given, numbers, sample.region_image_size, f"image {sample.image_id}, first frame")
                save_painted(first, folder / sequence / f"{Path(sample.region_image).stem}.png")
            painted = paint_objects(prediction["masks"], numbers, sample.image_size, f"image {sample.image_id}")
            save_painted(painted, folder / sequence / f"{frame}.png")

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> prediction; empty masks for a last frame without file, because last frames are not scored. All scores are 1.

        Raises:
            ValueError: frames that the dataset does not have, a frame without file, an image of another size than the frame, or numbers in
                it that are no object of its sequence. The message names the file.
        """
        predictions: dict[int, Any] = {}
        known: dict[str, set[str]] = {}
        for index, row in enumerate(dataset.rows):
            sequence, frame = sequence_and_frame(row["image_id"])
            known.setdefault(sequence, {Path(row["region_image"]["path"]).stem}).add(frame)
            file, numbers, size = path / sequence / f"{frame}.png", [int(name) for name in tagged_objects(row["tags"])], row["image_size"]
            if file.is_file():
                painted = _read(file, numbers, tuple(size))
            elif LAST_FRAME in row["tags"]:
                painted = np.zeros(size, dtype=np.int32)
            else:
                raise ValueError(f"{file}: is missing; give an image for every frame between the first and the last")
            predictions[index] = {"masks": [rle_from_bitmap(painted == number) for number in numbers], "scores": [1.0] * len(numbers)}
        for file in sorted(path.glob("*/*.png")):
            if file.parent.name not in known or file.stem not in known[file.parent.name]:
                raise ValueError(f"{file}: the dataset has no row for this frame; take the file away, or load its split without oracle")
        return predictions


def _read(file: Path, numbers: Sequence[int], image_size: tuple[int, int]) -> np.ndarray:
    painted = read_segment_map(file)
    if painted.shape != image_size:
        raise ValueError(f"{file}: size {painted.shape}, but the frame is {image_size}")
    if unknown := set(np.unique(painted).tolist()) - {0, *numbers}:
        raise ValueError(
            f"{file}: values {sorted(unknown)[:5]} are none of the sequence's objects {list(numbers)}; the value of a pixel is the number "
            f"of the object, not its colour"
        )
    return painted
