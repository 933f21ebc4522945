"""COCO-Interactive: objects of COCO that are meant by a point, a scribble, a box or a mask. See docs/datasets/coco_interactive.md.

The prompts are drawn from the instance annotations while the rows are made, or read from a file: the published one, or one of
`psalm prepare coco_interactive`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...masks import area, bitmap_from_rle, rle_from_bitmap
from ...structures import REGION_KINDS, Region, RegionKind
from ..features import Category
from ..files import FileConfig, mask
from ..region_files import RegionBuilder, region_entry
from ..visual_prompts import RULES, Rules, draw_prompt
from .coco import ImageRecord
from .released_masks import RASTERISATIONS, released_interactive_mask

SOURCES = ("generated", "psalm_json")


@dataclass
class CocoInteractiveConfig(FileConfig):
    """How the prompts are made, or where they are.

    Attributes:
        kind: of all prompts: "point", "scribble", "box" or "mask"; None, for training only: drawn for every object.
        source: "generated": drawn from `annotations/instances_*2017.json`; "psalm_json": read from a file with prompts.
        rules: by which prompts are drawn, "paper" or "released", see docs/visual_prompts.md; a file has its own.
        seed: of what is drawn.
        file: with prompts, below `data_dir`; None = `coco_interactive_{split}_psalm.json`.
        rasterisation: of the objects; prompts are drawn on the exact masks. "exact": as pycocotools does; "released": as the released
            evaluation, see `released_interactive_mask`.
    """

    kind: RegionKind | None = None
    source: str = "generated"
    rules: Rules = "paper"
    seed: int = 0
    file: str | None = None
    rasterisation: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, value, allowed in (
            ("kind", self.kind, (*REGION_KINDS, None)),
            ("source", self.source, SOURCES),
            ("rules", self.rules, RULES),
            ("rasterisation", self.rasterisation, RASTERISATIONS),
        ):
            if value not in allowed:
                raise ValueError(f"{self.name}: unknown {option} {value!r}, expected one of {', '.join(map(str, allowed))}")
        if self.kind is None and self.split != "train":
            raise ValueError(
                f"{self.name} {self.split}: give the kind of the prompts, one of {', '.join(REGION_KINDS)}; results are per kind"
            )
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"{self.name}: seed must be an integer of at least 0, got {self.seed!r}")
        if self.file is not None and self.source == "generated":
            raise ValueError(f"{self.name}: a file of prompts was given, {self.file}; give source='psalm_json' with it")


class CocoInteractive(RegionBuilder):
    """One row per image: its objects without crowds, and one prompt for each. Objects without a prompt of that kind are left out."""

    BUILDER_CONFIG_CLASS = CocoInteractiveConfig
    docs_page = "COCO-Interactive"
    published = {"train": {"images": 117_266}, "val": {"images": 4_952}}

    @property
    def file(self) -> str:
        """The annotation file, below `data_dir`."""
        if self.config.source == "generated":
            return f"annotations/instances_{self.config.split}2017.json"
        return self.config.file or f"coco_interactive_{self.config.split}_psalm.json"

    def annotation_files(self) -> tuple[str, ...]:
        """The JSON file."""
        return (self.file,)

    def read_categories(self) -> tuple[Category, ...]:
        """None: only masks matter. (Segments keep their category id.)"""
        return ()

    def records(self) -> list[ImageRecord]:
        """Images with annotations, in the order of the file."""
        if self.config.source == "generated":
            content = self.json(self.file, keys=("images", "annotations"))
            return images_with_annotations(content["images"], content["annotations"])
        content = self.json(self.file)
        if not isinstance(content, list) or not all(isinstance(item, Mapping) for item in content):
            raise ValueError(
                f"{self.title}: {self.path(self.file)} is no list of images with prompts; see the docs page {self.docs_page} for what it is"
            )
        return [ImageRecord(item.get("image_info"), item.get("anns", [])) for item in content]

    def counts(self) -> dict[str, int]:
        """Images with annotations, and annotations that are no crowd."""
        records = [record for record in self._records if record.image is not None]
        return {
            "images": len(records),
            "annotations": sum(not annotation.get("iscrowd") for record in records for annotation in record.annotations),
        }

    def describe(self, record: ImageRecord) -> str:
        """The file and the image id."""
        return f"{self.file}, image {record.annotations[0]['image_id'] if record.image is None else record.image['id']}"

    def row(self, record: ImageRecord) -> dict[str, Any]:
        """The objects that have a prompt, and these in the same order."""
        image, annotations = record
        if image is None:
            raise ValueError(f"{len(annotations)} annotations are of this image, but the file does not describe it")
        size = image["height"], image["width"]
        segments, regions = [], []
        for annotation in annotations:
            if annotation.get("iscrowd"):
                continue
            try:
                rle = mask(annotation["segmentation"], size)
                region = self.prompt(annotation, rle)
                if self.config.rasterisation == "released" and region is not None:
                    rle = released_interactive_mask(annotation["segmentation"], size)
            except ValueError as error:
                raise ValueError(f"annotation {annotation.get('id')}: {error}") from error
            if region is None:
                continue
            regions.append(region_entry(region, segment=len(segments)))
            segments.append({"mask": rle, "category_id": annotation["category_id"], "is_crowd": False, "annotation_id": annotation["id"]})
        return {
            **self.picture(f"{self.config.split}2017/{image['file_name']}", size),
            "image_id": str(image["id"]),
            "condition": "region",
            "segments": segments,
            "regions": regions,
        }

    def prompt(self, annotation: Mapping[str, Any], rle: dict) -> Region | None:
        """The prompt of an object; None if it has none. Where the kind is drawn, it is one of those that the object has."""
        kinds = kinds_at_random(self.config.seed, annotation["id"]) if self.config.kind is None else [self.config.kind]
        bitmap = bitmap_from_rle(rle) if self.config.source == "generated" else None
        for kind in kinds:
            if bitmap is None:
                region = stored_prompt(annotation, kind, rle["size"])
            else:
                region = draw_prompt(bitmap, kind, seed=self.config.seed, annotation_id=annotation["id"], rules=self.config.rules)
            if region is not None:
                return region
        return None


def images_with_annotations(images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]) -> list[ImageRecord]:
    """In the order of `images`; at the end, annotations of images that are not listed."""
    of_image = defaultdict(list)
    for annotation in annotations:
        of_image[annotation.get("image_id")].append(annotation)
    records = [ImageRecord(image, of_image.pop(image["id"])) for image in images if image.get("id") in of_image]
    return records + [ImageRecord(None, orphans) for orphans in of_image.values()]


def kinds_at_random(seed: int, annotation_id: int) -> list[RegionKind]:
    """All kinds in an order that depends on seed and id only: the first is as likely to be one as another."""
    # 4 is the number of no kind, so these are not the random numbers of a prompt; see `prompt_generator`.
    order = np.random.default_rng([seed, len(REGION_KINDS), annotation_id]).permutation(len(REGION_KINDS))
    return [REGION_KINDS[position] for position in order]


def annotation_with_prompts(annotation: Mapping[str, Any], image_size: tuple[int, int], *, rules: Rules, seed: int) -> dict[str, Any]:
    """A copy of a COCO annotation, with its prompts of all kinds as the published file has them.

    Args:
        image_size: (height, width).

    Returns:
        For every kind either `{kind}_visual_prompt_mask`, an RLE of the image size without pixels if there is no prompt; or, of rules
        "paper" where prompts are coordinates, `{kind}_visual_prompt_points`, a list of [x, y] that may be empty.

    Raises:
        ValueError: the segmentation is no mask of this size.
    """
    bitmap = bitmap_from_rle(mask(annotation["segmentation"], image_size))
    prompts = {}
    for kind in REGION_KINDS:
        region = draw_prompt(bitmap, kind, seed=seed, annotation_id=annotation["id"], rules=rules)
        if rules == "paper" and kind != "mask":
            prompts[f"{kind}_visual_prompt_points"] = [list(point) for point in region.points] if region else []
        else:
            prompts[f"{kind}_visual_prompt_mask"] = region.mask_rle if region else rle_from_bitmap(np.zeros(image_size, dtype=bool))
    return {**annotation, **prompts}


def stored_prompt(annotation: Mapping[str, Any], kind: RegionKind, image_size: Sequence[int]) -> Region | None:
    """The prompt of one kind of an annotation of `annotation_with_prompts` or the published file; None if it is empty.

    Args:
        image_size: (height, width).

    Raises:
        KeyError: there is no such field.
        ValueError: it is no prompt, or one of another size.
    """
    points = annotation.get(f"{kind}_visual_prompt_points")
    if points is not None:
        return Region(kind, points=tuple(map(tuple, points))) if points else None
    rle = mask(annotation[f"{kind}_visual_prompt_mask"], tuple(image_size))
    return Region(kind, mask_rle=rle) if area(rle) else None
