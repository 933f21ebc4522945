"""The evaluation file for the released scripts: its keys, its order, and the objects that it asks for."""

import json

import numpy as np
import pytest

from psalm_hf.cli import prepare
from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle
from tests.data.benchmarks.test_davis import DAVIS, FIRST, MAPS, SECOND, THIRD, draw_sequence


def main(arguments):
    return prepare.main(["davis", *arguments])


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "DAVIS"
    draw_sequence(root / "2017/trainval", "cat", MAPS[:3], val="cat\ndog\n")
    draw_sequence(root / "2017/trainval", "dog", [SECOND, FIRST])
    return root


def masks(annotations):
    return {annotation["category_id"]: bitmap_from_rle(annotation["segmentation"]) for annotation in annotations}


def test_every_frame_but_the_first_asks_for_the_objects_that_it_shows(root):
    assert main([str(root)]) == 0
    items = json.loads((root / "2017/trainval_val_psalm.json").read_text())
    folder = "2017/trainval/JPEGImages/480p"
    assert [item["image"] for item in items] == [f"{folder}/cat/00001.jpg", f"{folder}/cat/00002.jpg", f"{folder}/dog/00001.jpg"]
    assert [item["new_img_id"] for item in items] == [0, 1, 2] and [item["video_name"] for item in items] == ["cat", "cat", "dog"]
    assert items[1]["first_frame_image"] == f"{folder}/cat/00000.jpg"
    assert items[1]["image_info"] == {"file_name": f"{folder}/cat/00002.jpg", "height": 3, "width": 6}
    assert sorted(masks(items[0]["anns"])) == [1, 2] and sorted(masks(items[1]["anns"])) == [2, 3]
    assert np.array_equal(masks(items[1]["anns"])[2], THIRD == 2) and items[1]["anns"][0]["area"] == 3
    assert sorted(masks(items[1]["first_frame_anns"])) == [2] and np.array_equal(masks(items[1]["first_frame_anns"])[2], FIRST == 2)


def test_what_exists_is_kept(root, capsys):
    assert main([str(root)]) == 0
    file = root / "2017/trainval_val_psalm.json"
    file.write_text("mine")
    assert main([str(root)]) == 0 and file.read_text() == "mine" and "kept" in capsys.readouterr().err
    assert main([str(root), "--overwrite"]) == 0 and len(json.loads(file.read_text())) == 3


def test_a_missing_file_is_named(root, capsys):
    assert main([str(root), "--split", "train"]) == 2
    assert "ImageSets/2017/train.txt does not exist; see docs/datasets/davis.md" in capsys.readouterr().err
    (root / "2017/trainval/Annotations/480p/dog/00001.png").unlink()
    assert main([str(root)]) == 2
    assert "dog/00001.png" in capsys.readouterr().err and not (root / "2017/trainval_val_psalm.json").exists()


@pytest.mark.samples
def test_real_prompts_are_those_of_the_builder(tmp_path):
    (tmp_path / "DAVIS/2017").mkdir(parents=True)
    (tmp_path / "DAVIS/2017/trainval").symlink_to(DAVIS / "2017/trainval")
    assert main([str(tmp_path / "DAVIS")]) == 0
    items = json.loads((tmp_path / "DAVIS/2017/trainval_val_psalm.json").read_text())
    dataset = load("davis2017", "val", DAVIS, cache_dir=tmp_path, oracle=True)
    assert [sample.image for sample in dataset] == [f"{DAVIS}/{item['image']}" for item in items if item["first_frame_anns"]]
    for item, sample in zip([item for item in items if item["first_frame_anns"]], dataset, strict=True):
        assert [region.mask_rle for region in sample.regions] == [entry["segmentation"] for entry in item["first_frame_anns"]]
        assert (item["image_info"]["height"], item["image_info"]["width"]) == sample.image_size
