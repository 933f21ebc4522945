"""Every tensor of the recorded forward passes, number for number: vision, prompt, language model, read-outs, all decoder depths."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from psalm_hf.model.image_processing_psalm import Placement
from psalm_hf.model.postprocessing import (
    best_scores,
    binary_masks,
    merge_panoptic,
    region_scores,
    semantic_scores,
    top_instances,
)
from tests.model import golden
from tests.model.golden import case_entry, case_tensors, cases_with, forward_inputs, outputs_of

pytestmark = pytest.mark.golden

BEFORE_DECODER, DECODER = 5e-5, 2e-4
FORWARD = cases_with("in.input_ids", "out.inputs_embeds")
SWIN = cases_with("in.images", "out.res2")
PIXEL_DECODER = cases_with("in.res2", "out.mask_features")
CHAT = cases_with("in.input_ids", "out.logits")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return golden.tiny_model(tmp_path_factory.mktemp("original") / "tiny")


@pytest.fixture(scope="module")
def forward(model):
    """Runs a recorded case once and returns its tensors under the recorded names."""
    return cache(lambda case: run_forward(model, case))


@torch.no_grad()
def run_forward(model, case: str) -> dict[str, Tensor]:
    inputs = forward_inputs(case, model.config)
    labels = inputs.pop("labels")
    seen = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(inputs_embeds=kwargs["inputs_embeds"]), with_kwargs=True
    )
    features = model.get_image_features(inputs["pixel_values"])
    maps = model.model.vision_tower(inputs["pixel_values"]).feature_maps
    inner = model.model(**inputs)
    hook.remove()
    outputs = model(**inputs)  # the last depth as it comes without the others
    auxiliary = model(**inputs, output_auxiliary_logits=True).auxiliary_outputs
    is_query = inputs["input_ids"] == model.config.mask_query_token_id
    conditions = inputs["condition_index"]
    tensors = {
        "inputs_embeds": seen["inputs_embeds"],
        "last_hidden_state": inner.last_hidden_state,
        "attention_mask": inputs["attention_mask"],
        "layout.labels": labels,
        "layout.seg_query_mask": is_query.long(),
        "layout.class_name_embedding_indices": conditions,
        "layout.refer_embedding_indices": conditions,
        "layout.region_embedding_masks": (conditions > 0).long(),
        "image_tokens.0": features.image_tokens,
        "decoder_in.seg_query": inner.query_embeds,
        "decoder_in.class_name_embedding": inner.condition_embeds,
        "decoder_in.SEG_embedding": inner.condition_embeds,
        "mask_features": features.mask_features,
    }
    tensors |= {f"multi_scale.{level}": level_map for level, level_map in enumerate(features.multi_scale)}
    tensors |= {f"swin.res{stage + 2}": stage_map for stage, stage_map in enumerate(maps)}
    if "region_pixel_values" in inputs:
        tensors["image_tokens.1"] = model.get_image_features(inputs["region_pixel_values"], masks=False).image_tokens
    if "region_weights" in inputs:
        tensors |= region_tensors(model, inputs, inner, tensors)
    depths = [*auxiliary, outputs]
    for depth, prediction in enumerate(depths):
        tensors[f"layer{depth}.pred_masks"] = prediction["masks_queries_logits"]
        tensors[f"layer{depth}.pred_class_name_logits"] = prediction.get("class_queries_logits")
        tensors[f"layer{depth}.pred_SEG_logits"] = prediction.get("referring_queries_logits")
        for row, number in enumerate(outputs.num_conditions.tolist()):
            if prediction.get("region_queries_logits") is not None:
                tensors[f"layer{depth}.pred_region_logits.{row}"] = prediction["region_queries_logits"][row, :number]
    return tensors | {f"post.{name}": value for name, value in post_process_first_row(case, outputs).items()}


def region_tensors(model, inputs, inner, tensors) -> dict[str, Tensor]:
    sources = tensors.get("image_tokens.1", tensors["image_tokens.0"])
    pooled = inputs["region_weights"] @ sources
    numbers = inputs["condition_index"].amax(dim=1).tolist()
    found = {f"region_features.{row}": pooled[row, :number, None] for row, number in enumerate(numbers)}
    return found | {f"decoder_in.region_embedding.{row}": inner.condition_embeds[row, :number] for row, number in enumerate(numbers)}


def frame_of(entry: dict) -> Placement:
    padded = entry["sizes"]["padded"]
    return Placement((padded, padded), tuple(entry["sizes"]["content_hw"]), tuple(entry["sizes"]["original_hw"]))


def post_process_first_row(case: str, outputs) -> dict[str, Tensor]:
    """The original returns after the first image of a batch. Its instance masks and scores are in query order where all are kept."""
    entry = case_entry(case)
    frame = frame_of(entry)
    masks, task = outputs.masks_queries_logits[0], entry["meta"]["task"]
    if task == "panoptic":
        classes, is_thing = outputs.class_queries_logits[0], entry["extra_args"]["is_thing_list"]
        things = [label for label, thing in enumerate(is_thing) if thing]
        stuff = {label for label, thing in enumerate(is_thing) if not thing}
        instances = top_instances(masks, classes, frame, top_k=len(masks), label_ids=things)
        return {
            "sem_seg": semantic_scores(masks, classes, frame, resize_logits=True),
            "panoptic_seg": merge_panoptic(masks, classes, frame, label_ids_to_fuse=stuff)[0],
            "instances.scores": instances.scores,
            "instances.pred_classes": instances.labels,
            "instances.pred_masks": binary_masks(masks[instances.queries], frame),
        }
    found = {"instances.pred_masks": binary_masks(masks, frame)}
    if task == "referring":
        return found | {"instances.scores": best_scores(outputs.referring_queries_logits[0].sigmoid().T, masks, frame, threshold=-1.0)[0]}
    number = int(outputs.num_conditions[0])
    truth = frame.to_target(case_tensors(case)["in.gt_masks.0"].float())
    return found | {"instances.scores": region_scores(masks, outputs.region_queries_logits[0, :number], frame), "gt": truth}


@pytest.mark.parametrize(("case", "name"), outputs_of(FORWARD))
def test_forward_equals_recording(forward, case, name):
    if name.startswith("out.post."):
        return compare_post(forward(case), case, name)
    expected = case_tensors(case)[name]
    short = name.removeprefix("out.")
    strided = golden.STRIDED.fullmatch(short)
    if strided:
        short, stride = strided[1], int(strided[2])
    actual = forward(case)[short]
    if strided:
        actual = actual[..., ::stride, ::stride]
    if short in ("inputs_embeds", "last_hidden_state"):  # meaningful only where the original attends
        valid = case_tensors(case)["out.attention_mask"].bool()
        expected, actual = expected[valid], actual[valid]
    if not expected.is_floating_point():
        assert torch.equal(actual.long(), expected.long())
        return
    tolerance = DECODER if short.startswith("layer") else BEFORE_DECODER
    torch.testing.assert_close(actual.float(), expected, atol=tolerance, rtol=0)


def compare_post(found: dict[str, Tensor], case: str, name: str) -> None:
    """Post-processing of our own logits: scores to the decoder's tolerance, masks equal but where a logit is within it of 0."""
    expected = case_tensors(case)[name]
    short = name.removeprefix("out.")
    strided = golden.STRIDED.fullmatch(short)
    short, stride = (strided[1], int(strided[2])) if strided else (short, 1)
    actual = found[short]
    if "instances" in short and case_entry(case)["meta"]["task"] != "region":
        order, recorded = matching_order(found, case)
        actual, expected = actual[order], expected[recorded]
    if short.endswith("scores") or expected.is_floating_point():
        torch.testing.assert_close(actual[..., ::stride, ::stride].float() if strided else actual.float(), expected, atol=DECODER, rtol=0)
    elif short.endswith("pred_classes"):
        assert torch.equal(actual.long(), expected.long())
    else:  # masks (queries, H, W), or the map of segments (H, W): equal wherever no query is undecided
        restored = frame_of(case_entry(case)).restore(found[last_masks(found)][0])
        undecided = (restored.abs() < DECODER).any(dim=0)
        different = actual.long() != expected.long()
        different = different.any(dim=0) if different.ndim == 3 else different
        assert not (different & ~undecided).any()


