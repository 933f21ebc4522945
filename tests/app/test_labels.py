"""Labelling a folder, and the run that trains on it; what is saved is read by own data as it was meant."""

import dataclasses
import sys
import time

import numpy as np
import pytest
import yaml
from PIL import Image

from psalm_hf import PsalmPredictor, tiny_checkpoint
from psalm_hf.app import label_session as work
from psalm_hf.app.fine_tuning import FineTuning, run_names
from psalm_hf.app.label_folder import LabelFolder
from psalm_hf.app.label_session import ERASER, NAMES, SENTENCE_MODE, LabelItem, LabelSession
from psalm_hf.app.strokes import BRUSH, EXCLUDE
from psalm_hf.data import load
from psalm_hf.data.shapes.scene import make_scene
from psalm_hf.masks import bitmap_from_rle


@pytest.fixture(scope="module")
def predictor():
    return PsalmPredictor.from_pretrained(tiny_checkpoint(), device="cpu", reuse_prefix=False)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data/mine/images").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(make_scene("test", number).image).save(tmp_path / f"data/mine/images/{number}.png")
    return tmp_path / "data"


@pytest.fixture
def session(data):
    return work.open_label_folder(LabelSession(), data, "mine")


def square(x, y, side=20):
    mask = np.zeros((128, 128), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def way(*points, excludes=False):
    return {"points": [list(point) for point in points], "excludes": excludes}


def test_what_is_saved_is_read_back_and_by_own_data(session, tmp_path):
    folder = session.folder
    folder.save_objects("0.png", [("cup", square(0, 0)), ("lamp", square(40, 40))])
    folder.save_objects("1.png", [("lamp", square(3, 3))])
    folder.save_objects("0.png", [("lamp", square(50, 50))])  # instead of what was there
    folder.save_objects("2.png", [])
    folder.save_sentence("0.png", "the left cup", [square(0, 0)])
    folder.save_sentence("0.png", "a green dragon", [])
    assert folder.labelled() == {"0.png", "1.png", "2.png"} and folder.categories() == ["cup", "lamp"]
    [(name, mask)] = folder.objects("0.png")
    assert name == "lamp" and (mask == square(50, 50)).all() and folder.objects("2.png") == []
    assert [(text, len(masks)) for text, masks in folder.sentences("0.png")] == [("the left cup", 1), ("a green dragon", 0)]

    options = {"data_dir": str(folder.root), "cache_dir": str(tmp_path / "cache")}
    objects = load("own_coco", split="train", keep_empty=True, **options)
    assert [len(sample.segments) for sample in objects] == [1, 1, 0]
    assert (bitmap_from_rle(objects[0].segments[0].mask_rle) == square(50, 50)).all()
    sentences = load("own_jsonl", split="train", **options)
    assert [(sample.expressions, len(sample.segments)) for sample in sentences] == [(("the left cup",), 1), (("a green dragon",), 0)]


def test_a_folder_is_opened_where_labelling_stopped(session, data):
    session = work.save_labels(dataclasses.replace(session, items=(LabelItem("cup", square(5, 5)),)))
    again = work.open_label_folder(LabelSession(), data, "mine")
    assert again.name == "1.png" and again.text == "cup"
    assert [item.name for item in work.go_to(again, 0).items] == ["cup"]
    assert "1 labelled" in work.describe_labels(again, 0.2)


def test_proposals_are_those_of_the_predictor_and_sure_ones_are_accepted(session, predictor):
    session = work.propose(work.set_mode(session, NAMES, "square, cross"), predictor)
    found = predictor.predict(session.image, categories=["square", "cross"], task="instance", threshold=0.1)
    assert len(session.items) == len(found) and sum(item.is_accepted for item in session.items) == (found.scores >= 0.5).sum()
    accepted = [item for item in session.items if item.is_accepted]
    assert accepted and all(any((item.mask == mask).all() for mask in found.masks) for item in accepted)
    saved = work.read_labels(work.save_labels(session))
    assert len(saved.items) == len(accepted)
    proposed = work.propose(saved, predictor)  # what is there already is not proposed once more
    assert [item.name for item in proposed.items if item.is_accepted] == [item.name for item in saved.items]


def test_a_click_is_a_new_object_and_what_does_not_belong_corrects_it(session, predictor):
    session = work.set_mode(session, NAMES, "cup")
    clicked = work.mark_label(session, way((55, 32)), predictor)
    expected = predictor.predict(session.image, regions=[{"point": (55, 32)}])
    assert (clicked.items[0].mask == expected.masks[0]).all() and clicked.items[0].name == "cup" and clicked.chosen == 0
    corrected = work.mark_label(dataclasses.replace(clicked, tool=EXCLUDE), way((65, 40)), predictor)
    assert len(corrected.items) == 1 and not corrected.items[0].mask[40, 65]


def test_the_brush_adds_and_the_eraser_takes_away(session, predictor):
    session = dataclasses.replace(work.set_mode(session, NAMES, "cup"), tool=BRUSH, width=10 / 128)
    painted = work.mark_label(session, way((20, 20), (40, 20)), predictor)
    mask = painted.items[0].mask
    assert mask[20, 20:41].all() and mask[16, 30] and not mask[40, 30] and painted.chosen == 0
    erased = work.mark_label(dataclasses.replace(painted, tool=ERASER), way((30, 10), (30, 30)), predictor)
    assert not erased.items[0].mask[20, 30] and erased.items[0].mask[20, 20]
    more = work.mark_label(painted, way((20, 60), (40, 60)), predictor)
    assert len(more.items) == 1 and more.items[0].mask[60, 30]
    with pytest.raises(ValueError, match="choose the object"):
        work.mark_label(work.choose(dataclasses.replace(painted, tool=ERASER), None), way((1, 1)), predictor)


def test_a_sentence_may_mean_nothing(session, predictor):
    session = work.propose(work.set_mode(session, SENTENCE_MODE, "the white moon"), predictor)
    assert session.items == ()
    work.save_labels(session)
    assert session.folder.sentences(session.name) == [("the white moon", [])]


def test_the_table_renames_and_rejects(session):
    session = dataclasses.replace(session, items=(LabelItem("cup", square(0, 0)), LabelItem("cup", square(50, 50))))
    rows = work.label_rows(session)
    rows[0][2], rows[1][0] = "lamp", False
    session = work.save_labels(work.read_table(session, rows[::-1]))
    assert [name for name, _ in session.folder.objects(session.name)] == ["lamp"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (LabelItem(" ", square(0, 0)), "an object has no name"),
        (LabelItem("background", square(0, 0)), 'means "no object"'),
        (LabelItem("a [SEG]", square(0, 0)), "special token"),
        (LabelItem("cup", square(0, 0, 0)), "has no pixel"),
    ],
)
def test_what_own_data_would_refuse_is_not_saved(session, item, message):
    with pytest.raises(ValueError, match=message):
        work.save_labels(dataclasses.replace(session, items=(item,)))
    assert session.folder.labelled() == set()


