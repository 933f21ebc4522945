"""`psalm prepare DATASET`: its options, before anything is read. What is made: tests/data/prepare."""

import subprocess
import sys
from pathlib import Path

import pytest

from psalm_hf.cli import prepare
from tests.test_locking import end, hold

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


def test_a_second_run_on_a_folder_is_refused_and_the_next_removes_what_a_killed_one_left(tmp_path, capsys):
    (tmp_path / "VOC2012/ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "VOC2012/ImageSets/Segmentation/val.txt").touch()
    arguments = ["pascal_voc", str(tmp_path), str(tmp_path / "out"), "--splits", "val"]
    first = hold(tmp_path / "out")
    assert prepare.main(arguments) == 2
    assert f"out: another run is writing there (process {first} on" in capsys.readouterr().err
    end(first)
    (tmp_path / "out/inner").mkdir()
    (tmp_path / "out/inner/.a.png.1.unfinished").touch()
    assert prepare.main(arguments) == 0
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["inner"]


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
