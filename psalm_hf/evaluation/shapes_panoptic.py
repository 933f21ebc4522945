"""Category prompts on the shapes world: panoptic, semantic and instance segmentation, and which things are found."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from ..data.shapes import CATEGORIES
from ..metrics import MaskAP, MeanIoU, PanopticQuality, label_map
from .shapes_batch import SIZES, Prompt, SceneBatch, size_and_novelty

# Class probability a query needs, and share of its own mask that it must win.
THRESHOLDS = {"released thresholds": (0.8, 0.8), "thresholds 0.5": (0.5, 0.5)}
RECALL_THRESHOLDS = "thresholds 0.5"

_IDS = [category.id for category in CATEGORIES]
_THINGS = [index for index, category in enumerate(CATEGORIES) if category.is_thing]
_STUFF = [index for index, category in enumerate(CATEGORIES) if not category.is_thing]
_THING_IDS = {_IDS[index] for index in _THINGS}


class PanopticMeasures:
    """PQ at two pairs of thresholds, mIoU, AP, and the share of things found.

    A thing is found if a segment of the panoptic map (thresholds 0.5) has its category and an IoU with it above one half: the matches
    of PQ.

    Args:
        image_size: side of the pictures, for AP by size.
    """

    def __init__(self, image_size: int):
        self.quality = {name: PanopticQuality({id: id in _THING_IDS for id in _IDS}) for name in THRESHOLDS}
        self.semantic = MeanIoU(len(_IDS))
        self.precision = MaskAP({name: _area_range(low, high, image_size**2) for name, (low, high) in SIZES.items()})
        self.is_found: dict[str, list[bool]] = defaultdict(list)

    def update(self, batch: SceneBatch) -> None:
        """Asks for all categories in every scene."""
        prompts = batch.prompts("panoptic")
        outputs = batch.forward([prompt.sample for prompt in prompts])
        processor, sizes = batch.processor, [prompt.sample.image_size for prompt in prompts]
        panoptic = {
            name: processor.post_process_panoptic_segmentation(
                outputs, threshold=threshold, overlap_mask_area_threshold=overlap, label_ids_to_fuse=_STUFF, target_sizes=sizes
            )
            for name, (threshold, overlap) in THRESHOLDS.items()
        }
        semantic = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        instances = processor.post_process_instance_segmentation(outputs, label_ids=_THINGS, return_binary_maps=True, target_sizes=sizes)
        for row, prompt in enumerate(prompts):
            self._add_maps(prompt, {name: answers[row] for name, answers in panoptic.items()}, semantic[row].cpu().numpy())
            self._add_instances(prompt, instances[row])

    def _add_maps(self, prompt: Prompt, panoptic: Mapping[str, dict], semantic: np.ndarray) -> None:
        segments = dict(enumerate(prompt.sample.segments, 1))
        truth = label_map([segment.mask_rle for segment in segments.values()], list(segments), prompt.sample.image_size, fill=0)
        true_categories = {id: segment.category_id for id, segment in segments.items()}
        for name, answer in panoptic.items():
            found = answer["segmentation"].cpu().numpy()
            categories = {segment["id"]: _IDS[segment["label_id"]] for segment in answer["segments_info"]}
            self.quality[name].update(found, categories, truth, true_categories)
            if name == RECALL_THRESHOLDS:
                self._add_recall(prompt, found, categories)
        label_of_id = np.array([self.semantic.ignore_label, *prompt.sample.class_labels])
        self.semantic.update(semantic, label_of_id[truth])

    def _add_recall(self, prompt: Prompt, found: np.ndarray, categories: Mapping[int, int]) -> None:
        areas = np.bincount(found.ravel())
        for segment, thing in zip(prompt.sample.segments, prompt.things, strict=False):  # stuff comes behind the things
            best = int(np.bincount(found[thing.mask]).argmax())  # an IoU above one half takes more than half of the thing
            common = int(np.count_nonzero(found[thing.mask] == best))
            iou = common / (thing.area + int(areas[best]) - common)
            for group in ("all", *size_and_novelty(thing.mask, [thing])):
                self.is_found[group].append(categories.get(best) == segment.category_id and iou > 0.5)

    def _add_instances(self, prompt: Prompt, answer: dict) -> None:
        info = answer["segments_info"]
        self.precision.update(
            prompt.sample.image_id,
            list(answer["segmentation"].cpu().numpy()),
            [_IDS[segment["label_id"]] for segment in info],
            [segment["score"] for segment in info],
            [segment for segment in prompt.sample.segments if segment.category_id in _THING_IDS],
        )

    def numbers(self) -> dict[str, float]:
        """In percent, nan where nothing defines a number."""
        results = {f"panoptic {key}, {name}": value for name, metric in self.quality.items() for key, value in metric.compute().items()}
        precision = self.precision.compute()
        results |= {"semantic mIoU": self.semantic.compute()["mIoU"], "instance AP": precision["AP"], "instance AP50": precision["AP50"]}
        results |= {f"instance AP, {name}": precision[f"AP-{name}"] for name in SIZES}
        return results | {f"things found, {group}": 100 * float(np.mean(values)) for group, values in sorted(self.is_found.items())}

    def baselines(self) -> dict[str, float]:
        """None: no answer without a model is worth printing."""
        return {}

    def counts(self) -> dict[str, int]:
        """Pictures, and things by group."""
        pictures = next(iter(self.quality.values())).num_images
        return {"pictures": pictures} | {f"things, {group}": len(values) for group, values in sorted(self.is_found.items())}


def _area_range(low: float, high: float, pixels: int) -> tuple[float, float]:
    """Areas with low <= area / pixels < high as a range that includes both ends, which is what `MaskAP` wants."""
    return math.ceil(low * pixels), high if high == math.inf else math.ceil(high * pixels) - 1
