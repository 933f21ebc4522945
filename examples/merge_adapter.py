"""Merges the adapter of a LoRA run into its model: an ordinary folder that loads where peft is not installed.

python examples/merge_adapter.py --adapter outputs/lora --output outputs/lora_merged
"""

import argparse
import sys


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", required=True, help="folder that a run with lora wrote, or Hub id")
    parser.add_argument("--output", required=True, help="folder to write; must not exist yet")
    parser.add_argument("--base", help="folder or Hub id of the model that the adapter was trained on; default: what the adapter names")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: as the base is stored")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)

    from psalm_hf.cli.command import run
    from psalm_hf.training.lora import merge_adapter

    def merge(options: argparse.Namespace) -> None:
        merge_adapter(options.adapter, options.output, options.base, dtype=options.dtype)
        print(f"wrote {options.output}", file=sys.stderr)

    return run(merge, options)


if __name__ == "__main__":
    sys.exit(main())
