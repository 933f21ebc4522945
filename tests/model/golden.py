"""Reads recorded cases of the released code and puts them into our keywords.

Sizes and cases come from the folder's JSON files and from the tensors themselves; a folder of the same format with other sizes
runs through the same tests. Markers of the recordings: -200 image, -201 mask queries, -202 a category, -203 a region,
-204 the expression.
"""

import importlib.util
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from psalm_hf import PsalmConfig, PsalmForSegmentation
from psalm_hf.model.regions import region_weights
from tests.conftest import GOLDEN

IMAGE, QUERIES, CATEGORY_NAME, REGION, EXPRESSION = -200, -201, -202, -203, -204
STRIDED = re.compile(r"(.*)__s(\d+)$")


@cache
def load(file: Path) -> dict[str, Tensor]:
    """Tensors of a recording; packed bits come back as 0/1, a stride suffix `__s<k>` stays in the name."""
    tensors = {}
    for name, array in load_file(file).items():
        packed = re.fullmatch(r"(.*)__bits(\d+)", name)
        if packed:
            name, array = packed[1], np.unpackbits(array, axis=-1, count=int(packed[2]))
        tensors[name] = torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array)
    return tensors


def index() -> dict:
    return json.loads((GOLDEN / "tiny" / "index.json").read_text())


def cases_with(*names: str) -> list[str]:
    """Cases of the folder that hold all these tensors."""
    if not GOLDEN.is_dir():
        return []
    return [case for case, entry in index()["tensors_and_cases"].items() if all(_has(entry, name) for name in names)]


def outputs_of(cases: list[str]) -> list[tuple[str, str]]:
    """(case, tensor) for every recorded output of these cases."""
    return [(case, name) for case in cases for name in load(GOLDEN / "tiny" / f"{case}.safetensors") if name.startswith("out.")]


def _has(entry: dict, name: str) -> bool:
    return any(re.fullmatch(re.escape(name) + r"(__bits\d+|__s\d+)?", stored) for stored in entry["tensors"])


def case_tensors(case: str) -> dict[str, Tensor]:
    return load(GOLDEN / "tiny" / f"{case}.safetensors")


def case_entry(case: str) -> dict:
    return index()["tensors_and_cases"][case]


def recorded_file(name: str) -> Path:
    """A file of the folder; skips the test where this folder does not hold it."""
    file = GOLDEN / name
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    return file


