"""Answers in words: what the cache, the batch, beams, encoded pictures and earlier turns must not change, and the chat template."""

import json
import logging
from threading import Thread

import jinja2
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LogitsProcessorList, TextIteratorStreamer
from transformers.utils import logging as transformers_logging

from psalm_hf import PsalmProcessor
from psalm_hf.model.compatibility import CACHE, CACHE_NAMES
from psalm_hf.model.prompts import CHAT_TEMPLATE, SYSTEM_MESSAGE, conversation_pieces, plain_messages
from psalm_hf.tiny import build_tiny

QUESTION = [{"role": "user", "content": "What is on the table?"}]
LONGER = [{"role": "user", "content": "And the colour of the cup that stands on it?"}]
DIALOGUE = [*QUESTION, {"role": "assistant", "content": "A cup."}, {"role": "user", "content": "What colour?"}]
GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": 8}


def picture(seed: int, size: tuple[int, int] = (60, 90)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def tiny():
    """Random weights, with an attention so strong that answers depend on the picture and the question."""
    model, processor = build_tiny(seed=3)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            for projection in layer.self_attn.children():
                projection.weight.mul_(15)
    return model, processor


@pytest.fixture
def vision_calls(tiny):
    """Number of pictures in every call of the vision tower."""
    calls = []
    hook = tiny[0].model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    yield calls
    hook.remove()


def answer(model, inputs, **options):
    """New tokens, (B, n)."""
    return model.generate(**inputs, **(GREEDY | options))[:, inputs["input_ids"].shape[1] :]


def until_end(model, tokens):
    """The tokens of a row as a list, without what pads it."""
    tokens = tokens.tolist()
    end = model.config.text_config.eos_token_id
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


@torch.no_grad()
def by_hand(model, inputs, number):
    """Greedy answer to one row, the whole sequence read again for every token."""
    ids, rest = inputs["input_ids"], {name: inputs[name] for name in ("pixel_values", "image_index") if name in inputs}
    for _ in range(number):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1, **rest).logits
        ids = torch.cat((ids, logits[:, -1].argmax(-1, keepdim=True)), dim=1)
        if int(ids[0, -1]) == model.config.text_config.eos_token_id:
            break
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def test_answers_depend_on_the_picture_and_the_question(tiny):
    model, processor = tiny
    asked = [(0, QUESTION), (1, QUESTION), (0, LONGER)]
    answers = [answer(model, processor(images=picture(seed), conversations=question))[0].tolist() for seed, question in asked]
    assert len({tuple(tokens) for tokens in answers}) == 3


@pytest.mark.parametrize("conversation", [QUESTION, LONGER, DIALOGUE], ids=["short", "longer", "dialogue"])
def test_the_cache_gives_the_tokens_of_a_forward_pass_per_token(tiny, conversation):
    model, processor = tiny
    inputs = processor(images=picture(0), conversations=conversation)
    assert until_end(model, answer(model, inputs)[0]) == by_hand(model, inputs, GREEDY["max_new_tokens"])


@pytest.mark.parametrize("beams", [1, 3])
def test_every_kind_of_cache_gives_the_tokens_of_none(tiny, beams):
    model, processor = tiny
    inputs = processor(images=[picture(0), picture(1)], conversations=[QUESTION, LONGER])
    expected = answer(model, inputs, num_beams=beams, use_cache=False)
    for kind in (None, "dynamic", "static"):
        assert torch.equal(answer(model, inputs, num_beams=beams, cache_implementation=kind), expected), kind


@torch.no_grad()
@pytest.mark.parametrize("depth", ["model", "base"])
def test_a_cache_goes_on_under_either_of_its_names_but_not_both(tiny, caplog, monkeypatch, depth):
    model, processor = tiny
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    transformers_logging.warning_once.cache_clear()  # each warning comes once in the life of a process
    called = model if depth == "model" else model.model
    read = {"model": lambda outputs: outputs.logits[:, -1], "base": lambda outputs: outputs.last_hidden_state[:, -1]}[depth]
    inputs = processor(images=picture(0), conversations=LONGER)
    ids, rest = inputs["input_ids"], {"pixel_values": inputs["pixel_values"]}
    expected = read(called(input_ids=ids, **rest))
    for name in CACHE_NAMES:
        outputs = called(input_ids=ids[:, :-1], use_cache=True, **rest)
        assert CACHE in outputs.keys() and outputs[CACHE].get_seq_length() == ids.shape[1] - 1
        following = called(input_ids=ids[:, -1:], attention_mask=torch.ones_like(ids), **{name: outputs[CACHE]})
        torch.testing.assert_close(read(following), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="two names of one thing; pass cache only"):
        called(input_ids=ids[:, -1:], **dict.fromkeys(CACHE_NAMES, outputs[CACHE]))
    assert "deprecated" not in caplog.text


