"""The shipped configs: every one is read, every dataset is in the table, the paper's and the released script's have their numbers."""

import json
from pathlib import Path

import pytest
import yaml

from psalm_hf.data.mixture import check_mixture, check_source
from psalm_hf.model.compatibility import CHECKPOINTING
from psalm_hf.tiny import build_tiny
from psalm_hf.training.arguments import AlignmentArguments, MixtureArguments, PsalmTrainingArguments, read_config
from psalm_hf.training.configs import find_config
from psalm_hf.training.trainer import freeze_vision_tower, train_only

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
CONTENT = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CONFIGS.glob("*.yaml"))}
STAGE_1 = [name for name, content in CONTENT.items() if "trainable" in content]
STAGE_2 = [name for name, content in CONTENT.items() if {"weights", "data"} & content.keys()]
ACCELERATE = [name for name, content in CONTENT.items() if "distributed_type" in content]
MODELS = [name for name, content in CONTENT.items() if "vocab_size" in content]
VISION = [name for name, content in CONTENT.items() if "model_file" in content]
DEEPSPEED = ["deepspeed_zero2", "deepspeed_zero3"]
PROCESSES = 16

# Refused on machines without GPUs, or without a launcher.
NEUTRAL = ["--bf16", "false", "--fp16", "false", "--deepspeed", "null", "--use_cpu", "true"]

# Supplement of the paper, tables 15 and 16: samples per step, steps, rate, warm-up; precision: ours, except stage2_released.
PAPER = {
    "stage1_paper": (128, 4650, 2e-3, 140, "bf16"),
    "stage2_paper": (64, 56000, 4e-5, 1680, "bf16"),
    "stage2_ablation": (64, 9000, 4e-5, 270, "bf16"),
    "stage2_non_decoupled": (64, 9000, 4e-5, 270, "bf16"),
    "stage2_released": (64, 87884, 6e-5, 2637, "fp16"),  # of train.sh; steps as its header says
}


def read(name):
    missing = [] if "checkpoint" in CONTENT[name] else ["--checkpoint", "somewhere"]
    classes = (AlignmentArguments if name in STAGE_1 else MixtureArguments, PsalmTrainingArguments)
    return read_config(CONFIGS / f"{name}.yaml", [*NEUTRAL, *missing], classes)


def test_every_config_is_of_one_kind():
    assert sorted([*STAGE_1, *STAGE_2, *ACCELERATE, *MODELS, *VISION]) == sorted(CONTENT)
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(DEEPSPEED)
    assert PAPER.keys() == {name for name in (*STAGE_1, *STAGE_2) if name.startswith("stage")}


@pytest.mark.parametrize("name", STAGE_1 + STAGE_2)
def test_a_config_has_known_fields_and_sources(name, monkeypatch):
    ours, training = read(name)
    monkeypatch.setattr(Path, "is_dir", lambda path: True)  # folders of datasets
    if name in STAGE_2 and ours.data:
        check_source("data", ours.data)
    elif name in STAGE_2:
        check_mixture(ours.weights, ours.batch_sizes, ours.sources)
    else:
        check_source("caption", ours.source)
    assert training.lr_scheduler_type == "cosine" and training.max_steps > 0


@pytest.mark.parametrize("name", PAPER)
def test_a_config_of_the_paper_has_its_numbers(name):
    samples, steps, rate, warmup, precision = PAPER[name]
    content, (_, training) = CONTENT[name], read(name)
    batch_sizes = content.get("batch_sizes", {"captions": training.per_device_train_batch_size})
    assert {size * PROCESSES * training.gradient_accumulation_steps for size in batch_sizes.values()} == {samples}
    assert (training.max_steps, training.learning_rate, training.warmup_steps) == (steps, rate, warmup)
    assert round(0.03 * steps) in (warmup, warmup - 1, warmup + 1)
    assert (training.adam_beta1, training.adam_beta2, training.weight_decay) == (0.9, 0.999, 0.0)
    assert training.optim.startswith("adamw_torch") and training.lr_scheduler_type == "cosine"
    assert {half: bool(content.get(half)) for half in ("bf16", "fp16")} == {half: half == precision for half in ("bf16", "fp16")}
    assert getattr(training, CHECKPOINTING)


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_trains_the_projector_and_then_all_but_the_vision_tower(name):
    ours, training = read(name)
    model, _ = build_tiny(decouple_masks=CONTENT[name].get("model", {}).get("decouple_masks", True))
    if name in STAGE_1:
        train_only(model, ours.trainable)
    freeze_vision_tower(model, training.learning_rates)
    for parameter_name, parameter in model.named_parameters():
        in_projector, in_tower = parameter_name.startswith("model.projector."), parameter_name.startswith("model.vision_tower.")
        assert parameter.requires_grad == (in_projector if name in STAGE_1 else not in_tower), parameter_name
    assert not training.learning_rates  # one rate for all
    assert training.frozen_vision_dropout == (name == "stage2_released")


