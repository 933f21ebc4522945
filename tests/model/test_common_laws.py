"""What code written for any model of transformers relies on: names, orders and kinds of outputs, and the ways into `generate`."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList, PhiConfig, PhiForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPooling

from psalm_hf import PsalmConfig, PsalmForSegmentation, PsalmImageProcessor, PsalmModel
from psalm_hf.model.modeling_psalm import AUTO_CLASSES
from psalm_hf.tiny import build_tiny

QUESTION = [{"role": "user", "content": "What is on the table?"}]
ANSWERED = [*QUESTION, {"role": "assistant", "content": "A cup."}]
GREEDY = {"do_sample": False, "max_new_tokens": 8}


def picture(seed: int, size: tuple[int, int] = (60, 90)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def with_strong_attention(model):
    """Random weights whose answers depend on the picture and the question."""
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            for projection in layer.self_attn.children():
                projection.weight.mul_(15)
    return model


@pytest.fixture(scope="module")
def tiny():
    model, processor = build_tiny(seed=3)
    return with_strong_attention(model), processor


@pytest.fixture(scope="module")
def question(tiny):
    return tiny[1](images=picture(0), conversations=QUESTION)


# Outputs


@torch.no_grad()
def test_the_first_output_of_a_chat_is_its_loss_or_its_logits(tiny, question):
    model, processor = tiny
    outputs = model(**question)
    assert outputs[0] is outputs.logits
    outputs = model(**processor(images=picture(0), conversations=ANSWERED), logits_to_keep=0)
    assert outputs[0] is outputs.loss and outputs[1] is outputs.logits


@pytest.mark.parametrize("prompt", [{"conversations": QUESTION}, {"expressions": ["the cup"]}, {"categories": ["cup", "table"]}])
@torch.no_grad()
def test_tuples_hold_the_fields_in_their_order(tiny, prompt):
    model, processor = copy.deepcopy(tiny[0]), tiny[1]
    inputs = processor(images=picture(0), **prompt)
    expected = model(**inputs).to_tuple()
    asked = model(**inputs, return_dict=False)
    model.config.return_dict = False  # which the parts inside must not follow
    for outputs in (asked, model(**inputs)):
        assert isinstance(outputs, tuple) and len(outputs) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    assert isinstance(model.get_image_features(inputs["pixel_values"]), tuple)
    assert isinstance(model.model(**inputs), tuple)


@pytest.mark.parametrize("of", [lambda model: model, lambda model: model.model], ids=["head", "base"])
@torch.no_grad()
def test_image_features_have_the_names_of_transformers_beside_ours(tiny, question, of):
    model = of(tiny[0])
    pixels = question["pixel_values"]
    features = model.get_image_features(pixels)
    assert isinstance(features, BaseModelOutputWithPooling)
    assert features.pooler_output is features.image_tokens  # no second copy
    assert features.last_hidden_state.shape == (1, 16, 128)  # 4 x 4 positions of stride 32, 8 times 16 channels
    assert features.hidden_states is None and features.attentions is None
    eager = copy.deepcopy(tiny[0])
    eager.set_attn_implementation("eager")
    detailed = of(eager).get_image_features(pixels, output_hidden_states=True, output_attentions=True)
    assert len(detailed.hidden_states) == 5 and len(detailed.attentions) == 4  # four stages, and what the first one reads
    torch.testing.assert_close(detailed.mask_features, features.mask_features, atol=1e-4, rtol=0)
    tokens_only = model.get_image_features(pixels, masks=False)
    assert tokens_only.mask_features is None and torch.equal(tokens_only.image_tokens, features.image_tokens)


@torch.no_grad()
def test_image_features_own_little_memory_beside_what_segmentation_needs():
    model, processor = build_tiny()
    features = model.get_image_features(processor(images=picture(0), expressions=["a"])["pixel_values"])
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in _tensors(features)}
    needed = (features.image_tokens, features.mask_features, *features.multi_scale)
    needed = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in needed}
    assert set(needed) < set(storages)
    assert sum(storages.values()) - sum(needed.values()) == features.last_hidden_state.nbytes


def _tensors(features):
    for value in features.values():
        yield from (value if isinstance(value, tuple) else (value,))


# Generation


@pytest.fixture(scope="module")
def greedy(tiny, question):
    return tiny[0].generate(**question, **GREEDY)


@pytest.mark.parametrize("seed", [3, 4], ids=["itself", "another"])
def test_an_assistant_sees_the_picture_and_changes_no_token(tiny, question, greedy, seed):
    model = tiny[0]
    assistant = with_strong_attention(build_tiny(seed=seed)[0])
    pictures, lengths = [], []
    hooks = [
        assistant.model.vision_tower.register_forward_pre_hook(lambda module, args: pictures.append(len(args[0]))),
        model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        ),
    ]
    tokens = model.generate(**question, **GREEDY, assistant_model=assistant)
    for hook in hooks:
        hook.remove()
    assert torch.equal(tokens, greedy)
    assert pictures == [1]  # once, however often it proposes
    accepts = len(lengths) < GREEDY["max_new_tokens"]
    assert accepts == (seed == 3)  # the same weights and the same picture: all proposals are right


def test_an_assistant_takes_pixels_beside_encoded_pictures(tiny, question, greedy):
    model = tiny[0]
    features = model.get_image_features(question["pixel_values"])  # with a gradient: such tensors cannot be copied
    assistant = build_tiny(seed=4)[0]
    assert torch.equal(model.generate(**question, **GREEDY, image_features=features, assistant_model=assistant), greedy)
    with pytest.raises(ValueError, match="pass pixel_values too, beside image_features"):
        model.generate(**{**question, "pixel_values": None}, **GREEDY, image_features=features, assistant_model=assistant)


def test_a_language_model_assists_where_there_is_no_picture(tiny, question):
    model, processor = tiny
    assistant = PhiForCausalLM(PhiConfig(**model.config.text_config.to_dict())).eval()
    inputs = processor(conversations=[QUESTION])
    assert torch.equal(model.generate(**inputs, **GREEDY, assistant_model=assistant), model.generate(**inputs, **GREEDY))
    with pytest.raises(ValueError, match="assistant_model is a PhiForCausalLM, which sees no images"):
        model.generate(**question, **GREEDY, assistant_model=assistant)


def test_an_early_exit_is_refused(tiny, question):
    with pytest.raises(ValueError, match="assistant_early_exit: the language model here has one exit"):
        tiny[0].generate(**question, **GREEDY, assistant_early_exit=1)


class Always(LogitsProcessor):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        return torch.full_like(scores, -1.0).index_fill(1, torch.tensor([self.token]), 1.0)


def test_prompt_lookup_changes_no_token_and_never_proposes_placeholders(tiny, question, greedy):
    model, processor = tiny
    assert torch.equal(model.generate(**question, **GREEDY, prompt_lookup_num_tokens=3), greedy)
    newline = processor.tokenizer("\n")["input_ids"][0]
    prompt = question["input_ids"][0].tolist()
    image = prompt.index(model.config.image_token_id)
    assert prompt[image - 2 : image] == [newline, newline]
    processors = LogitsProcessorList([Always(newline)])  # what follows two of them in the prompt are image tokens
    expected = model.generate(**question, **GREEDY, logits_processor=processors)
    found = model.generate(**question, **GREEDY, logits_processor=processors, prompt_lookup_num_tokens=3)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_an_attention_mask_of_four_dimensions_is_taken_as_it_is(tiny, question):
    model, processor = tiny
    for inputs, field in ((question, "logits"), (processor(images=picture(0), expressions=["a cup", "a bed"]), "masks_queries_logits")):
        rows, length = inputs["input_ids"].shape
        causal = torch.ones(rows, 1, length, length, dtype=torch.bool).tril()
        found = model(**{**inputs, "attention_mask": causal})[field]
        torch.testing.assert_close(found, model(**inputs)[field], atol=1e-4, rtol=0)


# Embeddings instead of tokens


def embed(model, input_ids):
    placeholders = torch.tensor([model.config.image_token_id, model.config.region_token_id, model.config.mask_query_token_id])
    return model.get_input_embeddings()(input_ids.masked_fill(torch.isin(input_ids, placeholders), 0)).detach()


@torch.no_grad()
def test_embeddings_of_the_tokens_give_what_the_tokens_give(tiny, question):
    model, processor = tiny
    text = processor(conversations=[QUESTION])
    without = {name: value for name, value in text.items() if name != "input_ids"}
    expected = model(**text)
    for model_, field in ((model, "logits"), (model.model, "last_hidden_state")):
        found = model_(**without, inputs_embeds=embed(model, text["input_ids"]))
        assert torch.equal(found[field], model_(**text)[field])
    assert torch.equal(model(**question, inputs_embeds=embed(model, question["input_ids"])).logits, model(**question).logits)
    assert torch.equal(model(**without, inputs_embeds=embed(model, text["input_ids"])).logits, expected.logits)


@torch.no_grad()
def test_embeddings_are_read_where_text_stands_and_nowhere_else(tiny):
    model, processor = tiny
    inputs = processor(images=picture(0), expressions=["the red cup", "the table"])
    embeds = embed(model, inputs["input_ids"])
    expected = model(**inputs).masks_queries_logits
    is_image = inputs["input_ids"] == model.config.image_token_id
    found = model(**inputs, inputs_embeds=embeds.masked_fill(is_image[..., None], 7.0)).masks_queries_logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    embeds[1, :8] = embeds[1, :8].flip(0)  # rows of the same tokens may differ from their first embedding on
    changed = model(**inputs, inputs_embeds=embeds).masks_queries_logits
    torch.testing.assert_close(changed[0], expected[0], atol=1e-5, rtol=0)
    assert (changed[1] - expected[1]).abs().max() > 1e-4


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_from_embeddings(tiny, question, beams):
    model, processor = tiny
    options = GREEDY | {"num_beams": beams}
    expected = model.generate(**question, **options)
    assert torch.equal(model.generate(**question, **options, inputs_embeds=embed(model, question["input_ids"])), expected)
    text = processor(conversations=[QUESTION])
    expected = model.generate(**text, **options)[:, text["input_ids"].shape[1] :]
    alone = model.generate(inputs_embeds=embed(model, text["input_ids"]), attention_mask=text["attention_mask"], **options)
    assert torch.equal(alone, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs: inputs.pop("input_ids"), "no text: pass input_ids, inputs_embeds, or both"),
        (lambda inputs: inputs.update(input_ids=None, inputs_embeds=torch.zeros(1, 9, 32)), "pass input_ids with them"),
        (lambda inputs: inputs.update(inputs_embeds=torch.zeros(1, 9, 32)), r"but inputs_embeds \(1, 9\); pass one embedding per token"),
    ],
)
@pytest.mark.parametrize("of", [lambda model: model, lambda model: model.model], ids=["head", "base"])
def test_embeddings_that_do_not_say_where_the_picture_goes_are_refused(tiny, of, change, message):
    model, processor = tiny
    inputs = dict(processor(images=picture(0), expressions=["the cup"]))
    change(inputs)
    with pytest.raises(ValueError, match=message):
        of(model)(**inputs)


def test_generation_from_embeddings_alone_refuses_a_picture(tiny, question):
    model = tiny[0]
    inputs = {**question, "input_ids": None, "inputs_embeds": embed(model, question["input_ids"])}
    with pytest.raises(ValueError, match="inputs_embeds alone do not say where image tokens and mask queries stand"):
        model.generate(**inputs, **GREEDY)


# Loading by the names of transformers


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_every_auto_class_that_fits_loads_the_model(tiny, saved, name):
    model = getattr(transformers, name).from_pretrained(saved)
    assert type(model) is PsalmForSegmentation
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), tiny[0].state_dict().values(), strict=True))
    listed = json.loads((saved / "config.json").read_text())["auto_map"]  # for those who have no psalm_hf
    assert listed[name] == "modeling_psalm.PsalmForSegmentation"


def test_tokenizer_and_image_processor_load_by_themselves(tiny, saved):
    processor = tiny[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    image_processor = transformers.AutoImageProcessor.from_pretrained(saved)
    assert type(image_processor) is PsalmImageProcessor and image_processor.to_dict() == processor.image_processor.to_dict()
    assert type(transformers.AutoProcessor.from_pretrained(saved)) is type(processor)


def test_the_pipeline_of_transformers_for_chats_answers(tiny, saved):
    model, processor = tiny
    chat = transformers.pipeline("image-text-to-text", model=str(saved), device="cpu")
    content = [{"type": "image", "image": picture(0)}, {"type": "text", "text": QUESTION[0]["content"]}]
    answer = chat([{"role": "user", "content": content}], return_full_text=False, generate_kwargs=GREEDY)
    inputs = processor(images=picture(0), conversations=QUESTION)
    tokens = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    assert answer[0]["generated_text"] == processor.tokenizer.decode(tokens, skip_special_tokens=True)


# What a class says about itself


def test_a_configuration_read_again_is_the_one_that_was_written(tiny, tmp_path):
    config = tiny[0].config
    config.save_pretrained(tmp_path)
    again, unused = PsalmConfig.from_pretrained(tmp_path, return_unused_kwargs=True, colour="red")
    assert again.to_dict() == config.to_dict() == PsalmConfig.from_pretrained(tmp_path).to_dict() and unused == {"colour": "red"}
    assert PsalmConfig.from_pretrained(tmp_path, name_or_path="kitchen").name_or_path == "kitchen"


@pytest.mark.parametrize("cls", [PsalmModel, PsalmForSegmentation])
@pytest.mark.parametrize("tied", [False, True])
def test_plans_and_lists_of_modules_name_what_the_class_has(tiny, cls, tied):
    config = copy.deepcopy(tiny[0].config)
    config.tie_word_embeddings = tied
    model = cls(config)
    modules = {re.sub(r"\.\d+(?=\.|$)", ".*", name) for name, _ in model.named_modules()}
    assert set(model.tp_plan) <= modules and any("language_model" in name for name in model.tp_plan)
    assert ("lm_head" in model.tp_plan) == (cls is PsalmForSegmentation)
    for name in cls._keep_in_fp32_modules_strict:
        assert name in dict(model.named_children())
    assert model._keep_in_fp32_modules_strict == {"pixel_decoder", "mask_decoder"} & {name.split(".")[-1] for name in modules}


@pytest.mark.parametrize("cls", [PsalmModel, PsalmForSegmentation])
def test_decoders_stay_in_single_precision(tiny, cls, tmp_path):
    tiny[0].save_pretrained(tmp_path)
    model = cls.from_pretrained(tmp_path, dtype=torch.bfloat16)
    kept = {name.split(".")[0] for name, x in model.named_parameters() if x.dtype == torch.float32}
    assert kept == ({"pixel_decoder"} if cls is PsalmModel else {"model", "mask_decoder"})
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


TENSOR_PARALLEL = """
import sys
import torch
import torch.distributed as dist
from transformers.distributed import DistributedConfig
from psalm_hf import PsalmForSegmentation