def recipe():
    spec = importlib.util.spec_from_file_location("golden_recipe", GOLDEN / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def original_weights(keys_file: str) -> dict[str, Tensor]:
    """The recipe's weights in the original names."""
    return {name: torch.from_numpy(np.asarray(array)) for name, array in recipe().state_dict_from_tsv(GOLDEN / keys_file).items()}


def original_config(sizes: dict | None = None) -> dict:
    """The recorded config.json, with the sizes of an index.json's model put in."""
    fields = json.loads((GOLDEN / "config.json").read_text())
    if sizes is not None:
        fields |= {
            "hidden_size": sizes["hidden"],
            "num_hidden_layers": sizes["layers"],
            "num_attention_heads": sizes["heads"],
            "intermediate_size": sizes["inter"],
            "vocab_size": sizes["vocab"],
            "image_size": sizes["image"],
        }
    return fields


def write_original_folder(folder: Path, fields: dict, weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def tiny_model(folder: Path) -> PsalmForSegmentation:
    write_original_folder(folder, original_config(index()["model"]), original_weights("checkpoint_keys_tiny.tsv"))
    return PsalmForSegmentation.from_pretrained(folder, dtype=torch.float32)


@dataclass
class Row:
    """One recorded prompt, expanded: our ids, the condition of each token, and what the original's labels become."""

    input_ids: list[int] = field(default_factory=list)
    condition_index: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, ids: list[int], condition: int = 0, labels: list[int] | None = None) -> None:
        self.input_ids += ids
        self.condition_index += [condition] * len(ids)
        self.labels += [-100] * len(ids) if labels is None else labels


def expand_row(
    ids: list[int],
    config: PsalmConfig,
    *,
    labels: list[int],
    categories: list[list[int]],
    category_order: list[int],
    expression: list[int],
) -> Row:
    """`categories[p]` are the tokens of the p-th name in the text, which is condition `category_order[p]`."""
    row, seen_categories, seen_regions = Row(), 0, 0
    for token, label in zip(ids, labels, strict=True):
        if token == IMAGE:
            row.add([config.image_token_id] * (config.image_grid[0] * config.image_grid[1]))
        elif token == QUERIES:
            row.add([config.mask_query_token_id] * config.num_queries)
        elif token == CATEGORY_NAME:
            row.add(categories[seen_categories], category_order[seen_categories] + 1)
            seen_categories += 1
        elif token == REGION:
            seen_regions += 1
            row.add([config.region_token_id], seen_regions)
        elif token == EXPRESSION:
            row.add(expression, 1)
        else:
            row.add([token], labels=[label])
    return row


def forward_inputs(case: str, config: PsalmConfig) -> dict[str, Tensor]:
    """A recorded tiny case in the keywords of `forward`, right padded, plus its expanded `labels`."""
    return inputs_of(case_tensors(case), config, pad_id=index()["derived"]["pad_id"])


def inputs_of(tensors: dict[str, Tensor], config: PsalmConfig, pad_id: int) -> dict[str, Tensor]:
    ids = tensors["in.input_ids"].tolist()
    labels = tensors["in.labels"].tolist() if "in.labels" in tensors else ids
    rows = []
    for number, row_ids in enumerate(ids):
        categories, order = _categories(tensors, number)
        expression = tensors.get(f"in.token_refer_id.{number}", torch.empty(0, dtype=torch.int64)).tolist()
        rows.append(expand_row(row_ids, config, labels=labels[number], categories=categories, category_order=order, expression=expression))
    length = max(len(row.input_ids) for row in rows)
    inputs = {
        "input_ids": _padded([row.input_ids for row in rows], length, pad_id),
        "condition_index": _padded([row.condition_index for row in rows], length, 0),
        "labels": _padded([row.labels for row in rows], length, -100),
        "condition_type": torch.tensor([_kind(row_ids) for row_ids in ids]),
    }
    inputs["attention_mask"] = (inputs["input_ids"] != pad_id).long()
    if REGION in ids[0]:
        masks = [tensors[f"in.region_masks.{number}"] for number in range(len(ids))]
        inputs["region_weights"] = weights_of_masks(masks, config.image_grid)
        if "in.vp_images" in tensors:
            inputs["region_pixel_values"] = tensors["in.vp_images"]
            regions = torch.arange(inputs["region_weights"].shape[1]) * 0
            inputs["region_image_index"] = regions + torch.arange(len(ids))[:, None]
    if "in.images" in tensors:
        inputs["pixel_values"] = tensors["in.images"]
    return inputs


def _categories(tensors: dict[str, Tensor], row: int) -> tuple[list[list[int]], list[int]]:
    """Token ids of the names as they stand in the text, and which category each is."""
    if "in.class_name_ids" not in tensors:
        return [], []
    numbers = tensors["in.cls_indices"][row].tolist()
    tokens = tensors["in.class_name_ids"][row].tolist()
    names = [[token for token, own in zip(tokens, numbers, strict=True) if own == number] for number in sorted(set(numbers) - {-1})]
    order = list(range(len(names)))
    if "in.random_idx" in tensors:  # random_idx[c] = position of category c in the shuffled text
        positions = tensors["in.random_idx"][row].tolist()
        order = [positions.index(position) for position in range(len(names))]
    return names, order


def _kind(ids: list[int]) -> int:
    return 0 if CATEGORY_NAME in ids else 1 if EXPRESSION in ids else 2 if REGION in ids else 3


def _padded(rows: list[list[int]], length: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def weights_of_masks(masks: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """(B, R, G) of recorded region masks; they have 256 pixels each, of which the original's draw keeps all."""
    weights = [torch.stack([region_weights(mask.numpy().astype(bool), grid, "exact") for mask in row]) for row in masks]
    return torch.nn.utils.rnn.pad_sequence(weights, batch_first=True)
