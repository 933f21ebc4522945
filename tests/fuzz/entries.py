"""Entry points to fuzz: folder -> (random generator -> case)."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from psalm_hf import masks
from tests.fuzz.file_entries import benchmark_builders, configs, own_builders, readers, weights
from tests.fuzz.fuzzing import Case, broken, value

SIZE = (12, 16)
RLES = (
    {"size": list(SIZE), "counts": [20, 30, 142]},
    {"size": list(SIZE), "counts": "d0n0^4"},
    {"size": list(SIZE), "counts": [0, 192]},
)
POLYGONS = [[1, 1, 9, 1, 9, 4, 1, 4], [8.5, 2, 12, 2, 12, 9.25]]
COORDINATES = (-1, 0, 8.5, 16, 17, 255, 300, 1e4, 1e8, -1e8, 1e300, math.nan, math.inf, 2**70, True, "3", None)


def fuzz_masks(folder: Path) -> Callable[[Random], Case]:
    readers = ("bitmap_from_rle", "compress_rle", "uncompress_rle", "area")

    def draw(rng: Random) -> Case:
        if rng.random() < 0.4:
            polygons = broken(POLYGONS, rng)
            if rng.random() < 0.7:
                polygons = [[rng.choice(COORDINATES) if rng.random() < 0.2 else rng.randrange(20) for _ in range(rng.choice((6, 6, 7, 8)))]]
            is_list = isinstance(polygons, list)
            return Case(polygons, lambda: masks.bitmap_from_polygons(polygons if is_list else [polygons], SIZE), ("polygon",), check_bitmap)
        rle = broken(rng.choice(RLES), rng)
        if isinstance(rle, dict) and rng.random() < 0.4:
            runs = [rng.choice((0, 1, 5, 20, 192, -1, 2**31, 2**32, 2**63, 2**64, 0.5, 24.0, None)) for _ in range(rng.randrange(6))]
            text = "".join(chr(rng.randrange(40, 120)) for _ in range(rng.randrange(30)))
            rle["counts"] = rng.choice((runs, text, text.encode()))
        name = rng.choice(readers)
        return Case((name, rle), lambda: getattr(masks, name)(rle), ("mask",), lambda result: check_rle(name, rle, result))

    return draw


def check_bitmap(result: Any) -> None:
    assert result.shape == SIZE and result.dtype == bool


def check_rle(name: str, rle: Any, result: Any) -> None:
    """Runs as Python adds them up."""
    height, width = rle["size"]
    if isinstance(rle["counts"], list):
        pixels = [index % 2 == 1 for index, run in enumerate(rle["counts"]) for _ in range(int(run))]
        assert len(pixels) == height * width
        expected = np.array(pixels, dtype=bool).reshape((height, width), order="F")
    else:
        expected = masks.bitmap_from_rle(rle)
    found = {"area": lambda: result, "bitmap_from_rle": lambda: result}.get(name, lambda: masks.bitmap_from_rle(result))()
    assert np.array_equal(expected.sum() if name == "area" else expected, found)


def post_processing(folder: Path) -> Callable[[Random], Case]:
    from psalm_hf.tiny import build_tiny

    processor = build_tiny()[1]
    generator = torch.Generator().manual_seed(0)
    outputs = {
        kind: SimpleNamespace(
            masks_queries_logits=torch.randn(1, 4, 8, 8, generator=generator),
            class_queries_logits=torch.randn(1, 4, 4, generator=generator),
            referring_queries_logits=torch.randn(1, 4, 1, generator=generator),
            region_queries_logits=torch.randn(1, 2, 4, generator=generator),
            condition_type=torch.tensor([code]),
            num_conditions=torch.tensor([number]),
        )
        for kind, code, number in (("category", 0, 4), ("sentence", 1, 1), ("region", 2, 2))
    }
    options = {
        "panoptic": ("category", ("threshold", "mask_threshold", "overlap_mask_area_threshold", "label_ids_to_fuse")),
        "instance": ("category", ("threshold", "mask_threshold", "top_k", "label_ids", "return_binary_maps", "return_coco_annotation")),
        "semantic": ("category", ("resize_logits",)),
        "referring": ("sentence", ("threshold", "mask_threshold", "no_target_threshold")),
        "region": ("region", ("mask_threshold",)),
    }
    sizes = ([SIZE], torch.tensor([SIZE]), np.array([SIZE]), [(12.0, 16.0)], [list(SIZE)], None)

    def draw(rng: Random) -> Case:
        method = rng.choice(tuple(options))
        kind, names = options[method]
        chosen = {name: option(rng) for name in names if rng.random() < 0.5}
        given = (
            rng.choice(sizes) if rng.random() < 0.5 else rng.choice((value(rng), [value(rng)], [(12, value(rng))], [(1e9, 12)], [SIZE] * 2))
        )
        call = getattr(processor, f"post_process_{method}_segmentation")
        return Case((method, chosen, given), lambda: call(outputs[kind], target_sizes=given, **chosen), (*names, "target_sizes"))

    return draw


def option(rng: Random) -> Any:
    usual = (0.0, 0.5, 1.0, 0, 1, 2, True, False, {1}, [0, 2], None, torch.tensor(0.5), np.float32(0.25), torch.tensor([0, 1]))
    odd = (80, -0.1, [True], [4], np.nan, torch.tensor([0.5]), {"a"}, np.array(["x"]), 10**6)
    return rng.choice(usual) if rng.random() < 0.6 else rng.choice((value(rng), rng.choice(odd)))


PROMPTS = {
    "categories": ["cup", "table", "wall"],
    "expressions": ["the red cup", ["one.", "and two."]],
    "regions": [
        {"point": [3, 4]},
        {"box": [1, 2, 9, 10]},
        {"points": [[3, 4], [5, 6]]},
        {"scribble": [[1, 1], [8, 8]]},
        {"mask": {"size": list(SIZE), "counts": [20, 30, 142]}},
    ],
    "conversations": [{"role": "user", "content": "What is there?"}, {"role": "assistant", "content": "A cup."}],
}
CHOICES = (
    "task",
    "prompt_style",
    "add_background",
    "shuffle_categories",
    "seed",
    "padding",
    "padding_side",
    "max_length",
    "return_tensors",
)


def fuzz_processor(folder: Path) -> Callable[[Random], Case]:
    from psalm_hf.tiny import build_tiny

    processor = build_tiny()[1]
    image = Image.new("RGB", SIZE[::-1])
    images = (image, [image], np.zeros((*SIZE, 3), np.uint8), torch.zeros(3, *SIZE, dtype=torch.uint8), image.convert("L"))
    odd = (np.zeros((0, 3, 3)), np.zeros(SIZE, bool), torch.zeros(3, 4), np.full((*SIZE, 3), np.nan), folder / "none.png", b"x", [None])
    targets = {"masks": [RLES[0]], "class_labels": [0]}
    names = ("image", "categor", "expression", "region", "conversation", "message", "target", "row", "prompt", "input_", *CHOICES)

    def draw(rng: Random) -> Case:
        given = {"images": rng.choice(images) if rng.random() < 0.9 else rng.choice((*odd, value(rng)))}
        for kind in rng.sample(tuple(PROMPTS), rng.choice((1, 1, 2))):
            content = broken(PROMPTS[kind], rng) if rng.random() < 0.7 else PROMPTS[kind]
            given[kind] = [content] if rng.random() < 0.2 else content
        if rng.random() < 0.2:
            given |= {"targets": broken(targets, rng)}
        if rng.random() < 0.2:
            given[rng.choice(CHOICES)] = value(rng)
        if rng.random() < 0.1:
            given[rng.choice(("input_points", "input_labels", "input_boxes"))] = broken([[[[3, 4]]]], rng)
        if "images" in given and isinstance(given["images"], str) and given["images"].startswith("/"):
            given["images"] = "absent.png"  # another file of the machine is no input of this kind
        return Case(given, lambda: processor(**given), names, check_inputs)

    return draw


def check_inputs(inputs: Any) -> None:
    rows, tokens = inputs["input_ids"].shape
    assert rows and inputs["condition_index"].shape == (rows, tokens) and inputs["original_sizes"].shape == (rows, 2)
    assert all(tensor.isfinite().all() for tensor in inputs.values() if isinstance(tensor, torch.Tensor) and tensor.is_floating_point())
    json.dumps([str(info) for info in inputs.row_info])


ENTRIES = {
    "masks": fuzz_masks,
    "post_processing": post_processing,
    "processor": fuzz_processor,
    "own_builders": own_builders,
    "benchmark_builders": benchmark_builders,
    "readers": readers,
    "configs": configs,
    "weights": weights,
}
