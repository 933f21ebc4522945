"""The full-size model with the recipe's weights: recorded slices and statistics of every stage. About 6 GB of disk and 10 of memory.

`PSALM_FULL_CHECKPOINT` names a folder to keep the written checkpoint in; by default it is temporary.
"""

import json
import os
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from psalm_hf import PsalmForSegmentation
from psalm_hf.model.image_processing_psalm import Frame
from psalm_hf.model.postprocessing import merge_panoptic, semantic_scores, top_instances
from tests.conftest import GOLDEN
from tests.model import golden
from tests.model.full_checkpoint import write_full_folder

pytestmark = [pytest.mark.golden, pytest.mark.slow]

FILE = GOLDEN / "full" / "panoptic.safetensors"
BEFORE_DECODER, DECODER = 5e-5, 2e-4
# Rounding decides some of the 10^7 attention masks at full size: deviations may be this multiple of what the original shows
# between one thread and two.
ROUNDING_SLACK = 10
PEAK_MEMORY_GB = 12


def recording() -> dict:
    return json.loads((GOLDEN / "full" / "panoptic.json").read_text())


def noise() -> dict:
    return json.loads((GOLDEN / "full" / "tolerance.json").read_text())["one_thread_vs_two_threads"]


def recorded_image() -> Tensor:
    """As the recording describes it, (1, 3, S, S)."""
    shape = recording()["image"]["stats"]["shape"]
    rng = np.random.default_rng(77)
    coarse = torch.from_numpy(rng.standard_normal((1, 3, 16, 16)).astype(np.float32))
    fine = torch.from_numpy(rng.standard_normal(tuple(shape)).astype(np.float32))
    image = torch.nn.functional.interpolate(coarse, size=shape[-2:], mode="bicubic", align_corners=False) + 0.3 * fine
    return image.half().float()


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    folder = Path(os.environ.get("PSALM_FULL_CHECKPOINT", tmp_path_factory.mktemp("full")))
    model = PsalmForSegmentation.from_pretrained(write_full_folder(folder), dtype=torch.float32)
    found = run(model)
    found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return found


@torch.no_grad()
def run(model: PsalmForSegmentation) -> dict[str, Tensor]:
    recorded, config = golden.load(FILE), model.config
    numbers, tokens = recorded["in.cls_indices"][0].tolist(), recorded["in.class_name_ids"][0].tolist()
    names = [[token for token, own in zip(tokens, numbers, strict=True) if own == number] for number in sorted(set(numbers) - {-1})]
    ids = recorded["in.input_ids"][0].tolist()
    row = golden.expand_row(ids, config, labels=ids, categories=names, category_order=list(range(len(names))), expression=[])
    inputs = {"input_ids": torch.tensor([row.input_ids]), "condition_index": torch.tensor([row.condition_index])}
    inputs |= {"attention_mask": torch.ones_like(inputs["input_ids"]), "condition_type": torch.tensor([0])}

    seen = {}
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(inputs_embeds=kwargs["inputs_embeds"]), with_kwargs=True
    )
    model.model.language_model.register_forward_hook(lambda module, args, output: seen.update(hidden=output.last_hidden_state))
    model.model.vision_tower.register_forward_hook(lambda module, args, output: seen.update(maps=output.feature_maps))
    model.model.query_projection.register_forward_hook(lambda module, args, output: seen.update(queries=output))
    model.model.category_projection.register_forward_hook(lambda module, args, output: seen.update(categories=output))
    outputs = model(**inputs, pixel_values=recorded_image(), output_auxiliary_logits=True, output_image_features=True)
    features = outputs.image_features
    found = {
        "inputs_embeds": seen["inputs_embeds"],
        "last_hidden_state": seen["hidden"],
        "attention_mask": inputs["attention_mask"],
        "layout.labels": torch.tensor([row.labels]),
        "layout.seg_query_mask": (inputs["input_ids"] == config.mask_query_token_id).long(),
        "layout.class_name_embedding_indices": inputs["condition_index"],
        "image_tokens.0": features.image_tokens,
        "decoder_in.seg_query": seen["queries"],
        "decoder_in.class_name_embedding": seen["categories"],
        "mask_features": features.mask_features,
    }
    found |= {f"multi_scale.{level}": x for level, x in enumerate(features.multi_scale)}
    found |= {f"swin.res{stage + 2}": x for stage, x in enumerate(seen["maps"])}
    for depth, prediction in enumerate([*outputs.auxiliary_outputs, outputs]):
        found[f"layer{depth}.pred_masks"] = prediction["masks_queries_logits"]
        found[f"layer{depth}.pred_class_name_logits"] = prediction["class_queries_logits"]
    return found | post_process(outputs)


