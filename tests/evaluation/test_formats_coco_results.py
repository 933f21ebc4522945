"""Instances in the results file of COCO and LVIS; the recorded ones give the recorded numbers."""

import json
import math

import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.data.features import Category
from psalm_hf.evaluation.evaluators.instance import InstanceEvaluator, LvisEvaluator
from psalm_hf.evaluation.formats.coco_results import CocoResults
from psalm_hf.masks import uncompress_rle
from tests.conftest import EVAL_CASES
from tests.evaluation.datasets_of_rows import columns, dataset_of, written
from tests.metrics.recordings import case, cases, expected, read_json
from tests.metrics.test_evaluators import LVIS_SUMMARY, SUMMARY

CATEGORIES = (Category(17, "cat"), Category(18, "dog"))
FORM = CocoResults(CATEGORIES)
DATASET = dataset_of(CATEGORIES, ["39769", "a/b", "007"], "instance")
ANSWERS = [
    {"instances": [{"category_id": 18, "score": 0.9, "mask": columns(0, 2)}, {"category_id": 17, "score": 1 / 3, "mask": columns(0, 2)}]},
    {"instances": []},
    {"instances": [{"category_id": 17, "score": 0.5, "mask": columns(0, 6)}]},
]
ENTRY = {"image_id": 39769, "category_id": 17, "segmentation": columns(1, 3), "score": 0.5}


def read(folder, *entries):
    (folder / "results.json").write_text(json.dumps(entries))
    return FORM.read(folder, DATASET)


def test_what_is_written_is_read(tmp_path):
    folder = written(FORM, tmp_path / "out", DATASET, ANSWERS)
    assert FORM.read(folder, DATASET) == FORM.read(folder / "results.json", DATASET) == dict(enumerate(ANSWERS))
    nothing = [{"instances": []}] * 3
    assert FORM.read(written(FORM, tmp_path / "nothing", DATASET, nothing), DATASET) == dict(enumerate(nothing))


def test_image_ids_are_numbers_where_they_are_written_as_numbers(tmp_path):
    folder = written(FORM, tmp_path / "out", DATASET, [*ANSWERS[::2], ANSWERS[2]])
    entries = json.loads((folder / "results.json").read_text())
    assert [entry["image_id"] for entry in entries] == [39769, 39769, "a/b", "007"]
    assert entries[0] == {"image_id": 39769, "category_id": 18, "segmentation": columns(0, 2), "score": 0.9}


def test_the_surest_instance_comes_first_and_equally_sure_ones_keep_their_order(tmp_path):
    masks = [columns(0, width) for width in (1, 2, 3, 4)]
    entries = [ENTRY | {"segmentation": mask, "score": score} for mask, score in zip(masks, (0.2, 0.5, 0.9, 0.5), strict=True)]
    assert [instance["mask"] for instance in read(tmp_path, *entries)[0]["instances"]] == [masks[2], masks[1], masks[3], masks[0]]


def test_uncompressed_masks_are_read(tmp_path):
    answers = read(tmp_path, ENTRY | {"segmentation": uncompress_rle(columns(1, 3))})
    assert answers[0]["instances"][0]["mask"] == columns(1, 3)


