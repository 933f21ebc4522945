"""The layout of open-vocabulary evaluation is that of the public script."""

import filecmp

import numpy as np
import pytest
from PIL import Image

from psalm_hf.cli import prepare
from tests.conftest import SAMPLES


def main(arguments):
    return prepare.main(["pascal_voc", *arguments])


CLASSES = np.array([[0, 1, 255], [20, 2, 0]], dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    voc = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(voc / "JPEGImages/a.jpg")
    picture = Image.fromarray(CLASSES, mode="P")
    picture.putpalette([255 - number % 256 for number in range(768)])
    picture.save(voc / "SegmentationClass/a.png")
    (voc / "ImageSets/Segmentation/val.txt").write_text("a\n", encoding="utf-8")
    return tmp_path / "VOCdevkit"


def test_indices_become_grey_with_and_without_background(root, tmp_path, capsys):
    output = tmp_path / "d2"
    assert main([str(root), str(output), "--splits", "val"]) == 0
    assert np.asarray(Image.open(output / "annotations_pascal21/validation/a.png")).tolist() == CLASSES.tolist()
    assert np.asarray(Image.open(output / "annotations_pascal20/validation/a.png")).tolist() == [[255, 0, 255], [19, 1, 255]]
    assert filecmp.cmp(output / "images/validation/a.jpg", root / "VOC2012/JPEGImages/a.jpg", shallow=False)
    capsys.readouterr()
    assert main([str(root), str(output), "--splits", "val"]) == 0
    assert capsys.readouterr().out.count("0 written, 1 kept") == 3


def test_what_is_wrong_is_named(root, tmp_path, capsys):
    assert main([str(root), str(tmp_path / "d2")]) == 2
    assert "ImageSets/Segmentation/train.txt: does not exist" in capsys.readouterr().err
    path = root / "VOC2012/SegmentationClass/a.png"
    Image.open(path).convert("RGB").save(path)
    assert main([str(root), str(tmp_path / "d2"), "--splits", "val"]) == 2
    assert "SegmentationClass/a.png: expected palette indices" in capsys.readouterr().err


@pytest.mark.samples
def test_real_files_are_those_of_the_public_script(tmp_path):
    published = SAMPLES / "pascal_voc_d2"
    assert main([str(SAMPLES / "VOCdevkit"), str(tmp_path)]) == 0
    expected = sorted(path.relative_to(published) for path in published.rglob("*.*"))
    assert expected == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    for relative in expected:
        made, theirs = (Image.open(folder / relative) for folder in (tmp_path, published))
        assert made.mode == theirs.mode and np.array_equal(np.asarray(made), np.asarray(theirs))
