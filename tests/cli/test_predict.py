"""psalm predict from the command line to its files: exit statuses, refusals, and several processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psalm_hf.cli import predict
from tests.faults import kills

ROOT = Path(__file__).parents[2]
CATEGORIES = ("--categories", "cup", "table", "--task", "instance", "--threshold", "0")


@pytest.fixture
def photos(tmp_path):
    """Five images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def run(*words):
    return predict.main([*map(str, words)])


def test_a_folder_is_done_once_and_what_is_broken_changes_the_exit_status(photos, random_checkpoint, tmp_path, capsys):
    words = [photos, *CATEGORIES, "--checkpoint", random_checkpoint, "--device", "cpu", "--batch-size", 2]
    assert run(*words, "--output", tmp_path / "out") == 0
    assert "5 images in batches of 2; 3 batches to do" in capsys.readouterr().err
    results = (tmp_path / "out/results.json").read_bytes()
    assert {entry["image_id"] for entry in json.loads(results)} == {1, 2, 3, 4, 5}
    assert run(*words, "--output", tmp_path / "out") == 0 and "0 batches to do" in capsys.readouterr().err
    assert (tmp_path / "out/results.json").read_bytes() == results
    (photos / "2.png").write_bytes(b"nothing")
    assert run(*words, "--output", tmp_path / "again") == predict.SOME_FAILED
    assert "1 of 5 images failed, see " in capsys.readouterr().err
    assert run(*words, "--mask-threshold", "0.6", "--output", tmp_path / "out") == 2
    assert "was begun with prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "--output", "photos/out"], "lies in photos, which is searched for images"),
        (["photos/**/*.png", "--output", "photos/out"], "lies in photos/**/*.png, which is searched for images"),
        (["**/*.png", "--output", "out"], "lies in **/*.png, which is searched for images"),
        (["photos", "--output", "photos.txt"], "photos.txt: is a file, and what is written needs a folder of this name; give another one"),
        (["none", "--output", "out"], "none: no such file or folder"),
        (["photos", "--output", "out", "--mask", "none.png"], "none.png"),
        (["photos", "--output", "out", "--actors", "2"], "--actors goes with --engine ray"),
        (["photos", "--output", "out", "--actor-cpus", "2"], "--actor-cpus goes with --engine ray"),
        (["photos", "--output", "out", "--image-folder", "photos"], "--image-folder goes with a JSON file"),
        (["photos", "--output", "out", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["photos", "--output", "out", "--stuff", "sea"], "--stuff goes with --categories"),
    ],
)
def test_what_cannot_be_done_is_refused(photos, monkeypatch, capsys, words, message):
    monkeypatch.chdir(photos.parent)
    Path("photos.txt").write_text("a list")
    assert run(*words) == 2 and message in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


@pytest.mark.engines
def test_two_processes_give_what_one_gives(photos, random_checkpoint, tmp_path, one_thread):
    words = [photos, *CATEGORIES, "--checkpoint", random_checkpoint, "--device", "cpu", "--batch-size", 2]
    assert run(*words, "--output", tmp_path / "one") == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "examples/predict.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, *map(str, words), "--output", str(tmp_path / "two")], env=environment, check=True, capture_output=True)
    assert sorted(path.name for path in (tmp_path / "two/answers").iterdir()) == ["000.jsonl", "001.jsonl"]
    for name in ("results.json", "images.json", "failures.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.engines
def test_ray_refuses_a_wrong_prompt_as_one_process_does(photos, random_checkpoint, tmp_path, capfd):
    pytest.importorskip("ray")
    words = [photos, *CATEGORIES[:-1], 2, "--checkpoint", random_checkpoint, "--device", "cpu"]  # a threshold that no score reaches
    said = []
    for engine in (["processes"], ["ray", "--actors", 1, "--readers", 1]):
        assert run(*words, "--output", tmp_path / engine[0], "--engine", *engine) == 2
        said.append(re.findall("^error: .*", capfd.readouterr().err, re.M))
    assert said[0] == said[1] and len(said[0]) == 1 and "threshold" in said[0][0]


@pytest.mark.slow
def test_kills_lose_nothing_and_no_image_is_done_twice(tmp_path, capsys):
    kills.main([str(tmp_path / "run"), "--images", "200", "--kills", "4"])
    report = json.loads(capsys.readouterr().out)
    assert report["batches by times written"] == {"1": 25} and report["images"] == 199 and report["images twice"] == 0
    assert all(report["equal"].values())
