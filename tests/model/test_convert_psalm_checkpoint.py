"""Checkpoints of other origins: original folders in every file layout, round trips, start weights, and what is refused."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PhiConfig,
    PhiForCausalLM,
    SwinConfig,
)

from data_scripts import convert_checkpoint
from psalm_hf import PsalmConfig, PsalmForSegmentation, PsalmModel, PsalmProcessor
from psalm_hf.model.convert_psalm_checkpoint import (
    convert_detectron2,
    convert_original_name,
    convert_original_weights,
    load_language_model,
    load_mask2former,
    load_projector,
    read_detectron2_pickle,
    split_fused,
)
from psalm_hf.model.mask_decoder import RowLayout
from psalm_hf.tiny import build_tiny
from tests.conftest import GOLDEN
from tests.model import golden
from tests.model.test_modeling import picture


def sample_inputs(processor):
    return processor(images=picture(0), categories=["cup", "table"], expressions=["the red cup"], return_tensors="pt")


def assert_same_outputs(one, other, processor) -> None:
    """Bit for bit."""
    inputs = sample_inputs(processor)
    with torch.no_grad():
        expected, actual = one(**inputs), other(**inputs)
    for name in ("masks_queries_logits", "class_queries_logits", "referring_queries_logits"):
        assert torch.equal(expected[name], actual[name]), name


# ------------------------------------------------------------------------------------------------------- original PSALM folders


def copy_of(weights: dict) -> dict:
    return {name: tensor.clone() for name, tensor in weights.items()}


def write_safetensors(folder, weights):
    save_file(copy_of(weights), folder / "model.safetensors")


def write_bin(folder, weights):
    torch.save(weights, folder / "pytorch_model.bin")


def write_old_bin(folder, weights):
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def write_sharded(folder, weights, suffix):
    names = sorted(weights)
    shards = {f"shard-{number}{suffix}": names[number::2] for number in range(2)}
    for file, own in shards.items():
        part = {name: weights[name] for name in own}
        save_file(copy_of(part), folder / file) if suffix == ".safetensors" else torch.save(part, folder / file)
    stem = "model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin"
    index = {"weight_map": {name: file for file, own in shards.items() for name in own}}
    (folder / f"{stem}.index.json").write_text(json.dumps(index))


LAYOUTS = {
    "bin": write_bin,
    "bin of an old torch": write_old_bin,
    "safetensors": write_safetensors,
    "sharded bin": lambda folder, weights: write_sharded(folder, weights, ".bin"),
    "sharded safetensors": lambda folder, weights: write_sharded(folder, weights, ".safetensors"),
}


@pytest.fixture(scope="module")
def original_weights():
    return golden.original_weights("checkpoint_keys_tiny.tsv")


@pytest.fixture
def original(tmp_path, original_weights):
    """A function that writes an original folder with changed weights, in one of the layouts."""

    def write(weights=None, layout="bin"):
        folder = tmp_path / "original"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(golden.original_config(golden.index()["model"])))
        LAYOUTS[layout](folder, original_weights if weights is None else weights)
        return folder

    return write


@pytest.mark.golden
@pytest.mark.parametrize("layout", LAYOUTS)
def test_original_folder_loads_in_every_layout(original, original_weights, layout):
    model = PsalmForSegmentation.from_pretrained(original(layout=layout))
    assert torch.equal(model.model.mask_queries.weight, original_weights["seg_query"])
    assert torch.equal(model.mask_decoder.mask_head[4].bias, original_weights["predictor.mask_embed.layers.2.bias"])
    assert not model.training


@pytest.mark.golden
def test_recorded_key_list_is_the_recipes(original_weights):
    """The recording's checksums: what the other tests load is what the original loaded."""
    import hashlib

    lines = (GOLDEN / "checkpoint_keys_tiny.tsv").read_text().splitlines()
    column = lines[0].split("\t").index("sha256_16")
    for line in lines[1:]:
        name, digest = line.split("\t")[0], line.split("\t")[column]
        assert hashlib.sha256(original_weights[name].numpy().tobytes()).hexdigest()[:16] == digest, name


@pytest.mark.golden
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("predictor.decoder_norm.bias"), "missing keys: mask_decoder.norm.bias"),
        (lambda weights: weights.update(surprise=torch.zeros(1)), "unexpected keys: surprise"),
        (lambda weights: weights.update({"predictor.decoder_norm.bias": torch.zeros(3)}), r"mismatched keys: \('mask_decoder.norm.bias'"),
        (lambda weights: weights.pop("seg_query"), "original checkpoint without 'seg_query'"),
    ],
)
def test_incomplete_original_is_an_error_that_lists_the_keys(original, original_weights, change, message):
    weights = dict(original_weights)
    change(weights)
    with pytest.raises(ValueError, match=message):
        PsalmForSegmentation.from_pretrained(original(weights))


