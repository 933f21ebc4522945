"""A dialogue about a picture, in the terminal.

    python examples/chat.py                                       # the bundled picture, by psalm-tiny
    python examples/chat.py kitchen.jpg --checkpoint DIR
    printf 'What is on the table?\\n/segment the red cup\\n' | python examples/chat.py kitchen.jpg --checkpoint DIR

A line is a question; the answer appears word by word, and later questions know what was said before. Lines that begin with a slash:

    /segment TEXT           what TEXT means, such as "the red cup", is outlined in PREFIX_1.png, then PREFIX_2.png, ...
    /categories A, B, ...   everything in the picture that is one of these, likewise
    /image PATH             go on with another picture (file or URL), in a new dialogue
    /new                    forget what was said
    /help                   show this list

The end of the input ends the dialogue (Ctrl-D); Ctrl-C stops an answer. A picture is encoded once, however much is asked about it.

psalm-tiny, which answers without --checkpoint, was trained on drawn shapes alone: ask about colours and numbers of shapes.
"""

import argparse
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

BUNDLED_PICTURE = Path(__file__).parent / "pictures" / "shapes.png"
COMMANDS = {
    "/segment": ("TEXT", "what TEXT means, in a picture"),
    "/categories": ("A, B, ...", "everything that is one of these, in a picture"),
    "/image": ("PATH", "go on with another picture"),
    "/new": ("", "forget what was said"),
    "/help": ("", "show this list"),
}
HELP = "\n".join(f"  {f'{name} {argument}':<24}{text}" for name, (argument, text) in COMMANDS.items())


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        dialogue = open_dialogue(options, write)
    except (ValueError, OSError) as error:
        print(f"chat: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    write("Ask about the picture; /help lists what else there is.\n")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text of the terminal's encoding
    converse(dialogue, typed_lines(sys.stdin.isatty()))
    return 0


class Dialogue:
    """What was said about one picture, and how to go on.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        write: takes pieces of text for the user.
        output: prefix of the pictures that are written.
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
        self.output, self.threshold, self.max_new_tokens, self.temperature = output, threshold, max_new_tokens, temperature
        self.image: Any = None
        self.image_features: Any = None
        self.messages: list[dict[str, str]] = []

    def look_at(self, path: str) -> None:
        """Opens a picture, encodes it, and begins a new dialogue about it.

        Raises:
            ValueError: it cannot be opened; then nothing has changed.
        """
        import torch

        from psalm_hf import load_image

        image = load_image(path)
        pixels = self.processor.image_processor([image], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            self.image_features = self.model.get_image_features(pixels.to(self.model.device))
        self.image, self.messages = image, []
        self.write(f"{path}: {image.width} x {image.height} pixels\n")

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
        inputs = self._inputs(conversations=messages, max_length=sys.maxsize)  # counted here, where it is known what to do
        length, longest = inputs["input_ids"].shape[1], self.processor.max_length
        if length >= longest:
            raise ValueError(f"the dialogue has {length} tokens, and with an answer at most {longest} fit; forget what was said by /new")
        tokenizer = self.processor.tokenizer
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        tokens = self.model.generate(
            **inputs,
            **sampling,
            max_new_tokens=min(self.max_new_tokens, longest - length),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            streamer=word_streamer(tokenizer, self.write),
        )
        answer = tokenizer.decode(tokens[0, length:], skip_special_tokens=True).strip()
        if answer:
            self.messages = [*messages, {"role": "assistant", "content": answer}]
        else:
            self.write("(no answer)")
        self.write("\n")

    def segment(self, expression: str) -> None:
        """Outlines what an expression means."""
        outputs, size = self._segmentation(expressions=[expression])
        (found,) = self.processor.post_process_referring_segmentation(outputs, target_sizes=size)
        if found["no_target"]:
            self.write(f"nothing in the picture is {expression!r} (score {found['score']:.2f})\n")
        else:
            self._draw(found["segmentation"][None], [expression], [found["score"]])

    def find(self, categories: list[str]) -> None:
        """Outlines everything that belongs to one of the categories."""
        outputs, size = self._segmentation(categories=categories)
        (found,) = self.processor.post_process_panoptic_segmentation(outputs, threshold=self.threshold, target_sizes=size)
        segments = found["segments_info"]
        if not segments:
            self.write(f"nothing in the picture is {' or '.join(categories)} with a score of {self.threshold}\n")
            return
        masks = [found["segmentation"] == segment["id"] for segment in segments]
        self._draw(masks, [categories[segment["label_id"]] for segment in segments], [segment["score"] for segment in segments])

    def _inputs(self, **prompt: Any) -> dict[str, Any]:
        """What the model takes, with the picture as it was encoded."""
        inputs = self.processor(images=self.image, return_tensors="pt", **prompt).to(self.model.device)
        del inputs["pixel_values"]
        return {**inputs, "image_features": self.image_features}

    def _segmentation(self, **prompt: Any) -> tuple[Any, Any]:
        """Outputs of the model, and the size of the picture."""
        import torch

        inputs = self._inputs(**prompt)
        with torch.no_grad():
            return self.model(**inputs), inputs["original_sizes"]

    def _draw(self, masks: Any, labels: list[str], scores: list[float]) -> None:
        from psalm_hf.visualization import draw_segmentation

        path = free_path(self.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_segmentation(self.image, [mask.cpu().numpy() for mask in masks], labels, scores).save(path)
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


def typed_lines(is_terminal: bool) -> Iterator[str]:
    """Lines of the standard input, until it ends."""
    while True:
        try:
            yield input("> " if is_terminal else "")
        except (EOFError, KeyboardInterrupt):
            return


def word_streamer(tokenizer: Any, write: Callable[[str], None]) -> Any:
    """What `generate` hands its tokens to, and what writes them as text, word by word."""
    from transformers import TextStreamer

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


def write(text: str) -> None:
    print(text, end="", flush=True)


def open_dialogue(options: argparse.Namespace, write: Callable[[str], None]) -> Dialogue:
    """Loads the checkpoint and encodes the picture."""
    from psalm_hf import PsalmForSegmentation, PsalmProcessor, tiny_checkpoint
    from psalm_hf.devices import pick_device

    checkpoint = options.checkpoint or tiny_checkpoint()
    device = pick_device(options.device)
    processor = PsalmProcessor.from_pretrained(checkpoint)
    model = PsalmForSegmentation.from_pretrained(checkpoint, dtype=options.dtype).eval()
    model.to(device)
    settings = {name: getattr(options, name) for name in ("output", "max_new_tokens", "temperature", "threshold")}
    dialogue = Dialogue(model, processor, write, **settings)
    dialogue.look_at(options.image)
    return dialogue


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=str(BUNDLED_PICTURE), help="file or URL (default: drawn shapes)")
    parser.add_argument("--checkpoint", help="folder or Hub id; also an original PSALM folder (default: psalm-tiny)")
    parser.add_argument("--output", default="chat", metavar="PREFIX", help="of the pictures that are written (default: chat)")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default: 128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of sampling; 0 = the most probable words (default)")
    parser.add_argument("--threshold", type=float, default=0.8, help="least score of a segment of /categories (default: 0.8)")
    parser.add_argument("--device", help="such as cpu, cuda:1, mps or xpu (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights (default: float32)")
    options = parser.parse_args(arguments)
    if options.max_new_tokens < 1:
        parser.error(f"--max-new-tokens must be at least 1, got {options.max_new_tokens}")
    if options.temperature < 0:
        parser.error(f"--temperature must be at least 0, got {options.temperature}")
    if not 0 <= options.threshold <= 1:
        parser.error(f"--threshold must be between 0 and 1, got {options.threshold}")
    return options


if __name__ == "__main__":
    sys.exit(main())
