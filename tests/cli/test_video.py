"""The video script from the command line to its files, with random weights: what it writes, and how it goes on."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psalm_hf import PsalmVideoSession, following
from psalm_hf.cli import video
from psalm_hf.cli.command import INTERRUPTED
from psalm_hf.tiny import build_tiny
from psalm_hf.video.memory import POLICIES
from tests.conftest import SAMPLES
from tests.model.full_checkpoint import write_full_folder
from tests.test_locking import end, hold

SIZE = (48, 64)


pytestmark = pytest.mark.usefixtures("default_checkpoint")


@pytest.fixture
def clip(tmp_path):
    """A folder of five frames."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def first_mask(tmp_path):
    """Objects 1 and 4, and a void pixel."""
    annotation = np.zeros(SIZE, dtype=np.uint8)
    annotation[5:25, 5:25], annotation[20:40, 30:60], annotation[0, 0] = 1, 4, 255
    path = tmp_path / "first.png"
    Image.fromarray(annotation).save(path)
    return path


def run(*arguments):
    return video.main([*map(str, arguments)])


def maps(output):
    """Frame -> (H, W) numbers of the objects."""
    found = {}
    for path in sorted((output / "masks").iterdir()):
        with Image.open(path) as picture:
            assert picture.mode == "P" and picture.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
            found[path.stem] = np.asarray(picture)
    return found


def scores(output):
    return [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]


def test_an_annotated_first_frame_is_followed_to_the_end(clip, first_mask, tmp_path):
    output = tmp_path / "out"
    assert run(clip, "--first-mask", first_mask, "--output", output, "--policy", "last_frame") == 0
    names = [str(number) for number in range(5)]
    found = maps(output)
    annotation = np.asarray(Image.open(first_mask)).copy()
    annotation[0, 0] = 0
    assert list(found) == names and (found["0"] == annotation).all()
    assert all(picture.shape == SIZE and set(np.unique(picture)) <= {0, 1, 4} for picture in found.values())
    assert any(picture.any() for name, picture in found.items() if name != "0")
    assert sorted(path.name for path in (output / "overlays").iterdir()) == [f"{name}.jpg" for name in names]
    lines = scores(output)
    assert [line["frame"] for line in lines] == names and lines[0]["scores"] == {"1": 1, "4": 1}
    assert all(0 <= score <= 1 for line in lines for score in line["scores"].values())
    session = PsalmVideoSession(*build_tiny(seed=0), "last_frame")
    session.load(output / "state.safetensors")  # which refuses another policy's
    assert session.object_ids == (1, 4) and session.num_tracked == 4


def test_boxes_and_points_are_tracked_in_the_first_frame_too(clip, tmp_path):
    output = tmp_path / "out"
    assert run(clip, "--box", 2, 5, 5, 30, 30, "--point", 1, 50, 30, "--point", 1, 55, 33, "--frames", 2, "--output", output) == 0
    lines = scores(output)
    assert [list(line["scores"]) for line in lines] == [["1", "2"]] * 2 and lines[0]["scores"]["1"] < 1


SEARCH = ["--categories", "a", "b", "--instances", "--threshold", 0.02, "--look-every", 2, "--expression", "c"]


@pytest.mark.parametrize("start", [["--first-mask", "first.png"], ["--box", 2, 5, 5, 30, 30], SEARCH])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(clip, first_mask, tmp_path, monkeypatch, start):
    monkeypatch.chdir(tmp_path)
    arguments = [clip, *start, "--policy", "last_frame", "--save-every", 2, "--output"]
    assert run(*arguments, "whole") == 0
    tracked = []
    write_frame, track = following.write_frame, PsalmVideoSession.track

    def power_cut(output, frame, *rest):
        write_frame(output, frame, *rest)
        if frame.name == "2":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(following, "write_frame", power_cut)
        assert run(*arguments, "cut") == INTERRUPTED
    assert len(maps(Path("cut"))) == 3
    monkeypatch.setattr(PsalmVideoSession, "track", lambda session, *rest: tracked.append(1) or track(session, *rest))
    assert run(*arguments, "cut") == 0
    assert len(tracked) == 3  # 2, after the state that was saved last, and the two that were left
    whole, cut = maps(Path("whole")), maps(Path("cut"))
    assert whole.keys() == cut.keys() and all((whole[name] == cut[name]).all() for name in whole)
    assert scores(Path("whole")) == scores(Path("cut"))
    assert run(*arguments, "cut") == 0 and len(tracked) == 3  # nothing is left to do
    assert scores(Path("whole")) == scores(Path("cut"))


