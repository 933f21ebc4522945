"""Files of checkpoints that are damaged, or that somebody made to read or run something else."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from psalm_hf.model.convert_psalm_checkpoint import (
    check_weights,
    load_original_checkpoint,
    read_detectron2_pickle,
    read_shapes,
    read_weights,
    read_weights_file,
)
from psalm_hf.model.modeling_psalm import PsalmForSegmentation
from psalm_hf.model.processing_psalm import PsalmProcessor
from psalm_hf.tiny import build_tiny

TENSORS = {"w": torch.ones(2), "v": torch.zeros(3)}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    save_file(TENSORS, tmp_path / "outside.safetensors")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file(TENSORS, folder / "model-1.safetensors")
    (folder / "model-2.safetensors").symlink_to(tmp_path / "outside.safetensors")
    return folder


def test_an_index_names_files_of_its_folder(folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, "model-1.safetensors")}))
    assert read_weights(folder).keys() == TENSORS.keys()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"w": "../outside.safetensors"}}, "'../outside.safetensors' lies outside of its folder"),
        ({"weight_map": {"w": "/tmp/outside.safetensors"}}, "'/tmp/outside.safetensors' lies outside of its folder"),
        ({"weight_map": {"w": "model-2.safetensors"}}, "'model-2.safetensors' lies outside of its folder"),
        ({"weight_map": {"w": "../../etc/passwd"}}, "expected the name of a .safetensors or .bin file"),
        ({"weight_map": {"w": "a\0.bin"}}, "lies outside of its folder"),
        ({"weight_map": {"w": 5}}, "w is in 5, expected the name of a .safetensors or .bin file"),
        ({"weight_map": [1]}, "expected 'weight_map'"),
        ({}, "expected 'weight_map'"),
        ([1], "expected a JSON object"),
    ],
    ids=str,
)
def test_an_index_leads_nowhere_else(index, message, folder):
    (folder / INDEX).write_text(json.dumps(index))
    for read in (read_weights, check_weights, read_shapes):
        with pytest.raises(ValueError, match=f"{INDEX}: {message}|{INDEX}: .*{message}"):
            read(folder)


def test_a_damaged_index_and_a_missing_shard_are_named(folder):
    (folder / INDEX).write_text("{")
    with pytest.raises(ValueError, match=f"{INDEX}: is no JSON that can be read"):
        check_weights(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "model-3.safetensors"}}))
    with pytest.raises(ValueError, match="model-3.safetensors: file is missing"):
        check_weights(folder)


def test_links_of_the_hub_cache_are_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots/abc").mkdir(parents=True)
    save_file(TENSORS, tmp_path / "blobs/123")
    (tmp_path / "snapshots/abc/model.safetensors").symlink_to("../../blobs/123")
    assert read_weights(tmp_path / "snapshots/abc").keys() == TENSORS.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": 5}, "'w' is int, expected names and plain tensors"),
        ({"w": [1.0]}, "'w' is list"),
        ({3: torch.ones(1)}, "3 is Tensor"),
        ([torch.ones(1)], "expected names and tensors, got list"),
        ({"w": torch.ones(1).expand(10**9)}, "'w' is Tensor"),
        ({"w": torch.eye(2).to_sparse()}, "'w' is Tensor"),
    ],
    ids=str,
)
def test_a_bin_holds_plain_tensors(content, message, tmp_path):
    torch.save(content, tmp_path / "pytorch_model.bin")
    for read in (read_weights, check_weights, read_shapes):
        with pytest.raises(ValueError, match=f"pytorch_model.bin: {message}"):
            read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"root:x:0:0\n", b"0" * 40 + b".", b"PK\3\4" + bytes(60), b"\x80\x02]q\x00."])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_damaged_files_are_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: "):
        read_weights_file(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: "):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    "array",
    [np.array([1, None], object), np.array(["a"]), np.zeros(1, "M8[s]"), np.zeros(1, "i4,f4")],
    ids=["object", "text", "date", "record"],
)
def test_arrays_of_a_mask2former_are_numbers(array, tmp_path):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": {"w": array}}, 2))
    with pytest.raises(ValueError, match="m.pkl: "):
        read_detectron2_pickle(tmp_path / "m.pkl")


def test_arrays_of_any_order_and_type_are_read(tmp_path):
    for array in (
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 2)),
        np.float16([1]),
    ):
        for protocol in (2, 4, 5):
            (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": {"w": array}, "iteration": np.int64(3)}, protocol))
            assert read_detectron2_pickle(tmp_path / "m.pkl")["w"].tolist() == array.tolist()


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"num_attention_heads": "x"}', '{"num_attention_heads": 2}'])
def test_an_original_folder_that_is_none_is_named(content, folder):
    (folder / "config.json").write_text(content)
    (folder / "model-1.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"^{folder}"):
        load_original_checkpoint(folder)


@pytest.fixture
def own(tmp_path):
    model, processor = build_tiny()
    model.save_pretrained(tmp_path / "own")
    processor.save_pretrained(tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"5", b'{"a"', b"\xff\xfe"], ids=repr)
def test_a_json_file_of_our_own_folders_is_named(name, content, own):
    (own / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=str(own)):
        PsalmProcessor.from_pretrained(own)


def test_weights_of_our_own_folders_stay_in_the_folder(own):
    (own / "model.safetensors").rename(own.parent / "elsewhere.safetensors")
    (own / "model.safetensors").symlink_to("../elsewhere.safetensors")
    with pytest.raises(ValueError, match="'model.safetensors' lies outside of its folder"):
        PsalmForSegmentation.from_pretrained(own)
    (own / "model.safetensors").unlink()
    (own / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match="'../elsewhere.safetensors' lies outside of its folder"):
        PsalmForSegmentation.from_pretrained(own)


def test_damaged_weights_of_our_own_folders_are_named(own):
    content = (own / "model.safetensors").read_bytes()
    (own / "model.safetensors").write_bytes(content[:-10])
    with pytest.raises(ValueError, match="model.safetensors: damaged safetensors file"):
        PsalmForSegmentation.from_pretrained(own)
