"""Measures a checkpoint on the held-out images of a labelled folder, in a process of its own.

    python -m psalm_hf.app.measuring CHECKPOINT OUTPUT SOURCES

SOURCES is a JSON object, source -> dataset and options, as in the config of a training. OUTPUT gets numbers.json, and a sheet of the worst
and the best predictions for each source.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints import resolve_checkpoint
from ..data.own.holdout import HELD_OUT_SPLIT
from ..devices import pick_device
from ..evaluation import Evaluation
from ..evaluation.comparisons import row_score, write_comparisons
from ..evaluation.runner import PredictedRows
from ..metrics.base import mean
from ..public import PsalmForSegmentation, PsalmProcessor
from ..writing import write_json
from .fine_tuning import MEASURED

DRAWN = 8  # predictions on a sheet, half of them the worst


def write_held_out_numbers(
    checkpoint: str, output: Path, sources: Mapping[str, Mapping[str, Any]], device: str | None = None
) -> dict[str, Any]:
    """Numbers in percent of each source: "IoU" is the mean over the rows of `row_score`, the others are those of `psalm evaluate`.

    Args:
        output: folder for numbers.json and SOURCE/contact_sheet.png.

    Raises:
        ValueError, OSError: a checkpoint or a folder that cannot be read; no image is held out.
    """
    checkpoint = resolve_checkpoint(checkpoint)
    processor = PsalmProcessor.from_pretrained(checkpoint)
    model = PsalmForSegmentation.from_pretrained(checkpoint, dtype="float32").to(pick_device(device)).eval()
    numbers = {}
    for name, options in sources.items():
        further = {option: value for option, value in options.items() if option not in ("dataset", "data_dir")}
        evaluation = Evaluation(
            options["dataset"], processor, split=HELD_OUT_SPLIT, data_dir=options["data_dir"], options=further, checkpoint=checkpoint
        )
        (found,) = evaluation.evaluated_parts(model, batch_size=4)
        kind = found.evaluators[0].name
        rows = PredictedRows(found.part, found.predictions, kind)
        scores = [row_score(sample, prediction, kind) for _, sample, prediction in rows]
        others = {key: value for each in found.evaluators for key, value in each.numbers().items()}
        numbers[name] = {"rows": len(rows), "IoU": 100 * mean(scores), **others}
        write_comparisons(output / name, rows, kind, DRAWN)
    write_json(output / MEASURED, numbers, indent=1)
    return numbers


def main(arguments: list[str]) -> int:
    """Exit status 2 after a line that says what is wrong."""
    checkpoint, output, sources = arguments
    try:
        write_held_out_numbers(checkpoint, Path(output), json.loads(sources))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
