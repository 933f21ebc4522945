"""Every engine of docs/training.md does the same: its command is read there and run; kills, resumption and tasks on two processes.

Starting Python costs more than a short run, so one start of an engine trains every model, see record_run.py.
"""

import contextlib
import functools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils import cpp_extension

from psalm_hf.tiny import build_tiny

ROOT = Path(__file__).parents[2]
RECORD = str(ROOT / "tests" / "training" / "record_run.py")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
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


def needs_compiler(engine):
    """Skips DeepSpeed where its operators for CPUs cannot be compiled."""
    if "ZeRO" not in engine:
        return
    present = {"deepspeed": find_spec("deepspeed"), "ninja": shutil.which("ninja", path=PATH)}
    present |= {"a C++ compiler": shutil.which(cpp_extension.get_cxx_compiler(), path=PATH)}
    if missing := [name for name, found in present.items() if not found]:
        pytest.skip(f"{engine} on CPU compiles operators of its own, and there is no {', no '.join(missing)}")


def launch(engine, runs, *overrides):
    """Starts the command of an engine, recorded, in a process group of its own. `runs`: records -> overrides, see record_run.py."""
    needs_compiler(engine)
    words = shlex.split(ENGINES[engine])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": PATH}
    while "=" in words[0]:
        environment |= [words.pop(0).split("=", 1)]
    script = words.index("examples/train_stage2.py")
    words[script:script] = [RECORD, json.dumps({str(records): [*map(str, own)] for records, own in runs.items()})]
    return subprocess.Popen([*words, *overrides], cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)


def failure(engine, runs, *overrides):
    """Runs and waits; the end of what a run that failed has said."""
    process = launch(engine, runs, *overrides)
    _, errors = process.communicate()
    return errors[-3000:] if process.returncode else None


def run(engine, runs, *overrides):
    message = failure(engine, runs, *overrides)
    assert message is None, message


def lines(records):
    return {int(path.stem): [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(records.glob("*.jsonl"))}


def losses(records):
    """Mean loss of every step, over processes and accumulated batches."""
    found = {}
    for line in sum(lines(records).values(), []):
        found.setdefault(line["step"], []).append(line["loss"])
    return [sum(values) / len(values) for _, values in sorted(found.items())]


# Sizes that all families share. 259 tokens leave a remainder among two processes: they hold 130 and 129 rows of an embedding.
TEXT = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT |= {"max_position_embeddings": 2048, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 257, "tie_word_embeddings": True}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "llama": GROUPED,
    "qwen3": GROUPED,
    "gemma3_text": GROUPED | {"sliding_window": 64},
    "gpt2": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}
MODELS = {"untied": {}, "tied": {"tie_word_embeddings": True}} | {
    family: {"tie_word_embeddings": True, "text_config": TEXT | sizes | {"model_type": family}} for family, sizes in FAMILIES.items()
}
SHORT = ["--weights", json.dumps(dict.fromkeys(TASKS, 0) | {"conversation": 1})]


def steps_of(model):
    """Optimizer steps that engines are compared over: every task twice, once, or conversations alone."""
    return {"untied": 8, "tied": 4}.get(model, 3)


def models_of(engine):
    """The models that an engine trains. The two commands of DDP start the same engine."""
    return {"one process": [*MODELS], "fully_shard": [*MODELS], "DDP by accelerate": ["untied"]}.get(engine, ["untied", "tied"])


def build(name):
    """A model of `MODELS` and its processor. Points of the mask losses are all drawn freely: which of two points is the less certain may
    hang on the last bit, and then two engines would train different runs."""
    return build_tiny(image_size=64, importance_sample_ratio=0.0, **MODELS[name])


