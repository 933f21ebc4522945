"""Panoptic predictions in panopticapi's files; the recorded ones give the recorded numbers."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.data.features import Category
from psalm_hf.evaluation.evaluators.panoptic import PanopticEvaluator
from psalm_hf.evaluation.formats.coco_panoptic import PanopticFiles
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Sample
from tests.conftest import EVAL_CASES
from tests.evaluation.datasets_of_rows import columns, dataset_of, written
from tests.metrics.recordings import case, cases, read_json

CATEGORIES = (Category(17, "cat"), Category(187, "sky", is_thing=False))
FORM = PanopticFiles(CATEGORIES)
DATASET = dataset_of(CATEGORIES, ["39769", "a/b c", "7"])
ANSWERS = [
    {"segments": [{"category_id": 187, "score": 0.75, "mask": columns(4, 6)}, {"category_id": 17, "score": 1 / 3, "mask": columns(0, 2)}]},
    {"segments": []},
    {"segments": [{"category_id": 17, "score": 0.5, "mask": columns(0, 6)}]},
]


def test_what_is_written_is_read(tmp_path):
    folder = written(FORM, tmp_path / "out", DATASET, ANSWERS)
    assert FORM.read(folder, DATASET) == dict(enumerate(ANSWERS))
    assert FORM.read(folder / "predictions.json", DATASET) == dict(enumerate(ANSWERS))


def test_the_files_are_those_of_panopticapi(tmp_path):
    folder = written(FORM, tmp_path / "out", DATASET, ANSWERS)
    first, second, _ = json.loads((folder / "predictions.json").read_text())["annotations"]
    assert first["image_id"] == 39769 and first["file_name"] == "39769.png"
    assert [(info["id"], info["category_id"]) for info in first["segments_info"]] == [(1, 187), (2, 17)]
    assert np.asarray(Image.open(folder / "png/39769.png"))[0].tolist() == [[2, 0, 0]] * 2 + [[0, 0, 0]] * 2 + [[1, 0, 0]] * 2
    assert second["image_id"] == "a/b c" and (folder / "png" / second["file_name"]).is_file()


def test_ids_are_colours_of_three_bytes(tmp_path):
    dataset = dataset_of(CATEGORIES, ["1"])
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, :3] = (1, 2, 3)
    (tmp_path / "png").mkdir()
    Image.fromarray(pixels).save(tmp_path / "png" / "x.png")
    annotation = {"image_id": 1, "file_name": "x.png", "segments_info": [{"id": 1 + 2 * 256 + 3 * 65536, "category_id": 17}]}
    (tmp_path / "predictions.json").write_text(json.dumps({"annotations": [annotation]}))
    assert FORM.read(tmp_path, dataset) == {0: {"segments": [{"category_id": 17, "score": 1.0, "mask": columns(0, 3)}]}}


def test_the_257th_segment_is_red_1_green_1(tmp_path):
    size = (20, 20)
    rles = [rle_from_bitmap(np.arange(400).reshape(size) == pixel) for pixel in range(300)]
    sample = Sample("a.jpg", "1", size, categories={17: "cat"})
    FORM.write(tmp_path, [(sample, {"segments": [{"category_id": 17, "score": 1.0, "mask": rle} for rle in rles]})])
    assert np.asarray(Image.open(tmp_path / "png/1.png")).reshape(400, 3)[[254, 255, 256]].tolist() == [[255, 0, 0], [0, 1, 0], [1, 1, 0]]


def test_pictures_may_lie_in_the_folder_that_panopticapi_expects(tmp_path):
    folder = written(FORM, tmp_path / "out", DATASET, ANSWERS)
    (folder / "png").rename(folder / "predictions")
    assert FORM.read(folder, DATASET) == dict(enumerate(ANSWERS))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([columns(0, 3), columns(2, 4)], "image 39769: label map: mask 1 overlaps an earlier one"),
        ([columns(0, 3), columns(3, 3)], r"image 39769: segments \[2\] have no pixel"),
        ([{"size": [2, 2], "counts": "04"}], r"image 39769: label map: mask 0 is of size \(2, 2\)"),
    ],
)
def test_what_evaluators_would_refuse_is_not_written(segments, message, tmp_path):
    answer = {"segments": [{"category_id": 17, "score": 0.5, "mask": mask} for mask in segments]}
    with pytest.raises(ValueError, match=message):
        FORM.write(tmp_path, [(DATASET[0], answer)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"][0].update(image_id=8), "image 8: is none of the 3 images of the dataset"),
        (lambda content: content["annotations"].append(content["annotations"][0]), "image 39769: is there twice"),
        (lambda content: content["annotations"].pop(), "no prediction for 1 of 3 images, such as 7; every image needs one"),
        (lambda content: content["annotations"][0].pop("file_name"), "annotation 0: expected 'image_id', 'file_name' and 'segments_info'"),
        (lambda content: content["annotations"][0].update(segments_info={}), "image 39769: segments_info must be a list"),
        (lambda content: content["annotations"][0]["segments_info"][0].update(category_id=3), r"category ids \[3\] are none of the 2"),
        (lambda content: content["annotations"][0]["segments_info"].pop(), r"ids \[2\] are not once in both, 39769.png and segments_info"),
        (lambda content: content["annotations"][0]["segments_info"][0].update(id=9), r"ids \[1, 9\] are not once in both"),
        (lambda content: content["annotations"][1].update(file_name="x.png"), "x.png cannot be read"),
        (lambda content: content.pop("annotations"), "expected an object with a list 'annotations'"),
        (
            lambda content: content["annotations"][0]["segments_info"][0].update(score={"a": 1}),
            "segment 1: expected a finite score",
        ),
        (lambda content: content["annotations"][0]["segments_info"][0].update(score="x"), "segment 1: expected a finite score, got 'x'"),
        (lambda content: content["annotations"][0]["segments_info"][0].update(category_id={}), "expected a whole number as category_id"),
        (
            lambda content: content["annotations"][0]["segments_info"][0].update(id=[]),
            r"expected a whole number as id of a segment, got \[\]",
        ),
        (lambda content: content["annotations"][0].update(file_name=5), "image 39769, file_name: expected the name of a file, got 5"),
        (lambda content: content["annotations"][0].update(file_name="../../etc/hostname"), "'../../etc/hostname' must lie in"),
        (lambda content: content["annotations"][0].update(file_name="/etc/hostname"), "'/etc/hostname' must lie in"),
        (lambda content: content["annotations"][0].update(image_id=[1]), r"annotation 0, image_id: expected an id, .* got \[1\]"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, tmp_path):
    folder = written(FORM, tmp_path / "out", DATASET, ANSWERS)
    content = json.loads((folder / "predictions.json").read_text())
    change(content)
    (folder / "predictions.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        FORM.read(folder, DATASET)


def test_a_picture_of_another_size_and_a_file_that_is_no_json_are_refused(tmp_path):
    folder = written(FORM, tmp_path / "out", DATASET, ANSWERS)
    Image.new("RGB", (4, 6)).save(folder / "png/7.png")
    with pytest.raises(ValueError, match=r"7.png: size \(6, 4\), but the image is \(4, 6\)"):
        FORM.read(folder, DATASET)
    (folder / "predictions.json").write_text("{")
    with pytest.raises(ValueError, match="predictions.json: no JSON"):
        FORM.read(folder, DATASET)


@pytest.mark.evaluators
@pytest.mark.parametrize("name", cases("panoptic"))
def test_recorded_predictions_give_the_recorded_numbers(name, tmp_path):
    recorded, eval_folder = case("panoptic", name), EVAL_CASES / "panoptic"
    truth = read_json("panoptic", recorded["gt"])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations/panoptic_val2017.json").write_text(json.dumps(truth))
    (tmp_path / "panoptic_val2017").symlink_to(eval_folder / "gt/panoptic_png")
    for image in truth["images"]:
        Image.new("L", (image["width"], image["height"])).save(tmp_path / "val2017" / image["file_name"])
    dataset = load("coco_panoptic", "val", tmp_path, cache_dir=tmp_path / "cache")
    form, measure = PanopticFiles(dataset.categories), PanopticEvaluator(dataset.categories)
    answers = form.read(eval_folder / "predictions" / name, dataset)
    assert form.read(written(form, tmp_path / "out", dataset, answers.values()), dataset) == answers
    for row, answer in answers.items():
        measure.add(dataset[row], answer)
    numbers = measure.numbers()
    for group, suffix in (("All", ""), ("Things", "-things"), ("Stuff", "-stuff")):
        for quantity in ("PQ", "SQ", "RQ"):
            ours = numbers[f"panoptic {quantity}{suffix}"]
            if recorded[group]["n"]:
                assert ours / 100 == pytest.approx(recorded[group][quantity.lower()], abs=1e-6, rel=0)
            else:
                assert math.isnan(ours)
