"""The functions behind the tab of videos."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from psalm_hf import PsalmPredictor, PsalmVideoSession, tiny_checkpoint
from psalm_hf.app import clip_session as work
from psalm_hf.app.clip_session import ClipProgress, ClipSession
from psalm_hf.app.limits import Limits
from psalm_hf.data.shapes.moving import make_clip
from psalm_hf.video import read_frames, write_video

pytest.importorskip("av")
FRAMES = 5


@pytest.fixture(scope="module")
def predictor():
    return PsalmPredictor.from_pretrained(tiny_checkpoint(), device="cpu", reuse_prefix=False)


@pytest.fixture
def video(tmp_path):
    clip = make_clip("test", 4)
    write_video(tmp_path / "clip.mp4", [Image.fromarray(np.asarray(clip.frame(number).image)) for number in range(FRAMES)], 8.0)
    return tmp_path / "clip.mp4"


def point(x, y):
    return {"points": [[x, y]], "excludes": False}


def test_masks_of_a_followed_object_are_those_of_a_session(predictor, video, tmp_path):
    clip = work.mark_clip(work.open_clip(video), point(30, 40))
    *steps, last = work.follow_clip(clip, predictor, tmp_path)
    assert [step.done for step in steps] == list(range(FRAMES + 1)) and "of 5" in str(steps[-1]) and "left" in str(steps[2])
    session = PsalmVideoSession(predictor.model, predictor.processor)
    with zipfile.ZipFile(last["masks"]) as archive:
        painted = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in sorted(archive.namelist())]
    for index, frame in enumerate(read_frames(video)):
        if index == 0:
            session.add_objects(frame.image, {1: {"point": (30, 40)}})
        assert ((painted[index] == 1) == session.track(frame.image).masks[1].numpy()).all()
    assert len(list(read_frames(last["video"]))) == FRAMES and last["said"] == "5 frames are done."


def test_a_sentence_becomes_masks_of_the_first_frame(predictor, video, tmp_path):
    clip = work.find_in_clip(work.open_clip(video), "the green diamond\nthe yellow circle", predictor)
    assert {"mask"} == {kind for region in clip.objects.values() for kind in region} and len(clip.objects) >= 1
    assert "to follow" in work.describe_clip(clip) and "psalm-mask" in work.clip_board(clip)
    *_, last = work.follow_clip(clip, predictor, tmp_path)
    assert last["said"] == "5 frames are done."
    with pytest.raises(ValueError, match="nothing in the first frame is the white moon"):
        work.find_in_clip(clip, "the white moon", predictor)


def test_a_run_that_is_closed_stops_and_leaves_the_model_free(predictor, video, tmp_path):
    run = work.follow_clip(work.mark_clip(work.open_clip(video), point(30, 40)), predictor, tmp_path)
    assert isinstance(next(run), ClipProgress)
    run.close()
    assert predictor.lock.acquire(blocking=False)
    predictor.lock.release()


def test_a_video_that_breaks_in_the_middle_gives_the_frames_before(predictor, tmp_path, video, monkeypatch):
    def broken(source, start=0):
        for number, frame in enumerate(read_frames(source, start)):
            if number == 3:
                raise ValueError(f"{source}: frame 3 cannot be decoded (broken); the ones before it can")
            yield frame

    clip = work.mark_clip(work.open_clip(video), point(30, 40))
    monkeypatch.setattr(
        "psalm_hf.following.read_frames", lambda source, start=0: broken(source, start) if source == video else read_frames(source)
    )
    *_, last = work.follow_clip(clip, predictor, tmp_path)
    assert last["said"] == "It ends early: clip.mp4: frame 3 cannot be decoded (broken); the ones before it can. 3 frames are done."
    with zipfile.ZipFile(last["masks"]) as archive:
        assert len(archive.namelist()) == 3


@pytest.mark.parametrize(("content", "limits", "message"), [
    (b"no video", Limits(), r"^text.mp4: not a video that can be read"),
    (None, Limits(frames=4), r"^text.mp4: has 5 frames, and at most 4"),
    (None, Limits(pixels=100), r"^text.mp4: has 128 x 128"),
    (None, Limits(upload_bytes=100), r"^text.mp4: has 0.0 MB"),
])  # fmt: skip
def test_what_is_no_video_or_too_large_is_refused(tmp_path, video, content, limits, message):
    path = tmp_path / "text.mp4"
    path.write_bytes(video.read_bytes() if content is None else content)
    with pytest.raises(ValueError, match=message):
        work.open_clip(path, limits)


def test_without_a_video_or_an_object_there_is_nothing_to_follow(predictor, video, tmp_path):
    for clip, message in ((ClipSession(), "there is no video"), (work.open_clip(video), "there is no object to follow")):
        with pytest.raises(ValueError, match=message):
            next(work.follow_clip(clip, predictor, tmp_path))
    assert work.undo_clip(work.mark_clip(work.open_clip(video), point(3, 4))).objects == {}