def test_what_words_mean_is_followed_and_what_was_never_found_is_said(clip, tmp_path, capsys):
    words = ["--expression", "the red cup", "--expression", "the moon", "--box", 2, 5, 5, 30, 30]
    assert run(clip, *words, "--threshold", 1, "--frames", 2, "--output", tmp_path / "out") == 0
    said = capsys.readouterr().err
    for number, text in ((1, "the red cup"), (3, "the moon")):
        assert f"warning: object {number} ({text}): never found in 2 frames. Its best score is 0." in said
    assert "lower --threshold" in said and "object 2:" in said
    assert not any(np.isin(picture, (1, 3)).any() for picture in maps(tmp_path / "out").values())
    assert [set(line["scores"]) for line in scores(tmp_path / "out")] == [{"1", "2", "3"}] * 2
    for _ in range(2):  # the report of a run that has nothing left to do is the same
        assert run(clip, *words[:2], "--threshold", 0, "--policy", "last_frame", "--frames", 2, "--output", tmp_path / "found") == 0
        assert "object 1 (the red cup): found in 2 of 2 frames" in capsys.readouterr().err
    assert [line["found"] for line in scores(tmp_path / "found")] == [[1]] * 2


def test_of_a_search_that_finds_nothing_the_words_are_said(clip, tmp_path, capsys):
    search = ["--categories", "a", "b", "--instances", "--threshold", 1]
    assert run(clip, *search, "--output", tmp_path / "out") == 0
    assert "warning: a, b: nothing found in 5 frames" in capsys.readouterr().err
    assert all(line["scores"] == {} and line["found"] == [] for line in scores(tmp_path / "out"))
    assert run(clip, *search[:-1], 0.9, "--output", tmp_path / "out") == 2
    assert "was begun with threshold 1.0, now it is 0.9" in capsys.readouterr().err


def test_frames_of_an_earlier_version_are_counted_by_their_masks(clip, first_mask, tmp_path, capsys):
    assert run(clip, "--first-mask", first_mask, "--output", tmp_path, "--policy", "last_frame", "--output", tmp_path / "out") == 0
    said, file = capsys.readouterr().err, tmp_path / "out/scores.jsonl"
    file.write_text("".join(json.dumps({"frame": line["frame"], "scores": line["scores"]}) + "\n" for line in scores(file.parent)))
    counted = {number: sum((picture == number).any() for picture in maps(file.parent).values()) for number in (1, 4)}
    assert following.found_frames(file.parent)[0] == {number: count for number, count in counted.items() if count}
    assert "object 1: found in" in said


def test_the_first_overlay_shows_the_prompts(clip, tmp_path, monkeypatch):
    drawn = []
    draw, add = following.draw_segmentation, following.add_lines
    monkeypatch.setattr(following, "draw_segmentation", lambda *rest, **options: drawn.append(options["prompts"]) or draw(*rest, **options))
    monkeypatch.setattr(following, "add_lines", lambda image, lines: drawn.append(lines) or add(image, lines))
    prompts = ["--box", 2, 5, 5, 30, 30, "--point", 3, 40, 20, "--expression", "the cup"]
    assert run(clip, *prompts, "--threshold", 1, "--frames", 2, "--output", tmp_path / "out") == 0
    shown = [list(prompt) for prompt in drawn[0]]
    assert sorted(shown) == [["box"], ["points"]] and "1 the cup: not found in this frame" in drawn[1] and drawn[2:] == [()]
    sizes = {Image.open(path).size for path in (tmp_path / "out/overlays").iterdir()}
    assert len(sizes) == 1  # they are joined to a video


def power_cut(*_, **__):
    raise KeyboardInterrupt


def test_scores_survive_a_cut_while_a_run_begins_to_go_on(clip, first_mask, tmp_path, monkeypatch):
    arguments = [clip, "--first-mask", first_mask, "--save-every", 2, "--output"]
    assert run(*arguments, tmp_path / "whole") == 0
    output, write_frame = tmp_path / "out", following.write_frame
    with monkeypatch.context() as patch:
        patch.setattr(following, "write_frame", lambda o, frame, *rest: power_cut() if frame.name == "3" else write_frame(o, frame, *rest))
        assert run(*arguments, output) == INTERRUPTED
    before = (output / "scores.jsonl").read_bytes()
    assert len(before.splitlines()) == 3  # one of them after the saved state
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", power_cut)
        assert run(*arguments, output) == INTERRUPTED
    assert (output / "scores.jsonl").read_bytes() == before
    assert run(*arguments, output) == 0
    assert scores(output) == scores(tmp_path / "whole")


def test_scores_that_are_lost_or_damaged_are_named(clip, first_mask, tmp_path, capsys):
    arguments = [clip, "--first-mask", first_mask, "--output", tmp_path]
    (clip / "4.png").rename(tmp_path.parent / "last.png")
    file = tmp_path / "out" / "scores.jsonl"
    assert run(*arguments[:-1], file.parent) == 0
    lines = file.read_text().splitlines(keepends=True)
    for content, message in ((lines[:3], "has 3 lines, but 4 frames"), ([*lines[:1], "{\n", *lines[2:]], "line 2: is damaged")):
        file.write_text("".join(content))
        assert run(*arguments[:-1], file.parent) == 2
        assert message in capsys.readouterr().err


