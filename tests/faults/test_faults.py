"""Kills and full disks at every write: nothing is lost, nothing is done twice, and the same command goes on to the same result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def report_of(folder, name, kind, *choice):
    command = [sys.executable, "-m", "tests.faults.sweep", name, str(folder), kind, *map(str, choice)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout[result.stdout.index("{\n") :])  # libraries print lines before


def check(report, *names):
    assert set(report["names"]) >= {"open", "write", "rename", "sync", *names} and report["tried"] > 3
    assert not report["failures"], "\n".join(report["failures"])


def test_a_checkpoint_is_whole_or_not_there(tmp_path):
    check(report_of(tmp_path, "checkpoint", "kill", "each", 16), "make")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "full"])
@pytest.mark.parametrize("name", ["checkpoint", "prepare", "evaluate", "video", "predict"])
def test_a_command_goes_on_after_a_fault_at_any_event(tmp_path, name, kind):
    check(report_of(tmp_path, name, kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_training_goes_on_after_a_fault(tmp_path, kind):
    check(report_of(tmp_path, "train", kind, "some", 30))
