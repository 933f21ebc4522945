"""Finds the scores above which a checkpoint's queries belong to an expression, and writes them into the processor of its folder.

    psalm calibrate --checkpoint outputs/tiny/stage2_second
    psalm calibrate --checkpoint DIR --dataset grefcoco --data-dir refer_seg --split val --images 500

Two scores are chosen: `no_target_threshold`, which the best query must exceed for the expression to mean anything in the image, where
(N-acc + T-acc) / 2 is highest; and `referring_threshold`, above which further queries belong to the prediction, where the mean IoU of the
expressions with a target is highest. processor_config.json gets them; from then on the processor, the pipeline and
`psalm evaluate --no-target processor` go by them. Take a split on which nothing is reported, and measure on another one.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from ..checked_yaml import read_yaml
from .command import CommandParser, verb

CONFIG = "processor_config.json"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("calibrate", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder with model and processor; it is changed")
    parser.add_argument("--dataset", default="shapes", help="with expressions that mean nothing, such as grefcoco (default: shapes)")
    parser.add_argument("--data-dir", help="folder of the dataset's files")
    parser.add_argument("--split", help="on which nothing is reported (default for shapes: validation)")
    parser.add_argument("--options", default="{}", help="further options of the dataset, as YAML")
    parser.add_argument("--images", type=int, default=200, help="the first images of the split (default 200)")
    parser.add_argument("--batch-size", type=int, default=16, help="expressions of a forward pass (default 16)")
    parser.add_argument("--device", default="cpu", help="such as cpu, cuda:1, mps or xpu (default: cpu)")
    options = parser.parse_args(arguments)
    parser.check_range(options, "images", "batch_size", lowest=1)
    options.options = read_yaml(options.options, "--options")
    if not isinstance(options.options, dict):
        parser.error(f"--options is a YAML mapping such as '{{on_error: skip}}', got {options.options!r}")
    if options.split is None and options.dataset != "shapes":
        parser.error(f"--split: say which one of {options.dataset}; thresholds are calibrated on a split on which nothing is reported")
    return options


def check_folder(folder: Path) -> None:
    """Refuses a folder without a processor before the work, not after it."""
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"--checkpoint {folder}: no {CONFIG} in it, which would get the thresholds; give a folder written by save_pretrained "
            "(psalm convert makes one of an original PSALM folder)"
        )


def write_thresholds(folder: Path, referring_threshold: float, no_target_threshold: float) -> None:
    """Changes these two fields; a reader sees the old file or the whole new one."""
    path = folder / CONFIG
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields |= {"referring_threshold": referring_threshold, "no_target_threshold": no_target_threshold}
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{CONFIG}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(fields, indent=2, sort_keys=True) + "\n")
        os.chmod(temporary, path.stat().st_mode)  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@verb
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    check_folder(options.checkpoint)

    from ..devices import pick_device
    from ..evaluation.calibration import BEST_QUERY, choose_thresholds, numbers_at, open_calibration, score_predictions
    from ..public import PsalmForSegmentation, PsalmProcessor

    device = pick_device(options.device)
    processor = PsalmProcessor.from_pretrained(options.checkpoint)
    expressions = open_calibration(
        options.dataset, processor, split=options.split, data_dir=options.data_dir, options=options.options, limit=options.images
    )
    model = PsalmForSegmentation.from_pretrained(options.checkpoint).to(device).eval()
    predictions = score_predictions(model, expressions, batch_size=options.batch_size)
    thresholds = choose_thresholds(predictions)
    write_thresholds(options.checkpoint, thresholds.further_targets, thresholds.no_target)

    absent = sum(prediction.ious is None for prediction in predictions)
    print(f"{options.dataset}: {len(predictions)} expressions, {absent} of them without target; percent, on these expressions")
    for name, chosen in (("best query, always a prediction", BEST_QUERY), ("calibrated", thresholds)):
        numbers = ", ".join(f"{key} {value:.1f}" for key, value in numbers_at(chosen, predictions).items())
        print(f"  {name}: {numbers}")
    print(
        f"wrote referring_threshold {thresholds.further_targets:.2f} and no_target_threshold {thresholds.no_target:.2f} "
        f"to {options.checkpoint / CONFIG}"
    )


if __name__ == "__main__":
    sys.exit(main())
