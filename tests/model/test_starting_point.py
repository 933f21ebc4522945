"""Starting points: what each part gives arrives bit by bit, what it lacks starts as documented, and the whole trains."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedTokenizerFast,
    SwinConfig,
    SwinForImageClassification,
    TimmBackbone,
    TimmBackboneConfig,
)

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.model.compatibility import set_checkpointing
from psalm_hf.model.convert_psalm_checkpoint import convert_original_name, split_fused
from psalm_hf.model.mask_decoder import RowLayout
from psalm_hf.model.starting_point import build_starting_point, fit_vocabulary
from psalm_hf.tiny import TINY_SIZES, build_tiny
from tests.model import golden
from tests.model.test_convert_psalm_checkpoint import write_pickle
from tests.model.test_modeling import QUESTION, picture, training_inputs

SMALL = TINY_SIZES | {"num_queries": 6, "decoder_layers": 1}
DECODER_SIZES = ("hidden_dim", "num_heads", "encoder_layers", "encoder_ffn_dim", "decoder_layers", "decoder_ffn_dim")
NO_DECODER = {name: value for name, value in SMALL.items() if name not in (*DECODER_SIZES, "vision_config")}
NO_VISION = {name: value for name, value in SMALL.items() if name != "vision_config"}

# Sizes that all families share, with more rows (300) than the tokenizer has tokens (257), and what each family needs besides.
TEXT = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT |= {"max_position_embeddings": 2048, "bos_token_id": 7, "eos_token_id": 7, "pad_token_id": None}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "phi": {},
    "llama": GROUPED,
    "qwen3": GROUPED,
    "gemma": GROUPED,
    "gemma3_text": GROUPED | {"sliding_window": 64},
    "gpt2": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}
END = 256  # <|endoftext|>, behind the 256 bytes


def plain_tokenizer(**special) -> PreTrainedTokenizerFast:
    """One token per byte and an end token; as Phi's, without a pad token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def save_language_model(folder, family: str, *, tokenizer_options=None, dtype=torch.float32, **sizes):
    """A random language model with its tokenizer; every weight differs from what an initialisation would give."""
    config = AutoConfig.for_model(family, **(TEXT | FAMILIES.get(family, {}) | sizes))
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(folder)
    plain_tokenizer(**(tokenizer_options or {})).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "phi"
    return save_language_model(folder, "phi"), folder


@pytest.fixture(scope="module")
def start(phi):
    torch.manual_seed(0)
    return build_starting_point(phi[1], **SMALL)


# Language model


def test_rows_of_known_tokens_stay_the_pad_row_is_their_mean_and_others_are_drawn():
    matrix = torch.tensor([[1.0, 0.0], [3.0, 2.0], [50.0, 50.0], [60.0, 60.0]])  # the rows of 50 and 60 have no token
    fitted = fit_vocabulary(matrix, num_rows=5, known_ids=[0, 1], mean_id=2, std=1e-4)
    assert fitted[:3].tolist() == [[1, 0], [3, 2], [2, 1]]
    assert 0 < fitted[3:].abs().max() < 1e-3
    assert fit_vocabulary(matrix, num_rows=2, known_ids=[0, 1], mean_id=None, std=0).tolist() == [[1, 0], [3, 2]]
    assert fit_vocabulary(matrix.half(), num_rows=3, known_ids=[0, 1], mean_id=2, std=0).dtype == torch.float16


