"""COCO average precision of instance masks."""

from __future__ import annotations

import contextlib
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..masks import area, compress_rle, rle_from_bitmap
from ..structures import Segment
from .base import InstanceMetric
from .object_size import COCO_SIZES
from .overlap import Mask, bitmap

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass
class MaskAP(InstanceMetric):
    """AP and AR of instance segmentation. pycocotools computes them; here predictions and targets are only gathered.

    Attributes:
        area_ranges: name -> (lowest, highest) area in pixels, BOTH included, of the objects in "AP-<name>".
        max_detections: how many predictions of a category in an image are considered: the last number everywhere, each of them in
            its "AR<number>". Ascending.
        images: image id -> its predictions and annotations, in COCO's words.

    Every image of the benchmark must come in one update, those without objects too: their predictions are false ones.
    """

    settings: ClassVar[tuple[str, ...]] = ("area_ranges", "max_detections")
    evaluation_class: ClassVar[type[COCOeval]] = COCOeval

    area_ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(COCO_SIZES))
    max_detections: tuple[int, ...] = (1, 10, 100)
    images: dict[int | str, tuple[list[dict], list[dict]]] = field(default_factory=dict, init=False, repr=False)

    def update(
        self,
        image_id: int | str,
        masks: Sequence[Mask],
        category_ids: Sequence[int],
        scores: Sequence[float],
        targets: Sequence[Segment],
        areas: Sequence[float] | None = None,
    ) -> None:
        """Adds one image.

        Args:
            image_id: the dataset's id. Where scores are equal, images count in the order of their ids.
            masks: N predictions, (N, H, W) bool or COCO RLEs, at the original image size.
            category_ids: (N,) the dataset's own ids.
            scores: (N,) the higher, the surer; any scale.
            targets: the image's true objects, crowds included. The `area` of a target, or else its pixels, decides about its bin only. The
                `annotation_id` changes a number in one case only: pycocotools never counts the object with id 0 as found.
            areas: of the predictions; default the pixels of the mask. It decides in which bins a false prediction counts. pycocotools takes
                that of the box, where a results file has boxes.

        Raises:
            ValueError: numbers of entries differ, masks differ in size, a target has no category, a score is not finite, or the image
                was there before (a sampler that fills up the last batch repeats images: drop these).
        """
        self.check(image_id, masks, category_ids, scores)
        if areas is not None and len(areas) != len(masks):
            raise ValueError(f"image {image_id}: {len(masks)} predictions but {len(areas)} areas; give one per prediction or none at all")
        if nameless := [index for index, target in enumerate(targets) if target.category_id is None]:
            raise ValueError(f"image {image_id}: targets {nameless} have no category_id")

        predictions = [
            {"segmentation": _rle(mask, f"image {image_id}, mask {index}"), "category_id": int(category_id), "score": float(score)}
            for index, (mask, category_id, score) in enumerate(zip(masks, category_ids, scores, strict=True))
        ]
        for index, prediction in enumerate(predictions):
            prediction["area"] = area(prediction["segmentation"]) if areas is None else float(areas[index])
        annotations = []
        for target in targets:
            rle = compress_rle(target.mask_rle)
            annotations.append(
                {
                    "segmentation": rle,
                    "category_id": int(target.category_id),
                    "iscrowd": int(target.is_crowd),
                    "area": area(rle) if target.area is None else target.area,
                    "is_id_0": target.annotation_id == 0,
                }
            )
        sizes = {tuple(entry["segmentation"]["size"]) for entry in (*predictions, *annotations)}
        if len(sizes) > 1:
            raise ValueError(f"image {image_id}: masks of different sizes {sorted(sizes)}; bring predictions to the original image size")
        self.images[image_id] = predictions, annotations

    def compute(self) -> dict[str, float]:
        """Numbers in percent, nan where there is no object.

        * "AP": mean over categories with objects and over the IoU thresholds 0.50, 0.55, ... 0.95; "AP50", "AP75": at one threshold.
        * "AP-small", ...: objects of one of the `area_ranges`.
        * "AR1", "AR10", "AR100": recall, averaged in the same way, with at most that many predictions; "AR-small", ...
        """
        return self._summary(*self._curves())

    def _summary(self, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
        result = _thresholds(precision[..., 0, -1])
        result |= {f"AP-{name}": mean_percent(precision[..., index, -1]) for index, name in enumerate(self.area_ranges, 1)}
        result |= {f"AR{number}": mean_percent(recall[..., 0, index]) for index, number in enumerate(self.max_detections)}
        result |= {f"AR-{name}": mean_percent(recall[..., index, -1]) for index, name in enumerate(self.area_ranges, 1)}
        return result

    def per_category(self) -> dict[int, dict[str, float]]:
        """Category id -> "AP", "AP50", "AP75" in percent, for the categories with objects that are not crowds."""
        precision, _ = self._curves()
        results = {category: _thresholds(precision[index, ..., 0, -1]) for index, category in enumerate(self._categories())}
        return {category: result for category, result in results.items() if not math.isnan(result["AP"])}

    def _categories(self) -> list[int]:
        """Categories with objects, ascending. A category without any is not defined and enters no mean, whatever is predicted."""
        return sorted({entry["category_id"] for _, annotations in self.images.values() for entry in annotations})

    def _curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision (categories, IoU thresholds, recalls, 1 + area ranges, numbers of detections) and recall, without the axis of recalls,
        in [0, 1]; -1 where a category has no objects. The first area range is that of all areas."""
        self.require(self.images, "image")
        # pycocotools breaks ties by image id, so that the order must not depend on which worker saw which image.
        predictions, annotations = defaultdict(list), defaultdict(list)
        for number, image_id in enumerate(sorted(self.images, key=_order)):
            found, true = self.images[image_id]
            for entry in found:
                predictions[entry["category_id"]].append({**entry, "image_id": number})
            for entry in true:
                annotations[entry["category_id"]].append({**entry, "image_id": number})
        if (number := sum(entry["is_id_0"] for entries in annotations.values() for entry in entries)) > 1:
            raise ValueError(f"mask AP: {number} targets have the annotation id 0; an id is that of one object in the whole benchmark")
        # Category by category, with its own images alone: pycocotools would look at every pair, which for LVIS is 1203 x 20,000.
        evaluations = [self._evaluate(predictions[category], annotations[category]) for category in self._categories()]
        shape = len(IOU_THRESHOLDS), 101, 1 + len(self.area_ranges), len(self.max_detections)
        if not evaluations:
            return np.empty((0, *shape)), np.empty((0, shape[0], *shape[2:]))
        precision, recall = zip(*evaluations, strict=True)
        return np.stack(precision), np.stack(recall)

    def _evaluate(self, predictions: list[dict], annotations: list[dict]) -> tuple[np.ndarray, np.ndarray]:
        """Precision (IoU thresholds, recalls, areas, numbers of detections) of one category, and recall without the second axis."""
        sizes = {entry["image_id"]: entry["segmentation"]["size"] for entry in (*predictions, *annotations)}
        images = [{"id": image_id, "height": height, "width": width} for image_id, (height, width) in sizes.items()]
        categories = [{"id": annotations[0]["category_id"]}]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
            true, found = COCO(), COCO()
            for tool, entries in ((true, annotations), (found, predictions)):
                # Ids count from 1: pycocotools takes a match with id 0 for none.
                numbered = [{**entry, "id": 0 if entry.get("is_id_0") else index} for index, entry in enumerate(entries, 1)]
                tool.dataset = {"images": images, "categories": categories, "annotations": numbered}
                tool.createIndex()
            evaluation = self.evaluation_class(true, found, "segm")
            evaluation.params.iouThrs = IOU_THRESHOLDS
            evaluation.params.areaRng = [(0, math.inf), *self.area_ranges.values()]
            evaluation.params.maxDets = list(self.max_detections)
            evaluation.evaluate()
            evaluation.accumulate()
        # Both have an axis of categories, which is one here.
        return evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0]


def _rle(mask: Mask, item: str) -> dict:
    return compress_rle(mask) if isinstance(mask, dict) else rle_from_bitmap(bitmap(mask, item))


def _order(image_id: int | str) -> tuple:
    """Sorting key: by number, also where numbers are given as text; other ids after them."""
    is_number = isinstance(image_id, int) or image_id.isdecimal()
    return (0, int(image_id), str(image_id)) if is_number else (1, image_id)


def _thresholds(precision: np.ndarray) -> dict[str, float]:
    """AP over all thresholds and at two of them; precision ([categories,] thresholds, recalls)."""
    at = {name: int(np.argmin(np.abs(IOU_THRESHOLDS - iou))) for name, iou in (("AP50", 0.5), ("AP75", 0.75))}
    return {"AP": mean_percent(precision), **{name: mean_percent(precision[..., index, :]) for name, index in at.items()}}


def mean_percent(values: np.ndarray) -> float:
    """Mean in percent over the defined entries: pycocotools writes -1 for a category without objects."""
    defined = values[values > -1]
    return float(100 * defined.mean()) if defined.size else math.nan
