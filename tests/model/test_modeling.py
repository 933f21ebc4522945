"""Laws of the network: rows do not see each other, vision runs once per image, every option has forward, loss and backward."""

import copy
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from psalm_hf import PsalmConfig, PsalmForSegmentation
from psalm_hf.model.batch import first_rows, shared_prefix
from psalm_hf.model.compatibility import set_checkpointing
from psalm_hf.model.modeling_psalm import pool_conditions, pool_regions
from psalm_hf.tiny import build_tiny

SEGMENTATION_FIELDS = ("masks_queries_logits", "class_queries_logits", "referring_queries_logits", "region_queries_logits")
QUESTION = [{"role": "user", "content": "What is on the table?"}]


def picture(seed: int, size: tuple[int, int] = (60, 90)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def square_mask(size: tuple[int, int], corner: int) -> np.ndarray:
    mask = np.zeros((1, *size), dtype=bool)
    mask[0, corner : corner + 20, corner : corner + 30] = True
    return mask


@pytest.fixture(scope="module")
def tiny():
    return build_tiny()


@pytest.fixture(scope="module")
def mixed_prompts():
    """Six rows of every kind and of different lengths on two images."""
    return {
        "images": [picture(0), picture(1, (90, 60))],
        "categories": [["cup", "table", "wall"], ["sky"]],
        "expressions": [["the red cup", "a"], None],
        "regions": [None, [{"point": (20, 30)}, {"box": (5, 5, 40, 50)}]],
        "conversations": [None, QUESTION],
    }


ONE_BY_ONE = [
    {"image": 0, "categories": ["cup", "table", "wall"]},
    {"image": 0, "expressions": ["the red cup"]},
    {"image": 0, "expressions": ["a"]},
    {"image": 1, "categories": ["sky"]},
    {"image": 1, "regions": [{"point": (20, 30)}, {"box": (5, 5, 40, 50)}]},
    {"image": 1, "conversations": QUESTION},
]


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_batch_of_mixed_kinds_equals_its_rows_one_by_one(tiny, mixed_prompts, side):
    model, processor = tiny
    batch = model(**processor(**mixed_prompts, padding_side=side, return_tensors="pt"), logits_to_keep=0)
    for row, entry in enumerate(ONE_BY_ONE):
        prompt = {name: value for name, value in entry.items() if name != "image"}
        inputs = processor(images=mixed_prompts["images"][entry["image"]], **prompt, return_tensors="pt")
        alone = model(**inputs, logits_to_keep=0)
        kind = next(iter(prompt))
        if kind == "conversations":
            length = inputs["input_ids"].shape[1]
            in_batch = batch.logits[row, -length:] if side == "left" else batch.logits[row, :length]
            torch.testing.assert_close(in_batch, alone.logits[0], atol=1e-4, rtol=0)
            continue
        torch.testing.assert_close(batch.masks_queries_logits[row], alone.masks_queries_logits[0], atol=1e-4, rtol=0)
        field = {"categories": "class", "expressions": "referring", "regions": "region"}[kind] + "_queries_logits"
        in_batch, expected = batch[field][row], alone[field][0]
        if kind == "categories":  # columns: own categories first, background last
            in_batch = torch.cat([in_batch[:, : expected.shape[1] - 1], in_batch[:, -1:]], dim=1)
        torch.testing.assert_close(in_batch, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_padding_columns_of_shorter_rows_win_no_softmax(tiny, mixed_prompts):
    model, processor = tiny
    outputs = model(**processor(**mixed_prompts, return_tensors="pt"))
    assert outputs.class_queries_logits.shape[-1] == 4  # three categories and background
    probs = outputs.class_queries_logits[3].softmax(-1)  # "sky" and background
    assert probs[:, 1:3].abs().max() == 0
    torch.testing.assert_close(probs.sum(-1), torch.ones(len(probs)))


def test_loss_of_a_batch_follows_the_released_normalisation(tiny):
    """Masks are divided by the targets of the whole batch: terms of single rows, weighted by their targets, give the batch's."""
    model, processor = build_tiny(auxiliary_loss=False)
    images = [picture(0), picture(1)]
    categories = [["cup", "table"], ["cup", "table"]]
    targets = [
        {"masks": np.concatenate([square_mask((60, 90), 0), square_mask((60, 90), 25)]), "class_labels": [0, 1]},
        {"masks": square_mask((60, 90), 10), "class_labels": [1]},
    ]
    # Every draw gives the same points, so that rows alone and together sample alike.
    with patch("torch.rand", side_effect=lambda *size, **_: _grid_points(size)):
        batch = model(**processor(images=images, categories=categories, targets=targets, return_tensors="pt")).losses
        rows = [
            model(**processor(images=images[row], categories=categories[row], targets=[targets[row]], return_tensors="pt")).losses
            for row in range(2)
        ]
    for name in ("loss_mask", "loss_dice"):
        expected = (2 * rows[0][name] + 1 * rows[1][name]) / 3
        torch.testing.assert_close(batch[name], expected, atol=1e-4, rtol=0)


def _grid_points(size: tuple[int, ...]) -> torch.Tensor:
    count = size[1]
    return torch.stack([torch.linspace(0.01, 0.99, count), torch.linspace(0.01, 0.99, count).roll(count // 3)], -1).expand(size)


@pytest.fixture
def vision_calls(tiny):
    model, _ = tiny
    calls = {"vision_tower": [], "pixel_decoder": []}
    hooks = [
        getattr(model.model, name).register_forward_pre_hook(lambda module, args, name=name: calls[name].append(args[0])) for name in calls
    ]
    yield calls
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("num_rows", [1, 8])
@torch.no_grad()
def test_vision_runs_once_however_many_rows_look_at_the_image(tiny, vision_calls, num_rows):
    model, processor = tiny
    inputs = processor(images=picture(0), expressions=[f"thing {row}" for row in range(num_rows)], return_tensors="pt")
    outputs = model(**inputs)
    assert len(outputs.masks_queries_logits) == num_rows
    assert len(vision_calls["vision_tower"]) == len(vision_calls["pixel_decoder"]) == 1
    assert len(vision_calls["vision_tower"][0]) == 1  # one image, not one per row


def test_prefix_is_what_the_rows_of_every_image_share():
    """Two images with two rows each, one row alone; 9 is a region."""
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5], [7, 2, 3, 9], [7, 2, 3, 9], [8, 8, 8, 8]])
    image_index = torch.tensor([0, 0, 1, 1, -1])
    assert shared_prefix(ids, None, image_index, region_token_id=9) == 3
    assert first_rows(image_index).tolist() == [0, 0, 2, 2, 4]
    assert shared_prefix(ids, None, image_index, region_token_id=2) == 1
    assert shared_prefix(ids, None, torch.arange(5), region_token_id=9) == 0  # nobody shares an image
    assert shared_prefix(ids, None, torch.full((5,), -1), region_token_id=9) == 0
    mask = torch.ones(5, 4, dtype=torch.int64)
    mask[1, 0] = 0  # padded on the left
    assert shared_prefix(ids, mask, image_index, region_token_id=9) == 0


LLAMA = {"model_type": "llama", "vocab_size": 259, "hidden_size": 32, "intermediate_size": 64}
LLAMA |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}


@pytest.mark.parametrize("overrides", [{}, {"text_config": LLAMA}], ids=["phi", "llama"])
@torch.no_grad()
def test_language_model_reads_the_common_beginning_once(overrides):
    model, processor = build_tiny(**overrides)
    lengths = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    texts = ["the red cup", "the table", "a"]
    inputs = processor(images=[picture(0), picture(1)], expressions=[texts, texts], return_tensors="pt")
    shared = model(**inputs)
    (images, prefix), (rows, rest) = lengths
    hook.remove()
    assert (images, rows) == (2, 6) and prefix + rest == inputs["input_ids"].shape[1]
    before_expression = int((inputs["condition_index"][0] > 0).int().argmax())
    assert prefix >= before_expression
    whole = model(**inputs, output_hidden_states=True)  # asks for states of whole rows, so rows are read whole
    torch.testing.assert_close(shared.masks_queries_logits, whole.masks_queries_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(shared.referring_queries_logits, whole.referring_queries_logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompt", ["expressions", "conversations"])
def test_training_reads_the_common_beginning_once_with_the_same_gradients(tiny, prompt):
    model, processor = tiny
    model.train()
    if prompt == "expressions":
        masks = torch.zeros(1, 64, 64, dtype=torch.bool)
        masks[:, 8:40, 8:30] = True
        inputs = processor(images=[picture(0)], expressions=[["the red cup", "the table"]], return_tensors="pt")
        inputs["mask_labels"] = [masks, masks]
    else:
        turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}] for text in ("a cup?", "is it red?")]
        inputs = processor(images=[picture(0), picture(0)], conversations=turns, return_tensors="pt")
        inputs["pixel_values"], inputs["image_index"] = inputs["pixel_values"][:1], torch.tensor([0, 0])
    gradients, calls = [], []
    hook = model.model.language_model.register_forward_pre_hook(lambda *_: calls.append(1))
    for options in ({}, {"output_hidden_states": True}):  # the second asks for states of whole rows
        model.zero_grad()
        torch.manual_seed(0)
        model(**inputs, **options).loss.backward()
        gradients.append({name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None})
    hook.remove()
    model.eval()
    assert len(calls) == 2 + 1 and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_the_same_prompt_twice_on_one_image(tiny):
    model, processor = tiny
    twice = model(**processor(images=picture(0), expressions=["cup", "cup"], return_tensors="pt"))
    once = model(**processor(images=picture(0), expressions=["cup"], return_tensors="pt"))
    for row in range(2):
        torch.testing.assert_close(twice.masks_queries_logits[row], once.masks_queries_logits[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompts", [{"expressions": [["a"], ["a"]]}, {"regions": [[{"point": (3, 4)}], [{"point": (3, 4)}]]}])
@torch.no_grad()
def test_a_broken_image_breaks_its_own_rows_only(tiny, prompts):
    model, processor = tiny
    inputs = processor(images=[picture(0), picture(1)], **prompts, return_tensors="pt")
    inputs["pixel_values"][1] = float("nan")
    masks = model(**inputs).masks_queries_logits
    assert torch.isfinite(masks[0]).all() and not torch.isfinite(masks[1]).any()


def test_more_tokens_than_positions_are_refused():
    sizes = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    model, processor = build_tiny(text_config={"model_type": "phi", "max_position_embeddings": 64} | sizes)
    with pytest.raises(ValueError, match="at most 64 fit"):
        processor(images=picture(0), categories=["cup"], return_tensors="pt")
    with pytest.raises(ValueError, match="has 64 positions"):
        model(**processor(images=picture(0), categories=["cup"], max_length=2048, return_tensors="pt"))


@torch.no_grad()
def test_given_image_features_replace_vision(tiny, vision_calls):
    model, processor = tiny
    inputs = processor(images=picture(0), expressions=["cup", "table"], return_tensors="pt")
    expected = model(**inputs)
    features = model.get_image_features(inputs.pop("pixel_values"))
    for calls in vision_calls.values():
        calls.clear()
    outputs = model(**inputs, image_features=features)
    assert vision_calls == {"vision_tower": [], "pixel_decoder": []}
    assert torch.equal(outputs.masks_queries_logits, expected.masks_queries_logits)


@torch.no_grad()
def test_rows_take_the_images_in_order_unless_told(tiny):
    model, processor = tiny
    inputs = processor(images=[picture(0), picture(1)], categories=[["cup"], ["cup"]], return_tensors="pt")
    expected = model(**inputs)
    inputs.pop("image_index")
    outputs = model(**inputs)
    assert outputs.image_index.tolist() == expected.image_index.tolist() == [0, 1]
    assert torch.equal(outputs.masks_queries_logits, expected.masks_queries_logits)


@torch.no_grad()
def test_conversation_skips_the_pixel_decoder(tiny, vision_calls):
    model, processor = tiny
    model(**processor(images=picture(0), conversations=QUESTION, return_tensors="pt"))
    assert (len(vision_calls["vision_tower"]), len(vision_calls["pixel_decoder"])) == (1, 0)


@torch.no_grad()
def test_region_on_another_image_equals_its_cached_tokens_and_features(tiny):
    model, processor = tiny
    regions = [{"point": (20, 30)}, {"box": (5, 5, 40, 50)}]
    inputs = processor(images=picture(0), regions=regions, region_images=picture(5), return_tensors="pt")
    expected = model(**inputs)
    own = model(**processor(images=picture(0), regions=regions, return_tensors="pt"))
    assert (expected.masks_queries_logits - own.masks_queries_logits).abs().max() > 1e-3
    tokens = model.get_image_features(inputs.pop("region_pixel_values"), masks=False).image_tokens
    cached = model(**inputs, region_image_tokens=tokens)
    assert torch.equal(cached.masks_queries_logits, expected.masks_queries_logits)
    features = pool_regions(inputs.pop("region_weights"), tokens, inputs.pop("region_image_index"))
    remembered = model(**inputs, region_features=features)
    torch.testing.assert_close(remembered.masks_queries_logits, expected.masks_queries_logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_text_order_of_categories_does_not_change_their_columns(tiny):
    """Shuffling moves names in the text (other positions, other logits), but column c stays category c: embeds are pooled by it."""
    model, processor = tiny
    names = ["cup", "table", "wall"]
    inputs = processor(images=picture(0), categories=names, shuffle_categories=True, seed=3, return_tensors="pt")
    hidden = torch.randn(1, inputs["input_ids"].shape[1], 4)
    pooled = pool_conditions(hidden, inputs["condition_index"], 4)
    ids, condition = inputs["input_ids"][0], inputs["condition_index"][0]
    for number, name in enumerate([*names, "background"]):
        member = condition == number + 1
        assert processor.tokenizer.decode(ids[member]).replace("[SEG]", "").strip() == name
        torch.testing.assert_close(pooled[0, number], hidden[0, member].mean(0))


def test_pooled_regions_are_weighted_means_of_the_right_image():
    tokens = torch.arange(12.0).view(2, 3, 2)  # two images of three tokens
    weights = torch.tensor([[[1.0, 0, 0], [0, 0.5, 0.5]]])
    pooled = pool_regions(weights, tokens, torch.tensor([[0, 1]]))
    assert pooled.tolist() == [[[0.0, 1.0], [9.0, 10.0]]]


def training_inputs(processor, kind: str, empty: bool = False, **options):
    masks = np.zeros((0, 60, 90), dtype=bool) if empty else square_mask((60, 90), 10)
    prompts = {
        "category": {"categories": [["cup", "table"]] * 2},
        "sentence": {"expressions": [["the cup"]] * 2},
        "region": {"regions": [[{"point": (20, 20)}]] * 2},
    }[kind]
    targets = [{"masks": masks} | ({"class_labels": [0] * len(masks)} if kind == "category" else {}) for _ in range(2)]
    return processor(images=[picture(0), picture(1)], **prompts, targets=targets, return_tensors="pt", **options)


@pytest.mark.parametrize("kind", ["category", "sentence", "region"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_kind_has_loss_and_gradients(kind, checkpointing):
    model, processor = build_tiny()
    model.train()
    set_checkpointing(model, checkpointing)
    torch.manual_seed(0)
    outputs = model(**training_inputs(processor, kind))
    outputs.loss.backward()
    name = {"category": "loss_class", "sentence": "loss_referring", "region": "loss_region"}[kind]
    depths = model.config.decoder_layers
    assert set(outputs.losses) == {
        stem + end for stem in (name, "loss_mask", "loss_dice") for end in ["", *(f"_{d}" for d in range(depths))]
    }
    assert torch.equal(outputs.loss, sum(outputs.losses.values()))
    assert model.model.mask_queries.weight.grad.abs().max() > 0
    assert model.model.projector.linear.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["category", "sentence", "region"])
def test_the_losses_of_masks_and_of_language_add_up_in_one_row(kind):
    model, processor = build_tiny()
    model.train()
    inputs = training_inputs(processor, kind, return_assistant_tokens_mask=True)
    spoken = inputs.pop("assistant_masks") == 1
    labels = inputs["input_ids"].masked_fill(~spoken, -100)
    masks = {name: inputs.pop(name) for name in ("mask_labels", "class_labels")}
    found = []
    for targets in (masks, {"labels": labels}, masks | {"labels": labels}):
        model.zero_grad()
        torch.manual_seed(0)
        outputs = model(**inputs, **targets)
        outputs.loss.backward()
        gradients = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
        assert len(gradients) == len(dict(model.named_parameters()))  # every part has one, as DDP needs it
        found.append((outputs.losses, outputs.loss, gradients))
    (segmentation, loss_of_masks, _), (language, loss_of_words, _), (both, loss, _) = found
    assert language.keys() == {"loss_language"} and language["loss_language"] > 0
    torch.testing.assert_close(both, segmentation | language)
    torch.testing.assert_close(loss, loss_of_masks + loss_of_words)
    for name, gradient in found[2][2].items():
        torch.testing.assert_close(gradient, found[0][2][name] + found[1][2][name], atol=1e-5, rtol=1e-4)
    assert found[1][2]["lm_head.weight"].abs().max() > 0 and not found[0][2]["lm_head.weight"].any()


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model, processor = build_tiny()
        model.train()
        set_checkpointing(model, checkpointing)
        torch.manual_seed(0)
        model(**training_inputs(processor, "category")).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-5, rtol=1e-4)


def test_autocast_step_has_finite_losses_and_gradients():
    model, processor = build_tiny()
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(**training_inputs(processor, "category"))
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_trainer_takes_a_step_and_evaluates(tmp_path):
    """The outputs survive the Trainer's gathering, and the loss is not rescaled behind our back."""
    model, processor = build_tiny()
    options = {"output_dir": str(tmp_path), "use_cpu": True, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2}
    options |= {"max_steps": 1, "report_to": "none", "remove_unused_columns": False, "logging_steps": 1, "gradient_accumulation_steps": 2}
    options["label_names"] = ["mask_labels", "class_labels"]  # the Trainer's guess also waits for language labels
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**options),
        train_dataset=list(range(4)),
        eval_dataset=list(range(2)),
        data_collator=lambda rows: training_inputs(processor, "category"),
    )
    torch.manual_seed(0)
    loss = trainer.train().training_loss
    with torch.no_grad():
        alone = model(**training_inputs(processor, "category")).loss.item()
    assert loss == pytest.approx(alone, rel=0.2)  # the mean of two micro-batches, not their sum
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(alone, rel=0.2)


@pytest.mark.parametrize("kind", ["category", "sentence"])
def test_batch_without_any_target_trains_the_similarity_only(kind):
    model, processor = build_tiny()
    outputs = model(**training_inputs(processor, kind, empty=True))
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)
    assert outputs.losses["loss_mask"].item() == outputs.losses["loss_dice"].item() == 0
    assert outputs.losses["loss_mask"].requires_grad
    assert model.model.query_projection.weight.grad.abs().max() > 0


