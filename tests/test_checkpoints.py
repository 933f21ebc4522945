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
CONFIGS = ROOT / "examples" / "configs"
PACKED = {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def folder_of(package, setup):
    """Where the files of a package lie in the repository."""
    lines = [line.split(" = ") for line in setup["options"]["package_dir"].split("\n") if line]
    return ROOT / dict(lines).get(package, package.replace(".", "/"))


def goes_into_the_wheel(file, setup):
    """Whether a pattern of setup.cfg covers a file that is no module."""
    patterns = [folder_of(package, setup) / line for package, lines in setup["options.package_data"].items() for line in lines.split()]
    return any(fnmatch(str(file), str(pattern)) and len(file.parts) == len(pattern.parts) for pattern in patterns)


def test_every_module_gets_into_a_wheel(setup):
    named = setup["options"]["packages"].split()
    folders = {folder_of(package, setup) for package in named}
    assert named == sorted(named) and all((folder / "__init__.py").is_file() for folder in folders)
    assert {path.parent for path in PACKAGE.rglob("*.py")} | {CONFIGS} == folders


def test_every_file_of_the_package_gets_into_a_wheel(setup):
    files = [path for folder in (PACKAGE, CONFIGS) for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    packed = [PACKAGE / "checkpoints" / checkpoints.TINY / name for name in PACKED]
    assert not [path for path in [*files, *packed] if not goes_into_the_wheel(path, setup)]


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


@pytest.mark.parametrize("load", [PsalmForSegmentation, PsalmProcessor, psalm_hf.PsalmConfig])
def test_psalm_tiny_is_loaded_by_its_name(load, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, expected = load.from_pretrained("psalm-tiny"), load.from_pretrained(tiny_checkpoint)
    if load is PsalmForSegmentation:
        expected_state = expected.state_dict()
        assert all(torch.equal(tensor, expected_state[name]) for name, tensor in found.state_dict().items())
        assert found.name_or_path == found.config.name_or_path == "psalm-tiny"  # an adapter names its base so: no folder of this machine
    else:
        assert found.to_dict() == expected.to_dict()


def test_a_folder_of_the_users_comes_before_a_checkpoint_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoints.resolve_checkpoint("psalm-tiny") == str(psalm_hf.tiny_checkpoint())
    (tmp_path / "psalm-tiny").mkdir()
    assert checkpoints.resolve_checkpoint("psalm-tiny") == "psalm-tiny"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("psalm-tniy", "psalm-tniy: there is no such folder; did you mean psalm-tiny?"),
        ("outputs/tiny/stage2", "outputs/tiny/stage2: there is no such folder; did you mean outputs/tiny/stage1?"),
        ("/no/such/folder", r"; give a folder, a Hub id \(OWNER/NAME\), or psalm-tiny, which ships with psalm_hf"),
    ],
)
def test_a_name_that_no_checkpoint_can_have_says_what_was_probably_meant(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/tiny/stage1").mkdir(parents=True)
    (tmp_path / "outputs/tiny/stage1/config.json").touch()
    with pytest.raises(FileNotFoundError, match=message):
        checkpoints.resolve_checkpoint(name)


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(NotADirectoryError, match="model.safetensors: is a file, and a checkpoint is a folder .*; give the folder"):
        checkpoints.resolve_checkpoint(tmp_path / "model.safetensors")


def test_a_hub_id_is_left_to_the_hub():
    assert checkpoints.resolve_checkpoint("somebody/psalm-kitchen") == "somebody/psalm-kitchen"
