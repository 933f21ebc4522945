"""Category prompts on the shapes world: panoptic, semantic and instance segmentation, and which things are found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from ..data.shapes import CATEGORIES
from .measures import RELEASED, InstanceMeasure, PanopticMeasure, PanopticThresholds, SemanticMeasure, judge, panoptic_map
from .shapes_batch import SIZES, Prompt, SceneBatch, area_ranges, closed, size_and_novelty

THRESHOLDS = {"released thresholds": RELEASED, "thresholds 0.5": PanopticThresholds(0.5, 0.5)}
RECALL_THRESHOLDS = "thresholds 0.5"


class PanopticMeasures:
    """PQ at two pairs of thresholds, mIoU, AP, and the share of things found.

    A thing is found if a segment of the panoptic map (thresholds 0.5) has its category and an IoU with it above one half: the matches
    of PQ.

    Args:
        image_size: side of the pictures, for AP by size.
    """

    def __init__(self, image_size: int):
        self.panoptic = {name: PanopticMeasure(CATEGORIES, thresholds) for name, thresholds in THRESHOLDS.items()}
        self.semantic = SemanticMeasure(CATEGORIES)
        self.instances = InstanceMeasure(CATEGORIES, closed(area_ranges((image_size, image_size))))
        self.is_found: dict[str, list[bool]] = defaultdict(list)

    def update(self, batch: SceneBatch) -> None:
        """Asks for all categories in every scene."""
        prompts = batch.prompts("panoptic")
        samples = [prompt.sample for prompt in prompts]
        outputs = batch.forward(samples)
        judge(self.semantic, samples, outputs, batch.processor)
        judge(self.instances, samples, outputs, batch.processor)
        for name, measure in self.panoptic.items():
            for prompt, answer in zip(prompts, judge(measure, samples, outputs, batch.processor), strict=True):
                if name == RECALL_THRESHOLDS:
                    self._add_recall(prompt, *panoptic_map(prompt.sample, answer))

    def _add_recall(self, prompt: Prompt, found: np.ndarray, categories: Mapping[int, int]) -> None:
        areas = np.bincount(found.ravel())
        for segment, thing in zip(prompt.sample.segments, prompt.things, strict=False):  # stuff comes behind the things
            best = int(np.bincount(found[thing.mask]).argmax())  # an IoU above one half takes more than half of the thing
            common = int(np.count_nonzero(found[thing.mask] == best))
            iou = common / (thing.area + int(areas[best]) - common)
            for group in ("all", *size_and_novelty(thing.mask, [thing])):
                self.is_found[group].append(categories.get(best) == segment.category_id and iou > 0.5)

    def numbers(self) -> dict[str, float]:
        """In percent, nan where nothing defines a number."""
        results = {f"{key}, {name}": value for name, measure in self.panoptic.items() for key, value in measure.numbers().items()}
        results["semantic mIoU"] = self.semantic.numbers()["semantic mIoU"]
        precision = self.instances.numbers()
        results |= {name: precision[name] for name in ("instance AP", "instance AP50")}
        results |= {f"instance AP, {name}": precision[f"instance AP-{name}"] for name in SIZES}
        return results | {f"things found, {group}": 100 * float(np.mean(values)) for group, values in sorted(self.is_found.items())}

    def baselines(self) -> dict[str, float]:
        """None: no answer without a model is worth printing."""
        return {}

    def counts(self) -> dict[str, int]:
        """Pictures, and things by group."""
        pictures = self.panoptic[RECALL_THRESHOLDS].quality.num_images
        return {"pictures": pictures} | {f"things, {group}": len(values) for group, values in sorted(self.is_found.items())}