def test_non_finite_cost_is_an_error_that_names_the_row():
    model, processor = build_tiny()
    inputs = training_inputs(processor, "category")
    inputs["pixel_values"][1] = float("nan")
    with pytest.raises(ValueError, match="row 1: .* matching costs are not finite"):
        model(**inputs)


def test_mixed_batch_with_targets_is_refused(tiny):
    model, processor = tiny
    inputs = processor(images=picture(0), categories=["cup"], expressions=["the cup"], return_tensors="pt")
    with pytest.raises(ValueError, match="different kinds"):
        model(**inputs, mask_labels=[torch.zeros(0, 128, 128)] * 2)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("category", {"class_labels": [torch.tensor([2]), torch.tensor([0])]}, "row 0: class labels .* outside the 2 categories"),
        ("category", {"class_labels": None}, "need class_labels"),
        ("category", {"mask_labels": [torch.zeros(1, 128, 128)]}, "mask_labels for 1"),
        ("region", {"mask_labels": [torch.zeros(2, 128, 128)] * 2}, "row 0: 1 regions but 2 target masks"),
    ],
)
def test_targets_that_do_not_fit_are_refused(tiny, kind, change, message):
    model, processor = tiny
    with pytest.raises(ValueError, match=message):
        model(**(dict(training_inputs(processor, kind)) | change))


