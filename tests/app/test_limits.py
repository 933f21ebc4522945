"""What a page refuses before it costs anything, in one sentence."""

import os

import pytest
from PIL import Image

from psalm_hf.app.limits import Limits, path_below, read_upload, short_text


@pytest.fixture
def huge(tmp_path):
    """A file of some hundred kB that says it has 200 million pixels, and would need 600 MB."""
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 10_000)).save(path)
    return path


def test_a_huge_image_is_refused_before_it_is_decoded(huge, monkeypatch):
    monkeypatch.setattr("psalm_hf.app.limits.load_image", lambda path: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=r"^huge.png: has far more than 16 million pixels; make it smaller first$"):
        read_upload(huge)


def test_an_image_above_the_limit_is_refused_with_its_size(tmp_path):
    Image.new("1", (5000, 4000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"^large.png: has 5000 x 4000 = 20 million pixels, and at most 16 million"):
        read_upload(tmp_path / "large.png")


@pytest.mark.parametrize("content", [b"I am a text.\n", b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_a_file_that_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"^text.png: is no image that can be read; save it as PNG or JPEG$"):
        read_upload(tmp_path / "text.png")


def test_a_truncated_image_is_refused(tmp_path):
    Image.effect_noise((200, 200), 50).save(tmp_path / "half.png")
    content = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"^half.png: is damaged"):
        read_upload(tmp_path / "half.png")


def test_a_file_with_too_many_bytes_is_refused(tmp_path):
    (tmp_path / "noise.png").write_bytes(bytes(360_000))
    with pytest.raises(ValueError, match=r"^noise.png: has 0.4 MB, and at most 0.2 MB are taken$"):
        read_upload(tmp_path / "noise.png", Limits(upload_bytes=200_000))


@pytest.mark.parametrize("relative", ["..", "../other", "/etc", "inner/../../other", "link"])
def test_a_path_outside_of_the_folder_is_refused(tmp_path, relative):
    root = tmp_path / "root"
    root.mkdir()
    os.symlink(tmp_path, root / "link")
    with pytest.raises(ValueError, match="lies outside of the folder root of this page"):
        path_below(root, relative)
    assert path_below(root, "inner/deeper") == root / "inner/deeper" and path_below(root, "") == root


def test_long_texts_are_refused():
    assert short_text("  a cup ") == "a cup" and short_text(None) == ""
    with pytest.raises(ValueError, match="the text has 2001 characters"):
        short_text("x" * 2001)
