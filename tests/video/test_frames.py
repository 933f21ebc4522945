"""Frames of folders, iterables and video files; the last need PyAV and are left out without it."""

import sys

import numpy as np
import pytest
from PIL import Image

from psalm_hf.video import count_frames, frame_rate, read_frames, write_video


def picture(value, size=(32, 48)):
    return np.full((*size, 3), value, dtype=np.uint8)


def write(folder, *names):
    folder.mkdir(exist_ok=True)
    for value, name in enumerate(names):
        Image.fromarray(picture(value)).save(folder / name)
    return folder


def values(frames):
    return [int(np.asarray(frame.image)[0, 0, 0]) for frame in frames]


def test_a_folder_is_read_in_natural_order_and_other_files_are_passed_over(tmp_path):
    folder = write(tmp_path / "clip", "frame10.png", "frame2.png", "frame1.png")
    (folder / "notes.txt").write_text("no frame")
    (folder / ".frame0.png").write_text("no frame either")
    assert [frame.name for frame in read_frames(folder)] == ["frame1", "frame2", "frame10"]
    assert values(read_frames(folder)) == [2, 1, 0]
    assert count_frames(folder) == 3


def test_frames_before_the_start_are_not_opened(tmp_path):
    folder = write(tmp_path / "clip", "0.png", "1.png", "2.png")
    (folder / "0.png").write_bytes(b"broken")
    assert [frame.name for frame in read_frames(folder, start=1)] == ["1", "2"]


def test_a_broken_frame_is_named_after_those_before_it_were_read(tmp_path):
    folder = write(tmp_path / "clip", "0.png", "1.png", "2.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:40])
    frames = read_frames(folder)
    assert [next(frames).name, next(frames).name] == ["0", "1"]
    with pytest.raises(ValueError, match="2.png: not an image"):
        next(frames)


def test_an_iterable_is_read_one_frame_at_a_time():
    opened = []

    def camera():
        for value in range(4):
            opened.append(value)
            yield picture(value)

    frames = read_frames(camera(), start=1)
    assert next(frames).name == "00001" and opened == [0, 1]
    assert [frame.name for frame in frames] == ["00002", "00003"]
    assert count_frames(camera()) is None and count_frames([picture(0)]) == 1


@pytest.mark.parametrize("reader", [read_frames, count_frames])
def test_a_source_without_frames_is_an_error_at_once(tmp_path, reader):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: has no images"):
        reader(tmp_path / "empty")
    with pytest.raises(ValueError, match="nothing.mp4: no such folder or file"):
        reader(str(tmp_path / "nothing.mp4"))
    with pytest.raises(ValueError, match="1.jpg and 1.png are frames of one name"):
        reader(write(tmp_path / "twice", "1.jpg", "1.png"))


def test_an_empty_iterable_is_an_error():
    with pytest.raises(ValueError, match="no frames"):
        list(read_frames([]))


def test_a_video_file_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install psalm_hf\[video\]"):
        read_frames(tmp_path / "clip.mp4")


class TestVideoFiles:
    @pytest.fixture(autouse=True)
    def needs_pyav(self):
        pytest.importorskip("av", reason="PyAV is not installed; pip install psalm_hf[video]")

    def test_what_is_written_is_read_again(self, tmp_path):
        path = tmp_path / "clip.mp4"
        write_video(path, (Image.fromarray(picture(value)) for value in (20, 120, 220)), rate=12.5)
        frames = list(read_frames(path))
        assert [frame.name for frame in frames] == ["00000", "00001", "00002"]
        assert np.abs(np.subtract(values(frames), (20, 120, 220))).max() <= 6  # the codec is lossy
        assert frames[0].image.size == (48, 32) and count_frames(path) == 3 and frame_rate(path) == 12.5
        assert [frame.name for frame in read_frames(path, start=2)] == ["00002"]
        assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]

    def test_odd_sides_are_made_even(self, tmp_path):
        write_video(tmp_path / "clip.mp4", [Image.fromarray(picture(90, (31, 45)))], rate=24)
        assert next(read_frames(tmp_path / "clip.mp4")).image.size == (46, 32)

    def test_a_file_that_ends_in_the_middle_gives_the_frames_before(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
        write_video(tmp_path / "clip.mkv", map(Image.fromarray, noise), rate=24)
        data = (tmp_path / "clip.mkv").read_bytes()
        (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
        read = []
        try:
            for frame in read_frames(tmp_path / "cut.mkv"):
                read.append(frame.name)
        except ValueError as error:  # some codecs notice that the last frame is incomplete, others leave it out
            assert f"frame {len(read)} cannot be decoded" in str(error)
        assert 0 < len(read) < 20

    def test_no_video_is_an_error_that_names_the_file(self, tmp_path):
        (tmp_path / "clip.mp4").write_bytes(b"no video at all")
        with pytest.raises(ValueError, match="clip.mp4: not a video"):
            next(read_frames(tmp_path / "clip.mp4"))
        with pytest.raises(ValueError, match="clip.unknown: cannot be written"):
            write_video(tmp_path / "clip.unknown", [Image.fromarray(picture(0))], rate=24)
        with pytest.raises(ValueError, match="no images"):
            write_video(tmp_path / "none.mp4", [], rate=24)
        assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
