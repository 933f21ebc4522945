"""Checks a dataset on disk: every record, every image and mask, and the published counts; draws some rows.

    psalm verify coco_panoptic coco
    psalm verify own_pairs mydata --split train --option 'ignore=[0, 255]' --show 12 --output pictures

Without --split, all splits of the dataset whose files are there. Nothing is written but the images: `OUTPUT/DATASET_SPLIT_N.png`,
where N is the number of the record from 0, and `OUTPUT/DATASET_SPLIT.png` with all of them.

The exit status is 2 if a record is broken or a count differs from the published one. A part of a dataset is legitimate: then its counts
differ, and nothing else should be wrong.
"""

import argparse
from pathlib import Path
from typing import Any

from .command import CommandParser, verb


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("verify", __doc__)
    parser.add_argument("dataset", help="name of the table that psalm_hf.data.list_datasets() prints")
    parser.add_argument("folder", nargs="?", help="its data_dir; none for datasets without files")
    parser.add_argument(
        "--split", nargs="+", action="extend", default=[], help="default: all whose files are there; needed where a split may have any name"
    )
    parser.add_argument(
        "--option", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options of the dataset, values as in YAML"
    )
    parser.add_argument("--limit", type=int, default=100, help="broken records of a split that are printed; the rest is counted (100)")
    parser.add_argument("--num-proc", type=int, default=1, help="processes (1)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="draw N rows of each split, spread evenly")
    parser.add_argument("--output", type=Path, help="folder of the drawn images")
    options = parser.parse_args(arguments)
    if options.show and options.output is None:
        parser.error("--show needs --output, the folder of the drawn images")
    parser.check_range(options, "limit", "show", lowest=0)
    parser.check_range(options, "num_proc", lowest=1)
    return options


def read_options(pairs: list[str]) -> dict[str, Any]:
    """`name=value` as YAML.

    Raises:
        ValueError: no name, no value, or a value that is no YAML.
    """
    from ..checked_yaml import read_yaml

    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--option {pair}: expected NAME=VALUE; put quotes around what has blanks")
        try:
            options[name] = read_yaml(value, f"--option {pair}: the value")
        except ValueError:
            raise ValueError(
                f"--option {pair}: the value is no YAML; the shell cuts at blanks, so put quotes around what has some: 'ignore=[255, 0]'"
            ) from None
    return options


@verb
def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    given = read_options(options.option)

    from ..data.verification import verify

    limits = {"limit": options.limit, "num_proc": options.num_proc, "num_shown": options.show}
    is_well = verify(options.dataset, options.folder, splits=options.split, options=given, output=options.output, **limits)
    return 0 if is_well else 2
