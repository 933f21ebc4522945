"""Every entry point with broken inputs: each outcome is a right result or an error that names what is wrong, in bounded memory."""

import json
import os

import pytest

from tests.fuzz.fuzzing import run_in_process

# Inputs by entry of `tests.fuzz.entries`; PSALM_FUZZ multiplies them.
INPUTS = {
    "masks": 16000,
    "post_processing": 6000,
    "processor": 4000,
    "own_builders": 3000,
    "benchmark_builders": 3000,
    "readers": 9000,
    "configs": 7000,
    "weights": 6000,
}


@pytest.mark.slow
@pytest.mark.parametrize("entry", INPUTS)
def test_broken_inputs_are_read_right_or_named(entry, tmp_path):
    found = run_in_process(entry, int(INPUTS[entry] * float(os.environ.get("PSALM_FUZZ", 1))), tmp_path)
    print(entry, json.dumps(found))
    assert found["right"] and found["named"] and found["of_inputs_mb"] < 2048
