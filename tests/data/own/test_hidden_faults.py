"""Faults that hide in files that read well: objects without pixels or far outside, images that are there twice, files in inner folders."""

import json

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.data.verification import verify

from .layouts import write_layout

OUTSIDE = [[100, 100], [140, 100], [140, 140], [100, 140]]  # of 48 x 64 pixels


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def move_coco(root, points):
    flat = [value for point in points for value in point]
    change(root / "annotations/train.json", lambda content: content["annotations"][0].update(segmentation=[flat]))


def move_labelme(root, points):
    change(root / "0.json", lambda content: content["shapes"][0].update(points=points))


def move_label_studio(root, points):
    percents = (np.array(points) / (64, 48) * 100).tolist()
    change(root / "train.json", lambda content: content[0]["annotations"][0]["result"][0]["value"].update(points=percents))


def move_jsonl(root, points):
    first, *others = (root / "train.jsonl").read_text().split("\n")
    line = json.loads(first)
    line["masks"][0]["mask"] = [[value for point in points for value in point]]
    (root / "train.jsonl").write_text("\n".join([json.dumps(line), *others]))


MOVES = {
    "own_coco": (move_coco, "annotations/train.json, image 0: annotation 1"),
    "own_labelme": (move_labelme, "0.json: shape 0"),
    "own_label_studio": (move_label_studio, "train.json, task 0: region 0-red square"),
    "own_jsonl": (move_jsonl, "train.jsonl, line 1: mask 0"),
}


def read(name, root, tmp_path, **options):
    return load(name, "train", root, cache_dir=tmp_path / "cache", **options)


@pytest.mark.parametrize("name", MOVES)
def test_an_object_without_a_pixel_is_broken(name, tmp_path, capsys):
    root, (move, place) = tmp_path / "data", MOVES[name]
    write_layout(name, root, 2)
    move(root, OUTSIDE)
    with pytest.raises(ValueError, match=f"{place}: no pixel of it lies in its image of 48 x 64 .*on_error='skip'"):
        read(name, root, tmp_path)
    assert len(read(name, root, tmp_path, on_error="skip")[0].segments) == 1
    assert "1 broken objects are left out" in capsys.readouterr().err


def test_a_line_of_yolo_without_a_pixel_is_broken(tmp_path):
    write_layout("own_yolo", tmp_path / "data", 1)
    (tmp_path / "data/labels/train/0.txt").write_text("0 0.5 0.5 0.5 0.5 0.5 0.5")
    with pytest.raises(ValueError, match="line 1: no pixel of it lies"):
        read("own_yolo", tmp_path / "data", tmp_path)


def test_an_expression_for_a_mask_without_a_pixel_is_broken(tmp_path):
    write_layout("own_jsonl", tmp_path / "data", 1)
    (tmp_path / "data/train.jsonl").write_text(json.dumps({"image": "images/0.png", "text": "it", "masks": [[[99, 99, 99, 110, 110, 99]]]}))
    with pytest.raises(ValueError, match="line 1: mask 0: no pixel of it lies"):
        read("own_jsonl", tmp_path / "data", tmp_path)


def test_polygons_of_lines_in_fractions_are_refused(tmp_path):
    write_layout("own_jsonl", tmp_path / "data", 1)
    move_jsonl(tmp_path / "data", [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]])
    with pytest.raises(ValueError, match="line 1: mask 0: all coordinates lie between 0 and 1, .*fractions of the image"):
        read("own_jsonl", tmp_path / "data", tmp_path)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize(("right", "is_noted"), [(72.3, False), (72.5, True)])  # 64 + 64 / 10 + 2 = 72.4
def test_corners_far_outside_are_noted(name, right, is_noted, tmp_path, capsys):
    root, (move, place) = tmp_path / "data", MOVES[name]
    write_layout(name, root, 2)
    move(root, [[20, 20], [right, 20], [right, 30], [20, 30]])
    note = f"1 objects have corners far outside of their images .* the first is in {name} train: {place.rpartition(': ')[0]}"
    for _ in range(2):  # made, and from the cache
        assert len(read(name, root, tmp_path)[0].segments) == 2
        assert (" ".join(capsys.readouterr().err.split()).count(note.partition(" .* ")[0]) == 1) == is_noted
    assert verify(name, root, splits=["train"])
    out = capsys.readouterr().out
    assert (note.partition(" .* ")[2] in out and note.partition(" .* ")[0] in out) == is_noted


