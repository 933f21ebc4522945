"""The same drawn images in the layout of every format for own data: a red square and a green one on each, at places of their own."""

import json

import numpy as np
from PIL import Image

SIZE = (48, 64)
NAMES = ("red square", "green square")


def squares(number):
    """Boxes (x0, y0, x1, y1) of the red and the green square of an image; they do not touch."""
    x, y = number * 7 % 20, number * 5 % 20
    return (x, y, x + 12, y + 14), (x + 20, y + 4, x + 36, y + 20)


def corners(box):
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def write_images(folder, number):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        pixels = np.full((*SIZE, 3), 90, dtype=np.uint8)
        for channel, (x0, y0, x1, y1) in enumerate(squares(index)):
            pixels[y0:y1, x0:x1] = 0
            pixels[y0:y1, x0:x1, channel] = 255
        Image.fromarray(pixels).save(folder / f"{index}.png")


def write_coco(root, number):
    write_images(root / "images", number)
    images = [{"id": index, "file_name": f"{index}.png", "height": SIZE[0], "width": SIZE[1]} for index in range(number)]
    annotations = [
        {"id": 2 * index + which + 1, "image_id": index, "category_id": which + 1, "iscrowd": 0, "segmentation": [corners(box)]}
        for index in range(number)
        for which, box in enumerate(squares(index))
    ]
    categories = [{"id": which + 1, "name": name} for which, name in enumerate(NAMES)]
    (root / "annotations").mkdir()
    (root / "annotations/train.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_pairs(root, number):
    write_images(root / "images", number)
    (root / "masks").mkdir()
    for index in range(number):
        values = np.zeros(SIZE, dtype=np.uint8)
        for which, (x0, y0, x1, y1) in enumerate(squares(index)):
            values[y0:y1, x0:x1] = which + 1
        Image.fromarray(values).save(root / f"masks/{index}.png")
    (root / "categories.txt").write_text("".join(f"{which + 1}\t{name}\n" for which, name in enumerate(NAMES)))


def write_labelme(root, number):
    write_images(root, number)
    for index in range(number):
        shapes = [
            {"label": name, "points": np.reshape(corners(box), (4, 2)).tolist(), "shape_type": "polygon", "group_id": None, "flags": {}}
            for name, box in zip(NAMES, squares(index), strict=True)
        ]
        content = {"shapes": shapes, "flags": {}, "imagePath": f"{index}.png", "imageData": None}
        (root / f"{index}.json").write_text(json.dumps({**content, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}))


def write_jsonl(root, number):
    write_images(root / "images", number)
    lines = []
    for index in range(number):
        masks = [[corners(box)] for box in squares(index)]
        named = [{"category": name, "mask": mask} for name, mask in zip(NAMES, masks, strict=True)]
        lines.append({"image": f"images/{index}.png", "masks": named})
        lines.append({"image": f"images/{index}.png", "text": f"the {NAMES[0]}", "masks": masks[:1]})
    (root / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))


def write_yolo(root, number):
    write_images(root / "images/train", number)
    (root / "labels/train").mkdir(parents=True)
    (root / "data.yaml").write_text(json.dumps({"path": ".", "train": "images/train", "val": "images/train", "names": list(NAMES)}))
    for index in range(number):
        shares = [np.divide(corners(box), SIZE[::-1] * 4).tolist() for box in squares(index)]
        lines = [f"{which} {' '.join(map(repr, outline))}" for which, outline in enumerate(shares)]
        (root / f"labels/train/{index}.txt").write_text("\n".join(lines))


def write_label_studio(root, number):
    write_images(root / "images", number)
    tasks = []
    for index in range(number):
        regions = [
            {
                "id": f"{index}-{name}",
                "type": "polygonlabels",
                "original_width": SIZE[1],
                "original_height": SIZE[0],
                "image_rotation": 0,
                "value": {
                    "points": (np.reshape(corners(box), (4, 2)) / SIZE[::-1] * 100).tolist(),
                    "polygonlabels": [name],
                },
            }
            for name, box in zip(NAMES, squares(index), strict=True)
        ]
        annotation = {"id": index, "was_cancelled": False, "result": regions}
        tasks.append({"id": index, "data": {"image": f"/data/upload/1/{index}.png"}, "annotations": [annotation]})
    (root / "train.json").write_text(json.dumps(tasks))


WRITERS = {
    "own_coco": write_coco,
    "own_pairs": write_pairs,
    "own_labelme": write_labelme,
    "own_jsonl": write_jsonl,
    "own_yolo": write_yolo,
    "own_label_studio": write_label_studio,
}
OPTIONS = {"own_pairs": {"ignore": [0]}}  # what a format needs for these files


def write_layout(name, root, number=10):
    """Writes `number` images in the layout of a format; returns the options that its files need."""
    root.mkdir(parents=True, exist_ok=True)
    WRITERS[name](root, number)
    return dict(OPTIONS.get(name, {}))
