"""Instance segmentation, in the results file of COCO and LVIS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.features import Category, SampleDataset
from ...structures import Sample
from .images import image_rows, json_id, write_entries
from .reading import finite_number, read_category, read_id, read_json, read_list, sized_mask

_FILE = "results.json"
KEYS = ("image_id", "category_id", "segmentation", "score")


class CocoResults:
    """`results.json`: the list `[{"image_id", "category_id", "segmentation": RLE, "score"}]`; an image without instances is not in it.

    Image ids are numbers where they are written as numbers.
    """

    def __init__(self, categories: Sequence[Category]):
        self.category_ids = {category.id for category in categories}

    def write(self, folder: Path, predictions: Iterable[tuple[Sample, Any]]) -> None:
        """One instance per line."""
        entries = (
            {
                "image_id": json_id(str(sample.image_id)),
                "category_id": instance["category_id"],
                "segmentation": instance["mask"],
                "score": instance["score"],
            }
            for sample, prediction in predictions
            for instance in prediction["instances"]
        )
        with (folder / _FILE).open("w", encoding="utf-8") as file:
            write_entries(file, entries)

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> prediction, the surest instance first; equally sure ones in the order of the file, which evaluators keep.

        If the first entry has a box, all have one, and instances have its "area": pycocotools and lvis-api count a false prediction in the
        sizes that its BOX belongs to then. (The boxes of some tools are all zero; leave them out.)

        Args:
            path: the file, or the folder that it lies in.

        Raises:
            ValueError: no such list; images or categories that the dataset does not have; a mask of another size; a score that is no
                finite number.
        """
        path = path / _FILE if path.is_dir() else path
        entries = read_json(path)
        if not isinstance(entries, list):
            raise ValueError(f"{path}: expected a list of results, got {type(entries).__name__}")
        rows = image_rows(dataset)
        has_boxes = bool(entries and isinstance(entries[0], Mapping) and entries[0].get("bbox"))
        keys = (*KEYS, "bbox") if has_boxes else KEYS
        found: dict[int, list[dict[str, Any]]] = {image.row: [] for image in rows.values()}
        for number, entry in enumerate(entries):
            if not isinstance(entry, Mapping) or not set(keys) <= entry.keys():
                raise ValueError(f"{path}, entry {number}: expected {', '.join(keys)}, got {entry!r:.80}")
            image_id = read_id(entry["image_id"], f"{path}, entry {number}, image_id")
            item = f"{path}, entry {number}, image {image_id}"
            if (image := rows.get(image_id)) is None:
                raise ValueError(f"{item}: is none of the {len(rows)} images of the dataset")
            category_id, score = read_category(entry["category_id"], self.category_ids, item), finite_number(entry["score"], item)
            instance = {"category_id": category_id, "score": score, "mask": sized_mask(entry["segmentation"], image.size, item)}
            if has_boxes:
                instance["area"] = _box_area(entry["bbox"], item)
            found[image.row].append(instance)
        return {row: {"instances": sorted(instances, key=lambda instance: -instance["score"])} for row, instances in found.items()}


def _box_area(box: Any, item: str) -> float:
    """Area of a box (x, y, width, height)."""
    if len(read_list(box, item, "numbers as bbox")) != 4:
        raise ValueError(f"{item}: expected a bbox [x, y, width, height], got {box!r:.80}")
    _, _, width, height = (finite_number(value, item, "bbox [x, y, width, height]") for value in box)
    if width < 0 or height < 0:
        raise ValueError(f"{item}: expected a bbox [x, y, width, height] that is not negative, got {box!r:.80}")
    return width * height
