"""Files of Ego-Exo4D's correspondence benchmark: written, read, and scored as its tool scores them."""

import json

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.evaluation.evaluators.two_view import CorrespondenceEvaluator
from psalm_hf.evaluation.formats.correspondence import CorrespondenceFile
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from psalm_hf.metrics import compared_size, resize_nearest
from tests.conftest import EVAL_CASES
from tests.evaluation.test_formats_davis import answer, scored
from tests.metrics.recordings import case, cases, expected, read_json

EGO, EXO = "aria01", "cam01"
FULL = {EGO: (1408, 1408), EXO: (1080, 1920)}


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def draw_takes(root, takes, shares):
    """Takes in the layout of the dataset, with black frames of a share of the full size."""
    for take, content in takes.items():
        write_json(root / f"processed/{take}/annotation.json", content)
        sizes = {camera: rle["size"] for views in content["masks"].values() for camera, frames in views.items() for rle in frames.values()}
        for camera, (height, width) in sizes.items():
            for frame in content["subsample_idx"]:
                file = root / f"processed/{take}/{camera}/{frame}.jpg"
                file.parent.mkdir(exist_ok=True)
                share = shares["aria" if "aria" in camera else "cam"]
                Image.new("L", (width // share, height // share)).save(file)
    write_json(root / "processed/split.json", {"train": [], "val": list(takes), "test": []})
    return root


def square(camera, row):
    painted = np.zeros(FULL[camera], dtype=bool)
    painted[row : row + 300, 200:600] = True
    return rle_from_bitmap(painted)


def drawn_take():
    """A cup that both views show at 0, and at 30 the first-person view; there it was not looked for in the other. A pan that only the
    first-person view shows at 30. A lamp that has no first-person view."""
    masks = {
        "cup_0": {EGO: {"0": square(EGO, 0), "30": square(EGO, 100)}, EXO: {"0": square(EXO, 300)}},
        "pan_0": {EGO: {"30": square(EGO, 500)}, EXO: {}},
        "lamp_0": {EXO: {"0": square(EXO, 0)}},
    }
    looked_for = {"cup_0": {EGO: [0, 30], EXO: [0]}, "pan_0": {EGO: [30], EXO: [30]}, "lamp_0": {EXO: [0]}}
    return {"masks": masks, "subsample_idx": [0, 30], "annotated_frames": looked_for}


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    root = draw_takes(tmp_path_factory.mktemp("views"), {"t1": drawn_take()}, {"aria": 2, "cam": 2})
    return load("ego_exo4d", "val", root, cache_dir=root / "cache"), CorrespondenceFile(root / "processed", "val")


FRAME = (540, 960)  # of cam01


def answers_to_views(dataset, size=FRAME):
    rng = np.random.default_rng(0)
    found = []
    for sample in dataset:
        number = len(sample.regions)
        found.append(answer(*rng.random((number, *size)) < 0.5, scores=rng.random(number).tolist()))
    return found


def test_rows_of_the_drawn_take(views):
    dataset, _ = views
    assert [(sample.record_id, sample.tags) for sample in dataset] == [
        (f"t1/{EGO}_{EXO}/0", ("object:cup_0",)), (f"t1/{EGO}_{EXO}/30", ("object:pan_0",)),
    ]  # fmt: skip


def test_predictions_are_read_as_they_were_written(views, tmp_path):
    dataset, format = views
    compared = answers_to_views(dataset, compared_size(FRAME))
    format.write(tmp_path, zip(dataset, compared, strict=True))
    assert format.read(tmp_path, dataset) == format.read(tmp_path / "ego-exo_predictions.json", dataset) == dict(enumerate(compared))


def test_masks_of_frames_are_resized_to_what_is_compared(views, tmp_path):
    dataset, format = views
    answers = answers_to_views(dataset)
    format.write(tmp_path, zip(dataset, answers, strict=True))
    read = format.read(tmp_path, dataset)
    for row, given in enumerate(answers):
        for small, large in zip(read[row]["masks"], given["masks"], strict=True):
            assert np.array_equal(bitmap_from_rle(small), resize_nearest(bitmap_from_rle(large), (270, 480)))
    of_files = scored(CorrespondenceEvaluator(), dataset, read)
    assert of_files.numbers() == scored(CorrespondenceEvaluator(), dataset, dict(enumerate(answers))).numbers()


def test_what_the_evaluator_demands_is_there_also_where_nothing_was_asked(views, tmp_path):
    dataset, format = views
    format.write(tmp_path, zip(dataset, answers_to_views(dataset), strict=True))
    content = json.loads((tmp_path / "ego-exo_predictions.json").read_text())["ego-exo"]["results"]
    assert content["t1"]["subsample_idx"] == [0, 30]
    masks = content["t1"]["masks"]
    assert {name: {pair: list(frames) for pair, frames in pairs.items()} for name, pairs in masks.items()} == {
        "cup_0": {f"{EGO}_{EXO}": ["0", "30"]}, "pan_0": {f"{EGO}_{EXO}": ["30"]}, "lamp_0": {},
    }  # fmt: skip
    unasked = masks["cup_0"][f"{EGO}_{EXO}"]["30"]
    assert unasked == {"pred_mask": rle_from_bitmap(np.zeros((270, 480))), "confidence": 0.0}


def test_the_other_direction_has_its_own_file(views, tmp_path):
    _, format = views
    dataset = load("ego_exo4d", "val", format.folder.parent, cache_dir=tmp_path / "cache", direction="exo2ego")
    other = CorrespondenceFile(format.folder, "val", "exo2ego")
    answers = answers_to_views(dataset, (480, 480))
    other.write(tmp_path, zip(dataset, answers, strict=True))
    assert list(json.loads((tmp_path / "exo-ego_predictions.json").read_text())["exo-ego"]["results"]["t1"]["masks"]["cup_0"]) == [
        f"{EXO}_{EGO}"
    ]
    assert other.read(tmp_path, dataset) == dict(enumerate(answers))
    with pytest.raises(ValueError, match="expected JSON objects ego-exo > results"):
        format.read(tmp_path / "exo-ego_predictions.json", dataset)
    with pytest.raises(ValueError, match="unknown direction 'up'"):
        CorrespondenceFile(format.folder, "val", "up")


@pytest.fixture
def predictions(views, tmp_path):
    """The file, and its content."""
    dataset, format = views
    format.write(tmp_path, zip(dataset, answers_to_views(dataset), strict=True))
    file = tmp_path / format.file
    return file, json.loads(file.read_text())


PAIR = f"{EGO}_{EXO}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda takes: takes.update(t2=takes["t1"]), "3 predictions for what is not asked, such as t2 / cup_0"),
        (lambda takes: takes["t1"]["masks"].update(cat_0=takes["t1"]["masks"]["cup_0"]), "not asked, such as t1 / cat_0"),
        (
            lambda takes: takes["t1"]["masks"]["cup_0"][PAIR].pop("30"),
            f"1 predictions are missing, such as t1 / cup_0 / {PAIR} / 30; .* all",
        ),
        (lambda takes: takes.pop("t1"), "3 predictions are missing"),
        (lambda takes: takes["t1"]["masks"]["cup_0"][PAIR]["0"].pop("confidence"), f"t1 / cup_0 / {PAIR} / 0: expected .*'confidence'"),
        (
            lambda takes: takes["t1"]["masks"]["cup_0"][PAIR]["0"].update(pred_mask=rle_from_bitmap(np.zeros((480, 480)))),
            rf"t1 / cup_0 / {PAIR} / 0: the mask is of size \(480, 480\), but is compared at \(270, 480\)",
        ),
        (lambda takes: takes.update(t1=[]), "expected JSON objects ego-exo > results > take"),
    ],
)
def test_predictions_that_are_not_exactly_what_is_asked_are_refused(views, predictions, change, message):
    dataset, format = views
    file, content = predictions
    change(content["ego-exo"]["results"])
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        format.read(file, dataset)


