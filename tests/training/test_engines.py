"""Every engine of docs/training.md does the same: its command is read there and run; kills, resumption and tasks on two processes."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psalm_hf.tiny import build_tiny

ROOT = Path(__file__).parents[2]
RECORD = str(ROOT / "tests" / "training" / "record_run.py")
TASKS = ("panoptic", "referring", "interactive", "conversation")
STEPS = 20


def commands():
    """Name -> command line of the engines, from docs/training.md."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    section = page.split("## Engines\n")[1].split("\n## ")[0]
    lines = re.findall(r"^# (.+)\n(.+)$", re.search(r"```console\n(.*?)```", section, re.S)[1], re.M)
    return {name: line for name, line in lines}


ENGINES = commands()


def test_every_engine_has_a_command():
    assert set(ENGINES) == {"one process", "DDP", "DDP by accelerate", "ZeRO-2", "ZeRO-3", "fully_shard"}


def launch(command, records, *overrides):
    """Starts a command of the docs, recorded, in a process group of its own."""
    words = shlex.split(command)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    while "=" in words[0]:
        environment |= [words.pop(0).split("=", 1)]
    script = words.index("examples/train_stage2.py")
    words[script:script] = [RECORD, str(records)]
    return subprocess.Popen([*words, *overrides], cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)


def run(command, records, *overrides):
    process = launch(command, records, *overrides)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]


def lines(records):
    return {int(path.stem): [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(records.glob("*.jsonl"))}


def losses(records):
    """Mean loss of every step, over processes and accumulated batches."""
    found = {}
    for line in sum(lines(records).values(), []):
        found.setdefault(line["step"], []).append(line["loss"])
    return [sum(values) / len(values) for _, values in sorted(found.items())]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    for part in build_tiny(image_size=64):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def options(start):
    """Overrides of a short run. With a larger epsilon Adam does not blow up the rounding noise of gradients that are zero (biases of
    keys, biases in front of norms), which differs between engines."""
    sizes = dict.fromkeys(TASKS, 1)
    fields = {"checkpoint": start, "max_steps": STEPS, "warmup_steps": 0, "learning_rate": 2e-3, "adam_epsilon": 1e-4, "logging_steps": 5}
    fields |= {
        "weights": dict.fromkeys(TASKS, 1),
        "batch_sizes": sizes,
        "eval_strategy": "no",
        "save_strategy": "no",
        "dataloader_num_workers": 0,
    }
    return [word for name, value in fields.items() for word in (f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value))]


@pytest.fixture(scope="module")
def one_process(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run(ENGINES["one process"], folder / "records", *options, "--output_dir", str(folder))
    return folder


def test_the_loss_falls(one_process):
    kinds = [line["kind"] for line in lines(one_process / "records")[0][::4]]
    first, last = {}, {}
    for kind, loss in zip(kinds, losses(one_process / "records"), strict=True):
        first.setdefault(kind, loss)
        last[kind] = loss
    assert len(first) == 4 and sum(last.values()) <= 0.9 * sum(first.values())


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "one process"])
def test_an_engine_gives_the_losses_and_weights_of_one_process(engine, one_process, options, start, tmp_path):
    run(ENGINES[engine], tmp_path / "records", *options, "--output_dir", str(tmp_path))
    expected, actual = losses(one_process / "records"), losses(tmp_path / "records")
    assert len(actual) == STEPS and len(lines(tmp_path / "records")) == 2
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), rtol=1e-4, atol=0)
    expected, actual = load_file(one_process / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert expected.keys() == actual.keys()
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # each process has those of its own batches; process 0 saves
    for name in (name for name in expected if not name.endswith(statistics)):
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    before = load_file(start / "model.safetensors")
    assert (expected["lm_head.weight"] - before["lm_head.weight"]).abs().max() > 1e-4
    held = {rank: of_rank[0]["held"] for rank, of_rank in lines(tmp_path / "records").items()}
    whole = sum(parameter.numel() for parameter in build_tiny(image_size=64)[0].parameters())
    divides = engine in ("ZeRO-3", "fully_shard")
    assert all((number < 0.6 * whole) == divides for number in held.values()), held


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (2, 1, 1, 0)])
def test_all_processes_and_accumulated_batches_of_a_step_have_one_task(weights, options, tmp_path):
    steps, weights = 80, dict(zip(TASKS, weights, strict=True))
    shares = ["--weights", json.dumps(weights), "--max_steps", str(steps), "--save_strategy", "no"]
    run(ENGINES["DDP"], tmp_path / "records", *options, *shares, "--output_dir", str(tmp_path))
    records = lines(tmp_path / "records")
    assert [len(of_rank) for of_rank in records.values()] == [steps * 2] * 2
    kinds = [{line["kind"] for of_rank in records.values() for line in of_rank if line["step"] == step} for step in range(steps)]
    assert {len(of_step) for of_step in kinds} == {1}
    drawn = Counter(kind for of_step in kinds for kind in of_step)
    expected = [steps * weight / sum(weights.values()) for weight in weights.values()]
    assert all(drawn[kind] == 0 for kind, number in enumerate(expected) if number == 0)
    # chi-square, 3 degrees of freedom, p = 0.001
    assert sum((drawn[kind] - number) ** 2 / number for kind, number in enumerate(expected) if number) < 16.3
    inputs = [line["inputs"] for of_rank in records.values() for line in of_rank]
    assert len(set(inputs)) == len(inputs)  # no batch twice


