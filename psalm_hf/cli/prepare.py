"""Makes files that are derived from a dataset, and kept beside it.

psalm prepare DATASET FOLDER ...
psalm prepare DATASET --help
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ..spelling import did_you_mean
from .command import CommandParser, run

DATASETS = {
    "ade20k": "ADE20K: maps that start at 0, JSON files of instance and panoptic segmentation",
    "cityscapes": "Cityscapes: train ids and panoptic files",
    "coco_interactive": "visual prompts for the objects of COCO, in the format of the published files",
    "coco_semantic": "semantic maps of COCO from its panoptic maps",
    "davis": "DAVIS 2017 in the released format",
    "ego_exo4d": "relations and videos of Ego-Exo4D -> masks and frames of every take",
    "pascal_context": "Pascal Context from its .mat files",
    "pascal_voc": "VOC in the layout of open-vocabulary evaluation",
    "refcoco": "RefCOCO, +, g and gRefCOCO as JSON, checked and counted; the released format",
}


def main(arguments: list[str] | None = None) -> int:
    return run(prepare, arguments)


def prepare(arguments: list[str] | None) -> None:
    dataset, *others = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if dataset in ("-h", "--help"):
        width = max(map(len, DATASETS))
        print(
            "\n".join(
                (f"usage: psalm prepare DATASET ...\n\n{__doc__}", *(f"  {name.ljust(width)}  {DATASETS[name]}" for name in DATASETS))
            )
        )
        return
    if dataset not in DATASETS:
        raise ValueError(f"nothing can be prepared for {dataset!r}, expected one of {', '.join(DATASETS)}{did_you_mean(dataset, DATASETS)}")
    module = import_module(f"..data.prepare.{dataset}", __package__)
    options = parse_arguments(dataset, module, others)
    positional = [options.pop(name) for name in ("folder", "relations", "output_folder") if name in options]
    module.prepare(*positional, **options)


def parse_arguments(dataset: str, module: ModuleType, arguments: list[str]) -> dict:
    """Arguments of `prepare` of a module, by name."""
    parser = CommandParser(f"prepare {dataset}", module.__doc__)
    add_options = {
        "ade20k": ade20k, "cityscapes": cityscapes, "coco_interactive": coco_interactive, "coco_semantic": coco_semantic, "davis": davis,
        "ego_exo4d": ego_exo4d, "pascal_context": pascal_context, "pascal_voc": pascal_voc, "refcoco": refcoco,
    }[dataset]  # fmt: skip
    add_options(parser, module)
    parser.add_argument("--overwrite", action="store_true", help="write again what exists")
    return vars(parser.parse_args(arguments))


def add_splits(parser: argparse.ArgumentParser, choices: Sequence[str], default: Sequence[str], *names: str) -> None:
    parser.add_argument("--splits", *names, nargs="+", choices=tuple(choices), default=list(default), help=f"default: {' '.join(default)}")
    parser.add_argument("--num-proc", type=int, default=1, help="processes; the output does not depend on it")


def ade20k(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.add_argument("folder", type=Path, help="ADEChallengeData2016")
    parser.add_argument("--kinds", nargs="+", choices=module.KINDS, default=list(module.KINDS), help="what to make")
    add_splits(parser, module.FOLDERS, tuple(module.FOLDERS))


def cityscapes(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.add_argument("folder", type=Path, help="the folder that holds gtFine")
    add_splits(parser, module.SPLITS, module.SPLITS[:2])


def coco_interactive(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.add_argument("folder", type=Path, help="has annotations/instances_{split}2017.json; the output goes there too")
    add_splits(parser, module.SPLITS, module.SPLITS, "--split")
    parser.add_argument(
        "--rules", choices=module.RULES, default=module.RULES[0], help="of the prompts: of the released code, or the paper's"
    )
    parser.add_argument("--seed", type=int, default=0)


def coco_semantic(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.add_argument("folder", type=Path, help="the folder of COCO")
    add_splits(parser, module.SPLITS, module.SPLITS)


def davis(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.add_argument("folder", type=Path, help="the folder of DAVIS")
    parser.add_argument("--split", choices=module.SPLITS, default="val", help="default: val")


def ego_exo4d(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.add_argument("relations", type=Path, help="relations_{train,val,test}.json")
    parser.add_argument("output_folder", metavar="output", type=Path, help="folder of the takes")
    parser.add_argument("--split", choices=module.SPLITS, required=True, help="under which split.json lists the takes")
    parser.add_argument("--videos", type=Path, help="folder with <take name>/frame_aligned_videos/<camera>.mp4")


def pascal_context(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.add_argument("folder", type=Path, help="VOCdevkit, the folder that holds VOC2010")
    parser.add_argument("output_folder", metavar="output", type=Path, help="folder to write into")
    parser.add_argument("--labels", type=Path, help="folder of the .mat files; default VOC2010/trainval")
    add_splits(parser, module.FOLDERS, tuple(module.FOLDERS))


def pascal_voc(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.add_argument("folder", type=Path, help="VOCdevkit, the folder that holds VOC2012")
    parser.add_argument("output_folder", metavar="output", type=Path, help="folder to write into")
    add_splits(parser, module.FOLDERS, tuple(module.FOLDERS))


def refcoco(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    parser.add_argument("folder", type=Path, help="has refcoco, refcoco+, refcocog, grefcoco, or some of them")
    parser.add_argument("--datasets", nargs="+", choices=module.DATASETS, help="default: those that are there")
    parser.add_argument("--format", choices=module.FORMATS, default=module.FORMATS[0], help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="folder that gets the same folders with the new files; default: the first one")


if __name__ == "__main__":
    sys.exit(main())
