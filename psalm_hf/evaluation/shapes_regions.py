"""Visual prompts on the shapes world: a point, box, scribble or mask for every thing."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ..metrics import RegionIoU
from ..model.regions import region_mask
from ..structures import REGION_KINDS, Region
from .shapes_batch import Prompt, SceneBatch, size_and_novelty, sums_by_group

Groups = tuple[str, ...]


class RegionMeasures:
    """IoU by kind of prompt, size and novelty of the thing; beside it that of the prompt's own pixels."""

    def __init__(self):
        self.model: dict[Groups, RegionIoU] = defaultdict(RegionIoU)
        self.prompt_itself: dict[Groups, RegionIoU] = defaultdict(RegionIoU)

    def update(self, batch: SceneBatch) -> None:
        """Asks for every thing of every scene, with each kind of prompt in a row of its own."""
        prompts = [prompt for kind in REGION_KINDS for prompt in batch.prompts("interactive", region_kind=kind) if prompt.sample.regions]
        outputs = batch.forward([prompt.sample for prompt in prompts])
        sizes = [prompt.sample.image_size for prompt in prompts]
        answers = batch.processor.post_process_region_segmentation(outputs, target_sizes=sizes)
        for prompt, answer in zip(prompts, answers, strict=True):
            for region, mask in zip(prompt.sample.regions, answer["masks"].cpu().numpy(), strict=True):
                self._add(prompt, region, mask, batch.processor.prompt_radii)

    def _add(self, prompt: Prompt, region: Region, mask: np.ndarray, prompt_radii: tuple[int, int]) -> None:
        thing = prompt.things[region.segment]
        drawn = region_mask(region.as_prompt(), prompt.sample.image_size, str(prompt.sample.image_id), prompt_radii)
        groups = (region.kind, *(f"{region.kind}, {group}" for group in size_and_novelty(thing.mask, [thing])))
        self.model[groups].update(mask, thing.mask)
        self.prompt_itself[groups].update(drawn, thing.mask)

    def numbers(self) -> dict[str, float]:
        """In percent."""
        return _numbers(self.model)

    def baselines(self) -> dict[str, float]:
        """The prompt's own pixels, points and scribbles enlarged as the processor does it, as the mask."""
        return _numbers(self.prompt_itself)

    def counts(self) -> dict[str, int]:
        """Prompts by kind and group. Small remains of a thing may have no point or mask."""
        return {f"regions, {group}": len(measure.ious) for group, measure in sums_by_group(self.model, RegionIoU).items()}


def _numbers(measures: dict[Groups, RegionIoU]) -> dict[str, float]:
    results = {}
    for group, measure in sums_by_group(measures, RegionIoU).items():
        values = measure.compute()
        results[f"region mIoU, {group}"] = values["mIoU"]
        if group in REGION_KINDS:
            results[f"region cIoU, {group}"] = values["cIoU"]
    return results
