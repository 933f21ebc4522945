"""What datasets of conversations and questions share: checked texts, lettered options, and the sentences that ask for short answers.

Texts have no `<image>`: the processor puts the picture in front of the first message.

Source of the sentences: LLaVA-1.5 (arXiv:2310.03744), its prompts for short answers and for multiple choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
TEXT_ONLY = ("keep", "drop")

# Of the model's prompts, and the end of a text for Phi. The processor refuses them in a text. Found while rows are made, they do not end a
# training in the middle.
SPECIAL_TOKENS = ("<image>", "<region>", "<mask_query>", "[SEG]", "[PAD]", "<|endoftext|>")


def check_text(text: Any, name: str) -> str:
    """The text itself.

    Raises:
        ValueError: no string, blank, or with a special token of the model (that of Phi's tokenizer included); `name` says where.
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
    """The user's question with the instruction on a line of its own ("" = none), and the assistant's answer unless it is None.

    Raises:
        ValueError: see `check_text`.
    """
    check_text(question, "the question")
    messages = [{"role": "user", "content": f"{question}\n{instruction}" if instruction else question}]
    if answer is not None:
        messages.append({"role": "assistant", "content": check_text(answer, "the answer")})
    return messages


def lettered(question: str, choices: Sequence[str]) -> str:
    """The question, then every choice on a line: "A. ...".

    Raises:
        ValueError: less than two choices, or one that is blank.
    """
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not 2 <= len(choices) <= len(ascii_uppercase):
        raise ValueError(f"expected a list of at least 2 choices, got {choices!r:.80}")
    lines = [f"{letter}. {check_text(choice, f'choice {letter}')}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lines])
