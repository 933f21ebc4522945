"""Evaluator of semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...data.features import Category
from ...masks import rle_from_bitmap
from ...metrics import MeanIoU, label_map
from ...structures import Sample
from .base import Evaluator, Numbers, predicted_map


class SemanticEvaluator(Evaluator):
    """mIoU of the semantic map; pixels without a true category are not counted, those of crowds are.

    Args:
        resize_logits: how the map is made, see `PsalmProcessor.post_process_semantic_segmentation`.
    """

    name = "semantic"

    def __init__(self, categories: Sequence[Category], resize_logits: bool = False):
        self.categories, self.resize_logits = tuple(categories), resize_logits
        self.metric = MeanIoU(len(categories), ignore_label=len(categories))
        self.choices = {"unlabelled pixels": "not counted", "resized": "mask logits" if resize_logits else "scores of categories"}

    def predict(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        sizes = [sample.image_size for sample in samples]
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes, resize_logits=self.resize_logits)
        return [{"segments": self._segments(found.cpu().numpy())} for found in maps]

    def _segments(self, found: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"category_id": self.categories[position].id, "mask": rle_from_bitmap(found == position)}
            for position in np.unique(found).tolist()
        ]

    def add(self, sample: Sample, prediction: Any) -> None:
        """See `Evaluator`. The prediction must have a category wherever the target has one."""
        position = {category.id: index for index, category in enumerate(self.categories)}
        segments, nothing = prediction["segments"], self.metric.ignore_label
        labels = [position[segment["category_id"]] for segment in segments]
        found = predicted_map(sample, [segment["mask"] for segment in segments], labels, fill=nothing)
        labels = [position[segment.category_id] for segment in sample.segments]
        target = label_map([segment.mask_rle for segment in sample.segments], labels, sample.image_size, fill=nothing)
        if missing := int(np.count_nonzero((found == nothing) & (target != nothing))):
            raise ValueError(f"image {sample.image_id}, prediction: {missing} labelled pixels have no category; every pixel needs one")
        self.metric.update(found, target)

    def per_category(self) -> dict[int, Numbers]:
        return {self.categories[position].id: numbers for position, numbers in self.metric.per_category().items()}

    def counts(self) -> dict[str, int]:
        return {"labelled pixels": int(self.metric.confusion.sum())}
