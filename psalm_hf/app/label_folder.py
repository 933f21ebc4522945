"""LabelFolder: a folder of images and what was labelled in them, in the formats of own data.

FOLDER/images/*.png          or the images in the folder itself
FOLDER/annotations/train.json    objects with categories, as COCO has them (`own_coco`)
FOLDER/train.jsonl           what sentences mean, or that they mean nothing (`own_jsonl`)
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.own.holdout import is_held_out
from ..locking import only_run
from ..masks import bitmap_from_rle, box_from_bitmap, rle_from_bitmap
from ..structures import PROMPT_TOKENS
from ..video import frames
from ..writing import write_file, write_json
from .limits import LIMITS, Limits, check_pixels, path_below, read_upload

IMAGES = "images"
_SAVING = threading.Lock()  # users of one page may label one folder: each saves into what is there by then


@dataclass(frozen=True)
class LabelFolder:
    """A folder that is labelled.

    Attributes:
        root: it exists.
    """

    root: Path

    @classmethod
    def open(cls, data: Path, relative: str) -> LabelFolder:
        """The folder `relative` of the page's folder `data`; it is made if it does not exist.

        Raises:
            ValueError: it leads out of `data`, or is a file.
        """
        root = path_below(data, relative)
        if root.exists() and not root.is_dir():
            raise ValueError(f"{relative}: is a file; give a folder")
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    @property
    def images(self) -> str:
        """Folder of the images, as the option `images` of `own_coco` takes it."""
        is_flat = not (self.root / IMAGES).is_dir() and any(path.suffix.lower() in frames.IMAGE_ENDINGS for path in self.root.iterdir())
        return "." if is_flat else IMAGES

    @property
    def objects_file(self) -> Path:
        """The COCO file."""
        return self.root / "annotations" / "train.json"

    @property
    def sentences_file(self) -> Path:
        """The file of lines."""
        return self.root / "train.jsonl"

    def image_names(self) -> list[str]:
        """Names of the images in natural order; [] if there are none."""
        folder = self.root / self.images
        has_images = folder.is_dir() and any(
            path.suffix.lower() in frames.IMAGE_ENDINGS and not path.name.startswith(".") for path in folder.iterdir()
        )
        return [path.name for path in frames.image_files(folder)] if has_images else []

    def image_path(self, name: str) -> Path:
        """The path of an image.

        Raises:
            ValueError: it leads out of the folder.
        """
        return path_below(self.root / self.images, name)

    def add_image(self, path: Path, limits: Limits = LIMITS) -> str:
        """Copies an uploaded image into the folder, as PNG, upright; returns its name.

        Raises:
            ValueError: see `read_upload`; an image of this name is there.
        """
        image = read_upload(path, limits)
        name = f"{''.join(letter if letter.isalnum() or letter in '._-' else '_' for letter in path.stem)[:100] or 'image'}.png"
        target = self.root / self.images / name
        if target.exists():
            raise ValueError(f"{name}: is in the folder already; give the new image another name")
        write_file(target, lambda file: image.save(file, format="PNG"))
        return name

    def objects(self, name: str) -> list[tuple[str, np.ndarray]] | None:
        """(category, mask) of each object of an image; None = it was not labelled."""
        content = self._objects()
        entry = next((entry for entry in content["images"] if entry["file_name"] == name), None)
        if entry is None:
            return None
        names = {category["id"]: category["name"] for category in content["categories"]}
        found = [each for each in content["annotations"] if each["image_id"] == entry["id"]]
        return [(names[each["category_id"]], bitmap_from_rle(each["segmentation"])) for each in found]

    def categories(self) -> list[str]:
        """Names of the categories, in the order in which they came."""
        return [category["name"] for category in self._objects()["categories"]]

    def sentences(self, name: str) -> list[tuple[str, list[np.ndarray]]]:
        """(sentence, masks of what it means) of an image."""
        lines = [line for line in self._lines() if line["image"] == self._line_image(name)]
        return [(line["text"], [bitmap_from_rle(mask) for mask in line["masks"]]) for line in lines]

    def labelled(self) -> set[str]:
        """Names of the images that have objects, sentences, or the word that there are none."""
        by_path = {self._line_image(name): name for name in self.image_names()}
        return {entry["file_name"] for entry in self._objects()["images"]} | {
            by_path[line["image"]] for line in self._lines() if line["image"] in by_path
        }

    def save_objects(self, name: str, objects: Sequence[tuple[str, np.ndarray]]) -> None:
        """Writes the objects of an image in the place of those that it had; none = it has none.

        Args:
            objects: (category, mask (H, W) bool) of each.

        Raises:
            ValueError: no name, or one that prompts cannot have; an empty mask or one of another size; another program writes there.
        """
        size = self._size(name)
        for category, mask in objects:
            check_words(category)
            _check_mask(category, mask, size)
        with _SAVING, only_run(self.root):
            content = self._objects()
            ids = {category["name"]: category["id"] for category in content["categories"]}
            for category, _ in objects:
                ids.setdefault(category, max(ids.values(), default=0) + 1)
            known = {entry["file_name"]: entry["id"] for entry in content["images"]}
            image_id = known.get(name, max(known.values(), default=0) + 1)
            if name not in known:
                content["images"].append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
            others = [entry for entry in content["annotations"] if entry["image_id"] != image_id]
            first = max((entry["id"] for entry in others), default=0) + 1
            content["annotations"] = others + [
                {"id": number, "image_id": image_id, "category_id": ids[category], **_coco_mask(mask)}
                for number, (category, mask) in enumerate(objects, first)
            ]
            content["categories"] = [{"id": number, "name": category} for category, number in ids.items()]
            write_json(self.objects_file, content)

    def save_sentence(self, name: str, text: str, masks: Sequence[np.ndarray]) -> None:
        """Writes what a sentence means in an image, in the place of what it meant; no mask = nothing in the image.

        Raises:
            ValueError: as `save_objects`.
        """
        size = self._size(name)
        check_words(text)
        for mask in masks:
            _check_mask(text, mask, size)
        with _SAVING, only_run(self.root):
            image = self._line_image(name)
            lines = [line for line in self._lines() if (line["image"], line["text"]) != (image, text)]
            lines.append({"image": image, "text": text, "masks": [rle_from_bitmap(mask) for mask in masks]})
            content = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
            write_file(self.sentences_file, lambda file: file.write(content.encode("utf-8")))

    def held_out(self, share: float) -> list[str]:
        """Names of the labelled images that a share holds out, see `is_held_out`."""
        prefix = "" if self.images == "." else f"{self.images}/"
        return [name for name in sorted(self.labelled()) if is_held_out(f"{prefix}{name}", share)]

    def _line_image(self, name: str) -> str:
        return name if self.images == "." else f"{self.images}/{name}"

    def _size(self, name: str) -> tuple[int, int]:
        with Image.open(self.image_path(name)) as image:
            check_pixels(name, *image.size)
            return image.height, image.width

    def _objects(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        try:
            return json.loads(self.objects_file.read_text(encoding="utf-8")) if self.objects_file.is_file() else empty
        except ValueError as error:
            raise ValueError(f"{self.objects_file.name}: is damaged ({error}); repair it, or move it away") from error

    def _lines(self) -> list[dict[str, Any]]:
        if not self.sentences_file.is_file():
            return []
        try:
            return [json.loads(line) for line in self.sentences_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except ValueError as error:
            raise ValueError(f"{self.sentences_file.name}: is damaged ({error}); repair it, or move it away") from error


def check_words(text: str) -> None:
    """Raises ValueError for a category or sentence that a prompt cannot have."""
    if not text.strip():
        raise ValueError("an object has no name; write one into the table")
    if text.strip().lower() == "background":
        raise ValueError('"background" means "no object" in prompts; call it otherwise, such as "the background"')
    if token := next((token for token in PROMPT_TOKENS if token in text), None):
        raise ValueError(f"{text}: contains {token}, which the model reads as a special token; write it otherwise")


def _check_mask(name: str, mask: np.ndarray, size: tuple[int, int]) -> None:
    if mask.shape != size:
        raise ValueError(f"{name}: its mask is {mask.shape[0]} x {mask.shape[1]}, the image {size[0]} x {size[1]}")
    if not mask.any():
        raise ValueError(f"{name}: its mask has no pixel; draw it, or take its check mark away")


def _coco_mask(mask: np.ndarray) -> dict[str, Any]:
    x0, y0, x1, y1 = map(int, box_from_bitmap(mask))
    return {
        "segmentation": rle_from_bitmap(mask),
        "area": int(np.count_nonzero(mask)),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
    }
