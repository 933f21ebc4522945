"""Panoptic segmentation, in the files that panopticapi takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...data.features import Category, SampleDataset
from ...data.segment_map import read_segment_map, rles_from_segment_map
from ...metrics import label_map
from ...metrics.base import errors_of
from ...structures import Sample
from .images import ImageRow, check_map_size, file_stem, image_rows, json_id, write_entries
from .reading import file_inside, finite_number, read_id, read_json

_FILE, _FOLDER = "predictions.json", "png"


class PanopticFiles:
    """`predictions.json` and a folder `png` with one PNG file per image, whose colours R + 256 G + 65536 B are the ids of segments.

    The JSON file has, under "annotations", `{"image_id", "file_name", "segments_info": [{"id", "category_id", "score"}]}` per image. Scores
    are ours; panopticapi reads none. Its folder of PNG files is given with `--pred_folder`.
    """

    def __init__(self, categories: Sequence[Category]):
        self.category_ids = {category.id for category in categories}

    def write(self, folder: Path, predictions: Iterable[tuple[Sample, Any]]) -> None:
        """Image by image.

        Raises:
            ValueError: masks of an image overlap, are of another size, or empty.
        """
        (folder / _FOLDER).mkdir(exist_ok=True)
        with (folder / _FILE).open("w", encoding="utf-8") as file:
            file.write('{"annotations": ')
            write_entries(file, (self._write_image(folder / _FOLDER, *pair) for pair in predictions))
            file.write("}\n")

    def _write_image(self, folder: Path, sample: Sample, prediction: Mapping[str, Any]) -> dict[str, Any]:
        numbered = dict(enumerate(prediction["segments"], 1))
        with errors_of(f"image {sample.image_id}"):
            ids = label_map([segment["mask"] for segment in numbered.values()], list(numbered), sample.image_size, fill=0)
        if empty := numbered.keys() - set(np.unique(ids).tolist()):
            raise ValueError(f"image {sample.image_id}: segments {sorted(empty)} have no pixel, which evaluators refuse; leave them out")
        colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        name = f"{file_stem(str(sample.image_id))}.png"
        Image.fromarray(colours).save(folder / name)
        infos = [{"id": id, "category_id": segment["category_id"], "score": segment["score"]} for id, segment in numbered.items()]
        return {"image_id": json_id(str(sample.image_id)), "file_name": name, "segments_info": infos}

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> prediction.

        Args:
            path: the JSON file, or the folder that it lies in. The PNG files lie beside it in a folder `png`, or in one with the file's own
                name, as panopticapi expects them.

        Raises:
            ValueError: no such files; images or categories that the dataset does not have; an image twice, or without prediction; a map
                of another size; ids that are not in both, the image and the list.
        """
        path = path / _FILE if path.is_dir() else path
        content = read_json(path)
        if not isinstance(content, Mapping) or not isinstance(content.get("annotations"), list):
            raise ValueError(f"{path}: expected an object with a list 'annotations', the format of panopticapi")
        folder = path.with_suffix("") if path.with_suffix("").is_dir() else path.parent / _FOLDER
        rows = image_rows(dataset)
        predictions: dict[int, Any] = {}
        for number, entry in enumerate(content["annotations"]):
            if not isinstance(entry, Mapping) or not {"image_id", "file_name", "segments_info"} <= entry.keys():
                raise ValueError(f"{path}, annotation {number}: expected 'image_id', 'file_name' and 'segments_info', got {entry!r:.80}")
            image_id = read_id(entry["image_id"], f"{path}, annotation {number}, image_id")
            item = f"{path}, image {image_id}"
            if (found := rows.get(image_id)) is None:
                raise ValueError(f"{item}: is none of the {len(rows)} images of the dataset")
            if found.row in predictions:
                raise ValueError(f"{item}: is there twice")
            file = file_inside(folder, entry["file_name"], f"{item}, file_name")
            predictions[found.row] = {"segments": self._read_segments(file, entry["segments_info"], found, item)}
        if missing := [image_id for image_id, image in rows.items() if image.row not in predictions]:
            raise ValueError(f"{path}: no prediction for {len(missing)} of {len(rows)} images, such as {missing[0]}; every image needs one")
        return predictions

    def _read_segments(self, path: Path, infos: Any, image: ImageRow, item: str) -> list[dict[str, Any]]:
        if not isinstance(infos, list) or not all(isinstance(info, Mapping) and {"id", "category_id"} <= info.keys() for info in infos):
            raise ValueError(f"{item}: segments_info must be a list of {{'id', 'category_id'}}, got {infos!r:.80}")
        for info in infos:
            for key in ("id", "category_id"):
                if not isinstance(info[key], int) or isinstance(info[key], bool):
                    raise ValueError(f"{item}: expected a whole number as {key} of a segment, got {info[key]!r:.80}")
        ids = [info["id"] for info in infos]
        if unknown := {info["category_id"] for info in infos} - self.category_ids:
            raise ValueError(f"{item}: category ids {sorted(unknown)} are none of the {len(self.category_ids)} of the dataset")
        segment_map = read_segment_map(path)
        check_map_size(segment_map.shape, image.size, str(path))
        in_map = set(np.unique(segment_map).tolist()) - {0}
        if len(set(ids)) < len(ids) or in_map != set(ids):
            wrong = sorted(in_map ^ set(ids)) or ids
            raise ValueError(f"{item}: ids {wrong[:10]} are not once in both, {path.name} and segments_info")
        masks = rles_from_segment_map(segment_map, [[id] for id in ids])
        # Without scores all segments are equally sure.
        scores = [finite_number(info.get("score", 1.0), f"{item}, segment {info['id']}") for info in infos]
        return [
            {"category_id": info["category_id"], "score": score, "mask": mask}
            for info, score, mask in zip(infos, scores, masks, strict=True)
        ]
