"""COCO average precision of instance masks."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..masks import area, compress_rle, rle_from_bitmap
from ..structures import Segment
from .object_size import COCO_SIZES
from .overlap import Mask, bitmap


@dataclass
class MaskAP:
    """AP and AR of instance segmentation. pycocotools computes them; here predictions and truth are only gathered.

    Attributes:
        area_ranges: name -> (lowest, highest) area in pixels, BOTH included, of the objects in "AP-<name>".
        max_detections: how many predictions of a category in an image are considered: the last number everywhere, each of them in
            its "AR<number>". Ascending.
        images: image id -> its predictions and annotations, in COCO's words.

    Every image of the benchmark must come in one update, those without objects too: their predictions are false ones.
    """

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
        target_areas: Sequence[float] | None = None,
        target_ids: Sequence[int] | None = None,
    ) -> None:
        """Adds one image.

        Args:
            image_id: the dataset's id. Where scores are equal, images count in the order of their ids.
            masks: N predictions, (N, H, W) bool or COCO RLEs, at the original image size.
            category_ids: (N,) the dataset's own ids.
            scores: (N,) the higher, the surer; any scale.
            targets: the image's true objects, crowds included.
            target_areas: pixels of each target as its annotation says, which for COCO is the area of the polygons; default the pixels
                of the mask. It decides about the bin only.
            target_ids: annotation ids of the targets, unique in the benchmark; default counted from 1. They change a number in one
                case only: pycocotools never counts the object with id 0 as found, and a file that has one is scored like that.

        Raises:
            ValueError: numbers of entries differ, masks differ in size, a target has no category, a score is not finite, or the image
                was there before (a sampler that fills up the last batch repeats images: drop these).
        """
        if image_id in self.images:
            raise ValueError(f"image {image_id}: was added before; each image counts once")
        if not len(masks) == len(category_ids) == len(scores):
            raise ValueError(
                f"image {image_id}: {len(masks)} masks, {len(category_ids)} category ids and {len(scores)} scores; "
                f"give one of each per prediction"
            )
        for name, values in (("areas", target_areas), ("ids", target_ids)):
            if values is not None and len(values) != len(targets):
                raise ValueError(f"image {image_id}: {len(targets)} targets but {len(values)} {name}; give one per target or none at all")
        if not np.isfinite(np.asarray(scores, dtype=float)).all():
            raise ValueError(f"image {image_id}: scores must be finite, got {list(scores)!r:.80}")
        if nameless := [index for index, target in enumerate(targets) if target.category_id is None]:
            raise ValueError(f"image {image_id}: targets {nameless} have no category_id")

        predictions = [
            {"segmentation": _rle(mask, f"image {image_id}, mask {index}"), "category_id": int(category_id), "score": float(score)}
            for index, (mask, category_id, score) in enumerate(zip(masks, category_ids, scores, strict=True))
        ]
        for prediction in predictions:
            prediction["area"] = area(prediction["segmentation"])
        annotations = []
        for index, target in enumerate(targets):
            rle = compress_rle(target.mask_rle)
            annotations.append(
                {
                    "segmentation": rle,
                    "category_id": int(target.category_id),
                    "iscrowd": int(target.is_crowd),
                    "area": area(rle) if target_areas is None else float(target_areas[index]),
                    **({} if target_ids is None else {"id": int(target_ids[index])}),
                }
            )
        sizes = {tuple(entry["segmentation"]["size"]) for entry in (*predictions, *annotations)}
        if len(sizes) > 1:
            raise ValueError(f"image {image_id}: masks of different sizes {sorted(sizes)}; bring predictions to the original image size")
        self.images[image_id] = predictions, annotations

    def __iadd__(self, other: MaskAP) -> MaskAP:
        if (self.area_ranges, self.max_detections) != (other.area_ranges, other.max_detections):
            raise ValueError("mask AP: area ranges or numbers of detections differ; only measures made alike can be added")
        if twice := self.images.keys() & other.images.keys():
            raise ValueError(f"mask AP: {len(twice)} images are in both, such as {next(iter(twice))}; each image counts once")
        self.images |= other.images
        return self

    def compute(self) -> dict[str, float]:
        """In percent, nan where there is no object.

        * "AP": mean over categories with objects and over the IoU thresholds 0.50, 0.55, ... 0.95; "AP50", "AP75": at one threshold.
        * "AP-small", ...: objects of one of the `area_ranges`.
        * "AR1", "AR10", "AR100": recall, averaged in the same way, with at most that many predictions; "AR-small", ...

        Raises:
            ValueError: before the first update.
        """
        evaluation = self._evaluate()
        # Axes: IoU threshold, recall (of precision only), category, area range (the first is all), number of detections.
        precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
        result = _thresholds(precision[:, :, :, 0, -1], evaluation.params.iouThrs)
        result |= {f"AP-{name}": _mean(precision[:, :, :, index, -1]) for index, name in enumerate(self.area_ranges, 1)}
        result |= {f"AR{number}": _mean(recall[:, :, 0, index]) for index, number in enumerate(self.max_detections)}
        result |= {f"AR-{name}": _mean(recall[:, :, index, -1]) for index, name in enumerate(self.area_ranges, 1)}
        return result

    def per_category(self) -> dict[int, dict[str, float]]:
        """Category id -> "AP", "AP50", "AP75" in percent, for the categories with objects that are not crowds.

        Raises:
            ValueError: before the first update.
        """
        evaluation = self._evaluate()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        results = {
            category: _thresholds(precision[:, :, index], evaluation.params.iouThrs)
            for index, category in enumerate(evaluation.params.catIds)
        }
        return {int(category): result for category, result in results.items() if not math.isnan(result["AP"])}

    def _evaluate(self) -> COCOeval:
        if not self.images:
            raise ValueError("mask AP: nothing to compute; call update for at least one image")
        predictions, annotations, sizes = [], [], []
        # pycocotools breaks ties by image id, so that the order must not depend on which worker saw which image.
        ordered = sorted(self.images, key=lambda image_id: (isinstance(image_id, str), image_id))
        for number, image_id in enumerate(ordered):
            found, true = self.images[image_id]
            # Ids count from 1: pycocotools takes a match with id 0 for none.
            predictions += [{**entry, "image_id": number, "id": index} for index, entry in enumerate(found, len(predictions) + 1)]
            annotations += [{"id": index, **entry, "image_id": number} for index, entry in enumerate(true, len(annotations) + 1)]
            height, width = (found or true)[0]["segmentation"]["size"] if found or true else (0, 0)
            sizes.append({"id": number, "height": height, "width": width})
        if len({entry["id"] for entry in annotations}) < len(annotations):
            raise ValueError("mask AP: target ids occur twice; give unique ones with every image, or none at all")
        # A category without objects is not defined and enters no mean, whatever is predicted.
        categories = [{"id": category_id} for category_id in sorted({entry["category_id"] for entry in annotations})]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
            true, found = COCO(), COCO()
            true.dataset = {"images": sizes, "categories": categories, "annotations": annotations}
            found.dataset = {"images": sizes, "categories": categories, "annotations": predictions}
            true.createIndex()
            found.createIndex()
            evaluation = COCOeval(true, found, "segm")
            evaluation.params.areaRng = [(0, math.inf), *self.area_ranges.values()]
            evaluation.params.maxDets = list(self.max_detections)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation


def _rle(mask: Mask, item: str) -> dict:
    return compress_rle(mask) if isinstance(mask, dict) else rle_from_bitmap(bitmap(mask, item))


def _thresholds(precision: np.ndarray, ious: np.ndarray) -> dict[str, float]:
    """AP over all thresholds and at two of them; precision (thresholds, ...)."""
    at = {name: int(np.argmin(np.abs(ious - iou))) for name, iou in (("AP50", 0.5), ("AP75", 0.75))}
    return {"AP": _mean(precision), **{name: _mean(precision[index]) for name, index in at.items()}}


def _mean(values: np.ndarray) -> float:
    """In percent over the defined entries: pycocotools writes -1 for a category without objects."""
    defined = values[values > -1]
    return float(100 * defined.mean()) if defined.size else math.nan