def cut_into_image_tokens(inputs: dict, image_token_id: int) -> None:
    first = int((inputs["input_ids"] == image_token_id).int().argmax())
    for name in ("input_ids", "attention_mask", "condition_index"):
        inputs[name] = inputs[name][:, first + 4 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut_into_image_tokens, "row 0: the prompt has 12 image tokens but its image gives 16"),
        (lambda inputs, _: inputs.pop("pixel_values"), "image_index names image 0 but 0 images were given"),
        (lambda inputs, _: inputs.update(image_index=torch.tensor([1])), "image_index names image 1 but 1 images"),
        (lambda inputs, _: inputs.update(image_index=torch.tensor([-1])), "row 0: the prompt has 16 image tokens but its image gives 0"),
        (lambda inputs, _: inputs.pop("condition_type"), "no condition_type"),
        (lambda inputs, _: inputs.pop("condition_index"), "no condition_index"),
        (lambda inputs, _: inputs.pop("region_weights"), "row 0: the prompt has 2 region tokens"),
        (lambda inputs, _: inputs.update(region_weights=inputs["region_weights"][:, :1]), "names region 2 but features of 1"),
        (
            lambda inputs, _: inputs.update(image_index=None, pixel_values=torch.zeros(2, 3, 128, 128)),
            "1 rows but 2 images; pass image_index",
        ),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(tiny, change, message):
    model, processor = tiny
    inputs = dict(processor(images=picture(0), regions=[{"point": (3, 4)}, {"point": (30, 40)}], return_tensors="pt"))
    change(inputs, model.config.image_token_id)
    with pytest.raises(ValueError, match=message):
        model(**inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs: inputs.update(region_weights=inputs["region_weights"][:, :, :9]), "over 9 image tokens but an image has 16"),
        (lambda inputs: inputs.update(region_image_index=torch.ones(1, 1, dtype=torch.int64)), "names image 1 but 1 region images"),
        (lambda inputs: inputs.pop("region_pixel_values"), "without region_pixel_values"),
    ],
)
def test_region_inputs_that_do_not_fit_are_refused(tiny, change, message):
    model, processor = tiny
    inputs = dict(processor(images=picture(0), regions=[{"point": (3, 4)}], region_images=picture(1), return_tensors="pt"))
    change(inputs)
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_image_features_without_masks_cannot_segment(tiny):
    model, processor = tiny
    inputs = processor(images=picture(0), categories=["cup"], return_tensors="pt")
    features = model.get_image_features(inputs.pop("pixel_values"), masks=False)
    with pytest.raises(ValueError, match="masks=True"):
        model(**inputs, image_features=features)


