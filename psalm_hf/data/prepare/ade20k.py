"""Makes files that are derived from ADE20K (ADEChallengeData2016): maps that start at 0, JSON files of instances and panoptic segments.

    psalm prepare ade20k ADEChallengeData2016 [--splits train val] [--kinds semantic instance panoptic] [--num-proc 8]

semantic: annotations_detectron2/, PNG, 0..149, 255 = everything else; only for `masks="detectron2"`.
instance: ade20k_instance_{split}.json, in the form of COCO; only for other tools.
panoptic: ade20k_panoptic_{split}.json and ade20k_panoptic_{split}/, in the form of COCO; `load("ade20k_panoptic", ...)` reads them.

instance and panoptic need annotations_instance/. What exists is kept unless --overwrite is given. The files are those of the scripts of
Mask2Former, with one difference: where a category has several objects, those draw the ids of the second and later objects by chance; here
they are the same in every run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...masks import rle_from_bitmap
from ..preparation import (
    SPLIT_FOLDERS,
    TRAIN_VAL,
    TrainVal,
    box_and_area,
    do_all,
    files_in,
    make_files,
    make_panoptic_files,
    read_pixels,
    read_size,
    write_json,
    write_pixels,
    write_segment_map,
)
from ..segment_map import read_segment_map

# Name and colour of the categories 0..149 as the published panoptic files have them; the colour is the id of a category's first segment.
PANOPTIC_CATEGORIES = Path(__file__).parents[1] / "benchmarks" / "labels" / "ade20k_150_panoptic.txt"
# The published instance files name the categories by their first synonym, but for this one.
INSTANCE_NAMES = {89: "television receiver"}


def panoptic_categories() -> list[dict[str, Any]]:
    """Lists the 150 categories as the JSON file has them."""
    from ..benchmarks.ade20k import CLASS_OF_INSTANCE

    categories = []
    for id, line in enumerate(PANOPTIC_CATEGORIES.read_text(encoding="utf-8").splitlines()):
        name, colour = line.split(": ")
        is_thing = int(id + 1 in CLASS_OF_INSTANCE)
        categories.append({"name": name, "id": id, "isthing": is_thing, "color": list(map(int, colour.split()))})
    return categories


def instance_categories(folder: Path) -> list[dict[str, Any]]:
    """Lists the 100 things as the JSON file has them."""
    from ..benchmarks.ade20k import CLASS_OF_INSTANCE, NAMES_FILE, names_from_lines

    lines = (folder / NAMES_FILE).read_text(encoding="utf-8").splitlines()
    names = names_from_lines(list(enumerate(lines, 1)))
    return [{"id": number - 1, "name": INSTANCE_NAMES.get(number - 1, names[number])} for number in CLASS_OF_INSTANCE]


def write_semantic(job: tuple[Path, Path]) -> None:
    """Writes the map of one image, every value less one; 0 becomes 255."""
    source, path = job
    labels = read_pixels(source)
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.max() > 150:
        raise ValueError(f"{source}: expected labels 0 to 150 as grey of 8 bits; it is no map of `annotations`")
    write_pixels(path, labels - np.uint8(1))


def read_image_entry(image: Path) -> dict[str, Any]:
    """Entry of `images` for one image."""
    height, width = read_size(image)
    return {"id": image.stem, "file_name": image.name, "width": width, "height": height}


def instance_masks(source: Path, entry: dict[str, Any]) -> list[tuple[int, Any]]:
    """Category 0..149 and mask (H, W) bool of the objects of one image, by their numbers."""

    from ..benchmarks.ade20k import instances_of
    from ..benchmarks.label_maps import present_values

    pixels = read_pixels(source)
    check_size(source, pixels.shape[:2], entry)
    if pixels.ndim != 3:
        raise ValueError(f"{source}: expected colours, red = class and green = object; it is no map of `annotations_instance`")
    segment_map = read_segment_map(source)
    try:
        instances = instances_of(present_values(segment_map))
    except ValueError as error:
        raise ValueError(f"{source}: {error}; it is no map of `annotations_instance`") from error
    return [(instance.category - 1, np.logical_or.reduce([segment_map == value for value in instance.values])) for instance in instances]


def check_size(source: Path, size: tuple[int, int], entry: dict[str, Any]) -> None:
    """Raises ValueError if a map has not the size of its image."""
    if tuple(size) != (entry["height"], entry["width"]):
        raise ValueError(f"{source}: is {size[0]} x {size[1]}, but its image is {entry['height']} x {entry['width']} (height x width)")


def make_instances(job: tuple[Path, Path]) -> dict[str, Any]:
    """Entries of `images` and `annotations` of one image; the ids of annotations are given later."""
    image, source = job
    entry = read_image_entry(image)
    annotations = []
    for category_id, mask in instance_masks(source, entry):
        box, area = box_and_area(mask)
        annotation = {"image_id": entry["id"], "iscrowd": 0, "category_id": category_id, "bbox": box}
        annotations.append(annotation | {"segmentation": rle_from_bitmap(mask), "area": area})
    return {"image": entry, "annotations": annotations}


def make_panoptic(job: tuple[Path, Path, Path, Path]) -> dict[str, Any]:
    """Writes the panoptic PNG of one image: stuff of the semantic map, and over it the objects. Returns its entries of `images` and
    `annotations`."""

    image, semantic, instances, path = job
    entry = read_image_entry(image)
    categories = panoptic_categories()
    labels = read_pixels(semantic)
    check_size(semantic, labels.shape, entry)
    if labels.max() > 150:
        raise ValueError(f"{semantic}: expected labels 0 to 150; it is no map of `annotations`")
    stuff = [(label - 1, labels == label) for label in np.unique(labels).tolist() if label and not categories[label - 1]["isthing"]]
    ids = np.zeros(labels.shape, dtype=np.int32)
    taken = {0} | {colour_id(category) for category in categories if not category["isthing"]}
    segments_info = []
    for category_id, mask in stuff + instance_masks(instances, entry):
        segment_id = colour_id(categories[category_id])
        while categories[category_id]["isthing"] and segment_id in taken:
            segment_id = (segment_id + 1) % 256**3
        taken.add(segment_id)
        ids[mask] = segment_id
        box, area = box_and_area(mask)  # before other objects are put over it, as in the published files
        segments_info.append({"id": segment_id, "category_id": category_id, "area": area, "bbox": box, "iscrowd": 0})
    write_segment_map(path, ids)
    return {"image": entry, "annotation": {"image_id": entry["id"], "file_name": path.name, "segments_info": segments_info}}


def colour_id(category: dict[str, Any]) -> int:
    """Segment id that has the colour of a category."""
    red, green, blue = category["color"]
    return red + 256 * green + 256**2 * blue


def prepare_semantic(folder: Path, split: str, num_proc: int, overwrite: bool) -> None:
    sources = files_in(folder / "annotations" / SPLIT_FOLDERS[split], "*.png")
    jobs = [(source, folder / "annotations_detectron2" / SPLIT_FOLDERS[split] / source.name) for source in sources]
    make_files(write_semantic, jobs, title=f"annotations_detectron2 {split}", overwrite=overwrite, num_proc=num_proc)


def prepare_instance(folder: Path, split: str, num_proc: int, overwrite: bool) -> None:
    file = folder / f"ade20k_instance_{split}.json"
    if file.exists() and not overwrite:
        print(f"{file.name}: kept")
        return
    images = files_in(folder / "images" / SPLIT_FOLDERS[split], "*.jpg")
    categories = instance_categories(folder)
    jobs = [(image, folder / "annotations_instance" / SPLIT_FOLDERS[split] / f"{image.stem}.png") for image in images]
    made = do_all(make_instances, jobs, title=file.stem, num_proc=num_proc)
    annotations = [annotation for entry in made for annotation in entry["annotations"]]
    content = {
        "images": [entry["image"] for entry in made],
        "categories": categories,
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)],
    }
    write_json(file, content)
    print(f"{file.name}: written, {len(annotations)} objects")


def prepare_panoptic(folder: Path, split: str, num_proc: int, overwrite: bool) -> None:
    file = folder / f"ade20k_panoptic_{split}.json"
    images = files_in(folder / "images" / SPLIT_FOLDERS[split], "*.jpg")
    folders = folder / "annotations" / SPLIT_FOLDERS[split], folder / "annotations_instance" / SPLIT_FOLDERS[split], folder / file.stem
    jobs = [(image, *(each / f"{image.stem}.png" for each in folders)) for image in images]
    make_panoptic_files(make_panoptic, jobs, file, panoptic_categories(), overwrite=overwrite, num_proc=num_proc)


def prepare(
    folder: Path,
    *,
    splits: TrainVal = TRAIN_VAL,
    kinds: Sequence[Literal["semantic", "instance", "panoptic"]] = ("semantic", "instance", "panoptic"),
    num_proc: int = 1,
    overwrite: bool = False,
) -> None:
    """Makes the files of some kinds, from the folder ADEChallengeData2016. Raises ValueError for a file that is missing or wrong."""
    makers = {"semantic": prepare_semantic, "instance": prepare_instance, "panoptic": prepare_panoptic}
    for split in splits:
        for kind in kinds:
            makers[kind](folder, split, num_proc, overwrite)
