"""Matching, losses and gradients against the recordings: formulas on given points, seeded draws, and the norm of every gradient."""

import copy
import json
from functools import cache

import pytest
import torch
from torch import Tensor

from psalm_hf import PsalmConfig
from psalm_hf.model.convert_psalm_checkpoint import convert_original_weights
from psalm_hf.model.losses import (
    CATEGORY,
    REGION,
    SENTENCE,
    Prediction,
    class_loss,
    mask_bce_loss,
    mask_dice_loss,
    referring_loss,
    region_loss,
    segmentation_losses,
)
from psalm_hf.model.matching import assign, pairwise_dice_cost, pairwise_mask_cost, sample_points
from tests.conftest import GOLDEN
from tests.model import golden
from tests.model.golden import case_entry, case_tensors, cases_with, forward_inputs

pytestmark = pytest.mark.golden

FORMULA, SAMPLED, DECODER = 1e-5, 1e-4, 2e-4
KINDS = {"pred_class_name_logits": CATEGORY, "pred_SEG_logits": SENTENCE, "pred_region_logits": REGION}
# recorded term -> ours; a numeric suffix is the decoder depth in both
TERMS = {
    "loss_class_name_class": "loss_class",
    "loss_SEG_class": "loss_referring",
    "loss_region_class": "loss_region",
    "loss_mask": "loss_mask",
    "loss_dice": "loss_dice",
}
WEIGHTS = {
    "loss_class": "class_weight",
    "loss_referring": "referring_weight",
    "loss_region": "region_weight",
    "loss_mask": "mask_weight",
    "loss_dice": "dice_weight",
}


def recording(name: str) -> dict:
    file = GOLDEN / "tiny" / name
    return json.loads(file.read_text()) if file.is_file() else {}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return golden.tiny_model(tmp_path_factory.mktemp("original") / "tiny")


# ---------------------------------------------------------------------------------------------------------------- formulas

FORMULAS = cases_with("in.matcher_points", "out.cost_total")


def formula_values(case: str) -> dict[str, Tensor]:
    t, entry = case_tensors(case), case_entry(case)
    pred = sample_points(t["in.pred_masks"], t["in.matcher_points"])
    target = sample_points(t["in.target_masks"], t["in.matcher_points"])
    values = {"sampled_pred": pred, "sampled_target": target}
    values["cost_mask"], values["cost_dice"] = pairwise_mask_cost(pred, target), pairwise_dice_cost(pred, target)
    class_cost = -t["in.class_logits"].softmax(-1)[:, t["in.target_labels"]]
    values["cost_total"] = 5 * values["cost_mask"] + 2 * class_cost + 5 * values["cost_dice"]
    queries, targets = assign(values["cost_total"], row=0)
    values["match_query"], values["match_target"] = queries, targets
    logits = sample_points(t["in.pred_masks"][queries], t["in.loss_points"])
    truth = sample_points(t["in.target_masks"][targets], t["in.loss_points"])
    values["loss_mask"] = mask_bce_loss(logits, truth, num_masks=len(t["in.target_masks"]))
    values["loss_dice"] = mask_dice_loss(logits, truth, num_masks=len(t["in.target_masks"]))

    def matches(name: str) -> list[tuple[Tensor, Tensor]]:
        return [(torch.tensor(queries), torch.tensor(targets)) for queries, targets in entry[name]]

    # The original addresses the label of target j of a row; its recording lists labels in target order.
    labels = [label_by_target(row, targets) for row, (_, targets) in zip(entry["ce_target_labels"], entry["ce_match"], strict=True)]
    values["loss_class_name"] = class_loss(t["in.ce_class_logits"], matches("ce_match"), labels, no_object_weight=0.1)
    values["loss_SEG"] = referring_loss(t["in.seg_logits"], matches("seg_match"), entry["seg_num_masks"])
    regions = [t[name] for name in sorted(t) if name.startswith("in.region_logits.")]
    values["loss_region"] = region_loss(regions, matches("ce_match"), entry["region_num_masks"])
    return values


def label_by_target(labels: list[int], targets: list[int]) -> Tensor:
    assert len(labels) == max(targets) + 1
    return torch.tensor(labels)


@pytest.mark.parametrize(("case", "name"), golden.outputs_of(FORMULAS))
def test_formula_equals_recording(case, name):
    actual = formula_values(case)[name.removeprefix("out.")]
    expected = case_tensors(case)[name]
    if expected.is_floating_point():
        torch.testing.assert_close(actual, expected, atol=FORMULA, rtol=0)
    else:
        assert torch.equal(actual, expected)


# ------------------------------------------------------------------------------------------------------------ sampled losses