def last_masks(found: dict[str, Tensor]) -> str:
    return max((name for name in found if name.endswith(".pred_masks") and name.startswith("layer")), key=lambda name: int(name[5:-11]))


def matching_order(found: dict[str, Tensor], case: str) -> tuple[np.ndarray, np.ndarray]:
    """The recorded top-k is unordered: put both lists in the order of class and score."""
    tensors = case_tensors(case)

    def order(scores: Tensor, classes: Tensor | None) -> np.ndarray:
        labels = np.zeros(len(scores)) if classes is None else classes.numpy()
        return np.lexsort((scores.numpy(), labels))

    mine = order(found["post.instances.scores"], found.get("post.instances.pred_classes"))
    return mine, order(tensors["out.post.instances.scores"], tensors.get("out.post.instances.pred_classes"))


@pytest.mark.parametrize(("case", "name"), outputs_of(SWIN))
@torch.no_grad()
def test_vision_tower_equals_recording(model, case, name):
    maps = model.model.vision_tower(case_tensors(case)["in.images"]).feature_maps
    actual = maps[int(name[-1]) - 2]
    torch.testing.assert_close(actual, case_tensors(case)[name], atol=BEFORE_DECODER, rtol=0)


@pytest.mark.parametrize(("case", "name"), outputs_of(PIXEL_DECODER))
@torch.no_grad()
def test_pixel_decoder_equals_recording(model, case, name):
    tensors = case_tensors(case)
    mask_features, multi_scale = model.model.pixel_decoder(tuple(tensors[f"in.res{stage}"] for stage in range(2, 6)))
    actual = mask_features if name == "out.mask_features" else multi_scale[int(name[-1])]
    torch.testing.assert_close(actual, tensors[name], atol=BEFORE_DECODER, rtol=0)


@pytest.mark.parametrize(("case", "name"), outputs_of(CHAT))
@torch.no_grad()
def test_conversation_equals_recording(model, case, name):
    inputs = forward_inputs(case, model.config)
    outputs = model(**inputs, logits_to_keep=0)
    expected = case_tensors(case)[name]
    if name == "out.logits":
        valid = inputs["attention_mask"].bool()  # behind a row's end the original counts positions on, ours do not; nobody reads them
        torch.testing.assert_close(outputs.logits[valid], expected[valid], atol=BEFORE_DECODER, rtol=0)
    else:
        torch.testing.assert_close(outputs.loss, expected, atol=BEFORE_DECODER, rtol=0)
