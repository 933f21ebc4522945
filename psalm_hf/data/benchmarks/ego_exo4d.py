"""Ego-Exo4D correspondence: objects that are given in one view are found in another at the same time. See docs/datasets/ego_exo4d.md."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ...masks import area, bitmap_from_rle, rle_from_bitmap
from ...structures import REGION
from ..features import segment_entry
from ..files import FileConfig
from ..region_files import OracleConfig, RegionBuilder, mask_entry, object_tag, tagged_objects

FRAME_FOLDER = "processed"
DIRECTIONS = {"ego2exo": "egoexo", "exo2ego": "exoego"}  # -> part of the name of the file of pairs


class ViewPairRecord(NamedTuple):
    """Two views at one time. `objects` are those that the query view shows and that were looked for in the target view. `target` is None
    for a take without annotation file, which is a broken record."""

    take: str
    query: str | None
    target: str | None
    frame: str | None
    objects: list[str]


@dataclass
class EgoExo4DConfig(OracleConfig, FileConfig):
    """Direction, and folders of the files.

    Attributes:
        direction: "ego2exo": the regions are in the first-person view; "exo2ego": in one of the others.
        frame_folder: of takes, below `data_dir`; "." is `data_dir` itself.
        annotation_folder: folder that may hold `relations_{split}.json`, below `data_dir`.
    """

    direction: Literal["ego2exo", "exo2ego"] = "ego2exo"
    frame_folder: str = FRAME_FOLDER
    annotation_folder: str = "annotations"


class EgoExo4D(RegionBuilder):
    """Ego-Exo4D, one row per time and pair of views: the image is the target view, the regions are masks in the query view."""

    BUILDER_CONFIG_CLASS = EgoExo4DConfig
    summary = "Ego-Exo4D: objects of a first-person view, found in another view, or the other way round"
    docs_page = "Ego-Exo4D"
    splits = ("train", "val", "test")

    def annotation_files(self) -> tuple[str, ...]:
        """The list of takes; pairs and frames, if there are such files; of every take its folder, whose time changes with the views
        that have frames, and its annotations."""
        folder = self.config.frame_folder
        files = [self._split_file]
        files += [file for file in (self._pairs_file, self._relations_file) if os.path.isfile(self.path(file))]
        if os.path.isdir(self.path(folder)):
            takes = [f"{folder}/{name}" for name in sorted(os.listdir(self.path(folder)))]
            files += [take for take in takes if os.path.isdir(self.path(take))]
            files += [f"{take}/annotation.json" for take in takes if os.path.isfile(self.path(f"{take}/annotation.json"))]
        return tuple(files)

    def records(self) -> list[ViewPairRecord]:
        """Pairs of views that have frames, in the order of the takes, the views and time."""
        folder = self.config.frame_folder
        takes = self.json(self._split_file, keys=[self.config.split])[self.config.split]
        asked = self._pairs_of_file() if os.path.isfile(self.path(self._pairs_file)) else None
        records = []
        has_frames: dict[str, bool] = {}  # by the folder of a view
        for take in takes:
            if not os.path.isfile(self.path(f"{folder}/{take}/annotation.json")):
                records.append(ViewPairRecord(take, None, None, None, []))
                continue
            masks, annotated = self._take(take)["masks"], self._annotated_frames(take)
            views: dict[tuple[str, str, str], list[str]] = defaultdict(list)
            for ego, exo, name, frame in pairs_of_take(masks, self.config.direction) if asked is None else asked[take]:
                query, target = (ego, exo) if self.config.direction == "ego2exo" else (exo, ego)
                folders = [f"{folder}/{take}/{camera}" for camera in (query, target)]
                has_frames |= {view: os.path.isdir(self.path(view)) for view in folders if view not in has_frames}
                if not all(has_frames[view] for view in folders):
                    continue
                try:
                    unknown = int(frame) not in annotated[name][target] or masks[name][target].get(frame, {}) is None
                except KeyError as error:
                    raise ValueError(f"{self.title}: {folder}/{take}/annotation.json has no {error}, but its pairs or frames do") from error
                if not unknown:
                    views[query, target, frame].append(name)
            order = sorted(views, key=lambda view: (*view[:2], int(view[2])))
            records += [ViewPairRecord(take, *view, views[view]) for view in order]
        without = [view for view, found in has_frames.items() if not found]
        if without:
            print(f"{self.title}: {len(without)} views have no folder of frames and are left out, the first: {without[0]}", file=sys.stderr)
        return records

    def counts(self) -> dict[str, int]:
        """Numbers of takes, and of the pairs of masks that are asked for."""
        records = [record for record in self._records if record.target is not None]
        return {"takes": len({record.take for record in records}), "pairs": sum(len(record.objects) for record in records)}

    def describe(self, record: ViewPairRecord) -> str:
        file = f"{self.config.frame_folder}/{record.take}/annotation.json"
        return file if record.target is None else f"{file}, {record.query} to {record.target}, frame {record.frame}"

    def row(self, record: ViewPairRecord) -> dict[str, Any]:
        """Row with regions in the order of the objects in the file; an object without mask in the query view, or with an empty one, is left
        out."""
        take, query, target, frame, objects = record
        if target is None:
            raise ValueError("there is no such file, but split.json lists the take")
        folder = f"{self.config.frame_folder}/{take}"
        image, query_image = (self.image(f"{folder}/{camera}/{frame}.jpg") for camera in (target, query))
        masks = self._take(take)["masks"]
        segments, regions, tags = [], [], []
        for number, name in enumerate(masks):
            if name not in objects:
                continue
            prompt = resized(masks[name][query][frame], query_image["image_size"])
            if prompt is None:
                continue
            found = resized(masks[name][target][frame], image["image_size"]) if frame in masks[name][target] else None
            if found is None and self.config.visible_only:
                continue
            regions.append(mask_entry(prompt, None if found is None else len(segments)))
            tags.append(object_tag(name))
            if found is not None:
                segments.append(segment_entry(found, annotation_id=number))
        return {
            **image,
            "image_id": f"{take}/{target}/{frame}",
            "record_id": f"{take}/{query}_{target}/{frame}",
            "condition": REGION,
            "segments": segments,
            "regions": regions,
            "region_image": query_image["image"],
            "region_image_size": query_image["image_size"],
            "tags": tags,
        }

    def _fingerprint(self) -> str:
        fingerprint = super()._fingerprint()
        takes = self._read_json(self._split_file)
        if isinstance(takes, Mapping) and not takes.get(self.config.split):  # of anything else, `records` says what it is
            raise FileNotFoundError(self.message(f"{self.path(self._split_file)} lists no takes for {self.config.split}"))
        return fingerprint

    @property
    def _split_file(self) -> str:
        return f"{self.config.frame_folder}/split.json"

    @property
    def _pairs_file(self) -> str:
        return f"{self.config.frame_folder}/{self.config.split}_{DIRECTIONS[self.config.direction]}_pairs.json"

    @property
    def _relations_file(self) -> str:
        return f"{self.config.annotation_folder}/relations_{self.config.split}.json"

    def _take(self, take: str) -> Mapping[str, Any]:
        return self.json(f"{self.config.frame_folder}/{take}/annotation.json", keys=["masks"])

    def _annotated_frames(self, take: str) -> dict[str, dict[str, set[int]]]:
        """Frames in which each object was looked for: object -> camera -> frames. If no file tells them, those in which it was found."""
        content = self._take(take)
        found = {name: {camera: set(map(int, frames)) for camera, frames in views.items()} for name, views in content["masks"].items()}
        listed: dict[str, dict[str, set[int]]] = {}
        if "annotated_frames" in content:
            file, looked = f"{self.config.frame_folder}/{take}/annotation.json", content["annotated_frames"]
        elif os.path.isfile(self.path(self._relations_file)):
            file, looked = self._relations_file, self.json(self._relations_file, keys=["annotations"])["annotations"]
            if take not in looked:
                raise ValueError(self.message(f"{file} has no take {take}, but split.json lists it"))
            looked = looked[take]["object_masks"]
        else:
            return found
        for name, views in found.items():
            try:
                frames = {camera: looked[name][camera] for camera in views}
                listed[name] = {
                    camera: set(view["annotated_frames"] if isinstance(view, Mapping) else view) for camera, view in frames.items()
                }
            except KeyError as error:
                reason = f"there is no {error}, but {take}/annotation.json has masks of this object"
                raise ValueError(self.message(f"{file}, take {take}, object {name}: {reason}")) from error
        return listed

    def _pairs_of_file(self) -> dict[str, list[tuple[str, str, str, str]]]:
        """Pairs of every take: (ego camera, exo camera, object, frame), from paths that end in TAKE//CAMERA//OBJECT//rgb//FRAME."""
        pairs = defaultdict(list)
        for entry in self.json(self._pairs_file):
            try:
                ego_image, _, exo_image, _ = entry
                take, ego, name, _, frame = ego_image.split("//")[-5:]
                exo = exo_image.split("//")[-4]
            except (ValueError, AttributeError, IndexError) as error:
                raise ValueError(f"{self.title}: {self.path(self._pairs_file)}: {entry!r:.120} is no pair ({error})") from error
            pairs[take].append((ego, exo, name, frame))
        return pairs