@pytest.fixture(scope="module")
def model_and_processor():
    return build_tiny(decouple_masks=False)


class TestNonDecoupled:
    @torch.no_grad()
    def test_queries_are_the_categories(self, model_and_processor):
        model, processor = model_and_processor
        inputs = processor(images=[picture(0), picture(1)], categories=[["cup", "table", "wall"], ["sky"]], return_tensors="pt")
        outputs = model(**inputs)
        assert outputs.masks_queries_logits.shape[:2] == (2, 3)
        assert outputs.class_queries_logits.shape == (2, 3, 4)
        alone = model(**processor(images=picture(1), categories=["sky"], return_tensors="pt"))
        torch.testing.assert_close(outputs.masks_queries_logits[1, :1], alone.masks_queries_logits[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(outputs.class_queries_logits[1, :1, [0, 3]], alone.class_queries_logits[0], atol=1e-4, rtol=0)

    def test_loss_and_backward(self, model_and_processor):
        model, processor = model_and_processor
        outputs = model(**training_inputs(processor, "category"))
        outputs.loss.backward()
        assert model.model.category_projection.weight.grad.abs().max() > 0
        model.zero_grad()

    @torch.no_grad()
    def test_post_processing(self, model_and_processor):
        model, processor = model_and_processor
        inputs = processor(images=[picture(0), picture(1)], categories=[["cup", "table", "wall"], ["sky"]], return_tensors="pt")
        outputs = model(**inputs)
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=inputs["original_sizes"])
        assert [tuple(x.shape) for x in maps] == [(60, 90), (60, 90)]
        assert int(maps[1].max()) == 0
        panoptic = processor.post_process_panoptic_segmentation(outputs, threshold=0.0, target_sizes=inputs["original_sizes"])
        assert {segment["label_id"] for segment in panoptic[1]["segments_info"]} <= {0}

    def test_sentences_are_refused(self, model_and_processor):
        model, processor = model_and_processor
        with pytest.raises(ValueError, match="categories only"):
            model(**processor(images=picture(0), expressions=["cup"], return_tensors="pt"))


class TestGenerate:
    @torch.no_grad()
    def test_cache_batch_and_padding_do_not_change_the_answer(self, tiny):
        model, processor = tiny
        questions = [QUESTION, [{"role": "user", "content": "And the colour of the cup that stands on it?"}]]
        images = [picture(0), picture(1)]
        batch = processor(images=images, conversations=questions, padding_side="left", return_tensors="pt")
        options = {"max_new_tokens": 6, "do_sample": False}
        answers = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
        uncached = model.generate(**batch, **options, use_cache=False)[:, batch["input_ids"].shape[1] :]
        assert torch.equal(answers, uncached)
        for row in range(2):
            inputs = processor(images=images[row], conversations=questions[row], return_tensors="pt")
            alone = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
            assert answers[row, : len(alone)].tolist() == alone.tolist()

    @torch.no_grad()
    def test_beams_and_samples_share_one_encoded_image(self, tiny, vision_calls):
        model, processor = tiny
        inputs = processor(images=picture(0), conversations=QUESTION, return_tensors="pt")
        answers = model.generate(**inputs, max_new_tokens=3, num_beams=3, num_return_sequences=3)
        assert len(answers) == 3
        assert [len(call) for call in vision_calls["vision_tower"]] == [1]

    @torch.no_grad()
    def test_text_only_conversation(self, tiny, vision_calls):
        model, processor = tiny
        inputs = processor(conversations=[QUESTION], return_tensors="pt")
        assert inputs["image_index"].tolist() == [-1]
        assert model.generate(**inputs, max_new_tokens=3).shape[0] == 1
        assert vision_calls["vision_tower"] == []

    def test_segmentation_prompt_is_refused(self, tiny):
        model, processor = tiny
        with pytest.raises(ValueError, match="row 0 asks for a segmentation"):
            model.generate(**processor(images=picture(0), categories=["cup"], return_tensors="pt"), max_new_tokens=3)


def test_text_only_training_step_calls_vision_at_weight_zero():
    model, processor = build_tiny()
    model.train()
    answer = [*QUESTION, {"role": "assistant", "content": "A cup."}]
    inputs = processor(conversations=[answer], return_tensors="pt")
    model.model.projector.reduce.norm2.eval()  # frozen by the caller
    statistics = copy.deepcopy(model.model.projector.reduce.norm1.running_mean)
    model(**inputs).loss.backward()
    assert model.model.projector.linear.weight.grad.abs().max() == 0  # in the graph, without effect
    assert torch.equal(model.model.projector.reduce.norm1.running_mean, statistics)
    assert model.model.projector.training and not model.model.projector.reduce.norm2.training


def test_conversation_loss_is_the_cross_entropy_of_supervised_tokens(tiny):
    model, processor = tiny
    answer = [*QUESTION, {"role": "assistant", "content": "A cup."}]
    inputs = processor(images=picture(0), conversations=answer, return_tensors="pt")
    outputs = model(**inputs, logits_to_keep=0)
    logits, targets = outputs.logits[0, :-1], inputs["labels"][0, 1:]
    expected = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100)
    torch.testing.assert_close(outputs.loss, expected)
    assert model(**inputs).logits is None  # nobody asked for them


