"""Images, masks, discs and region pooling against the released code. Sizes, targets and strides come from the recordings."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.model.image_processing_psalm import PsalmImageProcessor, content_size, place_image, place_mask
from psalm_hf.model.regions import POINT_RADIUS, SCRIBBLE_RADIUS, enlarge, region_weights
from tests.conftest import GOLDEN
from tests.model.golden import load

pytestmark = pytest.mark.golden

FOLDER = GOLDEN / "preprocessing"


def description() -> dict:
    return json.loads((FOLDER / "preprocessing.json").read_text()) if FOLDER.is_dir() else {"images": {}, "sizes_1024": []}


CASES = [(name, scale) for name, entry in description()["images"].items() for scale in entry if isinstance(entry[scale], dict)]


def picture(entry: dict) -> np.ndarray:
    """The synthetic image of the recordings, (H, W, 3) uint8."""
    y, x, c = np.mgrid[: entry["h"], : entry["w"], :3]
    k = entry["k"]
    return ((3 * y + 5 * x * (c + 1) + (y * x) // (7 + c + k) + 40 * ((y // 9 + x // 11 + k) % 4)) % 256).astype(np.uint8)


def stripes(entry: dict) -> np.ndarray:
    y, x = np.mgrid[: entry["h"], : entry["w"]]
    return (y * 3 + x * 2) // 20 % 2 == 1


def stored(full: np.ndarray, recorded: torch.Tensor) -> np.ndarray:
    """The elements that were stored: every k-th of the last two axes, k from the shapes."""
    stride = -(-full.shape[-1] // recorded.shape[-1])
    return full[..., ::stride, ::stride]


@pytest.mark.parametrize("name, scale", CASES)
def test_pixel_values_are_bit_equal(name, scale):
    entry = description()["images"][name]
    recorded = load(FOLDER / "preprocessing.safetensors")
    image = picture(entry)
    if f"{name}.{scale}.input" in recorded:
        np.testing.assert_array_equal(image, recorded[f"{name}.{scale}.input"].numpy())
    target = entry[scale]["target"]

    canvas = place_image(Image.fromarray(image), target)
    pixel_values = PsalmImageProcessor(size={"longest_edge": target})(image, return_tensors="pt")["pixel_values"][0]

    assert hashlib.sha256(canvas.tobytes()).hexdigest() == entry[scale]["uint8_resized_padded_sha256"]
    expected = recorded[f"{name}.{scale}.pixel_values"]
    assert pixel_values.dtype == expected.dtype == torch.float32
    np.testing.assert_array_equal(stored(pixel_values.numpy(), expected), expected.numpy())
    statistics = {"mean": pixel_values.double().mean(), "std": pixel_values.double().std(), "l2": pixel_values.double().norm()}
    for key, value in entry[scale]["pixel_values"].items():
        assert float(statistics[key]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name, scale", CASES)
def test_the_content_is_what_is_not_padding(name, scale):
    entry = description()["images"][name]
    height, width = content_size((entry["h"], entry["w"]), entry[scale]["target"])
    assert [height, width] == entry[scale]["resized_hw"]
    padding = np.ones((entry[scale]["target"],) * 2, dtype=np.uint8)
    padding[:height, :width] = 0
    expected = load(FOLDER / "preprocessing.safetensors")[f"{name}.{scale}.padding_mask"]
    np.testing.assert_array_equal(stored(padding, expected), expected.numpy())


@pytest.mark.parametrize("name, scale", CASES)
def test_masks_are_equal(name, scale):
    entry = description()["images"][name]
    placed = place_mask(stripes(entry), entry[scale]["target"]).astype(np.uint8)
    expected = load(FOLDER / "preprocessing.safetensors")[f"{name}.{scale}.mask"]
    np.testing.assert_array_equal(stored(placed, expected), expected.numpy())
    assert placed.sum() == entry[scale]["mask_sum"]
    assert hashlib.sha256(placed.tobytes()).hexdigest() == entry[scale]["mask_sha256"]


def test_content_sizes_are_equal():
    recorded = description()["sizes_1024"]
    assert recorded
    assert [[*size, *content_size(tuple(size), 1024)] for size in (row[:2] for row in recorded)] == recorded


def test_discs_are_equal():
    recorded = load(FOLDER / "visual_prompts.safetensors")
    names = [name.removesuffix(".in") for name in recorded if name.endswith(".in")]
    assert names
    for name in names:
        radius = POINT_RADIUS if name.startswith("point") else SCRIBBLE_RADIUS
        grown = enlarge(recorded[f"{name}.in"].numpy() != 0, radius)
        np.testing.assert_array_equal(grown, recorded[f"{name}.out"].numpy() != 0, err_msg=name)


def pooling() -> dict[str, torch.Tensor]:
    return load(GOLDEN / "tiny" / "region_pooling.safetensors")


def pool(mask: torch.Tensor, features: torch.Tensor, sampling: str = "exact", generator: torch.Generator | None = None) -> torch.Tensor:
    side = round(len(features) ** 0.5)
    weights = region_weights(mask.bool().numpy(), (side, side), sampling, generator)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    return weights @ features


@pytest.mark.parametrize("sampling", ["exact", "released"])
def test_regions_of_as_many_pixels_as_are_drawn_are_pooled_alike(sampling):
    recorded = pooling()
    images = [name.removeprefix("in.masks.") for name in recorded if name.startswith("in.masks.")]
    assert images
    for image in images:
        pooled = torch.stack([pool(mask, recorded["in.feature_map"][int(image)], sampling) for mask in recorded[f"in.masks.{image}"]])
        torch.testing.assert_close(pooled, recorded[f"out.region.{image}"].flatten(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", ["few", "many"])
def test_a_seeded_draw_is_the_released_one(number):
    recorded = pooling()
    pooled = pool(recorded[f"in.mask_{number}"], recorded["in.feature_map"][0], "released", torch.Generator().manual_seed(0))
    torch.testing.assert_close(pooled, recorded[f"out.{number}.seed0"].flatten(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", ["few", "many"])
def test_exact_pooling_is_the_mean_of_the_draws(number):
    recorded = pooling()
    pooled = pool(recorded[f"in.mask_{number}"], recorded["in.feature_map"][0])
    standard_error = recorded[f"out.{number}.std"] / 200**0.5  # of the mean over the 200 recorded seeds
    deviation = (pooled - recorded[f"out.{number}.mean"]) / standard_error
    assert deviation.abs().max() < 5
    assert deviation.square().mean() < 9  # the channels are correlated: with bad luck all deviate together
