"""Our measures on the recorded predictions, against what the public evaluators said about them, to 1e-6."""

import contextlib
import io
import math

import pytest
from pycocotools.coco import COCO

from psalm_hf.metrics import MaskAP, MeanIoU, PanopticQuality, ReferringIoU, RegionIoU
from psalm_hf.structures import Segment
from tests.conftest import EVAL_CASES
from tests.metrics.recordings import case, cases, read_json, read_labels, read_segment_ids

pytestmark = pytest.mark.evaluators

PANOPTIC, SEMANTIC, INSTANCE, REFERRING = cases("panoptic"), cases("semantic"), cases("coco_instance"), cases("referring")

EVERYTHING_HAS_A_TARGET = [
    name
    for name in REFERRING
    if not any(row["gt_no_target"] or row["pred_no_target"] for row in read_json("referring", case("referring", name)["file"]))
]

# Names of pycocotools' summary -> ours.
SUMMARY = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP-small", "APm": "AP-medium", "APl": "AP-large"}
SUMMARY |= {"AR1": "AR1", "AR10": "AR10", "AR100": "AR100", "ARs": "AR-small", "ARm": "AR-medium", "ARl": "AR-large"}


def assert_equal(ours: float, recorded: float, name: str) -> None:
    assert math.isclose(ours, recorded, rel_tol=0, abs_tol=1e-6), f"{name}: {ours}, recorded {recorded}"


def test_all_four_folders_hold_cases():
    assert PANOPTIC and SEMANTIC and INSTANCE and REFERRING


@pytest.mark.parametrize("name", PANOPTIC)
def test_panoptic_quality(name):
    recorded = case("panoptic", name)
    truth = read_json("panoptic", recorded["gt"])
    metric = PanopticQuality({category["id"]: bool(category["isthing"]) for category in truth["categories"]})
    predictions = read_json("panoptic", f"predictions/{name}/predictions.json")["annotations"]
    predictions = {prediction["image_id"]: prediction for prediction in predictions}
    for annotation in truth["annotations"]:
        prediction = predictions[annotation["image_id"]]
        metric.update(
            read_segment_ids(EVAL_CASES / "panoptic" / "predictions" / name / "png" / prediction["file_name"]),
            {segment["id"]: segment["category_id"] for segment in prediction["segments_info"]},
            read_segment_ids(EVAL_CASES / "panoptic" / "gt" / "panoptic_png" / annotation["file_name"]),
            {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]},
            [segment["id"] for segment in annotation["segments_info"] if segment["iscrowd"]],
        )
    result, per_category = metric.compute(), metric.per_category()
    for group, suffix in (("All", ""), ("Things", "-things"), ("Stuff", "-stuff")):
        if not recorded[group]["n"]:
            assert math.isnan(result[f"PQ{suffix}"])
            continue
        for measure in ("PQ", "SQ", "RQ"):
            assert_equal(result[measure + suffix] / 100, recorded[group][measure.lower()], f"{group} {measure}")
    assert len(per_category) == recorded["All"]["n"]
    # Categories that are only predicted, never true, count in the means but are not recorded one by one.
    assert {str(category) for category in per_category} >= recorded["per_class"].keys()
    for category, values in recorded["per_class"].items():
        for measure in ("PQ", "SQ", "RQ"):
            assert_equal(per_category[int(category)][measure] / 100, values[measure.lower()], f"category {category} {measure}")


@pytest.mark.parametrize("name", SEMANTIC)
def test_mean_iou(name):
    recorded = case("semantic", name)
    metric = MeanIoU(recorded["num_classes"], recorded["ignore_label"])
    for path in sorted((EVAL_CASES / "semantic" / recorded["gt"]).iterdir()):
        (prediction,) = (EVAL_CASES / "semantic" / recorded["predictions"]).glob(f"{path.stem}.*")
        metric.update(read_labels(prediction), read_labels(path))
    result = metric.compute()
    for measure in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert_equal(result[measure], recorded[measure], measure)
    # Classes have names there and numbers here, in the same order.
    for measure in ("IoU", "ACC"):
        values = {key: value for key, value in recorded.items() if key.startswith(f"{measure}-")}
        ours = [values[measure] for values in metric.per_category().values()]
        assert len(ours) == len(values)
        for (key, value), own in zip(values.items(), ours, strict=True):
            assert_equal(own, value, key)


@pytest.mark.parametrize("name", INSTANCE)
def test_mask_ap(name):
    recorded = case("coco_instance", name)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(EVAL_CASES / "coco_instance" / recorded["gt"])
    predictions = {image_id: [] for image_id in truth.getImgIds()}
    for prediction in read_json("coco_instance", recorded["predictions"]):
        predictions[prediction["image_id"]].append(prediction)
    metric = MaskAP()
    for image_id, found in reversed(predictions.items()):  # the order of the images must not matter
        annotations = truth.imgToAnns[image_id]
        metric.update(
            image_id,
            [prediction["segmentation"] for prediction in found],
            [prediction["category_id"] for prediction in found],
            [prediction["score"] for prediction in found],
            [
                Segment(truth.annToRLE(annotation), annotation["category_id"], is_crowd=bool(annotation["iscrowd"]))
                for annotation in annotations
            ],
            [annotation["area"] for annotation in annotations],
            [annotation["id"] for annotation in annotations],
        )
    result, per_category = metric.compute(), metric.per_category()
    assert recorded["segm"]["stats"].keys() == SUMMARY.keys()
    for key, value in recorded["segm"]["stats"].items():
        if value == -1:
            assert math.isnan(result[SUMMARY[key]])
        else:
            assert_equal(result[SUMMARY[key]] / 100, value, key)
    defined = {int(category): value for category, value in recorded["segm"]["AP_per_category"].items() if value != -1}
    assert per_category.keys() == defined.keys()
    for category, value in defined.items():
        assert_equal(per_category[category]["AP"] / 100, value, f"category {category}")


@pytest.mark.parametrize("name", REFERRING)
def test_referring_iou(name):
    recorded = case("referring", name)
    rows = read_json("referring", recorded["file"])
    assert len(rows) == recorded["n_sentences"]
    metric = ReferringIoU()
    for row in rows:
        metric.update(row["pred"], row["gt"], predicted_no_target=row["pred_no_target"])
    result = metric.compute()
    for measure in ("gIoU", "cIoU"):
        assert_equal(result[measure], recorded[measure], measure)
    for key, value in recorded.items():
        if key.startswith("Pr@"):
            assert_equal(result[key.replace("Pr", "P")], value, key)
    if any(row["gt_no_target"] for row in rows):
        assert_equal(result["N-acc"] / 100, recorded["N_acc"], "N-acc")
        assert_equal(result["T-acc"] / 100, recorded["T_acc"], "T-acc")
    else:  # that evaluator writes 0 for both
        assert math.isnan(result["N-acc"])


@pytest.mark.parametrize("name", EVERYTHING_HAS_A_TARGET)
def test_region_iou_is_the_referring_iou_where_everything_has_a_target(name):
    recorded = case("referring", name)
    rows = read_json("referring", recorded["file"])
    metric = RegionIoU()
    for row in rows:
        metric.update(row["pred"], row["gt"])
    assert_equal(metric.compute()["mIoU"], recorded["gIoU"], "mIoU")
    assert_equal(metric.compute()["cIoU"], recorded["cIoU"], "cIoU")