def test_two_images_of_one_file_are_refused(tmp_path):
    write_layout("own_coco", tmp_path / "data", 2)
    change(tmp_path / "data/annotations/train.json", lambda content: content["images"][1].update(file_name="./0.png"))
    with pytest.raises(ValueError, match="image 0 and image 1 have the same file_name, '0.png'"):
        read("own_coco", tmp_path / "data", tmp_path)


def test_two_files_of_shapes_of_one_image_are_refused(tmp_path):
    write_layout("own_labelme", tmp_path / "data", 2)
    (tmp_path / "data/0_copy.json").write_bytes((tmp_path / "data/0.json").read_bytes())
    with pytest.raises(ValueError, match=r"0.json and 0_copy.json are of the same image 0.png"):
        read("own_labelme", tmp_path / "data", tmp_path)


def test_two_addresses_with_one_file_are_refused(tmp_path):
    write_layout("own_label_studio", tmp_path / "data", 2)

    def edit(tasks):
        for task, folder in zip(tasks, "ab", strict=True):
            task["data"]["image"] = f"s3://bucket/{folder}/1.png"

    change(tmp_path / "data/train.json", edit)
    message = r"task 0 \(s3://bucket/a/1.png\) and train.json, task 1 \(s3://bucket/b/1.png\) have one file, images/1.png"
    with pytest.raises(ValueError, match=message):
        read("own_label_studio", tmp_path / "data", tmp_path)
    for folder in "ab":
        (tmp_path / "data/images" / folder).mkdir()
        Image.open(tmp_path / "data/images/1.png").save(tmp_path / f"data/images/{folder}/1.png")
    assert len(read("own_label_studio", tmp_path / "data", tmp_path)) == 2


def into_inner(root, *names):
    for name in names:
        target = (root / name).parent / "inner" / (root / name).name
        target.parent.mkdir(exist_ok=True)
        (root / name).rename(target)


def test_pairs_in_inner_folders_are_read(tmp_path):
    root = tmp_path / "data"
    write_layout("own_pairs", root, 3)
    into_inner(root, "images/1.png", "masks/1.png")
    (root / "images/.trash").mkdir()
    (root / "images/.trash/9.png").write_bytes(b"")
    assert [sample.image_id for sample in read("own_pairs", root, tmp_path, ignore=[0])] == ["0", "2", "inner/1"]
    into_inner(root, "images/2.png")
    with pytest.raises(ValueError, match="masks/2.png: the mask has no image images/2.jpg"):
        read("own_pairs", root, tmp_path, ignore=[0])


def test_masks_below_the_images_are_no_images(tmp_path):
    root = tmp_path / "data"
    write_layout("own_pairs", root, 2)
    (root / "masks").rename(root / "images/masks")
    assert len(read("own_pairs", root, tmp_path, ignore=[0], masks="images/masks")) == 2


def test_files_of_shapes_in_inner_folders_are_read(tmp_path, capsys):
    root = tmp_path / "data"
    write_layout("own_labelme", root, 3)
    into_inner(root, "1.json", "1.png")
    (root / "inner/config.json").write_text("{}")
    assert [sample.image_id for sample in read("own_labelme", root, tmp_path)] == ["0", "2", "inner/1"]
    assert "1 .json files in inner folders are left out: they have no shapes, the first: inner/config.json" in capsys.readouterr().err
    (root / "inner/config.json").write_text("{")
    with pytest.raises(ValueError, match="inner/config.json: not a JSON file"):
        read("own_labelme", root, tmp_path)


@pytest.mark.parametrize(("name", "folders"), [("own_pairs", ("images", "masks")), ("own_labelme", (".",))])
def test_folders_of_splits_are_not_mixed(name, folders, tmp_path):
    root = tmp_path / "data"
    options = write_layout(name, root, 2)
    for folder in folders:
        for split in ("train", "val"):
            (root / folder / split).mkdir()
        for number, split in enumerate(("train", "val")):
            for file in (root / folder).glob(f"{number}.*"):
                file.rename(root / folder / split / file.name)
    with pytest.raises(ValueError, match=r"has the file train/0\.\w+: if its folders are of splits, give '.*\{split\}' as the folder"):
        read(name, root, tmp_path, **options)


def test_a_mask_with_an_orientation_of_its_own_is_refused(tmp_path):
    root = tmp_path / "data"
    write_layout("own_pairs", root, 1)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(root / "masks/0.png").save(root / "masks/0.png", exif=exif)
    assert len(read("own_pairs", root, tmp_path, ignore=[0])) == 1
    with pytest.raises(ValueError, match="masks/0.png: the mask has an EXIF orientation of its own, .* save it upright and without EXIF"):
        read("own_pairs", root, tmp_path, ignore=[0], orientation="turned")
