"""Beginnings of prompts that stay with an image: a later prompt is read behind them, and nothing else changes."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.model.batch import common_image_prefix
from psalm_hf.model.configuration_psalm import PsalmConfig
from psalm_hf.tiny import build_tiny
from psalm_hf.video import PsalmVideoSession

SIZES = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = SIZES | {"model_type": "llama", "num_key_value_heads": 1}
SLIDING = LLAMA | {"model_type": "mistral", "sliding_window": 100}
OTHER_BEGINNING = [{"role": "user", "content": "What is it?"}]


def picture(seed: int, size: tuple[int, int] = (60, 90)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def strong(model):
    """The model with an attention so strong that outputs depend on what was read before."""
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            for projection in layer.self_attn.children():
                projection.weight.mul_(15)
    return model


@pytest.fixture(scope="module")
def tiny():
    model, processor = build_tiny(seed=3)
    return strong(model), processor


@contextmanager
def read_tokens(model):
    """(rows, tokens) of every pass of the language model."""
    shapes = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    yield shapes
    hook.remove()


def prompts(processor, images=1, **asked):
    """Inputs without pixels, and the pixels of so many images."""
    inputs = processor(images=[picture(seed) for seed in range(images)], **asked, return_tensors="pt")
    return inputs, inputs.pop("pixel_values")


@torch.no_grad()
def asked_first(model, processor, images=1, **asked):
    """Features of images about which something was asked."""
    inputs, pixels = prompts(processor, images, **(asked or {"expressions": [["the wall"]] * images}))
    features = model.get_image_features(pixels)
    model(**inputs, image_features=features)
    return features


def assert_same(actual, expected):
    for name, logits in expected.items():
        if name.endswith("queries_logits"):
            torch.testing.assert_close(actual[name], logits, atol=1e-5, rtol=0)


def config_of(image_token_id=7, region_token_id=9):
    return PsalmConfig(image_token_id=image_token_id, region_token_id=region_token_id)


def test_the_image_prefix_ends_with_the_last_image_token_if_all_rows_begin_alike():
    """7 is an image token, 9 a region."""
    ids, config = torch.tensor([[1, 7, 7, 3, 4], [1, 7, 7, 5, 9]]), config_of()
    both, mask = torch.tensor([0, 0]), torch.ones(2, 5, dtype=torch.int64)
    assert common_image_prefix(ids, None, both, config, 1) == 3
    assert common_image_prefix(ids, mask, both, config, 1) == 3
    assert common_image_prefix(ids, None, both, config, 2) == 0  # nobody looks at the second image
    assert common_image_prefix(ids, None, torch.tensor([0, -1]), config, 1) == 0
    assert common_image_prefix(ids, mask.index_fill(1, torch.tensor(0), 0), both, config, 1) == 0  # padded on the left
    assert common_image_prefix(ids, None, both, config_of(region_token_id=1), 1) == 0  # equal tokens, different features
    assert common_image_prefix(ids[:, :3], None, both, config, 1) == 0  # nothing follows
    assert common_image_prefix(ids + torch.tensor([[0], [1]]), None, both, config, 1) == 0
    assert common_image_prefix(ids[:, 3:], None, both, config, 1) == 0  # no image in the text


@pytest.mark.parametrize("overrides", [{}, {"text_config": LLAMA}], ids=["phi", "llama"])
@torch.no_grad()
def test_a_second_prompt_is_read_from_the_end_of_the_image_on(overrides):
    model, processor = build_tiny(**overrides)
    features, (inputs, _) = asked_first(strong(model), processor), prompts(processor, expressions=["the red cup"])
    end = int((inputs["input_ids"][0] == model.config.image_token_id).nonzero().max()) + 1
    with read_tokens(model) as shapes:
        outputs = model(**inputs, image_features=features)
        whole = model(**inputs, image_features=features, use_cache=False)
    length = inputs["input_ids"].shape[1]
    assert shapes == [(1, length - end), (1, length)]
    assert_same(outputs, whole)


BATCHES = {
    "categories": {"categories": ["cup", "table", "a very long name"]},
    "expressions": {"expressions": ["the red cup", "the table", "a"]},
    "regions": {"regions": [{"point": (3, 4)}, {"box": (5, 5, 40, 30)}]},
    "every kind": {"categories": ["cup"], "expressions": ["a", "the red cup"], "regions": [{"point": (3, 4)}]},
    "two images": {"images": 2, "expressions": [["a", "the red cup"], ["the table"]]},
    "regions elsewhere": {"regions": [[{"point": (3, 4)}]], "region_images": [picture(8)]},
}


@pytest.mark.parametrize("name", BATCHES)
@torch.no_grad()
def test_outputs_are_those_of_prompts_that_are_read_whole(tiny, name):
    model, processor = tiny
    inputs, pixels = prompts(processor, **BATCHES[name])
    features = asked_first(model, processor, images=len(pixels))
    with read_tokens(model) as shapes:
        outputs = model(**inputs, image_features=features)
    assert shapes[-1][1] < inputs["input_ids"].shape[1] - processor.image_grid[0] * processor.image_grid[1]
    assert sum(rows * tokens for rows, tokens in shapes) <= (len(inputs["input_ids"])) * (
        inputs["input_ids"].shape[1] - len(features.prefix.token_ids)
    )
    assert_same(outputs, model(**inputs, image_features=features, use_cache=False))
    inner = model.model(**inputs, image_features=features).last_hidden_state
    torch.testing.assert_close(inner, model.model(**inputs, pixel_values=pixels).last_hidden_state, atol=1e-4, rtol=0)


@pytest.mark.parametrize("order", [[2, 0, 1], [2, 0, 2]], ids=["each its own", "two of one"])
@torch.no_grad()
def test_a_row_may_look_at_any_of_the_images(tiny, order):
    model, processor = tiny
    inputs, pixels = prompts(processor, images=3, expressions=[["a"], ["the red cup"], ["the table"]])
    features = asked_first(model, processor, images=3)
    inputs |= {"image_index": torch.tensor(order)}
    with read_tokens(model) as shapes:
        outputs = model(**inputs, image_features=features)
    assert len(features.prefix.token_ids) + shapes[-1][1] <= inputs["input_ids"].shape[1]
    expected = model.get_image_features(pixels)
    assert_same(outputs, model(**inputs, image_features=expected, use_cache=False))


@pytest.mark.parametrize("name", BATCHES)
@torch.no_grad()
def test_keeping_the_beginning_changes_no_bit_of_the_call_that_reads_it(tiny, name):
    model, processor = tiny
    inputs, pixels = prompts(processor, **BATCHES[name])
    features = model.get_image_features(pixels)
    outputs = model(**inputs, image_features=features)
    assert features.prefix is not None
    plain = model(**inputs, pixel_values=pixels)
    for field in ("masks_queries_logits", "class_queries_logits", "referring_queries_logits", "region_queries_logits"):
        if field in plain:
            assert torch.equal(outputs[field], plain[field])


@torch.no_grad()
def test_calls_leave_what_is_kept_as_it_is(tiny):
    model, processor = tiny
    features = asked_first(model, processor)
    kept = features.prefix
    before = [x.clone() for layer in kept.layers for x in layer]
    found = []
    for texts in (["the red cup"], ["a", "b c"], ["the red cup"]):
        inputs, _ = prompts(processor, expressions=texts)
        found.append(model(**inputs, image_features=features).masks_queries_logits)
    assert features.prefix is kept
    assert all(torch.equal(x, y) for x, y in zip(before, [x for layer in kept.layers for x in layer], strict=True))
    assert torch.equal(found[0], found[2])


@torch.no_grad()
def test_what_is_kept_takes_two_vectors_per_layer_and_token(tiny):
    model, processor = tiny
    for texts in (["a"], ["a", "the red cup", "the table"]):
        kept = asked_first(model, processor, expressions=[texts]).prefix
        tensors, length = [x for layer in kept.layers for x in layer], len(kept.token_ids)
        text = model.config.text_config
        assert sum(x.untyped_storage().nbytes() for x in tensors) == 2 * text.num_hidden_layers * text.hidden_size * length * 4
        assert kept.states.shape == (1, length, text.hidden_size)


@torch.no_grad()
def test_a_prompt_that_begins_otherwise_is_read_whole_and_kept_instead(tiny):
    model, processor = tiny
    features, (inputs, pixels) = asked_first(model, processor), prompts(processor, conversations=OTHER_BEGINNING)
    kept = features.prefix
    with read_tokens(model) as shapes:
        logits = model(**inputs, image_features=features).logits
        again = model(**inputs, image_features=features).logits
    assert [tokens for _, tokens in shapes] == [logits.shape[1], logits.shape[1] - len(features.prefix.token_ids)]
    assert features.prefix is not kept
    torch.testing.assert_close(logits, model(**inputs, pixel_values=pixels).logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(again, logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_rows_of_two_beginnings_leave_what_is_kept(tiny):
    model, processor = tiny
    features = asked_first(model, processor)
    kept = features.prefix
    inputs, pixels = prompts(processor, expressions=["a"], conversations=OTHER_BEGINNING)
    outputs = model(**inputs, image_features=features)
    assert features.prefix is kept
    assert_same(outputs, model(**inputs, pixel_values=pixels))


def embedded(model, inputs, length):
    ids = inputs["input_ids"]
    return {"inputs_embeds": model.get_input_embeddings()(ids.clamp(max=258))}


WHOLE = {
    "opted out": lambda *_: {"use_cache": False},
    "wants the cache": lambda *_: {"use_cache": True},
    "wants states": lambda *_: {"output_hidden_states": True},
    "own embeddings": embedded,
    "own positions": lambda model, inputs, length: {"position_ids": torch.arange(length)[None]},
    "own mask": lambda model, inputs, length: {"attention_mask": torch.ones(1, 1, length, length, dtype=torch.bool).tril()},
}


@pytest.mark.parametrize("name", WHOLE)
@torch.no_grad()
def test_such_calls_read_their_prompt_whole_and_keep_nothing(tiny, name):
    model, processor = tiny
    inputs, pixels = prompts(processor, expressions=["the red cup"])
    length, fresh, used = inputs["input_ids"].shape[1], model.get_image_features(pixels), asked_first(model, processor)
    call, kept = inputs | WHOLE[name](model, inputs, length), used.prefix
    with read_tokens(model) as shapes:
        for features in (fresh, used):
            assert_same(model(**call, image_features=features), model(**inputs, pixel_values=pixels))
    assert [tokens for _, tokens in shapes] == [length] * 4
    assert fresh.prefix is None and used.prefix is kept


@torch.no_grad()
def test_rows_padded_on_the_left_are_read_whole(tiny):
    model, processor = tiny
    features = asked_first(model, processor)
    inputs, _ = prompts(processor, expressions=["a", "the red cup"], padding_side="left")
    with read_tokens(model) as shapes:
        outputs = model(**inputs, image_features=features)
    assert shapes == [tuple(inputs["input_ids"].shape)]
    assert_same(outputs, model(**inputs, image_features=features, use_cache=False))


@torch.no_grad()
def test_a_row_that_hides_a_token_of_the_beginning_is_read_whole(tiny):
    model, processor = tiny
    features, (inputs, _) = asked_first(model, processor), prompts(processor, expressions=["the red cup"])
    inputs["attention_mask"][0, 5] = 0
    with read_tokens(model) as shapes:
        outputs = model(**inputs, image_features=features)
    assert shapes == [tuple(inputs["input_ids"].shape)]
    assert_same(outputs, model(**inputs, image_features=features, use_cache=False))


@pytest.mark.parametrize("training", [False, True])
def test_with_gradients_nothing_is_kept_or_used(training):
    model, processor = build_tiny()
    inputs, pixels = prompts(processor, expressions=["the red cup"])
    used = asked_first(model, processor)
    fresh, kept = model.get_image_features(pixels), used.prefix
    model.train(training)
    with read_tokens(model) as shapes, torch.set_grad_enabled(not training):
        for features in (fresh, used):
            model(**inputs, image_features=features)
    assert [tokens for _, tokens in shapes] == [inputs["input_ids"].shape[1]] * 2
    assert fresh.prefix is None and used.prefix is kept


@torch.no_grad()
def test_the_beginning_belongs_to_the_image_tokens_that_were_read(tiny):
    model, processor = tiny
    features, (inputs, _) = asked_first(model, processor), prompts(processor, expressions=["the red cup"])
    other = replace(features, image_tokens=features.image_tokens.flip(1))
    assert other.prefix is features.prefix
    outputs = model(**inputs, image_features=other)
    assert_same(outputs, model(**inputs, image_features=other, use_cache=False))
    assert other.prefix is not features.prefix


@torch.no_grad()
def test_what_was_read_in_half_precision_is_read_again(tiny):
    model, processor = tiny
    inputs, pixels = prompts(processor, expressions=["the red cup"])
    features = model.get_image_features(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs, image_features=features)
    kept = features.prefix
    outputs = model(**inputs, image_features=features)
    assert features.prefix is not kept
    assert_same(outputs, model(**inputs, image_features=features, use_cache=False))


@torch.no_grad()
def test_a_language_model_that_forgets_keeps_nothing():
    """Only the last 100 tokens are in the cache of such a layer; the beginning alone has more."""
    model, processor = build_tiny(text_config=SLIDING)
    features = asked_first(strong(model), processor, expressions=[["a", "the wall"]])
    assert features.prefix is None
    inputs, pixels = prompts(processor, expressions=["the red cup", "b"])
    assert_same(model(**inputs, image_features=features), model(**inputs, pixel_values=pixels, output_hidden_states=True))


@torch.no_grad()
def test_features_that_a_call_returns_keep_the_beginning(tiny):
    model, processor = tiny
    inputs, pixels = prompts(processor, expressions=["the wall"])
    features = model(**inputs, pixel_values=pixels, output_image_features=True).image_features
    with read_tokens(model) as shapes:
        outputs = model(**inputs, image_features=features)
    assert shapes == [(1, inputs["input_ids"].shape[1] - len(features.prefix.token_ids))]
    assert_same(outputs, model(**inputs, pixel_values=pixels))


def test_a_frame_that_is_asked_about_again_is_read_from_the_end_of_the_image_on(tiny):
    model, processor = tiny
    session = PsalmVideoSession(model, processor)
    session.add_objects(picture(0), {1: {"box": (5, 5, 40, 30)}})
    with read_tokens(model) as shapes:
        session.track(picture(0))
        session.correct(picture(0), {1: {"box": (20, 20, 60, 50)}})
        again = session.track(picture(0))
    assert shapes[1][1] < shapes[0][1] - processor.image_grid[0] * processor.image_grid[1]
    fresh = PsalmVideoSession(model, processor)
    fresh.add_objects(picture(0), {1: {"box": (20, 20, 60, 50)}})
    assert again.scores[1] == pytest.approx(fresh.track(picture(0)).scores[1], abs=1e-5)