def test_a_file_that_is_no_json_is_named(views, predictions):
    dataset, format = views
    predictions[0].write_text("{")
    with pytest.raises(ValueError, match="ego-exo_predictions.json: expected predictions in JSON"):
        format.read(predictions[0], dataset)


def test_answers_that_have_no_place_in_the_file_are_refused(views, tmp_path):
    dataset, format = views
    with pytest.raises(ValueError, match="image t1/cam01/0: 2 masks and 2 scores for 1 objects"):
        format.write(tmp_path, [(dataset[0], answer(np.zeros(FRAME), np.zeros(FRAME)))])
    other = draw_takes(tmp_path, {"t2": drawn_take()}, {"aria": 2, "cam": 2})
    with pytest.raises(ValueError, match=f"image t1/cam01/0: t1 / cup_0 / {PAIR} / 0 is not in the annotations"):
        CorrespondenceFile(other / "processed", "val").write(tmp_path, [(dataset[0], answer(np.zeros(FRAME)))])


@pytest.mark.evaluators
@pytest.mark.parametrize("name", cases("egoexo"))
def test_recorded_correspondence_predictions_have_the_recorded_numbers(name, tmp_path):
    recorded = case("egoexo", name)
    takes = read_json("egoexo", recorded.get("gt", expected("egoexo")["gt"]))["annotations"]
    root = draw_takes(tmp_path, takes, {"aria": 2, "cam": 4})
    file = EVAL_CASES / "egoexo" / recorded["predictions"]
    direction = "ego2exo" if "ego-exo" in json.loads(file.read_text()) else "exo2ego"
    dataset = load("ego_exo4d", "val", root, cache_dir=tmp_path / "cache", direction=direction)
    answers = CorrespondenceFile(root / "processed", "val", direction).read(file, dataset)
    numbers = scored(CorrespondenceEvaluator(), dataset, answers).numbers()
    assert numbers["region IoU"] / 100 == pytest.approx(recorded["iou"], abs=1e-6)
    assert numbers["region contour accuracy"] / 100 == pytest.approx(recorded["shape_acc"], abs=1e-6)
    assert numbers["region location error"] / 100 == pytest.approx(recorded["location_score"], abs=1e-6)
    assert numbers["region visibility accuracy"] / 100 == pytest.approx(recorded["existence_balanced_acc"], abs=1e-6)
