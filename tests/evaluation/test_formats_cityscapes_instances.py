"""Instances in the files of the Cityscapes script."""

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data.features import Category
from psalm_hf.evaluation.formats.cityscapes_instances import CityscapesInstances
from psalm_hf.masks import bitmap_from_rle
from tests.evaluation.datasets_of_rows import columns, dataset_of, written

CATEGORIES = (Category(26, "car"), Category(28, "bus"))
FORM = CityscapesInstances(CATEGORIES)
DATASET = dataset_of(CATEGORIES, ["ulm_000001_000019", "a/b c"], "instance")
ANSWERS = [
    {"instances": [{"category_id": 28, "score": 1 / 3, "mask": columns(0, 2)}, {"category_id": 26, "score": 1e-7, "mask": columns(0, 6)}]},
    {"instances": []},
]


@pytest.fixture
def folder(tmp_path):
    return written(FORM, tmp_path / "out", DATASET, ANSWERS)


def test_what_is_written_is_read(folder):
    assert FORM.read(folder, DATASET) == dict(enumerate(ANSWERS))


def test_the_files_are_those_of_the_script(folder):
    first, second = (folder / "ulm_000001_000019.txt").read_text().splitlines()
    assert first == f"masks/ulm_000001_000019_000.png 28 {1 / 3!r}" and second == "masks/ulm_000001_000019_001.png 26 1e-07"
    with Image.open(folder / "masks/ulm_000001_000019_000.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("L")) != 0, bitmap_from_rle(columns(0, 2)))
    assert (folder / "a%2Fb%20c.txt").read_text() == ""


def test_names_may_go_on_behind_the_image_id_and_files_lie_in_folders(folder):
    (folder / "ulm").mkdir()
    text = (folder / "ulm_000001_000019.txt").read_text().replace("masks/", "../masks/").replace(" 28 ", " 28.0 ")
    (folder / "ulm/ulm_000001_000019_pred.txt").write_text(text)
    (folder / "ulm_000001_000019.txt").unlink()
    assert FORM.read(folder, DATASET) == dict(enumerate(ANSWERS))


def test_the_surest_instance_comes_first(folder):
    (folder / "ulm_000001_000019.txt").write_text("masks/ulm_000001_000019_001.png 26 0.1\nmasks/ulm_000001_000019_000.png 28 0.2\n")
    assert [instance["category_id"] for instance in FORM.read(folder, DATASET)[0]["instances"]] == [28, 26]


MASK = "masks/ulm_000001_000019_000.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{MASK} 26", "line 1: expected PATH LABEL SCORE with one blank between them"),
        (f"{MASK} 26 much", "line 1: expected PATH LABEL SCORE"),
        (f"{MASK} 26 0.5\n\n", "line 2: expected PATH LABEL SCORE"),
        (f"{MASK} 7 0.5", "line 1: label 7 is none of the 2 categories of the dataset"),
        (f"{MASK} 26 nan", "line 1: expected a finite score, got nan"),
        (f"{MASK} 26 0.5\n./{MASK} 28 0.5", "line 2: mask ./masks/ulm_000001_000019_000.png is used twice"),
        ("../mask.png 26 0.5", "line 1: mask ../mask.png must be given relative to the text file, and lie in"),
        ("/mask.png 26 0.5", "line 1: mask /mask.png must be given relative to the text file"),
        ("masks/none.png 26 0.5", "line 1: mask .*none.png cannot be read"),
        ("masks/large.png 26 0.5", r"line 1: mask .*large.png: size \(5, 6\), but the image is \(4, 6\)"),
    ],
)
def test_lines_that_do_not_fit_are_refused(text, message, folder):
    Image.new("L", (6, 5)).save(folder / "masks/large.png")
    (folder / "ulm_000001_000019.txt").write_text(text)
    with pytest.raises(ValueError, match=f"ulm_000001_000019.txt, {message}"):
        FORM.read(folder, DATASET)


def test_every_image_has_one_text_file(folder):
    (folder / "bonn_000001_000019.txt").write_text("")
    with pytest.raises(ValueError, match="bonn_000001_000019.txt: belongs to none of the 2 images"):
        FORM.read(folder, DATASET)
    (folder / "bonn_000001_000019.txt").rename(folder / "ulm_000001_000019_2.txt")
    with pytest.raises(ValueError, match="image ulm_000001_000019: has two files"):
        FORM.read(folder, DATASET)
    for file in folder.glob("ulm*.txt"):
        file.unlink()
    with pytest.raises(
        ValueError, match="no file for 1 of 2 images, such as ulm_000001_000019.txt; every image needs one, even if nothing"
    ):
        FORM.read(folder, DATASET)
