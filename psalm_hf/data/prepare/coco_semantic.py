"""Makes the semantic maps of COCO 2017 from its panoptic maps: one PNG per image, value = position of the category, 255 = unlabelled.

    psalm prepare coco_semantic coco [--splits train val] [--num-proc 8] [--overwrite]

Reads annotations/panoptic_{split}2017.json and panoptic_{split}2017/ in the folder, writes panoptic_semseg_{split}2017/ beside them.
`load("coco_semantic", ...)` needs them only with masks="semseg". What exists is kept unless --overwrite is given.
"""

import json
from pathlib import Path

import numpy as np

from ..preparation import TRAIN_VAL, TrainVal, make_files, write_pixels
from ..segment_map import read_segment_map


def write_semantic_map(job: tuple[Path, dict[int, int], Path]) -> None:
    """Writes the map of one image, from its panoptic map and {segment id: position of the category}."""
    panoptic_path, positions, path = job
    segments = read_segment_map(panoptic_path)
    labels = np.full(segments.shape, 255, dtype=np.uint8)
    for segment_id, position in positions.items():
        labels[segments == segment_id] = position
    write_pixels(path, labels)


def jobs_of_split(folder: Path, split: str) -> list[tuple[Path, dict[int, int], Path]]:
    """Jobs of `write_semantic_map` for all images of a split."""
    file = folder / f"annotations/panoptic_{split}2017.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        position = {category["id"]: index for index, category in enumerate(content["categories"])}
        jobs = []
        for annotation in content["annotations"]:
            positions = {info["id"]: position[info["category_id"]] for info in annotation["segments_info"]}
            name = annotation["file_name"]
            jobs.append((folder / f"panoptic_{split}2017" / name, positions, folder / f"panoptic_semseg_{split}2017" / name))
    except FileNotFoundError:
        raise ValueError(f"{file}: does not exist; give the folder of COCO, see docs/datasets/coco.md") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: not the panoptic annotations of COCO ({error!r}); download it again") from error
    return jobs


def prepare(folder: Path, *, splits: TrainVal = TRAIN_VAL, num_proc: int = 1, overwrite: bool = False) -> None:
    """Makes the maps of the splits, in the folder of COCO. Raises ValueError for a file that is missing or wrong."""
    for split in splits:
        jobs = jobs_of_split(folder, split)
        make_files(write_semantic_map, jobs, title=f"panoptic_semseg_{split}2017", overwrite=overwrite, num_proc=num_proc)
