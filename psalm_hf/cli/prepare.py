"""Makes files that are derived from a dataset, and kept beside it.

psalm prepare DATASET FOLDER ...
psalm prepare DATASET --help
"""

import sys
from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import Any

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
# Parameter of a `prepare` -> what its values are among (a constant of the module), and what it means.
CHOICES = {"splits": "SPLITS", "split": "SPLITS", "kinds": "KINDS", "rules": "RULES", "datasets": "DATASETS", "format": "FORMATS"}
MEANINGS = {
    "folder": "where the dataset lies, see above",
    "relations": "relations_{train,val,test}.json",
    "output": "folder that gets the new files",
    "split": "of the dataset; one split a call",
    "datasets": "default: those that are there",
    "labels": "folder of the .mat files (default: VOC2010/trainval)",
    "videos": "folder with <take name>/frame_aligned_videos/<camera>.mp4",
    "num_proc": "processes; the files do not depend on it",
    "overwrite": "write again what exists",
}


def main(arguments: list[str] | None = None) -> int:
    return run(prepare, arguments)


def prepare(arguments: list[str] | None) -> None:
    dataset, *others = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if dataset in ("-h", "--help"):
        width = max(map(len, DATASETS))
        lines = (f"  {name.ljust(width)}  {text}" for name, text in DATASETS.items())
        print(f"usage: psalm prepare DATASET ...\n\n{__doc__}", *lines, sep="\n")
        return
    if dataset not in DATASETS:
        raise ValueError(f"nothing can be prepared for {dataset!r}, expected one of {', '.join(DATASETS)}{did_you_mean(dataset, DATASETS)}")
    module = import_module(f"..data.prepare.{dataset}", __package__)
    module.prepare(**vars(parser_of(dataset, module.prepare, module).parse_args(others)))


def parser_of(dataset: str, function: Callable, module: ModuleType) -> CommandParser:
    """Options are the parameters of the function: those that must be given by name are options, the others have places."""
    parser = CommandParser(f"prepare {dataset}", module.__doc__)
    for name, parameter in signature(function).parameters.items():
        default = parameter.default
        has_place = parameter.kind is not Parameter.KEYWORD_ONLY
        usual = " ".join(default) if isinstance(default, tuple) else default
        settings: dict[str, Any] = {"help": MEANINGS.get(name, f"default: {usual}")}
        if not has_place:
            settings |= {"required": True} if default is Parameter.empty else {"default": default}
        if isinstance(default, bool):
            settings["action"] = "store_true"
        elif name in CHOICES:
            settings |= {"choices": getattr(module, CHOICES[name]), **({"nargs": "+"} if name.endswith("s") and name != "rules" else {})}
        else:
            settings["type"] = int if isinstance(default, int) else Path
        parser.add_argument(name if has_place else f"--{name.replace('_', '-')}", **settings)
    return parser
