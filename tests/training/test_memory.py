"""Memory of a training step: counted on paper, and against what autograd saves of real tensors."""

from collections import Counter

import pytest
import torch
from torch import nn

from psalm_hf.model.compatibility import set_checkpointing
from psalm_hf.tiny import build_tiny
from psalm_hf.training import memory
from psalm_hf.training.memory import (
    STEPS,
    SavedTensors,
    build_unallocated,
    count_activations,
    count_parameters,
    largest_unit,
    leave_training_mode,
    model_states,
    saved_by_step,
)
from tests.model.test_modeling import picture, square_mask

ROWS, LENGTH = 2, 100
COUNT = Counter(trainable=10, frozen=6)


@pytest.fixture(scope="module")
def tiny():
    model, _ = build_tiny()
    model.model.vision_tower.requires_grad_(False)
    return model


def unallocated(config):
    model = build_unallocated(config)
    model.model.vision_tower.requires_grad_(False)
    return model


def test_parts_have_all_parameters(tiny):
    counts = count_parameters(unallocated(tiny.config))
    assert counts == count_parameters(tiny)
    assert sum(count.total() for count in counts.values()) == sum(parameter.numel() for parameter in tiny.parameters())
    tower = sum(parameter.numel() for parameter in tiny.model.vision_tower.parameters())
    assert counts["vision tower"] == {"frozen": tower}
    assert all(count["frozen"] == 0 for part, count in counts.items() if part != "vision tower")
    assert counts["language head"] == {"trainable": tiny.lm_head.weight.numel()}


@pytest.mark.parametrize(
    ("engine", "half", "full"),
    [  # 10 parameters learn, 6 do not, 2 processes: weights, gathered, gradients, optimizer
        ("DDP", (64, 40, 40, 80), (64, 40, 40, 80)),
        ("ZeRO-2", (32, 0, 10, 60), (64, 0, 20, 60)),
        ("ZeRO-3", (16, 32, 10, 60), (32, 64, 20, 60)),
        ("FSDP", (32, 30, 20, 40), (32, 60, 20, 40)),
    ],
)
def test_what_an_engine_keeps(engine, half, full):
    for is_half, expected in ((True, half), (False, full)):
        states = model_states(engine, COUNT, processes=2, is_half=is_half, unit=5)
        assert (states.weights, states.gathered, states.gradients, states.optimizer) == states == expected


def test_one_process_has_nobody_to_share_with():
    assert model_states("DDP", COUNT, processes=1, is_half=True).gathered == 0
    assert model_states("ZeRO-3", COUNT, processes=1, is_half=True).gathered == 0
    with pytest.raises(ValueError, match="unknown engine 'ZeRO-9', expected one of DDP, ZeRO-2, ZeRO-3, FSDP"):
        model_states("ZeRO-9", COUNT, processes=1, is_half=True)


def test_memory_is_counted_once_and_weights_not_at_all():
    layer = nn.Linear(3, 5, bias=False)
    saved = SavedTensors(layer.parameters())
    x = torch.ones(2, 3, requires_grad=True)
    with saved.of("first"):
        y = x.exp()  # keeps its result: 2 x 3 x 4 bytes
        z = layer(y)  # keeps its input, the same memory, and the weight
    with saved.of("second"):
        (z * y[:, :1]).sum()  # keeps z, 2 x 5 x 4 bytes, and a view of y
    assert saved.by_part == {"first": 24, "second": 40}


@pytest.mark.parametrize("step", STEPS)
def test_fake_tensors_are_saved_like_real_ones(tiny, step):
    counted = count_activations(unallocated(tiny.config), step, ROWS, LENGTH)
    tiny.train()
    leave_training_mode(tiny)
    assert counted.kept == saved_by_step(tiny, step, ROWS, LENGTH)
    set_checkpointing(tiny, True)
    try:
        assert counted.kept_checkpointed == saved_by_step(tiny, step, ROWS, LENGTH)
    finally:
        set_checkpointing(tiny, False)
    assert "vision tower" not in counted.kept
    layers = tiny.config.text_config.num_hidden_layers
    made_again = counted.kept["language model"] - counted.kept_checkpointed["language model"]
    assert counted.recomputed >= made_again / layers > 0
    assert counted.total(True) == sum(counted.kept_checkpointed.values()) + counted.recomputed < counted.total(False)


