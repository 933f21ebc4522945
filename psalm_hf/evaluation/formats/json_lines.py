"""Predictions for which no benchmark prescribes a file: a line of JSON per row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...data.features import SampleDataset
from ...structures import Sample

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
        predictions: dict[int, Any] = {}
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                key, prediction = self._prediction(line, f"{path}, line {number}")
                if key not in rows:
                    raise ValueError(f"{path}, line {number}: image {key[0]!r}, record {key[1]!r} is none of the {len(rows)} rows measured")
                if rows[key] in predictions:
                    raise ValueError(f"{path}, line {number}: image {key[0]!r}, record {key[1]!r} was there before; give one line per row")
                predictions[rows[key]] = prediction
        if missing := rows.keys() - {key for key, row in rows.items() if row in predictions}:
            image_id, record_id = min(missing, key=rows.__getitem__)
            raise ValueError(f"{path}: no prediction for {len(missing)} rows, such as image {image_id!r}, record {record_id!r}")
        return predictions

    def _prediction(self, line: str, item: str) -> tuple[tuple[str, str | None], Any]:
        try:
            entry = json.loads(line)
            return (entry["image_id"], entry["record_id"]), {field: entry[field] for field in self.fields}
        except (ValueError, TypeError, KeyError) as error:
            expected = ", ".join(("image_id", "record_id", *self.fields))
            raise ValueError(f"{item}: expected a JSON object with {expected}, got {line!r:.60} ({error!r})") from error
