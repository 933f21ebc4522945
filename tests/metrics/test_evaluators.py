"""Our measures on the recorded predictions, against what the public evaluators said about them, to 1e-6."""

import contextlib
import io
import math

import pytest
from pycocotools.coco import COCO

from psalm_hf.metrics import (
    Correspondence,
    LvisAP,
    MaskAP,
    MeanIoU,
    PanopticQuality,
    ReferringIoU,
    RegionIoU,
    VideoObjects,
    VqaAccuracy,
    YesNoScores,
)
from psalm_hf.structures import Segment
from tests.conftest import EVAL_CASES
from tests.metrics.recordings import case, cases, expected, read_json, read_json_lines, read_labels, read_segment_ids

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


def segment(truth, annotation):
    is_crowd = bool(annotation.get("iscrowd"))
    return Segment(truth.annToRLE(annotation), annotation["category_id"], is_crowd, annotation["id"], area=annotation["area"])


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
            [segment(truth, annotation) for annotation in annotations],
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


VQA = cases("vqa")
POPE_SCORES = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1_score": "F1", "yes_ratio": "yes-ratio"}


def test_vqa_and_pope_hold_cases():
    assert VQA and expected("pope")["answers"]


@pytest.mark.parametrize("name", VQA)
def test_vqa_accuracy(name):
    recorded = case("vqa", name)
    annotations = {entry["question_id"]: entry for entry in read_json("vqa", recorded["annotations"])["annotations"]}
    metric = VqaAccuracy()
    for result in read_json("vqa", recorded["results"]):
        annotation = annotations[result["question_id"]]
        human_answers = [answer["answer"] for answer in annotation["answers"]]
        one = VqaAccuracy()
        one.update(result["answer"], human_answers)
        worth = recorded["per_question"][str(result["question_id"])]
        assert_equal(round(one.compute()["accuracy"], 2), worth, f"question {result['question_id']}")
        metric.update(result["answer"], human_answers, [f"answer {annotation['answer_type']}", f"question {annotation['question_type']}"])
    numbers = metric.compute()
    # That evaluator rounds to 2 digits.
    assert_equal(round(numbers.pop("accuracy"), 2), recorded["overall"], "overall")
    groups = {f"accuracy, answer {kind}": value for kind, value in recorded["perAnswerType"].items()}
    groups |= {f"accuracy, question {kind}": value for kind, value in recorded["perQuestionType"].items()}
    assert numbers.keys() == groups.keys()
    for group, value in groups.items():
        assert_equal(round(numbers[group], 2), value, group)


def test_pope_scores():
    recorded = expected("pope")
    answers, labels = (read_json_lines("pope", recorded[name]) for name in ("answers", "labels"))
    metric = YesNoScores()
    for answer, label in zip(answers, labels, strict=True):
        metric.update(answer["answer"], label["label"], "random")
    outcomes = metric.outcomes["random"]
    assert {"TP": outcomes["yes", True], "FP": outcomes["no", True], "TN": outcomes["no", False], "FN": outcomes["yes", False]} == {
        name: recorded[name] for name in ("TP", "FP", "TN", "FN")
    }
    numbers = metric.compute()
    for key, name in POPE_SCORES.items():
        assert_equal(numbers[name] / 100, recorded[key], name)
        assert_equal(numbers[f"{name}, random"] / 100, recorded[key], name)


DAVIS, CORRESPONDENCE = cases("davis"), cases("egoexo")
# Names of the correspondence script -> ours; what else it prints is not compared.
CORRESPONDENCE_NAMES = {
    "iou": "IoU",
    "shape_acc": "contour accuracy",
    "location_score": "location error",
    "existence_balanced_acc": "visibility accuracy",
}


def test_davis_and_ego_exo_hold_cases():
    assert DAVIS and CORRESPONDENCE


