"""A model that FSDP2 has divided, here among one process: what is saved, and the card, speak of its own class."""

import json

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig
from transformers.initialization import no_tie_weights

from psalm_hf.model.modeling_psalm import PsalmForSegmentation, _check_ties, in_plain_class, plain_class
from psalm_hf.tiny import build_tiny
from psalm_hf.training.model_card import WholePushes, describe_parts


@pytest.fixture(scope="module")
def divided():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model, _ = build_tiny(tie_word_embeddings=True)
    mesh = init_device_mesh("cpu", (1,))
    for part in (model.model.projector, model.mask_decoder.layers[0], model):
        fully_shard(part, mesh=mesh)
    yield model
    dist.destroy_process_group()


def test_a_divided_model_is_of_a_class_of_torch_but_within_saving(divided):
    assert isinstance(divided, FSDPModule) and type(divided) is not PsalmForSegmentation
    assert plain_class(divided) is PsalmForSegmentation
    with pytest.raises(KeyError), in_plain_class(divided):
        assert type(divided) is PsalmForSegmentation
        raise KeyError
    assert isinstance(divided, FSDPModule)


def test_the_code_of_a_push_is_that_of_the_model(divided, tmp_path):
    class Arguments:
        output_dir = tmp_path

    class State:
        is_world_process_zero = True

    WholePushes(lambda: None).on_push_begin(Arguments, State, None, divided)
    files = {path.name for path in tmp_path.iterdir()}
    assert "modeling_psalm.py" in files and not any("fsdp" in name for name in files)


def test_a_saved_folder_names_the_class_of_the_model_and_stores_tied_weights_once(divided, tmp_path):
    whole, _ = build_tiny(tie_word_embeddings=True)
    whole.save_pretrained(tmp_path / "whole")
    gathered = {name: (x.full_tensor() if isinstance(x, DTensor) else x).clone() for name, x in divided.state_dict().items()}
    divided.save_pretrained(tmp_path / "divided", state_dict=gathered)
    names = [{path.name for path in (tmp_path / folder).iterdir()} for folder in ("whole", "divided")]
    assert names[0] == names[1]
    auto_map = json.loads((tmp_path / "divided" / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "modeling_psalm.PsalmForSegmentation"
    weights = [load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "divided")]
    assert weights[0].keys() == weights[1].keys() and "lm_head.weight" not in weights[1]


def test_weights_that_are_no_longer_tied_are_both_saved(tmp_path):
    model, _ = build_tiny(tie_word_embeddings=True)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight + 1)
    model.save_pretrained(tmp_path)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["lm_head.weight"], model.lm_head.weight)


@pytest.mark.parametrize(("processes", "is_tied"), [(1, False), (2, True)])
def test_weights_are_tied_before_they_are_divided(processes, is_tied):
    with no_tie_weights():  # as in `from_pretrained`
        model, _ = build_tiny(tie_word_embeddings=True)
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    model = PsalmForSegmentation.maybe_distribute_model(model, DistributedConfig(fsdp_size=processes), None)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == is_tied


def test_a_divided_model_whose_ties_were_not_kept_is_refused():
    model, _ = build_tiny(tie_word_embeddings=True)
    model._is_fsdp_managed_module = True  # as `from_pretrained` leaves it
    _check_ties(model, "folder")
    model.all_tied_weights_keys.clear()  # of two weights that differ
    with pytest.raises(ValueError, match="folder: config.json ties lm_head.weight to model.language_model.embed_tokens.weight, but"):
        _check_ties(model, "folder")


def test_the_card_calls_divided_parts_by_their_own_names(divided):
    whole, _ = build_tiny(tie_word_embeddings=True)
    assert [part.kind for part in describe_parts(divided)] == [part.kind for part in describe_parts(whole)]