@pytest.fixture(scope="module", autouse=True)
def extensions(tmp_path_factory):
    """Place for what DeepSpeed compiles. In the common one another torch may have left its own, and a process that was killed a lock, for
    which all others wait without end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path_factory.mktemp("extensions")))
        yield


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """Folder with the model of every name in `MODELS`, before it is trained."""
    folder = tmp_path_factory.mktemp("starts")
    for name in MODELS:
        for part in build(name):
            part.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def options(starts):
    """Overrides of a short run. With a larger epsilon Adam does not blow up the rounding noise of gradients that are zero (biases of
    keys, biases in front of norms), which differs between engines."""
    sizes = dict.fromkeys(TASKS, 1)
    fields = {"checkpoint": starts / "untied", "max_steps": STEPS, "warmup_steps": 0, "learning_rate": 2e-3, "adam_epsilon": 1e-4}
    fields |= {
        "logging_steps": 5,
        "weights": dict.fromkeys(TASKS, 1),
        "batch_sizes": sizes,
        "eval_strategy": "no",
        "save_strategy": "no",
        "dataloader_num_workers": 0,
    }
    return [word for name, value in fields.items() for word in (f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value))]


@pytest.fixture(scope="module")
def trained(starts, options, tmp_path_factory):
    """Engine -> folder with `<model>`, what a run wrote, and `<model>-records`; every engine is started once, when it is asked for."""

    @functools.cache
    def start(engine):
        folder = tmp_path_factory.mktemp(engine.replace(" ", "-"))
        runs = {}
        for name in models_of(engine):
            own = ["--checkpoint", starts / name, "--output_dir", folder / name]
            runs[folder / f"{name}-records"] = [*own, "--max_steps", steps_of(name), *(SHORT if name in FAMILIES else [])]
        if engine == "one process":
            runs[folder / "long-records"] = ["--output_dir", folder / "long"]
        return folder, failure(engine, runs, *options)

    def train(engine):
        folder, message = start(engine)
        assert message is None, message
        return folder

    return train


@pytest.mark.engines
def test_the_loss_falls(trained):
    records = trained("one process") / "long-records"
    kinds = [line["kind"] for line in lines(records)[0][::4]]
    first, last = {}, {}
    for kind, loss in zip(kinds, losses(records), strict=True):
        first.setdefault(kind, loss)
        last[kind] = loss
    assert len(first) == 4 and sum(last.values()) <= 0.9 * sum(first.values())


ON_TWO = [name for name in ENGINES if name != "one process"]
RUNS = [(engine, model) for engine in ON_TWO for model in models_of(engine)]


@pytest.mark.engines
@pytest.mark.parametrize(("engine", "model"), RUNS)
def test_an_engine_gives_the_losses_and_weights_of_one_process(engine, model, trained, starts):
    alone, folder = trained("one process"), trained(engine)
    expected, actual = losses(alone / f"{model}-records"), losses(folder / f"{model}-records")
    assert len(actual) == len(expected) == steps_of(model) and len(lines(folder / f"{model}-records")) == 2
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), rtol=1e-4, atol=0)
    before = load_file(starts / model / "model.safetensors")
    expected, actual = load_file(alone / model / "model.safetensors"), load_file(folder / model / "model.safetensors")
    assert before.keys() == expected.keys() == actual.keys()
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # each process has those of its own batches; process 0 saves
    names = [name for name in expected if not name.endswith(statistics)]
    far = {name: torch.isclose(actual[name], expected[name], rtol=1e-4, atol=1e-6).logical_not() for name in names}
    # Gradients jump where a ReLU opens and between the cells of bilinear interpolation. The last bit may decide such a case, which moves
    # the one row of weights behind it; an engine that is wrong moves all.
    assert sum(map(torch.sum, far.values())) <= 1e-4 * sum(map(torch.numel, far.values())), [name for name in names if far[name].any()]
    for name in names:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    (head,) = (name for name in expected if name.endswith("lm_head.weight" if model == "untied" else ("embed_tokens.weight", "wte.weight")))
    assert (expected[head] - before[head]).abs().max() > 1e-4


@pytest.mark.engines
@pytest.mark.parametrize(("engine", "model"), RUNS)
def test_weights_are_divided_where_the_engine_says_so(engine, model, trained, starts):
    held = {rank: of_rank[0]["held"] for rank, of_rank in lines(trained(engine) / f"{model}-records").items()}
    whole = sum(parameter.numel() for parameter in build(model)[0].parameters())
    divides = engine in ("ZeRO-3", "fully_shard")
    assert len(held) == 2 and all((number < 0.6 * whole) == divides for number in held.values()), held


@pytest.mark.engines
@pytest.mark.parametrize(("engine", "model"), [("one process", "untied"), ("one process", "tied"), *RUNS])
def test_a_folder_stores_every_weight_once_beside_the_code_that_reads_it(engine, model, trained, starts):
    folder, start = trained(engine) / model, starts / model
    network = build(model)[0]
    once = {name for name, _ in network.named_parameters()} | {name for name, _ in network.named_buffers()}
    stored = load_file(folder / "model.safetensors").keys()
    assert stored <= once and stored >= {name for name, _ in network.named_parameters()}
    assert ("lm_head.weight" in stored) == (model == "untied")
    assert code(folder) == code(start) and (folder / "modeling_psalm.py").exists()
    written, alone = (json.loads((path / "config.json").read_text()) for path in (folder, trained("one process") / model))
    assert written == alone and written["auto_map"]["AutoModel"] == "modeling_psalm.PsalmForSegmentation"
    assert written["architectures"] == ["PsalmForSegmentation"]


def code(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}


REMOTE = """
import sys
sys.modules["psalm_hf"] = None  # any import of it fails
import torch, traceback
from pathlib import Path
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor
def check(folder):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in load_file(folder / "model.safetensors").items())
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (folder.name != "untied")
    with torch.no_grad():
        masks = model(**processor(images=torch.zeros(3, 60, 90).byte().numpy(), expressions=["the cup"])).masks_queries_logits
    assert masks.isfinite().all()
for folder in map(Path, sys.argv[1:]):
    try:
        check(folder)
        (folder / "loaded").touch()
    except Exception:
        traceback.print_exc()