def test_a_batch_gives_the_tokens_of_its_rows_alone(tiny):
    model, processor = tiny
    images, conversations = [picture(0), None, picture(1, (90, 60)), picture(0)], [LONGER, QUESTION, DIALOGUE, QUESTION]
    batch = answer(model, processor(images=images, conversations=conversations))
    for row, (image, conversation) in enumerate(zip(images, conversations, strict=True)):
        alone = answer(model, processor(images=[image], conversations=[conversation]))[0]
        assert until_end(model, batch[row]) == until_end(model, alone)


@torch.no_grad()
def test_the_score_of_a_beam_is_that_of_its_words_in_a_forward_pass(tiny, vision_calls):
    model, processor = tiny
    inputs = processor(images=picture(0), conversations=LONGER)
    beams = model.generate(
        **inputs, **(GREEDY | {"num_beams": 4}), num_return_sequences=4, min_new_tokens=8, return_dict_in_generate=True, output_scores=True
    )
    assert vision_calls == [1]
    assert len({tuple(row) for row in beams.sequences.tolist()}) == 4
    for sequence, score in zip(beams.sequences, beams.sequences_scores, strict=True):
        logits = model(input_ids=sequence[None], pixel_values=inputs["pixel_values"], logits_to_keep=9).logits[0, :-1]
        log_probs = logits.log_softmax(-1).gather(1, sequence[-8:, None])  # (8, 1)
        torch.testing.assert_close(score, log_probs.mean(), atol=1e-4, rtol=0)


def test_samples_differ_follow_the_seed_and_share_one_picture(tiny, vision_calls):
    model, processor = tiny
    inputs = processor(images=[picture(0), picture(1)], conversations=[QUESTION, LONGER])
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(answer(model, inputs, do_sample=True, temperature=2.0, num_return_sequences=3, min_new_tokens=8))
    assert len(found[0]) == 6 and torch.equal(*found)
    assert len({tuple(row) for row in found[0].tolist()}) == 6
    assert vision_calls == [2, 2]


def test_a_picture_that_is_encoded_already_is_not_encoded_again(tiny, vision_calls):
    model, processor = tiny
    inputs = processor(images=[picture(0), picture(1)], conversations=[QUESTION, LONGER])
    expected = {beams: answer(model, inputs, num_beams=beams) for beams in (1, 3)}
    features = model.get_image_features(inputs.pop("pixel_values"))
    vision_calls.clear()
    for beams, tokens in expected.items():
        assert torch.equal(answer(model, inputs, num_beams=beams, image_features=features), tokens)
    assert vision_calls == []


def test_a_dialogue_encodes_its_picture_once_and_equals_one_long_prompt(tiny, vision_calls):
    """Every turn goes on from the cache of the turns before; the long prompt is the same tokens, read at once."""
    model, processor = tiny
    inputs = processor(images=picture(0), conversations=QUESTION)
    following = [processor.tokenizer(f" <|endoftext|>[INST] {text} [/INST]")["input_ids"] for text in ("What colour?", "And why?")]
    ids, cache = inputs["input_ids"], None
    for turn in ([], *following):
        ids = torch.cat((ids, torch.tensor([turn], dtype=torch.int64)), dim=1)
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"],
            return_dict_in_generate=True, **{CACHE: cache}, **GREEDY,
        )  # fmt: skip
        ids, cache, prompt_length = found.sequences, found[CACHE], ids.shape[1]
    assert vision_calls == [1]
    long_prompt = {"input_ids": ids[:, :prompt_length], "pixel_values": inputs["pixel_values"]}
    assert until_end(model, ids[0, prompt_length:]) == by_hand(model, long_prompt, GREEDY["max_new_tokens"])


