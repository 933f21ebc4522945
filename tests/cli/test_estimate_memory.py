"""The dry run prints what a config needs, from its folder or from the released sizes."""

from pathlib import Path

import pytest

from psalm_hf.cli import estimate_memory
from psalm_hf.tiny import build_tiny
from psalm_hf.training import memory

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    for part in build_tiny():
        part.save_pretrained(folder)
    return folder


def table(output, name):
    """The cells of the line that begins with `name`."""
    return next(line.removeprefix(name).split() for line in output.splitlines() if line.startswith(f"{name} "))


def run(capsys, config, *overrides):
    assert estimate_memory.main(["--config", str(CONFIGS / config), "--length", "100", *map(str, overrides)]) == 0
    return capsys.readouterr().out


def test_the_two_stages_say_what_trains(capsys, folder):
    output = run(capsys, "stage2_paper.yaml", "--checkpoint", folder, "--processes", 2)
    assert (
        f"sizes of {folder}" in output and "GiB on each of 2 GPUs: AdamW, bf16, batches of 4 rows x 100 tokens, 128 x 128 pixels" in output
    )
    model, _ = build_tiny()
    tower = sum(parameter.numel() for parameter in model.model.vision_tower.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    assert table(output, "vision tower") == ["0.00", f"{tower / 1e6:.2f}"]
    assert table(output, "all") == [f"{(total - tower) / 1e6:.2f}", f"{tower / 1e6:.2f}"]
    assert [len(table(output, engine)) for engine in ("DDP", "ZeRO-2", "ZeRO-3", "FSDP")] == [7] * 4
    assert "a segmentation step" in output and "a conversation step" in output and "Not counted:" in output

    output = run(capsys, "stage1_paper.yaml", "--checkpoint", folder)
    projector = sum(parameter.numel() for parameter in model.model.projector.parameters())
    assert table(output, "all") == [f"{projector / 1e6:.2f}", f"{(total - projector) / 1e6:.2f}"]
    assert "batches of 8 rows" in output and "a segmentation step" not in output


def test_a_vision_tower_with_a_rate_learns(folder):
    overrides = ["--checkpoint", str(folder), "--learning_rates", "{model.vision_tower: 1.0e-5}"]
    config, training, half = memory.read_plan(CONFIGS / "stage2_released.yaml", overrides)
    model, _ = memory.build_planned(config, training)
    assert half == "fp16" and all(parameter.requires_grad and parameter.is_meta for parameter in model.parameters())


def test_adapters_are_counted(capsys, folder):
    pytest.importorskip("peft")
    output = run(capsys, "stage2_paper.yaml", "--checkpoint", folder, "--lora", "{rank: 16}")
    trainable, frozen = map(float, table(output, "language model"))
    assert frozen > trainable > 0


def test_what_training_refuses_is_refused(capsys, folder):
    assert estimate_memory.main(["--config", str(CONFIGS / "stage2_paper.yaml"), "--learning_rates", "{model.eye: 1}"]) == 2
    assert capsys.readouterr().err.startswith("error: learning_rates: the model has no submodule 'model.eye'")


def test_a_wrong_value_of_the_model_is_one_line(capsys, folder):
    for checkpoint in (folder, "nowhere"):
        config = ["--config", str(CONFIGS / "stage2_paper.yaml"), "--checkpoint", str(checkpoint)]
        assert estimate_memory.main([*config, "--model", "{num_queries: fifty}"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and "PsalmConfig: Validation error for field 'num_queries'" in line


def test_statistics_of_all_gpus_can_be_planned_without_one(folder):
    overrides = ["--checkpoint", str(folder), "--projector_batch_norm"]
    memory.read_plan(CONFIGS / "stage2_paper.yaml", [*overrides, "synchronised"])
    with pytest.raises(ValueError, match="projector_batch_norm is 'sync', expected batch, synchronised or frozen"):
        memory.read_plan(CONFIGS / "stage2_paper.yaml", [*overrides, "sync"])


def test_sources_that_are_never_drawn_do_not_count(capsys, folder):
    mixture = ["--weights", "{panoptic: 1, referring: 0}", "--batch_sizes", "{panoptic: 2, referring: 64}", "--sources", "{}"]
    output = run(capsys, "stage2_paper.yaml", "--checkpoint", folder, *mixture)
    assert "batches of 2 rows" in output and "Assumed: 2 rows in every batch, as of the largest source that is drawn" in output


@pytest.mark.slow
def test_the_released_sizes_need_no_memory(capsys):
    output = run(capsys, "stage2_paper.yaml", "--checkpoint", "nowhere")
    assert "sizes of the released model (nowhere does not exist)" in output
    assert table(output, "all") == ["1500.13", "86.88"]
