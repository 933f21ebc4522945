"""Region prompts for own data: every object of every format by every kind of prompt."""

import json

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import list_datasets, load, verification
from psalm_hf.data.own.regions import region_rows
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from psalm_hf.structures import REGION_KINDS
from tests.data.own.layouts import squares, write_layout

FORMATS = [name for name in list_datasets() if name.startswith("own_")]


def square_bitmaps(number):
    found = []
    for x0, y0, x1, y1 in squares(number):
        found.append(np.zeros((48, 64), dtype=bool))
        found[-1][y0:y1, x0:x1] = True
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_every_object_is_prompted_by_every_kind(name, tmp_path):
    options = write_layout(name, tmp_path / "data", number=3) | {"cache_dir": tmp_path / "cache"}
    samples = list(load(name, "train", tmp_path / "data", regions="all", **options))
    expected = 4 if name != "own_jsonl" else 8  # its lines with expressions have masks too
    assert len(samples) == 3 * expected and {sample.condition for sample in samples} == {"region"}
    whole = [sample for sample in samples if len(sample.segments) == 2]
    assert [region.kind for sample in whole for region in sample.regions] == [kind for _ in range(3) for kind in REGION_KINDS for _ in "rg"]
    for position, sample in enumerate(whole):
        for region, bitmap in zip(sample.regions, square_bitmaps(position // 4), strict=True):
            assert np.array_equal(bitmap_from_rle(sample.segments[region.segment].mask_rle), bitmap)
            if region.kind == "point":
                ((x, y),) = region.points
                assert bitmap[int(y), int(x)]
    boxes = load(name, "train", tmp_path / "data", regions="box", **options)
    assert list(boxes) == [sample for sample in samples if sample.regions[0].kind == "box"]
    assert list(load(name, "train", tmp_path / "data", regions="all", streaming=True, **options)) == samples


def test_panoptic_segments_are_prompted_from_their_map(tmp_path):
    write_layout("own_coco", tmp_path, number=1)
    colours = np.zeros((48, 64, 3), dtype=np.uint8)
    for which, bitmap in enumerate(square_bitmaps(0)):
        colours[bitmap, 0] = which + 5
    (tmp_path / "maps").mkdir()
    Image.fromarray(colours).save(tmp_path / "maps/0.png")
    content = json.loads((tmp_path / "annotations/train.json").read_text())
    infos = [{"id": 5, "category_id": 1}, {"id": 6, "category_id": 2, "iscrowd": 1}]
    content["annotations"] = [{"image_id": 0, "file_name": "0.png", "segments_info": infos}]
    (tmp_path / "annotations/train.json").write_text(json.dumps(content))
    (sample,) = load("own_coco", "train", tmp_path, masks="maps", regions="mask", cache_dir=tmp_path / "cache")
    assert np.array_equal(bitmap_from_rle(sample.segments[0].mask_rle), square_bitmaps(0)[0]) and len(sample.segments) == 1


def test_drawings_of_a_dataset_show_the_prompts(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(verification, "draw_sample", lambda sample: shown.append(sample) or Image.new("RGB", (8, 8)))
    write_layout("own_labelme", tmp_path / "data", number=3)
    options = {"regions": "box", "holdout": 0.5}
    assert verification.verify("own_labelme", tmp_path / "data", splits=["train"], options=options, num_shown=2, output=tmp_path / "shown")
    assert [(sample.image_id, sample.regions[0].kind) for sample in shown] == [("2", "box")]  # 0 and 1 are held out


def test_a_map_that_is_cut_off_is_a_broken_record(tmp_path):
    options = write_layout("own_pairs", tmp_path / "data", number=2) | {"cache_dir": tmp_path / "cache"}
    (tmp_path / "data/masks/1.png").write_bytes((tmp_path / "data/masks/1.png").read_bytes()[:90])
    with pytest.raises(ValueError, match="own_pairs train: masks/1.png"):
        load("own_pairs", "train", tmp_path / "data", regions="box", **options)
    assert len(load("own_pairs", "train", tmp_path / "data", regions="box", on_error="skip", **options)) == 1


def test_what_no_kind_can_mean_is_left_out():
    bitmap = np.zeros((40, 40), dtype=bool)
    bitmap[0, 0] = bitmap[-1, -1] = True  # no pixel in the circle of the rules
    row = {"image": {"path": "a.png"}, "image_id": "a", "image_size": [40, 40], "condition": "sentence", "expressions": ["the corners"]}
    segment = {"mask": rle_from_bitmap(bitmap), "is_crowd": False}
    found = list(region_rows({**row, "segments": [segment]}, {}, REGION_KINDS))
    assert [kept["regions"][0]["kind"] for kept in found] == ["box", "scribble"]  # and its blur is nowhere above one half
    assert list(region_rows({**row, "segments": []}, {}, REGION_KINDS)) == []
    assert list(region_rows({**row, "segments": [{**segment, "is_crowd": True}]}, {}, REGION_KINDS)) == []
