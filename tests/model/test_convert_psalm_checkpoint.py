"""Checkpoints of other origins: original folders in every file layout, round trips, and what is refused."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
)

from psalm_hf import PsalmConfig, PsalmForSegmentation, PsalmModel, PsalmProcessor
from psalm_hf.cli import convert
from psalm_hf.model.convert_psalm_checkpoint import (
    convert_original_weights,
    detectron2_as_original,
    read_detectron2_pickle,
    split_fused,
)
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


def mapped_files() -> str:
    maps = Path("/proc/self/maps")
    return maps.read_text() if maps.is_file() else pytest.skip("files in memory are listed on Linux alone")


@pytest.mark.golden
@pytest.mark.parametrize("layout", LAYOUTS)
def test_converted_weights_of_an_original_folder_keep_no_file_in_memory(original, original_weights, layout):
    folder = original({name: x.half() if x.is_floating_point() else x for name, x in original_weights.items()}, layout)
    model = PsalmForSegmentation.from_pretrained(folder, dtype="bfloat16")
    assert str(folder) not in mapped_files()
    assert torch.equal(model.model.mask_queries.weight, original_weights["seg_query"].half().bfloat16())
    # Not rounded twice: these stay in float32.
    assert torch.equal(model.mask_decoder.mask_head[4].bias, original_weights["predictor.mask_embed.layers.2.bias"].half().float())
    assert model.model.pixel_decoder.level_embed.dtype == torch.float32


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
    assert convert.main([str(folder), str(output)]) == 2  # no vocabulary in the folder: the processor cannot be built
    assert not output.exists() and list(tmp_path.iterdir()) == [folder]
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        (folder / name).write_bytes((GOLDEN / "prompts" / name).read_bytes())
    assert convert.main([str(folder), str(output)]) == 0
    assert type(PsalmProcessor.from_pretrained(output)) is PsalmProcessor
    PsalmForSegmentation.from_pretrained(output)
    assert convert.main([str(folder), str(output)]) == 2
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


def test_converted_weights_of_a_saved_folder_keep_no_file_in_memory(saved):
    folder, model, _ = saved
    half = PsalmForSegmentation.from_pretrained(folder, dtype="bfloat16")
    assert str(folder) not in mapped_files()
    for name, weight in half.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name].to(weight.dtype)), name


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
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
folder, output = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)).__name__ == type(model).__name__
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


# ------------------------------------------------------------------------------------------------------------------ Mask2Former


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
    assert convert_original_weights(detectron2_as_original(given), num_text_heads=1).keys() == expected


def write_pickle(folder, content):
    file = folder / "model_final.pkl"
    file.write_bytes(pickle.dumps(content))
    return file


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
    with pytest.raises(ValueError, match=message):
        read_detectron2_pickle(write_pickle(tmp_path, content))


class Asks:
    """Pickles into a call of a function of numpy."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


NEW_ARRAY = np.zeros(3, dtype=np.float32).__reduce__()[0]  # numpy's _reconstruct
SHARED = np.zeros(10_000, dtype=np.float32)
BOMBS = {
    "an array of any size": (Asks(NEW_ARRAY, np.ndarray, (2**60,), b"b"), "expected a dictionary with 'model'"),
    "a view that repeats one byte": (
        Asks(np.ndarray, (2**40,), np.dtype("u1"), b"x", 0, (0,)),
        "(expected a dictionary with 'model'|not a readable pickle)",
    ),
    "objects": (np.array([{}], dtype=object), "array of type 'O8'"),
    "one array often": ([SHARED] * 100, "they repeat each other"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("protocol", (2, 4))
def test_small_pickles_of_large_arrays_are_refused(name, protocol, tmp_path):
    content, message = BOMBS[name]
    entries = {str(index): one for index, one in enumerate(content)} if isinstance(content, list) else {"a": content}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": entries}, protocol=protocol))
    with pytest.raises(ValueError, match=rf"model\.pkl.*{message}"):
        read_detectron2_pickle(tmp_path / "model.pkl")


def test_arrays_of_other_orders_and_scalars_are_read(tmp_path):
    values = np.arange(6, dtype=">f4").reshape(2, 3)
    content = {"model": {"a": values, "b": np.asfortranarray(values), "c": np.array(3.0)}, "scalar": np.float64(2.0)}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        read = read_detectron2_pickle(tmp_path / "model.pkl")
        assert read["a"].tolist() == read["b"].tolist() == values.tolist() and read["c"].item() == 3 and read["a"].dtype == torch.float32
