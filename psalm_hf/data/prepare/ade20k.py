"""Make what is derived from ADE20K (ADEChallengeData2016): maps that start at 0, and the JSON files of instance and panoptic segmentation.

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
from typing import Any

FOLDERS = {"train": "training", "val": "validation"}
KINDS = ("semantic", "instance", "panoptic")

# Name and colour of the categories 0..149 as the published panoptic files have them; the colour is the id of a category's first segment.
PANOPTIC_CATEGORIES = """\
wall: 120 120 120
building: 180 120 120
sky: 6 230 230
floor: 80 50 50
tree: 4 200 3
ceiling: 120 120 80
road, route: 140 140 140
bed: 204 5 255
window : 230 230 230
grass: 4 250 7
cabinet: 224 5 255
sidewalk, pavement: 235 255 7
person: 150 5 61
earth, ground: 120 120 70
door: 8 255 51
table: 255 6 82
mountain, mount: 143 255 140
plant: 204 255 4
curtain: 255 51 7
chair: 204 70 3
car: 0 102 200
water: 61 230 250
painting, picture: 255 6 51
sofa: 11 102 255
shelf: 255 7 71
house: 255 9 224
sea: 9 7 230
mirror: 220 220 220
rug: 255 9 92
field: 112 9 255
armchair: 8 255 214
seat: 7 255 224
fence: 255 184 6
desk: 10 255 71
rock, stone: 255 41 10
wardrobe, closet, press: 7 255 255
lamp: 224 255 8
tub: 102 8 255
rail: 255 61 6
cushion: 255 194 7
base, pedestal, stand: 255 122 8
box: 0 255 20
column, pillar: 255 8 41
signboard, sign: 255 5 153
chest of drawers, chest, bureau, dresser: 6 51 255
counter: 235 12 255
sand: 160 150 20
sink: 0 163 255
skyscraper: 140 140 200
fireplace: 250 10 15
refrigerator, icebox: 20 255 0
grandstand, covered stand: 31 255 0
path: 255 31 0
stairs: 255 224 0
runway: 153 255 0
case, display case, showcase, vitrine: 0 0 255
pool table, billiard table, snooker table: 255 71 0
pillow: 0 235 255
screen door, screen: 0 173 255
stairway, staircase: 31 0 255
river: 11 200 200
bridge, span: 255 82 0
bookcase: 0 255 245
blind, screen: 0 61 255
coffee table: 0 255 112
toilet, can, commode, crapper, pot, potty, stool, throne: 0 255 133
flower: 255 0 0
book: 255 163 0
hill: 255 102 0
bench: 194 255 0
countertop: 0 143 255
stove: 51 255 0
palm, palm tree: 0 82 255
kitchen island: 0 255 41
computer: 0 255 173
swivel chair: 10 0 255
boat: 173 255 0
bar: 0 255 153
arcade machine: 255 92 0
hovel, hut, hutch, shack, shanty: 255 0 255
bus: 255 0 245
towel: 255 0 102
light: 255 173 0
truck: 255 0 20
tower: 255 184 184
chandelier: 0 31 255
awning, sunshade, sunblind: 0 255 61
street lamp: 0 71 255
booth: 255 0 204
tv: 0 255 194
plane: 0 255 82
dirt track: 0 10 255
clothes: 0 112 255
pole: 51 0 255
land, ground, soil: 0 194 255
bannister, banister, balustrade, balusters, handrail: 0 122 255
escalator, moving staircase, moving stairway: 0 255 163
ottoman, pouf, pouffe, puff, hassock: 255 153 0
bottle: 0 255 10
buffet, counter, sideboard: 255 112 0
poster, posting, placard, notice, bill, card: 143 255 0
stage: 82 0 255
van: 163 255 0
ship: 255 235 0
fountain: 8 184 170
conveyer belt, conveyor belt, conveyer, conveyor, transporter: 133 0 255
canopy: 0 255 92
washer, automatic washer, washing machine: 184 0 255
plaything, toy: 255 0 31
pool: 0 184 255
stool: 0 214 255
barrel, cask: 255 0 112
basket, handbasket: 92 255 0
falls: 0 224 255
tent: 112 224 255
bag: 70 184 160
minibike, motorbike: 163 0 255
cradle: 153 0 255
oven: 71 255 0
ball: 255 0 163
food, solid food: 255 204 0
step, stair: 255 0 143
tank, storage tank: 0 255 235
trade name: 133 255 0
microwave: 255 0 235
pot: 245 0 255
animal: 255 0 122
bicycle: 255 245 0
lake: 10 190 212
dishwasher: 214 255 0
screen: 0 204 255
blanket, cover: 20 0 255
sculpture: 255 255 0
hood, exhaust hood: 0 153 255
sconce: 0 41 255
vase: 0 255 204
traffic light: 41 0 255
tray: 41 255 0
trash can: 173 0 255
fan: 0 245 255
pier: 71 0 255
crt screen: 122 0 255
plate: 0 255 184
monitor: 0 92 255
bulletin board: 184 255 0
shower: 0 133 255
radiator: 255 214 0
glass, drinking glass: 25 194 194
clock: 102 255 0
flag: 92 0 255
"""
# The published instance files name the categories by their first synonym, but for this one.
INSTANCE_NAMES = {89: "television receiver"}


def panoptic_categories() -> list[dict[str, Any]]:
    """The 150 categories as the JSON file has them."""
    from ..ade20k import CLASS_OF_INSTANCE

    categories = []
    for id, line in enumerate(PANOPTIC_CATEGORIES.splitlines()):
        name, colour = line.split(": ")
        is_thing = int(id + 1 in CLASS_OF_INSTANCE)
        categories.append({"name": name, "id": id, "isthing": is_thing, "color": list(map(int, colour.split()))})
    return categories


def instance_categories(folder: Path) -> list[dict[str, Any]]:
    """The 100 things as the JSON file has them."""
    from ..ade20k import CLASS_OF_INSTANCE, NAMES, names_from_lines

    lines = (folder / NAMES).read_text(encoding="utf-8").splitlines()
    names = names_from_lines(list(enumerate(lines, 1)))
    return [{"id": number - 1, "name": INSTANCE_NAMES.get(number - 1, names[number])} for number in CLASS_OF_INSTANCE]


def write_semantic(job: tuple[Path, Path]) -> None:
    """The map of one image, every value less one; 0 becomes 255."""
    import numpy as np

    from ..preparation import read_pixels, write_picture

    source, path = job
    labels = read_pixels(source)
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.max() > 150:
        raise ValueError(f"{source}: expected labels 0 to 150 as grey of 8 bits; it is no map of `annotations`")
    write_picture(path, labels - np.uint8(1))


def read_image_entry(image: Path) -> dict[str, Any]:
    """The entry of `images`."""
    from ..preparation import read_size

    height, width = read_size(image)
    return {"id": image.stem, "file_name": image.name, "width": width, "height": height}


def read_instances(source: Path, entry: dict[str, Any]) -> list[tuple[int, Any]]:
    """Category 0..149 and mask (H, W) bool of the objects of one image, by their numbers."""
    import numpy as np

    from ..ade20k import instances_of
    from ..label_maps import present_values
    from ..preparation import read_pixels
    from ..segment_map import read_segment_map

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
    """ValueError if a map has not the size of its image."""
    if tuple(size) != (entry["height"], entry["width"]):
        raise ValueError(f"{source}: is {size[0]} x {size[1]}, but its image is {entry['height']} x {entry['width']} (height x width)")


def make_instances(job: tuple[Path, Path]) -> dict[str, Any]:
    """Entries of `images` and `annotations` of one image; the ids of annotations are given later."""
    from ...masks import rle_from_bitmap
    from ..preparation import box_and_area

    image, source = job
    entry = read_image_entry(image)
    annotations = []
    for category_id, mask in read_instances(source, entry):
        box, area = box_and_area(mask)
        annotations.append(
            {
                "image_id": entry["id"],
                "iscrowd": 0,
                "category_id": category_id,
                "bbox": box,
                "segmentation": rle_from_bitmap(mask),
                "area": area,
            }
        )
    return {"image": entry, "annotations": annotations}


def make_panoptic(job: tuple[Path, Path, Path, Path]) -> dict[str, Any]:
    """The panoptic PNG of one image: stuff of the semantic map, and over it the objects. Returned are its entries of `images` and
    `annotations`."""
    import numpy as np

    from ..preparation import box_and_area, read_pixels, write_picture

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
    for category_id, mask in stuff + read_instances(instances, entry):
        segment_id = colour_id(categories[category_id])
        while categories[category_id]["isthing"] and segment_id in taken:
            segment_id = (segment_id + 1) % 256**3
        taken.add(segment_id)
        ids[mask] = segment_id
        box, area = box_and_area(mask)  # before other objects are put over it, as in the published files
        segments_info.append({"id": segment_id, "category_id": category_id, "area": area, "bbox": box, "iscrowd": 0})
    write_picture(path, np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8))
    return {"image": entry, "annotation": {"image_id": entry["id"], "file_name": path.name, "segments_info": segments_info}}


def colour_id(category: dict[str, Any]) -> int:
    """The segment id that has the colour of a category."""
    red, green, blue = category["color"]
    return red + 256 * green + 256**2 * blue


def prepare_semantic(folder: Path, split: str, num_proc: int, overwrite: bool) -> None:
    from ..preparation import files_in, make_files

    sources = files_in(folder / "annotations" / FOLDERS[split], "*.png")
    jobs = [(source, folder / "annotations_detectron2" / FOLDERS[split] / source.name) for source in sources]
    make_files(write_semantic, jobs, title=f"annotations_detectron2 {split}", overwrite=overwrite, num_proc=num_proc)


def prepare_instance(folder: Path, split: str, num_proc: int, overwrite: bool) -> None:
    from ..preparation import do_all, files_in, write_json

    file = folder / f"ade20k_instance_{split}.json"
    if file.exists() and not overwrite:
        print(f"{file.name}: kept")
        return
    images = files_in(folder / "images" / FOLDERS[split], "*.jpg")
    categories = instance_categories(folder)
    jobs = [(image, folder / "annotations_instance" / FOLDERS[split] / f"{image.stem}.png") for image in images]
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
    from ..preparation import do_all, files_in, write_json

    file = folder / f"ade20k_panoptic_{split}.json"
    images = files_in(folder / "images" / FOLDERS[split], "*.jpg")
    jobs = [
        (
            image,
            folder / "annotations" / FOLDERS[split] / f"{image.stem}.png",
            folder / "annotations_instance" / FOLDERS[split] / f"{image.stem}.png",
            folder / file.stem / f"{image.stem}.png",
        )
        for image in images
    ]
    if file.exists() and not overwrite and all(job[-1].exists() for job in jobs):
        print(f"{file.stem}: 0 written, {len(jobs)} kept")
        return
    # All of them: PNG files that were there without the rest may have other ids.
    made = do_all(make_panoptic, jobs, title=file.stem, num_proc=num_proc)
    content = {
        "images": [entry["image"] for entry in made],
        "annotations": [entry["annotation"] for entry in made],
        "categories": panoptic_categories(),
    }
    write_json(file, content)  # last: where it exists, so do the PNG files
    print(f"{file.stem}: {len(jobs)} written, 0 kept")


def prepare(
    folder: Path, *, splits: Sequence[str] = tuple(FOLDERS), kinds: Sequence[str] = KINDS, num_proc: int = 1, overwrite: bool = False
) -> None:
    """Makes the files of the kinds.

    Args:
        folder: ADEChallengeData2016.
        num_proc: processes.
        overwrite: write again what exists.

    Raises:
        ValueError: a file that is missing or is not of ADE20K.
    """
    makers = {"semantic": prepare_semantic, "instance": prepare_instance, "panoptic": prepare_panoptic}
    for split in splits:
        for kind in kinds:
            makers[kind](folder, split, num_proc, overwrite)
