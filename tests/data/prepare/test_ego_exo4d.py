"""Relations -> takes: on a drawn take with a stand-in for PyAV, and on the sample, whose masks are known."""

import json
import shutil
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from psalm_hf.cli import prepare
from psalm_hf.data.prepare import ego_exo4d
from psalm_hf.masks import rle_from_bitmap
from tests.conftest import SAMPLES
from tests.data.prepare.test_lzstring import pack


def main(arguments):
    return prepare.main(["ego_exo4d", *arguments])


EGO, EXO = "aria01_214-1", "cam01"
MASK = rle_from_bitmap(np.eye(6, 8))
PACKED = pack(MASK["counts"])


def view(*frames, mask=PACKED):
    entries = {frame: {"height": 6, "width": 8, "encodedMask": mask} for frame in frames}
    return {"annotation": entries, "annotated_frames": [0, 30]}


@pytest.fixture
def relations(tmp_path):
    takes = {
        take: {"take_name": f"name_{take}", "object_masks": {"cup_0": {EGO: view("0"), EXO: view("0", "30")}}} for take in ("t1", "t2")
    }
    return write(tmp_path / "relations_val.json", {"annotations": takes})


def write(file, content):
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def draw_frames(folder, *numbers):
    folder.mkdir(parents=True)
    for number in numbers:
        Image.new("RGB", (4, 3)).save(folder / f"{number}.jpg")


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """A folder of videos, and a PyAV that finds 61 frames in each."""
    for take in ("t1", "t2"):
        for camera in (EGO, EXO):
            file = tmp_path / f"takes/name_{take}/frame_aligned_videos/{camera}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("8 6")

    @contextmanager
    def open_video(path):
        with open(path) as file:
            width, height = map(int, file.read().split())
        frames = [SimpleNamespace(to_image=lambda number=number: Image.new("L", (width, height), number)) for number in range(61)]
        yield SimpleNamespace(decode=lambda video: frames)

    monkeypatch.setitem(sys.modules, "av", SimpleNamespace(open=open_video))
    monkeypatch.setattr(ego_exo4d, "MIN_HEIGHT", 6)
    return tmp_path / "takes"


def test_masks_are_unpacked_beside_the_frames(relations, tmp_path, capsys):
    output = tmp_path / "processed"
    draw_frames(output / "t1" / EGO, 0, 30)
    draw_frames(output / "t1" / EXO, 0)
    assert main([str(relations), str(output), "--split", "val"]) == 0
    content = json.loads((output / "t1/annotation.json").read_text())
    assert content["masks"] == {"cup_0": {EGO: {"0": MASK}, EXO: {"0": MASK, "30": MASK}}}
    assert content["annotated_frames"] == {"cup_0": {EGO: [0, 30], EXO: [0, 30]}} and content["subsample_idx"] == [0, 30]
    assert json.loads((output / "split.json").read_text()) == {"train": [], "val": ["t1"], "test": []}
    error = capsys.readouterr().err
    assert "1 takes are left out, the first: take t2: there are no frames in" in error and "--videos" in error


def test_a_mask_that_cannot_be_decoded_is_unknown_and_reported(relations, tmp_path, capsys):
    takes = json.loads(relations.read_text())["annotations"]
    takes["t1"]["object_masks"]["cup_0"][EGO] = view("0", mask="%")
    takes["t1"]["object_masks"]["pan_0"] = {EXO: view("0", mask=pack("00"))}
    takes["t1"]["object_masks"]["pot_0"] = {EXO: view("0", mask=None)}
    write(relations, {"annotations": takes})
    for camera in (EGO, EXO):
        draw_frames(tmp_path / "processed/t1" / camera, 0)
    assert main([str(relations), str(tmp_path / "processed"), "--split", "val"]) == 0
    masks = json.loads((tmp_path / "processed/t1/annotation.json").read_text())["masks"]
    assert masks["cup_0"][EGO] == {"0": None} and masks["pan_0"][EXO] == {"0": None} and masks["cup_0"][EXO]["30"] == MASK
    assert masks["pot_0"][EXO] == {"0": None}
    assert "3 masks cannot be decoded and count as unknown, the first: take t1, cup_0, aria01_214-1, frame 0" in capsys.readouterr().err