def test_streamed_text_is_the_answer(tiny):
    model, processor = tiny
    inputs = processor(images=picture(0), conversations=QUESTION)
    expected = processor.tokenizer.decode(answer(model, inputs, max_new_tokens=20)[0], skip_special_tokens=True)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    thread = Thread(target=model.generate, kwargs={**inputs, **GREEDY, "max_new_tokens": 20, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == expected and len(pieces) > 1


def test_penalties_of_repetition_find_no_placeholders_in_the_prompt(tiny):
    model, processor = tiny
    vocab_size, seen = model.config.text_config.vocab_size, []

    def look(input_ids, scores):
        seen.append(int(input_ids.max()))
        return scores

    assert model.config.image_token_id >= vocab_size
    inputs = processor(images=picture(0), conversations=QUESTION)
    penalised = answer(model, inputs, repetition_penalty=50.0, logits_processor=LogitsProcessorList([look]))
    assert len(seen) == penalised.shape[1] and max(seen) < vocab_size
    words = set(inputs["input_ids"][0].tolist()) - {model.config.text_config.eos_token_id}
    assert not set(penalised[0].tolist()) & words
    assert len(answer(model, inputs, no_repeat_ngram_size=1, min_new_tokens=8)[0].unique()) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": [picture(0)], "expressions": [["a cup"]]}, "row 0 asks for a segmentation"),
        ({"conversations": [QUESTION, DIALOGUE[:2]]}, "row 1 has labels: its conversation ends with the assistant's message"),
        ({"conversations": [LONGER, QUESTION], "padding_side": "right"}, "row 1 is padded on the right"),
    ],
)
def test_what_has_no_answer_in_words_is_refused(tiny, arguments, message):
    model, processor = tiny
    with pytest.raises(ValueError, match=message):
        model.generate(**processor(**arguments), max_new_tokens=2)


def test_a_prompt_whose_picture_is_missing_is_refused(tiny):
    model, processor = tiny
    inputs = processor(images=[picture(0), None], conversations=[QUESTION, QUESTION])
    inputs["image_index"][0] = -1
    with pytest.raises(ValueError, match="row 0: the prompt has 16 image tokens but its image gives 0"):
        model.generate(**inputs, max_new_tokens=2)


# The chat template

SEEN = [
    {"role": "user", "content": [{"type": "image", "image": picture(0)}, {"type": "text", "text": "What is on the table?"}]},
    *DIALOGUE[1:],
]


def written(messages, has_image):
    """The text of a conversation row."""
    return "".join(piece.text for piece in conversation_pieces(messages, has_image=has_image, end_of_text="<|endoftext|>"))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_template_writes_what_the_processor_writes(tiny, turns):
    _, processor = tiny
    text = DIALOGUE[:turns]
    assert processor.apply_chat_template(text) == written(text, has_image=False)
    assert processor.apply_chat_template(SEEN[:turns]) == written(text, has_image=True)
    assert processor.apply_chat_template([text, SEEN[:turns]]) == [written(text, False), written(text, True)]
    mentioned = [{"role": "user", "content": "Look at <image> please."}, *DIALOGUE[1:turns]]
    assert processor.apply_chat_template(mentioned) == written(mentioned, has_image=True)


SYSTEM = [{"role": "system", "content": "Answer in one word."}]
SYSTEM_IN_PARTS = [{"role": "system", "content": [{"type": "text", "text": "Answer "}, {"type": "text", "text": "in one word."}]}]


@pytest.mark.parametrize("system", [SYSTEM, SYSTEM_IN_PARTS], ids=["text", "parts"])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_message_of_the_system_stands_where_the_default_one_stood(tiny, system, turns):
    _, processor = tiny
    text = processor.apply_chat_template(DIALOGUE[:turns])
    assert text.count(SYSTEM_MESSAGE) == 1
    expected = text.replace(SYSTEM_MESSAGE, "Answer in one word.")
    assert processor.apply_chat_template([*system, *DIALOGUE[:turns]]) == expected == written([*SYSTEM, *DIALOGUE[:turns]], False)
    inputs = processor(images=picture(0), conversations=[*SYSTEM, *DIALOGUE[:turns]])
    tokenised = processor.apply_chat_template([*system, *SEEN[:turns]], tokenize=True, return_dict=True)
    assert all(torch.equal(inputs[name], tokenised[name]) for name in inputs)
    default = [{"role": "system", "content": SYSTEM_MESSAGE}, *DIALOGUE[:turns]]
    assert torch.equal(processor(conversations=default)["input_ids"], processor(conversations=DIALOGUE[:turns])["input_ids"])


