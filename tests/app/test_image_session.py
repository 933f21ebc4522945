"""The functions behind the tabs of images and conversations: what a user sees and takes home is what the predictor finds."""

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from psalm_hf import PsalmPredictor, tiny_checkpoint
from psalm_hf.app import image_session as work
from psalm_hf.app.checkpoint import LoadedCheckpoint, expectation
from psalm_hf.app.downloads import write_downloads
from psalm_hf.app.image_session import ImageSession
from psalm_hf.data import load
from psalm_hf.data.shapes.scene import make_scene
from tests.test_imports import ROOT

FILE = ROOT / "examples" / "pictures" / "shapes.png"


@pytest.fixture(scope="module")
def loaded():
    return PsalmPredictor.from_pretrained(tiny_checkpoint(), device="cpu", reuse_prefix=False)


@pytest.fixture
def predictor(loaded):
    loaded.reset_image()
    return loaded


@pytest.fixture
def session():
    return work.look_at(ImageSession(), FILE)


@pytest.fixture
def vision_calls(loaded):
    calls = []
    hook = loaded.model.model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(1))
    yield calls
    hook.remove()


def click(*points, excludes=False):
    return {"points": [list(point) for point in points], "excludes": excludes}


def test_marks_give_the_masks_of_the_predictor_and_one_call_of_the_vision_tower(session, predictor, vision_calls):
    session = work.add_stroke(session, click((88, 23)), predictor)
    session = work.begin_object(session)
    session = work.add_stroke(session, click((91, 61), (121, 91)), predictor)
    session = work.add_stroke(session, click((93, 63), excludes=True), predictor)
    expected = predictor.predict(FILE, regions=[{"point": (88, 23)}, {"box": (91, 61, 121, 91), "points": [(93, 63)], "labels": [0]}])
    assert (session.result.masks == expected.masks).all() and len(session.result) == 2
    assert vision_calls == [1]


def test_undo_takes_strokes_back_one_by_one(session, predictor):
    marked = work.add_stroke(work.begin_object(work.add_stroke(session, click((88, 23)), predictor)), click((100, 75)), predictor)
    undone = work.undo_stroke(marked, predictor)
    assert (len(undone.strokes), undone.number, len(undone.result)) == (1, 0, 1)
    empty = work.undo_stroke(undone, predictor)
    assert empty.strokes == () and empty.result is None and work.undo_stroke(empty, predictor).strokes == ()


def test_an_object_of_which_only_is_said_what_does_not_belong_waits(session, predictor):
    session = work.add_stroke(session, click((88, 23), excludes=True), predictor)
    assert session.result is None and work.describe_image(session).startswith("Say also what the object is")


def test_sentences_and_names_are_lines_and_commas(session, predictor):
    found = work.find_sentences(session, "the purple triangle\n\n all dotted things\nthe yellow moon", predictor)
    assert found.result.prompt.names == ("the purple triangle", "all dotted things", "the yellow moon")
    assert "Not in the image: the yellow moon." in work.describe_image(found)
    named = work.find_names(session, "triangle, grass,, triangle", predictor)
    assert named.result.prompt.names == ("triangle", "grass") and named.result.prompt.task == "panoptic"


def test_the_slider_and_the_check_marks_hide_without_the_model(session, predictor, vision_calls):
    found = work.find_names(session, "triangle, cross, star", predictor, every=True)
    calls, scores = len(vision_calls), found.result.scores
    assert len(scores) == 5 and len(work.table_rows(found)) == len(found.chosen) == 5
    found = replace(found, least=0.95)
    assert len(work.table_rows(found)) == len(found.chosen) == (scores >= 0.95).sum() == 3
    assert "2 more with a lower score" in work.describe_image(found)
    rows = [[row[0], float(row[1]), *row[2:]] for row in work.table_rows(found)]
    rows[0][0] = False
    unchecked = work.set_check_marks(found, [*rows[::-1], ["", "", "", "", "", ""]])  # sorted by the user, and with a row more
    assert unchecked.checked[found.visible[0]] is False
    assert len(unchecked.chosen) == len(found.chosen) - 1
    assert work.board_of(unchecked).count("<title>") == len(unchecked.chosen)
    assert len(vision_calls) == calls


