"""The Trainer on the shapes world: terms by task, frozen parts stay, evaluations leave no trace, a run that stops goes on to the same
weights."""

import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from psalm_hf import PsalmForSegmentation
from psalm_hf.data.collator import PsalmCollator
from psalm_hf.data.mixture import OneTaskPerBatch, TaskSources
from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.tiny import build_tiny
from psalm_hf.training.arguments import PsalmTrainingArguments
from psalm_hf.training.resuming import last_checkpoint
from psalm_hf.training.trainer import PsalmTrainer, batch_seed, check_learning, train_only


class StopAt(TrainerCallback):
    """Ends the run as if it were killed after this step and its checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step
        return control


SIZES = {"panoptic": 1, "referring": 2, "interactive": 1, "conversation": 2}


def trainer(tmp_path, evaluation=None, **options) -> PsalmTrainer:
    model, processor = build_tiny()
    settings = {"max_steps": 8, "logging_steps": 8, "report_to": "none", "use_cpu": True, "learning_rate": 1e-3, "disable_tqdm": True}
    args = PsalmTrainingArguments(output_dir=str(tmp_path), **(settings | options))
    return PsalmTrainer(
        model=model,
        args=args,
        train_dataset=TaskSources({task: ShapesStream(task=task, prompts_per_image=2) for task in SIZES}),
        batch_sampler=OneTaskPerBatch(dict.fromkeys(SIZES, 1.0), SIZES, args.max_steps, seed=0),
        data_collator=PsalmCollator(processor, shuffle_categories=True),
        evaluation=evaluation,
        processing_class=processor,
    )


def test_terms_are_logged_by_kind_and_name(tmp_path):
    run = trainer(tmp_path)
    run.train()
    logged = next(entry for entry in run.state.log_history if "loss" in entry)
    assert {"category/loss_class", "sentence/loss_referring", "region/loss_region", "conversation/loss_language"} <= logged.keys()


def test_vision_tower_is_frozen_unless_it_has_a_rate(tmp_path):
    before, _ = build_tiny()
    for rates, changes in (({}, False), ({"model.vision_tower": 1e-3}, True)):
        run = trainer(tmp_path / str(changes), max_steps=1, learning_rates=rates)
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


def test_a_checkpoint_of_an_earlier_run_is_not_complete_while_it_is_written_over(tmp_path, monkeypatch):
    trainer(tmp_path, max_steps=1, save_steps=1).train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")

    def power_cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(PsalmTrainer, "_save_optimizer_and_scheduler", power_cut)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, max_steps=1, save_steps=1).train()
    with pytest.raises(ValueError, match="no complete checkpoint"):
        last_checkpoint(tmp_path)


def test_a_checkpoint_is_on_the_disk_before_the_one_before_is_removed(tmp_path, monkeypatch):
    events, fsync, rmtree = [], os.fsync, shutil.rmtree
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle))
    monkeypatch.setattr(shutil, "rmtree", lambda path, *rest, **options: events.append("removed") or rmtree(path, *rest, **options))
    trainer(tmp_path, max_steps=2, save_steps=1, save_total_limit=1).train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    names = [Path(path).name for path in events[: events.index("removed")] if "checkpoint-2" in path]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= set(names[:-2])
    assert "trainer_state.json" in names[-2] and names[-1] == "checkpoint-2"


def test_what_is_saved_loads_as_a_checkpoint(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.train()
    run.save_model()
    loaded = PsalmForSegmentation.from_pretrained(tmp_path)
    assert torch.equal(loaded.mask_decoder.norm.bias, run.model.mask_decoder.norm.bias)


class Evaluation:
    """Draws random numbers, runs the model, and answers with the given scores in turn."""

    def __init__(self, *scores: float):
        self.scores = list(scores)

    def __call__(self, model):
        assert not any(module.training for module in model.modules())
        random.random(), np.random.rand(), torch.rand(1)
        with torch.inference_mode():
            model.get_image_features(torch.zeros(1, 3, 128, 128))
        return {"referring cIoU, all": self.scores.pop(0)}


class HearEvaluations(TrainerCallback):
    def __init__(self):
        self.heard = []

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.heard.append((state.global_step, metrics["eval_referring cIoU, all"]))


def random_state():
    numpy_state = np.random.get_state()
    return random.getstate(), numpy_state[1].tolist(), numpy_state[2], torch.get_rng_state().tolist()


def test_an_evaluation_puts_modes_and_random_numbers_back(tmp_path):
    run = trainer(tmp_path, Evaluation(1.0))
    run.model.train()
    run.model.model.vision_tower.eval()
    modes, state = {name: module.training for name, module in run.model.named_modules()}, random_state()
    assert run.evaluate()["eval_referring cIoU, all"] == 1.0
    assert {name: module.training for name, module in run.model.named_modules()} == modes
    assert random_state() == state


def test_a_run_with_evaluations_ends_bit_equal_to_one_without(tmp_path):
    plain = trainer(tmp_path / "plain", max_steps=4)
    plain.train()
    evaluation = Evaluation(1.0, 2.0, 3.0)
    measured = trainer(tmp_path / "measured", evaluation, max_steps=4, eval_strategy="steps", eval_steps=1, eval_delay=2)
    measured.train()
    assert not evaluation.scores
    expected, actual = plain.model.state_dict(), measured.model.state_dict()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_evaluations_are_logged_and_heard_and_choose_the_best_model(tmp_path):
    run = trainer(
        tmp_path,
        Evaluation(10.0, 30.0, 20.0),
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="referring cIoU, all",
    )
    callback = HearEvaluations()
    run.add_callback(callback)
    run.train()
    assert callback.heard == [(1, 10.0), (2, 30.0), (3, 20.0)]
    assert [entry["eval_referring cIoU, all"] for entry in run.state.log_history if "eval_referring cIoU, all" in entry] == [10, 30, 20]
    assert run.state.best_metric == 30
    best = PsalmForSegmentation.from_pretrained(tmp_path / "checkpoint-2").state_dict()
    last = PsalmForSegmentation.from_pretrained(tmp_path / "checkpoint-3").state_dict()
    assert all(torch.equal(best[name], value) for name, value in run.model.state_dict().items())
    assert not all(torch.equal(best[name], last[name]) for name in best)


def test_eval_strategy_without_evaluation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="eval_strategy is 'steps', but nothing is measured.*eval_images"):
        trainer(tmp_path, eval_strategy="steps")


def test_only_the_named_submodules_are_trained():
    model, _ = build_tiny()
    train_only(model, ["model.projector", "lm_head"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(("model.projector.", "lm_head."))}
    with pytest.raises(ValueError, match="no submodule 'projector'.* model.projector,"):
        train_only(model, ["projector"])


class SeesCheckpointing(TrainerCallback):
    def on_step_end(self, args, state, control, *, model, **kwargs):
        self.names = {
            name
            for name, module in model.named_modules()
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
        }


def test_only_the_layers_of_the_named_submodules_are_checkpointed(tmp_path):
    weights = []
    for parts, expected in (
        ([], ("model.pixel_decoder.layers.0", "model.language_model.layers.0", "mask_decoder.layers.0")),
        (["model.language_model"], ("model.language_model.layers.0",)),
    ):
        run, seen = trainer(tmp_path, max_steps=2, gradient_checkpointing=True, checkpointed_parts=parts), SeesCheckpointing()
        run.add_callback(seen)
        run.train()
        assert {name for name in seen.names if name.endswith("layers.0") and "vision_tower" not in name} == set(expected)
        weights.append(run.model.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-5, rtol=0)


def test_checkpointed_parts_that_cannot_be_are_refused(tmp_path):
    for options, message in (
        ({"checkpointed_parts": ["model.language_model"]}, "language_model would keep activations.*gradient_checkpointing: true"),
        ({"gradient_checkpointing": True, "checkpointed_parts": ["language_model"]}, "no submodule 'language_model'.*model.language_model"),
        ({"gradient_checkpointing": True, "checkpointed_parts": ["lm_head"]}, "lm_head has no layers.*model.language_model.* have"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path, **options)


def rates_by_name(run):
    names = {parameter: name for name, parameter in run.model.named_parameters()}
    return {names[parameter]: group["lr"] for group in run.create_optimizer().param_groups for parameter in group["params"]}


def test_the_inner_of_nested_submodules_has_the_rate_that_counts(tmp_path):
    rates = {"mask_decoder": 1e-4, "mask_decoder.layers.0": 2e-4, "model.vision_tower": 3e-4}
    given = rates_by_name(trainer(tmp_path, learning_rates=rates))
    assert given["mask_decoder.norm.bias"] == 1e-4 and given["mask_decoder.layers.0.fc1.weight"] == 2e-4
    assert given["model.projector.linear.weight"] == 1e-3
    assert {rate for name, rate in given.items() if name.startswith("model.vision_tower")} == {3e-4}
    assert len(given) == len(list(build_tiny()[0].parameters()))


def test_a_part_of_the_frozen_vision_tower_can_learn_alone(tmp_path):
    part = "model.vision_tower.hidden_states_norms"
    given = rates_by_name(trainer(tmp_path, learning_rates={part: 1e-4}))
    assert {name.rpartition(".")[0].rpartition(".")[0] for name in given if "vision_tower" in name} == {part}


def test_learning_rates_are_logged_by_submodule(tmp_path):
    run = trainer(tmp_path, max_steps=1, logging_steps=1, learning_rates={"mask_decoder": 1e-4})
    run.train()
    logged = next(entry for entry in run.state.log_history if "loss" in entry)
    assert logged["learning_rate"] == pytest.approx(1e-3) and logged["learning_rate/mask_decoder"] == pytest.approx(1e-4)
    assert logged["images_per_second"] > 0 and logged["memory_gib"] > 0


@pytest.mark.parametrize("rates", [{"mask_decoder": -1.0}, {"mask_decoder": "high"}, {"mask_decoder": True}])
def test_a_rate_that_is_none_is_refused(tmp_path, rates):
    with pytest.raises(ValueError, match="learning_rates: mask_decoder has .*, expected a number of at least 0"):
        trainer(tmp_path, learning_rates=rates)


def test_a_rate_of_a_submodule_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the model has no submodule 'vision_tower'; it has .*model.vision_tower"):
        trainer(tmp_path, learning_rates={"vision_tower": 1e-4})


@pytest.mark.parametrize("kind", list(SIZES))
def test_a_training_step_gives_every_parameter_a_gradient(tmp_path, kind):
    model, processor = build_tiny()
    samples = [ShapesStream(task=kind)[index] for index in range(2)]
    model.train()(**PsalmCollator(processor)(samples)).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    idle = {"conversation": "mask_decoder.region_head", "panoptic": "lm_head", "referring": "lm_head", "interactive": "lm_head"}[kind]
    assert all(parameter.grad.abs().max() == 0 for parameter in model.get_submodule(idle).parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_conversation_without_a_picture_gives_every_parameter_a_gradient():
    model, processor = build_tiny()
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    model.train()(**processor(conversations=[messages])).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def modes_in_training(run):
    """Training modes of modules while a batch is computed, by name."""
    found = {}

    def look(model, args, kwargs):
        found.update({name: module.training for name, module in model.named_modules()})

    run.model.register_forward_pre_hook(look, with_kwargs=True)
    run.train()
    return found


@pytest.mark.parametrize("is_kept", [False, True])
def test_stochastic_depth_of_the_frozen_vision_tower_is_off_unless_it_is_kept(tmp_path, is_kept):
    modes = modes_in_training(trainer(tmp_path, max_steps=1, frozen_vision_dropout=is_kept))
    assert {training for name, training in modes.items() if name.startswith("model.vision_tower.")} == {is_kept}


def test_stochastic_depth_is_off_in_a_vision_tower_that_learns(tmp_path):
    options = {"frozen_vision_dropout": True, "learning_rates": {"model.vision_tower": 1e-3}}
    assert not modes_in_training(trainer(tmp_path, max_steps=1, **options))["model.vision_tower"]


@pytest.mark.parametrize(("choice", "changes"), [("batch", True), ("frozen", False)])
def test_statistics_of_the_projector_follow_the_batches_unless_they_are_frozen(tmp_path, choice, changes):
    run = trainer(tmp_path, max_steps=1, projector_batch_norm=choice)
    before = run.model.model.projector.reduce.norm1.running_mean.clone()
    run.train()
    assert torch.equal(run.model.model.projector.reduce.norm1.running_mean, before) != changes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projector_batch_norm": "none"}, "projector_batch_norm is 'none', expected batch, synchronised or frozen"),
        ({"projector_batch_norm": "synchronised"}, "synchronised statistics need GPUs"),
        ({"fully_shard": True}, "there is one; start with torchrun"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **options)


@pytest.mark.parametrize("options", [{"eval_strategy": "steps"}, {"eval_on_start": True}])
def test_measuring_nothing_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="nothing is measured"):
        trainer(tmp_path, **options)


def test_a_rate_of_what_is_frozen_and_a_run_that_learns_nothing_are_refused():
    model, _ = build_tiny()
    train_only(model, ["model.projector"])
    check_learning(model, {"model.projector.linear": 1e-3})
    with pytest.raises(ValueError, match="lm_head is frozen in this run"):
        check_learning(model, {"lm_head": 1e-3})
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing learns"):
        check_learning(model, {})


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(PsalmTrainingArguments, "n_gpu", property(lambda self: 2), raising=False)
    with pytest.raises(ValueError, match="this process sees 2 GPUs; start one process for each"):
        trainer(tmp_path)


def test_an_engine_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ValueError, match="DeepSpeed is not installed; pip install deepspeed"):
        trainer(tmp_path, deepspeed="examples/configs/deepspeed_zero2.json")


def test_draws_follow_from_the_batch_the_seed_and_the_step():
    inputs = {"input_ids": torch.arange(6)[None], "pixel_values": torch.zeros(1, 3, 64, 64)}
    number = batch_seed(inputs, seed=0, step=3)
    assert number == batch_seed({name: value.clone() for name, value in inputs.items()}, seed=0, step=3)
    others = [
        batch_seed(inputs, seed=1, step=3),
        batch_seed(inputs, seed=0, step=4),
        batch_seed(inputs | {"input_ids": torch.arange(1, 7)[None]}, seed=0, step=3),
        batch_seed(inputs | {"pixel_values": torch.ones(1, 3, 64, 64)}, seed=0, step=3),
        batch_seed({"input_ids": inputs["input_ids"]}, seed=0, step=3),
    ]
    assert len({number, *others}) == 6
