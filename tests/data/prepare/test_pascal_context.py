"""Maps of Pascal Context from .mat files as the published ones have them: drawn, and going back from the maps of the sample."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from psalm_hf.cli import prepare
from psalm_hf.data.benchmarks.pascal_context import LABELS_OF_59
from tests.conftest import SAMPLES


def main(arguments):
    return prepare.main(["pascal_context", *arguments])


LABELS = np.array([[0, 1, 2], [458, 459, 9]], dtype=np.uint16)  # accordion and wool are none of the 59


@pytest.fixture
def root(tmp_path):
    voc = tmp_path / "VOCdevkit/VOC2010"
    for folder in ("JPEGImages", "trainval", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    add(voc, "val", "a", LABELS)
    return tmp_path / "VOCdevkit"


def add(voc, split, name, labels):
    Image.new("RGB", labels.shape[::-1]).save(voc / f"JPEGImages/{name}.jpg")
    savemat(voc / f"trainval/{name}.mat", {"LabelMap": labels}, do_compression=True)
    with open(voc / f"ImageSets/Main/{split}.txt", "a", encoding="utf-8") as file:
        file.write(f"{name}\n")


def maps(output, folder, name):
    return [
        np.asarray(Image.open(output / f"annotations_ctx{number}/{folder}/{name}.{end}")) for number, end in ((459, "tif"), (59, "png"))
    ]


def test_labels_become_positions_and_the_rest_unlabelled(root, tmp_path, capsys):
    output = tmp_path / "d2"
    assert main([str(root), str(output), "--splits", "val"]) == 0
    full, few = maps(output, "validation", "a")
    assert full.dtype == np.uint16 and full.tolist() == [[65535, 0, 1], [457, 458, 8]]
    assert few.dtype == np.uint8 and few.tolist() == [[255, 255, 0], [58, 255, 1]]
    assert (output / "images/validation/a.jpg").is_file()
    capsys.readouterr()
    assert main([str(root), str(output), "--splits", "val"]) == 0
    assert capsys.readouterr().out.count("0 written, 1 kept") == 3


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "a.mat: does not exist"),
        ({"Labels": LABELS}, "a.mat: cannot be read, or has no LabelMap"),
        ({"LabelMap": LABELS + np.uint16(1)}, "expected labels 0 to 459, got uint16 up to 460"),
        ({"LabelMap": LABELS / 2}, "expected labels 0 to 459, got float64"),
    ],
)
def test_what_is_no_label_file_is_named(content, message, root, tmp_path, capsys):
    path = root / "VOC2010/trainval/a.mat"
    path.unlink()
    if content is not None:
        savemat(path, content)
    assert main([str(root), str(tmp_path / "d2"), "--splits", "val"]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_list_is_named(root, tmp_path, capsys):
    assert main([str(root), str(tmp_path / "d2")]) == 2
    assert "ImageSets/Main/train.txt: does not exist" in capsys.readouterr().err


@pytest.mark.samples
def test_real_maps_come_back(tmp_path):
    published, voc = SAMPLES / "pascal_ctx_d2", tmp_path / "VOCdevkit/VOC2010"
    for folder in ("JPEGImages", "trainval", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    for split, folder in (("train", "training"), ("val", "validation")):
        for path in sorted((published / f"annotations_ctx459/{folder}").iterdir()):
            full = np.asarray(Image.open(path))
            add(voc, split, path.stem, np.where(full == 65535, 0, full + np.uint16(1)).astype(np.uint16))
    assert main([str(voc.parent), str(tmp_path / "d2")]) == 0
    for folder in ("training", "validation"):
        for path in (published / f"annotations_ctx459/{folder}").iterdir():
            full, few = maps(tmp_path / "d2", folder, path.stem)
            expected_full, expected_few = maps(published, folder, path.stem)
            assert np.array_equal(full, expected_full)
            # Where a label is one of the 59, both of the sample's maps agree with the rule; the merged ones may know more.
            exact = np.isin(expected_full, np.array(LABELS_OF_59) - 1)
            assert np.array_equal(few != 255, exact)
            known = exact & (expected_few != 255)
            assert known.any() and np.array_equal(few[known], expected_few[known])
