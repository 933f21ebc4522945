"""Texts of conversations and questions: what is refused, and how choices are written."""

import pytest

from psalm_hf.data.benchmarks.conversations import SPECIAL_TOKENS, check_text, lettered, question_messages
from psalm_hf.model import prompts


def test_a_question_is_followed_by_its_instruction_and_answer():
    assert question_messages("Is it red?", "One word.", "yes") == [
        {"role": "user", "content": "Is it red?\nOne word."},
        {"role": "assistant", "content": "yes"},
    ]
    assert question_messages("Is it red?", "", None) == [{"role": "user", "content": "Is it red?"}]


def test_choices_are_lettered_below_the_question():
    assert lettered("Which?", ["a cup", "a can", "a bowl"]) == "Which?\nA. a cup\nB. a can\nC. a bowl"


@pytest.mark.parametrize(
    "choices, message", [(["one"], "at least 2 choices"), ("AB", "at least 2 choices"), (["one", " "], "choice B is blank")]
)
def test_what_is_no_choice_is_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        lettered("Which?", choices)


@pytest.mark.parametrize("token", ["<image>", "<region>", "<mask_query>", "[SEG]", "[PAD]", "<|endoftext|>"])
def test_texts_that_the_processor_would_refuse_are_refused_before(token):
    with pytest.raises(ValueError, match="turn 3 contains .* special token"):
        check_text(f"an RSS feed has {token} in it", "turn 3")


def test_all_special_tokens_of_prompts_are_known():
    assert {*prompts.PLACEHOLDERS, prompts.SEG_TOKEN, prompts.PAD_TOKEN} < set(SPECIAL_TOKENS)


@pytest.mark.parametrize("text, message", [(None, "turn 0: expected a text, got None"), (" \n", "turn 0 is blank")])
def test_what_is_no_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_text(text, "turn 0")
