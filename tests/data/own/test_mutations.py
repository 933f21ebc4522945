"""Files of own data that are broken at random: what loads is right, and what does not is named; with `on_error="skip"` it is counted."""

import copy
import json
import random
import re
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pycocotools import mask as coco

from psalm_hf.data.features import ROW_FEATURES
from psalm_hf.data.load import dataset_builder
from psalm_hf.masks import bitmap_from_rle

SIZE = (12, 16)
COCO = {
    "images": [{"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]} for number in (1, 2, 3)],
    "annotations": [
        {"id": 10, "image_id": 1, "category_id": 7, "iscrowd": 0, "area": 24, "segmentation": [[1, 1, 9, 1, 9, 4, 1, 4]]},
        {"id": 11, "image_id": 1, "category_id": 9, "iscrowd": 0, "segmentation": {"size": list(SIZE), "counts": [20, 30, 142]}},
        {"id": 12, "image_id": 2, "category_id": 9, "iscrowd": 1, "segmentation": {"size": list(SIZE), "counts": "d0n0^4"}},
        {"id": 13, "image_id": 2, "category_id": 7, "iscrowd": 0, "segmentation": [[0, 0, 5, 0, 5, 5], [8.5, 2, 12, 2, 12, 9.25]]},
    ],
    "categories": [{"id": 7, "name": "cup", "supercategory": ""}, {"id": 9, "name": "table", "isthing": 1}],
}
VALUES = [None, True, False, 0, 1, -1, 2, 7, 9, 10**9, 2**63, 2**70, 0.5, 1e300, float("nan"), float("inf"), "", "1", "0", "cup", "x" * 300]
VALUES += [
    "background",
    "<image>",
    "\ud800",
    "..",
    "a\\b.png",
    "/etc/passwd",
    [],
    [[]],
    [1],
    {},
    {"a": 1},
    [[[[[0]]]]],
    {"size": [12, 16]},
    "deep",
]
RUNS = [pytest.param(50, id="50"), pytest.param(1250, id="1250", marks=pytest.mark.slow)]  # of each way to treat errors


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "mydata"
    for folder in ("annotations", "images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in (1, 2, 3):
        Image.new("RGB", SIZE[::-1]).save(root / f"images/{number}.png")
    return root


def nodes(value, path=()):
    """Paths of all values below a value."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        yield from nodes(below, (*path, key))


def mutated(content, rng):
    """Copy of a JSON value in which one to three values are others, are absent or come twice."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        path = rng.choice([path for path in nodes(content) if path])
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        what = rng.random()
        if what < 0.2:
            del parent[path[-1]]
        elif what < 0.3 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        else:
            value = rng.choice(VALUES)
            parent[path[-1]] = copy.deepcopy(nested() if value == "deep" else value)
    return content


def nested(depth=300):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def opened(name, root, tmp_path, on_error, number):
    """Builder, its rows, and its error; one of the two is None. (`load` costs a hundred times as much, and adds the cache alone.)"""
    try:
        builder = dataset_builder(name)(
            cache_dir=str(tmp_path / str(number)), config_name=name, data_dir=str(root), split="train", on_error=on_error
        )
        generators = builder._split_generators(None)
        rows = [row for _, row in builder._generate_examples(**generators[0].gen_kwargs)]
        pa.Table.from_pylist(rows, schema=ROW_FEATURES.arrow_schema)
        return builder, rows, None
    except ValueError as error:
        assert name in str(error) and str(error).strip(), error
        return None, None, str(error)


def drawn_by_pycocotools(segmentation):
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], str):
            return coco.decode(segmentation | {"counts": segmentation["counts"].encode()}).astype(bool)
        segmentation = [coco.frPyObjects(segmentation, *SIZE)]
    else:
        segmentation = coco.frPyObjects(segmentation, *SIZE)
    return coco.decode(coco.merge(segmentation)).astype(bool)


def check_coco(rows, builder, content):
    """Every segment is the one that the file has at this place, and no object is there that the file does not have."""
    names = {category.id: category.name for category in builder.categories}
    for row in rows:
        (image,) = (image for image in content["images"] if isinstance(image, dict) and str(image.get("id")) == row["image_id"])
        assert row["image"]["path"].endswith(image["file_name"].replace("\\", "/")) and row["image_size"] == list(SIZE)
        annotations = iter([each for each in content["annotations"] if isinstance(each, dict) and each.get("image_id") == image["id"]])
        for segment in row["segments"]:
            annotation = next(each for each in annotations if is_segment(each, segment, names, content))
            assert np.array_equal(bitmap_from_rle(segment["mask"]), drawn_by_pycocotools(annotation["segmentation"]))


def is_segment(annotation, segment, names, content):
    found = [
        entry.get("name") for entry in content["categories"] if isinstance(entry, dict) and entry.get("id") == annotation.get("category_id")
    ]
    same_name = isinstance(found[0] if found else None, str) and found[0].strip() == names[segment["category_id"]]
    same_crowd = annotation.get("iscrowd") in ([1, "1", True] if segment["is_crowd"] else [0, "0", False, None])
    try:
        return (
            same_name and same_crowd and np.array_equal(bitmap_from_rle(segment["mask"]), drawn_by_pycocotools(annotation["segmentation"]))
        )
    except Exception:
        return False


@pytest.mark.parametrize("runs", RUNS)
def test_a_mutated_coco_file_is_read_right_or_named(runs, root, tmp_path, capsys):
    rng = random.Random(0)
    outcomes = []
    for number in range(runs):
        content = mutated(COCO, rng)
        text = json.dumps(content)
        if rng.random() < 0.05:
            text = text[: rng.randrange(len(text))]
        (root / "annotations/train.json").write_text(text, encoding="utf-8")
        builder, rows, error = opened("own_coco", root, tmp_path, "raise", f"{number}r")
        if error is None:
            check_coco(rows, builder, content)
            outcomes.append("read")
        else:
            assert "annotations/train.json" in error and "docs page Own data" in error, error
        capsys.readouterr()
        builder, kept, skip_error = opened("own_coco", root, tmp_path, "skip", f"{number}s")
        printed = capsys.readouterr().err + "".join(builder.notes if builder else ())
        if error is None:
            assert skip_error is None and kept == rows and "left out" not in printed.replace("by Roboflow", "")
        elif skip_error is None:
            check_coco(kept, builder, content)
            assert re.search(r"records are broken and left out|objects are left out|is left out", printed), (error, printed)
            outcomes.append("skipped")
    assert {"read", "skipped"} <= set(outcomes)


PAIRS = {1: [[0, 0, 1, 255]], 2: [[1, 2, 2, 0]], 3: [[2, 2, 2, 2]]}
LINES = ["0\troad", "1\tcar", "2\ttree"]
MARKS = [
    "",
    "road",
    "-1\tx",
    "1\tx",
    "7\tx",
    "1,x",
    "a:1,2,3::",
    "\ufeff",
    "x" * 500,
    "<region>",
    "background",
    f"{2**70}\tx",
    "\x00",
    "3 x",
    "\t",
    ",",
    "# x",
]


def mutated_pairs(root, rng):
    """Files of three pairs, one to two of which are broken. Returns the numbers in each map that can be read."""
    lines = list(LINES)
    maps = {number: np.repeat(np.repeat(np.array(rows, np.uint8), 12, 0), 4, 1) for number, rows in PAIRS.items()}
    faults = [rng.choice(("line", "value", "size", "mode", "bytes", "absent", "none")) for _ in range(rng.choice((1, 2)))]
    for number, labels in maps.items():
        Image.fromarray(labels).save(root / f"masks/{number}.png")
    for fault in faults:
        number = rng.choice((1, 2, 3))
        path = root / f"masks/{number}.png"
        if fault == "line":
            lines[rng.randrange(len(lines))] = rng.choice(MARKS)
        elif fault == "value":
            maps[number] = maps[number].copy()
            maps[number][: rng.randrange(1, 12), : rng.randrange(1, 16)] = rng.choice((0, 1, 2, 3, 200, 255))
            Image.fromarray(maps[number]).save(path)
        elif fault == "size":
            Image.fromarray(maps[number][:-1]).save(path)
        elif fault == "mode":
            Image.fromarray(maps[number]).convert(rng.choice(("RGB", "RGBA", "LA", "F", "1"))).save(path, format="TIFF")
        elif fault == "bytes":
            content = path.read_bytes()
            path.write_bytes(content[: rng.randrange(len(content))])
        elif fault == "absent":
            path.unlink(missing_ok=True)
            break
    (root / "categories.txt").write_bytes("\n".join(lines).encode("utf-8") if rng.random() > 0.05 else b"\xff\xfe" + bytes(9))
    return maps, faults


@pytest.mark.parametrize("runs", RUNS)
def test_mutated_pairs_are_read_right_or_named(runs, root, tmp_path, capsys):
    rng = random.Random(1)
    outcomes = []
    for number in range(runs):
        maps, faults = mutated_pairs(root, rng)
        builder, rows, error = opened("own_pairs", root, tmp_path, "raise", f"{number}r")
        if error is None:
            check_pairs(rows, builder, maps, faults)
            outcomes.append("read")
        else:
            assert re.search(r"(categories\.txt|(masks|images)/\d\.png)", error) and "docs page Own data" in error, error
        capsys.readouterr()
        builder, kept, skip_error = opened("own_pairs", root, tmp_path, "skip", f"{number}s")
        printed = capsys.readouterr().err
        if error is None:
            assert skip_error is None and kept == rows and "left out" not in printed
        elif skip_error is None:
            check_pairs(kept, builder, maps, faults)
            lost = [int(found) for found in re.findall(r"(\d+) of \d+ records are broken and left out", printed)]
            assert sum(lost) == 3 - len(kept) > 0
            outcomes.append("skipped")
    assert {"read", "skipped"} <= set(outcomes)


def check_pairs(rows, builder, maps, faults):
    names = [category.name for category in builder.categories]
    assert len(set(names)) == len(names) and len(rows) <= 3
    for row in islice(rows, 0 if "mode" in faults else None):
        labels = maps[int(row["image_id"])]
        found = {segment["category_id"]: segment["map_values"] for segment in row["segments"]}
        assert found == {value: [value] for value in np.unique(labels).tolist() if value != 255}
