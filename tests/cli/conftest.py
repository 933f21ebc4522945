"""Fixtures of several commands: a checkpoint of random weights, and a picture."""

import numpy as np
import pytest
from PIL import Image

from psalm_hf import checkpoints
from psalm_hf.tiny import build_tiny


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory):
    """A saved model of random weights."""
    folder = tmp_path_factory.mktemp("random")
    for part in build_tiny(seed=0):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def default_checkpoint(monkeypatch, random_checkpoint):
    """Random weights where a command would take psalm-tiny: its work is the same, and needs no trained weights."""
    monkeypatch.setattr(checkpoints, "tiny_checkpoint", lambda: random_checkpoint)


@pytest.fixture
def picture(tmp_path):
    """(48, 64) of two colours."""
    pixels = np.full((48, 64, 3), 200, dtype=np.uint8)
    pixels[10:30, 20:50] = (180, 30, 30)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path