def test_boxes_give_areas_if_the_first_entry_has_one(tmp_path):
    answers = read(tmp_path, ENTRY | {"bbox": [1, 0, 2.5, 4]}, ENTRY | {"bbox": [0, 0, 0, 0], "score": 0.1})
    assert [instance["area"] for instance in answers[0]["instances"]] == [10.0, 0.0]
    assert "area" not in read(tmp_path, ENTRY | {"bbox": []})[0]["instances"][0]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([ENTRY | {"image_id": 8}], "entry 0, image 8: is none of the 3 images of the dataset"),
        ([ENTRY, ENTRY | {"category_id": 3}], "entry 1, image 39769: category id 3 is none of the 2 of the dataset"),
        ([ENTRY | {"score": math.nan}], "entry 0, image 39769: expected a finite score, got nan"),
        ([ENTRY | {"score": "0.5"}], "entry 0, image 39769: expected a finite score, got '0.5'"),
        ([ENTRY | {"segmentation": {"size": [2, 2], "counts": "04"}}], r"entry 0, image 39769: a mask of size \(2, 2\), but the image is"),
        ([ENTRY | {"segmentation": [[0, 0, 3, 0, 3, 3]]}], "entry 0, image 39769: mask: expected COCO RLE"),
        ([ENTRY | {"segmentation": {"size": [4, 6], "counts": "0"}}], "entry 0, image 39769: mask: the runs of the RLE cover 0 pixels"),
        ([{"image_id": 39769}], "entry 0: expected image_id, category_id, segmentation, score, got"),
        ([ENTRY | {"bbox": [0, 0, 1, 1]}, ENTRY], "entry 1: expected image_id, category_id, segmentation, score, bbox"),
        ([ENTRY | {"bbox": [0, 0, 1]}], r"entry 0, image 39769: expected a bbox \[x, y, width, height\]"),
        ([7], "entry 0: expected image_id"),
        ([ENTRY | {"category_id": [1]}], r"entry 0, image 39769: category id \[1\] is none of the 2"),
        ([ENTRY | {"category_id": True}], "entry 0, image 39769: category id True is none of the 2"),
        ([ENTRY | {"image_id": {}}], "entry 0, image_id: expected an id, text or a whole number"),
        ([ENTRY | {"score": 10**400}], "entry 0, image 39769: expected a finite score"),
        ([ENTRY | {"bbox": [0, 0, -1, 5]}], "entry 0, image 39769: expected a bbox .* that is not negative"),
        ([ENTRY | {"bbox": [0, 0, "1", 5]}], "entry 0, image 39769: expected a finite bbox"),
        ([ENTRY | {"segmentation": {"size": [10**9, 10**9], "counts": "04"}}], "entry 0, image 39769: a mask of size"),
    ],
)
def test_what_does_not_fit_is_refused(entries, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, *entries)


def test_files_of_other_formats_are_refused(tmp_path):
    (tmp_path / "results.json").write_text('{"annotations": []}')
    with pytest.raises(ValueError, match="expected a list of results, got dict"):
        FORM.read(tmp_path, DATASET)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="image 7: rows 0 and 1 are both of it"):
        FORM.read(tmp_path, dataset_of(CATEGORIES, ["7", "7"]))


def assert_recorded(measure, summary, recorded):
    numbers = measure.numbers()
    for key, name in summary.items():
        if recorded[key] == -1:
            assert math.isnan(numbers[f"instance {name}"])
        else:
            assert numbers[f"instance {name}"] / 100 == pytest.approx(recorded[key], abs=1e-6, rel=0), name


@pytest.mark.evaluators
@pytest.mark.parametrize("name", cases("coco_instance"))
def test_recorded_predictions_give_the_numbers_of_pycocotools(name, tmp_path):
    recorded = case("coco_instance", name)
    truth = read_json("coco_instance", recorded["gt"])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(truth))
    for image in truth["images"]:
        Image.new("L", (image["width"], image["height"])).save(tmp_path / "val2017" / image["file_name"])
    dataset = load("coco_instance", "val", tmp_path, cache_dir=tmp_path / "cache")
    form, measure = CocoResults(dataset.categories), InstanceEvaluator(dataset.categories)
    answers = form.read(EVAL_CASES / "coco_instance" / recorded["predictions"], dataset)
    assert sum(len(answer["instances"]) for answer in answers.values()) == recorded["n_predictions"]
    assert form.read(written(form, tmp_path / "out", dataset, answers.values()), dataset) == answers
    for row, answer in answers.items():
        measure.add(dataset[row], answer)
    assert_recorded(measure, SUMMARY, recorded["segm"]["stats"])


@pytest.mark.evaluators
def test_recorded_predictions_give_the_numbers_of_lvis_api(tmp_path):
    recorded = expected("lvis")
    truth = read_json("lvis", recorded["gt"])
    (tmp_path / "lvis").mkdir()
    (tmp_path / "lvis/lvis_v1_val.json").write_text(json.dumps(truth))
    for image in truth["images"]:
        file = tmp_path / "coco" / "/".join(image["coco_url"].split("/")[-2:])
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (image["width"], image["height"])).save(file)
    dataset = load("lvis", "val", tmp_path, cache_dir=tmp_path / "cache")
    form, measure = CocoResults(dataset.categories), LvisEvaluator(dataset.categories)
    for row, answer in form.read(EVAL_CASES / "lvis" / recorded["predictions"], dataset).items():
        measure.add(dataset[row], answer)
    assert_recorded(measure, LVIS_SUMMARY, recorded["cases"]["segm"])