@pytest.mark.golden
def test_bin_with_executable_objects_is_refused(original, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = original()
    torch.save({"seg_query": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        PsalmForSegmentation.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.golden
@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_damaged_weights_name_the_file(original, content):
    folder = original()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ValueError, match="pytorch_model.bin: .*"):
        PsalmForSegmentation.from_pretrained(folder)


@pytest.mark.golden
def test_absent_shard_is_named(original):
    folder = original(layout="sharded bin")
    (folder / "shard-1.bin").unlink()
    with pytest.raises(ValueError, match="shard-1.bin: file is missing"):
        PsalmForSegmentation.from_pretrained(folder)


@pytest.mark.golden
def test_original_saved_and_loaded_again_is_bit_identical(original, tmp_path):
    model = PsalmForSegmentation.from_pretrained(original())
    model.save_pretrained(tmp_path / "ours")
    again = PsalmForSegmentation.from_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "psalm"
    expected, actual = model.state_dict(), again.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    case = golden.cases_with("in.input_ids", "out.inputs_embeds")[0]
    inputs = golden.forward_inputs(case, model.config)
    inputs.pop("labels")
    with torch.no_grad():
        assert torch.equal(model(**inputs).masks_queries_logits, again(**inputs).masks_queries_logits)


@pytest.mark.golden
def test_original_folder_loads_with_a_device_map(original, original_weights):
    model = PsalmForSegmentation.from_pretrained(original(), device_map="auto")
    assert torch.equal(model.model.mask_queries.weight, original_weights["seg_query"])


@pytest.mark.golden
def test_auto_classes_open_an_original_folder(original):
    folder = original()
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is PsalmConfig and config.num_queries == golden.index()["model"]["dec"]["queries"]
    model = AutoModel.from_pretrained(folder, dtype="bfloat16")
    assert type(model) is PsalmForSegmentation and model.model.mask_queries.weight.dtype == torch.bfloat16


@pytest.mark.golden
def test_convert_script_writes_a_complete_folder_or_none(original, tmp_path, capsys):
    folder, output = original(), tmp_path / "converted"
    assert convert_checkpoint.main([str(folder), str(output)]) == 2  # no vocabulary in the folder: the processor cannot be built
    assert not output.exists() and list(tmp_path.iterdir()) == [folder]
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        (folder / name).write_bytes((GOLDEN / "prompts" / name).read_bytes())
    assert convert_checkpoint.main([str(folder), str(output)]) == 0
    assert type(PsalmProcessor.from_pretrained(output)) is PsalmProcessor
    PsalmForSegmentation.from_pretrained(output)
    assert convert_checkpoint.main([str(folder), str(output)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_own_names_pass_the_key_mapping_unchanged():
    model, _ = build_tiny()
    state = model.state_dict()
    converted = convert_original_weights(state, num_text_heads=4)
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)


def test_fused_phi_projection_is_grouped_per_head():
    rows = torch.arange(2 * 3 * 2).float()[:, None]  # 2 heads, 3 parts, 2 rows each: head 0 has q 0 1, k 2 3, v 4 5
    parts = split_fused("layers.0.self_attn.query_key_value.weight", rows, num_text_heads=2)
    assert {name.split(".")[-2]: part.flatten().tolist() for name, part in parts.items()} == {
        "q_proj": [0, 1, 6, 7],
        "k_proj": [2, 3, 8, 9],
        "v_proj": [4, 5, 10, 11],
    }


def test_fused_swin_projection_is_stacked():
    parts = split_fused("blocks.0.attention.qkv.bias", torch.arange(6.0), num_text_heads=1)
    assert {name.split(".")[-2]: part.tolist() for name, part in parts.items()} == {"q_proj": [0, 1], "k_proj": [2, 3], "v_proj": [4, 5]}


# ------------------------------------------------------------------------------------------------------------------ own folders


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved tiny checkpoint, with model and processor."""
    model, processor = build_tiny()
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


def test_auto_classes_open_a_saved_folder(saved):
    folder, model, processor = saved
    assert type(AutoProcessor.from_pretrained(folder)) is PsalmProcessor
    assert type(AutoImageProcessor.from_pretrained(folder)).__name__ == "PsalmImageProcessor"
    assert_same_outputs(model, AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder))


def test_device_map_auto_gives_the_same_outputs(saved):
    folder, model, processor = saved
    assert_same_outputs(model, PsalmForSegmentation.from_pretrained(folder, device_map="auto"), processor)


def test_base_model_loads_from_a_checkpoint_with_heads(saved):
    folder, model, _ = saved
    base = PsalmModel.from_pretrained(folder)
    assert torch.equal(base.mask_queries.weight, model.model.mask_queries.weight)


def test_bfloat16_keeps_masks_in_float32_and_stays_close(saved):
    folder, model, processor = saved
    half = PsalmForSegmentation.from_pretrained(folder, dtype="bfloat16")
    assert half.model.language_model.dtype == torch.bfloat16
    assert half.mask_decoder.norm.weight.dtype == half.model.pixel_decoder.level_embed.dtype == torch.float32
    inputs = sample_inputs(processor)
    with torch.no_grad():
        expected, actual = model(**inputs), half(**inputs)
        cast = copy.deepcopy(model).to(torch.bfloat16)(**inputs)  # everything cast by hand also runs
    pair = torch.stack([actual.masks_queries_logits.flatten(), expected.masks_queries_logits.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.98
    assert torch.isfinite(cast.masks_queries_logits).all()


def test_saved_folder_with_a_missing_key_is_refused(saved, tmp_path):
    _, model, _ = saved
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "mask_decoder.norm.bias"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="missing keys: mask_decoder.norm.bias"):
        PsalmForSegmentation.from_pretrained(tmp_path)


REMOTE = """
import sys
sys.modules["psalm_hf"] = None  # any import of it fails
import numpy as np, torch
from transformers import AutoModel, AutoProcessor
folder, output = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
inputs = processor(images=image, categories=["cup", "table"], expressions=["the red cup"], return_tensors="pt")
with torch.no_grad():
    torch.save(model(**inputs).masks_queries_logits, output)
"""


def test_pushed_folder_runs_where_psalm_hf_cannot_be_imported(saved, tmp_path):
    folder, model, processor = saved
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", REMOTE, str(folder), str(tmp_path / "masks.pt")]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    with torch.no_grad():
        expected = model(**sample_inputs(processor)).masks_queries_logits
    # not bit for bit: the other process may use another number of threads
    torch.testing.assert_close(torch.load(tmp_path / "masks.pt"), expected, atol=1e-5, rtol=0)


# --------------------------------------------------------------------------------------------------------------- start weights


@pytest.fixture
def mask2former(tmp_path):
    """A random transformers Mask2Former whose sizes fit a tiny PSALM with 4 encoder heads, and that PSALM."""
    model, _ = build_tiny()
    config = model.config
    vision = SwinConfig(**(config.vision_config.to_dict() | {"out_features": config.vision_config.out_features}))
    other = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=vision,
            feature_size=config.hidden_dim,
            mask_feature_size=config.hidden_dim,
            hidden_dim=config.hidden_dim,
            encoder_feedforward_dim=config.encoder_ffn_dim,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers + 1,
            dim_feedforward=config.decoder_ffn_dim,
            num_attention_heads=config.num_heads,
            num_queries=config.num_queries + 5,
        )
    )
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_(std=0.1)
    other.save_pretrained(tmp_path / "mask2former")
    return model, other.eval(), tmp_path / "mask2former"


@torch.no_grad()
def test_mask2former_folder_gives_its_vision_tower_and_decoder(mask2former):
    model, other, folder = mask2former
    load_mask2former(model, folder)
    pixels = torch.randn(1, 3, 128, 128)
    expected = other.model.pixel_level_module.encoder(pixels).feature_maps
    for mine, theirs in zip(model.model.vision_tower(pixels).feature_maps, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    features = model.get_image_features(pixels)
    theirs = other.model.pixel_level_module(pixels).decoder_hidden_states
    for mine, level in zip(features.multi_scale, theirs, strict=True):
        torch.testing.assert_close(mine, level, atol=1e-4, rtol=1e-4)
    assert model.model.pixel_decoder.lateral[0].bias.abs().max() == 0

    # With the same features and query contents, our decoder predicts the same masks at every depth.
    count = model.config.num_queries
    contents = other.model.transformer_module.queries_features.weight[None, :count]
    decoder = other.model.transformer_module
    decoder.queries_features = torch.nn.Embedding.from_pretrained(contents[0])
    decoder.queries_embedder = torch.nn.Embedding.from_pretrained(decoder.queries_embedder.weight[:count])
    recorded = decoder(list(features.multi_scale), features.mask_features, output_hidden_states=True).masks_queries_logits
    mine = model.mask_decoder(contents, features.mask_features, features.multi_scale, RowLayout(torch.tensor([0]), 1))
    for (_, mask_logits), theirs in zip(mine, recorded, strict=True):
        torch.testing.assert_close(mask_logits, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.golden
def test_detectron2_names_map_as_recorded():
    lines = golden.recorded_file("mask2former_pickle_keys.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    shapes = {row[0]: [int(side) for side in row[1].split(",")] if row[1] != "-" else [] for row in rows}
    given = {name: torch.zeros(shape) for name, shape in shapes.items()}
    expected = set()
    for name, _, _, original_name in rows:
        if original_name != "(ignored)":
            expected |= convert_original_weights({original_name: given[name]}, num_text_heads=1).keys()
    assert convert_detectron2(given).keys() == expected


def write_pickle(folder, content):
    file = folder / "model_final.pkl"
    file.write_bytes(pickle.dumps(content))
    return file


def detectron2_weights(model) -> dict[str, np.ndarray]:
    """Weights of a PSALM model under detectron2's names, with extra queries; biases that it does not have are left out."""
    text = golden.recorded_file("mask2former_pickle_keys.tsv").read_text().splitlines()[1:]
    state, weights = model.state_dict(), {}
    for name, _, _, original_name in (line.split("\t") for line in text):
        targets = list(split_fused(convert_original_name(original_name), torch.zeros(3), 1))
        if all(target in state for target in targets):
            weights[name] = torch.cat([state[target] for target in targets]).numpy()
    return weights


@pytest.mark.golden
def test_detectron2_pickle_fills_the_model(tmp_path):
    source, _ = build_tiny(seed=1)
    target, _ = build_tiny(seed=2)
    weights = detectron2_weights(source)
    weights["sem_seg_head.predictor.query_embed.weight"] = np.concatenate(
        [weights["sem_seg_head.predictor.query_embed.weight"], np.ones((3, source.config.hidden_dim), np.float32)]
    )
    weights["sem_seg_head.predictor.class_embed.weight"] = np.zeros((2, 2), np.float32)
    weights["criterion.empty_weight"] = np.zeros(3, np.float32)
    load_mask2former(target, write_pickle(tmp_path, {"model": weights, "__author__": "someone"}))
    expected, actual = source.state_dict(), target.state_dict()
    for name in expected:
        if name.startswith(("model.vision_tower.", "model.pixel_decoder.layers.", "mask_decoder.layers.", "mask_decoder.mask_head.")):
            assert torch.equal(expected[name], actual[name]), name
    assert torch.equal(actual["mask_decoder.query_positions.weight"], expected["mask_decoder.query_positions.weight"])
    weights.pop("backbone.patch_embed.norm.weight")
    with pytest.raises(ValueError, match="missing: model.vision_tower.swin.embeddings.norm.weight"):
        load_mask2former(target, write_pickle(tmp_path, {"model": weights}))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_in_every_pickle_protocol(tmp_path, protocol):
    file = tmp_path / "arrays.pkl"
    file.write_bytes(pickle.dumps({"model": {"a": np.arange(6.0).reshape(2, 3)}}, protocol=protocol))
    assert read_detectron2_pickle(file)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": subprocess.Popen}}, "asks for subprocess.Popen"),
        ({"weights": {}}, "expected a dictionary with 'model'"),
        ({"model": {"a": "text"}}, "expected a dictionary with 'model'"),
    ],
)
def test_pickle_with_anything_but_arrays_is_refused(tmp_path, content, message):
    model, _ = build_tiny()
    with pytest.raises(ValueError, match=message):
        load_mask2former(model, write_pickle(tmp_path, content))


@pytest.fixture
def phi(tmp_path):
    """A random Phi with a larger vocabulary than a tiny PSALM, and that PSALM."""
    model, _ = build_tiny()
    config = PhiConfig(**(model.config.text_config.to_dict() | {"vocab_size": model.config.text_config.vocab_size + 9}))
    other = PhiForCausalLM(config).eval()
    other.save_pretrained(tmp_path / "phi")
    return model, other, tmp_path / "phi"


def test_phi_folder_gives_the_language_model(phi):
    model, other, folder = phi
    own = model.get_input_embeddings().weight.detach().clone()
    load_language_model(model, folder)
    pad = model.config.text_config.pad_token_id
    embeddings, theirs = model.get_input_embeddings().weight, other.get_input_embeddings().weight
    assert torch.equal(embeddings[:pad], theirs[:pad])
    torch.testing.assert_close(embeddings[pad], theirs[:pad].mean(0))
    assert torch.equal(embeddings[pad + 1 :], own[pad + 1 :])  # [SEG] keeps its initialisation
    ids = torch.randint(0, pad, (1, 7))
    with torch.no_grad():
        hidden = model.model.language_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(hidden, other.model(input_ids=ids).last_hidden_state)
        expected = other(input_ids=ids).logits - other.lm_head.bias  # the head's bias is dropped
        torch.testing.assert_close(model.lm_head(hidden)[..., :pad], expected[..., :pad], atol=1e-5, rtol=1e-4)


def test_phi_in_the_fused_layout_gives_the_same(phi, tmp_path):
    model, other, folder = phi
    load_language_model(model, folder)
    heads, fused = model.config.text_config.num_attention_heads, {}
    state = other.state_dict()
    for name, tensor in state.items():
        if ".q_proj." in name:
            parts = [state[name.replace("q_proj", part)].unflatten(0, (heads, -1)) for part in ("q_proj", "k_proj", "v_proj")]
            fused[name.replace("q_proj", "query_key_value")] = torch.stack(parts, dim=1).flatten(0, 2)
        elif not any(part in name for part in (".k_proj.", ".v_proj.")):
            fused[name] = tensor
    (tmp_path / "old").mkdir()
    torch.save(fused, tmp_path / "old" / "pytorch_model.bin")
    again, _ = build_tiny()
    load_language_model(again, tmp_path / "old")
    expected, actual = model.state_dict(), again.state_dict()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_language_weights_of_another_size_are_refused(phi, tmp_path):
    model, _, _ = phi
    PhiForCausalLM(PhiConfig(**(model.config.text_config.to_dict() | {"intermediate_size": 80}))).save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"shape: model.language_model.layers.0.mlp.fc1.weight is \(80, 32\), the model has \(64, 32\)"):
        load_language_model(model, tmp_path / "wide")


