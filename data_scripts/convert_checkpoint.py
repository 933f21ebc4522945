"""Convert an original PSALM folder (`model_type: llava_phi`) into a psalm_hf folder: safetensors, own names, processor included.

    python data_scripts/convert_checkpoint.py ORIGINAL OUTPUT [--dtype float32]

`PsalmForSegmentation.from_pretrained(ORIGINAL)` works without this step; a converted folder loads faster, can be pushed to the
Hub, and opens with `trust_remote_code=True` where psalm_hf is not installed.
"""

import argparse
import sys
from pathlib import Path


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", help="folder or Hub id of the original checkpoint")
    parser.add_argument("output", type=Path, help="folder to write; must not exist yet")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: as stored")
    return parser.parse_args(arguments)


def convert(original: str, output: Path, dtype: str) -> None:
    from psalm_hf import PsalmForSegmentation, PsalmProcessor
    from psalm_hf.checkpoints.writing import check_absent, write_checkpoint

    check_absent(output)  # before gigabytes are read
    model = PsalmForSegmentation.from_pretrained(original, dtype=dtype)
    write_checkpoint(output, model, PsalmProcessor.from_pretrained(original))


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        convert(options.original, options.output, options.dtype)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
