"""`psalm prepare DATASET`: its options, before anything is read. What is made: tests/data/prepare."""

import subprocess
import sys
from pathlib import Path

import pytest

from psalm_hf.cli import prepare

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("dataset", prepare.PREPARED)
def test_help_comes_without_torch_and_datasets(dataset):
    code = (
        "import sys; sys.argv[0] = 'psalm'; from psalm_hf.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'datasets'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "prepare", dataset, "--help"]
    assert "--overwrite" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ade20"], "nothing can be prepared for 'ade20', expected one of ade20k, "),
        (["ade20k", "FOLDER", "--split", "vall"], "invalid choice: 'vall'"),
        (["ade20k", "FOLDER", "--kind", "panoptc"], "did you mean panoptic?"),
        (["ade20k", "FOLDER", "--splots", "val"], "psalm prepare ade20k has no option --splots; did you mean --splits?"),
        (["cityscapes"], "the following arguments are required: folder"),
        (["pascal_voc", "nowhere", "output"], "VOC2012/ImageSets/Segmentation/train.txt: does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not list(tmp_path.iterdir())