def test_the_mask_of_the_assistant_covers_what_it_says_and_nothing_else(tiny):
    _, processor = tiny
    answered = [*SEEN, {"role": "assistant", "content": "White."}]
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    inputs = processor.apply_chat_template([answered, QUESTION, DIALOGUE], **options)
    said = [processor.tokenizer.decode(ids[mask == 1]) for ids, mask in zip(inputs["input_ids"], inputs["assistant_masks"], strict=True)]
    assert said == [" A cup. <|endoftext|> White. <|endoftext|>", "", " A cup. <|endoftext|>"]
    learned = processor.apply_chat_template(answered, **options)
    assert torch.equal(learned["assistant_masks"] == 1, learned["labels"] != -100)
    assert "assistant_masks" not in processor.apply_chat_template(answered, tokenize=True, return_dict=True)
    with pytest.raises(ValueError, match="needs tokenize=True and return_dict=True"):
        processor.apply_chat_template(answered, return_assistant_tokens_mask=True)


def test_the_template_marks_what_the_assistant_says(tiny):
    _, processor = tiny
    marked = processor.tokenizer.apply_chat_template(
        [*SYSTEM, *DIALOGUE], chat_template=processor.chat_template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [token for token, mask in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mask]
    assert processor.tokenizer.decode(said) == " A cup. <|endoftext|>"


def test_pictures_go_in_front_of_the_texts_of_their_own_message(tiny):
    _, processor = tiny
    late = [
        *DIALOGUE[:2],
        {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "here?"}, {"type": "image"}]},
    ]
    plain, pictures = plain_messages(late, "conversation")
    assert plain == [*DIALOGUE[:2], {"role": "user", "content": "<image>\nAnd here?"}] and pictures == [None]
    assert processor.apply_chat_template(late) == written(plain, has_image=True)


def test_tokenised_messages_are_the_inputs_of_a_call(tiny, tmp_path):
    _, processor = tiny
    picture(0).save(tmp_path / "picture.png")
    expected = processor(images=picture(0), conversations=DIALOGUE)
    for part in ({"image": picture(0)}, {"path": str(tmp_path / "picture.png")}, {"url": str(tmp_path / "picture.png")}):
        messages = [
            {"role": "user", "content": [{"type": "image", **part}, {"type": "text", "text": QUESTION[0]["content"]}]},
            *DIALOGUE[1:],
        ]
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", allow_paths=True
        )
        assert inputs.keys() == expected.keys()
        assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    assert torch.equal(processor.apply_chat_template(SEEN, tokenize=True), expected["input_ids"])
    both = processor.apply_chat_template([SEEN, QUESTION], tokenize=True, return_dict=True)
    assert both["image_index"].tolist() == [0, -1]


@pytest.mark.parametrize("key", ["image", "url", "path"])
def test_messages_open_files_only_where_the_caller_allows_it(tiny, tmp_path, key):
    _, processor = tiny
    picture(0).save(tmp_path / "picture.png")
    for place, reason in (
        (str(tmp_path / "picture.png"), "allow_paths=True only"),
        (tmp_path / "picture.png", "allow_paths=True only"),
        (f"file://{tmp_path}/picture.png", "only addresses of http:// and https://"),
        ("http://127.0.0.1:9/picture.png", "allow_private_addresses=True"),
    ):
        messages = [{"role": "user", "content": [{"type": "image", key: place}, {"type": "text", "text": "What is it?"}]}]
        with pytest.raises(ValueError, match=reason):
            processor.apply_chat_template(messages, tokenize=True)