@pytest.mark.parametrize("name", DAVIS)
def test_video_objects(name):
    recorded = case("davis", name)
    folder = EVAL_CASES / "davis"
    metric = VideoObjects()
    for sequence in (folder / "gt/ImageSets/2017/val.txt").read_text().split():
        paths = sorted((folder / "gt/Annotations/480p" / sequence).iterdir())
        first = read_labels(paths[0])
        objects = range(1, int(first[first != 255].max()) + 1)
        for path in paths[1:-1]:  # the benchmark does not score the first and the last frame
            metric.update(sequence, path.stem, read_labels(folder / "results" / name / sequence / path.name), read_labels(path), objects)
    result = metric.compute()
    assert {f"{key}-Mean" if key == "J&F" else key for key in result} == recorded["global"].keys()
    for key, value in recorded["global"].items():
        assert_equal(result["J&F" if key == "J&F-Mean" else key] / 100, value, key)
    per_object = {f"{sequence}_{number}": values for (sequence, number), values in metric.per_object().items()}
    assert per_object.keys() == recorded["per_object"].keys()
    for key, values in recorded["per_object"].items():
        for measure, value in values.items():
            assert_equal(per_object[key][measure] / 100, value, f"{key} {measure}")


@pytest.mark.parametrize("name", CORRESPONDENCE)
def test_correspondence(name):
    recorded = case("egoexo", name)
    predictions = read_json("egoexo", recorded["predictions"])
    predictions = predictions[name if name in predictions else next(key for key in ("ego-exo", "exo-ego") if key in predictions)]["results"]
    truth = read_json("egoexo", recorded.get("gt", expected("egoexo")["gt"]))["annotations"]
    metric = Correspondence()
    for take, annotation in truth.items():
        for thing, pairs in predictions[take]["masks"].items():
            for views, frames in pairs.items():
                masks, annotated = annotation["masks"][thing], annotation["annotated_frames"][thing]
                (query,) = (camera for camera in masks if views.startswith(f"{camera}_") and views.removeprefix(f"{camera}_") in masks)
                target = views.removeprefix(f"{query}_")
                for frame, prediction in frames.items():
                    if frame in masks[query] and int(frame) in annotated[target]:
                        metric.update(prediction["pred_mask"], masks[target].get(frame), prediction["confidence"])
    result = metric.compute()
    for key, ours in CORRESPONDENCE_NAMES.items():
        assert_equal(result[ours] / 100, recorded[key], key)


# Names of lvis-api's summary -> ours.
LVIS_SUMMARY = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP-small", "APm": "AP-medium", "APl": "AP-large"}
LVIS_SUMMARY |= {"APr": "AP-rare", "APc": "AP-common", "APf": "AP-frequent"}
LVIS_SUMMARY |= {"AR@300": "AR300", "ARs@300": "AR-small", "ARm@300": "AR-medium", "ARl@300": "AR-large"}


def test_lvis_ap():
    recorded = expected("lvis")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(EVAL_CASES / "lvis" / recorded["gt"])
    predictions = read_json("lvis", recorded["predictions"])
    metric = LvisAP(frequencies={category["id"]: category["frequency"] for category in truth.dataset["categories"]})
    for image_id, image in truth.imgs.items():
        annotations = truth.imgToAnns[image_id]
        found = [prediction for prediction in predictions if prediction["image_id"] == image_id]
        metric.update(
            image_id,
            [prediction["segmentation"] for prediction in found],
            [prediction["category_id"] for prediction in found],
            [prediction["score"] for prediction in found],
            [segment(truth, annotation) for annotation in annotations],
            # That evaluator takes the area of the box, where there are boxes.
            areas=[math.prod(prediction["bbox"][2:]) for prediction in found] if "bbox" in predictions[0] else None,
            negative_category_ids=image["neg_category_ids"],
            not_exhaustive_category_ids=image["not_exhaustive_category_ids"],
        )
    result = metric.compute()
    assert recorded["cases"]["segm"].keys() == LVIS_SUMMARY.keys()
    for key, value in recorded["cases"]["segm"].items():
        if value == -1:
            assert math.isnan(result[LVIS_SUMMARY[key]])
        else:
            assert_equal(result[LVIS_SUMMARY[key]] / 100, value, key)
