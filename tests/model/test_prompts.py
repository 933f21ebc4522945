from typing import get_args

import pytest

from psalm_hf.model.prompts import (
    IMAGE_TOKEN,
    MASK_QUERY_TOKEN,
    REGION_TOKEN,
    ROW_KINDS,
    Piece,
    category_pieces,
    conversation_pieces,
    encode_row,
    plain_pieces,
    prepare_tokenizer,
    region_pieces,
    sentence_pieces,
    tokenize_texts,
)
from psalm_hf.structures import Condition
from psalm_hf.tiny import byte_tokenizer

END = "<end>"
SYSTEM = (
    "[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n"
)
ANSWER = " [/INST] \nSure, the segmentation result is <mask_query> <end>"


def test_the_kinds_of_rows_are_the_conditions_of_samples():
    assert ROW_KINDS == get_args(Condition)  # a checkpoint's folder cannot import them


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("task, word", [("panoptic", "Panoptic"), ("semantic", "Semantic"), ("instance", "Panoptic")])
def test_released_categories(task, word):
    pieces = category_pieces(["cup", "background"], style="released", task=task, end_of_text=END)
    assert text_of(pieces) == (
        f"{SYSTEM}This is an image <image>, Please do {word} Segmentation.\n"
        "This is all the candidate categories: cup[SEG], background[SEG].\n" + ANSWER
    )


def test_paper_prompts():
    frame = SYSTEM + "This is an image <image>, "
    assert text_of(category_pieces(["cup", "background"], style="paper", task="panoptic", end_of_text=END)) == (
        frame + "You need to segment all objects. This is all the candidate categories: cup[SEG], background[SEG]." + ANSWER
    )
    assert text_of(sentence_pieces(["the red cup"], style="paper", end_of_text=END)) == (
        frame + "Please segment according to the following instruction: the red cup[SEG]." + ANSWER
    )
    assert text_of(region_pieces(2, style="paper", end_of_text=END)) == (
        frame + "Please segment by given regions: <region>, <region>. [/INST] \n[SEG]<mask_query> <end>"
    )


def test_released_sentences_are_one_condition():
    pieces = sentence_pieces(["the cup", "left one"], style="released", end_of_text=END)
    assert text_of(pieces) == (
        f"{SYSTEM}This is an image <image>, Please doing Referring Segmentation according to the following instruction:\n"
        " the cup. left one.[SEG]" + ANSWER
    )
    assert [(piece.text, piece.condition) for piece in pieces if piece.condition] == [(" the cup. left one.[SEG]", 1)]


def test_released_regions():
    assert text_of(region_pieces(2, style="released", end_of_text=END)) == (
        f"{SYSTEM}This is an image <image>, Please segment by given regions\nThis is all regions:  <region>, <region>.\n"
        " [/INST] \n[SEG]<mask_query> <end>"
    )


def test_shuffled_names_keep_their_numbers():
    pieces = category_pieces(["a", "b", "background"], style="paper", task="panoptic", end_of_text=END, order=[2, 0, 1])
    named = [(piece.text, piece.condition) for piece in pieces if piece.condition]
    assert named == [("background[SEG]", 3), ("a[SEG]", 1), ("b[SEG]", 2)]


def test_conversation_to_answer_ends_where_the_answer_begins():
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}, {"role": "user", "content": "Why?"}]
    pieces = conversation_pieces(turns, has_image=True, end_of_text=END)
    assert text_of(pieces) == f"{SYSTEM}<image>\nWho? [/INST] I. <end><end>[INST] Why? [/INST]"
    assert [piece.text for piece in pieces if piece.is_answer] == [" I. <end>"]
    # What is learned continues what is asked for: training and generation cut the text at the same place.
    taught = conversation_pieces([*turns, {"role": "assistant", "content": "So."}], has_image=True, end_of_text=END)
    assert taught[: len(pieces)] == pieces
    assert taught[len(pieces) :] == [Piece(" So. <end>", is_answer=True)]


def test_conversation_keeps_the_image_where_the_user_put_it():
    turns = [{"role": "user", "content": "Look at <image> now"}]
    assert text_of(conversation_pieces(turns, has_image=True, end_of_text=END)) == f"{SYSTEM}Look at <image> now [/INST]"
    assert IMAGE_TOKEN not in text_of(conversation_pieces([{"role": "user", "content": "Hi"}], has_image=False, end_of_text=END))


def test_encoding_expands_placeholders_and_counts_every_token_of_a_condition():
    pieces = [Piece("ab"), Piece(IMAGE_TOKEN), Piece("c[SEG]", condition=2), Piece(REGION_TOKEN, condition=1), Piece("d", is_answer=True)]
    pieces.append(Piece(MASK_QUERY_TOKEN, is_answer=True))
    token_ids = {"ab": [1, 2], "c[SEG]": [3, 9], "d": [4]}
    row = encode_row(pieces, token_ids, {IMAGE_TOKEN: 50, REGION_TOKEN: 51, MASK_QUERY_TOKEN: 52}, {IMAGE_TOKEN: 3, MASK_QUERY_TOKEN: 2})
    assert row.input_ids == [1, 2, 50, 50, 50, 3, 9, 51, 4, 52, 52]
    assert row.condition_index == [0, 0, 0, 0, 0, 2, 2, 1, 0, 0, 0]
    assert row.labels == [-100] * 8 + [4, -100, -100]


def test_plain_style_learns_caption_and_newline():
    assert plain_pieces("a dog") == [Piece(IMAGE_TOKEN), Piece("a dog\n", is_answer=True)]


def test_texts_are_tokenised_once():
    class Counting:
        def __call__(self, texts, add_special_tokens):
            self.seen = texts
            return {"input_ids": [[len(text)] for text in texts]}

    tokenizer = Counting()
    assert tokenize_texts(tokenizer, [", ", "cup", ", ", IMAGE_TOKEN, ""]) == {", ": [2], "cup": [3]}
    assert tokenizer.seen == [", ", "cup"]


def test_preparing_a_tokenizer_twice_adds_nothing():
    tokenizer = byte_tokenizer()
    size = len(tokenizer)
    prepare_tokenizer(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(["<image>", "<region>", "<mask_query>"])
    prepare_tokenizer(tokenizer)
    assert ids == [size, size + 1, size + 2] == tokenizer.convert_tokens_to_ids(["<image>", "<region>", "<mask_query>"])
    assert len(tokenizer) == size + 3
    assert {"[PAD]", "[SEG]", "<image>"} <= set(tokenizer.all_special_tokens)
