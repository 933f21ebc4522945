"""LoRA: where adapters go, what learns beside them, and that an adapter folder, a merged folder and a resumed run give the same model."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.cli import convert
from psalm_hf.data.collator import PsalmCollator
from psalm_hf.data.mixture import OneTaskPerBatch, TaskSources
from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.model.compatibility import READS_ADAPTERS, set_checkpointing
from psalm_hf.tiny import build_tiny
from psalm_hf.training.arguments import MixtureArguments, PsalmTrainingArguments
from psalm_hf.training.lora import (
    LoraOptions,
    add_adapters,
    load_adapter,
    merge_adapter,
    new_modules,
    plain_name,
    read_lora,
    target_pattern,
)
from psalm_hf.training.stages import check_adapters, merged_folder
from psalm_hf.training.trainer import PsalmTrainer
from tests.training.test_trainer import StopAt

ROOT = Path(__file__).parents[2]
SIZES = {"panoptic": 1, "referring": 2, "interactive": 1, "conversation": 2}
WIDTHS = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {"model_type": "llama", **WIDTHS, "num_key_value_heads": 2, "max_position_embeddings": 2048}
GPT2 = {"model_type": "gpt2", "vocab_size": 259, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048}
NEW = ("projector", "pixel_decoder", "mask_queries", "query_projection", "category_projection", "sentence_projection", "region_projection")
SEG = 258  # of the byte tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A random tiny model to put adapters on."""
    return save(tmp_path_factory.mktemp("base"))


def save(folder: Path, **fields) -> Path:
    model, processor = build_tiny(**fields)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def adapted(base: Path, **options) -> tuple[PeftModel, PsalmProcessor]:
    processor = PsalmProcessor.from_pretrained(base)
    return add_adapters(PsalmForSegmentation.from_pretrained(base), processor, LoraOptions(rank=4, dropout=0.1), **options), processor


def trainer(base: Path, output_dir: Path, evaluation=None, **options) -> PsalmTrainer:
    settings = {"max_steps": 4, "logging_steps": 4, "report_to": "none", "use_cpu": True, "learning_rate": 1e-3, "disable_tqdm": True}
    args = PsalmTrainingArguments(output_dir=str(output_dir), **(settings | options))
    model, processor = adapted(base, learning_rates=args.learning_rates)
    return PsalmTrainer(
        model=model,
        args=args,
        train_dataset=TaskSources({task: ShapesStream(task=task, prompts_per_image=2) for task in SIZES}),
        batch_sampler=OneTaskPerBatch(dict.fromkeys(SIZES, 1.0), SIZES, 4, seed=0),
        data_collator=PsalmCollator(processor, shuffle_categories=True),
        evaluation=evaluation,
        processing_class=processor,
    )


@pytest.fixture(scope="module")
def run(base, tmp_path_factory) -> PsalmTrainer:
    """A run of four steps, one of each kind or so, with its adapter folder."""
    run = trainer(base, tmp_path_factory.mktemp("run"))
    run.train()
    run.save_model()
    run.model.eval()
    return run


@torch.inference_mode()
def outputs(model, processor) -> list[torch.Tensor]:
    """What a model says to every kind of prompt about one picture."""
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    prompts = (
        {"categories": ["circle", "square"]},
        {"expressions": ["the red one"]},
        {"regions": [{"point": (30, 40)}]},
        {"conversations": [{"role": "user", "content": "What?"}]},
    )
    seen = []
    for prompt in prompts:
        found = model(**processor(images=image, **prompt, return_tensors="pt"))
        names = ("masks_queries_logits", "class_queries_logits", "referring_queries_logits", "region_queries_logits", "logits")
        seen += [found[name] for name in names if found.get(name) is not None]
    assert len(seen) == 7
    return seen