def test_a_folder_of_a_run_that_was_killed_as_it_began_is_taken(clip, first_mask, tmp_path):
    (tmp_path / "out/_psalm").mkdir(parents=True)
    left = tmp_path / "out/.task.json.1.unfinished"
    left.write_text("{")
    assert run(clip, "--first-mask", first_mask, "--output", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "masks",
        "overlays",
        "scores.jsonl",
        "state.safetensors",
        "task.json",
    ]


def test_a_second_run_on_the_folder_is_refused_and_the_first_goes_on(clip, first_mask, tmp_path, capsys):
    arguments = [clip, "--first-mask", first_mask, "--output", tmp_path / "out"]
    first = hold(tmp_path / "out")
    assert run(*arguments) == 2
    assert f"out: another run is writing there (process {first} on" in capsys.readouterr().err
    end(first)
    assert run(*arguments) == 0


@pytest.mark.parametrize("name", ["overlay.unknown", "overlay", "overlay.mp4/", "file/overlay.mp4"])
def test_a_video_that_cannot_be_written_is_refused_before_anything_is_tracked(clip, first_mask, tmp_path, capsys, name):
    pytest.importorskip("av", reason="PyAV is not installed; pip install psalm_hf[video]")
    (tmp_path / "file").touch()
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run(clip, "--first-mask", first_mask, "--output", tmp_path / "out", "--video", tmp_path / name) == 2
    assert "overlay" in capsys.readouterr().err or "file" in name
    assert not list(tmp_path.glob("out/masks/*")) and sorted(path.name for path in tmp_path.iterdir() if path.name != "out") == before


def test_grey_in_rgb_means_the_same_numbers(clip, first_mask, tmp_path):
    grey = Image.open(first_mask)
    for mode in ("RGB", "RGBA"):
        grey.convert(mode).save(tmp_path / f"{mode}.png")
        objects = following.read_objects(tmp_path / f"{mode}.png")
        expected = following.read_objects(first_mask)
        assert objects.keys() == expected.keys() == {1, 4}
        assert all((objects[number]["mask"] == expected[number]["mask"]).all() for number in objects)
    Image.new("RGB", (9, 9), (4, 4, 5)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match="it may be a coloured picture"):
        following.read_objects(tmp_path / "colour.png")


def test_a_broken_last_frame_leaves_what_was_written_and_can_be_mended(clip, first_mask, tmp_path, capsys):
    good = (clip / "4.png").read_bytes()
    (clip / "4.png").write_bytes(good[:100])
    arguments = [clip, "--first-mask", first_mask, "--output", tmp_path / "out"]
    assert run(*arguments) == 2
    assert "4.png: not an image" in capsys.readouterr().err
    assert list(maps(tmp_path / "out")) == ["0", "1", "2", "3"] and len(scores(tmp_path / "out")) == 4
    assert (tmp_path / "out" / "state.safetensors").is_file()  # although --save-every is 10
    (clip / "4.png").write_bytes(good)
    assert run(*arguments) == 0
    assert len(maps(tmp_path / "out")) == 5 and len(scores(tmp_path / "out")) == 5


def test_a_frame_of_another_size_stops_there(clip, first_mask, tmp_path, capsys):
    Image.new("RGB", (50, 50)).save(clip / "3.png")
    assert run(clip, "--first-mask", first_mask, "--output", tmp_path / "out") == 2
    assert "is 50 high and 50 wide, but the frames before were 48 high and 64 wide" in capsys.readouterr().err
    assert list(maps(tmp_path / "out")) == ["0", "1", "2"]


