"""COCO-Interactive: objects of COCO that are meant by a point, a scribble, a box or a mask. See docs/datasets/coco_interactive.md.

The prompts are drawn from the instance annotations while the rows are made, or read from a file: the published one, or one of
`psalm prepare coco_interactive`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...masks import area, bitmap_from_rle, rle_from_bitmap
from ...structures import REGION, REGION_KINDS, Region, RegionKind
from ..features import region_entry, segment_entry
from ..files import FileConfig, mask
from ..region_files import RegionBuilder
from ..visual_prompts import Rules, draw_prompt
from .coco import ImageRecord, image_name, image_records
from .released_masks import Rasterisation, released_interactive_mask


@dataclass
class CocoInteractiveConfig(FileConfig):
    """Prompts: drawn by rules, or read from a file.

    Attributes:
        kind: of all prompts: "point", "scribble", "box" or "mask"; None, for training only: drawn for every object.
        source: "generated": prompts are drawn from `annotations/instances_*2017.json`; "psalm_json": they are read from a file.
        rules: rules by which prompts are drawn, "paper" or "released", see docs/visual_prompts.md; a file has its own.
        seed: of the drawn prompts, at least 0.
        file: file with prompts, below `data_dir`; None = `coco_interactive_{split}_psalm.json`.
        rasterisation: of the objects; prompts are drawn on the exact masks. "exact": as pycocotools does; "released": as the released
            evaluation, see `released_interactive_mask`.
    """

    kind: Literal[RegionKind, None] = None
    source: Literal["generated", "psalm_json"] = "generated"
    rules: Rules = "paper"
    seed: int = 0
    file: str | None = None
    rasterisation: Rasterisation = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind is None and self.split != "train":
            raise ValueError(
                f"{self.name} {self.split}: give the kind of the prompts, one of {', '.join(REGION_KINDS)}; results are per kind"
            )
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"{self.name}: seed must be an integer of at least 0, got {self.seed!r}")
        if self.file is not None and self.source == "generated":
            raise ValueError(f"{self.name}: a file of prompts was given, {self.file}; give source='psalm_json' with it")


class CocoInteractive(RegionBuilder):
    """COCO-Interactive, one row per image: its objects without crowds, and one prompt for each. Objects without a prompt of that kind are
    left out. (Segments keep their category id, though only masks matter.)"""

    BUILDER_CONFIG_CLASS = CocoInteractiveConfig
    summary = "COCO-Interactive: objects of COCO meant by points, scribbles, boxes or masks"
    docs_page = "COCO-Interactive"
    published = {"train": {"images": 117_266}, "val": {"images": 4_952}}

    @property
    def file(self) -> str:
        if self.config.source == "generated":
            return f"annotations/instances_{self.config.split}2017.json"
        return self.config.file or f"coco_interactive_{self.config.split}_psalm.json"

    def records(self) -> list[ImageRecord]:
        """Images with annotations, in the order of the file."""
        if self.config.source == "generated":
            content = self.json(self.file, keys=("images", "annotations"))
            return images_with_annotations(content["images"], content["annotations"])
        content = self.json(self.file)
        if not isinstance(content, list) or not all(isinstance(item, Mapping) for item in content):
            raise ValueError(self.message(f"{self.path(self.file)} is no list of images with prompts"))
        return [ImageRecord(item.get("image_info"), item.get("anns", [])) for item in content]

    def counts(self) -> dict[str, int]:
        """Numbers of images with annotations, and of annotations that are no crowd."""
        records = [record for record in self._records if record.image is not None]
        return {
            "images": len(records),
            "annotations": sum(not annotation.get("iscrowd") for record in records for annotation in record.annotations),
        }

    def describe(self, record: ImageRecord) -> str:
        return image_name(self.file, record)

    def row(self, record: ImageRecord) -> dict[str, Any]:
        """Row of the objects that have a prompt, and of the prompts in the same order."""
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
            segments.append(segment_entry(rle, annotation["category_id"], annotation_id=annotation["id"]))
        return {
            **self.image(f"{self.config.split}2017/{image['file_name']}", size),
            "image_id": str(image["id"]),
            "condition": REGION,
            "segments": segments,
            "regions": regions,
        }

    def prompt(self, annotation: Mapping[str, Any], rle: dict) -> Region | None:
        """Prompt of an object; None if it has none. A drawn kind is one of those that the object has."""
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
    """Records of the images that have annotations, in the order of `images`; at the end, annotations of images that are not listed."""
    return [record for record in image_records(images, annotations) if record.annotations]


def kinds_at_random(seed: int, annotation_id: int) -> list[RegionKind]:
    """Kinds of regions in random order: each is as likely to be the first. The order depends on seed and id alone."""
    # 4 is the number of no kind, so these are not the random numbers of a prompt; see `prompt_generator`.
    order = np.random.default_rng([seed, len(REGION_KINDS), annotation_id]).permutation(len(REGION_KINDS))
    return [REGION_KINDS[position] for position in order]


def annotation_with_prompts(annotation: Mapping[str, Any], image_size: tuple[int, int], *, rules: Rules, seed: int) -> dict[str, Any]:
    """Copy of a COCO annotation with its prompts of all kinds, in the form of the published file.

    Args:
        image_size: (height, width).

    Returns:
        Annotation with one more key for every kind: `{kind}_visual_prompt_mask`, an RLE of the image size, without pixels if there is no
        prompt; or, for prompts of the rules "paper" that are coordinates, `{kind}_visual_prompt_points`, a list of [x, y], maybe empty.

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
    """Prompt of one kind, from an annotation of `annotation_with_prompts` or the published file; None if it is empty.

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
