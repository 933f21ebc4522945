"""The script that writes the folder training starts from: complete or not there, and errors in one line."""

import pytest
import torch

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from tests.examples.scripts import EXAMPLES, load_script
from tests.model.test_starting_point import SMALL, save_language_model

build_start = load_script(EXAMPLES / "build_start.py")
FIELDS = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]


def start(folder, *arguments):
    """Exit status of the script."""
    return build_start.main(["--language-model", str(folder / "lm"), "--output", str(folder / "out" / "start"), *arguments])


def test_the_folder_opens_and_is_the_same_for_the_same_seed(tmp_path):
    save_language_model(tmp_path / "lm", "llama")
    assert start(tmp_path, *FIELDS, "--prompt-style", "released") == 0
    model = PsalmForSegmentation.from_pretrained(tmp_path / "out" / "start")
    processor = PsalmProcessor.from_pretrained(tmp_path / "out" / "start")
    assert model.dtype == torch.float32 and processor.prompt_style == "released" and processor.num_queries == SMALL["num_queries"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["start"]
    assert start(tmp_path, *FIELDS, "--output", str(tmp_path / "again")) == 0
    again = PsalmForSegmentation.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_queries"], "pairs `--field value`"),
        (["--colour", "red"], "PsalmConfig has no field colour"),
        (["--num_queries", "fifty"], "PsalmConfig: Validation error for field 'num_queries': TypeError"),
        (["--mask_weight", "five"], "field 'mask_weight'"),
        (["--vision_config", "{model_type: swin, embed_dim: wide}"], "field 'embed_dim'"),
        (["--backbone", "timm/nothing"], "backbone timm/nothing: timm cannot give its feature maps"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tmp_path, capsys, arguments, message):
    save_language_model(tmp_path / "lm", "llama")
    assert start(tmp_path, *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    (tmp_path / "out" / "start").mkdir(parents=True)
    assert start(tmp_path) == 2
    assert "exists already" in capsys.readouterr().err
