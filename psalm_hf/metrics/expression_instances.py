"""Every instance that an expression means: average precision, sets that are exactly right, and cgF1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco
from scipy.optimize import linear_sum_assignment

from ..masks import compress_rle
from ..structures import Segment
from .base import Metric, percent
from .mask_ap import IOU_THRESHOLDS, MaskAP

_CATEGORY = 1  # of all instances: the expression says which ones are meant
_MATCH = 0.5  # IoU from which an instance is found


def _thresholds() -> np.ndarray:
    return np.zeros(len(IOU_THRESHOLDS), dtype=np.int64)


@dataclass
class ExpressionInstances(Metric):
    """AP, set accuracy and cgF1 over expressions that mean any number of instances, one update per expression.

    AP ranks all instances by score. The other numbers are about the SET that is predicted: the best instances, as many as the prediction
    says. Predicted and true instances of a set are matched one to one, so that the sum of their IoUs is highest; a match counts from an IoU
    on.

    | number | definition |
    | --- | --- |
    | AP, AP50, AP75 | that of COCO, where every expression is an image of its own with one category |
    | set accuracy | share of the expressions whose set is right: as many instances as are meant, all matched with IoU >= 0.5 |
    | recall, precision | matches with IoU >= 0.5, as a share of what is meant, and of all that is predicted |
    | pmF1 | 2 TP / (2 TP + FP + FN) over the expressions that mean something, mean over the IoUs 0.50, 0.55, ... 0.95 |
    | IL-MCC | Matthews correlation (x 100) of "something is predicted" with "something is meant", over all expressions |
    | cgF1 | pmF1 x IL-MCC |

    Of an expression that means nothing, the empty set is right. Crowds are not meant. A predicted instance without a match at 0.5, half of
    which or more lies on crowds, is not counted in a set.

    Attributes:
        ranked: predictions and targets for AP.
        right, absent_right: sets that are right, of expressions that mean something and of those that mean nothing.
        present, absent: such expressions.
        suppressed, invented: those of them with an empty set, and with one that is not.
        true_positives: (10,) matches by IoU threshold.
        predicted, invented_instances: instances in the sets of expressions that mean something, and in the others.
        meant: instances that are meant.
        duplicates: predicted instances without a match that have an IoU >= 0.5 with an instance that is meant.

    Source: SAM 3 (arXiv:2511.16719) defines pmF1, IL_MCC and cgF1; its evaluator (github.com/facebookresearch/sam3, cgf1_eval.py, SAM
    License) was read, not copied, and differs by constants below 1e-3 that keep it from dividing by 0, and by having no rule for crowds.
    AP is computed by pycocotools. Set accuracy is our own; N-acc and T-acc of gRefCOCO are its weaker form.
    """

    ranked: MaskAP = field(default_factory=lambda: MaskAP({}))
    right: int = 0
    absent_right: int = 0
    present: int = 0
    absent: int = 0
    suppressed: int = 0
    invented: int = 0
    true_positives: np.ndarray = field(default_factory=_thresholds)
    predicted: int = 0
    invented_instances: int = 0
    meant: int = 0
    duplicates: int = 0

    def update(self, expression_id: str, masks: Sequence[dict], scores: Sequence[float], targets: Sequence[Segment], number: int) -> None:
        """Adds one expression.

        Args:
            expression_id: that of no other expression.
            masks: N COCO RLEs at the original image size, best first.
            scores: (N,) the higher, the surer.
            targets: the instances that are meant, and crowds; none if nothing is.
            number: from 0 to N: of the first masks, which are the set.

        Raises:
            ValueError: numbers of entries differ, masks differ in size, a score is not finite, or the expression was there before.
        """
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= len(masks):
            raise ValueError(f"number: expected how many of the {len(masks)} masks are the set, from 0 to {len(masks)}, got {number!r:.80}")
        ids = [_CATEGORY] * len(masks)
        objects = [Segment(target.mask_rle, _CATEGORY, target.is_crowd) for target in targets]
        self.ranked.update(expression_id, masks, ids, scores, objects)
        chosen = masks[:number]
        ious, on_crowds = overlaps(chosen, targets)
        matched, taken = match(ious)
        true_positives = (ious[matched, taken][:, None] >= IOU_THRESHOLDS - 1e-9).sum(axis=0)  # (10,)
        is_found = np.isin(np.arange(len(chosen)), matched[ious[matched, taken] >= _MATCH])
        is_counted = is_found | (on_crowds < 0.5)
        counted, meant = int(is_counted.sum()), ious.shape[1]
        is_right = counted == meant == true_positives[0]
        if meant:
            self.present += 1
            self.right += bool(is_right)
            self.suppressed += not counted
            self.true_positives += true_positives
            self.predicted += counted
            self.meant += meant
            self.duplicates += int((is_counted & ~is_found & (ious.max(axis=1, initial=0) >= _MATCH)).sum())
        else:
            self.absent += 1
            self.absent_right += bool(is_right)
            self.invented += counted > 0
            self.invented_instances += counted

    def compute(self) -> dict[str, float]:
        """Numbers in percent, see the class; nan where there is nothing to divide by."""
        self.require(self.present + self.absent, "expression")
        found = int(self.true_positives[0])
        numbers = {name: value for name, value in self.ranked.compute().items() if name.startswith("AP")}
        numbers["set accuracy"] = percent(self.right + self.absent_right, self.present + self.absent)
        numbers["recall"] = percent(found, self.meant)
        numbers["precision"] = percent(found, self.predicted + self.invented_instances)
        numbers["pmF1"] = float(np.mean([percent(2 * int(hits), self.predicted + self.meant) for hits in self.true_positives]))
        numbers["IL-MCC"] = 100 * self._correlation()
        numbers["cgF1"] = numbers["pmF1"] * numbers["IL-MCC"] / 100
        return numbers

    def counts(self) -> dict[str, int]:
        """Expressions, and instances that are meant, found (IoU >= 0.5), false, and found again."""
        found = int(self.true_positives[0])
        false = self.predicted + self.invented_instances - found - self.duplicates
        expressions = {"expressions with a target": self.present, "expressions without target": self.absent}
        return expressions | {"instances": self.meant, "found": found, "false": false, "duplicates": self.duplicates}

    def _correlation(self) -> float:
        """In [-1, 1]; nan where all or none mean something, or a set is always or never empty."""
        tp, fn, fp, tn = self.present - self.suppressed, self.suppressed, self.invented, self.absent - self.invented
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return (tp * tn - fp * fn) / math.sqrt(product) if product else math.nan


def overlaps(masks: Sequence[dict], targets: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray]:
    """Overlap of N masks with the targets of an expression.

    Returns:
        (N, M) IoU with each target that is no crowd; (N,) share of each mask that lies on crowds; all in [0, 1].
    """
    masks = [compress_rle(mask) for mask in masks]
    single = [compress_rle(target.mask_rle) for target in targets if not target.is_crowd]
    crowds = [compress_rle(target.mask_rle) for target in targets if target.is_crowd]
    ious = coco.iou(masks, single, [0] * len(single)) if masks and single else np.zeros((len(masks), len(single)))
    # pycocotools divides by the area of the mask alone where the other one is a crowd.
    on_crowds = coco.iou(masks, [coco.merge(crowds)], [1])[:, 0] if masks and crowds else np.zeros(len(masks))
    return np.asarray(ious), on_crowds


def match(ious: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matches one to one whose sum of IoUs is highest: indices of masks (n,) and of targets (n,), n = min(N, M), of (N, M) IoUs."""
    return linear_sum_assignment(-ious)
