"""Prompts: the sentences of each style, the special tokens, and the token layout of one row.

A row is a sequence of `Piece`s. Every piece is tokenised on its own, as the released code does, so a piece that ends in a
blank keeps a token for that blank in front of an image, a category name, a region or the mask queries.

Styles:
    released: the sentences the published weights were trained and evaluated with, slips of grammar included.
    paper: the instructions of Table 14 of the paper in the frame "This is an image <image>, ... .".
    plain: the alignment stage of LLaVA; image tokens, caption, newline. Conversations only.

Source: PSALM (github.com/zamling/PSALM, d5dbfda), conversation template "llava_phi"; PSALM (arXiv:2403.14598), Table 14.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

PAD_TOKEN = "[PAD]"
SEG_TOKEN = "[SEG]"
IMAGE_TOKEN = "<image>"
REGION_TOKEN = "<region>"
MASK_QUERY_TOKEN = "<mask_query>"
PLACEHOLDERS = (IMAGE_TOKEN, REGION_TOKEN, MASK_QUERY_TOKEN)

BACKGROUND_NAME = "background"
IGNORED_LABEL = -100
# Kinds of condition; the position is the row's `condition_type`. The same names: psalm_hf.structures.
ROW_KINDS = ("category", "sentence", "region", "conversation")
CATEGORY, SENTENCE, REGION, CONVERSATION = range(4)
CATEGORY_TASKS = ("panoptic", "semantic", "instance")

SYSTEM_MESSAGE = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_CONDITIONS = "{conditions}"
_RELEASED_CATEGORIES = "This is an image <image>, Please do %s Segmentation.\nThis is all the candidate categories: {conditions}.\n"
_PAPER_CATEGORIES = "This is an image <image>, You need to segment all objects. This is all the candidate categories: {conditions}."
# A conversation row as text, for transformers' chat functions; `conversation_pieces` is what the processor itself goes by, and writes the
# same. Images of a message go in front of its texts, as in LLaVA. `generation` marks what the assistant says.
CHAT_TEMPLATE = """\
{% set seen = namespace(images=0) %}
{% set system = namespace(text='%SYSTEM%', messages=0) %}
{% if messages and messages[0]['role'] == 'system' %}
    {% set system.messages = 1 %}
    {% if messages[0]['content'] is string %}
        {% set system.text = messages[0]['content'] %}
    {% else %}
        {% set system.text = '' %}
        {% for part in messages[0]['content'] %}
            {% if part['type'] != 'text' %}
                {{ raise_exception('message 0: expected parts of the type text, got ' ~ part['type']) }}
            {% endif %}
            {% set system.text = system.text ~ part['text'] %}
        {% endfor %}
    {% endif %}
{% endif %}
{% if system.messages == 1 and messages | length == 1 %}
    {{ raise_exception('a message of the system only; expected one of the user behind it') }}
{% endif %}
{% for message in messages[system.messages:] %}
    {% set number = loop.index0 + system.messages %}
    {% set role = ['user', 'assistant'][loop.index0 % 2] %}
    {% if message['role'] != role %}
        {{ raise_exception('message ' ~ number ~ ': expected the role ' ~ role ~ ', got ' ~ message['role'] ~ '; turns alternate') }}
    {% endif %}
    {% set text = namespace(value='') %}
    {% if message['content'] is string %}
        {% set text.value = message['content'] %}
    {% else %}
        {% for part in message['content'] %}
            {% if part['type'] == 'image' and role == 'user' %}
                {% set text.value = '<image>\\n' ~ text.value %}
            {% elif part['type'] == 'text' %}
                {% set text.value = text.value ~ part['text'] %}
            {% else %}
                {{ raise_exception('message ' ~ number ~ ': expected parts of the type text, or image of the user, got ' ~ part['type']) }}
            {% endif %}
        {% endfor %}
    {% endif %}
    {% set seen.images = seen.images + text.value.count('<image>') %}
    {% if role == 'assistant' %}
        {% generation %}{{- ' ' ~ text.value ~ ' ' ~ eos_token -}}{% endgeneration %}
    {% elif loop.first %}
        {{- '[INST] <<SYS>>\\n' ~ system.text ~ '\\n<</SYS>>\\n\\n' ~ text.value ~ ' [/INST]' -}}
    {% else %}
        {{- eos_token ~ '[INST] ' ~ text.value ~ ' [/INST]' -}}
    {% endif %}
{% endfor %}
{% if seen.images > 1 %}
    {{ raise_exception('a conversation is about one image, got ' ~ seen.images) }}
{% endif %}
{% if add_generation_prompt and messages[-1]['role'] == 'assistant' %}
    {{ raise_exception('the last message is of the assistant, so that nothing is left to answer; end with that of the user') }}
{% endif %}
""".replace("%SYSTEM%", SYSTEM_MESSAGE)
# What the user says, by style and by what is asked for. The released instance prompt says "Panoptic" too, and its region
# prompt has TWO blanks after the colon (they are one token).
HUMAN_TURNS: dict[str, dict[str, str]] = {
    "released": {
        "panoptic": _RELEASED_CATEGORIES % "Panoptic",
        "semantic": _RELEASED_CATEGORIES % "Semantic",
        "instance": _RELEASED_CATEGORIES % "Panoptic",
        "sentence": ("This is an image <image>, Please doing Referring Segmentation according to the following instruction:\n{conditions}"),
        "region": "This is an image <image>, Please segment by given regions\nThis is all regions:  {conditions}.\n",
    },
    "paper": {
        "panoptic": _PAPER_CATEGORIES,
        "semantic": _PAPER_CATEGORIES,
        "instance": _PAPER_CATEGORIES,
        "sentence": "This is an image <image>, Please segment according to the following instruction: {conditions}.",
        "region": "This is an image <image>, Please segment by given regions: {conditions}.",
    },
}
STYLES = (*HUMAN_TURNS, "plain")


@dataclass(frozen=True)
class Piece:
    """One stretch of a row: a text that is tokenised on its own, or one of the placeholders.

    Attributes:
        text: the text, or the placeholder's own name.
        condition: 0, or c + 1 if the tokens belong to condition c.
        is_answer: the language model learns to say it.
    """

    text: str
    condition: int = 0
    is_answer: bool = False


@dataclass(frozen=True)
class EncodedRow:
    """One row in token ids, placeholders expanded; three lists of equal length T."""

    input_ids: list[int]
    condition_index: list[int]
    labels: list[int]


def prepare_tokenizer(tokenizer: Any) -> None:
    """Adds `[PAD]`, `[SEG]` and the placeholders, in this order, as far as the tokenizer lacks them, and marks all as special.

    The order gives Phi's tokenizer the released ids: 50295 and 50296, then 50297, 50298, 50299. The placeholders need no
    row in an embedding matrix: the model replaces them.
    """
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    known = set(tokenizer.all_special_tokens)
    missing = [token for token in (SEG_TOKEN, *PLACEHOLDERS) if token not in known]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)


def category_order(num_categories: int, generator: Random | None, *, style: str) -> list[int]:
    """The order in which the categories are written, the background being the last of them: as given, or shuffled.

    Args:
        generator: shuffles them; None leaves them as given.
        style: the paper appends `background` at the end of the joint sentence, so with "paper" it keeps its place; with "released" it is
            shuffled among the others, as the released code trains.
    """
    order = list(range(num_categories))
    if generator is None:
        return order
    background = order[-1:] if style == "paper" else []
    order = order[: num_categories - len(background)]
    generator.shuffle(order)
    return order + background


def category_pieces(
    categories: Sequence[str], *, style: str, task: str, end_of_text: str, order: Sequence[int] | None = None
) -> list[Piece]:
    """The row of a category condition.

    Args:
        categories: names in the caller's order, the background last; they number the conditions.
        style: "released" or "paper".
        task: "panoptic", "semantic" or "instance".
        end_of_text: the tokenizer's end-of-text token.
        order: which category is written first, second, ...; default as given.
    """
    order = range(len(categories)) if order is None else order
    names = [Piece(categories[index] + SEG_TOKEN, condition=index + 1) for index in order]
    return _segmentation_pieces(HUMAN_TURNS[style][task], names, end_of_text)


def sentence_pieces(sentences: Sequence[str], *, style: str, end_of_text: str) -> list[Piece]:
    """The row of a referring expression; several sentences describe the same target and make one condition."""
    if style == "released":
        text = "".join(f" {sentence}." for sentence in sentences)
    else:
        text = ". ".join(sentences)
    return _segmentation_pieces(HUMAN_TURNS[style]["sentence"], [Piece(text + SEG_TOKEN, condition=1)], end_of_text)


def region_pieces(num_regions: int, *, style: str, end_of_text: str) -> list[Piece]:
    """The row of `num_regions` visual prompts, one placeholder each."""
    regions = [Piece(REGION_TOKEN, condition=index + 1) for index in range(num_regions)]
    # This [SEG] is part of the released answer and belongs to no condition.
    return _segmentation_pieces(HUMAN_TURNS[style]["region"], regions, end_of_text, answer=f" \n{SEG_TOKEN}")


def conversation_pieces(messages: Sequence[Mapping[str, str]], *, has_image: bool, end_of_text: str) -> list[Piece]:
    """The row of a conversation, turns alternating from the user on; a message of the system in front replaces `SYSTEM_MESSAGE`.

    If the last message is the user's, the row ends right after `[/INST]`, without a blank: a word's token includes the blank
    before it, so that blank belongs to the answer, in training as in generation. `<image>` and a newline go in front of the
    first turn if no turn mentions `<image>`.
    """
    system = SYSTEM_MESSAGE
    if messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    mentioned = any(IMAGE_TOKEN in message["content"] for message in messages)
    pieces = []
    for number, message in enumerate(messages):
        text = message["content"]
        if message["role"] == "assistant":
            pieces.append(Piece(f" {text} {end_of_text}", is_answer=True))
            continue
        if number == 0:
            if has_image and not mentioned:
                text = f"{IMAGE_TOKEN}\n{text}"
            pieces += _split_at_image(f"{_system_turn(system)}{text} [/INST]")
        else:
            pieces += _split_at_image(f"{end_of_text}[INST] {text} [/INST]")
    return pieces


def plain_messages(messages: Sequence[Mapping[str, Any]], name: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """Messages whose content may be a list of parts -> messages of one text each, as `CHAT_TEMPLATE` writes them, and their images.

    Args:
        messages: a content is a text, or a list of `{"type": "text", "text": str}` and `{"type": "image"}` with the image as "image",
            "url" or "path".
        name: of the conversation, for the messages of errors.

    Returns:
        The messages, and what every image part holds, None where it is empty. Nothing is opened.

    Raises:
        ValueError: a part of another form, or an image in a message of the assistant.
    """
    plain: list[dict[str, Any]] = []
    images: list[Any] = []
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, (list, tuple)):
            plain.append(message)
            continue
        text = ""
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "text" and isinstance(part.get("text"), str):
                text += part["text"]
            elif kind == "image" and message.get("role") == "user":
                images.append(next((part[key] for key in ("image", "url", "path") if part.get(key) is not None), None))
                text = f"{IMAGE_TOKEN}\n{text}"
            else:
                raise ValueError(
                    f"{name}, message {number}: expected parts {{'type': 'text', 'text': ...}}, or {{'type': 'image', ...}} of the user, "
                    f"got {part!r:.80}"
                )
        plain.append({**message, "content": text})
    return plain, images


def plain_pieces(caption: str) -> list[Piece]:
    """The row of the alignment stage: image tokens, caption, newline; the caption and its newline are learned."""
    return [Piece(IMAGE_TOKEN), Piece(f"{caption}\n", is_answer=True)]


def tokenize_texts(tokenizer: Any, texts: Iterable[str]) -> dict[str, list[int]]:
    """Token ids of every distinct text, in one call of the tokenizer."""
    distinct = [text for text in dict.fromkeys(texts) if text and text not in PLACEHOLDERS]
    if not distinct:
        return {}
    return dict(zip(distinct, tokenizer(distinct, add_special_tokens=False)["input_ids"], strict=True))


def encode_row(
    pieces: Sequence[Piece], token_ids: Mapping[str, list[int]], placeholder_ids: Mapping[str, int], counts: Mapping[str, int]
) -> EncodedRow:
    """Joins the pieces of a row and expands its placeholders.

    Args:
        pieces: the row.
        token_ids: of every text, see `tokenize_texts`.
        placeholder_ids: token id of every placeholder.
        counts: how many tokens one `<image>` and one `<mask_query>` stand for; a `<region>` is one token.

    Returns:
        Ids, condition of each token (0 none), and labels: the ids where the language model learns, else -100. Placeholders
        are never learned.
    """
    ids: list[int] = []
    conditions: list[int] = []
    labels: list[int] = []
    for piece in pieces:
        is_text = piece.text not in PLACEHOLDERS
        if is_text:
            piece_ids = token_ids[piece.text] if piece.text else []
        else:
            piece_ids = [placeholder_ids[piece.text]] * counts.get(piece.text, 1)
        ids += piece_ids
        conditions += [piece.condition] * len(piece_ids)
        labels += piece_ids if piece.is_answer and is_text else [IGNORED_LABEL] * len(piece_ids)
    return EncodedRow(ids, conditions, labels)


def _system_turn(message: str = SYSTEM_MESSAGE) -> str:
    return f"[INST] <<SYS>>\n{message}\n<</SYS>>\n\n"


def _segmentation_pieces(
    human_turn: str, conditions: Sequence[Piece], end_of_text: str, answer: str = " \nSure, the segmentation result is "
) -> list[Piece]:
    before, after = human_turn.split(_CONDITIONS)
    pieces = _split_at_image(_system_turn() + before)
    for number, condition in enumerate(conditions):
        if number:
            pieces.append(Piece(", "))
        pieces.append(condition)
    # Nothing is merged across "]" and the blank after it, so cutting there to mark the answer leaves the ids alone.
    return [
        *pieces,
        Piece(f"{after} [/INST]"),
        Piece(answer, is_answer=True),
        Piece(MASK_QUERY_TOKEN, is_answer=True),
        Piece(f" {end_of_text}", is_answer=True),
    ]


def _split_at_image(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    for number, part in enumerate(text.split(IMAGE_TOKEN)):
        if number:
            pieces.append(Piece(IMAGE_TOKEN))
        pieces.append(Piece(part))
    return pieces
