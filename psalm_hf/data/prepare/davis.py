"""Writes the evaluation file of DAVIS 2017 as PSALM's released scripts read it: one item per frame but the first of each sequence.

    psalm prepare davis DAVIS --split val

writes DAVIS/2017/trainval_val_psalm.json (DAVIS/trainval_val_psalm.json for the layout of the original archive). Paths in it are
relative to the folder. psalm_hf itself does not need the file: `load("davis2017", "val", "DAVIS", oracle=True)` gives the same prompts. As
in the released file, a frame is only asked for the objects that its annotation shows.
"""

import os
import sys
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from ...masks import area
from ...writing import write_json
from ..segment_map import read_segment_map


def items_of_sequence(data_dir: Path, root: str, sequence: str, first_number: int) -> list[dict]:
    """Items of all frames but the first.

    Raises:
        ValueError: an annotation cannot be read, or there are not two frames.
        FileNotFoundError: there is no such sequence.
    """
    from ..benchmarks.davis import frame_names, object_masks

    def annotations(frame: str) -> tuple[list[dict], tuple[int, int]]:
        segment_map = read_segment_map(data_dir / f"{root}Annotations/480p/{sequence}/{frame}.png")
        masks = object_masks(segment_map)
        return [{"segmentation": rle, "area": float(area(rle)), "category_id": number} for number, rle in masks.items()], segment_map.shape

    folder = f"{root}JPEGImages/480p/{sequence}"
    frames = frame_names(os.listdir(data_dir / folder))
    if len(frames) < 2:
        raise ValueError(f"{data_dir / folder}: there are not two frames; download DAVIS again, see docs/datasets/davis.md")
    first_anns, _ = annotations(frames[0])
    items = []
    for number, frame in enumerate(frames[1:], first_number):
        anns, (height, width) = annotations(frame)
        shown = {annotation["category_id"] for annotation in anns}
        path = f"{folder}/{frame}.jpg"
        items.append(
            {
                "image": path,
                "image_info": {"file_name": path, "height": height, "width": width},
                "anns": anns,
                "first_frame_image": f"{folder}/{frames[0]}.jpg",
                "first_frame_anns": [annotation for annotation in first_anns if annotation["category_id"] in shown],
                "new_img_id": number,
                "video_name": sequence,
            }
        )
    return items


def prepare(folder: Path, *, split: Literal["train", "val"] = "val", overwrite: bool = False) -> None:
    """Makes the file of a split, in the folder of DAVIS. Raises ValueError for a file that is missing or cannot be read."""
    from ..benchmarks.davis import root_of

    root = root_of(str(folder))
    output = folder / ("2017" if root else ".") / f"trainval_{split}_psalm.json"
    if output.exists() and not overwrite:
        print(f"kept {output}, which exists; --overwrite writes it again", file=sys.stderr)
        return
    items: list[dict] = []
    try:
        sequences = (folder / f"{root}ImageSets/2017/{split}.txt").read_text(encoding="utf-8").split()
        for sequence in tqdm(sequences, desc=f"DAVIS {split}", unit="sequence"):
            items += items_of_sequence(folder, root, sequence, len(items))
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} does not exist; see docs/datasets/davis.md for the files") from error
    write_json(output, items)
    print(f"wrote {output}: {len(items)} frames", file=sys.stderr)
