"""Reads what public evaluators said about recorded predictions. Cases come from each folder's `expected.json`."""

import json

import numpy as np
from PIL import Image

from tests.conftest import EVAL_CASES


def expected(folder: str) -> dict:
    return json.loads((EVAL_CASES / folder / "expected.json").read_text())


def cases(folder: str) -> list[str]:
    """Names of the cases of a folder; none if the recordings are absent."""
    return list(expected(folder)["cases"]) if (EVAL_CASES / folder).is_dir() else []


def case(folder: str, name: str) -> dict:
    return expected(folder)["cases"][name]


def read_json(folder: str, path: str) -> dict | list:
    return json.loads((EVAL_CASES / folder / path).read_text())


def read_json_lines(folder: str, path: str) -> list:
    return [json.loads(line) for line in (EVAL_CASES / folder / path).read_text().splitlines()]


def read_labels(path) -> np.ndarray:
    """(H, W) class numbers of a PNG or TIFF."""
    return np.asarray(Image.open(path))


def read_segment_ids(path) -> np.ndarray:
    """(H, W) segment ids of a panoptic PNG: R + 256 G + 65536 B."""
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int64) @ [1, 256, 256**2]