def post_process(outputs) -> dict[str, Tensor]:
    entry = recording()
    padded = entry["image"]["stats"]["shape"][-1]
    frame = Frame((padded, padded), tuple(entry["content_hw"]), tuple(entry["original_hw"]))
    masks, classes = outputs.masks_queries_logits[0], outputs.class_queries_logits[0]
    is_thing = entry["extra"]["is_thing_list"]
    things = [label for label, thing in enumerate(is_thing) if thing]
    stuff = {label for label, thing in enumerate(is_thing) if not thing}
    instances = top_instances(masks, classes, frame, top_k=len(masks), label_ids=things)
    return {
        "post.sem_seg": semantic_scores(masks, classes, frame, resize_logits=True),
        "post.panoptic_seg": merge_panoptic(masks, classes, frame, label_ids_to_fuse=stuff)[0],
        "post.instances.scores": instances.scores,
        "post.instances.pred_classes": instances.labels,
    }


def tolerance(name: str) -> float:
    floor = DECODER if name.startswith(("layer", "post")) else BEFORE_DECODER
    return max(floor, ROUNDING_SLACK * noise().get(name, {}).get("max_abs", 0.0))


def recorded_names() -> list[str]:
    return [name for name in golden.load(FILE) if name.startswith("out.")] if FILE.is_file() else []


@pytest.mark.parametrize("stored", recorded_names())
def test_full_size_slices_equal_recording(tensors, stored):
    expected = golden.load(FILE)[stored]
    name, *strides = re.fullmatch(r"out\.(.*?)(?:__every_(\d+)_(\d+))?", stored).groups()
    actual = tensors[name]
    if strides[0] is not None:
        first, second = map(int, strides)
        if name.startswith("image_tokens"):
            actual = actual[:, ::first, :: actual.shape[2] // expected.shape[2]]
        elif actual.ndim == 3 and not name.startswith("post"):
            actual = actual[:, ::first, ::second]
        elif actual.ndim == 2:
            actual = actual[::second, ::second]
        else:
            actual = actual[..., ::first, ::second, ::second]
    if name.startswith("post.instances"):
        # The top-k is unordered, and a class with many equal scores may swap members: compare what is in it.
        actual, expected = actual.sort().values, expected.sort().values
    if expected.is_floating_point():
        torch.testing.assert_close(actual, expected, atol=tolerance(name), rtol=0)
    elif name == "post.panoptic_seg":
        assert (actual.long() != expected.long()).float().mean() <= 1e-3
    elif name == "post.instances.pred_classes":
        assert (actual.long() != expected.long()).float().mean() <= 0.02
    else:
        assert torch.equal(actual.long(), expected.long())


@pytest.mark.parametrize("name", recording()["statistics"] if FILE.is_file() else [])
def test_full_size_statistics_equal_recording(tensors, name):
    statistics = recording()["statistics"][name]
    actual = tensors[name].double()
    spread = statistics["std"]
    assert list(actual.shape) == statistics["shape"]
    assert abs(actual.mean().item() - statistics["mean"]) <= 1e-4 * spread
    assert abs(actual.std().item() - statistics["std"]) <= 1e-4 * spread
    assert abs(actual.norm().item() - statistics["l2"]) <= 1e-4 * statistics["l2"]
    for extreme in ("min", "max"):
        assert abs(getattr(actual, extreme)().item() - statistics[extreme]) <= tolerance(name)


def test_full_size_memory_peak(tensors):
    assert tensors["peak_gb"] <= PEAK_MEMORY_GB
