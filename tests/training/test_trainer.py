"""The Trainer on the shapes world: terms by task, frozen parts stay, a run that stops goes on to the same weights."""

import pytest
import torch
from transformers import TrainerCallback

from psalm_hf import PsalmForSegmentation
from psalm_hf.data.collator import PsalmCollator
from psalm_hf.data.mixture import OneTaskPerBatch, TaskSources
from psalm_hf.data.shapes import ShapesStream
from psalm_hf.tiny import build_tiny
from psalm_hf.training.arguments import PsalmTrainingArguments
from psalm_hf.training.trainer import PsalmTrainer


class StopAt(TrainerCallback):
    """Ends the run as if it were killed after this step and its checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step
        return control


SIZES = {"panoptic": 1, "referring": 2, "interactive": 1, "conversation": 2}


def trainer(tmp_path, **options) -> PsalmTrainer:
    model, processor = build_tiny()
    settings = {"max_steps": 8, "logging_steps": 8, "report_to": "none", "use_cpu": True, "learning_rate": 1e-3, "disable_tqdm": True}
    args = PsalmTrainingArguments(output_dir=str(tmp_path), **(settings | options))
    return PsalmTrainer(
        model=model,
        args=args,
        train_dataset=TaskSources({task: ShapesStream(task=task, prompts_per_image=2) for task in SIZES}),
        batch_sampler=OneTaskPerBatch(dict.fromkeys(SIZES, 1.0), SIZES, args.max_steps, seed=0),
        data_collator=PsalmCollator(processor, shuffle_categories=True),
        processing_class=processor,
    )


def test_terms_are_logged_by_kind_and_name(tmp_path):
    run = trainer(tmp_path)
    run.train()
    logged = next(entry for entry in run.state.log_history if "loss" in entry)
    assert {"category/loss_class", "sentence/loss_referring", "region/loss_region", "conversation/loss_language"} <= logged.keys()


def test_vision_tower_is_frozen_unless_it_has_a_rate(tmp_path):
    before, _ = build_tiny()
    for rate, changes in ((None, False), (1e-3, True)):
        run = trainer(tmp_path / str(rate), max_steps=1, vision_learning_rate=rate)
        run.train()
        same = [
            torch.equal(one, other)
            for one, other in zip(before.model.vision_tower.parameters(), run.model.model.vision_tower.parameters(), strict=True)
        ]
        assert all(same) != changes
        assert not torch.equal(before.mask_decoder.norm.bias, run.model.mask_decoder.norm.bias)


@pytest.mark.parametrize("stop", [3])
def test_a_run_that_stops_and_resumes_ends_bit_equal(tmp_path, stop):
    straight = trainer(tmp_path / "straight")
    straight.train()
    first = trainer(tmp_path / "resumed", save_steps=stop, save_total_limit=1)
    first.args.max_steps = 8
    first.add_callback(StopAt(stop))
    first.train()
    second = trainer(tmp_path / "resumed")
    second.train(resume_from_checkpoint=True)
    expected, actual = straight.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_what_is_saved_loads_as_a_checkpoint(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.train()
    run.save_model()
    loaded = PsalmForSegmentation.from_pretrained(tmp_path)
    assert torch.equal(loaded.mask_decoder.norm.bias, run.model.mask_decoder.norm.bias)
