"""Texts of datasets of conversations and questions: checks, lettered choices, and the sentences that ask for short answers.

Texts have no `<image>`: the processor puts the image in front of the first message.

Source of the sentences: LLaVA-1.5 (arXiv:2310.03744), its prompts for short answers and for multiple choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, Literal

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
TextOnly = Literal["keep", "drop"]  # what happens to records without an image

# Of the model's prompts, and the end of a text for Phi. The processor refuses them in a text. They are found while rows are made, so that
# they do not end a training in the middle.
SPECIAL_TOKENS = ("<image>", "<region>", "<mask_query>", "[SEG]", "[PAD]", "<|endoftext|>")


def check_text(text: Any, name: str) -> str:
    """Checks a text and returns it; messages call it `name`.

    Raises:
        ValueError: no string, blank, or with a special token of the model (that of Phi's tokenizer included).
    """
    if not isinstance(text, str):
        raise ValueError(f"{name}: expected a text, got {text!r:.80}")
    if not text.strip():
        raise ValueError(f"{name} is blank")
    for token in SPECIAL_TOKENS:
        if token in text:
            raise ValueError(f"{name} contains {token!r}, which the model reads as a special token")
    return text


def question_messages(question: str, instruction: str, answer: str | None) -> list[dict[str, str]]:
    """Messages of a question: the user's, with the instruction on a line of its own ("" = none); and the answer, if there is one.

    Raises:
        ValueError: see `check_text`.
    """
    check_text(question, "the question")
    messages = [{"role": "user", "content": f"{question}\n{instruction}" if instruction else question}]
    if answer is not None:
        messages.append({"role": "assistant", "content": check_text(answer, "the answer")})
    return messages


def lettered(question: str, choices: Sequence[str]) -> str:
    """Text of a multiple-choice question: the question, then every choice on a line: "A. ...".

    Raises:
        ValueError: fewer than two choices, or a blank one.
    """
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not 2 <= len(choices) <= len(ascii_uppercase):
        raise ValueError(f"expected a list of at least 2 choices, got {choices!r:.80}")
    lines = [f"{letter}. {check_text(choice, f'choice {letter}')}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lines])
