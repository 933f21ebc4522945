"""Average precision of LVIS, whose images are not annotated with all categories."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from pycocotools.cocoeval import COCOeval

from ..structures import Segment
from .mask_ap import MaskAP, mean_percent
from .overlap import Mask

FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


class FederatedEvaluation(COCOeval):
    """Ignores the false predictions of a category whose objects in the image are not all annotated."""

    def evaluateImg(self, imgId: int, catId: int, aRng: tuple[float, float], maxDet: int) -> dict | None:  # noqa: N802, N803
        result = super().evaluateImg(imgId, catId, aRng, maxDet)
        if result is not None and any(prediction["may_be_unannotated"] for prediction in self._dts[imgId, catId]):
            result["dtIgnore"] |= result["dtMatches"] == 0
        return result


@dataclass
class LvisAP(MaskAP):
    """AP and AR of a federated data set: a prediction is judged only where the annotators looked for its category.

    A category was looked for in an image if it has objects there, or is one of the image's negative categories. Of a category whose
    objects are not all annotated in an image, predictions that match none of them are ignored. There are no crowds. The numbers are those
    of `MaskAP`, with "AR300", and "AP-rare", "AP-common", "AP-frequent": over the categories of a frequency.

    Attributes:
        frequencies: category id -> "r", "c" or "f": in fewer than 10, fewer than 100, or more images of the training set. The annotation
            files have it for every category.
        max_detections: one number. That many predictions of an image count, those of all its categories together, judged or not.

    Source: lvis-api (github.com/lvis-dataset/lvis-api), version 0.5.3.
    """

    settings: ClassVar[tuple[str, ...]] = (*MaskAP.settings, "frequencies")
    evaluation_class: ClassVar[type[COCOeval]] = FederatedEvaluation

    max_detections: tuple[int, ...] = (300,)
    frequencies: Mapping[int, str] = field(kw_only=True)

    def __post_init__(self) -> None:
        if wrong := {category: frequency for category, frequency in self.frequencies.items() if frequency not in FREQUENCIES}:
            raise ValueError(f"LVIS AP: frequencies are {', '.join(FREQUENCIES)}, got {wrong!r:.80}")
        if len(self.max_detections) != 1:
            raise ValueError(f"LVIS AP: expected one number of detections, got {self.max_detections}")

    def update(
        self,
        image_id: int | str,
        masks: Sequence[Mask],
        category_ids: Sequence[int],
        scores: Sequence[float],
        targets: Sequence[Segment],
        areas: Sequence[float] | None = None,
        *,
        negative_category_ids: Collection[int],
        not_exhaustive_category_ids: Collection[int],
    ) -> None:
        """Adds one image.

        Args:
            negative_category_ids: of which there is certainly no object in the image.
            not_exhaustive_category_ids: of which only some objects are annotated in the image.

        The others: see `MaskAP.update`.

        Raises:
            ValueError: as there; a target that is a crowd; a category without frequency.
        """
        if any(target.is_crowd for target in targets):
            raise ValueError(f"image {image_id}: a target is a crowd; LVIS has none")
        true = {target.category_id for target in targets}
        if unknown := (true | set(map(int, category_ids))) - self.frequencies.keys() - {None}:
            raise ValueError(f"image {image_id}: categories {sorted(unknown)} are none of the {len(self.frequencies)} with a frequency")
        super().update(image_id, masks, category_ids, scores, targets, areas)
        predictions, annotations = self.images[image_id]
        surest = sorted(predictions, key=lambda prediction: -prediction["score"])[: self.max_detections[0]]
        judged = true | set(negative_category_ids)
        for prediction in surest:
            prediction["may_be_unannotated"] = prediction["category_id"] in not_exhaustive_category_ids
        self.images[image_id] = [prediction for prediction in surest if prediction["category_id"] in judged], annotations

    def _summary(self, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
        letters = np.array([self.frequencies[category] for category in self._categories()])
        by_frequency = {f"AP-{name}": mean_percent(precision[letters == letter, ..., 0, -1]) for letter, name in FREQUENCIES.items()}
        return super()._summary(precision, recall) | by_frequency
