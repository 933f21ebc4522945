"""Measures a checkpoint on a dataset of files, and shows its answers beside the truth.

    python examples/evaluate.py --dataset coco_panoptic --split val --data-dir coco --checkpoint DIR
    python examples/evaluate.py --dataset coco_interactive --split val --data-dir coco --options "{kind: point}" --checkpoint DIR
    python examples/evaluate.py --dataset refcoco --split val --data-dir refer_seg --checkpoint DIR --output results.json --pictures DIR

Rows with categories give PQ, mIoU and AP (what the dataset's task is measured by), expressions cIoU and gIoU, regions mIoU and cIoU by kind
of prompt. Datasets and their options: `print(psalm_hf.data.list_datasets())`.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

PAIRS_PER_SHEET = 6


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id")
    parser.add_argument("--dataset", required=True, help="name in list_datasets()")
    parser.add_argument("--split", required=True)
    parser.add_argument("--data-dir", help="folder of the dataset's files")
    parser.add_argument("--options", type=yaml.safe_load, default={}, help="further options of the dataset, as YAML: '{kind: point}'")
    parser.add_argument("--num-images", type=int, help="only the first pictures (default all)")
    parser.add_argument("--batch-size", type=int, default=4, help="rows per forward pass (default 4)")
    parser.add_argument("--threshold", type=float, default=0.8, help="class probability of a panoptic segment (default 0.8, as released)")
    parser.add_argument("--overlap", type=float, default=0.8, help="share of its mask that a panoptic segment must win (default 0.8)")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers, counts, choices and versions")
    parser.add_argument("--pictures", type=Path, help=f"folder for sheets with {PAIRS_PER_SHEET} answers each, prediction above truth")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if not isinstance(options.options, dict):
        parser.error(f"--options is a YAML mapping such as '{{kind: point}}', got {options.options!r}")
    for name in ("num_images", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    for name in ("threshold", "overlap"):
        if not 0 <= getattr(options, name) <= 1:
            parser.error(f"--{name} must be between 0 and 1, got {getattr(options, name)}")
    return options


class AnswerSheets:
    """Writes `sheet_000.png`, `sheet_001.png`, ... into a folder as the answers come.

    Args:
        folder: is made if it does not exist.
        answers: samples and network outputs of a batch -> the samples with predicted segments.
    """

    def __init__(self, folder: Path, answers: Any):
        self.folder, self.answers = folder, answers
        self.pairs: list[Any] = []
        self.written = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, samples: list, outputs: Any) -> None:
        from psalm_hf.visualization import draw_answer

        for predicted, truth in zip(self.answers(samples, outputs), samples, strict=True):
            self.pairs.append(draw_answer(predicted, truth))
            if len(self.pairs) == PAIRS_PER_SHEET:
                self.write()

    def write(self) -> None:
        """What has come since the last sheet, if anything."""
        from psalm_hf.visualization import contact_sheet

        if self.pairs:
            contact_sheet(self.pairs).save(self.folder / f"sheet_{self.written:03}.png")
            self.written += 1
            self.pairs.clear()


def versions() -> dict[str, str]:
    import torch
    import transformers

    import psalm_hf

    return {module.__name__: str(module.__version__) for module in (torch, transformers, psalm_hf)}


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    from functools import partial

    from psalm_hf import PsalmForSegmentation, PsalmProcessor
    from psalm_hf.data import load
    from psalm_hf.evaluation.datasets import answers_as_samples, evaluate_dataset, first_images
    from psalm_hf.evaluation.measures import PanopticThresholds

    if options.output is not None:  # fails before the work, not after it
        options.output.parent.mkdir(parents=True, exist_ok=True)
    dataset = load(options.dataset, options.split, options.data_dir, **options.options)
    if options.num_images is not None:
        dataset = first_images(dataset, options.num_images)
    processor = PsalmProcessor.from_pretrained(options.checkpoint)
    model = PsalmForSegmentation.from_pretrained(options.checkpoint).to(options.device).eval()

    thresholds = PanopticThresholds(options.threshold, options.overlap)
    answers = partial(answers_as_samples, processor=processor, dataset=dataset, panoptic=thresholds)
    sheets = [] if options.pictures is None else [AnswerSheets(options.pictures, answers)]
    report = evaluate_dataset(model, processor, dataset, batch_size=options.batch_size, panoptic=thresholds, watchers=sheets)
    for sheet in sheets:
        sheet.write()

    counts = ", ".join(f"{value} {name}" for name, value in report.counts.items())
    print(f"{options.checkpoint} on {options.dataset} {options.split}: {counts}")
    for name, value in report.percent.items():
        print(f"  {name:<28}{value:6.1f}")
    if options.output is not None:
        record = {
            "checkpoint": options.checkpoint,
            "dataset": options.dataset,
            "split": options.split,
            "options": options.options,
            "num_images": options.num_images,
            "batch_size": options.batch_size,
            "versions": versions(),
            **asdict(report),
        }
        options.output.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