def test_a_folder_outside_is_refused_and_uploads_stay_inside(session, data, tmp_path):
    with pytest.raises(ValueError, match="lies outside of the folder data"):
        work.open_label_folder(LabelSession(), data, "../elsewhere")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="is no image"):
        work.add_images(session, [str(tmp_path / "text.png")])
    Image.new("RGB", (20, 10)).save(tmp_path / "a b:c.jpg")
    added = work.add_images(session, [str(tmp_path / "a b:c.jpg")])
    assert "a_b_c.png" in added.folder.image_names()


@pytest.fixture
def labelled(session):
    for name in session.folder.image_names():
        session.folder.save_objects(name, [("cup", square(0, 0))])
    return session.folder


@pytest.fixture
def training(monkeypatch, tmp_path):
    """Processes that run for the train command: what they do instead, as Python."""
    program = tmp_path / "program.py"
    monkeypatch.setattr("psalm_hf.app.fine_tuning.TRAIN", [sys.executable, str(program)])
    return program


def wait(run, phase):
    for _ in range(200):
        if run.state().phase != phase:
            return run.state()
        time.sleep(0.05)
    raise AssertionError(f"still {phase}")


def test_a_run_trains_in_its_own_process_stops_and_goes_on(labelled, training):
    training.write_text(
        "import pathlib, sys, time, yaml\n"
        "config = yaml.safe_load(open(sys.argv[sys.argv.index('--config') + 1]))\n"
        "out = pathlib.Path(config['output_dir']); out.mkdir(exist_ok=True)\n"
        "print({'loss': '2.5', 'epoch': '1'}, flush=True)\n"
        "if '--resume' in sys.argv: (out / 'model.safetensors').touch()\n"
        "else: (out / 'checkpoint-5').mkdir(); time.sleep(60)\n"
    )
    run = FineTuning.of(labelled, "first")
    with pytest.raises(ValueError, match="there is no run first to go on with"):
        run.resume()
    run.start("psalm-tiny", steps=10, learning_rate=1e-4, holdout=0.5)
    while not run.state().losses:
        time.sleep(0.05)
    assert run.state().phase == "running" and run_names(labelled) == ["first"]
    with pytest.raises(ValueError, match="is training already"):
        run.start("psalm-tiny", steps=10, learning_rate=1e-4, holdout=0.5)
    run.stop()
    assert wait(run, "running").phase == "stopped"
    with pytest.raises(ValueError, match="exists already: resume it"):
        run.start("psalm-tiny", steps=10, learning_rate=1e-4, holdout=0.5)
    run.resume()
    state = wait(run, "running")
    assert state.phase == "ready" and state.losses == ((5, 2.5), (10, 2.5)) and state.steps == 10
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["checkpoint"] == "psalm-tiny" and config["sources"]["categories"]["holdout"] == 0.5


def test_the_words_of_a_run_that_fails_are_shown(labelled, training):
    training.write_text("import sys; sys.exit('error: another run is writing there')")
    run = FineTuning.of(labelled, "first")
    run.start("psalm-tiny", steps=10, learning_rate=1e-4, holdout=0.5)
    state = wait(run, "running")
    assert state.phase == "failed" and "another run is writing there" in state.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected 1 to"),
        ({"holdout": 0.01}, "holds out none of the 3 images"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_begins(labelled, options, message):
    run = FineTuning.of(labelled, "first")
    with pytest.raises(ValueError, match=message):
        run.start("psalm-tiny", **{"steps": 10, "learning_rate": 1e-4, "holdout": 0.5} | options)
    assert not run.path.exists()


def test_the_name_of_a_run_is_a_word(labelled):
    with pytest.raises(ValueError, match="letters, digits"):
        FineTuning.of(labelled, "../elsewhere")
    with pytest.raises(ValueError, match="nothing is labelled"):
        FineTuning.of(LabelFolder.open(labelled.root, "empty"), "first").start("psalm-tiny", steps=1, learning_rate=1, holdout=0.5)
