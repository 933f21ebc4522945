"""The training scripts with their committed configs: what trains, what repeats, what survives a kill."""

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
from transformers import BertConfig

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.cli import train
from psalm_hf.tiny import build_tiny
from psalm_hf.training.arguments import AlignmentArguments, MixtureArguments, PsalmTrainingArguments
from psalm_hf.training.start import build_random
from tests.test_locking import end, hold

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "configs"
OF_TRAINING = ("learning_rates", "frozen_vision_dropout", "projector_batch_norm", "fully_shard")
FEW = ["--batch_sizes", "{panoptic: 1, referring: 2, interactive: 1, conversation: 2}", "--eval_strategy", "no"]


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
    train.main(stage2(start, folder, *FEW, "--max_steps", "6", "--logging_steps", "1"))
    return folder


@pytest.mark.parametrize("arguments", [AlignmentArguments, MixtureArguments])
def test_help_explains_every_field(arguments):
    help_lines = [line.split() for line in train.__doc__.splitlines()]
    for cls, names in ((arguments, {field.name for field in fields(arguments)}), (PsalmTrainingArguments, OF_TRAINING)):
        for name in names:
            assert any(words[:1] == [name] and len(words) > 2 for words in help_lines), name
            assert f"        {name}: " in cls.__doc__, name


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [([], {"model.projector", "model.language_model", "lm_head.weight"}), (["--trainable", "[model.projector]"], {"model.projector"})],
)
def test_stage_1_trains_what_the_config_names_and_nothing_else(start, tmp_path, overrides, expected):
    config = ["--config", str(CONFIGS / "tiny_stage1.yaml"), "--checkpoint", str(start), "--output_dir", str(tmp_path)]
    few = ["--per_device_train_batch_size", "2", "--max_steps", "2", "--warmup_steps", "0", "--logging_steps", "1"]
    train.main([*config, *few, *overrides])
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
    train.main([*config, "--source", source, "--per_device_train_batch_size", "2", "--max_steps", "1", "--save_steps", "1"])
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_six_steps_of_the_committed_mixture_repeat_bit_for_bit(start, six_steps, tmp_path):
    train.main(stage2(start, tmp_path, *FEW, "--max_steps", "6", "--logging_steps", "1"))
    assert logged(tmp_path, 6) == logged(six_steps, 6)
    assert are_equal(weights(tmp_path), weights(six_steps))
    assert not are_equal(weights(start), weights(six_steps))


def test_evaluation_on_validation_pictures_is_logged_and_changes_no_weight(start, six_steps, tmp_path):
    evaluation = ["--eval_images", "1", "--eval_strategy", "steps", "--eval_steps", "3"]
    train.main(stage2(start, tmp_path, *FEW, "--max_steps", "6", "--logging_steps", "1", *evaluation))
    measured = [entry["step"] for entry in logged(tmp_path, 6) if any(name.startswith("eval_panoptic PQ") for name in entry)]
    assert measured == [3, 6]
    assert are_equal(weights(tmp_path), weights(six_steps))


def test_a_dataset_of_files_is_measured_during_training(start, tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "0.png")
    (tmp_path / "val.jsonl").write_text(json.dumps({"image": "0.png", "text": "star", "masks": [[[2, 2, 30, 2, 30, 30]]]}))
    source = f"{{mine: {{dataset: own_jsonl, data_dir: {tmp_path}, cache_dir: {tmp_path / 'cache'}}}}}"
    evaluation = ["--eval_images", "1", "--eval_strategy", "steps", "--eval_steps", "1", "--eval_sources", source]
    assert (
        train.main(stage2(start, tmp_path / "run", *FEW, *evaluation, "--max_steps", "1", "--save_steps", "1", "--eval_strategy", "steps"))
        == 0
    )
    assert any(name.startswith("eval_mine ") for entry in logged(tmp_path / "run", 1) for name in entry)


def test_a_config_can_ask_for_the_other_design(start, tmp_path):
    designs = ["--config", str(CONFIGS / "tiny_designs.yaml"), "--checkpoint", str(start), "--output_dir", str(tmp_path)]
    train.main([*designs, "--batch_sizes", "{panoptic: 2}", "--max_steps", "2", "--model", "{decouple_masks: false}"])
    model, processor = PsalmForSegmentation.from_pretrained(tmp_path), PsalmProcessor.from_pretrained(tmp_path)
    assert not model.config.decouple_masks and processor.num_queries == 0
    kept = weights(start)["model.language_model.embed_tokens.weight"]
    assert (model.model.language_model.embed_tokens.weight - kept).abs().max() < 0.01  # two steps away from the checkpoint


