"""The files derived from Cityscapes are those of cityscapesScripts."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from psalm_hf.cli import prepare
from tests.conftest import SAMPLES


def main(arguments):
    return prepare.main(["cityscapes", *arguments])


INSTANCES = np.array([[7, 4, 24], [24001, 29000, 65535]], dtype=np.uint16)
LABELS = np.array([[7, 4, 24], [24, 29, 255]], dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "cityscapes/gtFine/val/ulm"
    folder.mkdir(parents=True)
    Image.fromarray(INSTANCES).save(folder / "ulm_0_1_gtFine_instanceIds.png")
    Image.fromarray(LABELS).save(folder / "ulm_0_1_gtFine_labelIds.png")
    return tmp_path / "cityscapes"


def test_what_is_not_evaluated_is_255_and_0_and_groups_are_crowds(root, capsys):
    assert main([str(root), "--splits", "val"]) == 0
    ground_truth = root / "gtFine"
    assert np.asarray(Image.open(ground_truth / "val/ulm/ulm_0_1_gtFine_labelTrainIds.png")).tolist() == [[0, 255, 11], [11, 255, 255]]
    pixels = np.asarray(Image.open(ground_truth / "cityscapes_panoptic_val/ulm_0_1_gtFine_panoptic.png")).astype(int)
    assert (pixels[..., 0] + 256 * pixels[..., 1]).tolist() == [[7, 0, 24], [24001, 0, 0]]
    content = json.loads((ground_truth / "cityscapes_panoptic_val.json").read_text(encoding="utf-8"))
    infos = [(info["id"], info["category_id"], info["iscrowd"]) for info in content["annotations"][0]["segments_info"]]
    assert infos == [(7, 7, 0), (24, 24, 1), (24001, 24, 0)] and len(content["categories"]) == 19
    capsys.readouterr()
    assert main([str(root), "--splits", "val"]) == 0
    assert "labelTrainIds val: 0 written, 1 kept" in (output := capsys.readouterr().out) and "panoptic_val: 0 written, 1 kept" in output


def test_another_folder_and_another_file_are_named(root, capsys):
    assert main([str(root), "--splits", "train"]) == 2
    assert "gtFine/train: no files" in capsys.readouterr().err
    Image.fromarray(INSTANCES + np.uint16(40)).save(root / "gtFine/val/ulm/ulm_0_1_gtFine_instanceIds.png")
    assert main([str(root), "--splits", "val"]) == 2
    assert "ulm_0_1_gtFine_instanceIds.png: the value" in capsys.readouterr().err


@pytest.mark.samples
def test_real_files_are_those_of_the_public_tool(tmp_path):
    published, root = SAMPLES / "cityscapes/gtFine", tmp_path / "gtFine"
    for kind in ("labelIds", "instanceIds"):
        for path in published.glob(f"*/*/*_{kind}.png"):
            (root / path.relative_to(published)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path.relative_to(published))
    assert main([str(tmp_path)]) == 0
    expected = [*published.glob("*/*/*_labelTrainIds.png"), *published.glob("cityscapes_panoptic_*/*.png")]
    assert expected
    for path in expected:
        made, theirs = (np.asarray(Image.open(folder)) for folder in (root / path.relative_to(published), path))
        assert np.array_equal(made, theirs) and made.dtype == theirs.dtype
    for split in ("train", "val"):
        made, theirs = ((folder / f"cityscapes_panoptic_{split}.json").read_text(encoding="utf-8") for folder in (root, published))
        assert made == theirs
