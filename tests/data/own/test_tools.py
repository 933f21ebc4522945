"""Exports of annotation tools, written by hand in the layout of each tool: verified and loaded with the options of docs/own_data.md."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from psalm_hf.cli import verify as command
from psalm_hf.data import load
from psalm_hf.masks import area

PAGE = (Path(__file__).parents[3] / "docs/own_data.md").read_text(encoding="utf-8")
SIZE = (8, 10)
SQUARE = [1.0, 1.0, 4.0, 1.0, 4.0, 5.0, 1.0, 5.0]  # 12 pixels


def photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (20, 90, 20)).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def cvat_coco(root):
    """CVAT "COCO 1.0": a polygon, and a mask of the brush, which is a crowd."""
    photograph(root / "images/street.jpg")
    image = {
        "id": 1,
        "width": 10,
        "height": 8,
        "file_name": "street.jpg",
        "license": 0,
        "flickr_url": "",
        "coco_url": "",
        "date_captured": 0,
    }
    common = {"image_id": 1, "attributes": {"occluded": False, "rotation": 0.0}}
    polygon = {"id": 1, "category_id": 1, "segmentation": [SQUARE], "area": 12.0, "bbox": [1.0, 1.0, 3.0, 4.0], "iscrowd": 0}
    brush = {
        "id": 2,
        "category_id": 2,
        "segmentation": {"counts": [40, 6, 34], "size": [8, 10]},
        "area": 6,
        "bbox": [5, 0, 1, 6],
        "iscrowd": 1,
    }
    labels = [{"id": 1, "name": "car", "supercategory": ""}, {"id": 2, "name": "tree", "supercategory": ""}]
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": labels,
        "images": [image],
        "annotations": [polygon | common, brush | common],
    }
    write(root / "annotations/instances_default.json", content)


def cvat_mask(root):
    """CVAT "Segmentation mask 1.1": colours of classes, in RGB and with a palette."""
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[1:5, 1:4], colours[:6, 5] = (250, 50, 83), (51, 221, 255)
    indices = np.zeros(SIZE, np.uint8)
    indices[1:5, 1:4], indices[:6, 5] = 2, 1
    with_palette = Image.fromarray(indices)
    with_palette.putpalette([0, 0, 0, 51, 221, 255, 250, 50, 83])
    for name, mask in (("a", Image.fromarray(colours)), ("b", with_palette)):
        photograph(root / f"JPEGImages/{name}.jpg")
        for folder in ("SegmentationClass", "SegmentationObject"):
            (root / folder).mkdir(exist_ok=True)
            mask.save(root / f"{folder}/{name}.png")
    write(root / "ImageSets/Segmentation/default.txt", "a\nb\n")
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,83::\ntree:51,221,255::\n")


def roboflow(root):
    """Roboflow "COCO Segmentation": annotations beside the images of a split; the project is category 0; ids begin with 0."""
    for split in ("train", "valid"):
        photograph(root / split / "street_jpg.rf.0a1b2c.jpg")
        image = {
            "id": 0,
            "license": 1,
            "file_name": "street_jpg.rf.0a1b2c.jpg",
            "height": 8,
            "width": 10,
            "date_captured": "2024-05-01T10:00:00",
        }
        objects = [
            {"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 3, 4], "area": 12, "segmentation": [SQUARE], "iscrowd": 0},
            {
                "id": 1,
                "image_id": 0,
                "category_id": 2,
                "bbox": [5, 0, 1, 6],
                "area": 6,
                "segmentation": [[5, 0, 6, 0, 6, 6, 5, 6]],
                "iscrowd": 0,
            },
        ]
        names = [("streets", "none"), ("car", "streets"), ("tree", "streets")]
        labels = [{"id": number, "name": name, "supercategory": above} for number, (name, above) in enumerate(names)]
        content = {"info": {"year": "2024"}, "licenses": [], "categories": labels, "images": [image], "annotations": objects}
        write(root / split / "_annotations.coco.json", content)


def roboflow_mask(root):
    """Roboflow "Semantic Segmentation Masks": images and masks in one folder, with a table of classes."""
    labels = np.zeros(SIZE, np.uint8)
    labels[1:5, 1:4], labels[:6, 5] = 1, 2
    photograph(root / "train/street_jpg.rf.0a1b2c.jpg")
    Image.fromarray(labels).save(root / "train/street_jpg.rf.0a1b2c_mask.png")
    write(root / "train/_classes.csv", "Pixel Value, Class\n0, background\n1, car\n2, tree\n")


def label_studio(root):
    """Label Studio "COCO": `result.json`, whose file names begin with the folder of the images; ids begin with 0."""
    photograph(root / "images/0a1b2c3d-street.jpg")
    image = {"width": 10, "height": 8, "id": 0, "file_name": "images\\0a1b2c3d-street.jpg"}
    shared = {"image_id": 0, "ignore": 0, "iscrowd": 0}
    objects = [
        shared | {"id": 0, "category_id": 0, "segmentation": [SQUARE], "bbox": [1.0, 1.0, 3.0, 4.0], "area": 12.0},
        shared | {"id": 1, "category_id": 1, "segmentation": [[5, 0, 6, 0, 6, 6, 5, 6]], "bbox": [5, 0, 1, 6], "area": 6.0},
    ]
    content = {"images": [image], "categories": [{"id": 0, "name": "car"}, {"id": 1, "name": "tree"}], "annotations": objects}
    write(root / "result.json", content | {"info": {"year": 2024, "version": "1.0", "description": "", "contributor": "Label Studio"}})


TOOLS = {
    'CVAT, "COCO 1.0"': cvat_coco,
    'CVAT, "Segmentation mask 1.1"': cvat_mask,
    'Roboflow, "COCO Segmentation"': roboflow,
    'Roboflow, "Semantic Segmentation Masks"': roboflow_mask,
    'Label Studio, "COCO"': label_studio,
}


def options_of(tool):
    """Dataset and options that the table of the page gives for a tool."""
    (cell,) = re.findall(rf"^\| {re.escape(tool)} \| .*`psalm verify (.*?)` \|$", PAGE, flags=re.M)
    name, folder, _, split, *rest = cell.split(" ")
    assert folder == "mydata" and _ == "--split" and rest[:1] in ([], ["--option"])
    return name, split, rest[1:]


@pytest.mark.parametrize("tool", TOOLS)
def test_the_export_of_a_tool_is_verified_and_loaded(tool, tmp_path, capsys):
    TOOLS[tool](tmp_path / "mydata")
    name, split, given = options_of(tool)
    assert command.main([name, str(tmp_path / "mydata"), "--split", split, "--option", *given]) == 0
    assert f"{name} {split}: ok" in capsys.readouterr().out
    options = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in given)}
    dataset = load(name, split, tmp_path / "mydata", cache_dir=tmp_path / "cache", **options)
    names = {category.id: category.name for category in dataset.categories}
    assert list(names.values()) == ["car", "tree"]
    for sample in dataset:
        found = {names[segment.category_id]: area(segment.mask_rle) for segment in sample.segments}
        assert found == {"car": 12, "tree": 6} and not any(segment.is_crowd for segment in sample.segments)


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if TOOLS[tool] in (cvat_coco, roboflow, label_studio)])
def test_a_file_of_another_layout_is_named_with_its_options(tool, tmp_path):
    TOOLS[tool](tmp_path / "mydata")
    with pytest.raises(FileNotFoundError, match=f"as {tool.split(',')[0]} writes it, is there: give annotations=.*images="):
        load("own_coco", "train", tmp_path / "mydata", cache_dir=tmp_path / "cache")
