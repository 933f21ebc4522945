"""The benchmark of the model: its rows, and two checkouts side by side. Seconds are no test."""

import json
import shutil
from pathlib import Path

import pytest

from examples import benchmark
from psalm_hf.tiny import build_tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Options of a run on a model of random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    for part in build_tiny(seed=0):
        part.save_pretrained(folder)
    return ["--checkpoint", str(folder), "--repeats", "1", "--names", "3", "--sizes", "60x80"]


def test_the_table_has_every_row_and_its_times_are_saved(arguments, capsys, tmp_path):
    benchmark.main([*arguments, "--json", str(tmp_path / "times.json")])
    machine, head, *lines = capsys.readouterr().out.splitlines()
    assert machine.startswith("cpu ") and "bfloat16 " in machine and head.endswith("this, clock")
    saved = json.loads((tmp_path / "times.json").read_text())
    names = [name.removeprefix("float32: ") for name in saved["times"]["this"]]
    assert {"one expression", "ten expressions, mask decoder", "5 regions", "3 names", "whole image of 60x80"} <= set(names)
    assert len(lines) == len(names) == 13 + 2 * len(benchmark.PARTS)
    assert all(len(times) == 1 and min(times[0]) > 0 for times in saved["times"]["this"].values())


def test_parts_are_no_more_than_the_whole(arguments):
    times = benchmark.measure(benchmark.parse_arguments([*arguments, "--only", "one expression"]))
    whole, *parts = [times[f"float32: one expression{part}"][0][1] for part in ("", *(f", {name}" for name in benchmark.PARTS))]
    assert 0 < sum(parts) <= whole


@pytest.mark.slow
def test_two_checkouts_stand_side_by_side_and_a_missing_row_is_a_dash(arguments, capsys, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(ROOT / "psalm_hf", other / "psalm_hf", ignore=shutil.ignore_patterns("__pycache__"))
    (other / "psalm_hf" / "evaluation" / "vocabulary.py").rename(other / "vocabulary.py")
    benchmark.main(
        [*arguments, "--against", str(other), "--rounds", "1", "--only", "5 categories, post-processing", "5 regions", "3 names"]
    )
    _, head, _, regions, names = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "ratio" and "other, processor" in head
    this, _, before, _, ratio = map(float, regions.split()[-5:])
    assert ratio == pytest.approx(this / before, rel=0.1)
    assert names.split()[-3:] == ["-", "-", "-"] and float(names.split()[-5]) > 0


def test_a_folder_without_the_package_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--against", str(tmp_path)])
    assert "no checkout of this project" in capsys.readouterr().err
