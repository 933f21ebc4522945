"""Make what cityscapesScripts derives from the fine annotations of Cityscapes: labelTrainIds, and panoptic JSON and PNG files.

    psalm prepare cityscapes cityscapes [--splits train val] [--num-proc 8] [--overwrite]

From *_gtFine_labelIds.png in gtFine/ come *_gtFine_labelTrainIds.png beside them (0..18, 255 = not evaluated), and from
*_gtFine_instanceIds.png gtFine/cityscapes_panoptic_{split}/ and .json, in the form of COCO. `load("cityscapes_...", ...)` reads the
originals; other tools want these. What exists is kept unless --overwrite is given.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Id -> supercategory and colour, as labels.py of cityscapesScripts has them. In panoptic files they belong to the categories.
LOOKS = {
    7: ("flat", (128, 64, 128)),
    8: ("flat", (244, 35, 232)),
    11: ("construction", (70, 70, 70)),
    12: ("construction", (102, 102, 156)),
    13: ("construction", (190, 153, 153)),
    17: ("object", (153, 153, 153)),
    19: ("object", (250, 170, 30)),
    20: ("object", (220, 220, 0)),
    21: ("nature", (107, 142, 35)),
    22: ("nature", (152, 251, 152)),
    23: ("sky", (70, 130, 180)),
    24: ("human", (220, 20, 60)),
    25: ("human", (255, 0, 0)),
    26: ("vehicle", (0, 0, 142)),
    27: ("vehicle", (0, 0, 70)),
    28: ("vehicle", (0, 60, 100)),
    31: ("vehicle", (0, 80, 100)),
    32: ("vehicle", (0, 0, 230)),
    33: ("vehicle", (119, 11, 32)),
}
SPLITS = ("train", "val", "test")
LABELS_END, INSTANCES_END = "_labelIds.png", "_instanceIds.png"


def write_train_ids(job: tuple[Path, Path]) -> None:
    """The map of train ids of one image."""
    import numpy as np

    from ..benchmarks.cityscapes import CITYSCAPES
    from ..preparation import read_pixels, write_picture

    source, path = job
    labels = read_pixels(source)
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise ValueError(f"{source}: expected grey of 8 bits; it is no map of label ids")
    train_ids = np.full(256, 255, dtype=np.uint8)
    train_ids[[category.id for category in CITYSCAPES]] = range(len(CITYSCAPES))
    write_picture(path, train_ids[labels])


def write_panoptic(job: tuple[Path, Path]) -> dict[str, Any]:
    """The panoptic PNG of one image; returned are its entries of `images` and `annotations`."""
    import numpy as np

    from ..benchmarks.cityscapes import CITYSCAPES, LABEL_IDS, LICENSE_PLATE
    from ..benchmarks.label_maps import present_values
    from ..preparation import box_and_area, read_pixels, write_picture

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
    ids = np.where(evaluated, instances, 0)
    write_picture(path, np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8))
    image_id = source.name.removesuffix(f"_gtFine{INSTANCES_END}")
    height, width = instances.shape
    # The pictures are called otherwise (without gtFine), but this is what cityscapesScripts writes.
    image = {"id": image_id, "width": width, "height": height, "file_name": f"{image_id}_gtFine_leftImg8bit.png"}
    return {"image": image, "annotation": {"image_id": image_id, "file_name": path.name, "segments_info": segments_info}}


def prepare_train_ids(ground_truth: Path, split: str, num_proc: int, overwrite: bool) -> None:
    from ..preparation import files_in, make_files

    sources = files_in(ground_truth / split, f"*/*{LABELS_END}")
    jobs = [(source, source.with_name(source.name.removesuffix(LABELS_END) + "_labelTrainIds.png")) for source in sources]
    make_files(write_train_ids, jobs, title=f"labelTrainIds {split}", overwrite=overwrite, num_proc=num_proc)


def prepare_panoptic(ground_truth: Path, split: str, num_proc: int, overwrite: bool) -> None:
    from ..benchmarks.cityscapes import CITYSCAPES
    from ..preparation import do_all, files_in, write_json

    name = f"cityscapes_panoptic_{split}"
    sources = files_in(ground_truth / split, f"*/*{INSTANCES_END}")
    jobs = [(source, ground_truth / name / (source.name.removesuffix(INSTANCES_END) + "_panoptic.png")) for source in sources]
    file = ground_truth / f"{name}.json"
    if file.exists() and not overwrite and all(path.exists() for _, path in jobs):
        print(f"{name}: 0 written, {len(jobs)} kept")
        return
    made = do_all(write_panoptic, jobs, title=name, num_proc=num_proc)
    categories = [
        {
            "id": category.id,
            "name": category.name,
            "color": list(LOOKS[category.id][1]),
            "supercategory": LOOKS[category.id][0],
            "isthing": int(category.is_thing),
        }
        for category in CITYSCAPES
    ]
    content = {
        "images": [entry["image"] for entry in made],
        "annotations": [entry["annotation"] for entry in made],
        "categories": categories,
    }
    write_json(file, content, sort_keys=True, indent=4)  # last: where it exists, so do the PNG files
    print(f"{name}: {len(jobs)} written, 0 kept")


def prepare(folder: Path, *, splits: Sequence[str] = SPLITS[:2], num_proc: int = 1, overwrite: bool = False) -> None:
    """Makes train ids and panoptic files, from the folder that holds gtFine. Raises ValueError for a file that is missing or wrong."""
    for split in splits:
        for make in (prepare_train_ids, prepare_panoptic):
            make(folder / "gtFine", split, num_proc, overwrite)
