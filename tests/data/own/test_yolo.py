"""YOLO: outlines of a small image in the layouts of Ultralytics, CVAT and Roboflow, and lines and files that are broken."""

import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle

SIZE = (4, 8)
CUP = "0 0 0 0.5 0 0.5 0.5 0 0.5\n"  # the left upper quarter
TABLE = "1 0.5 0.5 1 0.5 1 1 0.5 1\n"


def paint(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(root / path)


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")


def described(dataset):
    return [
        (
            sample.image_id,
            [(segment.category_id, np.argwhere(bitmap_from_rle(segment.mask_rle))[0].tolist()) for segment in sample.segments],
        )
        for sample in dataset
    ]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "kitchen"
    paint(root, "images/train/a.png", "images/train/b.png", "images/val/c.png")
    names = {"path": "../datasets/kitchen", "train": "images/train", "val": "images/val", "names": {0: "cup", 1: "table"}}
    write(root, {"data.yaml": names, "labels/train/a.txt": CUP + TABLE, "labels/train/b.txt": TABLE, "labels/val/c.txt": CUP})
    return root


def test_every_line_is_an_object_inside_of_its_outline(root, tmp_path):
    dataset = load("own_yolo", "train", root, cache_dir=tmp_path)
    assert [(category.id, category.name) for category in dataset.categories] == [(0, "cup"), (1, "table")] and dataset.task == "instance"
    cup, table = (bitmap_from_rle(segment.mask_rle).astype(int).tolist() for segment in dataset[0].segments)
    assert cup == [[1, 1, 1, 1, 0, 0, 0, 0]] * 2 + [[0] * 8] * 2 and table == [[0] * 8] * 2 + [[0, 0, 0, 0, 1, 1, 1, 1]] * 2
    assert described(dataset) == [("images/train/a.png", [(0, [0, 0]), (1, [2, 4])]), ("images/train/b.png", [(1, [2, 4])])]
    assert described(load("own_yolo", "val", root, cache_dir=tmp_path)) == [("images/val/c.png", [(0, [0, 0])])]


def roboflow(root):
    """The export "YOLOv8" of a project for instance segmentation."""
    for split, image in (("train", "a_png.rf.0f3"), ("valid", "c_png.rf.5d1")):
        paint(root, f"{split}/images/{image}.png")
        write(root, {f"{split}/labels/{image}.txt": CUP})
    names = (
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cup', 'table']\n\nroboflow:\n  version: 1\n"
    )
    write(root, {"data.yaml": names, "README.dataset.txt": "# kitchen\n", "README.roboflow.txt": "\n"})
    return {}, ["train/images/a_png.rf.0f3.png"], ["valid/images/c_png.rf.5d1.png"]


def cvat(root):
    """The export "Ultralytics YOLO Segmentation 1.0"."""
    paint(root, "images/train/sub/a.png", "images/val/c.png")
    write(root, {"labels/train/sub/a.txt": CUP, "labels/val/c.txt": CUP, "train.txt": "data/images/train/sub/a.png\n"})
    write(root, {"val.txt": "./images/val/c.png\n", "data.yaml": "names:\n  0: cup\npath: .\ntrain: train.txt\nval: val.txt\n"})
    return {}, ["images/train/sub/a.png"], ["images/val/c.png"]


def colab(root):
    """Paths of the computer where the file was written, of Windows and of Linux."""
    paint(root, "train/images/a.png", "valid/images/c.png")
    write(root, {"train/labels/a.txt": CUP, "valid/labels/c.txt": CUP})
    write(root, {"data.yaml": {"train": "C:\\me\\cups\\train\\images", "val": "/content/cups/valid/images", "nc": 1, "names": ["cup"]}})
    return {}, ["train/images/a.png"], ["valid/images/c.png"]


def flat(root):
    """The export of Label Studio, and that of X-AnyLabeling: no splits, and a file of names."""
    paint(root, "images/a.png")
    write(root, {"labels/a.txt": CUP, "labels/classes.txt": "cup\ntable\n", "classes.txt": "cup\ntable\n", "notes.json": "{}"})
    return {"images": "images", "categories": "classes.txt"}, ["images/a.png"], None


def beside(root):
    """Texts beside the images."""
    paint(root, "photos/train/a.png", "photos/val/c.png")
    write(root, {"photos/train/a.txt": CUP, "photos/train/notes.txt": "by hand", "photos/val/c.txt": CUP, "names.yml": {"names": ["cup"]}})
    return {"data": "names.yml", "images": "photos/{split}"}, ["photos/train/a.png"], ["photos/val/c.png"]


@pytest.mark.parametrize("layout", [roboflow, cvat, colab, flat, beside])
def test_every_layout_is_found(layout, tmp_path):
    root = tmp_path / "export"
    options, *expected = layout(root)
    for split, images in zip(("train", "val"), expected, strict=True):
        if images is not None:
            dataset = load("own_yolo", split, root, cache_dir=tmp_path, **options)
            assert described(dataset) == [(image, [(0, [0, 0])]) for image in images]


def test_images_without_objects_are_left_out_of_training_unless_asked_for(root, tmp_path):
    paint(root, "images/train/d.png", "images/val/d.png")
    write(root, {"labels/val/d.txt": "\n"})
    for split, options, number in (("train", {}, 2), ("train", {"keep_empty": True}, 3), ("val", {}, 2), ("val", {"keep_empty": False}, 1)):
        assert len(load("own_yolo", split, root, cache_dir=tmp_path, **options)) == number


def test_a_file_that_is_changed_is_read_again(root, tmp_path):
    assert len(load("own_yolo", "train", root, cache_dir=tmp_path)[1].segments) == 1
    write(root, {"labels/train/b.txt": CUP + TABLE})
    assert len(load("own_yolo", "train", root, cache_dir=tmp_path)[1].segments) == 2
    paint(root, "images/train/c.png")
    write(root, {"labels/train/c.txt": CUP})
    assert len(load("own_yolo", "train", root, cache_dir=tmp_path)) == 3


def lines(text):
    return lambda root: write(root, {"labels/train/b.txt": text})


BROKEN = {
    "box": (lines("0 0.5 0.5 0.2 0.2"), "line 1: expected the outline of an object, got a box of 4 numbers; export the dataset for segm"),
    "corners": (lines("\n0 0 0 1 1"), "line 2: expected the outline"),
    "odd": (lines("0 0 0 1 0 1 1 0.9"), "line 1: expected x, y of at least 3 corners after the category, got 7 numbers"),
    "short": (lines("0"), "line 1: expected x, y of at least 3 corners after the category, got 0 numbers"),
    "pixels": (
        lines("0 0 0 320 0 320 240"),
        "line 1: expected corners from 0 to 1, as shares of the width and height of the image, got 320",
    ),
    "not finite": (lines("0 0 0 nan 0 1 1"), "line 1: expected corners from 0 to 1, .*got nan"),
    "text": (lines("cup 0 0 1 0 1 1"), "line 1: expected numbers, .*'cup'"),
    "comma": (lines("0 0,0 1,0 1,1"), "line 1: expected numbers, .*'0,0'"),
    "category": (lines("2 0 0 1 0 1 1"), "line 1: the category 2 is not in data.yaml, which has 0, 1"),
    "fraction": (lines("0.5 0 0 1 0 1 1"), "line 1: expected a whole number as category, got 0.5"),
    "encoding": (
        lambda root: (root / "labels/train/b.txt").write_bytes(b"0 \xff\xff\xff"),
        "labels/train/b.txt is not UTF-8 or UTF-16 .*save it as UTF-8",
    ),
    "lost image": (lambda root: (root / "images/train/b.png").unlink(), "there is no image of this name"),
    "broken image": (lambda root: (root / "images/train/b.png").write_text("x"), "image images/train/b.png cannot be read"),
    "two images": (
        lambda root: shutil.copy(root / "images/train/b.png", root / "images/train/b.jpg"),
        "images/train/b.jpg and images/train/b.png have the same text file",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_or_left_out(case, root, tmp_path):
    change, message = BROKEN[case]
    change(root)
    with pytest.raises(ValueError, match=f"own_yolo train: labels/train/b.txt: {message}.*docs page Own data"):
        list(load("own_yolo", "train", root, cache_dir=tmp_path, streaming=True))
    skipped = load("own_yolo", "train", root, cache_dir=tmp_path, streaming=True, on_error="skip")
    assert [sample.image_id for sample in skipped] == ["images/train/a.png"]


def test_a_broken_line_costs_the_object_alone(root, tmp_path, capsys):
    write(root, {"labels/train/b.txt": "0 1 1\n" + CUP})
    assert [len(sample.segments) for sample in load("own_yolo", "train", root, cache_dir=tmp_path, on_error="skip")] == [2, 1]
    assert (
        "1 broken objects are left out of records that are kept, the first: own_yolo train: labels/train/b.txt: line 1"
        in capsys.readouterr().err
    )


NAMES = {
    "no names": ({"train": "images/train"}, "data.yaml: names: expected the names of the categories, got None"),
    "number": ({"names": ["cup", 10]}, "data.yaml: names: expected a text as the name of 1, got 10; write it in quotes"),
    "yes": (
        "names: [cup, no]",
        "data.yaml: names: expected a text as the name of 1, got False; write it in quotes, without which YAML reads yes, no",
    ),
    "nc": ({"names": ["cup"], "nc": 2}, "data.yaml: names has 1 categories, but nc says 2"),
    "twice": ({"names": ["cup", "cup"]}, "data.yaml: the name 'cup' is given twice"),
    "background": ({"names": ["cup", "background"]}, "data.yaml: a category is named 'background'"),
    "no YAML": ("names: [cup", "data.yaml is no YAML .*; correct it, or export it again"),
    "no keys": ("cup", "data.yaml: expected keys such as names and train, got 'cup'"),
    "folder": ({"names": ["cup"], "train": "photos"}, "data.yaml says that the images of train are in 'photos', which is not in"),
    "type of folder": ({"names": ["cup"], "train": 7}, "data.yaml says that the images of train are in 7, which is not in"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_and_folders_that_are_none_are_refused(case, root, tmp_path):
    content, message = NAMES[case]
    write(root, {"data.yaml": content})
    if "folder" in case:
        (root / "images/train").rename(root / "images/other")
    for options in ({}, {"on_error": "skip"}):
        with pytest.raises(ValueError, match=f"own_yolo train: {message}.*docs page Own data"):
            list(load("own_yolo", "train", root, cache_dir=tmp_path, streaming=True, **options))


def test_files_that_are_absent_are_named(root, tmp_path):
    with pytest.raises(ValueError, match="own_yolo week_2: .*images/week_2 or week_2/images; give their folder as images="):
        load("own_yolo", "week_2", root, cache_dir=tmp_path)
    shutil.rmtree(root / "labels/train")
    with pytest.raises(
        ValueError, match="own_yolo train: no text files in labels/train: that of images/train/a.png should be labels/train/a.txt"
    ):
        load("own_yolo", "train", root, cache_dir=tmp_path)
    (root / "data.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="own_yolo train: there is no data.yaml in"):
        load("own_yolo", "train", root, cache_dir=tmp_path)
