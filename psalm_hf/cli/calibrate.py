"""Finds the scores above which a checkpoint's queries belong to an expression, and writes them into the processor of its folder.

    psalm calibrate --checkpoint outputs/tiny/stage2_second
    psalm calibrate --checkpoint DIR --dataset grefcoco --data-dir refer_seg --split val --images 500

Two scores are chosen: `no_target_threshold`, which the best query must exceed for the expression to mean anything in the image, where
(N-acc + T-acc) / 2 is highest; and `referring_threshold`, above which further queries belong to the prediction, where the mean IoU of the
expressions with a target is highest. Where every instance of an expression is asked for, two more say which queries are instances:
`instances_threshold`, which all but the best must exceed, and `nms_threshold`, the IoU above which the worse of two masks is a repetition.
They are chosen where the share of the expressions whose instances are exactly right is highest, as the mean over expressions that mean
nothing, one thing, and several. processor_config.json gets all four; from then on the processor, the pipeline and
`psalm evaluate --no-target processor` go by them. Take a split on which nothing is reported, and measure on another one.
"""

import argparse
import json
import sys
from pathlib import Path

from ..checked_yaml import read_yaml
from ..writing import write_file
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


def write_thresholds(folder: Path, **thresholds: float) -> None:
    """Changes these fields; a reader sees the old file or the whole new one."""
    path = folder / CONFIG
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields |= thresholds
    write_file(path, lambda file: file.write((json.dumps(fields, indent=2, sort_keys=True) + "\n").encode("utf-8")))


@verb
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    check_folder(options.checkpoint)

    from ..devices import pick_device
    from ..evaluation.calibration import BEST_QUERY, choose_thresholds, numbers_at, open_calibration, score_expressions
    from ..evaluation.instance_calibration import InstanceThresholds, choose_instance_thresholds, set_accuracies_at
    from ..public import PsalmForSegmentation, PsalmProcessor

    device = pick_device(options.device)
    processor = PsalmProcessor.from_pretrained(options.checkpoint)
    expressions = open_calibration(
        options.dataset, processor, split=options.split, data_dir=options.data_dir, options=options.options, limit=options.images
    )
    model = PsalmForSegmentation.from_pretrained(options.checkpoint).to(device).eval()
    predictions, instances = score_expressions(model, expressions, batch_size=options.batch_size)
    thresholds = choose_thresholds(predictions)
    of_instances = choose_instance_thresholds(instances, thresholds.no_target)
    written = {"referring_threshold": thresholds.further_targets, "no_target_threshold": thresholds.no_target}
    written |= {"instances_threshold": of_instances.instances, "nms_threshold": of_instances.nms}
    write_thresholds(options.checkpoint, **written)

    absent = sum(prediction.ious is None for prediction in predictions)
    print(f"{options.dataset}: {len(predictions)} expressions, {absent} of them without target; percent, on these expressions")
    for name, chosen in (("best query, always a prediction", BEST_QUERY), ("calibrated", thresholds)):
        numbers = ", ".join(f"{key} {value:.1f}" for key, value in numbers_at(chosen, predictions).items())
        print(f"  {name}: {numbers}")
    every = InstanceThresholds(thresholds.further_targets, nms=1.0)
    for name, chosen in (("every mask of the prediction", every), ("instances, calibrated", of_instances)):
        found = set_accuracies_at(chosen, thresholds.no_target, instances)
        print(f"  {name}: sets exactly right, {', '.join(f'{kind} {value:.1f}' for kind, value in found.items())}")
    names = [f"{name} {value:.2f}" for name, value in written.items()]
    print(f"wrote {' and '.join(names[:2])}, {' and '.join(names[2:])} to {options.checkpoint / CONFIG}")


if __name__ == "__main__":
    sys.exit(main())
