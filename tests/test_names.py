"""Names and words: one name for one thing in the whole package, the words of docs/glossary.md, and docstrings that begin with a thing."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from psalm_hf import structures
from psalm_hf.model import prompts, rows

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "psalm_hf"
FILES = sorted(PACKAGE.rglob("*.py"))

# Steps that every program of its kind has, under the name that a reader looks for; nobody imports two of them.
STEPS = {"main", "parse_arguments", "add_arguments", "prepare", "prepare_split", "prepare_panoptic", "logger"}
STEP_FOLDERS = ("cli", "data/prepare", "training", "model")

# The model folder imports nothing of the package, so it repeats these; tests hold the two to the same values.
REPEATED_BY_THE_MODEL = {"TASKS", "CONDITIONS"}

# Name -> files that still share it, below psalm_hf. A name leaves this list when it is one thing.
KNOWN_TWINS = {
    "BACKGROUND": {"metrics/video_objects.py", "model/prompts.py"},
    "CHOICES": {"cli/evaluate.py", "cli/prepare.py"},
    "COLUMNS": {"evaluation/results.py"},
    "CocoPanoptic": {"data/benchmarks/coco.py", "evaluation/formats/coco_panoptic.py"},
    "DATASETS": {"cli/prepare.py", "data/load.py", "data/prepare/refcoco.py"},
}

# First words of docstrings that name neither a thing nor an action.
BAD_FIRST_WORDS = (
    "what of by where whether how that those as in with for from to on at which who whose when why if and or but it its they them "
    "this these here there some all any"
).split()

# Word -> the word of docs/glossary.md.
SYNONYMS = {
    "picture": "image",
    "pictures": "image",
    "photo": "image",
    "truth": "target",
    "truths": "target",
    "measure": "evaluator or metric",
    "measures": "evaluator or metric",
    "phrase": "expression",
    "utils": "a name that says what it holds",
}
