"""Instance segmentation, in the files that the Cityscapes script takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...bounded_files import open_image_file
from ...data.features import Category, SampleDataset
from ...data.segment_map import UNREADABLE
from ...masks import bitmap_from_rle, rle_from_bitmap
from ...structures import Sample
from .images import ImageRow, check_map_size, file_stem, files_of_images, image_rows
from .reading import read_utf8

FOLDER = "masks"


class CityscapesInstances:
    """A text file per image, with a line "PATH LABEL SCORE" per instance, and its mask in a PNG file of its own.

    A path is relative to the text file and has no blanks; labels are the ids 24 person ... 33 bicycle. The script takes any name of a
    text file that begins with CITY_SEQUENCE_FRAME; in a mask, what is not black belongs to the instance.
    """

    def __init__(self, categories: Sequence[Category]):
        self.category_ids = {category.id for category in categories}

    def write(self, folder: Path, predictions: Iterable[tuple[Sample, Any]]) -> None:
        """Image by image."""
        (folder / FOLDER).mkdir(exist_ok=True)
        for sample, prediction in predictions:
            stem = file_stem(str(sample.image_id))
            lines = []
            for number, instance in enumerate(prediction["instances"]):
                name = f"{FOLDER}/{stem}_{number:03}.png"
                Image.fromarray(bitmap_from_rle(instance["mask"])).save(folder / name)
                lines.append(f"{name} {instance['category_id']} {instance['score']!r}\n")
            (folder / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> prediction, the surest instance first.

        Args:
            path: the folder; text files may lie in folders below it.

        Raises:
            ValueError: an image with no text file, or with several; a text file of no image; a line that is none of this format; a mask
                that is used twice, lies outside of the folder, cannot be read or is of another size; a label that is no category.
        """
        rows = image_rows(dataset)
        files = files_of_images(path, {file_stem(image_id): image_id for image_id in rows}, ".txt", is_free=True)
        return {image.row: {"instances": self._instances(files[image_id], path, image)} for image_id, image in rows.items()}

    def _instances(self, file: Path, root: Path, image: ImageRow) -> list[dict[str, Any]]:
        instances, used = [], set()
        for number, line in enumerate(read_utf8(file).splitlines(), 1):
            item = f"{file}, line {number}"
            try:
                name, label, score = line.split(" ")
                category_id, score = int(float(label)), float(score)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{item}: expected PATH LABEL SCORE with one blank between them, got {line!r:.80}") from error
            if category_id not in self.category_ids:
                raise ValueError(f"{item}: label {category_id} is none of the {len(self.category_ids)} categories of the dataset")
            if not math.isfinite(score):
                raise ValueError(f"{item}: expected a finite score, got {score}")
            mask = (file.parent / name.replace("\0", "")).resolve()
            if "\0" in name or Path(name).is_absolute() or not mask.is_relative_to(root.resolve()):
                raise ValueError(f"{item}: mask {name} must be given relative to the text file, and lie in {root}")
            if mask in used:
                raise ValueError(f"{item}: mask {name} is used twice; give each instance a file of its own")
            used.add(mask)
            instances.append({"category_id": category_id, "score": score, "mask": _read_mask(mask, image.size, item)})
        return sorted(instances, key=lambda instance: -instance["score"])


def _read_mask(path: Path, size: tuple[int, int], item: str) -> dict:
    try:
        with open_image_file(path) as image:
            bitmap = np.asarray(image.convert("L")) != 0  # as in the script: of a palette, the colours count
    except (*UNREADABLE, UnidentifiedImageError, ValueError) as error:
        raise ValueError(f"{item}: mask {path} cannot be read ({error})") from error
    check_map_size(bitmap.shape, size, f"{item}: mask {path}")
    return rle_from_bitmap(bitmap)
