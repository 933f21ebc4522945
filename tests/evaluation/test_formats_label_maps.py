"""Semantic maps as pictures; the recorded ones give the recorded numbers."""

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from psalm_hf.data.features import ROW_FEATURES, Category, SampleDataset
from psalm_hf.evaluation.evaluators.semantic import SemanticEvaluator
from psalm_hf.evaluation.formats.label_maps import LabelMaps
from tests.conftest import EVAL_CASES
from tests.evaluation.datasets_of_rows import columns, dataset_of, written
from tests.metrics.recordings import case, cases, read_labels

CATEGORIES = (Category(7, "road"), Category(26, "car"))
DATASET = dataset_of(CATEGORIES, ["ulm_000001_000019", "a/b"], "semantic")
ANSWERS = [
    {"segments": [{"category_id": 7, "mask": columns(2, 4)}, {"category_id": 26, "mask": columns(4, 6)}]},
    {"segments": [{"category_id": 26, "mask": columns(0, 6)}]},
]


@pytest.mark.parametrize(
    "form",
    [
        LabelMaps.of_positions(CATEGORIES),
        LabelMaps.of_cityscapes(CATEGORIES),
        LabelMaps({7: 1, 26: 300}, void=0),
        LabelMaps({7: 1, 26: 300}, void=65535, file_name="{id}.tif"),
        LabelMaps.of_positions(CATEGORIES, file_name="map_{id:0>30}.png"),
    ],
)
def test_what_is_written_is_read(form, tmp_path):
    assert form.read(written(form, tmp_path / "out", DATASET, ANSWERS), DATASET) == dict(enumerate(ANSWERS))


def test_maps_have_as_many_bits_as_their_labels_need(tmp_path):
    for form, kind in (
        (LabelMaps.of_positions(CATEGORIES), np.uint8),
        (LabelMaps.of_positions([*CATEGORIES, *(Category(number, "other") for number in range(100, 353))]), np.uint8),
        (LabelMaps.of_positions([*CATEGORIES, *(Category(number, "other") for number in range(100, 400))]), np.uint16),
    ):
        folder = written(form, tmp_path / "out", DATASET, ANSWERS)
        labels = read_labels(folder / "ulm_000001_000019.png")
        assert labels.dtype == kind
        assert labels[0].tolist() == [form.void] * 2 + [0] * 2 + [1] * 2 and form.void in (255, 65535)


def test_cityscapes_maps_hold_label_ids(tmp_path):
    folder = written(LabelMaps.of_cityscapes(CATEGORIES), tmp_path / "out", DATASET, ANSWERS)
    assert read_labels(folder / "ulm_000001_000019.png")[0].tolist() == [0, 0, 7, 7, 26, 26]


def test_names_are_padded_and_have_no_separators(tmp_path):
    form = LabelMaps.of_positions(CATEGORIES, file_name="{id:0>12}.png")
    dataset = dataset_of(CATEGORIES, ["39769", "a/b"], "semantic")
    folder = written(form, tmp_path / "out", dataset, ANSWERS)
    assert sorted(path.name for path in folder.iterdir()) == ["000000039769.png", "0000000a%2Fb.png"]


def test_of_a_name_with_a_star_only_the_beginning_counts(tmp_path):
    form = LabelMaps.of_cityscapes(CATEGORIES)
    folder = written(form, tmp_path / "out", DATASET, ANSWERS)
    (folder / "ulm").mkdir()
    (folder / "ulm_000001_000019.png").rename(folder / "ulm/ulm_000001_000019_pred.png")
    assert form.read(folder, DATASET) == dict(enumerate(ANSWERS))
    exact = LabelMaps({7: 7, 26: 26}, void=0)
    with pytest.raises(
        ValueError, match="ulm_000001_000019_pred.png: belongs to none of the 2 images .* called like ulm_000001_000019.png"
    ):
        exact.read(folder, DATASET)


def test_labels_must_differ():
    with pytest.raises(ValueError, match=r"2 categories and void \(0\) need different labels"):
        LabelMaps({7: 1, 26: 1}, void=0)
    with pytest.raises(ValueError, match=r"2 categories and void \(2\) need different labels"):
        LabelMaps({7: 1, 26: 2}, void=2)


def test_masks_that_overlap_are_not_written(tmp_path):
    answer = {"segments": [{"category_id": 7, "mask": columns(2, 4)}, {"category_id": 26, "mask": columns(3, 6)}]}
    with pytest.raises(ValueError, match="image ulm_000001_000019: label map: mask 1 overlaps"):
        LabelMaps.of_positions(CATEGORIES).write(tmp_path, [(DATASET[0], answer)])


def picture(values, size=(6, 4)):
    return lambda folder: Image.fromarray(np.full(size[::-1], values, np.uint8)).save(folder / "a%2Fb.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "a%2Fb.png").unlink(), "no file for 1 of 2 images, such as a%2Fb.png; every image needs one"),
        (lambda folder: (folder / "a%2Fb.png").rename(folder / "c.png"), "c.png: belongs to none of the 2 images"),
        (lambda folder: (folder / "d").mkdir() or (folder / "d/a%2Fb.png").hardlink_to(folder / "a%2Fb.png"), "image a/b: has two files"),
        (picture(0, (4, 6)), r"a%2Fb.png: size \(6, 4\), but the image is \(4, 6\)"),
        (picture(2), r"a%2Fb.png: values \[2\] are no labels; expected those of 2 categories, or 255"),
        (lambda folder: (folder / "a%2Fb.png").write_text("no picture"), "a%2Fb.png cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, tmp_path):
    form = LabelMaps.of_positions(CATEGORIES)
    folder = written(form, tmp_path / "out", DATASET, ANSWERS)
    change(folder)
    with pytest.raises(ValueError, match=message):
        form.read(folder, DATASET)


def test_a_file_is_no_folder(tmp_path):
    with pytest.raises(ValueError, match="expected a folder with a .png file for every image"):
        LabelMaps.of_positions(CATEGORIES).read(tmp_path / "nothing", DATASET)


@pytest.mark.evaluators
@pytest.mark.parametrize("name", cases("semantic"))
def test_recorded_predictions_give_the_recorded_numbers(name, tmp_path):
    recorded = case("semantic", name)
    categories = [Category(number, f"class {number}") for number in range(recorded["num_classes"])]
    rows = []
    for path in sorted((EVAL_CASES / "semantic" / recorded["gt"]).iterdir()):
        labels = read_labels(path)
        values = sorted(set(np.unique(labels).tolist()) - {recorded["ignore_label"]})
        segments = [{"map_values": [value], "category_id": value, "is_crowd": False} for value in values]
        row = {"image": {"path": path.stem}, "image_id": path.stem, "image_size": labels.shape, "condition": "category"}
        rows.append(row | {"segments": segments, "segment_map": str(path)})
    rows = [dict.fromkeys(ROW_FEATURES) | row for row in rows]
    dataset = SampleDataset(Dataset.from_list(rows, features=ROW_FEATURES), categories, "semantic")
    form, measure = LabelMaps.of_positions(categories), SemanticEvaluator(categories)
    answers = form.read(EVAL_CASES / "semantic" / recorded["predictions"], dataset)
    assert form.read(written(form, tmp_path / "out", dataset, answers.values()), dataset) == answers
    for row, answer in answers.items():
        measure.add(dataset[row], answer)
    for quantity in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert measure.numbers()[f"semantic {quantity}"] == pytest.approx(recorded[quantity], abs=1e-6, rel=0)
