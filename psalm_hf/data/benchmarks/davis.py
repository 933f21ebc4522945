"""DAVIS 2017: objects that are given in the first frame of a video are found in the others. See docs/datasets/davis.md."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ...masks import bitmap_from_rle
from ...structures import REGION, Sample
from ..features import segment_entry
from ..files import FileConfig
from ..region_files import LAST_FRAME, OracleConfig, RegionBuilder, mask_entry, object_tag, tagged_objects
from ..segment_map import read_segment_map, rles_from_segment_map

UNSURE = 255  # value of pixels that are of no object, nor of the background


class FrameRecord(NamedTuple):
    """Frame, and the first and last one of its sequence, by their names without ending. `frame` is None for a sequence without two frames,
    which is a broken record."""

    sequence: str
    first: str | None
    last: str | None
    frame: str | None


@dataclass
class DavisConfig(OracleConfig, FileConfig):
    """Options of DAVIS. The released evaluation file has `oracle=True`."""


class Davis2017(RegionBuilder):
    """DAVIS, one row per frame but the first of each sequence: all objects of the first frame are regions, drawn on that frame."""

    BUILDER_CONFIG_CLASS = DavisConfig
    summary = "DAVIS 2017: objects of a video's first frame, found in the others"
    docs_page = "DAVIS 2017"
    published = {"train": {"sequences": 60}, "val": {"sequences": 30, "frames": 1999, "objects": 61}}

    @property
    def root(self) -> str:
        """Folder of the layout below `data_dir`: "" for that of the original archive, "2017/trainval/" for the other."""
        return root_of(self.config.data_dir)

    @property
    def file(self) -> str:
        return f"{self.root}ImageSets/2017/{self.config.split}.txt"

    def annotation_files(self) -> list[str]:
        """The list; of every sequence both folders, whose time changes with their files, and the annotations, because rows hold their
        objects."""
        files = [self.file]
        for sequence in self._sequences() if os.path.isfile(self.path(self.file)) else ():
            frames, maps = (f"{self.root}{folder}/480p/{sequence}" for folder in ("JPEGImages", "Annotations"))
            files += [folder for folder in (frames, maps) if os.path.isdir(self.path(folder))]
            if maps in files:
                files += [f"{maps}/{name}" for name in sorted(os.listdir(self.path(maps))) if name.endswith(".png")]
        return files

    def records(self) -> list[FrameRecord]:
        """Frames in the order of the list, and of time."""
        records = []
        for sequence in self._sequences():
            folder = self.path(f"{self.root}JPEGImages/480p/{sequence}")
            frames = frame_names(os.listdir(folder)) if os.path.isdir(folder) else []
            if len(frames) < 2:
                records.append(FrameRecord(sequence, None, None, None))
            records += [FrameRecord(sequence, frames[0], frames[-1], frame) for frame in frames[1:]]
        return records

    def counts(self) -> dict[str, int]:
        """Numbers of sequences, of frames, the first ones included, and of objects of the first frames."""
        firsts = {record.sequence: record.first for record in self._records if record.frame is not None}
        return {
            "sequences": len(firsts),
            "frames": len(firsts) + sum(record.frame is not None for record in self._records),
            "objects": sum(len(self._first_masks(sequence, first)) for sequence, first in firsts.items()),
        }

    def describe(self, record: FrameRecord) -> str:
        if record.frame is None:
            return f"{self.file}, sequence {record.sequence}"
        return f"sequence {record.sequence}, frame {record.frame}"

    def row(self, record: FrameRecord) -> dict[str, Any]:
        """Row of the objects of the frame that the first frame has too; regions are in the order of the numbers of the objects."""
        sequence, first, last, frame = record
        if frame is None:
            raise ValueError(f"there are not two frames in {self.root}JPEGImages/480p/{sequence}")
        image, first_image = (self.image(f"{self.root}JPEGImages/480p/{sequence}/{name}.jpg") for name in (frame, first))
        map_path = self._map_path(sequence, frame)
        segment_map = self.segment_map(map_path, image["image_size"])
        self.segment_map(self._map_path(sequence, first), first_image["image_size"])
        prompts = self._first_masks(sequence, first)
        shown = [number for number in annotated_objects(read_segment_map(self.path(map_path))) if number in prompts]
        asked = shown if self.config.visible_only else list(prompts)
        return {
            **image,
            "image_id": f"{sequence}/{frame}",
            "record_id": f"{sequence}/{frame}",
            "condition": REGION,
            "segments": [segment_entry(map_values=[number], annotation_id=number) for number in shown],
            "segment_map": segment_map,
            "regions": [mask_entry(prompts[number], shown.index(number) if number in shown else None) for number in asked],
            "region_image": first_image["image"],
            "region_image_size": first_image["image_size"],
            "tags": [*map(object_tag, asked), *([LAST_FRAME] if frame == last else [])],
        }

    def _sequences(self) -> list[str]:
        return [line.strip() for _, line in self.lines(self.file)]

    def _map_path(self, sequence: str, frame: str) -> str:
        return f"{self.root}Annotations/480p/{sequence}/{frame}.png"

    def _first_masks(self, sequence: str, first: str) -> dict[int, dict]:
        return self._once(f"first frame of {sequence}", lambda: object_masks(read_segment_map(self.path(self._map_path(sequence, first)))))


def root_of(folder: str) -> str:
    """Folders between a DAVIS folder and `JPEGImages`: "" or "2017/trainval/"."""
    return "2017/trainval/" if os.path.isdir(f"{folder}/2017/trainval") else ""


def frame_names(files: Iterable[str]) -> list[str]:
    """Names of the frames among some files, JPEG, without ending and in the order of time."""
    return sorted(name[:-4] for name in files if name.endswith(".jpg"))


def annotated_objects(segment_map: np.ndarray) -> list[int]:
    """Numbers of the objects in an annotation (H, W), ascending; without the background and `UNSURE`."""
    return [int(value) for value in np.unique(segment_map) if value not in (0, UNSURE)]


def object_masks(segment_map: np.ndarray) -> dict[int, dict]:
    """Masks of the objects of an annotation (H, W): number, ascending -> RLE."""
    numbers = annotated_objects(segment_map)
    return dict(zip(numbers, rles_from_segment_map(segment_map, [[number] for number in numbers]), strict=True))


def sequence_and_frame(image_id: str) -> tuple[str, str]:
    """Sequence and frame of a row of DAVIS."""
    sequence, frame = image_id.rsplit("/", 1)
    return sequence, frame


def region_objects(sample: Sample) -> list[int]:
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
        rles: N COCO RLEs of the image's size.
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
        if not 0 < number < UNSURE:
            raise ValueError(f"{item}: object {number}; the files hold numbers from 1 to {UNSURE - 1}")
        bitmap = bitmap_from_rle(rle)
        if bitmap.shape != painted.shape:
            raise ValueError(f"{item}: the mask of object {number} is of size {bitmap.shape}, but the image is {tuple(image_size)}")
        painted[bitmap] = number
    return painted


def save_painted(painted: np.ndarray, file: Path | BinaryIO) -> None:
    """A map of `paint_objects` as a PNG with the colours of DAVIS."""
    image = Image.fromarray(painted)
    image.putpalette(_PALETTE)
    image.save(file, format="PNG")


def _palette() -> bytes:
    """Red, green and blue of 256 numbers, as in DAVIS and Pascal VOC: bits 0, 3 and 6 of a number are the highest of red, and so on."""
    colours = bytearray()
    for number in range(256):
        for channel in range(3):
            bits = [number >> (3 * step + channel) & 1 for step in range(3)]
            colours.append(128 * bits[0] + 64 * bits[1] + 32 * bits[2])
    return bytes(colours)


_PALETTE = _palette()
