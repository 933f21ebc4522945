"""Label Studio: regions of every kind on an image small enough to count pixels, where images are found, and exports that are broken."""

import json

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.data.own.shapes import bitmap_of_brush
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from tests.data.own.test_labelme import encode

SIZE = (4, 6)
# Made by `encode_rle` of the converter of Label Studio (label-studio-sdk 2.1.2) from a mask of the rows 1, 2 and the columns 2 to 4.
BRUSH = [0, 0, 0, 96, 57, 27, 254, 31, 0, 183, 255, 108, 2, 223, 254, 27, 0, 0]
PAINTED = np.zeros(SIZE, dtype=bool)
PAINTED[1:3, 2:5] = True


def region(kind, label="Cup", **value):
    return {
        "original_width": 6,
        "original_height": 4,
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": [label] if isinstance(label, str) else label},
        "id": "Dx_aB91ISN",
        "from_name": "tag",
        "to_name": "image",
        "type": f"{kind}labels",
        "origin": "manual",
    }


def task(number, *regions, image="/data/upload/1/0a1b2c3d-a.png", **fields):
    annotation = {"id": 10 * number, "completed_by": 1, "result": list(regions), "was_cancelled": False, "ground_truth": False}
    return {"id": number, "annotations": [annotation], "drafts": [], "predictions": [], "data": {"image": image}, "meta": {}, **fields}


BOX = region("rectangle", x=0, y=0, width=50, height=50, rotation=0)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "studio"
    (root / "images").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE[::-1]).save(root / "images" / name)
    return root


def write(root, *tasks):
    (root / "train.json").write_text(json.dumps(tasks), encoding="utf-8")


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle).astype(int).tolist() for segment in sample.segments]


CORNER = [[1, 1, 1, 0, 0, 0]] * 2 + [[0] * 6] * 2
REGIONS = {
    "brush": (region("brush", format="rle", rle=BRUSH), PAINTED.astype(int).tolist()),
    "bitmask": (
        region("bitmask", imageDataURL="data:image/png;base64," + encode(Image.fromarray(PAINTED * np.uint8(255)))),
        PAINTED.astype(int).tolist(),
    ),
    "polygon": (region("polygon", points=[[0, 0], [50, 0], [50, 50], [0, 50]], closed=True), CORNER),
    "rectangle": (BOX, CORNER),
    # Around its upper left corner, clockwise: a quarter turn of what is 2 wide and 3 high.
    "turned rectangle": (region("rectangle", x=50, y=0, width=100 / 3, height=75, rotation=90), CORNER),
    "ellipse": (region("ellipse", x=50, y=50, radiusX=100 / 3, radiusY=25, rotation=0), [[0] * 6, *[[0, 1, 1, 1, 1, 0]] * 2, [0] * 6]),
    "turned ellipse": (region("ellipse", x=50, y=50, radiusX=100 / 3, radiusY=25, rotation=90), [[0, 0, 1, 1, 0, 0]] * 4),
    "labels": ({**BOX, "type": "labels", "value": {**BOX["value"], "labels": ["Cup"]}}, CORNER),
}
del REGIONS["labels"][0]["value"]["rectanglelabels"]


@pytest.mark.parametrize("kind", REGIONS)
def test_every_kind_of_region_has_the_pixels_inside(kind, root, tmp_path):
    drawn, expected = REGIONS[kind]
    write(root, task(1, drawn))
    dataset = load("own_label_studio", "train", root, cache_dir=tmp_path)
    assert bitmaps(dataset[0]) == [expected] and [(category.id, category.name) for category in dataset.categories] == [(1, "Cup")]
    assert dataset[0].image_id == "images/a.png" and dataset[0].record_id == "1" and dataset.task == "instance"
    flat = {"image": "/data/upload/1/0a1b2c3d-a.png", "id": 1, "tag": [{**drawn["value"], "original_width": 6, "original_height": 4}]}
    write(root, {**flat, "annotator": 1, "annotation_id": 10, "lead_time": 3.2})  # JSON-MIN
    assert bitmaps(load("own_label_studio", "train", root, cache_dir=tmp_path)[0]) == [expected]


