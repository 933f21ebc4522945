"""A model on questions: every row is answered in words, by `runner.answer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..data.collator import PsalmCollator
from ..structures import Sample

MAX_NEW_TOKENS = 16


class TextAnswers:
    """Answers in words, `{"text": {"text": str}}`. See `runner.Answerer`.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        max_new_tokens: of an answer, which is cut off there.
    """

    rows_per_sample = 1

    def __init__(self, model: Any, processor: Any, max_new_tokens: int = MAX_NEW_TOKENS):
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        self.collate = CollateQuestions(processor)

    def __call__(self, samples: Sequence[Sample], inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `runner.Answerer`."""
        texts = generate_answers(self.model, self.processor, inputs, max_new_tokens=self.max_new_tokens)
        return [{"text": {"text": text}} for text in texts]


class CollateQuestions:
    """Samples -> what the model takes: what is asked in them."""

    def __init__(self, processor: Any):
        self.collator = PsalmCollator(processor, with_targets=False)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return self.collator([question_of(sample) for sample in samples])


def question_of(sample: Sample) -> Sample:
    """The sample without the assistant's answer, which must not be in the prompt.

    Raises:
        ValueError: it is not one question of the user, with an answer or without.
    """
    roles = [message["role"] for message in sample.conversation]
    if roles not in (["user"], ["user", "assistant"]):
        given = f"a conversation of {', '.join(roles)}" if roles else f"a prompt of the kind {sample.condition}"
        raise ValueError(f"image {sample.image_id}, question {sample.record_id}: expected one message of the user, got {given}")
    return replace(sample, conversation=sample.conversation[:1])


def generate_answers(model: Any, processor: Any, inputs: Mapping[str, Any], *, max_new_tokens: int) -> list[str]:
    """The most probable words, token by token, without special tokens and blanks around them; one text per row."""
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    tokenizer = processor.tokenizer
    tokens = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]
