"""Measures a checkpoint on held-out pictures of the shapes world, every task, and prints a table.

python examples/evaluate_shapes.py --checkpoint outputs/tiny/stage2 [--images 500 --split test --output results.json]
"""

import argparse
import json
import sys
from pathlib import Path


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id")
    parser.add_argument("--split", default="test", choices=("validation", "test", "unseen"))
    parser.add_argument("--images", type=int, default=500, help="pictures (default 500)")
    parser.add_argument("--batch_size", type=int, default=8, help="pictures per forward pass")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    from psalm_hf import PsalmForSegmentation, PsalmProcessor
    from psalm_hf.evaluation.shapes import evaluate_shapes

    processor = PsalmProcessor.from_pretrained(options.checkpoint)
    model = PsalmForSegmentation.from_pretrained(options.checkpoint).eval()
    results = evaluate_shapes(model, processor, split=options.split, num_images=options.images, batch_size=options.batch_size)
    for name, value in results.items():
        print(f"{name:<44}{value:8.1f}")
    if options.output is not None:
        record = {"checkpoint": options.checkpoint, "split": options.split, "images": options.images, "percent": results}
        options.output.write_text(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
