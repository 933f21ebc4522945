"""The files derived from ADE20K are the published ones, but for the ids that those draw by chance."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from psalm_hf.cli import prepare
from tests.conftest import SAMPLES


def main(arguments):
    return prepare.main(["ade20k", *arguments])


OBJECT_INFO = "Idx\tRatio\tTrain\tVal\tName\n" + "".join(f"{number}\t0\t0\t0\tname {number}\n" for number in range(1, 151))
LABELS = np.array([[1, 1, 0], [3, 8, 8]], dtype=np.uint8)  # wall, sky, and beds, which are things
OBJECTS = np.zeros((2, 3, 3), dtype=np.uint8)
OBJECTS[1, 0], OBJECTS[1, 1], OBJECTS[1, 2] = (1, 2, 0), (1, 1, 0), (1, 2, 0)  # two beds, one of them over the sky
BED = 204 + 256 * 5 + 65536 * 255


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for kind in ("images", "annotations", "annotations_instance"):
        (root / kind / "validation").mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(root / "images/validation/x.jpg")
    Image.fromarray(LABELS).save(root / "annotations/validation/x.png")
    Image.fromarray(OBJECTS).save(root / "annotations_instance/validation/x.png")
    (root / "objectInfo150.txt").write_text(OBJECT_INFO, encoding="utf-8")
    return root


def ids_of(path):
    pixels = np.asarray(Image.open(path)).astype(int)
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_objects_lie_over_stuff_and_have_ids_of_their_own(root):
    assert main([str(root), "--splits", "val"]) == 0
    wall, sky = 120 + 256 * 120 + 65536 * 120, 6 + 256 * 230 + 65536 * 230
    assert ids_of(root / "ade20k_panoptic_val/x.png").tolist() == [[wall, wall, 0], [BED + 1, BED, BED + 1]]
    (annotation,) = read(root / "ade20k_panoptic_val.json")["annotations"]
    infos = [(info["id"], info["category_id"], info["area"], info["bbox"]) for info in annotation["segments_info"]]
    assert infos == [(wall, 0, 2, [0, 0, 2, 1]), (sky, 2, 1, [0, 1, 1, 1]), (BED, 7, 1, [1, 1, 1, 1]), (BED + 1, 7, 2, [0, 1, 3, 1])]
    assert np.asarray(Image.open(root / "annotations_detectron2/validation/x.png")).tolist() == [[0, 0, 255], [2, 7, 7]]
    annotations = read(root / "ade20k_instance_val.json")["annotations"]
    assert [(entry["id"], entry["image_id"], entry["category_id"], entry["area"]) for entry in annotations] == [
        (1, "x", 7, 1),
        (2, "x", 7, 2),
    ]


def test_what_exists_is_kept_and_counted_unless_it_is_to_be_overwritten(root, capsys):
    arguments = [str(root), "--splits", "val"]
    assert main(arguments) == 0
    written = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    stamps = {path: path.stat().st_mtime_ns for path in written}
    capsys.readouterr()
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "0 written, 1 kept" in output and "ade20k_instance_val.json: kept" in output
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert main([*arguments, "--overwrite"]) == 0
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == written


@pytest.mark.parametrize(
    "relative, message",
    [
        ("annotations_instance/validation/x.png", "annotations_instance/validation/x.png: does not exist; download"),
        ("images/validation/x.jpg", "images/validation: no files"),
    ],
)
def test_a_missing_file_is_named_and_nothing_half_is_left(relative, message, root, capsys):
    (root / relative).unlink()
    assert main([str(root), "--splits", "val", "--kinds", "panoptic"]) == 2
    assert message in capsys.readouterr().err
    assert not (root / "ade20k_panoptic_val.json").exists() and not list(root.rglob(".*"))


def test_a_map_of_another_size_is_named(root, capsys):
    Image.new("RGB", (4, 2)).save(root / "images/validation/x.jpg")
    assert main([str(root), "--splits", "val", "--kinds", "instance"]) == 2
    assert "x.png: is 2 x 3, but its image is 2 x 4" in capsys.readouterr().err


@pytest.mark.samples
def test_real_files_are_the_published_ones(tmp_path):
    published, root = SAMPLES / "ADEChallengeData2016", tmp_path / "ADEChallengeData2016"
    for kind in ("images", "annotations", "annotations_instance"):
        shutil.copytree(published / kind, root / kind)
    shutil.copy(published / "objectInfo150.txt", root)
    assert main([str(root)]) == 0
    for path in (published / "annotations_detectron2").rglob("*.png"):
        made = np.asarray(Image.open(root / path.relative_to(published)))
        assert np.array_equal(made, np.asarray(Image.open(path))) and made.dtype == np.uint8
    for split in ("train", "val"):
        assert read(root / f"ade20k_instance_{split}.json") == read(published / f"ade20k_instance_{split}.json")
        made, expected = (read(folder / f"ade20k_panoptic_{split}.json") for folder in (root, published))
        assert (made["images"], made["categories"]) == (expected["images"], expected["categories"])
        for ours, theirs in zip(made["annotations"], expected["annotations"], strict=True):
            assert ours["image_id"] == theirs["image_id"] and ours["file_name"] == theirs["file_name"]
            our_ids, their_ids = (ids_of(folder / f"ade20k_panoptic_{split}" / ours["file_name"]) for folder in (root, published))
            assert np.array_equal(our_ids == 0, their_ids == 0)
            seen = set()
            for our_info, their_info in zip(ours["segments_info"], theirs["segments_info"], strict=True):
                assert {**our_info, "id": 0} == {**their_info, "id": 0}
                assert np.array_equal(our_ids == our_info["id"], their_ids == their_info["id"])
                if our_info["category_id"] not in seen:  # the first one of a category has its colour; others are drawn by chance
                    assert our_info["id"] == their_info["id"]
                seen.add(our_info["category_id"])
