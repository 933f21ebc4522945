"""PsalmResult: its columns, what it prints and writes, and that every other form holds the same masks."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.result import Prompt, PsalmResult, read_mask_file, region_name

HEIGHT, WIDTH = 24, 37
RING = np.zeros((HEIGHT, WIDTH), dtype=bool)
RING[2:12, 3:15] = True
RING[5:8, 6:9] = False  # a hole
PARTS = np.zeros((HEIGHT, WIDTH), dtype=bool)
PARTS[0:3, 30:37] = PARTS[20:24, 0:2] = PARTS[12, 20] = True
DOT = np.zeros((HEIGHT, WIDTH), dtype=bool)
DOT[15, 30] = True
NAMES = ("cup", "table", "wall")


@pytest.fixture
def result():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    prompt = Prompt("category", NAMES, "instance", threshold=0.5)
    return PsalmResult(image, prompt, np.stack([RING, PARTS, DOT]), np.array([0.9, 0.75, 0.5]), np.array([0, 2, 0]))


def with_empty(result):
    masks = np.concatenate([result.masks, np.zeros((1, HEIGHT, WIDTH), dtype=bool)])
    return PsalmResult(result.image, result.prompt, masks, np.append(result.scores, 0.1), np.append(result.label_ids, 1))


def test_columns_have_an_entry_per_instance(result):
    assert len(result) == 3 and result.labels == result.phrases == ["cup", "wall", "cup"]
    assert result.boxes.tolist() == [[3, 2, 15, 12], [0, 0, 37, 24], [30, 15, 31, 16]]
    assert result.areas.tolist() == [120 - 9, 21 + 8 + 1, 1]


def test_instances_and_parts_of_a_result(result):
    assert [(one.label, one.score, one.area) for one in result] == [("cup", 0.9, 111), ("wall", 0.75, 30), ("cup", 0.5, 1)]
    assert result[-1].box.tolist() == [30, 15, 31, 16] and (result[1].mask == PARTS).all()
    for chosen in (result[result.scores > 0.6], result[:2], result[[0, 1]]):
        assert chosen.labels == ["cup", "wall"] and chosen.masks.shape == (2, HEIGHT, WIDTH) and chosen.areas.tolist() == [111, 30]
    assert len(result[[]]) == 0 and result[result.scores > 1].boxes.shape == (0, 4)


def test_it_prints_as_one_line(result):
    assert str(result) == "3 instances in a 37 x 24 image: cup 0.90, wall 0.75, cup 0.50"
    assert str(result[[]]) == "nothing in a 37 x 24 image"
    many = result[[0] * 10]
    assert str(many).endswith(", cup 0.90, and 2 more") and "\n" not in str(many)


def test_coco_results_load_in_pycocotools(result):
    entries = with_empty(result).to_coco(image_id=7, category_ids=[5, 1, 18])
    truth = COCO()
    truth.dataset = {"images": [{"id": 7, "height": HEIGHT, "width": WIDTH}], "categories": [{"id": number} for number in (1, 5, 18)]}
    truth.createIndex()
    loaded = truth.loadRes(json.loads(json.dumps(entries)))
    assert [entry["category_id"] for entry in loaded.loadAnns(loaded.getAnnIds())] == [5, 18, 5, 1]
    assert (loaded.annToMask({"image_id": 7, **entries[0]}) == RING).all()
    assert entries[0]["bbox"] == [3, 2, 12, 10] and entries[0]["area"] == 111 and entries[0]["score"] == 0.9
    assert [entry["category_id"] for entry in result.to_coco(7)] == [1, 3, 1]
    with pytest.raises(ValueError, match="one for each of the 3 names"):
        result.to_coco(7, category_ids=[1])


def read_back(folder, data_format, **options):
    """(name, mask) of every segment of the only row."""
    (sample,) = load(data_format, data_dir=str(folder), task="instance", split="train", **options)
    return [(sample.categories[segment.category_id], bitmap_from_rle(segment.mask_rle)) for segment in sample.segments]


def same(found, result):
    assert [name for name, _ in found] == result.labels
    assert all((mask == expected).all() for (_, mask), expected in zip(found, result.masks, strict=True))


@pytest.mark.parametrize("embedded", [True, False])
def test_a_labelme_file_reads_back_equal_with_holes_and_parts(result, tmp_path, embedded):
    result.image.save(tmp_path / "image.png")
    content = with_empty(result).to_labelme(None if embedded else "image.png")
    if embedded:
        (tmp_path / "image.png").unlink()
    (tmp_path / "image.json").write_text(json.dumps(content))
    same(read_back(tmp_path, "own_labelme"), result)


def test_a_yolo_file_reads_back_equal_with_holes_and_parts(result, tmp_path):
    for name in ("images/train", "labels/train"):
        (tmp_path / name).mkdir(parents=True)
    result.image.save(tmp_path / "images/train/a.png")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": list(NAMES), "train": "images/train"}))
    text = with_empty(result).to_yolo()
    (tmp_path / "labels/train/a.txt").write_text(text)
    assert len(text.splitlines()) == 3
    same(read_back(tmp_path, "own_yolo"), result)


def test_pandas_has_a_row_per_instance(result):
    table = result.to_pandas()
    assert list(table.columns) == ["label", "label_id", "phrase", "score", "x0", "y0", "x1", "y1", "area"]
    assert table.loc[1].tolist() == ["wall", 2, "wall", 0.75, 0, 0, 37, 24, 30]
    assert len(result[[]].to_pandas()) == 0


def test_supervision_holds_the_same_boxes_and_masks(result):
    pytest.importorskip("supervision")
    found = result.to_supervision()
    assert (found.xyxy == result.boxes).all() and (found.mask == result.masks).all() and (found.confidence == result.scores).all()
    assert found.class_id.tolist() == [0, 2, 0] and found.data["class_name"].tolist() == ["cup", "wall", "cup"]
    assert len(result[[]].to_supervision()) == 0


def test_without_supervision_the_message_says_how_to_install_it(result, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'psalm_hf\[supervision\]'"):
        result.to_supervision()


SAVED = [("out/found", "out/found"), ("found.png", "found"), ("found.json", "found"), ("new/", "new/segmented"), (".", "segmented")]


@pytest.mark.parametrize(("path", "stem"), SAVED)
def test_it_saves_an_overlay_and_a_record(result, tmp_path, path, stem):
    written = result.save(f"{tmp_path}/{path}")
    assert written == (tmp_path / f"{stem}.png", tmp_path / f"{stem}.json")
    record = json.loads(written[1].read_text())
    assert list(record) == ["image", "image_size", "checkpoint", "task", "prompt", "stuff", "thresholds", "segments"]
    assert record["prompt"] == {"categories": list(NAMES)} and record["thresholds"] == {"threshold": 0.5, "mask_threshold": 0.5}
    ring, _, dot = record["segments"]
    assert (bitmap_from_rle(ring.pop("mask")) == RING).all()
    assert ring == {"label": "cup", "label_id": 0, "score": 0.9, "box": [3, 2, 15, 12], "area": 111}
    assert dot["box"] == [30, 15, 31, 16]
    with Image.open(written[0]) as overlay:
        assert overlay.size == result.plot().size


def test_it_never_overwrites_its_image(result, tmp_path):
    from dataclasses import replace

    source = replace(result, source=str(tmp_path / "a.png"))
    with pytest.raises(ValueError, match="would overwrite the image"):
        source.save(tmp_path / "a")
    asked = replace(result.prompt, kind="region", regions=({"mask": tmp_path / "a.png"},) * 3)
    with pytest.raises(ValueError, match="would overwrite the image .*a.png; choose another prefix"):
        replace(result, prompt=asked).save(tmp_path / "a")


def test_colours_by_class_and_by_instance_differ(result):
    by_class, by_instance = (np.asarray(result.plot(color_by=name)) for name in ("class", "instance"))
    assert by_class.shape == by_instance.shape and (by_class != by_instance).any()
    with pytest.raises(ValueError, match="color_by: expected one of class, instance, got"):
        result.plot(color_by="size")


@pytest.mark.parametrize(
    ("region", "name"),
    [
        ({"point": (88, 23)}, "point 88,23"),
        ({"box": (91, 61.5, 121, 91)}, "box 91,61.5,121,91"),
        ({"scribble": [(28, 95), (34, 100)]}, "scribble from 28,95"),
        ({"mask": "folder/prompt.png"}, "mask prompt.png"),
        ({"mask": DOT}, "mask"),
        ({"point": (3, 4), "box": (1, 2, 3, 4), "labels": [1]}, "point+box"),
    ],
)
def test_regions_have_names(region, name):
    assert region_name(region) == name


def test_a_mask_of_floats_is_set_where_it_is_above_0(tmp_path):
    Image.fromarray(np.where(RING, 0.25, 0).astype(np.float32)).save(tmp_path / "mask.tif")
    assert (read_mask_file(tmp_path / "mask.tif") == RING).all()


def test_a_record_of_regions_is_json(result):
    regions = ({"point": (88, 23)}, {"mask": DOT}, {"box": np.array([1.0, 2, 3, 4])})
    asked = Prompt("region", tuple(map(region_name, regions)), regions=regions)
    record = PsalmResult(result.image, asked, result.masks, result.scores, np.arange(3)).as_record()
    point, mask, box = json.loads(json.dumps(record))["prompt"]["regions"]
    assert point == {"point": [88, 23]} and box == {"box": [1, 2, 3, 4]}
    assert (bitmap_from_rle(mask["mask"]) == DOT).all()


def test_a_record_with_numbers_of_numpy_is_json(result):
    region = {"point": tuple(np.array([4, 3])), "scribble": [(np.float32(1.5), 2)]}
    asked = Prompt("region", ("point+scribble",), regions=(region,), mask_threshold=np.float32(0.25))
    record = PsalmResult(result.image, asked, result.masks[:1], result.scores[:1], np.arange(1)).as_record()
    record = json.loads(json.dumps(record))
    assert record["prompt"]["regions"] == [{"point": [4, 3], "scribble": [[1.5, 2]]}] and record["thresholds"]["mask_threshold"] == 0.25


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32])
def test_coordinates_stay_coordinates_in_a_record_whatever_numbers_the_array_has(result, dtype):
    regions = ({"box": np.array([1, 2, 5, 6], dtype=dtype)}, {"point": np.array([4, 3], dtype=dtype)})
    asked = Prompt("region", ("box", "point"), regions=regions)
    record = PsalmResult(result.image, asked, result.masks[:2], result.scores[:2], np.arange(2)).as_record()
    assert record["prompt"]["regions"] == [{"box": [1, 2, 5, 6]}, {"point": [4, 3]}]
