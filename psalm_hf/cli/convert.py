"""Converts an original PSALM folder (`model_type: llava_phi`) into a psalm_hf folder: safetensors, own names, processor included.

    psalm convert ORIGINAL OUTPUT [--dtype float32]
    psalm convert ADAPTER OUTPUT [--base MODEL]

`PsalmForSegmentation.from_pretrained(ORIGINAL)` works without this step; a converted folder loads faster, can be pushed to the
Hub, and opens with `trust_remote_code=True` where psalm_hf is not installed.

The adapter of a run with `lora` is merged into its model: the output loads where peft is not installed.
"""

import argparse
from pathlib import Path

from .command import CommandParser, say, verb


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("convert", __doc__)
    parser.add_argument("original", help="folder or Hub id of the original checkpoint, or of an adapter")
    parser.add_argument("output", type=Path, help="folder to write; must not exist yet")
    parser.add_argument("--base", help="of an adapter: folder or Hub id of its model (default: the one that it names)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: as stored")
    return parser.parse_args(arguments)


@verb
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)

    from transformers.utils.peft_utils import find_adapter_config_file

    from ..checkpoints import resolve_checkpoint
    from ..checkpoints.writing import check_absent, write_checkpoint
    from ..public import PsalmForSegmentation, PsalmProcessor

    check_absent(options.output)  # before gigabytes are read
    original = resolve_checkpoint(options.original)
    if find_adapter_config_file(original):
        from ..training.lora import merge_adapter

        merge_adapter(original, options.output, options.base, dtype=options.dtype)
    elif options.base:
        raise ValueError(f"--base: {original} is no adapter (adapter_config.json); leave --base out, or give the folder of a run with lora")
    else:
        model = PsalmForSegmentation.from_pretrained(original, dtype=options.dtype)
        write_checkpoint(options.output, model, PsalmProcessor.from_pretrained(original))
    say(f"wrote {options.output}")
