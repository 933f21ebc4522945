"""Predictions for which no benchmark prescribes a file: a line of JSON per row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.features import SampleDataset
from ...structures import Sample
from .reading import finite_number, json_lines, read_id, read_list, read_text_value, shown, sized_mask

_FILE = "predictions.jsonl"


class JsonLines:
    """`predictions.jsonl`: `{"image_id", "record_id", ...}` and the fields of the prediction, one line per row.

    An expression: `"mask"` (COCO RLE), `"score"`, `"no_target"`; its instances: `"masks"` and `"scores"`, best first, and `"number"`,
    of the first ones, which are the set; regions: `"masks"` and `"scores"`, in the order of the regions; questions about shapes: `"text"`.

    Args:
        fields: names of those of a prediction.
    """

    def __init__(self, fields: tuple[str, ...]):
        self.fields = fields
        self.expected = ", ".join(("image_id", "record_id", *fields))

    def write(self, folder: Path, predictions: Iterable[tuple[Sample, Any]]) -> None:
        """Line by line."""
        with (folder / _FILE).open("w", encoding="utf-8") as file:
            for sample, prediction in predictions:
                file.write(json.dumps({"image_id": str(sample.image_id), "record_id": sample.record_id, **prediction}) + "\n")

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> prediction.

        Args:
            path: the file, or the folder that it lies in.

        Raises:
            ValueError: the file does not hold exactly the rows of the dataset, or a line is none of this format; the message names it.
        """
        path = path / _FILE if path.is_dir() else path
        keys = zip(dataset.rows["image_id"], dataset.rows["record_id"], strict=True)
        rows = {key: row for row, key in enumerate(keys)}
        sizes = dataset.rows["image_size"]
        predictions: dict[int, Any] = {}
        for entry, item in json_lines(path):
            if not isinstance(entry, Mapping) or not {"image_id", "record_id", *self.fields} <= entry.keys():
                raise ValueError(f"{item}: expected a JSON object with {self.expected}, got {shown(entry)}")
            key = (read_id(entry["image_id"], f"{item}, image_id"), _record_id(entry["record_id"], item))
            if key not in rows:
                raise ValueError(f"{item}: image {key[0]!r}, record {key[1]!r} is none of the {len(rows)} rows measured")
            if rows[key] in predictions:
                raise ValueError(f"{item}: image {key[0]!r}, record {key[1]!r} was there before; give one line per row")
            size = sizes[rows[key]]
            predictions[rows[key]] = {field: _READERS[field](entry[field], size, f"{item}, image {key[0]}") for field in self.fields}
        if missing := rows.keys() - {key for key, row in rows.items() if row in predictions}:
            image_id, record_id = min(missing, key=rows.__getitem__)
            raise ValueError(f"{path}: no prediction for {len(missing)} rows, such as image {image_id!r}, record {record_id!r}")
        return predictions


def _record_id(value: Any, item: str) -> str | None:
    return None if value is None else read_id(value, f"{item}, record_id")


def _read_flag(value: Any, size: Sequence[int], item: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{item}, no_target: expected true or false, got {shown(value)}")
    return value


def _read_count(value: Any, size: Sequence[int], item: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{item}, number: expected a whole number of at least 0, got {shown(value)}")
    return value


def _read_masks(values: Any, size: Sequence[int], item: str) -> list[dict]:
    return [sized_mask(value, size, f"{item}, region {index}") for index, value in enumerate(read_list(values, f"{item}, masks", "masks"))]


def _read_scores(values: Any, size: Sequence[int], item: str) -> list[float]:
    return [finite_number(value, f"{item}, region {index}") for index, value in enumerate(read_list(values, f"{item}, scores", "scores"))]


# Field of a prediction -> how it is read: value, (height, width) of the image, place.
_READERS: dict[str, Callable[[Any, Sequence[int], str], Any]] = {
    "mask": lambda value, size, item: sized_mask(value, size, f"{item}, mask"),
    "masks": _read_masks,
    "score": lambda value, size, item: finite_number(value, f"{item}, score"),
    "scores": _read_scores,
    "no_target": _read_flag,
    "number": _read_count,
    "text": lambda value, size, item: read_text_value(value, item),
}
