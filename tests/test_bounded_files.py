"""Files that wait for ever, grow, or run a program are refused by name wherever images are opened."""

import os

import numpy as np
import pytest
from PIL import Image

from psalm_hf import load_image
from psalm_hf.bounded_files import open_image_file
from psalm_hf.data.collator import open_stored_image
from psalm_hf.data.files import read_text
from psalm_hf.data.preparation import read_size
from psalm_hf.data.segment_map import read_mask, read_segment_map
from psalm_hf.result import read_mask_file
from psalm_hf.visualization import open_image

OPENERS = {
    "load_image": load_image,
    "a sample": lambda path: open_stored_image(str(path), "image 7"),
    "a segment map": read_segment_map,
    "a mask": lambda path: read_mask(path, str(path)),
    "a prepared image": read_size,
    "a prompt of the command line": read_mask_file,
    "an overlay": open_image,
}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_pipe_is_no_image(opener, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises((ValueError, OSError), match=r"pipe\.png' is a pipe"):
        OPENERS[opener](tmp_path / "pipe.png")


def test_a_device_is_no_image():
    with pytest.raises(ValueError, match="device"):
        load_image("/dev/zero")


def test_a_pipe_is_no_annotation(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match="a.json cannot be read .*is a pipe"):
        read_text(str(tmp_path / "a.json"), "a.json")


def test_images_that_are_programs_are_not_run(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(tmp_path / "a.png", "EPS")  # whatever its name says
    with pytest.raises(ValueError, match=r"a\.png.*EPS files are programs"):
        load_image(tmp_path / "a.png")


def test_file_objects_are_opened_as_ever(tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        assert open_image_file(file).size == (3, 2)
