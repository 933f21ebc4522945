"""Code that all verbs share: options with suggestions, errors in one line, loading a checkpoint."""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from ..checked_yaml import read_yaml
from ..checkpoints import TINY
from ..spelling import did_you_mean

MANY_PARAMETERS = 10**8  # smaller models take a second at most
INTERRUPTED = 130  # exit status, as a shell has it of a program that Ctrl-C ends


class CommandParser(argparse.ArgumentParser):
    """Options of a verb. What is wrong with them is a ValueError, which says what was probably meant.

    Args:
        verb: as it is typed.
        description: text of the help.
        has_fields: any further `--field value` is taken, and returned by `parse_known_args`.
    """

    def __init__(self, verb: str, description: str | None, *, has_fields: bool = False):
        super().__init__(
            prog=f"psalm {verb}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=not has_fields,
        )
        self.has_fields = has_fields
        # argparse takes what begins with a minus for an option unless it is a single number; a box may begin outside of the image.
        self._negative_number_matcher = re.compile(r"-\.?\d[\d.,e+-]*$")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        self._args = args = sys.argv[1:] if args is None else list(args)
        if not self.has_fields:  # before what is missing is named: a misspelt option is why it is missing
            self._check_names(args[: args.index("--")] if "--" in args else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> None:
        if choice := re.search(r"invalid choice: '?([^' ]+)'? \(choose from (.*)\)", message):
            message += did_you_mean(choice[1], re.findall(r"[^', ]+", choice[2]))
        if missing := re.search(r"are required: (.*)", message):  # perhaps it was taken for a field
            message += next(filter(None, (did_you_mean(word, missing[1].split(", ")) for word in self._args if word.startswith("--"))), "")
        raise ValueError(message)

    def check_range(self, options: argparse.Namespace, *names: str, lowest: float, highest: float = math.inf) -> None:
        """Refuses options outside of a range; those that were not given have no value and are not checked."""
        for name in names:
            value = getattr(options, name)
            if value is not None and not lowest <= value <= highest:
                expected = f"at least {lowest}" if highest == math.inf else f"between {lowest} and {highest}"
                self.error(f"--{name.replace('_', '-')} must be {expected}, got {value}")

    def _check_names(self, args: Sequence[str]) -> None:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for name in (word.partition("=")[0] for word in args if word.startswith("--")):
            if not any(option.startswith(name) for option in known):
                raise ValueError(f"{self.prog} has no option {name}{did_you_mean(name, known) or '; see --help'}")


def yaml_mapping(text: str) -> dict[str, Any]:
    """Type of an option that is a YAML mapping of names and values that JSON can hold."""
    try:
        value = read_yaml(text, "it")
        json.dumps(value, allow_nan=False)
        if isinstance(value, dict) and all(isinstance(name, str) for name in value):
            return value
    except (ValueError, TypeError):
        pass
    raise argparse.ArgumentTypeError(f"is a YAML mapping such as '{{on_error: skip}}', got {text!r}")


def verb(command: Callable[[Any], int | None]) -> Callable[..., int]:
    """Makes the `main` of a verb. It returns the exit status of the command, 2 after a line that says what is wrong, 130 after Ctrl-C."""

    @wraps(command)
    def main(arguments: Any = None) -> int:
        try:
            return command(arguments) or 0
        except (ValueError, OSError, ImportError) as error:
            return refuse(error)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    return main


def refuse(error: Exception) -> int:
    """Prints one line on the standard error; returns exit status 2."""
    where = f" in process {os.environ['RANK']}" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"error{where}: {' '.join(_reason(error).split())}", file=sys.stderr)
    return 2


def _reason(error: Exception) -> str:
    """Message of an error, without the traceback that a worker of a DataLoader puts around it."""
    text = str(error)
    if not (text.startswith("Caught ") and "Original Traceback (most recent call last):" in text):
        return text
    return text.rpartition(f"\n{type(error).__name__}: ")[2] or text


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `load_model` reads: checkpoint, device, dtype, compile."""
    parser.add_argument("--checkpoint", default=TINY, help=f"folder or Hub id; also an original PSALM folder (default: {TINY})")
    parser.add_argument("--device", help="such as cpu, cuda:1, mps or xpu (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights (default: float32)")
    parser.add_argument("--compile", action="store_true", help="compile the model: minutes at the start, then faster; on a CPU by g++")


def load_model(options: argparse.Namespace) -> tuple:
    """Loads a model in evaluation mode and its processor.

    Raises:
        ValueError, OSError: no such checkpoint or device; no compiler.
    """
    from ..devices import compile_parts, pick_device
    from ..public import PsalmForSegmentation, PsalmProcessor

    device = pick_device(options.device)
    processor = PsalmProcessor.from_pretrained(options.checkpoint)
    model = PsalmForSegmentation.from_pretrained(options.checkpoint, dtype=options.dtype).to(device).eval()
    suggest_bfloat16(model)
    if options.compile:
        compile_parts(model)
    return model, processor


def suggest_bfloat16(model: Any) -> None:
    """Says that `--dtype bfloat16` is faster, where it is: a large model in float32 on a CPU that multiplies in bfloat16."""
    from ..devices import cpu_multiplies_bfloat16

    is_slow = str(model.dtype) == "torch.float32" and model.device.type == "cpu" and model.num_parameters() >= MANY_PARAMETERS
    if is_slow and cpu_multiplies_bfloat16():
        say("hint: this CPU multiplies matrices in bfloat16: --dtype bfloat16 takes less than half the time, with slightly other masks")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
