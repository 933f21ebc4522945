"""Measures a checkpoint on held-out pictures of the shapes world, every task, and prints a table with trivial answers beside it.

    python examples/evaluate_shapes.py --checkpoint outputs/tiny/stage2
    python examples/evaluate_shapes.py --checkpoint DIR --splits test --images 100 --output results.json --markdown table.md

The thresholds of referring answers are first calibrated on pictures of the validation split.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id")
    parser.add_argument("--splits", nargs="+", default=["test", "unseen"], choices=("validation", "test", "unseen"))
    parser.add_argument("--images", type=int, default=500, help="pictures of each split (default 500)")
    parser.add_argument("--batch_size", type=int, default=8, help="pictures per forward pass (default 8)")
    parser.add_argument(
        "--calibration_images", type=int, default=200, help="validation pictures for the thresholds (default 200); 0 = constant thresholds"
    )
    parser.add_argument("--output", type=Path, help="JSON file for all numbers, counts, thresholds and versions")
    parser.add_argument("--markdown", type=Path, help="file for the table as Markdown")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    for name, least in (("images", 1), ("batch_size", 1), ("calibration_images", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(options, name)}")
    return options


def describe(thresholds: dict[str, Any] | None) -> str:
    """One line about the thresholds of referring answers; None = a model that has no such answers."""
    if thresholds is None:
        return "no referring answers: the model segments by categories only"
    number = thresholds["calibration_images"]
    source = f"calibrated on {number} pictures of the validation split" if number else "constants, not calibrated"
    values = f"no target below {thresholds['no_target']:.2f}, further targets above {thresholds['further_targets']:.2f}"
    return f"scores of referring answers: {values} ({source})"


def versions() -> dict[str, str]:
    import torch
    import transformers

    import psalm_hf

    return {module.__name__: str(module.__version__) for module in (torch, transformers, psalm_hf)}


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    from psalm_hf import PsalmForSegmentation, PsalmProcessor
    from psalm_hf.evaluation.calibration import ReferringThresholds, choose_thresholds, score_answers
    from psalm_hf.evaluation.shapes import report_shapes
    from psalm_hf.evaluation.shapes_referring import EXPRESSIONS_PER_IMAGE, calibration_samples
    from psalm_hf.evaluation.shapes_table import markdown_table, text_table

    for file in filter(None, (options.output, options.markdown)):  # fails before the work, not after it
        file.parent.mkdir(parents=True, exist_ok=True)
    processor = PsalmProcessor.from_pretrained(options.checkpoint)
    model = PsalmForSegmentation.from_pretrained(options.checkpoint).to(options.device).eval()

    thresholds = recorded = None
    if model.config.decouple_masks:
        thresholds = ReferringThresholds()
        if options.calibration_images:
            samples = calibration_samples(processor, options.calibration_images)
            thresholds = choose_thresholds(score_answers(model, processor, samples, batch_size=options.batch_size * EXPRESSIONS_PER_IMAGE))
        recorded = asdict(thresholds) | {"calibration_images": options.calibration_images}
    reports = {
        split: report_shapes(model, processor, split=split, num_images=options.images, batch_size=options.batch_size, thresholds=thresholds)
        for split in options.splits
    }

    title = f"{options.checkpoint}: first {options.images} pictures of each split, percent"
    print(f"{title}\n{describe(recorded)}\n\n{text_table(reports)}")
    if options.markdown is not None:
        options.markdown.write_text(f"{title}; {describe(recorded)}.\n\n{markdown_table(reports)}\n", encoding="utf-8")
    if options.output is not None:
        record = {
            "checkpoint": options.checkpoint,
            "images": options.images,
            "batch_size": options.batch_size,
            "thresholds": recorded,
            "versions": versions(),
            "splits": {split: asdict(report) for split, report in reports.items()},
        }
        options.output.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
