"""A language model in 8 or 4 bits: what is refused, which layers are meant, and, where bitsandbytes is installed, that it trains."""

from importlib.util import find_spec

import pytest
import torch
from transformers.quantizers.quantizers_utils import should_convert_module

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.data.collator import PsalmCollator
from psalm_hf.data.mixture import OneTaskPerBatch, TaskSources
from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.tiny import build_tiny
from psalm_hf.training import quantization
from psalm_hf.training.arguments import MixtureArguments, PsalmTrainingArguments
from psalm_hf.training.lora import LoraOptions, add_adapters, load_adapter, merge_adapter
from psalm_hf.training.quantization import OTHER_MODULES, check_bits, quantization_options
from psalm_hf.training.trainer import PsalmTrainer

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")

# bitsandbytes 0.50 fails on CPU where a layer has fewer inputs than a block of 4-bit weights, 64.
WIDER = {
    "model_type": "phi",
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize("bits", [16, "8", True, 0])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(ValueError, match="expected 8 or 4, or nothing for full precision"):
        check_bits(bits)


def test_a_missing_bitsandbytes_is_told_before_any_work(monkeypatch):
    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match="language_model_bits: 4 needs bitsandbytes.*pip install -U bitsandbytes, or leave"):
        MixtureArguments(checkpoint="somewhere", weights={}, batch_sizes={}, lora={"rank": 4}, language_model_bits=4)
    check_bits(None)


def test_quantised_weights_without_adapters_are_refused(monkeypatch):
    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: True)
    with pytest.raises(ValueError, match="quantised weights do not learn; give lora"):
        MixtureArguments(checkpoint="somewhere", weights={}, batch_sizes={}, language_model_bits=8)


def test_linear_layers_of_the_language_model_are_meant_and_no_others():
    model, _ = build_tiny()
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    meant = [name for name in linear if should_convert_module(name, [OTHER_MODULES])]
    assert meant == [name for name in linear if name.startswith("model.language_model.")]
    assert len(meant) == 12 and "lm_head" in linear


def test_full_precision_has_no_options(tmp_path):
    assert quantization_options(None, PsalmTrainingArguments(output_dir=str(tmp_path), use_cpu=True)) == {}


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "kind"), [(8, torch.int8), (4, torch.uint8)])
def test_a_quantised_language_model_learns_through_adapters(tmp_path, bits, kind):
    model, processor = build_tiny(text_config=WIDER)
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    training = PsalmTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=2, use_cpu=True, report_to="none", learning_rate=1e-3, disable_tqdm=True
    )
    options = quantization_options(bits, training)
    quantised = PsalmForSegmentation.from_pretrained(tmp_path / "base", **options)
    dtypes = {name: parameter.dtype for name, parameter in quantised.named_parameters()}
    assert {name for name, dtype in dtypes.items() if dtype == kind} == {
        name for name in dtypes if name.startswith("model.language_model.layers.") and name.endswith(".weight") and "norm" not in name
    }
    assert set(dtypes.values()) == {kind, torch.float32}

    run = PsalmTrainer(
        model=add_adapters(quantised, processor, LoraOptions(rank=4)),
        args=training,
        train_dataset=TaskSources({task: ShapesStream(task=task, prompts_per_image=2) for task in ("panoptic", "conversation")}),
        batch_sampler=OneTaskPerBatch({"panoptic": 1, "conversation": 1}, {"panoptic": 1, "conversation": 1}, 2, seed=0),
        data_collator=PsalmCollator(processor),
        processing_class=processor,
    )
    run.train()
    run.save_model()
    factors = [parameter for name, parameter in run.model.named_parameters() if "lora_B" in name]
    assert all(factor.abs().max() > 0 for factor in factors)

    sample = PsalmCollator(processor)([ShapesStream(task="panoptic", prompts_per_image=2)[5]])
    sample = {name: value for name, value in sample.items() if name not in ("mask_labels", "class_labels")}
    with torch.inference_mode():
        expected = run.model.eval()(**sample).masks_queries_logits
        assert torch.equal(load_adapter(tmp_path / "run", **options)(**sample).masks_queries_logits, expected)
        merge_adapter(tmp_path / "run", tmp_path / "merged")
        merged = PsalmForSegmentation.from_pretrained(tmp_path / "merged")(**sample).masks_queries_logits
    # Merged into the full weights: near, not equal.
    assert not torch.equal(merged, expected)
    assert torch.corrcoef(torch.stack((merged.flatten(), expected.flatten())))[0, 1] > 0.9
    assert PsalmProcessor.from_pretrained(tmp_path / "merged").tokenizer.convert_tokens_to_ids("[SEG]") == 258