def are_equal(one, other) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("fields", [{}, {"text_config": LLAMA}, {"text_config": GPT2}], ids=["phi", "llama", "gpt2"])
def test_adapters_go_on_all_linear_layers_of_any_language_model_and_nowhere_else(fields):
    model, _ = build_tiny(**fields)
    pattern = target_pattern(model)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    expected = [name for name in linear if "language_model" in name]
    assert [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)] == expected
    assert 8 <= len(expected) < len(linear) / 2


def test_targets_choose_among_the_layers_of_the_language_model():
    model, processor = build_tiny()
    with pytest.raises(ValueError, match="no linear layer 'q'; it has dense, fc1, fc2, k_proj, q_proj, v_proj"):
        target_pattern(model, ["v_proj", "q"])
    with_adapters = add_adapters(model, processor, LoraOptions(rank=2, targets=["q_proj", "0.mlp.fc1"]))
    adapters = [plain_name(name) for name, _ in with_adapters.named_parameters() if "lora_A" in name]
    ends = ["0.self_attn.q_proj", "0.mlp.fc1", "1.self_attn.q_proj"]
    assert adapters == [f"model.language_model.layers.{end}.lora_A.default.weight" for end in ends]


def test_adapters_new_modules_and_one_embedding_learn_and_nothing_else():
    model, processor = build_tiny()
    original = {name for name, _ in model.named_parameters()}
    model = add_adapters(model, processor, LoraOptions(rank=2))
    learning = {plain_name(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    prefixes = (*(f"model.{name}." for name in NEW), "mask_decoder.")
    assert learning.keys() & original == {name for name in original if name.startswith(prefixes)}
    others = {name: parameter for name, parameter in learning.items() if name not in original and ".lora_" not in name}
    assert [(name, len(rows)) for name, rows in others.items()] == [
        ("model.language_model.embed_tokens.token_adapter.trainable_tokens_delta.default", 1)
    ]
    assert processor.tokenizer.convert_tokens_to_ids("[SEG]") == SEG
    embeddings = model.get_base_model().get_input_embeddings()
    assert embeddings.token_adapter.token_indices == {"default": [SEG]}


def test_every_module_of_the_model_is_new_or_known():
    model, _ = build_tiny()
    parts = {name for name, _ in model.model.named_children()} | {name for name, _ in model.named_children()}
    assert {name.rsplit(".", 1)[-1] for name in new_modules(model)} == parts - {"model", "lm_head", "language_model", "vision_tower"}


def test_adapters_start_as_the_model_itself_with_values_that_follow_from_the_seed(base):
    torch.manual_seed(1)
    model, processor = adapted(base, seed=3)
    torch.manual_seed(2)
    again, _ = adapted(base, seed=3)
    assert are_equal(model.state_dict().values(), again.state_dict().values())
    assert are_equal(outputs(model.eval(), processor), outputs(PsalmForSegmentation.from_pretrained(base), processor))


def test_a_run_changes_what_learns_and_keeps_the_rest(base, run):
    before = PsalmForSegmentation.from_pretrained(base).state_dict()
    kept = ("model.vision_tower.", "model.language_model.", "lm_head.")
    after = {name: value for name, value in run.model.state_dict().items() if ".original_module" not in name}
    after = {plain_name(name).replace(".base_layer", "").replace(".token_adapter", ""): value for name, value in after.items()}
    assert before.keys() <= after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith(kept))
    for name in ("model.mask_queries.weight", "mask_decoder.norm.weight", "model.projector.reduce.norm1.running_mean"):
        assert not torch.equal(before[name], after[name]), name
    delta = "model.language_model.embed_tokens.trainable_tokens_delta.default"
    assert not torch.equal(before["model.language_model.embed_tokens.weight"][[SEG]], after[delta])


def test_an_adapter_folder_is_small_and_gives_the_same_outputs_bit_for_bit(base, run):
    folder = Path(run.args.output_dir)
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        names = [plain_name(name) for name in file.keys()]
    assert not (folder / "model.safetensors").exists()
    assert not [name for name in names if name.startswith(("model.vision_tower", "lm_head"))]
    assert all(".lora_" in name or "token_adapter" in name for name in names if name.startswith("model.language_model"))
    assert "model.projector.reduce.norm1.running_var" in names

    processor = PsalmProcessor.from_pretrained(folder)
    expected = outputs(run.model, processor)
    assert not are_equal(expected, outputs(PsalmForSegmentation.from_pretrained(base), processor))
    assert are_equal(expected, outputs(PeftModel.from_pretrained(PsalmForSegmentation.from_pretrained(base), folder).eval(), processor))
    assert are_equal(expected, outputs(load_adapter(folder), processor))
    if READS_ADAPTERS:
        assert are_equal(expected, outputs(PsalmForSegmentation.from_pretrained(folder), processor))
    else:
        with pytest.raises(ValueError, match="is an adapter folder.* load it by psalm_hf.training.lora.load_adapter"):
            PsalmForSegmentation.from_pretrained(folder)


def test_a_merged_folder_needs_no_peft_and_gives_the_same_outputs(run, tmp_path, monkeypatch):
    folder = Path(run.args.output_dir)
    assert convert.main([str(folder), str(tmp_path / "merged")]) == 0
    assert convert.main([str(folder), str(tmp_path / "merged")]) == 2  # exists
    with monkeypatch.context() as without_peft:
        without_peft.setitem(sys.modules, "peft", None)
        merged = PsalmForSegmentation.from_pretrained(tmp_path / "merged")

    processor = PsalmProcessor.from_pretrained(tmp_path / "merged")
    for one, other in zip(outputs(run.model, processor), outputs(merged, processor), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    inputs = processor(images=np.zeros((64, 64, 3), np.uint8), conversations=[{"role": "user", "content": "Hello"}], return_tensors="pt")
    assert torch.equal(run.model.generate(**inputs, max_new_tokens=5), merged.generate(**inputs, max_new_tokens=5))


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tied_embeddings_stay_tied_through_adapter_and_merging(tmp_path):
    base = save(tmp_path / "base", text_config=LLAMA | {"tie_word_embeddings": True}, tie_word_embeddings=True)
    model, processor = adapted(base)
    with torch.no_grad():
        model.get_base_model().get_input_embeddings().token_adapter.trainable_tokens_delta["default"] += 1
    model.eval().save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    merged = PsalmForSegmentation.from_pretrained(tmp_path / "merged")
    assert merged.lm_head.weight is merged.get_input_embeddings().weight
    row = PsalmForSegmentation.from_pretrained(base).lm_head.weight[SEG]
    torch.testing.assert_close(merged.lm_head.weight[SEG], row + 1)
    for one, other in zip(outputs(model, processor), outputs(merged, processor), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_run_that_stops_is_measured_and_resumes_ends_bit_equal(base, run, tmp_path):
    seen = []

    def evaluation(model) -> dict[str, float]:
        seen.append(any(module.training for module in model.modules()))
        return {"something": float(torch.rand(()))}

    first = trainer(base, tmp_path, evaluation, save_steps=2, eval_strategy="steps", eval_steps=1)
    first.add_callback(StopAt(2))
    first.train()
    assert seen == [False, False]
    second = trainer(base, tmp_path)
    second.train(resume_from_checkpoint=True)
    expected, actual = run.model.state_dict(), second.model.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_gradient_checkpointing_gives_the_same_gradients(base):
    gradients = []
    for recompute in (False, True):
        processor = PsalmProcessor.from_pretrained(base)
        model = add_adapters(PsalmForSegmentation.from_pretrained(base), processor, LoraOptions(rank=4)).train()
        if recompute:
            set_checkpointing(model, True)
            assert model.get_base_model().model.language_model.layers[0].gradient_checkpointing
        sample = ShapesStream(task="referring", prompts_per_image=2)[0]
        torch.manual_seed(0)  # of the points of the mask losses
        model(**PsalmCollator(processor)([sample])).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]["base_model.model.model.language_model.layers.0.mlp.fc1.lora_B.default.weight"].abs().max() > 0
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-4)


def test_a_part_of_the_vision_tower_with_a_rate_learns_and_is_saved(base, tmp_path):
    stage = "model.vision_tower.swin.encoder.layers.3"
    run = trainer(base, tmp_path, max_steps=1, learning_rates={stage: 5e-4, "model.projector": 2e-3})
    learning = {plain_name(name) for name, parameter in run.model.named_parameters() if parameter.requires_grad and "vision" in name}
    before = PsalmForSegmentation.from_pretrained(base)
    assert learning == {name for name, _ in before.named_parameters() if name.startswith(stage)}
    assert {group["lr"] for group in run.create_optimizer().param_groups} == {1e-3, 5e-4, 2e-3}
    run.train()
    run.save_model()
    loaded = load_adapter(tmp_path).merge_and_unload()
    name = min(learning)
    assert not torch.equal(loaded.state_dict()[name], before.state_dict()[name])


def test_stage_2_writes_an_adapter_folder_and_on_request_a_merged_one(base, tmp_path):
    arguments = ["--config", str(ROOT / "examples/configs/tiny_shapes.yaml"), "--checkpoint", str(base), "--output_dir", str(tmp_path)]
    arguments += ["--batch_sizes", "{panoptic: 1, referring: 1, interactive: 1, conversation: 1}", "--eval_strategy", "no"]
    arguments += ["--lora", "{rank: 2}", "--merge_adapter", "true", "--max_steps", "1", "--logging_steps", "1", "--save_strategy", "no"]
    script = load_script("train_stage2")
    assert script.main(arguments) == 0
    processor = PsalmProcessor.from_pretrained(tmp_path)
    merged = PsalmForSegmentation.from_pretrained(tmp_path / "merged")
    for one, other in zip(outputs(load_adapter(tmp_path), processor), outputs(merged, processor), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert script.main(arguments) == 2  # the merged folder exists


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"r": 8}, "no such options: r; known are rank, alpha, dropout, targets"),
        ({"rank": 0}, "rank is 0, expected a whole number of at least 1"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"alpha": 0}, "alpha is 0, expected a number above 0"),
        ({"dropout": 1.0}, "dropout is 1.0, expected a number from 0 to below 1"),
        ({"targets": "q_proj"}, "targets is 'q_proj', expected a list"),
    ],
)
def test_wrong_options_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        read_lora(given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora": {"rank": 4}, "model": {"num_queries": 5}}, "`model` changes that model; save the changed model as a folder first"),
        ({"merge_adapter": True}, "there is no adapter without lora"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MixtureArguments(checkpoint="somewhere", weights={}, batch_sizes={}, **fields)
    assert read_lora({}) is None


def test_a_missing_peft_is_told_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="pip install peft"):
        MixtureArguments(checkpoint="somewhere", weights={}, batch_sizes={}, lora={"rank": 4})


def test_engines_that_divide_the_weights_and_old_results_are_refused(tmp_path):
    training = PsalmTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    check_adapters(training, merge=True)
    training.fully_shard = True
    with pytest.raises(ValueError, match="do not work with fully_shard; use several processes"):
        check_adapters(training, merge=False)
    training.fully_shard = False
    merged_folder(training).mkdir()
    check_adapters(training, merge=False)
    with pytest.raises(ValueError, match="merged exists already"):
        check_adapters(training, merge=True)


def test_a_folder_without_an_adapter_is_refused(base, tmp_path, capsys):
    with pytest.raises(ValueError, match="no adapter .adapter_config.json. there"):
        load_adapter(base)
    assert convert.main([str(base), str(tmp_path / "merged"), "--base", str(base)]) == 2
    assert f"--base: {base} is no adapter" in capsys.readouterr().err


def test_a_tied_head_with_a_bias_is_refused():
    model, processor = build_tiny(text_config=LLAMA | {"tie_word_embeddings": True}, tie_word_embeddings=True, lm_head_bias=True)
    with pytest.raises(ValueError, match="tied to the embeddings and has a bias"):
        add_adapters(model, processor, LoraOptions(rank=2))
