"""Makes the files that cityscapesScripts derives from the fine annotations of Cityscapes: labelTrainIds, and panoptic JSON and PNG files.

    psalm prepare cityscapes cityscapes [--splits train val] [--num-proc 8] [--overwrite]

From *_gtFine_labelIds.png in gtFine/ come *_gtFine_labelTrainIds.png beside them (0..18, 255 = not evaluated), and from
*_gtFine_instanceIds.png gtFine/cityscapes_panoptic_{split}/ and .json, in the form of COCO. `load("cityscapes_...", ...)` reads the
originals; other tools want these. What exists is kept unless --overwrite is given.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..preparation import box_and_area, files_in, make_files, make_panoptic_files, read_pixels, write_pixels, write_segment_map

# Supercategory -> id -> colour, as labels.py of cityscapesScripts has them. In panoptic files they belong to the categories.
LOOKS = {
    "flat": {7: (128, 64, 128), 8: (244, 35, 232)},
    "construction": {11: (70, 70, 70), 12: (102, 102, 156), 13: (190, 153, 153)},
    "object": {17: (153, 153, 153), 19: (250, 170, 30), 20: (220, 220, 0)},
    "nature": {21: (107, 142, 35), 22: (152, 251, 152)},
    "sky": {23: (70, 130, 180)},
    "human": {24: (220, 20, 60), 25: (255, 0, 0)},
    "vehicle": {26: (0, 0, 142), 27: (0, 0, 70), 28: (0, 60, 100), 31: (0, 80, 100), 32: (0, 0, 230), 33: (119, 11, 32)},
}
LABELS_END, INSTANCES_END = "_labelIds.png", "_instanceIds.png"


def write_train_ids(job: tuple[Path, Path]) -> None:
    """Writes the map of train ids of one image."""

    from ..benchmarks.cityscapes import CITYSCAPES

    source, path = job
    labels = read_pixels(source)
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise ValueError(f"{source}: expected grey of 8 bits; it is no map of label ids")
    train_ids = np.full(256, 255, dtype=np.uint8)
    train_ids[[category.id for category in CITYSCAPES]] = range(len(CITYSCAPES))
    write_pixels(path, train_ids[labels])


def write_panoptic(job: tuple[Path, Path]) -> dict[str, Any]:
    """Writes the panoptic PNG of one image; returns its entries of `images` and `annotations`."""

    from ..benchmarks.cityscapes import CITYSCAPES, LABEL_IDS, LICENSE_PLATE
    from ..benchmarks.label_maps import present_values

    source, path = job
    instances = read_pixels(source).astype(np.int32)
    things = {category.id: category.is_thing for category in CITYSCAPES}
    segments_info, evaluated = [], np.zeros(instances.shape, dtype=bool)
    for value in present_values(instances):
        label = value if value < 1000 else value // 1000
        if value not in LICENSE_PLATE and label not in LABEL_IDS:
            raise ValueError(f"{source}: the value {value} is of label {label}, which Cityscapes does not have")
        if label not in things:
            continue
        mask = instances == value
        evaluated |= mask
        box, area = box_and_area(mask)
        crowd = int(things[label] and value < 1000)
        segments_info.append({"id": value, "category_id": label, "area": area, "bbox": box, "iscrowd": crowd})
    write_segment_map(path, np.where(evaluated, instances, 0))
    image_id = source.name.removesuffix(f"_gtFine{INSTANCES_END}")
    height, width = instances.shape
    # The images are called otherwise (without gtFine), but this is what cityscapesScripts writes.
    image = {"id": image_id, "width": width, "height": height, "file_name": f"{image_id}_gtFine_leftImg8bit.png"}
    return {"image": image, "annotation": {"image_id": image_id, "file_name": path.name, "segments_info": segments_info}}


def prepare_train_ids(ground_truth: Path, split: str, num_proc: int, overwrite: bool) -> None:
    sources = files_in(ground_truth / split, f"*/*{LABELS_END}")
    jobs = [(source, source.with_name(source.name.removesuffix(LABELS_END) + "_labelTrainIds.png")) for source in sources]
    make_files(write_train_ids, jobs, title=f"labelTrainIds {split}", overwrite=overwrite, num_proc=num_proc)


def prepare_panoptic_files(ground_truth: Path, split: str, num_proc: int, overwrite: bool) -> None:
    from ..benchmarks.cityscapes import CITYSCAPES

    name = f"cityscapes_panoptic_{split}"
    sources = files_in(ground_truth / split, f"*/*{INSTANCES_END}")
    jobs = [(source, ground_truth / name / (source.name.removesuffix(INSTANCES_END) + "_panoptic.png")) for source in sources]
    groups = {id: (group, list(color)) for group, colors in LOOKS.items() for id, color in colors.items()}
    categories = []
    for category in CITYSCAPES:
        group, color = groups[category.id]
        described = {"id": category.id, "name": category.name, "color": color, "supercategory": group}
        categories.append(described | {"isthing": int(category.is_thing)})
    file, options = ground_truth / f"{name}.json", {"sort_keys": True, "indent": 4}
    make_panoptic_files(write_panoptic, jobs, file, categories, overwrite=overwrite, num_proc=num_proc, **options)


def prepare(
    folder: Path, *, splits: Sequence[Literal["train", "val", "test"]] = ("train", "val"), num_proc: int = 1, overwrite: bool = False
) -> None:
    """Makes train ids and panoptic files, from the folder that holds gtFine. Raises ValueError for a file that is missing or wrong."""
    for split in splits:
        for make in (prepare_train_ids, prepare_panoptic_files):
            make(folder / "gtFine", split, num_proc, overwrite)
