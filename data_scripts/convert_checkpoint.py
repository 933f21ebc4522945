"""Convert an original PSALM folder (`model_type: llava_phi`) into a psalm_hf folder: safetensors, own names, processor included.

    python data_scripts/convert_checkpoint.py ORIGINAL OUTPUT [--dtype float32]

`PsalmForSegmentation.from_pretrained(ORIGINAL)` works without this step; a converted folder loads faster, can be pushed to the
Hub, and opens with `trust_remote_code=True` where psalm_hf is not installed.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", help="folder or Hub id of the original checkpoint")
    parser.add_argument("output", type=Path, help="folder to write; must not exist yet")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: as stored")
    return parser.parse_args(arguments)


def convert(original: str, output: Path, dtype: str) -> None:
    """Write beside the output and rename at the end: a folder that exists is complete."""
    from psalm_hf import PsalmForSegmentation, PsalmProcessor

    if output.exists():
        raise ValueError(f"{output}: exists already; remove it or give another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        PsalmForSegmentation.from_pretrained(original, dtype=dtype).save_pretrained(unfinished)
        PsalmProcessor.from_pretrained(original).save_pretrained(unfinished)
        unfinished.chmod(0o755)  # mkdtemp makes it private
        os.rename(unfinished, output)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


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