def kill_in_the_middle(process, records, step):
    """SIGKILL to all processes of a run, once it has come to a step."""
    while not any(f'"step": {step},' in path.read_text() for path in records.glob("*.jsonl")):
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.05)
    for of_rank in lines(records).values():  # torchrun gives its processes sessions of their own
        os.kill(of_rank[0]["pid"], signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["one process", "DDP", "ZeRO-2", "ZeRO-3", "fully_shard"])
def test_a_killed_run_goes_on_with_the_same_batches_to_the_same_bits(engine, options, tmp_path):
    options = [*options, "--save_strategy", "steps", "--save_steps", "5"]
    run(ENGINES[engine], tmp_path / "whole", *options, "--output_dir", str(tmp_path / "straight"))
    step = random.randrange(6, 15)
    interrupted = [*options, "--output_dir", str(tmp_path / "killed")]
    kill_in_the_middle(launch(ENGINES[engine], tmp_path / "begun", *interrupted), tmp_path / "begun", step)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    run(ENGINES[engine], tmp_path / "resumed", *interrupted, "--resume", "true")
    for rank, resumed in lines(tmp_path / "resumed").items():
        first = resumed[0]["step"]
        assert first in (5, 10) and first <= step
        after = [line for line in lines(tmp_path / "whole")[rank] if line["step"] >= first]
        names = ("step", "kind", "inputs", "loss")
        assert [[line[name] for name in names] for line in resumed] == [[line[name] for name in names] for line in after]
    expected, actual = load_file(tmp_path / "straight" / "model.safetensors"), load_file(tmp_path / "killed" / "model.safetensors")
    assert expected.keys() == actual.keys() and all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["one process", "DDP"])
def test_sigterm_ends_a_run_early_with_a_checkpoint_to_go_on_from(engine, options, tmp_path):
    options = [*options, "--save_strategy", "steps", "--save_steps", "1000", "--output_dir", str(tmp_path), "--dataloader_num_workers", "1"]
    process = launch(ENGINES[engine], tmp_path / "records", *options)
    while not any('"step": 3,' in path.read_text() for path in (tmp_path / "records").glob("*.jsonl")):
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.05)
    told = lines(tmp_path / "records")[0][0]["pid"]  # one of the processes is enough
    for worker in Path(f"/proc/{told}/task/{told}/children").read_text().split():
        os.kill(int(worker), signal.SIGTERM)  # schedulers tell the workers that read data too
    os.kill(told, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == (143 if engine == "one process" else 1) and "ended by SIGTERM after step" in errors
    [checkpoint] = tmp_path.glob("checkpoint-*")
    assert 4 <= int(checkpoint.name.split("-")[1]) < STEPS and not (tmp_path / "model.safetensors").exists()
    run(ENGINES[engine], tmp_path / "resumed", *options, "--resume", "true")
    assert (tmp_path / "model.safetensors").exists()
    assert lines(tmp_path / "resumed")[0][0]["step"] == int(checkpoint.name.split("-")[1])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["DDP", "ZeRO-3"])
def test_processes_measure_alike_and_agree_on_the_best_checkpoint(engine, options, tmp_path):
    metric = "eval_region mIoU, mask"
    evaluation = {"eval_strategy": "steps", "eval_steps": 5, "eval_images": 1, "save_strategy": "best", "metric_for_best_model": metric}
    options = [*options, *(word for name, value in evaluation.items() for word in (f"--{name}", str(value)))]
    run(ENGINES[engine], tmp_path / "records", *options, "--output_dir", str(tmp_path / "run"))
    assert list((tmp_path / "run").glob("checkpoint-*")) and (tmp_path / "run" / "model.safetensors").exists()