def bert(folder):
    BertConfig().save_pretrained(folder)
    return str(folder)


def empty(folder):
    (folder / "train.jsonl").touch()
    return f"{{panoptic: {{dataset: own_jsonl, data_dir: {folder}}}}}"


REFUSED = {
    "unknown key": (lambda folder: ["--learning_rat", "1e-3"], "no such fields: learning_rat"),
    "negative weight": (lambda folder: ["--weights", "{panoptic: -1}"], "task 'panoptic' has weight -1; give 0 or a positive number"),
    "all weights zero": (lambda folder: ["--weights", "{panoptic: 0, referring: 0}"], "no task has a weight above 0"),
    "source without weight": (lambda folder: ["--weights", "{panoptic: 1}"], "batch_sizes names conversation, interactive, referring"),
    "unknown dataset": (lambda folder: ["--sources", "{panoptic: {dataset: coco}}"], "source panoptic: unknown dataset 'coco'"),
    "missing folder": (
        lambda folder: ["--sources", "{panoptic: {dataset: coco_panoptic, data_dir: nowhere}}"],
        "source panoptic: there is no folder nowhere",
    ),
    "empty dataset": (lambda folder: ["--sources", empty(folder)], "no records in train.jsonl"),
    "another architecture": (lambda folder: ["--checkpoint", bert(folder)], "is a model of type 'bert', expected 'psalm'"),
    "no checkpoint": (lambda folder: ["--checkpoint", str(folder / "nothing")], "nothing"),
    "rate of nothing": (lambda folder: ["--learning_rates", "{vision: 1e-3}"], "the model has no submodule 'vision'"),
    "nothing to resume": (lambda folder: ["--resume", "true"], "no complete checkpoint to go on from"),
    "value of the model": (lambda folder: ["--model", "{num_queries: fifty}"], "PsalmConfig: Validation error for field 'num_queries'"),
    "size of the model": (lambda folder: ["--model", "{image_size: 100}"], "image_size is 100; give a multiple of 32"),
    "unknown field of the model": (lambda folder: ["--model", "{num_querys: 3}"], "model: PsalmConfig has no field num_querys"),
    "one process": (lambda folder: ["--fully_shard", "true"], "there is one; start with torchrun"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_one_line_before_any_work(case, start, tmp_path, capsys):
    make, message = REFUSED[case]
    (tmp_path / "files").mkdir()
    assert train.main([*stage2(start, tmp_path / "run", *FEW, "--max_steps", "1"), *make(tmp_path / "files")]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "run").exists()


def test_an_engine_that_is_not_installed_is_named_before_any_work(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    zero = ["--deepspeed", str(CONFIGS / "deepspeed_zero2.json")]
    assert train.main([*stage2(start, tmp_path / "run", *FEW), *zero]) == 2
    assert "DeepSpeed is not installed; pip install deepspeed" in capsys.readouterr().err


def test_several_gpus_without_a_launcher_are_refused_before_any_work(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(PsalmTrainingArguments, "n_gpu", property(lambda self: 4))
    assert train.main(stage2(start, tmp_path / "run", *FEW)) == 2
    assert "this process sees 4 GPUs; start one process for each (accelerate launch" in capsys.readouterr().err


def test_stage_1_refuses_in_one_line_too(start, tmp_path, capsys):
    config = ["--config", str(CONFIGS / "tiny_stage1.yaml"), "--checkpoint", str(start), "--output_dir", str(tmp_path / "run")]
    assert train.main([*config, "--source", "{dataset: llava}"]) == 2
    assert "error: source caption: unknown dataset 'llava'" in capsys.readouterr().err
    assert train.main([*config, "--trainable", "[projector]"]) == 2
    assert "error: the model has no submodule 'projector' to train" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_first_fifty_steps_of_the_committed_config_repeat_bit_for_bit(tmp_path):
    for part in build_random("tiny_model", seed=0):
        part.save_pretrained(tmp_path / "start")
    for run in ("one", "two"):  # warm-up is longer than this, so the rates are those of the whole run
        train.main(stage2(tmp_path / "start", tmp_path / run, "--max_steps", "50", "--logging_steps", "1"))
    assert logged(tmp_path / "one", 50) == logged(tmp_path / "two", 50)
    assert are_equal(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.slow
def test_a_second_run_on_a_folder_is_refused(start, tmp_path, capsys):
    first = hold(tmp_path / "run")
    assert train.main(stage2(start, tmp_path / "run", *FEW, "--max_steps", "1")) == 2
    assert f"run: another run is writing there (process {first} on" in capsys.readouterr().err
    end(first)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["_psalm"]


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