def test_phi_is_taken_over_as_the_released_code_does(phi, start):
    theirs, _ = phi
    model, processor = start
    state, given = model.state_dict(), theirs.state_dict()
    assert processor.tokenizer.convert_tokens_to_ids(["[PAD]", "[SEG]", "<image>"]) == [257, 258, 259]
    for own, other in (("model.language_model.embed_tokens.weight", "model.embed_tokens.weight"), ("lm_head.weight", "lm_head.weight")):
        assert len(state[own]) == 259
        assert torch.equal(state[own][:257], given[other][:257])
        torch.testing.assert_close(state[own][257], given[other][:257].mean(0))
        assert 0.01 < state[own][258].std() < 0.04 and not torch.equal(state[own][258], given[other][258])
    assert "lm_head.bias" not in state
    for name, tensor in given.items():
        if "embed_tokens" not in name and not name.startswith("lm_head"):
            assert torch.equal(state[name.replace("model.", "model.language_model.", 1)], tensor), name
    config = model.config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (END, END, 257)
    assert (config.image_token_id, config.region_token_id, config.mask_query_token_id) == (259, 260, 261)
    assert processor.max_length == 2048 and not model.training
    ids = torch.randint(0, 257, (1, 7))
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits - theirs.lm_head.bias
        logits = model.lm_head(model.model.language_model(input_ids=ids).last_hidden_state)
    torch.testing.assert_close(logits[..., :257], expected[..., :257], atol=1e-5, rtol=1e-4)


def test_head_bias_is_kept_on_request(phi):
    theirs, folder = phi
    model, _ = build_starting_point(folder, **SMALL, lm_head_bias=True)
    assert torch.equal(model.lm_head.bias[:257], theirs.lm_head.bias[:257])
    torch.testing.assert_close(model.lm_head.bias[257], theirs.lm_head.bias[:257].mean())
    assert model.lm_head.bias[258] == 0


def test_a_head_without_bias_cannot_be_given_one(tmp_path):
    save_language_model(tmp_path, "llama")
    message = refused(tmp_path, **SMALL, lm_head_bias=True)
    assert message == f"language_model {tmp_path}: its head has no bias, so lm_head_bias cannot be True; leave it out"


def test_phi_in_the_fused_layout_gives_the_same(phi, start, tmp_path):
    theirs, folder = phi
    heads, fused, state = theirs.config.num_attention_heads, {}, theirs.state_dict()
    for name, tensor in state.items():
        if ".q_proj." in name:
            parts = [state[name.replace("q_proj", part)].unflatten(0, (heads, -1)) for part in ("q_proj", "k_proj", "v_proj")]
            fused[name.replace("q_proj", "query_key_value")] = torch.stack(parts, dim=1).flatten(0, 2)
        elif not any(part in name for part in (".k_proj.", ".v_proj.")):
            fused[name] = tensor
    torch.save(fused | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    fields = json.loads((folder / "config.json").read_text())
    rotation = fields.pop("rope_parameters")
    fields |= {"rope_theta": rotation["rope_theta"], "partial_rotary_factor": rotation["partial_rotary_factor"], "rope_scaling": None}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    plain_tokenizer().save_pretrained(tmp_path)
    torch.manual_seed(0)
    model, processor = build_starting_point(tmp_path, **SMALL)
    expected = start[0].state_dict()
    assert not [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, expected[name])]
    inputs = processor(images=picture(0), categories=["cup"])
    with torch.no_grad():
        assert torch.equal(model(**inputs).class_queries_logits, start[0](**inputs).class_queries_logits)


