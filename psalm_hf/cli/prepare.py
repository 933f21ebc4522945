"""Makes files that are derived from a dataset, and kept beside it.

psalm prepare DATASET FOLDER ...
psalm prepare DATASET --help
"""

import sys
from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ..locking import only_run
from ..spelling import did_you_mean
from ..writing import remove_unfinished
from .command import CommandParser, verb

PREPARED = {
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


@verb
def main(arguments: list[str] | None = None) -> None:
    dataset, *others = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if dataset in ("-h", "--help"):
        width = max(map(len, PREPARED))
        lines = (f"  {name.ljust(width)}  {text}" for name, text in PREPARED.items())
        print(f"usage: psalm prepare DATASET ...\n\n{__doc__}", *lines, sep="\n")
        return
    if dataset not in PREPARED:
        raise ValueError(f"nothing can be prepared for {dataset!r}, expected one of {', '.join(PREPARED)}{did_you_mean(dataset, PREPARED)}")
    function = import_module(f"..data.prepare.{dataset}", __package__).prepare
    options = vars(parser_of(dataset, function).parse_args(others))
    folder = options.get("output") or options["folder"]
    if "output" not in options and not folder.is_dir():  # the function says what is missing
        function(**options)
        return
    with only_run(folder):
        remove_unfinished(folder)
        function(**options)


def parser_of(dataset: str, function: Callable) -> CommandParser:
    """Builds the options from the parameters of a function: those that must be given by name are options, the others have places."""
    parser = CommandParser(f"prepare {dataset}", sys.modules[function.__module__].__doc__)
    for name, parameter in signature(function).parameters.items():
        hint, default = parameter.annotation, parameter.default
        usual = " ".join(default) if isinstance(default, tuple) else default
        settings: dict[str, Any] = {"help": MEANINGS.get(name, f"default: {usual}")}
        has_place = parameter.kind is not Parameter.KEYWORD_ONLY
        if not has_place:
            settings |= {"required": True} if default is Parameter.empty else {"default": default}
        if isinstance(default, bool):
            settings["action"] = "store_true"
        elif choices := _literals(hint):
            settings |= {"choices": choices, **({"nargs": "+"} if get_origin(hint) is not Literal else {})}
        else:
            settings["type"] = int if isinstance(default, int) else Path
        parser.add_argument(name if has_place else f"--{name.replace('_', '-')}", **settings)
    return parser


def _literals(hint: Any) -> tuple:
    """Values of the `Literal` in a type; empty if it has none."""
    return get_args(hint) if get_origin(hint) is Literal else next(filter(None, map(_literals, get_args(hint))), ())
