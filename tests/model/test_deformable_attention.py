"""The gather of deformable attention against the library's `grid_sample`."""

import pytest
import torch
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from psalm_hf.model import deformable_attention
from psalm_hf.model.deformable_attention import gather_samples
from psalm_hf.model.mask_decoder import PsalmPixelDecoderLayer, pixel_centres
from psalm_hf.tiny import build_tiny


def inputs(shapes, images=2, heads=3, width=4, points=2, queries=7, dtype=torch.float32):
    """Locations lie inside of the maps, on their edges, and outside."""
    generator = torch.Generator().manual_seed(0)
    pixels = sum(rows * columns for rows, columns in shapes)
    values = torch.randn(images, pixels, heads, width, generator=generator, dtype=dtype)
    locations = torch.rand(images, queries, heads, len(shapes), points, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    locations[0, 0, 0] = 0.0
    locations[0, 0, 1] = 1.0
    locations[0, 0, 2] = 40.0
    return values, locations, torch.rand(images, queries, heads, len(shapes), points, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shapes", [[(3, 5), (7, 4), (1, 2)], [(1, 1)], [(2, 2), (4, 4), (8, 8)]], ids=str)
def test_samples_are_those_of_the_library(shapes, dtype, monkeypatch):
    monkeypatch.setattr(deformable_attention, "_CHUNK", 3)  # seven queries are two chunks and a rest
    values, locations, attention = inputs(shapes, dtype=dtype)
    expected = multi_scale_deformable_attention(values, shapes, locations, attention)
    torch.testing.assert_close(gather_samples(values, shapes, locations, attention), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shapes", [[(3, 5), (7, 4), (1, 2)], [(1, 1)], [(2, 2), (4, 4), (8, 8)]], ids=str)
def test_gradients_are_those_of_the_library(shapes, monkeypatch):
    """Also at the middle of a pixel, where the slope jumps."""
    monkeypatch.setattr(deformable_attention, "_BACKWARD_CHUNK", 3)
    values, locations, attention = inputs(shapes)
    locations[1, 0] = 0.5
    weight = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))
    gradients = []
    for sample in (multi_scale_deformable_attention, gather_samples):
        leaves = [x.clone().requires_grad_() for x in (values, locations, attention)]
        (sample(leaves[0], shapes, *leaves[1:]) * weight).sum().backward()
        gradients.append([x.grad for x in leaves])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-5)


def test_gradients_are_differences():
    shapes = [(3, 5), (4, 4)]
    values, locations, attention = inputs(shapes, queries=3, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (values, locations.clamp(-0.25, 1.25) + 0.003, attention)]  # no location is on a jump
    assert torch.autograd.gradcheck(lambda values, *others: gather_samples(values, shapes, *others), leaves)


def test_the_gradient_of_an_image_does_not_depend_on_the_others():
    shapes = [(3, 5), (4, 4)]
    leaves = [x.requires_grad_() for x in inputs(shapes)]
    together = torch.autograd.grad(gather_samples(leaves[0], shapes, *leaves[1:]).square().sum(), leaves)
    alone = torch.autograd.grad(gather_samples(leaves[0][1:], shapes, *(x[1:] for x in leaves[1:])).square().sum(), leaves)
    assert all(torch.equal(a[1:], b[1:]) for a, b in zip(together, alone, strict=True))


def test_samples_of_half_precision_are_taken_in_float32():
    values, locations, attention = inputs([(3, 5), (7, 4)])
    expected = gather_samples(values.bfloat16().float(), [(3, 5), (7, 4)], locations, attention)
    torch.testing.assert_close(gather_samples(values.bfloat16(), [(3, 5), (7, 4)], locations, attention), expected, atol=0, rtol=0)


def test_a_pixel_centre_gives_the_pixel():
    values = torch.arange(6.0).view(1, 6, 1, 1)
    centres = pixel_centres([(2, 3)], "cpu")[:, :, :, None, None]  # (1, 6, 1, 1, 1, 2)
    found = gather_samples(values, [(2, 3)], centres, torch.ones(1, 6, 1, 1, 1))
    assert found.flatten().tolist() == pytest.approx([0, 1, 2, 3, 4, 5], abs=1e-6)


def test_a_layer_gives_the_same_with_and_without_gradients():
    decoder = build_tiny()[0].model.pixel_decoder.eval()
    maps = [torch.randn(2, width, 16 >> level, 12 >> level) for level, width in enumerate((16, 32, 64, 128))]
    maps = [x[:, : layer[0].in_channels] for x, layer in zip(maps, [decoder.lateral, *reversed(decoder.input_projections)], strict=True)]
    assert isinstance(decoder.layers[0], PsalmPixelDecoderLayer)
    expected = decoder(maps)
    with torch.inference_mode():
        torch.testing.assert_close(decoder(maps), (expected[0].detach(), tuple(x.detach() for x in expected[1])), atol=1e-5, rtol=1e-5)
