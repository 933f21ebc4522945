"""A dialogue about an image, in words and masks, for `psalm chat`."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Cache, DynamicCache, TextStreamer

from .model.compatibility import CACHE
from .model.image_processing_psalm import load_image
from .model.prefix import shortened
from .predictor import PsalmPredictor
from .visualization import Color, draw_segmentation, label_colors

COMMANDS = {
    "/segment": ("TEXT", "what TEXT means, in an image"),
    "/categories": ("A, B, ...", "everything that is one of these, in an image"),
    "/image": ("PATH", "go on with another image"),
    "/new": ("", "forget what was said"),
    "/help": ("", "show this list"),
}
HELP = "\n".join(f"  {f'{name} {argument}':<24}{text}" for name, (argument, text) in COMMANDS.items())


class Dialogue:
    """Dialogue about one image. What was said is kept as the language model has read it, so that a question is read alone; at most a
    full context, in the released model 0.8 GB in float32.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        write: takes pieces of text for the user.
        output: prefix of the images that are written.
        max_new_tokens: of an answer.
        temperature: of sampling; 0 = the most probable words.
        threshold: class probability that a segment of /categories needs.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        write: Callable[[str], None],
        *,
        output: str = "chat",
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        threshold: float = 0.8,
    ):
        self.model, self.processor, self.write = model, processor, write
        self.predictor = PsalmPredictor(model, processor, cached_images=1)
        self.output, self.threshold, self.max_new_tokens, self.temperature = output, threshold, max_new_tokens, temperature
        self.messages: list[dict[str, str]] = []
        self._read: tuple[Tensor, Cache] | None = None

    def look_at(self, path: str) -> None:
        """Opens an image, encodes it, and begins a new dialogue about it.

        Raises:
            ValueError: it cannot be opened; then nothing has changed.
        """
        self.show(load_image(path), path)

    def show(self, image: Image.Image, name: str) -> None:
        """Encodes an image, and begins a new dialogue about it."""
        self.predictor.set_image(image)
        self.messages, self._read = [], None
        self.write(f"{name}: {image.width} x {image.height} pixels\n")
        if self.predictor.note:
            self.write(f"{self.predictor.note}\n")

    @property
    def image(self) -> Image.Image | None:
        """The image that the dialogue is about."""
        return self.predictor.image

    def take(self, line: str) -> None:
        """Does what one line asks for.

        Raises:
            ValueError, OSError: it cannot be done; the dialogue is as before.
        """
        name, text = [*line.split(None, 1), "", ""][:2]
        text = text.strip()
        if not line.startswith("/"):
            self.ask(line)
        elif name not in COMMANDS:
            raise ValueError(f"no command {name}; there are {', '.join(COMMANDS)}")
        elif bool(text) != bool(COMMANDS[name][0]):
            raise ValueError(f"{name} takes {COMMANDS[name][0] or 'nothing behind it'}, got {text!r}")
        elif name == "/segment":
            self.segment(text)
        elif name == "/categories":
            self.find([category.strip() for category in text.split(",")])
        elif name == "/image":
            self.look_at(text)
        elif name == "/new":
            self.messages = []
            self.write("What was said is forgotten.\n")
        else:
            self.write(f"{HELP}\n")

    def ask(self, question: str) -> None:
        """Answers in words, while they come; question and answer join the dialogue when the answer is complete."""
        messages = [*self.messages, {"role": "user", "content": question}]
        # Tokens are counted here, where it is known what to do.
        inputs = dict(self.processor.encode_prompt(conversation=messages, max_length=sys.maxsize).to(self.model.device))
        inputs["image_features"] = self.predictor.features
        length, longest = inputs["input_ids"].shape[1], self.processor.max_length
        if length >= longest:
            raise ValueError(f"the dialogue has {length} tokens, and with an answer at most {longest} fit; forget what was said by /new")
        tokenizer = self.processor.tokenizer
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        cache = self._take_read(inputs["input_ids"][0])
        with self.predictor.lock, torch.inference_mode():
            tokens = self.model.generate(
                **inputs,
                **sampling,
                **{CACHE: cache},
                max_new_tokens=min(self.max_new_tokens, longest - length),
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                streamer=word_streamer(tokenizer, self.write),
            )
        self._read = tokens[0], cache
        answer = tokenizer.decode(tokens[0, length:], skip_special_tokens=True).strip()
        if answer:
            self.messages = [*messages, {"role": "assistant", "content": answer}]
        else:
            self.write("(no answer)")
        self.write("\n")

    def _take_read(self, tokens: Tensor) -> Cache:
        """The cache of those tokens, (T,), at the beginning that were read for the last answer; an empty one if the image is not among
        them. Generating goes on writing into it, so it is taken away until the answer is complete."""
        read, self._read = self._read, None
        if read is not None:
            known, cache = read
            shorter = min(len(known), len(tokens))
            same = int((tokens[:shorter] == known[:shorter]).long().cumprod(0).sum())
            # The last token of an answer is not read any more, and of the new tokens one has to be.
            length = min(same, cache.get_seq_length(), len(tokens) - 1)
            has_image = not (tokens[length:] == self.model.config.image_token_id).any()
            if has_image and (cache := shortened(cache, length)) is not None:
                return cache
        return DynamicCache(config=self.model.config.text_config)

    def segment(self, expression: str) -> None:
        """Outlines what an expression means."""
        result = self.predictor.predict(expressions=[expression])
        if len(result):
            self._draw(result.masks, result.labels, result.scores.tolist())
        else:
            self.write(f"nothing in the image is {expression!r} (score {result.absent[expression]:.2f})\n")

    def find(self, categories: list[str]) -> None:
        """Outlines everything that belongs to one of the categories."""
        result = self.predictor.predict(categories=categories, threshold=self.threshold)
        if len(result):
            self._draw(result.masks, result.labels, result.scores.tolist(), colors=label_colors(categories))
        else:
            self.write(f"nothing in the image is {' or '.join(categories)} with a score of {self.threshold}\n")

    def _draw(self, masks: Any, labels: list[str], scores: list[float], colors: dict[str, Color] | None = None) -> None:
        path = free_path(self.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_segmentation(self.image, masks, labels, scores, colors=colors).save(path)
        self.write(f"wrote {path}: {', '.join(f'{label} ({score:.2f})' for label, score in zip(labels, scores, strict=True))}\n")


def converse(dialogue: Dialogue, lines: Iterable[str]) -> None:
    """Takes line after line. What cannot be done is said, and the dialogue goes on."""
    for line in lines:
        if not line.strip():
            continue
        try:
            dialogue.take(line.strip())
        except (ValueError, OSError) as error:
            dialogue.write(f"{' '.join(str(error).split())}\n")
        except KeyboardInterrupt:
            dialogue.write(" (stopped)\n")


def word_streamer(tokenizer: Any, write: Callable[[str], None]) -> TextStreamer:
    """Streamer for `generate` that writes tokens as text, word by word."""

    class WordStreamer(TextStreamer):
        has_begun = False

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            text = text if self.has_begun else text.lstrip()  # the blank in front of the first word
            self.has_begun |= bool(text)
            if text:
                write(text)

    return WordStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def free_path(prefix: str) -> Path:
    """The first of PREFIX_1.png, PREFIX_2.png, ... that does not exist."""
    number = 1
    while (path := Path(f"{prefix}_{number}.png")).exists():
        number += 1
    return path
