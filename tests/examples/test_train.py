"""The training scripts with their committed configs: what trains, what repeats, what survives a kill."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.tiny import build_tiny
from psalm_hf.training.arguments import AlignmentArguments, MixtureArguments, PsalmTrainingArguments

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "configs"
OF_TRAINING = ("learning_rates", "frozen_vision_dropout", "projector_batch_norm", "fully_shard")
FEW = ["--batch_sizes", "{panoptic: 1, referring: 2, interactive: 1, conversation: 2}", "--eval_strategy", "no"]


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train_stage1, train_stage2 = load_script("train_stage1"), load_script("train_stage2")


def stage2(start, output_dir, *overrides):
    """Arguments of a run with the committed config."""
    return ["--config", str(CONFIGS / "tiny_shapes.yaml"), "--checkpoint", str(start), "--output_dir", str(output_dir), *overrides]


def weights(folder):
    return load_file(folder / "model.safetensors")


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logged(run, step):
    """Everything a run logged up to its checkpoint of this step, but for what the machine decides."""
    history = json.loads((run / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]
    return [{name: value for name, value in entry.items() if name not in ("images_per_second", "memory_gib")} for entry in history]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A random small model to start from."""
    folder = tmp_path_factory.mktemp("start")
    for part in build_tiny():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def six_steps(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("six_steps")
    train_stage2.main(stage2(start, folder, *FEW, "--max_steps", "6", "--logging_steps", "1"))
    return folder


@pytest.mark.parametrize(("script", "arguments"), [(train_stage1, AlignmentArguments), (train_stage2, MixtureArguments)])
def test_help_explains_every_field(script, arguments):
    explained = {" ".join(line.split()) for line in script.__doc__.splitlines()}
    own = [field for field in fields(PsalmTrainingArguments) if field.name in OF_TRAINING]
    for field in (*fields(arguments), *own):
        assert any(line.startswith(f"{field.name} {field.metadata['help']}") for line in explained), field.name


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [([], {"model.projector", "model.language_model", "lm_head.weight"}), (["--trainable", "[model.projector]"], {"model.projector"})],
)
def test_stage_1_trains_what_the_config_names_and_nothing_else(start, tmp_path, overrides, expected):
    config = ["--config", str(CONFIGS / "tiny_stage1.yaml"), "--checkpoint", str(start), "--output_dir", str(tmp_path)]
    few = ["--per_device_train_batch_size", "2", "--max_steps", "2", "--warmup_steps", "0", "--logging_steps", "1"]
    train_stage1.main([*config, *few, *overrides])
    before, after = weights(start), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {".".join(name.split(".")[:2]) for name in changed} == expected
    assert (tmp_path / "processor_config.json").exists()
    assert "conversation/loss_language" in logged(tmp_path, 2)[0]


def test_stage_1_reads_captions_from_files(start, tmp_path):
    lines = [{"image": f"{number}.png", "conversation": [{"role": "assistant", "content": "a red star"}]} for number in range(2)]
    for line in lines:
        Image.new("RGB", (64, 48), "red").save(tmp_path / line["image"])
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    source = f"{{dataset: own_jsonl, data_dir: {tmp_path}, cache_dir: {tmp_path / 'cache'}}}"
    config = ["--config", str(CONFIGS / "tiny_stage1.yaml"), "--checkpoint", str(start), "--output_dir", str(tmp_path / "run")]
    train_stage1.main([*config, "--source", source, "--per_device_train_batch_size", "2", "--max_steps", "1", "--save_steps", "1"])
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_six_steps_of_the_committed_mixture_repeat_bit_for_bit(start, six_steps, tmp_path):
    train_stage2.main(stage2(start, tmp_path, *FEW, "--max_steps", "6", "--logging_steps", "1"))
    assert logged(tmp_path, 6) == logged(six_steps, 6)
    assert are_equal(weights(tmp_path), weights(six_steps))
    assert not are_equal(weights(start), weights(six_steps))


def test_evaluation_on_validation_pictures_is_logged_and_changes_no_weight(start, six_steps, tmp_path):
    evaluation = ["--eval_images", "1", "--eval_strategy", "steps", "--eval_steps", "3"]
    train_stage2.main(stage2(start, tmp_path, *FEW, "--max_steps", "6", "--logging_steps", "1", *evaluation))
    measured = [entry["step"] for entry in logged(tmp_path, 6) if any(name.startswith("eval_panoptic PQ") for name in entry)]
    assert measured == [3, 6]
    assert are_equal(weights(tmp_path), weights(six_steps))


def test_a_config_can_ask_for_the_other_design(start, tmp_path):
    designs = ["--config", str(CONFIGS / "tiny_designs.yaml"), "--checkpoint", str(start), "--output_dir", str(tmp_path)]
    train_stage2.main([*designs, "--batch_sizes", "{panoptic: 2}", "--max_steps", "2", "--model", "{decouple_masks: false}"])
    model, processor = PsalmForSegmentation.from_pretrained(tmp_path), PsalmProcessor.from_pretrained(tmp_path)
    assert not model.config.decouple_masks and processor.num_queries == 0
    kept = weights(start)["model.language_model.embed_tokens.weight"]
    assert (model.model.language_model.embed_tokens.weight - kept).abs().max() < 0.01  # two steps away from the checkpoint


@pytest.mark.slow
def test_the_first_fifty_steps_of_the_committed_config_repeat_bit_for_bit(tmp_path):
    for part in load_script("pretrain_vision").build(str(CONFIGS / "tiny_model.yaml"), seed=0):
        part.save_pretrained(tmp_path / "start")
    for run in ("one", "two"):  # warm-up is longer than this, so the rates are those of the whole run
        train_stage2.main(stage2(tmp_path / "start", tmp_path / run, "--max_steps", "50", "--logging_steps", "1"))
    assert logged(tmp_path / "one", 50) == logged(tmp_path / "two", 50)
    assert are_equal(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(start, tmp_path):
    def launch(output_dir, *more):
        overrides = [*FEW, "--max_steps", "20", "--save_steps", "10", *more]
        command = [sys.executable, str(ROOT / "examples" / "train_stage2.py"), *stage2(start, output_dir, *overrides)]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})

    assert launch(tmp_path / "straight").wait() == 0

    killed = launch(tmp_path / "killed")
    checkpoint = tmp_path / "killed" / "checkpoint-10" / "trainer_state.json"
    while not checkpoint.exists():
        assert killed.poll() is None, "ended before its first checkpoint"
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()

    written = checkpoint.stat().st_mtime_ns
    assert launch(tmp_path / "killed", "--resume", "true").wait() == 0
    assert checkpoint.stat().st_mtime_ns == written  # from there, not from the beginning
    assert are_equal(weights(tmp_path / "killed"), weights(tmp_path / "straight"))