def targets_of(tensors: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    rows = range(sum(name.startswith("in.target.") and name.endswith(".labels") for name in tensors))
    return [tensors[f"in.target.{row}.masks"].bool() for row in rows], [tensors[f"in.target.{row}.labels"] for row in rows]


def crafted_prediction(tensors: dict[str, Tensor], depth: str) -> tuple[Prediction, int]:
    for name, kind in KINDS.items():
        if kind == REGION and f"in.{depth}.{name}.0" in tensors:
            rows = [tensors[key] for key in sorted(tensors) if key.startswith(f"in.{depth}.{name}.")]
            logits = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            return Prediction(tensors[f"in.{depth}.pred_masks"], logits), kind
        if f"in.{depth}.{name}" in tensors:
            return Prediction(tensors[f"in.{depth}.pred_masks"], tensors[f"in.{depth}.{name}"]), kind
    raise KeyError(depth)


def criterion_config(config: PsalmConfig, entry: dict) -> PsalmConfig:
    """The model's configuration with the sampling settings and weights of a recording, where it names them."""
    config = copy.deepcopy(config)
    for theirs, ours in (
        ("num_points", "train_num_points"),
        ("oversample_ratio", "oversample_ratio"),
        ("importance_sample_ratio", "importance_sample_ratio"),
    ):
        setattr(config, ours, entry.get(theirs, getattr(config, ours)))
    for term, weight in entry.get("weights", {}).items():
        setattr(config, WEIGHTS[TERMS[term]], weight)
    return config


def compare_seeds(entry: dict, config: PsalmConfig, losses_of_seed) -> None:
    """Every seed within 1e-4, term by term: our draws follow the recorded order. Recorded terms are unweighted."""
    recorded = entry["loss_terms"]
    for seed in range(len(next(iter(recorded.values()))["seeds"])):
        torch.manual_seed(seed)
        losses = losses_of_seed()
        assert len(losses) == len(recorded)
        for term, values in recorded.items():
            stem, _, depth = term.rpartition("_")
            name = TERMS[stem] if depth.isdigit() else TERMS[term]
            actual = losses[f"{name}_{depth}" if depth.isdigit() else name].item() / getattr(config, WEIGHTS[name])
            assert abs(actual - values["seeds"][seed]) < SAMPLED, f"seed {seed}, {term}: {actual} against {values['seeds'][seed]}"
        total, expected = sum(losses.values()).item(), entry["total_weighted"]["seeds"][seed]
        assert abs(total - expected) < 1e-5 * expected + SAMPLED, f"seed {seed}: total {total} against {expected}"


@pytest.mark.parametrize("case", cases_with("in.last.pred_masks"))
def test_crafted_losses_equal_recording_for_every_seed(model, case):
    tensors = case_tensors(case)
    last, kind = crafted_prediction(tensors, "last")
    earlier = [crafted_prediction(tensors, f"aux{depth}")[0] for depth in range(9) if f"in.aux{depth}.pred_masks" in tensors]
    masks, labels = targets_of(tensors)
    entry = recording("losses_crafted.json")[case.removeprefix("criterion_")]
    config = criterion_config(model.config, entry)
    compare_seeds(entry, config, lambda: segmentation_losses([*earlier, last], kind, masks, labels, config))


@cache
def predictions_of(model, case: str) -> tuple[list[Prediction], int]:
    """Our own forward pass of a recorded training case, every depth."""
    inputs = training_inputs(case, model.config)
    names = {CATEGORY: "class_queries_logits", SENTENCE: "referring_queries_logits", REGION: "region_queries_logits"}
    kind = int(inputs["condition_type"][0])
    with torch.no_grad():
        outputs = model(**inputs, output_auxiliary_logits=True)
    depths = [*outputs.auxiliary_outputs, outputs]
    return [Prediction(depth["masks_queries_logits"], depth[names[kind]]) for depth in depths], kind


def training_inputs(case: str, config) -> dict[str, Tensor]:
    """A training case takes the images of the forward case named in losses.json."""
    name = case.removeprefix("loss_")
    inputs = forward_inputs(case, config)
    inputs.pop("labels")
    inputs["pixel_values"] = case_tensors(recording("losses.json")[name]["case"])["in.images"]
    return inputs


LOSSES = cases_with("in.target.0.masks", "out.hidden_logits_slice")


@pytest.mark.parametrize("case", LOSSES)
def test_training_losses_equal_recording_for_every_seed(model, case):
    predictions, kind = predictions_of(model, case)
    masks, labels = targets_of(case_tensors(case))
    entry = recording("losses.json")[case.removeprefix("loss_")]
    config = criterion_config(model.config, entry)
    compare_seeds(entry, config, lambda: segmentation_losses(predictions, kind, masks, labels, config))


@pytest.mark.parametrize("case", LOSSES)
def test_loss_of_a_forward_call_equals_recording(model, case):
    """From images, prompts and targets to the loss in one call, the sums over all depths beside it."""
    recorded = recording("losses.json")[case.removeprefix("loss_")]["forward_after_manual_seed_0"]
    masks, labels = targets_of(case_tensors(case))
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = model(**training_inputs(case, model.config), mask_labels=masks, class_labels=labels)
    assert abs(outputs.loss.item() - recorded["loss"]) < 1e-5 * recorded["loss"] + DECODER
    for term, name in TERMS.items():
        total = sum(value.item() for own, value in outputs.losses.items() if own == name or own.startswith(f"{name}_"))
        assert abs(total - recorded[term]) < 1e-5 * abs(recorded[term]) + DECODER, term


@pytest.mark.parametrize(("case", "name"), golden.outputs_of(LOSSES))
def test_training_forward_equals_recording(model, case, name):
    expected = case_tensors(case)[name]
    if name == "out.hidden_logits_slice":
        return compare_logits_slice(model, case, expected)
    predictions, kind = predictions_of(model, case)
    depth = int(name.split(".")[1].removeprefix("layer"))
    actual = predictions[depth].condition_logits
    if kind == REGION:
        actual = actual[int(name.rsplit(".", 1)[1])][: len(expected)]
    torch.testing.assert_close(actual, expected, atol=DECODER, rtol=0)


def compare_logits_slice(model, case: str, expected: Tensor) -> None:
    """The original runs its language head on the whole sequence; the recording keeps every k-th position and every k-th word."""
    inputs = training_inputs(case, model.config)
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=0).logits
    steps = [-(-size // kept) for size, kept in zip(logits.shape[1:], expected.shape[1:], strict=True)]
    candidates = [(a, b) for a in range(1, steps[0] + 2) for b in range(1, steps[1] + 2)]
    fitting = [(a, b) for a, b in candidates if logits[:, ::a, ::b].shape == expected.shape]
    valid = inputs["attention_mask"].bool()
    errors = []
    for a, b in fitting:
        rows = valid[:, ::a]
        errors.append((logits[:, ::a, ::b][rows] - expected[rows]).abs().max().item())
    assert min(errors) < 5e-5


# ----------------------------------------------------------------------------------------------------------------- gradients


def fixed_scalar(model, case: str) -> Tensor:
    """The scalar whose gradients were recorded: weighted means over all depths, or the language loss."""
    inputs = forward_inputs(case, model.config)
    labels = inputs.pop("labels")
    if "out.loss" in case_tensors(case):
        return model(**inputs, labels=labels).loss
    outputs = model(**inputs, output_auxiliary_logits=True)
    scalar = 0.0
    for depth, prediction in enumerate([*outputs.auxiliary_outputs, outputs]):
        values = [prediction["masks_queries_logits"]]
        values += [prediction[name] for name in ("class_queries_logits", "referring_queries_logits") if prediction.get(name) is not None]
        if prediction.get("region_queries_logits") is not None:
            values.append(prediction["region_queries_logits"][0, : int(outputs.num_conditions[0])])
        for value in values:
            flat = value.flatten()
            scalar = scalar + (1 + depth) * (flat * torch.cos(0.37 * torch.arange(flat.numel()))).mean()
    return scalar


def recorded_gradients() -> dict:
    return {case: entry for case, entry in recording("gradients.json").items() if isinstance(entry, dict)}


@pytest.mark.parametrize("case", recorded_gradients())
def test_gradient_norms_equal_recording(model, case):
    """Norms of the original's fused parameters are those of their parts together."""
    recorded = recorded_gradients()[case]
    model.zero_grad()
    scalar = fixed_scalar(model, case)
    assert abs(scalar.item() - recorded["scalar"]) < 1e-3
    scalar.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    heads = model.config.text_config.num_attention_heads
    weights = golden.original_weights("checkpoint_keys_tiny.tsv")
    for name, norm in recorded["grad_l2"].items():
        parts = list(convert_original_weights({name: weights[name]}, heads))  # empty for parameters that nothing reads
        found = [gradients[part] for part in parts if gradients[part] is not None]
        if norm is None:
            assert not any(part.abs().max() > 0 for part in found), name
            continue
        assert len(found) == len(parts) > 0, name
        total = torch.stack([part.double().norm() for part in found]).norm().item()
        assert abs(total - norm) <= 1e-3 * norm + 1e-5, f"{name}: {total} against {norm}"