def test_a_segmentation_step_is_counted_as_the_model_makes_it(tiny, monkeypatch):
    """Within 15 %: matching and small comparisons are left out."""
    _, processor = build_tiny()
    targets = [{"masks": square_mask((60, 90), 10), "class_labels": [0]}] * 2
    categories = [["cup", "table"], ["cup"]]  # of unequal lengths: a batch with padding
    inputs = processor(images=[picture(0), picture(1)], categories=categories, targets=targets, return_tensors="pt")
    monkeypatch.setattr(memory, "TARGETS_PER_IMAGE", 1)
    tiny.train()
    leave_training_mode(tiny)
    saved = SavedTensors(tiny.parameters())
    with saved.of("step"):
        tiny(**inputs)
    counted = saved_by_step(tiny, "segmentation", *inputs["input_ids"].shape)
    kept = sum(number for part, number in counted.items() if part not in ("images", "predictions and targets"))
    assert kept == pytest.approx(saved.by_part["step"], rel=0.15)


def test_parts_that_are_not_checkpointed_keep_their_activations(tiny):
    counts = {
        parts: count_activations(unallocated(tiny.config), "segmentation", ROWS, LENGTH, checkpointed_parts=parts)
        for parts in ((), ("model.language_model",), ("mask_decoder",))
    }
    everything = counts[()]
    for parts, part in ((("model.language_model",), "language model"), (("mask_decoder",), "mask decoder")):
        changed = {name for name, number in counts[parts].kept.items() if number != counts[parts].kept_checkpointed.get(name)}
        assert changed == {part} and counts[parts].kept_checkpointed[part] == everything.kept_checkpointed[part]
        assert everything.total(True) < counts[parts].total(True) < everything.total(False)


def test_a_vision_tower_that_learns_keeps_activations(tiny):
    model = build_unallocated(tiny.config)
    assert count_activations(model, "conversation", ROWS, LENGTH).kept["vision tower"] > 0


def test_what_is_before_the_projector_keeps_nothing_for_it(tiny):
    """Stage 1: the language model hands gradients on, and keeps no inputs of its own frozen layers."""
    everything = count_activations(unallocated(tiny.config), "conversation", ROWS, LENGTH)
    model = build_unallocated(tiny.config).requires_grad_(False)
    model.model.projector.requires_grad_(True)
    alignment = count_activations(model, "conversation", ROWS, LENGTH)
    assert alignment.kept["projector"] == everything.kept["projector"]
    assert 0 < alignment.kept["language model"] < everything.kept["language model"]


def test_half_precision_halves_and_autocast_keeps_copies_of_weights(tiny):
    trained = sum(parameter.numel() for parameter in tiny.parameters() if parameter.requires_grad)
    full = count_activations(unallocated(tiny.config), "segmentation", ROWS, LENGTH)
    half = count_activations(unallocated(tiny.config), "segmentation", ROWS, LENGTH, dtype=torch.bfloat16)
    cast = count_activations(unallocated(tiny.config), "segmentation", ROWS, LENGTH, autocast=torch.bfloat16)
    assert 0.45 < half.kept["language model"] / full.kept["language model"] < 0.6
    assert cast.kept_checkpointed["weights in half precision"] == 2 * trained
    assert half.total(True) < cast.total(True)


def test_the_largest_unit_is_the_largest_layer(tiny):
    layers = [*tiny.model.vision_tower.swin.encoder.layers, *tiny.model.language_model.layers, *tiny.mask_decoder.layers]
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    assert largest_unit(tiny) == largest_unit(build_unallocated(tiny.config)) == max(sizes)
