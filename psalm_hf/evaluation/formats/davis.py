"""Objects in videos, in the files that DAVIS takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ...data.benchmarks.davis import UNSURE as VOID
from ...data.features import SampleDataset
from ...data.region_files import LAST_FRAME, tagged_objects
from ...data.segment_map import read_segment_map
from ...masks import bitmap_from_rle, rle_from_bitmap
from ...structures import Sample


class DavisFrames:
    """`SEQUENCE/FRAME.png`: a picture with a palette per frame, whose values are the objects' numbers; 0 = background.

    Scores are not held. Where masks overlap, the object with the higher number is kept.
    """

    def write(self, folder: Path, answers: Iterable[tuple[Sample, Any]]) -> None:
        """Frame by frame; of each sequence also the given objects in its first frame, which the server wants to have."""
        begun = set()
        for sample, answer in answers:
            sequence, frame = sequence_and_frame(sample.image_id)
            numbers = object_numbers(sample)
            if sequence not in begun:
                begun.add(sequence)
                (folder / sequence).mkdir(exist_ok=True)
                given = [region.mask_rle for region in sample.regions]
                first = paint_objects(given, numbers, sample.region_image_size, f"image {sample.image_id}, first frame")
                save_painted(first, folder / sequence / f"{Path(sample.region_image).stem}.png")
            painted = paint_objects(answer["masks"], numbers, sample.image_size, f"image {sample.image_id}")
            save_painted(painted, folder / sequence / f"{frame}.png")

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> answer; empty masks for a last frame without file, because last frames are not scored. All scores are 1.

        Raises:
            ValueError: frames that the dataset does not have, a frame without file, a picture of another size than the frame, or numbers in
                it that are no object of its sequence. The message names the file.
        """
        answers: dict[int, Any] = {}
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
                raise ValueError(f"{file}: is missing; give a picture for every frame between the first and the last")
            answers[index] = {
                "masks": [rle_from_bitmap(painted == number) for number in numbers],
                "scores": [1.0] * len(numbers),
            }
        for file in sorted(path.glob("*/*.png")):
            if file.parent.name not in known or file.stem not in known[file.parent.name]:
                raise ValueError(f"{file}: the dataset has no row for this frame; take the file away, or load its split without oracle")
        return answers


def sequence_and_frame(image_id: str) -> tuple[str, str]:
    """Of a row of DAVIS."""
    sequence, frame = image_id.rsplit("/", 1)
    return sequence, frame


def object_numbers(sample: Sample) -> list[int]:
    """Number of the object that each region of a sample means.

    Raises:
        ValueError: the sample does not say it.
    """
    numbers = [int(name) for name in tagged_objects(sample.tags)]
    if len(numbers) != len(sample.regions):
        raise ValueError(f"image {sample.image_id}: {len(sample.regions)} regions, but tags of {len(numbers)} objects; give rows of DAVIS")
    return numbers


def paint_objects(rles: Sequence[dict], numbers: Sequence[int], image_size: tuple[int, int], item: str) -> np.ndarray:
    """The map that is submitted, and judged: objects with higher numbers cover those with lower ones.

    Args:
        rles: N COCO RLEs of the picture's size.
        numbers: (N,) from 1 to 254.
        image_size: (H, W).
        item: what messages begin with.

    Returns:
        (H, W) uint8, 0 = no object.

    Raises:
        ValueError: another number of masks than of objects, a mask of another size, or a number that does not fit.
    """
    if len(rles) != len(numbers):
        raise ValueError(f"{item}: {len(rles)} masks for {len(numbers)} objects; answer every region")
    painted = np.zeros(image_size, dtype=np.uint8)
    for number, rle in sorted(zip(numbers, rles, strict=True), key=lambda pair: pair[0]):
        if not 0 < number < VOID:
            raise ValueError(f"{item}: object {number}; the files hold numbers from 1 to {VOID - 1}")
        bitmap = bitmap_from_rle(rle)
        if bitmap.shape != painted.shape:
            raise ValueError(f"{item}: the mask of object {number} is of size {bitmap.shape}, but the picture is {tuple(image_size)}")
        painted[bitmap] = number
    return painted


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


def save_painted(painted: np.ndarray, file: Path | BinaryIO) -> None:
    """A map of `paint_objects` as a PNG with the colours of DAVIS."""
    picture = Image.fromarray(painted)
    picture.putpalette(_PALETTE)
    picture.save(file, format="PNG")


def _palette() -> bytes:
    """Red, green and blue of 256 numbers, as in DAVIS and Pascal VOC: bits 0, 3 and 6 of a number are the highest of red, and so on."""
    colours = bytearray()
    for number in range(256):
        for channel in range(3):
            bits = [number >> (3 * step + channel) & 1 for step in range(3)]
            colours.append(128 * bits[0] + 64 * bits[1] + 32 * bits[2])
    return bytes(colours)


_PALETTE = _palette()