def test_the_template_is_saved_and_loaded_with_the_processor(tiny, tmp_path):
    _, processor = tiny
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == processor.chat_template
    assert "chat_template" not in json.loads((tmp_path / "processor_config.json").read_text())
    for loaded in (PsalmProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert loaded.apply_chat_template(SEEN) == processor.apply_chat_template(SEEN)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert PsalmProcessor.from_pretrained(tmp_path).apply_chat_template(QUESTION) == QUESTION[0]["content"]
    (tmp_path / "chat_template.jinja").unlink()  # of a folder from before there was one
    assert PsalmProcessor.from_pretrained(tmp_path).apply_chat_template(SEEN) == processor.apply_chat_template(SEEN)


def test_psalm_tiny_has_the_template_of_the_code(tiny_checkpoint):
    assert (tiny_checkpoint / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE


TWO_PICTURES = [{"role": "user", "content": [{"type": "image", "image": picture(0)}, {"type": "image", "image": picture(1)}]}]
VIDEO = [{"role": "user", "content": [{"type": "video", "path": "clip.mp4"}, {"type": "text", "text": "What happens?"}]}]
REPLY_WITH_PICTURE = [*QUESTION, {"role": "assistant", "content": [{"type": "image", "image": picture(0)}]}, *QUESTION]
BAD_CONVERSATIONS = [
    (DIALOGUE[1:], "message 0: expected the role 'user', got 'assistant'", "expected the role user, got assistant"),
    (DIALOGUE[1:2], "message 0: expected the role 'user', got 'assistant'", "expected the role user, got assistant"),
    ([*QUESTION, *QUESTION], "message 1: expected the role 'assistant'", "message 1: expected the role assistant"),
    (DIALOGUE[:2], "conversation 0: its last message is the assistant's", "last message is of the assistant"),
    (TWO_PICTURES, "conversation 0: has 2 images", "is about one image, got 2"),
    (
        [{"role": "user", "content": "<image> or <image>?"}],
        "<image> is mentioned 2 times, but there is no image",
        "is about one image, got 2",
    ),
    (REPLY_WITH_PICTURE, "conversation 0, message 1: expected parts", "message 1: expected parts of the type text, or image of the user"),
    ([*QUESTION, *SYSTEM], "message 1: expected the role 'assistant', got 'system'", "expected the role assistant, got system"),
    ([*SYSTEM, *SYSTEM], "message 1: expected the role 'user', got 'system'", "message 1: expected the role user, got system"),
    (SYSTEM, "a message of the system only", "a message of the system only"),
    (
        [{"role": "system", "content": [{"type": "image", "image": picture(0)}]}, *QUESTION],
        "conversation 0, message 0: expected parts",
        "message 0: expected parts of the type text, got image",
    ),
    (VIDEO, "conversation 0, message 0: expected parts", "expected parts of the type text, or image of the user, got video"),
]


@pytest.mark.parametrize(("messages", "tokenised", "text"), BAD_CONVERSATIONS)
def test_conversations_that_nobody_can_answer_are_refused(tiny, messages, tokenised, text):
    _, processor = tiny
    with pytest.raises(ValueError, match=tokenised):
        processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    with pytest.raises(jinja2.TemplateError, match=text):
        processor.apply_chat_template(messages, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "images: the list is empty"),
        ([{"role": "user", "content": [{"type": "image"}]}], "conversation 0: its image part is empty"),
        ([{"role": "user", "content": [{"type": "image", "path": "absent.png"}]}], "absent.png: no such file"),
        ([{"role": "user", "content": "What is on <image>?"}], "<image> is mentioned 1 times, but there is no image"),
        (["What is it?"], "expected a list of at least one message dictionary"),
    ],
)
def test_a_missing_picture_or_message_is_named(tiny, messages, message):
    _, processor = tiny
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(messages, tokenize=True, allow_paths=True)


def test_two_pictures_in_one_row_are_refused_in_a_call_too(tiny):
    _, processor = tiny
    with pytest.raises(ValueError, match="<image> is mentioned 2 times, but there is one image"):
        processor(images=picture(0), conversations=[{"role": "user", "content": "<image> or <image>?"}])


def test_an_own_template_is_for_text_only(tiny):
    _, processor = tiny
    with pytest.raises(ValueError, match="without chat_template, tools"):
        processor.apply_chat_template(QUESTION, "{{ messages }}", tokenize=True, tools=[])
    assert processor.apply_chat_template(DIALOGUE[:2], continue_final_message=True).endswith("[/INST] A cup.")
    with pytest.raises(ValueError, match="continue_final_message writes text only"):
        processor.apply_chat_template(DIALOGUE[:2], tokenize=True, continue_final_message=True)