dist.init_process_group("gloo")
inputs = torch.load(sys.argv[2])
whole = PsalmForSegmentation.from_pretrained(sys.argv[1]).eval()
divided = PsalmForSegmentation.from_pretrained(sys.argv[1], distributed_config=DistributedConfig(tp_size=2)).eval()
assert divided.lm_head.weight is divided.get_input_embeddings().weight
with torch.no_grad():
    torch.testing.assert_close(divided(**inputs[0]).logits, whole(**inputs[0]).logits, atol=1e-5, rtol=0)
    found, expected = (model(**inputs[1]).masks_queries_logits for model in (divided, whole))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
"""


@pytest.mark.engines
def test_two_processes_share_a_language_model_with_tied_embeddings(tmp_path):
    model, processor = build_tiny()
    config, names = model.config, ("image_token_id", "region_token_id", "mask_query_token_id")
    placeholders = {name: getattr(config, name) for name in names}
    text_config = config.text_config.to_dict() | {"vocab_size": config.text_config.vocab_size + 1}  # even: transformers < 5.20 asks for it
    model, _ = build_tiny(tie_word_embeddings=True, text_config=text_config, **placeholders)
    model.save_pretrained(tmp_path / "model")
    inputs = [dict(processor(images=picture(0), conversations=QUESTION)), dict(processor(images=picture(0), expressions=["the cup"]))]
    torch.save(inputs, tmp_path / "inputs.pt")
    (tmp_path / "script.py").write_text(TENSOR_PARALLEL)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(tmp_path / "script.py"), str(tmp_path / "model"), str(tmp_path / "inputs.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
