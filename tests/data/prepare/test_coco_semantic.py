"""Semantic maps of COCO from its panoptic maps."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from psalm_hf.cli import prepare
from tests.conftest import SAMPLES


def main(arguments):
    return prepare.main(["coco_semantic", *arguments])


IDS = np.array([[0, 300, 300], [7, 7, 70000]])
INFOS = [{"id": 300, "category_id": 90}, {"id": 7, "category_id": 1}, {"id": 70000, "category_id": 200}]


@pytest.fixture
def root(tmp_path):
    for folder in ("annotations", "panoptic_val2017"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.stack([IDS & 255, IDS >> 8 & 255, IDS >> 16], axis=-1).astype(np.uint8)).save(tmp_path / "panoptic_val2017/1.png")
    content = {"categories": [{"id": id} for id in (1, 90, 200)], "annotations": [{"file_name": "1.png", "segments_info": INFOS}]}
    (tmp_path / "annotations/panoptic_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_values_are_positions_of_categories(root, capsys):
    assert main([str(root), "--splits", "val"]) == 0
    assert np.asarray(Image.open(root / "panoptic_semseg_val2017/1.png")).tolist() == [[255, 1, 1], [0, 0, 2]]
    capsys.readouterr()
    assert main([str(root), "--splits", "val"]) == 0
    assert "panoptic_semseg_val2017: 0 written, 1 kept" in capsys.readouterr().out


def test_what_is_wrong_is_named(root, capsys):
    assert main([str(root)]) == 2
    assert "panoptic_train2017.json: does not exist" in capsys.readouterr().err
    (root / "panoptic_val2017/1.png").write_bytes(b"\x89PNG")
    assert main([str(root), "--splits", "val"]) == 2
    assert "panoptic_val2017/1.png cannot be read" in capsys.readouterr().err
    assert not list(root.glob("panoptic_semseg_val2017/.*"))
    (root / "annotations/panoptic_val2017.json").write_text("{}", encoding="utf-8")
    assert main([str(root), "--splits", "val"]) == 2
    assert "panoptic_val2017.json: not the panoptic annotations of COCO" in capsys.readouterr().err


@pytest.mark.samples
def test_real_maps_are_those_of_the_sample(tmp_path):
    published = SAMPLES / "coco"
    for split in ("train", "val"):
        shutil.copytree(published / f"panoptic_{split}2017", tmp_path / f"panoptic_{split}2017")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        shutil.copy(published / f"annotations/panoptic_{split}2017.json", tmp_path / "annotations")
    assert main([str(tmp_path), "--num-proc", "2"]) == 0
    for split in ("train", "val"):
        expected = sorted(path.name for path in (published / f"panoptic_semseg_{split}2017").iterdir())
        assert expected == sorted(path.name for path in (tmp_path / f"panoptic_semseg_{split}2017").iterdir())
        for name in expected:
            made, theirs = (np.asarray(Image.open(folder / f"panoptic_semseg_{split}2017" / name)) for folder in (tmp_path, published))
            assert np.array_equal(made, theirs) and made.dtype == np.uint8
