"""Pascal Context on drawn maps, and on the real sample, compared with its PNG and TIFF files pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.data.benchmarks.label_lists import label_list
from psalm_hf.data.benchmarks.pascal_context import LABELS_OF_59
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

FULL = np.array([[0, 255, 65535], [256, 256, 458]], dtype=np.uint16)  # 255 is a category, and 256 none of 8 bits


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]


def category_ids(sample):
    return [segment.category_id for segment in sample.segments]


@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate", "tiff_lzw"])
def test_maps_of_sixteen_bits_keep_all_of_them(compression, tmp_path):
    root = tmp_path / "pascal_ctx_d2"
    for kind in ("images", "annotations_ctx459"):
        (root / kind / "training").mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(root / "images/training/a.jpg")
    Image.fromarray(FULL).save(root / "annotations_ctx459/training/a.tif", compression=compression)
    (sample,) = load("pc459", "train", root, cache_dir=tmp_path)
    assert category_ids(sample) == [0, 255, 256, 458]
    assert np.array_equal(bitmaps(sample), [FULL == value for value in (0, 255, 256, 458)])


def test_the_names_are_alphabetical_enough_to_be_in_order():
    few, many = ([names[0] for names in label_list(benchmark)] for benchmark in ("pc59", "pc459"))
    assert (len(few), len(many)) == (59, 459) == (len(set(few)), len(set(many))) and all(few) and all(many)
    assert (many[0], many[1], many[458], few[0], few[58]) == ("accordion", "aeroplane", "wool", "aeroplane", "wood piece")
    # Three of the 59 have another name among the 459.
    others = {name: many[label - 1] for name, label in zip(few, LABELS_OF_59, strict=True) if name != many[label - 1]}
    assert others == {"computer case": "computer", "street": "road", "diningtable": "table"}


@pytest.mark.parametrize("number", [59, 459])
def test_things_are_the_classes_of_voc(number, tmp_path):
    root = tmp_path / "pascal_ctx_d2"
    end = "png" if number == 59 else "tif"
    for kind in ("images", f"annotations_ctx{number}"):
        (root / kind / "validation").mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(root / "images/validation/a.jpg")
    Image.fromarray(np.zeros((2, 3), dtype=np.uint8 if number == 59 else np.uint16)).save(
        root / f"annotations_ctx{number}/validation/a.{end}"
    )
    dataset = load(f"pc{number}", "val", root, cache_dir=tmp_path)
    assert sum(category.is_thing for category in dataset.categories) == 20 and len(dataset.categories) == number


# The real files.

samples = pytest.mark.samples
ROOT = SAMPLES / "pascal_ctx_d2"
FOLDERS = {"train": "training", "val": "validation"}


@samples
@pytest.mark.parametrize("number, end, void", [(59, "png", 255), (459, "tif", 65535)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_masks_are_the_maps(number, end, void, split, tmp_path):
    dataset = load(f"pc{number}", split, ROOT, cache_dir=tmp_path, keep_empty=True)
    folder = ROOT / f"annotations_ctx{number}" / FOLDERS[split]
    assert [sample.image_id for sample in dataset] == sorted(path.stem for path in folder.iterdir())
    for sample in dataset:
        labels = np.asarray(Image.open(folder / f"{sample.image_id}.{end}"))
        assert labels.dtype == (np.uint8 if number == 59 else np.uint16)
        assert category_ids(sample) == [value for value in np.unique(labels).tolist() if value != void]
        assert all(np.array_equal(bitmap, labels == id) for id, bitmap in zip(category_ids(sample), bitmaps(sample), strict=True))
