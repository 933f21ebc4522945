"""The shipped configs: every field exists, every dataset is in the table, and those of the paper have the paper's numbers."""

from pathlib import Path

import pytest
import yaml

from psalm_hf.data import DATASETS
from psalm_hf.training.arguments import AlignmentArguments, MixtureArguments, PsalmTrainingArguments, read_config

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
STAGE_1 = sorted(CONFIGS.glob("*stage1*.yaml"))
STAGE_2 = [CONFIGS / f"{name}.yaml" for name in ("tiny_shapes", "tiny_shapes_second", "tiny_designs", "own_data")]
STAGE_2 += sorted(CONFIGS.glob("stage2_*.yaml"))
OTHERS = {CONFIGS / "tiny_model.yaml", CONFIGS / "tiny_vision.yaml"}
ON_CPU = ["--bf16", "false"]  # refused on machines without
PROCESSES = 16

# Supplement of the paper, tables 15 and 16: samples per step, steps, rate, warm-up.
PAPER = {
    "stage1_paper": (128, 4650, 2e-3, 140),
    "stage2_paper": (64, 56000, 4e-5, 1680),
    "stage2_ablation": (64, 9000, 4e-5, 270),
    "stage2_non_decoupled": (64, 9000, 4e-5, 270),
}


def test_every_config_is_looked_at():
    assert set(CONFIGS.glob("*.yaml")) == {*STAGE_1, *STAGE_2} | OTHERS
    assert PAPER.keys() == {path.stem for path in (*STAGE_1, *STAGE_2) if path.stem.startswith("stage")}


@pytest.mark.parametrize("path", STAGE_1 + STAGE_2, ids=lambda path: path.stem)
def test_a_config_has_known_fields_and_sources(path):
    arguments = AlignmentArguments if path in STAGE_1 else MixtureArguments
    missing = ["--checkpoint", "somewhere"] if path.stem == "own_data" else []
    ours, training = read_config(path, [*ON_CPU, *missing], (arguments, PsalmTrainingArguments))
    sources = [ours.source] if path in STAGE_1 else list(ours.sources.values())
    for source in sources:
        if "dataset" in source:
            entry = DATASETS[source["dataset"]]
            assert source.keys() - {"dataset", "data_dir", "condition"} <= set(entry.options) | {"split"}
    if path in STAGE_2:
        assert ours.weights.keys() == ours.batch_sizes.keys() and ours.sources.keys() <= ours.weights.keys()
    assert training.lr_scheduler_type == "cosine" and training.max_steps > 0


@pytest.mark.parametrize("name", PAPER)
def test_a_config_of_the_paper_has_its_numbers(name):
    samples, steps, rate, warmup = PAPER[name]
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    batch_sizes = content.get("batch_sizes", {"captions": content.get("per_device_train_batch_size")})
    assert {size * PROCESSES * content.get("gradient_accumulation_steps", 1) for size in batch_sizes.values()} == {samples}
    assert (content["max_steps"], content["learning_rate"], content["warmup_steps"]) == (steps, rate, warmup)
    _, training = read_config(
        CONFIGS / f"{name}.yaml", ON_CPU, (AlignmentArguments if "stage1" in name else MixtureArguments, PsalmTrainingArguments)
    )
    assert (training.adam_beta1, training.adam_beta2, training.weight_decay) == (0.9, 0.999, 0.0)
    assert not training.learning_rates  # the vision tower is frozen


@pytest.mark.parametrize("name", ["stage2_paper", "stage2_ablation"])
def test_the_four_tasks_of_the_paper_are_equally_likely(name):
    weights = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["weights"]
    referring = sum(weight for source, weight in weights.items() if source.startswith("refcoco"))
    assert {weights["panoptic"], referring, weights["interactive"], weights["conversation"]} == {3}
