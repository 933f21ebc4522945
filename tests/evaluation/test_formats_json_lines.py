"""Lines of JSON for which no benchmark prescribes a file: written, read, and refused by file and line."""

import json

import pytest

from psalm_hf.data.features import Category
from psalm_hf.evaluation.formats.json_lines import JsonLines
from tests.evaluation.datasets_of_rows import columns, dataset_of

REFERRING = JsonLines(("mask", "score", "no_target"))
PREDICTION = {"mask": columns(0, 2), "score": 0.5, "no_target": False}
LINE = {"image_id": "7", "record_id": None, **PREDICTION}


@pytest.fixture(scope="module")
def dataset():
    return dataset_of([Category(1, "cup", True)], ["7", "8"])


def test_what_is_written_is_read(dataset, tmp_path):
    REFERRING.write(tmp_path, ((sample, PREDICTION) for sample in dataset))
    assert REFERRING.read(tmp_path, dataset) == {0: PREDICTION, 1: PREDICTION}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask": None}, "mask: mask: expected COCO RLE"),
        ({"mask": {"size": [4, 5], "counts": "04"}}, r"mask: a mask of size \(4, 5\), but the image is \(4, 6\)"),
        ({"mask": {"size": [10**9, 10**9], "counts": [0]}}, "mask: a mask of size"),
        ({"score": "x"}, "score: expected a finite score, got 'x'"),
        ({"score": True}, "score: expected a finite score, got True"),
        ({"score": float("nan")}, "score: expected a finite score, got nan"),
        ({"score": 10**400}, "score: expected a finite score"),
        ({"no_target": []}, r"no_target: expected true or false, got \[\]"),
        ({"image_id": [1]}, r"image_id: expected an id, text or a whole number, got \[1\]"),
        ({"record_id": {}}, "record_id: expected an id"),
        ({"image_id": -7}, "image '-7', record None is none of the 2 rows"),
        ({"image_id": "../8"}, "image '../8', record None is none of the 2 rows"),
    ],
    ids=str,
)
def test_values_that_no_evaluator_can_take_are_refused_by_line(changed, message, dataset, tmp_path):
    lines = [json.dumps(line) for line in (LINE | {"image_id": "8"}, LINE | changed)]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"predictions.jsonl, line 2.*{message}"):
        REFERRING.read(tmp_path, dataset)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xff\xfe", "is no text in UTF-8"),
        (b'{"image_id": "7"', "expected a JSON object, got"),
        (b'{"image_id": "7", "image_id": "8"}', "'image_id' is twice in an object"),
        (b"[" * 10**5, "lie too deep in each other"),
        (b"[1]", "expected a JSON object with image_id, record_id, mask, score, no_target, got"),
        (json.dumps(LINE).encode(), "image '7', record None was there before"),
    ],
)
def test_damaged_lines_are_named(line, message, dataset, tmp_path):
    (tmp_path / "predictions.jsonl").write_bytes(json.dumps(LINE).encode() + b"\n" + line)
    with pytest.raises(ValueError, match=f"predictions.jsonl, line 2: .*{message}"):
        REFERRING.read(tmp_path, dataset)


def test_every_region_has_a_mask_of_the_size_of_its_image(dataset, tmp_path):
    form = JsonLines(("masks", "scores"))
    for changed, message in (({"masks": 5}, "masks: expected a list of masks"), ({"scores": ["x"]}, "region 0: expected a finite score")):
        entry = {"image_id": "7", "record_id": None, "masks": [columns(0, 2)], "scores": [0.5]} | changed
        (tmp_path / "predictions.jsonl").write_text(json.dumps(entry))
        with pytest.raises(ValueError, match=f"line 1, image 7, {message}"):
            form.read(tmp_path, dataset)
