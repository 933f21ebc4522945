"""From a config to a trainer, in Python; runs from the command line: tests/cli/test_train.py."""

import json
from types import SimpleNamespace

import pytest

from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.tiny import build_tiny
from psalm_hf.training import build_trainer, train
from psalm_hf.training.arguments import AlignmentArguments, MixtureArguments
from psalm_hf.training.model_card import state_domain
from psalm_hf.training.stages import stage_of
from psalm_hf.training.start import VisionArguments
from psalm_hf.training.trainer import PsalmTrainer

FEW = {"batch_sizes": {"panoptic": 1, "referring": 1, "interactive": 1, "conversation": 1}, "eval_strategy": "no", "eval_images": 0}


class Kitchen:
    """A source of somebody else's."""


def test_a_config_that_ships_gives_a_trainer_by_its_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = build_trainer("tiny_shapes", {**FEW, "max_steps": 3, "seed": 5})
    assert isinstance(trainer, PsalmTrainer) and trainer.model.name_or_path == "psalm-tiny"
    assert (trainer.args.max_steps, trainer.args.seed, trainer.args.learning_rate) == (3, 5, 1e-3)
    assert trainer.args.resume_from_checkpoint is None
    assert trainer.model.config.domain == "drawn shapes"


def test_a_checkpoint_is_saved_with_what_it_was_trained_on():
    sources = {"drawn": ShapesStream(task="panoptic"), "left out": object(), "mine": Kitchen()}
    trainer = SimpleNamespace(
        train_dataset=SimpleNamespace(sources=sources),
        batch_sampler=SimpleNamespace(weights={"drawn": 1, "left out": 0, "mine": 2}),
        model=build_tiny()[0],
    )
    state_domain(trainer)
    assert trainer.model.config.domain == "not stated, drawn shapes, Kitchen"
    trainer.model.config.domain = "drawn shapes"
    state_domain(trainer)
    assert trainer.model.config.domain == "drawn shapes, Kitchen"


def test_a_run_that_resumes_ends_where_it_would_have_ended(tmp_path):
    few = {**FEW, "output_dir": str(tmp_path), "save_steps": 1, "weights": {"panoptic": 1}, "batch_sizes": {"panoptic": 1}, "sources": {}}
    assert train("tiny_shapes", {**few, "max_steps": 1}).state.global_step == 1
    trainer = build_trainer("tiny_shapes", {**few, "max_steps": 2}, resume=True)
    assert trainer.args.resume_from_checkpoint == str(tmp_path / "checkpoint-1")
    assert train("tiny_shapes", {**few, "max_steps": 2}, resume=True).state.global_step == 2
    with pytest.raises(ValueError, match="draws batches otherwise: seed was 0, is 7"):
        build_trainer("tiny_shapes", {**few, "max_steps": 2, "seed": 7}, resume=True)


@pytest.mark.parametrize(
    ("name", "stage"),
    [("tiny_vision", VisionArguments), ("photos_start", VisionArguments), ("tiny_stage1", AlignmentArguments),
     ("stage1_paper", AlignmentArguments), ("tiny_shapes", MixtureArguments), ("stage2_released", MixtureArguments)],
)  # fmt: skip
def test_the_fields_of_a_config_say_which_stage_it_is(name, stage):
    assert stage_of(name) is stage


def test_what_training_arguments_have_too_says_nothing(tmp_path):
    shared = {"checkpoint": "psalm-tiny", "output_dir": "out", "learning_rate": 1e-3, "weight_decay": 0.1, "warmup_steps": 3, "seed": 1}
    (tmp_path / "run.yaml").write_text(json.dumps(shared))
    assert stage_of(tmp_path / "run.yaml") is AlignmentArguments
    assert stage_of(tmp_path / "run.yaml", ["--weights", "{panoptic: 1}"]) is MixtureArguments


def test_vision_pretraining_has_no_trainer_and_is_not_resumed():
    with pytest.raises(ValueError, match="tiny_vision: is a config of vision pretraining, which needs no trainer"):
        build_trainer("tiny_vision")
    with pytest.raises(ValueError, match="tiny_vision: vision pretraining keeps no checkpoint to go on from"):
        train("tiny_vision", resume=True)
