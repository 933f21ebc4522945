"""A model on questions: every row is answered in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from ..data.collator import PsalmCollator
from ..structures import Sample
from .benchmarks import Choices, OpenPart
from .runner import Predictor


class TextPredictor(Predictor):
    """Answers in words, `{"text": {"text": str}}`.

    Attributes:
        max_new_tokens: of an answer, which is cut off there.
    """

    max_new_tokens: ClassVar[int] = 16

    def __init__(self, model: Any, processor: Any, part: OpenPart, choices: Choices):
        super().__init__(model, processor, part, choices)
        self.collate = partial(collate_questions, PsalmCollator(processor, with_targets=False))

    def predict(self, samples: Sequence[Sample], inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The most probable words, token by token, without special tokens and blanks around them."""
        tokenizer = self.processor.tokenizer
        tokens = self.model.generate(
            **{name: tensor.to(self.model.device) for name, tensor in inputs.items()},
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [{"text": {"text": text.strip()}} for text in texts]


def collate_questions(collator: PsalmCollator, samples: Sequence[Sample]) -> dict[str, Any]:
    """Inputs of the model from the questions of samples."""
    return collator([question_of(sample) for sample in samples])


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
