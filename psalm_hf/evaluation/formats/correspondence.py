"""Objects in another view, in the file that the correspondence benchmark of Ego-Exo4D takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...data.benchmarks.ego_exo4d import DIRECTIONS, Place, pairs_of_take, places_of, read_take
from ...data.features import SampleDataset
from ...masks import bitmap_from_rle, compress_rle, rle_from_bitmap
from ...metrics import compared_size, resize_nearest
from ...structures import Sample
from .reading import finite_number, read_json, read_text_value, shown

_TOP_KEYS = {"ego2exo": "ego-exo", "exo2ego": "exo-ego"}
ANYTHING = (480, 480)  # size of the empty mask where the target camera has no annotation, so that no evaluator looks at it


class CorrespondenceFile:
    """`ego-exo_predictions.json` or `exo-ego_predictions.json`: `{"ego-exo": {"results": {TAKE: {"masks": {OBJECT: {QUERY_TARGET: {FRAME:
    {"pred_mask": RLE, "confidence": float}}}}, "subsample_idx": [...]}}}}`.

    Masks are written at the size at which they are compared, a longer side of 480 pixels; others are resized by the nearest pixel. The
    evaluator demands every take, object, pair of views and frame in which the query view has a mask, also those that it does not judge.

    Args:
        folder: of the takes and of `split.json`.
        split: whose takes.
        direction: "ego2exo" or "exo2ego".
    """

    def __init__(self, folder: Path | str, split: str, direction: str = "ego2exo"):
        if direction not in DIRECTIONS:
            raise ValueError(f"unknown direction {direction!r}, expected one of {', '.join(DIRECTIONS)}")
        self.folder, self.direction, self.top_key = Path(folder), direction, _TOP_KEYS[direction]
        takes = read_json(self.folder / "split.json")
        if not isinstance(takes, Mapping) or not isinstance(takes.get(split), list):
            raise ValueError(f"{self.folder / 'split.json'}: expected an object with the takes of {split!r}, got {shown(takes)}")
        self.takes: list[str] = [read_text_value(take, str(self.folder / "split.json"), "take") for take in takes[split]]

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.top_key}_predictions.json"

    def write(self, folder: Path, predictions: Iterable[tuple[Sample, Any]]) -> None:
        """One file; an empty mask with confidence 0 where there is no prediction.

        Raises:
            ValueError: a prediction that the file has no place for, or with another number of masks than there are regions.
        """
        results, places = self._empty_results()
        for sample, prediction in predictions:
            own = places_of(sample.record_id, sample.tags)
            if not len(own) == len(prediction["masks"]) == len(prediction["scores"]):
                raise ValueError(
                    f"image {sample.image_id}: {len(prediction['masks'])} masks and {len(prediction['scores'])} scores "
                    f"for {len(own)} objects"
                )
            for place, rle, score in zip(own, prediction["masks"], prediction["scores"], strict=True):
                if place not in places:
                    raise ValueError(f"image {sample.image_id}: {' / '.join(place)} is not in the annotations; give the folder of its rows")
                mask = resize_nearest(bitmap_from_rle(rle), compared_size(sample.image_size))
                places[place].update(pred_mask=rle_from_bitmap(mask), confidence=float(score))
        content = {"version": "1.0", "challenge": "correspondence", self.top_key: {"results": results}}
        (folder / self.file).write_text(json.dumps(content), encoding="utf-8")

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> prediction; masks as they are in the file.

        Args:
            path: the file, or the folder that it lies in.

        Raises:
            ValueError: no such file, predictions that the annotations have no place for or that are missing, a mask of another size than is
                compared. The message names the take, object, views and frame.
        """
        path = path / self.file if path.is_dir() else path
        found = dict(self._predictions(path))
        expected = self._empty_results()[1]
        if unknown := found.keys() - expected.keys():
            raise ValueError(f"{path}: {len(unknown)} predictions for what is not asked, such as {' / '.join(min(unknown))}")
        if missing := expected.keys() - found.keys():
            raise ValueError(
                f"{path}: {len(missing)} predictions are missing, such as {' / '.join(min(missing))}; the evaluator demands all: give an "
                f"empty mask with confidence 0"
            )
        predictions: dict[int, Any] = {}
        for index, row in enumerate(dataset.rows):
            size = compared_size(tuple(row["image_size"]))
            entries = []
            for place in places_of(row["record_id"], row["tags"]):
                if place not in found:
                    raise ValueError(f"{path}: nothing for {' / '.join(place)}; the rows are of another direction or split")
                entries.append(_checked(found[place], size, f"{path}: {' / '.join(place)}"))
            predictions[index] = {"masks": [mask for mask, _ in entries], "scores": [score for _, score in entries]}
        return predictions

    def _empty_results(self) -> tuple[dict[str, Any], dict[Place, dict[str, Any]]]:
        """The content of a file without predictions, and where in it each prediction stands."""
        results, places = {}, {}
        for take in self.takes:
            content = read_take(self.folder / take / "annotation.json")
            masks = content["masks"]
            annotated = ((camera, rle) for views in masks.values() for camera, frames in views.items() for rle in frames.values())
            sizes = {camera: tuple(rle["size"]) for camera, rle in annotated if rle is not None}
            entries: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in masks}
            for ego, exo, name, frame in pairs_of_take(masks, self.direction):
                query, target = (ego, exo) if self.direction == "ego2exo" else (exo, ego)
                empty = rle_from_bitmap(np.zeros(compared_size(sizes[target]) if target in sizes else ANYTHING))
                entry = {"pred_mask": empty, "confidence": 0.0}
                entries[name].setdefault(f"{query}_{target}", {})[frame] = entry
                places[Place(take, name, f"{query}_{target}", frame)] = entry
            results[take] = {"masks": entries, "subsample_idx": content.get("subsample_idx", [])}
        return results, places

    def _predictions(self, path: Path) -> Iterator[tuple[Place, Any]]:
        try:
            content = read_json(path)
        except ValueError as error:
            raise ValueError(f"{path}: expected predictions in JSON ({error})") from error
        try:
            for take, result in content[self.top_key]["results"].items():
                for name, pairs in result["masks"].items():
                    for views, frames in pairs.items():
                        for frame, entry in frames.items():
                            yield Place(take, name, views, frame), entry
        except (KeyError, TypeError, AttributeError) as error:
            form = "results > take > masks > object > views > frame > prediction"
            raise ValueError(f"{path}: expected JSON objects {self.top_key} > {form} ({error!r})") from error


def _checked(entry: Any, size: tuple[int, int], item: str) -> tuple[dict, float]:
    """Mask and confidence of a prediction."""
    if not isinstance(entry, Mapping) or not {"pred_mask", "confidence"} <= entry.keys():
        raise ValueError(f"{item}: expected {{'pred_mask': RLE, 'confidence': number}}, got {shown(entry)}")
    rle, confidence = entry["pred_mask"], finite_number(entry["confidence"], item, "confidence")
    found = tuple(rle["size"]) if isinstance(rle, Mapping) and isinstance(rle.get("size"), list) else size
    if len(found) == 2 and found != size:  # before anything as large as a wrong size says is decoded
        raise ValueError(f"{item}: the mask is of size {shown(found)}, but is compared at {size}")
    try:
        return compress_rle(rle), confidence
    except (ValueError, TypeError) as error:
        raise ValueError(f"{item}: {error}") from error
