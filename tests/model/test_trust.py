"""Configurations that strangers wrote: nothing is built from a place outside of the checkpoint unless the caller trusts it."""

import json

import pytest
import timm
from transformers import AutoConfig, AutoModel

from psalm_hf import PsalmConfig, PsalmForSegmentation
from psalm_hf.model.starting_point import read_backbone
from psalm_hf.tiny import build_tiny

ELSEWHERE = ["hf-hub:me/tower", "hf_hub:me/tower", "HF-HUB:me/tower", " hf-hub:me/tower", "hf\n-hub:me/tower", "local-dir:/etc"]


class Asked(BaseException):
    """timm was asked for a model."""


@pytest.fixture
def asked(monkeypatch):
    def create_model(name, **_):
        raise Asked(name)

    monkeypatch.setattr(timm, "create_model", create_model)


def tower(name):
    return {"model_type": "timm_backbone", "backbone": name, "out_indices": [0, 1, 2, 3]}


@pytest.fixture
def folder(tmp_path):
    build_tiny()[0].save_pretrained(tmp_path)

    def with_part(**parts):
        fields = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(fields | parts))
        return tmp_path

    return with_part


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_tower_that_timm_reads_from_elsewhere_needs_trust(name, folder, asked):
    path = folder(vision_config=tower(name))
    loaders = (
        PsalmForSegmentation.from_pretrained,
        AutoModel.from_pretrained,
        lambda path: PsalmForSegmentation(PsalmConfig.from_pretrained(path)),
        lambda path: AutoModel.from_config(AutoConfig.from_pretrained(path)),
    )
    for load in loaders:
        with pytest.raises(ValueError, match=r"timm_backbone\.backbone: .*read from elsewhere.*trust_remote_code=True"):
            load(path)
    with pytest.raises(Asked):
        PsalmForSegmentation.from_pretrained(path, trust_remote_code=True)
    with pytest.raises(ValueError, match="read from elsewhere"):  # trust ends with the call
        PsalmForSegmentation.from_pretrained(path)


def test_a_tower_of_timm_itself_needs_no_trust(folder, asked):
    with pytest.raises(Asked, match="convnext_atto"):
        PsalmForSegmentation.from_pretrained(folder(vision_config=tower("convnext_atto")))


def test_a_tower_deep_in_a_language_model_needs_trust_too(folder, asked):
    text = {"model_type": "llava", "vision_config": {"model_type": "timm_wrapper", "architecture": "hf-hub:me/tower"}, "vocab_size": 9}
    with pytest.raises(ValueError, match="architecture: 'hf-hub:me/tower' is not in the checkpoint"):
        PsalmForSegmentation.from_pretrained(folder(text_config=text))


def test_a_backbone_to_start_from_is_none_from_elsewhere(tmp_path, asked):
    (tmp_path / "config.json").write_text(json.dumps(tower("hf-hub:me/tower")))
    for source in (tmp_path, "timm/hf-hub:me/tower"):
        with pytest.raises(ValueError, match="read from elsewhere"):
            read_backbone(source)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_kernels_of_the_hub_are_named_by_the_caller_only(part, key, folder):
    fields = getattr(build_tiny()[0].config, part).to_dict()
    with pytest.raises(ValueError, match=rf"{key}: 'me/kernels' is code on the Hub"):
        PsalmForSegmentation.from_pretrained(folder(**{part: fields | {key: "me/kernels"}}))