@pytest.mark.parametrize("name", ["stage2_paper", "stage2_ablation", "stage2_released"])
def test_the_four_tasks_of_the_paper_are_equally_likely(name):
    weights = CONTENT[name]["weights"]
    referring = sum(weight for source, weight in weights.items() if source.startswith("refcoco"))
    assert {weights["panoptic"], referring, weights["interactive"], weights["conversation"]} == {3}


def test_the_ablations_are_the_paper_with_fewer_steps():
    fewer = {"output_dir": None, "max_steps": None, "warmup_steps": None}
    assert CONTENT["stage2_ablation"] | fewer == CONTENT["stage2_paper"] | fewer
    assert CONTENT["stage2_non_decoupled"]["model"] == {"decouple_masks": False}


def test_the_released_script_has_ten_epochs_of_its_four_data_sets():
    samples = 118_287 + (42_404 + 42_278 + 42_226) + 117_266 + 200_000
    assert CONTENT["stage2_released"]["max_steps"] == 10 * samples // 64
    assert CONTENT["stage2_released"]["sources"]["interactive"]["rules"] == "released"
    assert find_config(CONTENT["stage2_released"]["deepspeed"], beside=CONFIGS) == CONFIGS / "deepspeed_zero2.json"
    assert set(CONTENT["stage2_released"]["batch_sizes"].values()) == {4}


@pytest.mark.parametrize("name", DEEPSPEED)
def test_the_trainer_fills_in_a_deepspeed_config(name, tmp_path):
    pytest.importorskip("deepspeed")
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig, unset_hf_deepspeed_config

    model, _ = build_tiny()
    training = PsalmTrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_grad_norm=0.5, report_to="none")
    try:
        config = HfTrainerDeepSpeedConfig(str(CONFIGS / f"{name}.json"))
        assert config.is_zero3() == (name == "deepspeed_zero3") and config.is_zero2() == (name == "deepspeed_zero2")
        config.trainer_config_process(training)
        config.trainer_config_finalize(training, model, 10)
    finally:
        unset_hf_deepspeed_config()
    assert "auto" not in json.dumps(config.config)
    assert config.config["gradient_clipping"] == 0.5
    assert not {"optimizer", "scheduler"} & config.config.keys()  # those of the training config count
    # Without it a folder that is saved has no weights.
    assert name == "deepspeed_zero2" or config.config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEPSPEED)
def test_deepspeed_knows_every_key(name):
    """Misspelt ones at the top are ignored by DeepSpeed in silence, those of ZeRO are refused."""
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    content = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    known = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "fp16", "bf16"}
    assert content.keys() == known | {"zero_optimization"}
    filled = {key: 1000 if value == "auto" else value for key, value in content["zero_optimization"].items()}
    read = DeepSpeedZeroConfig(**filled)
    assert read.stage == int(name[-1]) and read.overlap_comm and read.contiguous_gradients
    assert read.gather_16bit_weights_on_model_save == (name == "deepspeed_zero3")


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_reads_its_configs(name):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    kinds = {"accelerate_cpu": (DistributedType.MULTI_GPU, 2, "no"), "accelerate_ddp": (DistributedType.MULTI_GPU, 8, "bf16")}
    kinds["accelerate_fsdp"] = (DistributedType.FSDP, 8, "bf16")
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == kinds[name]
    assert config.num_machines == 1 and config.use_cpu == (name == "accelerate_cpu")


def test_fsdp_gathers_the_layers_that_the_model_names(monkeypatch):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
    from accelerate.utils.launch import prepare_multi_gpu_env

    launcher = launch_command_parser().parse_args(["--config_file", str(CONFIGS / "accelerate_fsdp.yaml"), "train.py"])
    arguments, _, _ = _validate_launch_command(launcher)
    for name, value in prepare_multi_gpu_env(arguments).items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT" and not plugin.activation_checkpointing

    model, _ = build_tiny()
    gathers = fsdp2_prepare_auto_wrap_policy(plugin, model)
    found = {type(module).__name__ for module in model.modules() if gathers(module)}
    assert found == {"PhiDecoderLayer", "SwinStage", "PsalmProjector", "PsalmPixelDecoder", "PsalmMaskDecoderLayer"}