def test_other_options_in_the_same_folder_are_refused(clip, first_mask, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(clip, "--first-mask", first_mask, "--frames", 1, "--output", output) == 0
    assert run(clip, "--first-mask", first_mask, "--policy", "released", "--output", output) == 2
    assert "was begun with policy 'first_last_confident', now it is 'released'" in capsys.readouterr().err
    assert run(clip, "--first-mask", first_mask, "--output", clip) == 2
    assert "holds other files" in capsys.readouterr().err


def test_other_weights_under_the_same_name_are_refused(clip, first_mask, tmp_path, capsys):
    words = [clip, "--first-mask", first_mask, "--checkpoint", tmp_path / "model", "--output", tmp_path / "out"]
    for seed in (0, 1):
        for part in build_tiny(seed=seed, image_size=64):
            part.save_pretrained(tmp_path / "model")
        if seed == 0:
            assert run(*words, "--frames", 2) == run(*words, "--frames", 3) == 0
    before = scores(tmp_path / "out")
    assert run(*words) == 2 and "was begun with checkpoint {'name': 'model', 'sha256': " in capsys.readouterr().err
    assert len(before) == 3 and scores(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (["--box", 1, 5, 5, 30, 30, "--point", 1, 5, 5], "object 1 is given twice"),
        (["--box", 0, 5, 5, 30, 30], "object 0; numbers go from 1 to 254"),
        (["--box", 1.5, 5, 5, 30, 30], "object 1.5; numbers"),
        (["--point", 1, 500, 5], "object 1: the point"),
        (["--first-mask", "nothing.png"], "nothing.png: has no object"),
        (["--first-mask", "small.png"], r"object 1: has shape (9, 9)"),
        (["--first-mask", "missing.png"], "missing.png"),
        (["--expression", " "], "object 1: image 0, expression 0"),
        (["--categories", "cup,table"], "names stand apart, without commas: cup table"),
        (["--box", 1, 5, 5, 30, 30, "--categories", "a", "a", "--instances"], "object 2: "),
    ],
)
def test_wrong_prompts_are_named_before_anything_is_tracked(clip, tmp_path, monkeypatch, capsys, prompt, message):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros(SIZE, dtype=np.uint8)).save("nothing.png")
    Image.fromarray(np.ones((9, 9), dtype=np.uint8)).save("small.png")
    assert run(clip, *prompt, "--output", "out") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/masks/*"))


def test_a_source_without_frames_is_refused(tmp_path, first_mask, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "--first-mask", first_mask, "--output", tmp_path / "out") == 2
    assert "empty: has no images" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run(tmp_path / "empty") == 2
    assert "say what to follow" in capsys.readouterr().err
    for option in (["--instances"], ["--look-every", 2], ["--threshold", 0.5]):
        assert run(tmp_path / "empty", "--first-mask", first_mask, *option) == 2
        assert "are about words" in capsys.readouterr().err
    assert run(tmp_path / "empty", "--first-mask", first_mask, "--rate", 10) == 2
    assert "--rate goes with --video" in capsys.readouterr().err
    assert run(tmp_path / "empty", "--expression", "a", "--look-every", 0) == 2
    assert "--look-every must be at least 1, got 0" in capsys.readouterr().err


def test_video_files_go_in_and_out(clip, tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed; pip install psalm_hf[video]")
    from psalm_hf.video import count_frames, frame_rate, read_frames, write_video

    source, overlay = tmp_path / "clip.mp4", tmp_path / "videos" / "overlay.mp4"
    write_video(source, (frame.image for frame in read_frames(clip)), rate=10)
    assert run(source, "--box", 2, 5, 5, 30, 30, "--output", tmp_path / "out", "--video", overlay) == 0
    assert list(maps(tmp_path / "out")) == [f"{number:05d}" for number in range(5)]
    assert count_frames(overlay) == 5 and frame_rate(overlay) == 10


@pytest.mark.golden
@pytest.mark.samples
@pytest.mark.slow
def test_an_original_folder_of_full_size_runs_end_to_end(tmp_path, tmp_path_factory):
    """Weights of the recipe, which recognise nothing. About 6 GB of disk, 9 of memory and a minute per frame on a CPU."""
    folder = write_full_folder(Path(os.environ.get("PSALM_FULL_CHECKPOINT", tmp_path_factory.mktemp("full"))))
    sequence = "480p/car-shadow"
    root, output = SAMPLES / "DAVIS/2017/trainval", tmp_path / "out"
    first_mask = root / "Annotations" / sequence / "00000.png"
    source = root / "JPEGImages" / sequence
    assert run(source, "--first-mask", first_mask, "--checkpoint", folder, "--frames", 3, "--output", output) == 0
    found = maps(output)
    assert list(found) == ["00000", "00001", "00002"] and {picture.shape for picture in found.values()} == {(480, 854)}
    assert (found["00000"] == np.asarray(Image.open(first_mask))).all()


@pytest.mark.samples
@pytest.mark.slow
def test_psalm_tiny_runs_through_every_sequence_of_the_davis_sample(tmp_path, tiny_checkpoint):
    root = SAMPLES / "DAVIS/2017/trainval"
    for source in sorted((root / "JPEGImages/480p").iterdir()):
        first_mask, output = root / "Annotations/480p" / source.name / "00000.png", tmp_path / source.name
        assert run(source, "--first-mask", first_mask, "--checkpoint", tiny_checkpoint, "--output", output) == 0
        assert sorted(maps(output)) == sorted(path.stem for path in source.glob("*.jpg"))


def test_the_script_offers_every_policy():
    assert set(video.POLICY_NAMES) == set(POLICIES)