def original_projector(model, prefix: str) -> dict[str, torch.Tensor]:
    names = {"conv1": "layer1.0.conv1", "norm1": "layer1.0.bn1", "conv2": "layer1.0.conv2", "norm2": "layer1.0.bn2"}
    names |= {"shortcut": "layer1.0.downsample.0", "shortcut_norm": "layer1.0.downsample.1"}
    weights = {}
    for name, tensor in model.model.projector.state_dict().items():
        part, _, rest = name.removeprefix("reduce.").partition(".")
        weights[f"{prefix}mm_projector.{names.get(part, 'fc')}.{rest}"] = tensor
    return weights


@pytest.mark.parametrize("prefix", ["model.", "", "base_model.model.model."])
def test_stage_1_projector_loads_with_any_prefix(tmp_path, prefix):
    source, _ = build_tiny(seed=1)
    target, _ = build_tiny(seed=2)
    torch.save(original_projector(source, prefix), tmp_path / "mm_projector.bin")
    load_projector(target, tmp_path / "mm_projector.bin")
    expected, actual = source.model.projector.state_dict(), target.model.projector.state_dict()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.golden
def test_released_projector_file_has_no_running_statistics_and_loads(tmp_path):
    model, _ = build_tiny()
    complete = original_projector(model, "model.")
    recorded = [line.split("\t")[0] for line in golden.recorded_file("stage1_projector_keys.tsv").read_text().splitlines()[1:]]
    assert {name for name in complete if "running" not in name and "tracked" not in name} == set(recorded)
    torch.save({name: complete[name] + 1 for name in recorded}, tmp_path / "mm_projector.bin")
    before = model.model.projector.reduce.norm1.running_mean.clone()
    load_projector(model, tmp_path / "mm_projector.bin")
    assert torch.equal(model.model.projector.linear.bias, complete["model.mm_projector.fc.bias"])
    assert torch.equal(model.model.projector.reduce.norm1.running_mean, before)


def test_incomplete_projector_is_refused(tmp_path):
    model, _ = build_tiny()
    weights = original_projector(model, "model.")
    weights.pop("model.mm_projector.fc.bias")
    weights["other"] = torch.zeros(2)
    torch.save(weights, tmp_path / "mm_projector.bin")
    with pytest.raises(ValueError, match="missing: model.projector.linear.bias(.|\n)*unexpected: other"):
        load_projector(model, tmp_path / "mm_projector.bin")
