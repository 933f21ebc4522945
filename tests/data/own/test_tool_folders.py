"""Folders as tools leave them, written by hand in the layout of each: checked with `psalm verify`, and loaded."""

import json

import pytest
from PIL import Image

from psalm_hf.cli.verify import main as verify
from psalm_hf.data import load
from psalm_hf.masks import area
from tests.data.own import test_yolo
from tests.data.own.test_label_studio import BRUSH, region, task
from tests.data.own.test_labelme import encode


def labelme_6(root):
    """Labelme 6.3: a polygon, a rectangle that is turned, a mask of its assistant, a reserved label."""
    common = {"group_id": None, "description": "", "flags": {}, "mask": None}
    shapes = [
        {**common, "label": "cup", "points": [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]], "shape_type": "polygon"},
        {**common, "label": "cup", "points": [[4.0, 0.0], [6.0, 2.0], [4.0, 4.0], [2.0, 2.0]], "shape_type": "oriented_rectangle"},
        {**common, "label": "book", "points": [[0.0, 2.0], [1.0, 3.0]], "shape_type": "mask", "mask": encode(Image.new("1", (2, 2), 1))},
        {**common, "label": "_background_", "points": [[0.0, 0.0], [1.0, 4.0]], "shape_type": "rectangle"},
    ]
    write_labelme(root, shapes, version="6.3.1", imageData=encode(Image.new("RGB", (8, 4))))
    return "own_labelme", {}, [("cup", 2), ("cup", 8), ("book", 2)]


def x_anylabeling(root):
    """X-AnyLabeling 2.4: rectangles with four corners, one that is turned, a group, and the path of an image of Windows."""
    common = {"score": None, "description": "", "difficult": False, "flags": {}, "attributes": {}, "kie_linking": [], "group_id": None}
    half = {**common, "label": "book", "shape_type": "polygon", "group_id": 1}
    shapes = [
        {**common, "label": "cup", "points": [[0, 0], [2, 0], [2, 2], [0, 2]], "shape_type": "rectangle"},
        {**common, "label": "cup", "points": [[4, 0], [6, 2], [4, 4], [2, 2]], "shape_type": "rotation", "direction": 0.785},
        {**half, "points": [[0, 2], [1, 2], [1, 4], [0, 4]]},
        {**half, "points": [[7, 2], [8, 2], [8, 4], [7, 4]]},
    ]
    write_labelme(root, shapes, version="2.4.0", checked=True, imagePath=".\\photos\\a.png", imageData=None)
    return "own_labelme", {}, [("cup", 4), ("cup", 8), ("book", 4)]


def write_labelme(root, shapes, **fields):
    test_yolo.paint(root, "photos/a.png")
    content = {"flags": {}, "shapes": shapes, "imagePath": "photos/a.png", "imageHeight": 4, "imageWidth": 8, **fields}
    (root / "a.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def yolo(layout):
    def write(root):
        options, _, _ = layout(root)
        return "own_yolo", options, [("cup", 8)]

    return write


def label_studio(root):
    test_yolo.paint(root, "images/other.png")
    Image.new("RGB", (6, 4)).save(root / "images/a.png")
    regions = [region("brush", "cup", format="rle", rle=BRUSH), region("rectangle", "book", x=0, y=0, width=50, height=50, rotation=0)]
    (root / "project-1-at-2026-03-01-10-00-9f0c1d2e.json").write_text(json.dumps([task(1, *regions)]), encoding="utf-8")
    return "own_label_studio", {"annotations": "project-1-at-2026-03-01-10-00-9f0c1d2e.json"}, [("cup", 6), ("book", 6)]


TOOLS = {
    "Labelme": labelme_6,
    "X-AnyLabeling": x_anylabeling,
    "Roboflow": yolo(test_yolo.roboflow),
    "CVAT": yolo(test_yolo.cvat),
    "YOLO of Label Studio": yolo(test_yolo.flat),
    "Label Studio": label_studio,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_files_of_a_tool_are_in_order_and_load(tool, tmp_path, capsys):
    root = tmp_path / "export"
    root.mkdir()
    name, options, expected = TOOLS[tool](root)
    given = ["--option", *[f"{option}={value}" for option, value in options.items()]] if options else []
    assert verify([name, str(root), "--split", "train", *given]) == 0
    assert f"{name} train: ok: 1 rows, {len(expected)} segments (0 crowds)" in capsys.readouterr().out
    (sample,) = load(name, "train", root, cache_dir=tmp_path, **options)
    assert [(sample.categories[segment.category_id], area(segment.mask_rle)) for segment in sample.segments] == expected
