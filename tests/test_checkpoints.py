"""What ships with the package is found, is complete, and gets into a wheel."""

import configparser
import json
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

import psalm_hf
from psalm_hf import PsalmForSegmentation, PsalmProcessor, checkpoints

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "psalm_hf"
PACKED = {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def goes_into_the_wheel(file):
    """Whether a pattern of setup.cfg covers a file that is no module."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    patterns = []
    for package, lines in parser["options.package_data"].items():
        folder = ROOT.joinpath(*package.split("."))
        assert (folder / "__init__.py").is_file(), f"{package} is no package"
        patterns += [folder / line for line in lines.split()]
    return any(fnmatch(str(file), str(pattern)) and len(file.parts) == len(pattern.parts) for pattern in patterns)


def test_every_file_of_the_package_gets_into_a_wheel():
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    packed = [PACKAGE / "checkpoints" / checkpoints.TINY / name for name in PACKED]
    assert not [path for path in [*files, *packed] if not goes_into_the_wheel(path)]


def test_absent_weights_are_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(checkpoints, "TINY", "psalm-absent")
    with pytest.raises(FileNotFoundError, match=r"psalm-absent: the weights .* are absent.*install.*pack_checkpoint.py"):
        psalm_hf.tiny_checkpoint()


def test_psalm_tiny_is_complete_small_and_of_finite_numbers(tiny_checkpoint):
    assert {path.name for path in tiny_checkpoint.iterdir()} == PACKED
    assert (tiny_checkpoint / "model.safetensors").stat().st_size < 12e6
    assert json.loads((tiny_checkpoint / "config.json").read_text())["dtype"] == "float32"
    model = PsalmForSegmentation.from_pretrained(tiny_checkpoint)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert PsalmProcessor.from_pretrained(tiny_checkpoint).image_processor.image_size == 128
