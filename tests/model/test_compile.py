"""Compiled and exported models: few graphs, and the numbers of the eager model. Seconds are no test."""

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from psalm_hf.data.shapes.scene import make_scene
from psalm_hf.devices import compile_parts
from psalm_hf.tiny import TINY_SIZES, build_tiny

PROMPTS = {
    "category": {"categories": ["triangle", "cross", "grass"]},
    "sentence": {"expressions": ["the purple triangle", "all dotted things"]},
    "region": {"regions": [{"point": (88, 23)}, {"box": (91, 61, 121, 91)}]},
    "conversation": {"conversations": [{"role": "user", "content": "How many crosses are there?"}]},
}
FIELDS = ("masks_queries_logits", "class_queries_logits", "referring_queries_logits", "region_queries_logits", "logits")


@pytest.fixture(scope="module")
def parts():
    """A tiny model of few layers, and its processor."""
    return build_tiny(vision_config=TINY_SIZES["vision_config"] | {"depths": [1, 1, 1, 1]}, decoder_layers=2)


@pytest.fixture(autouse=True)
def forget_graphs():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batch(processor, kind: str, **prompt) -> dict[str, Tensor]:
    image = Image.fromarray(make_scene("test", 0, image_size=128).image)
    return dict(processor(images=image, **PROMPTS[kind] | prompt, return_tensors="pt"))


def check_same(found, expected) -> None:
    present = [name for name in FIELDS if expected.get(name) is not None]
    assert present and all(found[name].shape == expected[name].shape for name in present)
    for name in present:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


# Tracing takes ten seconds a kind.
QUICK_AND_SLOW = ["category", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(PROMPTS)[1:])]


@pytest.mark.parametrize("kind", QUICK_AND_SLOW)
@torch.no_grad()
def test_a_compiled_model_breaks_its_graph_twice_at_most(parts, kind):
    model, processor = parts
    inputs, counter = batch(processor, kind), CompileCounter()
    check_same(torch.compile(model, backend=counter)(**inputs), model(**inputs))
    assert counter.frame_count <= 3


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_model_goes_on_with_other_numbers_of_names(parts):
    model, processor = parts
    compiled = torch.compile(model, backend="eager")
    for names in (["triangle", "cross", "grass"], ["a longer name", "circle"]):
        inputs = batch(processor, "category", categories=names)
        check_same(compiled(**inputs), model(**inputs))


@pytest.mark.parametrize("kind", QUICK_AND_SLOW[:2])
@torch.no_grad()
def test_rows_that_are_known_leave_one_graph_to_export(parts, kind):
    model, processor = parts
    inputs = batch(processor, kind)
    inputs["rows"] = model.batch_rows(**inputs)
    program = torch.export.export(model, (), inputs)  # fails where a graph would break
    check_same(program.module()(**inputs), model(**inputs))
    others = inputs | {"pixel_values": inputs["pixel_values"].flip(-1)}
    check_same(program.module()(**others), model(**others))


@torch.no_grad()
@pytest.mark.slow
def test_compiled_parts_are_one_graph_each():
    model, processor = build_tiny()
    inputs, counter = batch(processor, "category"), CompileCounter()
    expected = model(**inputs)
    compile_parts(model, backend=counter)
    check_same(model(**inputs), expected)
    assert counter.frame_count == 4


def test_a_cpu_without_a_compiler_is_refused(parts, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler on a CPU"):
        compile_parts(parts[0])


class ImageEncoder(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        features = self.model.get_image_features(pixel_values)
        return features.image_tokens, features.mask_features, features.multi_scale


@torch.no_grad()
def test_the_image_half_is_exported(parts):
    model, processor = parts
    pixel_values = batch(processor, "category")["pixel_values"]
    program = torch.export.export(ImageEncoder(model), (pixel_values,))
    for values in (pixel_values, pixel_values.flip(-1)):
        torch.testing.assert_close(program.module()(values), ImageEncoder(model)(values), atol=1e-5, rtol=0)


@torch.no_grad()
def test_known_rows_share_their_beginning_and_read_nothing(parts, monkeypatch):
    model, processor = parts
    inputs = batch(processor, "sentence")
    expected, rows = model(**inputs), model.batch_rows(**inputs)
    assert rows.prefix > 0
    monkeypatch.setattr("psalm_hf.model.modeling_psalm.read_rows", None)
    check_same(model(**inputs, rows=rows), expected)


def test_rows_of_another_batch_are_refused(parts):
    model, processor = parts
    rows = model.batch_rows(**batch(processor, "sentence"))
    with pytest.raises(ValueError, match="rows is of a batch of 2 rows but there are 1"):
        model(**batch(processor, "category"), rows=rows)