@lru_cache(maxsize=2)  # rows come take by take, and a take is megabytes of JSON
def read_take(file: str | Path) -> Mapping[str, Any]:
    """`annotation.json` of a take: "masks", object -> camera -> frame -> RLE at full resolution, and "subsample_idx".

    Raises:
        ValueError: there is no such file, or it is none of a take.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file}: cannot be read ({error}), but its masks at full resolution are the target; see the docs page {EgoExo4D.docs_page}"
        ) from error
    if not isinstance(content, Mapping) or "masks" not in content:
        raise ValueError(f"{file}: expected a JSON object with 'masks'; see the docs page {EgoExo4D.docs_page}")
    return content


def pairs_of_take(masks: Mapping[str, Any], direction: str) -> Iterator[tuple[str, str, str, str]]:
    """Pairs of a take as the public script makes them: (ego camera, exo camera, object, frame) for every mask of the query camera.

    Args:
        masks: object -> camera -> frame -> mask; objects without a camera that is called "aria" have no pairs.
    """
    for name, views in masks.items():
        ego = ego_camera(views)
        if ego is None:
            continue
        for camera in views:
            if camera != ego:
                for frame in views[ego if direction == "ego2exo" else camera]:
                    yield ego, camera, name, frame


def ego_camera(cameras: Iterable[str]) -> str | None:
    """First-person camera among some; None if there is none.

    Raises:
        ValueError: there are several.
    """
    found = [camera for camera in cameras if "aria" in camera]
    if len(found) > 1:
        raise ValueError(f"expected one first-person camera, got {', '.join(found)}")
    return found[0] if found else None


def resized(rle: Mapping[str, Any] | None, image_size: tuple[int, int]) -> dict | None:
    """Mask of full resolution at the size of its frame (height, width), by the nearest pixel as in OpenCV, which rounds coordinates down.
    None if no pixel is left, or if the mask could not be decoded when the file was made."""
    if rle is None or not area(rle):
        return None
    bitmap = bitmap_from_rle(rle)
    rows, columns = (np.arange(new) * old // new for new, old in zip(image_size, bitmap.shape, strict=True))
    bitmap = bitmap[rows[:, None], columns]
    return rle_from_bitmap(bitmap) if bitmap.any() else None


class Place(NamedTuple):
    """Place of a prediction in the file of predictions. `views` is "QUERY_TARGET"."""

    take: str
    object: str
    views: str
    frame: str


def places_of(record_id: str, tags: Iterable[str]) -> list[Place]:
    """Places of the predictions for a row of Ego-Exo4D, in the order of its regions."""
    take, views, frame = record_id.rsplit("/", 2)
    return [Place(take, name, views, frame) for name in tagged_objects(tags)]