def test_resized_embeddings_keep_the_placeholders_working():
    model, processor = build_tiny()
    inputs = processor(images=picture(0), categories=["cup"], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).masks_queries_logits
        model.resize_token_embeddings(model.config.text_config.vocab_size + 8)
        torch.testing.assert_close(model(**inputs).masks_queries_logits, expected)
    assert model.lm_head.out_features == model.get_input_embeddings().num_embeddings == model.config.text_config.vocab_size


@torch.no_grad()
def test_hidden_states_and_attentions_on_request(tiny):
    model, processor = tiny
    inputs = processor(images=picture(0), categories=["cup"], return_tensors="pt")
    plain = model(**inputs)
    assert plain.hidden_states is None and plain.attentions is None and plain.auxiliary_outputs is None
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    outputs = eager(**inputs, output_hidden_states=True, output_attentions=True, output_auxiliary_logits=True, output_image_features=True)
    layers = model.config.text_config.num_hidden_layers
    assert len(outputs.hidden_states) == layers + 1 and len(outputs.attentions) == layers
    assert len(outputs.auxiliary_outputs) == model.config.decoder_layers
    assert outputs.image_features.image_tokens.shape[:2] == (1, 16)
    torch.testing.assert_close(outputs.masks_queries_logits, plain.masks_queries_logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "overrides",
    [
        {"projector_type": "linear", "projector_stride": 1, "projector_positions": True},
        {"projector_level": 3, "projector_stride": 1},
        {"lm_head_bias": True},
        {"vision_config": {"model_type": "timm_backbone", "backbone": "convnext_atto", "out_indices": [0, 1, 2, 3]}},
        {"text_config": LLAMA},
    ],
    ids=["linear projector with positions", "other feature level", "head bias", "timm backbone", "other language model"],
)  # fmt: skip
def test_options_are_configuration_only(overrides):
    model, processor = build_tiny(**overrides)
    outputs = model(**training_inputs(processor, "category"))
    outputs.loss.backward()
    assert outputs.masks_queries_logits.shape[2:] == (32, 32)
    assert model.model.projector.linear.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_dim": 48}, "multiple of 32"),
        ({"image_size": 100}, "multiple of 32"),
        ({"projector_level": 4}, "one of the four feature maps"),
        ({"image_token_id": 5, "region_token_id": 5}, "share a token id"),
        (
            {"vision_config": {"model_type": "timm_backbone", "backbone": "convnext_atto", "out_indices": [1, 2, 3]}},
            "configure it for four",
        ),
    ],
)
def test_impossible_configurations_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        PsalmForSegmentation(PsalmConfig(**({"projector_width": 32} | overrides)))