def test_one_frame_per_second_is_taken_from_videos(relations, videos, tmp_path, capsys):
    output = tmp_path / "processed"
    (videos / f"name_t2/frame_aligned_videos/{EGO}.mp4").write_text("8 5")  # too small
    (videos / f"name_t2/frame_aligned_videos/{EXO}.mp4").unlink()
    assert main([str(relations), str(output), "--split", "train", "--videos", str(videos)]) == 0
    assert sorted(path.relative_to(output / "t1").as_posix() for path in (output / "t1").rglob("*.jpg")) == sorted(
        f"{camera}/{number}.jpg" for camera in (EGO, EXO) for number in (0, 30, 60)
    )
    with Image.open(output / f"t1/{EGO}/30.jpg") as ego, Image.open(output / f"t1/{EXO}/60.jpg") as exo:
        assert (ego.size, exo.size) == ((4, 3), (2, 1)) and abs(ego.getpixel((0, 0)) - 30) < 3
    assert json.loads((output / "t1/annotation.json").read_text())["subsample_idx"] == [0, 30, 60]
    error = capsys.readouterr().err
    assert f"take t2: there is no {videos}/name_t2" in error and "1 takes are left out, the first: take t2" in error


@pytest.mark.parametrize("too_small", [False, True])
def test_views_without_frames_are_left_out(too_small, relations, videos, tmp_path, capsys):
    output = tmp_path / "processed"
    video = videos / f"name_t1/frame_aligned_videos/{EXO}.mp4"
    if too_small:
        video.write_text("8 5")
    else:
        video.unlink()
    assert main([str(relations), str(output), "--split", "val", "--videos", str(videos)]) == 0
    content = json.loads((output / "t1/annotation.json").read_text())
    assert content["masks"] == {"cup_0": {EGO: {"0": MASK}}} and content["annotated_frames"] == {"cup_0": {EGO: [0, 30]}}
    assert not (output / "t1" / EXO).exists() and EXO in json.loads((output / "t2/annotation.json").read_text())["masks"]["cup_0"]
    assert "take t1: there are no frames of cam01; these views are left out" in capsys.readouterr().err


def test_without_frames_of_the_first_person_a_take_is_left_out(relations, tmp_path, capsys):
    draw_frames(tmp_path / "processed/t1" / EXO, 0)
    assert main([str(relations), str(tmp_path / "processed"), "--split", "val"]) == 2
    assert f"the first: take t1: there are no frames in {tmp_path}/processed/t1/{EGO}" in capsys.readouterr().err


def test_finished_takes_are_kept(relations, videos, tmp_path, capsys):
    arguments = [str(relations), str(tmp_path / "processed"), "--split", "val", "--videos", str(videos)]
    assert main(arguments) == 0
    file = tmp_path / "processed/t1/annotation.json"
    first = file.read_bytes()
    file.write_text("mine")
    assert main(arguments) == 0 and file.read_text() == "mine"
    assert "2 takes, 2 of them kept" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0 and file.read_bytes() == first
    assert json.loads((tmp_path / "processed/split.json").read_text())["val"] == ["t1", "t2"]


def test_errors_say_what_to_do(relations, videos, tmp_path, capsys, monkeypatch):
    output = str(tmp_path / "processed")
    assert main([str(tmp_path / "no.json"), output, "--split", "val"]) == 2
    assert "no.json does not exist; see docs/datasets/ego_exo4d.md" in capsys.readouterr().err
    assert main([str(write(tmp_path / "x.json", [])), output, "--split", "val"]) == 2
    assert "x.json: no relations of Ego-Exo4D" in capsys.readouterr().err
    assert main([str(relations), output, "--split", "val"]) == 2
    assert "no take could be prepared, the first: take t1: there are no frames" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "av", None)  # not installed
    assert main([str(relations), output, "--split", "val", "--videos", str(videos)]) == 2
    assert "pip install av" in capsys.readouterr().err


@pytest.mark.samples
def test_the_real_relations_give_the_processed_masks(tmp_path):
    processed = SAMPLES / "egoexo4d/processed"
    truth = json.loads((SAMPLES / "egoexo4d/correspondence-gt.json").read_text())["annotations"]
    shutil.copytree(processed, tmp_path / "processed", ignore=shutil.ignore_patterns("*.json"))
    assert main([str(SAMPLES / "egoexo4d/annotations/relations_val.json"), str(tmp_path / "processed"), "--split", "val"]) == 0
    for take, expected in truth.items():
        content = json.loads((tmp_path / "processed" / take / "annotation.json").read_text())
        assert content == expected
        given = json.loads((processed / take / "annotation.json").read_text())
        assert given == {key: content[key] for key in given}
    assert json.loads((tmp_path / "processed/split.json").read_text()) == json.loads((processed / "split.json").read_text())