def test_pad_token_of_the_language_model_is_kept_unless_it_is_the_end_token(tmp_path):
    theirs = save_language_model(tmp_path / "own", "llama", tokenizer_options={"pad_token": "<pad>"})
    model, processor = build_starting_point(tmp_path / "own", **SMALL)
    assert processor.tokenizer.pad_token == "<pad>" and model.config.pad_token_id == 257
    assert torch.equal(model.lm_head.weight[:258], theirs.lm_head.weight[:258])  # no row becomes a mean
    assert "[PAD]" not in processor.tokenizer.get_vocab()
    plain_tokenizer(pad_token="<|endoftext|>").save_pretrained(tmp_path / "own")
    model, processor = build_starting_point(tmp_path / "own", **SMALL)
    assert processor.tokenizer.pad_token == "[PAD]" and model.config.pad_token_id == 257 and model.config.eos_token_id == END


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "phi"])
def test_other_language_models_work_by_configuration_alone(tmp_path, family):
    theirs = save_language_model(tmp_path / "lm", family, dtype=torch.float16)
    model, processor = build_starting_point(tmp_path / "lm", **SMALL)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    embeddings = theirs.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[:257], embeddings[:257].float())
    tied = theirs.config.tie_word_embeddings
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied

    mixed = {
        "images": [picture(0), picture(1)],
        "categories": [["cup", "table"], None],
        "expressions": [["the red cup"], None],
        "regions": [None, [{"box": (5, 5, 40, 50)}]],
        "conversations": [None, QUESTION],
    }
    with torch.no_grad():
        left, right = (model(**processor(**mixed, padding_side=side)) for side in ("left", "right"))
        alone = model(**processor(images=picture(1), regions=[{"box": (5, 5, 40, 50)}]))
    for name in ("masks_queries_logits", "class_queries_logits", "referring_queries_logits", "region_queries_logits"):
        torch.testing.assert_close(left[name], right[name], atol=1e-4, rtol=0)
    torch.testing.assert_close(alone.region_queries_logits[0], right.region_queries_logits[2], atol=1e-4, rtol=0)

    question = processor(images=picture(0), conversations=QUESTION)
    answers = [model.generate(**question, max_new_tokens=4, do_sample=False, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*answers)

    answer = [*QUESTION, {"role": "assistant", "content": "A cup."}]
    gradients = []
    for inputs in (training_inputs(processor, "region"), processor(images=picture(0), conversations=answer)):
        for checkpointing in (False, True):
            model.train()
            set_checkpointing(model, checkpointing)
            torch.manual_seed(0)
            model(**inputs).loss.backward()
            gradients.append(model.get_input_embeddings().weight.grad)
            model.zero_grad()
    for plain, checkpointed in (gradients[:2], gradients[2:]):
        assert plain.abs().max() > 0
        torch.testing.assert_close(checkpointed, plain, atol=1e-5, rtol=1e-3)

    model.eval().save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, reader = PsalmForSegmentation.from_pretrained(tmp_path / "saved"), PsalmProcessor.from_pretrained(tmp_path / "saved")
    assert (again.lm_head.weight is again.get_input_embeddings().weight) == tied
    with torch.no_grad():
        expected = model(**processor(**mixed))
        assert torch.equal(again(**reader(**mixed)).class_queries_logits, expected.class_queries_logits)


def test_a_step_of_training_lowers_the_loss(start):
    model, processor = start
    inputs = training_inputs(processor, "category")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        torch.manual_seed(0)  # the same sampling points
        loss = model(**inputs).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[0]


def test_half_precision_leaves_the_decoders_in_float32(phi):
    model, _ = build_starting_point(phi[1], **SMALL, dtype="bfloat16")
    assert model.lm_head.weight.dtype == model.model.vision_tower.dtype == torch.bfloat16
    assert model.mask_decoder.norm.weight.dtype == model.model.pixel_decoder.level_embed.dtype == torch.float32


# Vision tower, pixel decoder, mask decoder

TOWERS = {  # the head counts and windows of the published ones, small
    "Swin-T": {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "Swin-B": {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [4, 8, 16, 32], "window_size": 12},
    "Swin-L": {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [6, 12, 24, 48], "window_size": 12},
}


def save_mask2former(folder, tower: str = "Swin-T", **sizes):
    """A random transformers Mask2Former with 5 query positions more than SMALL has queries."""
    vision = SwinConfig(image_size=128, out_features=["stage1", "stage2", "stage3", "stage4"], **TOWERS[tower])
    widths = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 48, "dim_feedforward": 80}
    settings = widths | {"encoder_layers": 2, "decoder_layers": 3, "num_attention_heads": 4, "num_queries": 11} | sizes
    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=vision, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    return model


def test_mask2former_without_the_norm_that_nothing_uses_is_complete(phi, tmp_path):
    save_mask2former(tmp_path / "m2f")
    whole, _ = build_starting_point(phi[1], mask2former=tmp_path / "m2f", **NO_DECODER)
    weights = load_file(tmp_path / "m2f" / "model.safetensors")
    unused = [name for name in weights if "swin.layernorm." in name]
    assert len(unused) == 2
    for name in unused:
        del weights[name]
    save_file(weights, tmp_path / "m2f" / "model.safetensors", metadata={"format": "pt"})
    model, _ = build_starting_point(phi[1], mask2former=tmp_path / "m2f", **NO_DECODER)
    tower = model.model.vision_tower.state_dict()
    for name, tensor in whole.model.vision_tower.state_dict().items():
        assert "swin.layernorm." in name or torch.equal(tower[name], tensor), name
    del weights["model.pixel_level_module.decoder.mask_projection.weight"]
    save_file(weights, tmp_path / "m2f" / "model.safetensors", metadata={"format": "pt"})
    assert "1 weights are missing, model.pixel_level_module.decoder.mask_pr" in refused(phi[1], mask2former=tmp_path / "m2f", **NO_DECODER)


@torch.no_grad()
def test_mask2former_of_transformers_gives_its_sizes_and_predicts_the_same(phi, tmp_path):
    other = save_mask2former(tmp_path / "m2f")
    model, _ = build_starting_point(phi[1], mask2former=tmp_path / "m2f", **NO_DECODER)
    config = model.config
    assert [getattr(config, name) for name in DECODER_SIZES] == [32, 4, 2, 48, 2, 80]
    assert config.vision_config.num_heads == [3, 6, 12, 24] and config.num_queries == 6
    pixels = torch.randn(1, 3, 128, 128)
    expected = other.model.pixel_level_module.encoder(pixels).feature_maps
    for mine, theirs in zip(model.model.vision_tower(pixels).feature_maps, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    features = model.get_image_features(pixels)
    theirs = other.model.pixel_level_module(pixels).decoder_hidden_states
    for mine, level in zip(features.multi_scale, theirs, strict=True):
        torch.testing.assert_close(mine, level, atol=1e-4, rtol=1e-4)
    assert model.model.pixel_decoder.lateral[0].bias.abs().max() == model.model.pixel_decoder.output[0].bias.abs().max() == 0

    # With the same features and query contents, our decoder predicts the same masks at every depth.
    decoder = other.model.transformer_module
    contents = decoder.queries_features.weight[None, : config.num_queries]
    decoder.queries_features = torch.nn.Embedding.from_pretrained(contents[0])
    decoder.queries_embedder = torch.nn.Embedding.from_pretrained(decoder.queries_embedder.weight[: config.num_queries])
    recorded = decoder(list(features.multi_scale), features.mask_features, output_hidden_states=True).masks_queries_logits
    mine = model.mask_decoder(contents, features.mask_features, features.multi_scale, RowLayout(torch.tensor([0]), 1))
    for (_, mask_logits), theirs in zip(mine, recorded, strict=True):
        torch.testing.assert_close(mask_logits, theirs, atol=1e-3, rtol=1e-3)


def detectron2_weights(model) -> dict[str, np.ndarray]:
    """Weights of a PSALM model under detectron2's names, with three query positions more and what PSALM has no place for."""
    lines = golden.recorded_file("mask2former_pickle_keys.tsv").read_text().splitlines()[1:]
    state, weights = model.state_dict(), {}
    for name, _, _, original_name in (line.split("\t") for line in lines):
        targets = list(split_fused(convert_original_name(original_name), torch.zeros(3), 1))
        if all(target in state for target in targets):
            weights[name] = torch.cat([state[target] for target in targets]).numpy()
    positions = "sem_seg_head.predictor.query_embed.weight"
    weights[positions] = np.concatenate([weights[positions], np.ones((3, model.config.hidden_dim), np.float32)])
    extra = {"sem_seg_head.predictor.class_embed.weight": np.zeros((2, 2), np.float32), "criterion.empty_weight": np.zeros(3, np.float32)}
    return weights | extra


@pytest.mark.golden
@pytest.mark.parametrize("tower", TOWERS)
def test_detectron2_pickle_gives_its_sizes_and_weights(phi, tmp_path, tower):
    source, _ = build_tiny(seed=1, vision_config={"model_type": "swin", "image_size": 128} | TOWERS[tower], num_queries=6)
    file = write_pickle(tmp_path, {"model": detectron2_weights(source), "__author__": "someone"})
    model, _ = build_starting_point(phi[1], mask2former=file, **NO_DECODER)
    for name in DECODER_SIZES:
        assert getattr(model.config, name) == getattr(source.config, name), name
    for name, value in TOWERS[tower].items():
        assert getattr(model.config.vision_config, name) == value, name
    expected, actual = source.state_dict(), model.state_dict()
    given = [name for name in expected if name.startswith(("model.vision_tower.", "model.pixel_decoder.", "mask_decoder."))]
    for name in given:
        if not any(part in name for part in ("category_head", "sentence_head", "region_head", "lateral.0.bias", "output.0.bias")):
            assert torch.equal(expected[name], actual[name]), name


@pytest.mark.parametrize("tower", ["Swin-T", "Swin-L"])
def test_backbone_alone_is_taken_from_a_classifier(phi, tmp_path, tower):
    other = SwinForImageClassification(SwinConfig(image_size=128, **TOWERS[tower])).eval()
    other.save_pretrained(tmp_path / "swin")
    model, processor = build_starting_point(phi[1], backbone=tmp_path / "swin", **NO_VISION)
    state = model.state_dict()
    for name, tensor in other.state_dict().items():
        if name.startswith(("swin.embeddings.", "swin.encoder.")):
            assert torch.equal(state[f"model.vision_tower.{name}"], tensor), name
    assert model.config.vision_config.num_heads == TOWERS[tower]["num_heads"]
    model.train()
    model(**training_inputs(processor, "category")).loss.backward()


def test_timm_convnext_is_a_backbone(phi, tmp_path):
    other = TimmBackbone(TimmBackboneConfig(backbone="convnext_atto", out_indices=[0, 1, 2, 3])).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    other.save_pretrained(tmp_path / "convnext")
    model, processor = build_starting_point(phi[1], backbone=tmp_path / "convnext", **NO_VISION)
    tower = model.model.vision_tower.state_dict()
    assert all(torch.equal(tower[name], tensor) for name, tensor in other.state_dict().items())
    inputs = training_inputs(processor, "category")
    model.save_pretrained(tmp_path / "saved")
    again = PsalmForSegmentation.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        torch.manual_seed(0)
        expected = model(**inputs)
        assert torch.equal(again(**inputs).masks_queries_logits, expected.masks_queries_logits)
    model.train()
    model(**inputs).loss.backward()


def test_timm_name_takes_the_levels_of_strides_4_to_32(phi, monkeypatch):
    """Its weights come from the network, so here the download is replaced by a random start."""
    asked = []

    def random_start(name, out_indices):
        asked.append((name, out_indices))
        return TimmBackbone(TimmBackboneConfig(backbone=name, out_indices=out_indices))

    monkeypatch.setattr(TimmBackbone, "from_pretrained", random_start)
    model, _ = build_starting_point(phi[1], backbone="timm/resnet18", **NO_VISION)
    assert asked == [("resnet18", [1, 2, 3, 4])]  # level 0 of a ResNet has stride 2
    assert model.model.vision_tower.channels == [64, 128, 256, 512]


def test_timm_tower_that_nobody_gives_starts_as_timm_starts_it(phi):
    vision = {"model_type": "timm_backbone", "backbone": "convnext_atto", "out_indices": [0, 1, 2, 3]}
    model, _ = build_starting_point(phi[1], **NO_VISION, vision_config=vision)
    stem = model.model.vision_tower.state_dict()["_backbone.stem_0.weight"]
    assert 0.015 < stem.std() < 0.025  # timm: truncated normal of 0.02


# Projector


def original_projector(model, prefix: str) -> dict[str, torch.Tensor]:
    names = {"conv1": "layer1.0.conv1", "norm1": "layer1.0.bn1", "conv2": "layer1.0.conv2", "norm2": "layer1.0.bn2"}
    names |= {"shortcut": "layer1.0.downsample.0", "shortcut_norm": "layer1.0.downsample.1"}
    weights = {}
    for name, tensor in model.model.projector.state_dict().items():
        part, _, rest = name.removeprefix("reduce.").partition(".")
        weights[f"{prefix}mm_projector.{names.get(part, 'fc')}.{rest}"] = tensor
    return weights


def projector_of(model) -> dict[str, torch.Tensor]:
    return model.model.projector.state_dict()


@pytest.mark.parametrize("prefix", ["model.", "", "base_model.model.model."])
def test_stage_1_projector_loads_with_any_prefix_and_tells_its_width(phi, tmp_path, prefix):
    source, _ = build_tiny(seed=1, projector_width=16)
    torch.save(original_projector(source, prefix), tmp_path / "mm_projector.bin")
    sizes = {name: value for name, value in SMALL.items() if name != "projector_width"}
    model, _ = build_starting_point(phi[1], projector=tmp_path / "mm_projector.bin", **sizes)
    assert model.config.projector_width == 16
    assert all(torch.equal(tensor, projector_of(model)[name]) for name, tensor in projector_of(source).items())


def test_of_a_stage_1_folder_only_the_projector_is_taken(phi, start, tmp_path):
    options = {"projector_type": "linear", "projector_stride": 1, "projector_positions": True}
    source, _ = build_tiny(seed=1, **options)
    source.save_pretrained(tmp_path)
    sizes = {name: value for name, value in SMALL.items() if not name.startswith("projector")}
    model, _ = build_starting_point(phi[1], projector=tmp_path, **sizes)
    assert {name: getattr(model.config, name) for name in options} == options
    assert all(torch.equal(tensor, projector_of(model)[name]) for name, tensor in projector_of(source).items())
    language = model.model.language_model.layers[0].mlp.fc1.weight
    assert torch.equal(language, phi[0].model.layers[0].mlp.fc1.weight)


@pytest.mark.golden
def test_released_projector_file_has_no_running_statistics_and_loads(phi, tmp_path):
    source, _ = build_tiny()
    complete = original_projector(source, "model.")
    recorded = [line.split("\t")[0] for line in golden.recorded_file("stage1_projector_keys.tsv").read_text().splitlines()[1:]]
    assert {name for name in complete if "running" not in name and "tracked" not in name} == set(recorded)
    torch.save({name: complete[name] + 1 for name in recorded}, tmp_path / "mm_projector.bin")
    model, _ = build_starting_point(phi[1], projector=tmp_path / "mm_projector.bin", **SMALL)
    assert torch.equal(model.model.projector.linear.bias, complete["model.mm_projector.fc.bias"] + 1)
    norm = model.model.projector.reduce.norm1
    assert norm.running_mean.abs().max() == 0 and norm.running_var.min() == norm.running_var.max() == 1


# What is refused


def refused(language_model, **options) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(ValueError) as error:
        build_starting_point(language_model, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_places_without_a_part_are_named(phi, tmp_path):
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").startswith(f"language_model {tmp_path / 'empty'}: no language model there")
    assert refused(phi[1], mask2former=tmp_path / "empty").startswith(f"mask2former {tmp_path / 'empty'}: no Mask2Former there")
    assert refused(phi[1], mask2former=phi[1]).endswith("(it is a phi model); give detectron2's .pkl, a folder or a Hub id")
    assert refused(phi[1], backbone=tmp_path / "empty").startswith(f"backbone {tmp_path / 'empty'}: no backbone")
    assert "AutoBackbone does not know phi" in refused(phi[1], backbone=phi[1])
    assert "timm cannot give its feature maps" in refused(phi[1], backbone="timm/no_such_model")
    assert refused(phi[1], projector=tmp_path / "empty").startswith(f"projector {tmp_path / 'empty'}: no projector there")
    assert "it is a phi model" in refused(phi[1], projector=phi[1])


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("bert", "is a bert model, an encoder; give a decoder-only"),
        ("t5", "is a t5 model, an encoder-decoder; give a decoder-only"),
        ("swin", "is a swin model, which is not a language model alone"),
        ("mamba", "is a mamba model, whose forward takes no position_ids"),
        ("opt", "its embeddings are 16 wide and its states 32"),
    ],
)
def test_other_kinds_of_language_models_are_refused(tmp_path, family, message):
    AutoConfig.for_model(family, **(TEXT | {"word_embed_proj_dim": 16} if family == "opt" else {})).save_pretrained(tmp_path)
    assert message in refused(tmp_path)


def test_language_model_that_sees_later_tokens_is_refused(tmp_path, monkeypatch):
    save_language_model(tmp_path, "llama")
    load = LlamaForCausalLM.from_pretrained

    def without_mask(*args, **kwargs):
        model, info = load(*args, **kwargs)
        for layer in model.model.layers:
            layer.self_attn.is_causal = False
        monkeypatch.setattr("transformers.models.llama.modeling_llama.create_causal_mask", lambda **_: None)
        return model, info

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", without_mask)
    assert "its states depend on later tokens" in refused(tmp_path, **SMALL)


def test_incomplete_language_models_are_refused(tmp_path):
    model = save_language_model(tmp_path, "llama")
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer there" in refused(tmp_path, **SMALL)
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    plain_tokenizer(eos_token=None).save_pretrained(tmp_path)
    assert "its tokenizer has no eos_token" in refused(tmp_path, **SMALL)
    plain_tokenizer().save_pretrained(tmp_path)
    assert "do not fit its config.json (missing model.layers.1.mlp.up_proj.weight)" in refused(tmp_path, **SMALL)


def test_parts_that_do_not_fit_are_refused(phi, tmp_path):
    folder = phi[1]
    assert "mask2former and backbone were both given" in refused(folder, mask2former="a", backbone="b")
    assert "PsalmConfig has no field colour" in refused(folder, colour="red")
    source, _ = build_tiny(text_config={"model_type": "phi", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1})
    torch.save(original_projector(source, ""), tmp_path / "narrow.bin")
    message = refused(folder, projector=tmp_path / "narrow.bin", **SMALL)
    assert "model.projector.linear.weight is (16, 32), this model needs (32, 32)" in message
    weights = original_projector(source, "")
    weights.pop("mm_projector.fc.bias")
    torch.save(weights | {"other": torch.zeros(2)}, tmp_path / "broken.bin")
    message = refused(folder, projector=tmp_path / "broken.bin", **SMALL)
    assert "missing: model.projector.linear.bias; unexpected: other" in message
    assert "fixes projector_width to 32, so it cannot be set" in refused(
        folder, projector=tmp_path / "narrow.bin", **(SMALL | {"projector_width": 64})
    )


def test_mask2formers_that_do_not_fit_are_refused(phi, tmp_path):
    save_mask2former(tmp_path / "m2f")
    options = {name: value for name, value in NO_DECODER.items() if name != "num_queries"}
    assert "has 11 query positions; set num_queries to at most that, not 100" in refused(phi[1], mask2former=tmp_path / "m2f", **options)
    assert "fixes hidden_dim to 32" in refused(phi[1], mask2former=tmp_path / "m2f", **NO_DECODER, hidden_dim=64)
    save_mask2former(tmp_path / "wide", mask_feature_size=64)
    assert "(32, 32, 64) must be equal" in refused(phi[1], mask2former=tmp_path / "wide", **NO_DECODER)
    file = write_pickle(tmp_path, {"model": {"backbone.stem.conv1.weight": np.zeros((4, 3, 7, 7), np.float32)}})
    assert "give a complete Mask2Former with a Swin backbone" in refused(phi[1], mask2former=file, **NO_DECODER)


def test_backbones_with_other_feature_maps_are_refused(phi, tmp_path):
    three = SwinConfig(image_size=64, embed_dim=16, depths=[1, 1, 1], num_heads=[1, 2, 4], window_size=4)
    SwinForImageClassification(three).save_pretrained(tmp_path / "three")
    assert "gives 4 feature maps of strides (4, 4, 8, 16)" in refused(phi[1], backbone=tmp_path / "three", **NO_VISION)
    vision = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [0, 1, 2, 3]}
    assert "vision_config: gives 4 feature maps of strides (2, 4, 8, 16)" in refused(phi[1], **NO_VISION, vision_config=vision)
