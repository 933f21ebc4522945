"""Classes of pixels: mean IoU and accuracies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from .base import Metric


@dataclass(eq=False)
class MeanIoU(Metric):
    """mIoU, fwIoU and pixel accuracies of semantic segmentation, from one table of pixel counts.

    Attributes:
        num_classes: classes are numbered 0 .. num_classes - 1.
        ignore_label: pixels whose TRUE class is this number are not counted at all.
        confusion: (num_classes, num_classes) int64; row = true class, column = predicted class.

    Raises:
        ValueError: the ignore label is a class (255, where there are 459 classes).

    Source: `SemSegEvaluator` of detectron2.
    """

    settings: ClassVar[tuple[str, ...]] = ("num_classes", "ignore_label")

    num_classes: int
    ignore_label: int = 255
    confusion: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if 0 <= self.ignore_label < self.num_classes:
            raise ValueError(
                f"ignore_label {self.ignore_label} is also one of the {self.num_classes} classes; choose a number outside of them (65535)"
            )
        self.confusion = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)

    def update(self, predicted: np.ndarray, target: np.ndarray) -> None:
        """Adds one image.

        Args:
            predicted: (H, W) integers at the original image size: a class at every pixel that is not ignored.
            target: (H, W) integers: classes and `ignore_label`.

        Raises:
            ValueError: shapes or types do not fit, or a number is neither a class nor, in the target, `ignore_label`.
        """
        predicted, target = np.asarray(predicted), np.asarray(target)
        if predicted.shape != target.shape or predicted.ndim != 2:
            raise ValueError(f"semantic maps: expected two of one shape (H, W), got prediction {predicted.shape} and target {target.shape}")
        counted = target != self.ignore_label
        predicted, target = self._classes(predicted[counted], "prediction"), self._classes(target[counted], "target")
        pairs = np.bincount(target * self.num_classes + predicted, minlength=self.num_classes**2)
        self.confusion += pairs.reshape(self.confusion.shape)

    def _classes(self, labels: np.ndarray, item: str) -> np.ndarray:
        if labels.dtype.kind not in "ui":
            raise ValueError(f"{item}: expected integers, got {labels.dtype}; give class numbers, not scores")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"{item}: labels from {labels.min()} to {labels.max()}, but there are {self.num_classes} classes, numbered from 0; "
                f"only the target may hold the ignore label {self.ignore_label}"
            )
        return labels.astype(np.int64)  # num_classes squared does not fit into the uint8 of a PNG

    def compute(self) -> dict[str, float]:
        """Numbers in percent, over the classes that occur in the targets.

        * "mIoU", "mACC": mean over classes of IoU and of accuracy (share of the class's pixels that were found).
        * "fwIoU": IoU weighted by the number of true pixels of the class.
        * "pACC": share of all pixels with the right class.

        Raises:
            ValueError: before the first update, or nothing but ignored pixels so far.
        """
        classes, iou, accuracy = self._per_class()
        pixels = self.confusion.sum(axis=1)[classes]
        return {
            "mIoU": float(100 * iou.mean()),
            "fwIoU": float(100 * (iou * pixels).sum() / pixels.sum()),
            "mACC": float(100 * accuracy.mean()),
            "pACC": float(100 * self.confusion.trace() / pixels.sum()),
        }

    def per_category(self) -> dict[int, dict[str, float]]:
        """Class number -> "IoU" and "ACC" in percent, for the classes that occur in the targets.

        Raises:
            ValueError: before the first update, or nothing but ignored pixels so far.
        """
        classes, iou, accuracy = self._per_class()
        rows = zip(classes.tolist(), iou.tolist(), accuracy.tolist(), strict=True)
        return {label: {"IoU": 100 * iou, "ACC": 100 * accuracy} for label, iou, accuracy in rows}

    def _per_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of the classes in the targets, their IoU and their accuracy, in [0, 1]."""
        true, predicted, right = self.confusion.sum(axis=1), self.confusion.sum(axis=0), self.confusion.diagonal()
        classes = np.flatnonzero(true)
        self.require(len(classes), "pixel that is not ignored")
        return classes, (right / np.maximum(true + predicted - right, 1))[classes], right[classes] / true[classes]