def test_downloads_hold_the_masks_of_the_predictor(session, predictor, tmp_path):
    found = work.find_names(session, "triangle, grass", predictor)
    expected = predictor.predict(FILE, categories=["triangle", "grass"])
    overlay, coco, labelme, masks = write_downloads(found, tmp_path)
    with zipfile.ZipFile(masks) as archive:
        stored = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in sorted(archive.namelist())]
    assert (np.stack(stored) == expected.masks * 255).all()
    assert Image.open(overlay).size == expected.plot().size

    data = tmp_path / "coco"
    (data / "annotations").mkdir(parents=True)
    (data / "images").mkdir()
    (data / "images/shapes.png").write_bytes(FILE.read_bytes())
    (data / "annotations/train.json").write_text(open(coco).read())
    from psalm_hf.masks import bitmap_from_rle

    segments = load("own_coco", split="train", data_dir=str(data), cache_dir=str(tmp_path / "cache"))[0].segments
    assert all((bitmap_from_rle(one.mask_rle) == mask).all() for one, mask in zip(segments, expected.masks, strict=True))
    shapes = json.loads(open(labelme).read())["shapes"]
    assert [shape["label"] for shape in shapes] == expected.labels


def test_nothing_to_download_is_said(session, tmp_path):
    with pytest.raises(ValueError, match="nothing to download"):
        write_downloads(session, tmp_path)


def test_a_conversation_goes_on_and_what_is_shown_is_no_part_of_it(session, predictor, monkeypatch):
    shown = work.outline(session, "the blue circle", predictor)
    asked = work.ask(shown, "How many triangles are there?", predictor)
    expected = predictor.predict(FILE, question="How many triangles are there?")
    assert asked.turns[-1].text == expected.text
    assert [turn.role for turn in asked.turns] == ["user", "assistant"] * 2 and len(asked.result) == 1
    assert work.forget(asked).turns == ()
    assert work.look_at(asked, FILE).turns == ()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda session, predictor: work.find_sentences(ImageSession(), "this", predictor), "there is no image"),
        (lambda session, predictor: work.find_sentences(session, " \n", predictor), "one sentence on each line"),
        (lambda session, predictor: work.find_names(session, ",", predictor), "commas between them"),
        (lambda session, predictor: work.find_names(session, ",".join(map(str, range(201))), predictor), "at most 200"),
        (lambda session, predictor: work.ask(session, "", predictor), "write a question"),
    ],
)
def test_what_cannot_be_done_is_said(session, predictor, action, message):
    with pytest.raises(ValueError, match=message):
        action(session, predictor)


def test_eight_users_at_once_get_what_belongs_to_their_image(predictor):
    images = [Image.fromarray(make_scene("test", number).image) for number in range(8)]
    sessions = [replace(ImageSession(), image=image, name=str(number)) for number, image in enumerate(images)]
    expected = [predictor.predict(image, categories=["star", "ring", "grass", "sand"]) for image in images]
    predictor.reset_image()
    jobs = [session for _ in range(3) for session in sessions]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda session: work.find_names(session, "star, ring, grass, sand", predictor), jobs))
    for session, after in zip(jobs, found, strict=True):
        assert after.result.image is session.image or (np.asarray(after.result.image) == np.asarray(session.image)).all()
        assert (after.result.masks == expected[int(session.name)].masks).all()


def test_the_page_says_what_to_expect_of_a_checkpoint():
    loaded = LoadedCheckpoint(device="cpu")
    assert "**psalm-tiny**" in loaded.describe() and "of photographs its masks mean nothing" in loaded.describe()
    with pytest.raises(OSError):
        loaded.use("no/such/folder/here")
    assert loaded.predictor.checkpoint == "psalm-tiny"
    assert "does not say" in expectation(None) and "trained on X-ray images" in expectation("X-ray images")
