"""Writes the recipe's weights at full size (1.3B parameters, about 6 GB) as an original, sharded PSALM folder.

python -m tests.model.full_checkpoint FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from tests.conftest import GOLDEN
from tests.model import golden

SHARD_BYTES = 1_500_000_000


def write_full_folder(folder: Path) -> Path:
    """Config, vocabulary and `pytorch_model-*.bin` shards with their index; the index comes last, so its presence means done."""
    index_file = folder / "pytorch_model.bin.index.json"
    if index_file.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(golden.original_config()))
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        shutil.copy(GOLDEN / "prompts" / name, folder)
    recipe, weight_map, shard, size = golden.recipe(), {}, {}, 0
    lines = (GOLDEN / "checkpoint_keys_full.tsv").read_text().splitlines()[1:]
    for number, line in enumerate(lines):
        name, shape, dtype = line.split("\t")[:3]
        shape = () if shape == "-" else tuple(int(side) for side in shape.split(","))
        shard[name] = torch.from_numpy(np.asarray(recipe.fake_tensor(name, shape, dtype)))
        size += shard[name].nbytes
        if size > SHARD_BYTES or number == len(lines) - 1:
            file = f"pytorch_model-{len(set(weight_map.values())) + 1:05d}.bin"
            torch.save(shard, folder / file)
            weight_map |= dict.fromkeys(shard, file)
            shard, size = {}, 0
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


if __name__ == "__main__":
    write_full_folder(Path(sys.argv[1]))