def test_a_brush_is_decoded_whatever_its_runs():
    assert np.array_equal(bitmap_of_brush(BRUSH, SIZE), PAINTED)
    # 4 numbers of 1 pixel one by one: 32 bits of their number, 5 of bits per number, 4 x 4 of bits per length; then "no run" of 4.
    bits = f"{4:032b}{7:05b}{1:04b}{1:04b}{1:04b}{1:04b}" + "0" + "00" + "11" + f"{0:08b}{0:08b}{0:08b}{9:08b}"
    bits += "0" * (-len(bits) % 8)
    assert bitmap_of_brush([int(bits[first : first + 8], 2) for first in range(0, len(bits), 8)], (1, 1)).tolist() == [[True]]


def test_what_is_said_about_a_region_or_an_image_is_no_object(root, tmp_path):
    """The tags Labels and Rectangle write a region twice: as its shape, and with its label."""
    twin = {**BOX, "type": "labels", "value": {**BOX["value"], "labels": ["Cup"]}}
    del twin["value"]["rectanglelabels"]
    shape = {**BOX, "type": "rectangle", "value": {key: value for key, value in BOX["value"].items() if key != "rectanglelabels"}}
    about = {**BOX, "type": "choices", "value": {**shape["value"], "choices": ["unsure"]}}
    text = {"id": "x", "type": "textarea", "value": {"text": ["dark"]}, "from_name": "remark", "to_name": "image"}
    write(root, task(1, shape, twin, about, text, {"type": "relation", "from_id": "x", "to_id": "y"}))
    assert bitmaps(load("own_label_studio", "train", root, cache_dir=tmp_path)[0]) == [CORNER]


