"""Holds a dialogue about an image, in the terminal.

    psalm chat                                       # a drawn image, by psalm-tiny
    psalm chat kitchen.jpg --checkpoint DIR
    printf 'What is on the table?\\n/segment the red cup\\n' | psalm chat kitchen.jpg --checkpoint DIR

A line is a question; the answer appears word by word, and later questions know what was said before. Lines that begin with a slash:

    /segment TEXT           what TEXT means, such as "the red cup", is outlined in PREFIX_1.png, then PREFIX_2.png, ...
    /categories A, B, ...   everything in the image that is one of these, likewise
    /image PATH             go on with another image (file or URL), in a new dialogue
    /new                    forget what was said
    /help                   show this list

The end of the input ends the dialogue (Ctrl-D); Ctrl-C stops an answer. An image is encoded once, however much is asked about it.

psalm-tiny, which answers without --checkpoint, was trained on drawn shapes alone: ask about colours and numbers of shapes.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..checkpoints import resolve_checkpoint
from .command import CommandParser, add_model_options, load_model, refuse

if TYPE_CHECKING:
    from ..dialogue import Dialogue


def main(arguments: list[str] | None = None) -> int:
    try:
        dialogue = open_dialogue(parse_arguments(arguments))
    except (ValueError, OSError) as error:
        return refuse(error)

    from ..dialogue import converse

    write("Ask about the picture; /help lists what else there is.\n")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text of the terminal's encoding
    converse(dialogue, typed_lines(sys.stdin.isatty()))
    return 0


def typed_lines(is_terminal: bool) -> Iterator[str]:
    """Lines of the standard input, until it ends."""
    while True:
        try:
            yield input("> " if is_terminal else "")
        except (EOFError, KeyboardInterrupt):
            return


def write(text: str) -> None:
    print(text, end="", flush=True)


def open_dialogue(options: argparse.Namespace) -> "Dialogue":
    """Loads the checkpoint and encodes the image, which is opened before."""
    resolve_checkpoint(options.checkpoint)  # what no checkpoint can be called is refused before torch is loaded

    from ..data.shapes.scene import example_image
    from ..dialogue import Dialogue
    from ..model.image_processing_psalm import load_image

    image = load_image(options.image) if options.image else example_image()
    settings = {name: getattr(options, name) for name in ("output", "max_new_tokens", "temperature", "threshold")}
    dialogue = Dialogue(*load_model(options), write, **settings)
    dialogue.show(image, options.image or "drawn shapes")
    return dialogue


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser("chat", __doc__)
    parser.add_argument("image", nargs="?", help="file or URL (default: drawn shapes)")
    parser.add_argument("--output", default="chat", metavar="PREFIX", help="of the images that are written (default: chat)")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default: 128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of sampling; 0 = the most probable words (default)")
    parser.add_argument("--threshold", type=float, default=0.8, help="least score of a segment of /categories (default: 0.8)")
    add_model_options(parser)
    options = parser.parse_args(arguments)
    parser.check_range(options, "max_new_tokens", lowest=1)
    parser.check_range(options, "temperature", lowest=0)
    parser.check_range(options, "threshold", lowest=0, highest=1)
    return options
