"""IoUs of expressions, which may also mean several objects or none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .base import Metric, percent
from .overlap import Mask, bitmaps, intersection_and_union

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass
class ReferringIoU(Metric):
    """cIoU, gIoU, P@X, N-acc and T-acc over expressions, one update per prompt and the union of the objects it means.

    An expression whose target is empty means nothing in the image. What is counted:

    | target | the model says | IoU in gIoU | pixels in cIoU | counts for |
    | --- | --- | --- | --- | --- |
    | nothing | nothing is there | 1 | none | N-acc, as right |
    | nothing | a mask | 0 | the mask is added to the union | N-acc, as wrong |
    | objects | nothing is there | 0 | no intersection; the union of target and predicted mask | T-acc, as wrong |
    | objects | a mask | IoU | intersection and union | T-acc, as right |

    On a benchmark where every expression has a target this is plain referring segmentation (RefCOCO, ReasonSeg).

    Attributes:
        intersection, union: pixels, summed over all expressions.
        ious: one IoU per expression WITH a target, in [0, 1].
        suppressed: how many of these the model said nothing about.
        rejected, invented: expressions without target for which the model said nothing, or gave a mask.

    Source: the evaluator of ReLA (github.com/henghuiding/ReLA), which defines the benchmark gRefCOCO.
    """

    intersection: int = 0
    union: int = 0
    ious: list[float] = field(default_factory=list)
    suppressed: int = 0
    rejected: int = 0
    invented: int = 0

    def update(self, predicted: Mask, target: Mask, *, predicted_no_target: bool | None = None) -> None:
        """Adds one expression.

        Args:
            predicted: (H, W) bool or COCO RLE, at the original image size.
            target: the same, union of all objects that are meant; empty if there is none.
            predicted_no_target: whether the model says that nothing is there: by a classifier, because no mask passes a threshold, or
                because the mask is too small (fewer than 50 pixels in the GRES paper). None = it does if the mask is empty. False for
                every expression is what PSALM's released evaluation does.

        Raises:
            ValueError: not masks, or masks of different size.
        """
        predicted, target = bitmaps(predicted, target)
        intersection, union = intersection_and_union(predicted, target)
        if predicted_no_target is None:
            predicted_no_target = not predicted.any()
        if target.any():
            # A suppressed mask still counts with its pixels in the union: the benchmark's rule, not an oversight.
            self.intersection += 0 if predicted_no_target else intersection
            self.union += union
            self.ious.append(0.0 if predicted_no_target else intersection / union)
            self.suppressed += bool(predicted_no_target)
        elif predicted_no_target:
            self.rejected += 1
        else:
            self.union += union
            self.invented += 1

    def compute(self) -> dict[str, float]:
        """Numbers in percent; nan where there is nothing to divide by.

        * "cIoU": all intersections by all unions.
        * "gIoU": mean IoU of an expression, those without target included. Older papers call it mIoU.
        * "P@0.5" ... "P@0.9": share of the expressions with a target whose IoU is at least that.
        * "N-acc": share of the expressions without target that were recognised as such.
        * "T-acc": share of the expressions with a target that were not taken for one without.
        """
        with_target, without_target = len(self.ious), self.rejected + self.invented
        self.require(with_target + without_target, "expression")
        result = {
            "cIoU": percent(self.intersection, self.union),
            "gIoU": percent(math.fsum([*self.ious, self.rejected]), with_target + without_target),
        }
        for threshold in PRECISION_THRESHOLDS:
            result[f"P@{threshold}"] = percent(sum(iou >= threshold for iou in self.ious), with_target)
        result["N-acc"] = percent(self.rejected, without_target)
        result["T-acc"] = percent(with_target - self.suppressed, with_target)
        return result