"""


@pytest.fixture(scope="module")
def loaded(trained, tmp_path_factory):
    """Output of a process without psalm_hf that loaded the folders of all engines; it leaves a file `loaded` in the good ones."""
    folders = []
    for engine in ENGINES:
        with contextlib.suppress(AssertionError, pytest.skip.Exception):  # an engine that fails, or is not there, is for its own tests
            folders += [trained(engine) / model for model in models_of(engine) if model not in FAMILIES]
    home = tmp_path_factory.mktemp("home")
    environment = {"HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", REMOTE, *map(str, folders)]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True).stderr


@pytest.mark.engines
@pytest.mark.parametrize(
    ("engine", "model"), [(engine, model) for engine in ENGINES for model in models_of(engine) if model not in FAMILIES]
)
def test_a_folder_loads_where_psalm_hf_cannot_be_imported(engine, model, trained, loaded):
    assert (trained(engine) / model / "loaded").exists(), loaded[-2000:]


MIXED_STEPS = 32
SHARES = {"equal": (1, 1, 1, 1), "unequal": (2, 1, 1, 0)}


@pytest.fixture(scope="module")
def mixed(options, tmp_path_factory):
    """Folder with the records of a longer run for each of `SHARES`."""
    folder = tmp_path_factory.mktemp("mixed")
    runs = {}
    for name, shares in SHARES.items():
        runs[folder / name] = ["--weights", json.dumps(dict(zip(TASKS, shares, strict=True))), "--output_dir", folder / f"{name}-run"]
    run("DDP", runs, *options, "--max_steps", str(MIXED_STEPS))
    return folder


@pytest.mark.engines
@pytest.mark.parametrize("shares", SHARES)
def test_all_processes_and_accumulated_batches_of_a_step_have_one_task(shares, mixed):
    steps, weights = MIXED_STEPS, dict(zip(TASKS, SHARES[shares], strict=True))
    records = lines(mixed / shares)
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


def kill_in_the_middle(process, records, step, seconds=0.0):
    """SIGKILL to all processes of a run, some seconds after it has come to a step."""
    while not any(f'"step": {step},' in path.read_text() for path in records.glob("*.jsonl")):
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.05)
    time.sleep(seconds)
    for of_rank in lines(records).values():  # torchrun gives its processes sessions of their own
        with contextlib.suppress(ProcessLookupError):  # it has come to its end
            os.kill(of_rank[0]["pid"], signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.engines
def test_two_processes_go_on_to_the_same_bits_from_ten_kills_while_they_compute_and_save(options, tmp_path):
    options = [*options, "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "1"]
    run("DDP", {tmp_path / "whole": ["--output_dir", tmp_path / "straight"]}, *options)
    chance, resumed = random.Random(0), {}
    for number in range(10):
        records, output = tmp_path / f"begun-{number}", tmp_path / f"killed-{number}"
        process = launch("DDP", {records: ["--output_dir", output]}, *options)
        kill_in_the_middle(process, records, chance.randrange(1, STEPS), chance.random() / 2)
        complete = list(output.glob("checkpoint-*/trainer_state.json"))
        resumed[tmp_path / f"resumed-{number}"] = ["--output_dir", output, *(["--resume", "true"] if complete else [])]
    run("DDP", resumed, *options)
    expected = load_file(tmp_path / "straight" / "model.safetensors")
    for number in range(10):
        output = tmp_path / f"killed-{number}"
        actual = load_file(output / "model.safetensors")
        assert expected.keys() == actual.keys() and all(torch.equal(expected[name], actual[name]) for name in expected), number
        assert [path.name for path in output.glob("checkpoint-*")] == [f"checkpoint-{STEPS}"] and not (output / "_psalm").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["untied", "tied"])
@pytest.mark.parametrize("engine", ["one process", "DDP", "ZeRO-2", "ZeRO-3", "fully_shard"])
def test_a_killed_run_goes_on_with_the_same_batches_to_the_same_bits(engine, model, options, starts, tmp_path):
    options = [*options, "--checkpoint", str(starts / model), "--save_strategy", "steps", "--save_steps", "5"]
    run(engine, {tmp_path / "whole": ["--output_dir", tmp_path / "straight"]}, *options)
    step = random.randrange(6, 15)
    interrupted = ["--output_dir", tmp_path / "killed"]
    kill_in_the_middle(launch(engine, {tmp_path / "begun": interrupted}, *options), tmp_path / "begun", step)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    run(engine, {tmp_path / "resumed": [*interrupted, "--resume", "true"]}, *options)
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
    process = launch(engine, {tmp_path / "records": []}, *options)
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
    run(engine, {tmp_path / "resumed": ["--resume", "true"]}, *options)
    assert (tmp_path / "model.safetensors").exists()
    assert lines(tmp_path / "resumed")[0][0]["step"] == int(checkpoint.name.split("-")[1])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["DDP", "ZeRO-3"])
def test_processes_measure_alike_and_agree_on_the_best_checkpoint(engine, options, tmp_path):
    metric = "eval_region mIoU, mask"
    evaluation = {"eval_strategy": "steps", "eval_steps": 5, "eval_images": 1, "save_strategy": "best", "metric_for_best_model": metric}
    options = [*options, *(word for name, value in evaluation.items() for word in (f"--{name}", str(value)))]
    run(engine, {tmp_path / "records": ["--output_dir", tmp_path / "run"]}, *options)
    assert list((tmp_path / "run").glob("checkpoint-*")) and (tmp_path / "run" / "model.safetensors").exists()