IMAGES = {
    "upload": "/data/upload/1/0a1b2c3d-a.png",
    "local file": "/data/local-files/?d=studio/images/a.png",
    "local file of Windows": "/data/local-files/?d=studio%5Cimages%5Ca.png",
    "bucket": "s3://bucket/kitchen/a.png",
    "address": "https://example.com/kitchen/a.png?size=1",
    "name": "a.png",
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_is_found_by_the_end_of_its_address(case, root, tmp_path):
    write(root, task(1, BOX, image=IMAGES[case]))
    assert load("own_label_studio", "train", root, cache_dir=tmp_path)[0].image_id == "images/a.png"


def test_an_image_has_the_name_that_it_was_uploaded_with_before_the_one_that_it_had(root, tmp_path):
    Image.new("RGB", SIZE[::-1]).save(root / "images/0a1b2c3d-a.png")
    write(root, task(1, BOX), task(2, BOX, image="/tasks/2", file_upload="9a1b2c3d-b.png"))
    found = [sample.image_id for sample in load("own_label_studio", "train", root, cache_dir=tmp_path)]
    assert found == ["images/0a1b2c3d-a.png", "images/b.png"]


def test_tasks_that_nobody_annotated_say_nothing_and_empty_annotations_that_there_is_nothing(root, tmp_path):
    cancelled = task(2, BOX)
    cancelled["annotations"][0]["was_cancelled"] = True
    write(root, task(1, BOX), cancelled, task(3, annotations=[]), task(4, image="b.png"))
    for options, ids in (({}, ["1"]), ({"keep_empty": True}, ["1", "4"])):
        assert [sample.record_id for sample in load("own_label_studio", "train", root, cache_dir=tmp_path, **options)] == ids


def test_of_several_annotations_the_ground_truth_counts(root, tmp_path):
    both = task(1, BOX)
    both["annotations"].append({"id": 11, "result": [], "was_cancelled": False, "ground_truth": False})
    both["annotations"][0]["ground_truth"] = True
    write(root, both)
    assert bitmaps(load("own_label_studio", "train", root, cache_dir=tmp_path)[0]) == [CORNER]


def test_key_points_are_left_out_if_that_is_said(root, tmp_path):
    write(root, task(1, BOX, region("keypoint", label="Nose", x=10, y=10, width=1)))
    dataset = load("own_label_studio", "train", root, cache_dir=tmp_path, skip_shapes=["keypoint"])
    assert bitmaps(dataset[0]) == [CORNER] and [category.name for category in dataset.categories] == ["Cup"]
    with pytest.raises(ValueError, match="skip_shapes is a list of some of brush, .*, got 'keypoint'"):
        load("own_label_studio", "train", root, cache_dir=tmp_path, skip_shapes="keypoint")


def two_annotations():
    both = task(2, BOX, image="b.png")
    return both | {"annotations": both["annotations"] * 2}


def changed(**fields):
    return task(2, {**BOX, **fields}, image="b.png")


def of_kind(kind, label="Cup", **value):
    return task(2, region(kind, label, **value), image="b.png")


BROKEN = {
    "lost image": (
        task(2, BOX, image="/data/upload/1/c.png"),
        "the image /data/upload/1/c.png is not in .*/studio, looked for .*images/c.png",
    ),
    "no image": (task(2, BOX, data={}), r"expected the address of one image as data.image, got \[\]"),
    "two annotations": (two_annotations(), "the image has 2 annotations, so that nobody knows which is right; delete all but one"),
    "no annotations": ({"id": 2, "data": {"image": "b.png"}}, "annotations: expected a list of annotations .*, got None"),
    "annotations": (task(2, annotations={}), r"annotations: expected a list of annotations \{...\}, got \{\}"),
    "result": (task(2, None), r"result: expected a list of regions \{...\}, got \[None\]"),
    "value": (changed(value=[]), r"value: expected an object \{...\}, got \[\]"),
    "size": (changed(original_width=7), r"region Dx_aB91ISN: it was drawn on an image of 4 x 7 .*, but the image is 4 x 6"),
    "size as text": (changed(original_width="6"), "it was drawn on an image of 4 x '6'"),
    "turned": (changed(image_rotation=90), "the image was turned by 90 degrees in Label Studio"),
    "two labels": (of_kind("rectangle", ["Cup", "Mug"], x=0, y=0, width=9, height=9), r"expected one label .*, got \['Cup', 'Mug'\]"),
    "no label": (of_kind("rectangle", [], x=0, y=0, width=9, height=9), r"expected one label .*, got \[\]"),
    "key point": (of_kind("keypoint", x=1, y=1, width=1), r"a keypoint has no area; .*skip_shapes=\['keypoint'\]"),
    "text": (of_kind("rectangle", x="1", y=0, width=9, height=9), "x: expected a number up to 1600, got '1', which is text"),
    "null": (of_kind("rectangle", x=None, y=0, width=9, height=9), "x: expected a number up to 1600, got None"),
    "no area": (of_kind("rectangle", x=0, y=0, width=0, height=9), "expected a rectangle with an area, got width 0 and height 9"),
    "corners": (of_kind("polygon", points=[[0, 0], [1, 1]]), r"expected at least 3 finite points \[x, y\], got .*, 2 of them"),
    "brush without code": (of_kind("brush", format="rle"), "rle: expected a list of bytes, got None"),
    "brush that breaks off": (of_kind("brush", rle=BRUSH[:12]), "rle: it breaks off after 12 bytes"),
    "brush of another image": (of_kind("brush", rle=[0, 0, 0, 4, 57]), r"rle: expected 96, 4 for each pixel of 4 x 6 .*, got 4 numbers"),
    "no bytes": (of_kind("brush", rle=[256]), r"rle: expected a list of bytes, got \[256\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_task_is_named_or_left_out(case, root, tmp_path):
    broken, message = BROKEN[case]
    write(root, task(1, BOX), broken)
    with pytest.raises(ValueError, match=f"own_label_studio train: train.json, task 2: .*{message}.*docs page Own data"):
        list(load("own_label_studio", "train", root, cache_dir=tmp_path, streaming=True))
    skipped = load("own_label_studio", "train", root, cache_dir=tmp_path, streaming=True, on_error="skip")
    assert [sample.record_id for sample in skipped] == ["1"]


def test_a_broken_region_costs_the_object_alone(root, tmp_path, capsys):
    write(root, task(1, BOX, region("brush", rle=[])))
    assert bitmaps(load("own_label_studio", "train", root, cache_dir=tmp_path, on_error="skip")[0]) == [CORNER]
    assert "1 broken objects are left out of records that are kept" in capsys.readouterr().err


def test_a_task_that_is_there_for_each_of_several_people_is_refused(root, tmp_path):
    write(root, *[{"image": "a.png", "id": 1, "tag": [], "annotator": person} for person in (1, 2)])
    with pytest.raises(ValueError, match="train.json, task 1: the task is there 2 times"):
        load("own_label_studio", "train", root, cache_dir=tmp_path, keep_empty=True)


def test_files_that_are_no_export_are_named(root, tmp_path):
    (root / "train.json").write_text(json.dumps(rle_from_bitmap(PAINTED)), encoding="utf-8")
    with pytest.raises(ValueError, match="own_label_studio train: train.json: expected a list of tasks, as the export JSON has it"):
        load("own_label_studio", "train", root, cache_dir=tmp_path)
