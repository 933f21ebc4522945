"""Metrics: each adds up with `update` and `+=`, and only `compute` divides.

A metric gets predictions and targets at the original image size, as numpy arrays or COCO RLE; it knows neither models nor files.
Workers fill one metric each. Their sum gives the same numbers, to the last bit, as one worker that saw everything: a metric keeps
integers and lists of IoUs, which are summed exactly.

`compute` returns percent under the names that benchmarks use, and nan where a number is not defined (the AP of small objects where
there are none). It raises ValueError before the first update.
"""

from .cityscapes_ap import CityscapesAP
from .correspondence import Correspondence, compared_size, resize_nearest
from .exact_answers import ExactAnswers
from .expression_instances import ExpressionInstances
from .identity_switches import IdentitySwitches
from .label_map import label_map
from .lvis_ap import LvisAP
from .mask_ap import MaskAP
from .mean_iou import MeanIoU
from .multiple_choice import ChoiceAccuracy, CircularAccuracy, mmbench_letter, scienceqa_letter
from .object_size import COCO_SIZES, size_bin
from .panoptic_quality import PanopticQuality
from .referring import ReferringIoU
from .region import RegionIoU
from .video_objects import VideoObjects, contour_accuracy, region_similarity
from .vqa import VqaAccuracy
from .yes_no import YesNoScores

__all__ = [
    "COCO_SIZES",
    "ChoiceAccuracy",
    "CircularAccuracy",
    "CityscapesAP",
    "Correspondence",
    "ExactAnswers",
    "ExpressionInstances",
    "IdentitySwitches",
    "LvisAP",
    "MaskAP",
    "MeanIoU",
    "PanopticQuality",
    "ReferringIoU",
    "RegionIoU",
    "VideoObjects",
    "VqaAccuracy",
    "YesNoScores",
    "compared_size",
    "contour_accuracy",
    "label_map",
    "mmbench_letter",
    "region_similarity",
    "resize_nearest",
    "scienceqa_letter",
    "size_bin",
]
