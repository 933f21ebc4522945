"""Faults that exported files of own data had: each gives the right value, or an error that names it. COCO and pairs."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from psalm_hf.cli import verify as command
from psalm_hf.data import load
from psalm_hf.data.files import mask
from psalm_hf.evaluation.evaluation import Evaluation
from psalm_hf.evaluation.evaluators.instance import InstanceEvaluator, OwnInstanceEvaluator
from psalm_hf.masks import area, bitmap_from_rle, compress_rle

SIZE = (48, 64)
CUP, TABLE = [[4, 4, 40, 4, 40, 30, 4, 30]], [[42, 10, 60, 10, 60, 40, 42, 40]]  # 936 and 540 pixels


@pytest.fixture
def root(tmp_path):
    """A COCO file of two objects in one image."""
    root = tmp_path / "mydata"
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    save(root / "images/a.png")
    write(root, content())
    return root


def save(path, orientation=None, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", size[::-1], (90, 0, 0)).save(path, exif=exif)


def content(cup=(), table=(), image=()):
    """Content of the file, with fields that are otherwise; those that are `...` are absent."""
    entry = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]} | dict(image)
    cup = {"id": 10, "image_id": 1, "category_id": 7, "iscrowd": 0, "segmentation": CUP} | dict(cup)
    table = {"id": 11, "image_id": 1, "category_id": 9, "iscrowd": 0, "segmentation": TABLE} | dict(table)
    found = {"images": [entry], "annotations": [cup, table], "categories": categories("cup", "table")}
    for fields in (entry, cup, table):
        for name in [name for name, value in fields.items() if value is ...]:
            del fields[name]
    return found


def categories(first, second):
    return [{"id": 7, "name": first}, {"id": 9, "name": second}]


def write(root, found, split="train"):
    (root / f"annotations/{split}.json").write_text(json.dumps(found), encoding="utf-8")


def read(root, split="train", **options):
    return load("own_coco", split, root, cache_dir=root.parent / "cache", **options)


def areas(sample):
    return [(segment.category_id, area(segment.mask_rle)) for segment in sample.segments]


def verified(capsys, *arguments):
    status = command.main([*map(str, arguments)])
    return status, capsys.readouterr().out


# Crowds


def test_a_file_of_crowds_alone_is_refused_or_they_are_objects(root, capsys):
    for split in ("train", "val"):
        write(root, content({"iscrowd": 1}, {"iscrowd": 1}), split)
        message = rf"own_coco {split}: all 2 objects of annotations/{split}.json are crowds .*CVAT.*crowds='objects'"
        with pytest.raises(ValueError, match=message):
            read(root, split)
        status, printed = verified(capsys, "own_coco", root, "--split", split)
        assert status == 2 and re.search(message, printed)
    with pytest.raises(ValueError, match="nothing can be trained or measured"):
        Evaluation("own_coco", None, split="val", data_dir=str(root), predictions=root)
    (sample,) = read(root, "val", crowds="objects")
    assert areas(sample) == [(7, 936), (9, 540)] and not any(segment.is_crowd for segment in sample.segments)


def test_some_crowds_are_counted_at_every_load_and_by_verify(root, capsys):
    write(root, content({"iscrowd": 1}))
    for _ in range(2):
        assert [segment.is_crowd for segment in read(root)[0].segments] == [True, False]
        assert "own_coco train: 1 of 2 objects are crowds (iscrowd 1)" in capsys.readouterr().err
    status, printed = verified(capsys, "own_coco", root, "--split", "train")
    assert status == 0 and "note: 1 of 2 objects are crowds" in printed and "2 segments (1 crowds)" in printed
    read(root, crowds="objects")
    assert "crowds" not in capsys.readouterr().err


@pytest.mark.parametrize("value, is_crowd", [("0", False), ("1", True), (True, True), (None, False), (..., False)])
def test_iscrowd_is_0_or_1_also_as_text(value, is_crowd, root):
    write(root, content({"iscrowd": value}))
    assert [segment.is_crowd for segment in read(root)[0].segments] == [is_crowd, False]


@pytest.mark.parametrize("value", ["no", "", 2, -1, 0.5, [], {}])
def test_another_iscrowd_is_named(value, root):
    write(root, content({"iscrowd": value}))
    with pytest.raises(ValueError, match=r"annotation 10: iscrowd: expected 0 or 1, got " + re.escape(repr(value))):
        read(root)


# Turned images


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_an_image_that_exif_turns_is_refused_in_every_format(orientation, root, tmp_path):
    save(root / "images/a.jpg", orientation)
    write(root, content(image={"file_name": "a.jpg"}))
    (root / "train.jsonl").write_text('{"image": "images/a.jpg", "text": "a cup", "masks": []}', encoding="utf-8")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(save_masks(root) / "a.png")
    (root / "images/a.png").unlink()
    shape = {"label": "cup", "points": [[0, 0], [9, 0], [9, 9]], "shape_type": "polygon"}
    labelme = {"shapes": [shape], "imagePath": "images/a.jpg", "imageHeight": None, "imageWidth": None}
    (root / "a.json").write_text(json.dumps(labelme), encoding="utf-8")
    for name in ("own_coco", "own_jsonl", "own_pairs", "own_labelme"):
        with pytest.raises(ValueError, match=f"a.jpg has the EXIF orientation {orientation}: .*save it turned .*orientation='turned'"):
            load(name, "train", root, cache_dir=tmp_path)


def save_masks(root):
    (root / "masks").mkdir(exist_ok=True)
    (root / "categories.txt").write_text("road\n", encoding="utf-8")
    return root / "masks"


def test_a_turned_image_is_turned_with_its_masks_or_taken_as_it_is_stored(root):
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:10, :20] = 255  # the upper left, which orientation 6 shows at the upper right
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(root / "images/a.png", exif=exif)
    upright = [[38, 0, 48, 0, 48, 20, 38, 20]]
    write(root, content({"segmentation": upright}, {"segmentation": [[0, 0, 3, 0, 3, 3]]}, {"height": 64, "width": 48}))
    (sample,) = read(root, orientation="turned")
    white = np.asarray(sample.image.convert("L")) > 128
    assert sample.image_size == (64, 48) and np.array_equal(bitmap_from_rle(sample.segments[0].mask_rle), white)
    with pytest.raises(ValueError, match="is 48 x 64, but its annotation says 64 x 48"):
        read(root, orientation="stored")
    write(root, content({"segmentation": [[0, 0, 20, 0, 20, 10, 0, 10]]}))
    with pytest.raises(ValueError, match="is 64 x 48 .* when it is turned, but its annotation says 48 x 64.*orientation='stored'"):
        read(root, orientation="turned")
    (sample,) = read(root, orientation="stored")
    assert np.array_equal(bitmap_from_rle(sample.segments[0].mask_rle), pixels[..., 0] > 128)


def test_a_photograph_of_an_iphone_names_the_package_that_reads_it(root):
    (root / "images/a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    write(root, content(image={"file_name": "a.heic"}))
    with pytest.raises(ValueError, match="a.heic cannot be read .*pillow-heif"):
        read(root)


# Categories

CATEGORY_FAULTS = {
    "one name twice": ([{"id": 7, "name": "cup"}, {"id": 9, "name": "cup"}], "the name 'cup' is given twice"),
    "one id twice": ([*categories("cup", "table"), {"id": 7, "name": "mug"}], "the id 7 is given to two categories"),
    "name null": ([{"id": 7, "name": None}, {"id": 9, "name": "table"}], "category 0 of annotations/train.json: expected a name, got None"),
    "no name": ([{"id": 7}, {"id": 9}], "category 0 of annotations/train.json: expected a name, got None"),
    "name is a number": ([{"id": 7, "name": 5}], "category 0 of annotations/train.json: expected a name, got 5"),
    "no id": ([{"name": "cup"}], "category 0 of annotations/train.json: expected a whole number or a text as id, got None"),
    "no entry": ([3], "category 0 of annotations/train.json: expected an id and a name, got 3"),
    "none": ([], "annotations/train.json: no categories"),
    "placeholder": (categories("<region>", "table"), "the category '<region>' contains '<region>', which the model reads as a special"),
    "inside": (categories("an <image>", "table"), "the category 'an <image>' contains '<image>'"),
    "no list": ({"7": "cup"}, "annotations/train.json: categories: expected a list, got {'7': 'cup'}"),
}


@pytest.mark.parametrize("case", CATEGORY_FAULTS)
def test_broken_categories_are_named_by_load_and_verify(case, root, capsys):
    entries, message = CATEGORY_FAULTS[case]
    write(root, content() | {"categories": entries})
    for streaming in (False, True):
        with pytest.raises(ValueError, match=f"own_coco train: .*{re.escape(message)}.*; see the docs page Own data"):
            read(root, streaming=streaming)
    status, printed = verified(capsys, "own_coco", root, "--split", "train")
    assert status == 2 and message in printed and "BROKEN, no record can be read" in printed


def test_a_broken_category_is_skipped_with_its_objects(root, capsys):
    write(root, content() | {"categories": [{"id": 7, "name": None}, {"id": 9, "name": "table"}]})
    dataset = read(root, on_error="skip")
    assert [category.name for category in dataset.categories] == ["table"] and areas(dataset[0]) == [(9, 540)]
    printed = capsys.readouterr().err
    assert "category 0 of annotations/train.json is left out, and so are its objects: expected a name, got None" in printed
    assert "1 broken objects are left out of records that are kept, the first: own_coco train: annotations/train.json, image 1" in printed


def test_the_name_of_a_project_is_no_category(root, capsys):
    roboflow = [
        {"id": 0, "name": "cup", "supercategory": "none"},
        {"id": 7, "name": "cup", "supercategory": "cup"},
        {"id": 9, "name": "table", "supercategory": "cup"},
    ]
    write(root, content() | {"categories": roboflow})
    assert [(category.id, category.name) for category in read(root).categories] == [(7, "cup"), (9, "table")]
    assert "the category 'cup' is left out: it is the name of the project" in capsys.readouterr().err
    write(root, content({"category_id": 0}) | {"categories": [roboflow[0] | {"name": "mug"}, *roboflow[1:]]})
    assert len(read(root).categories) == 3  # it has an object


@pytest.mark.parametrize("ids", [("5f1c", "a7"), (2**70, 3), ("7", "9")])
def test_ids_of_categories_may_be_texts_and_large(ids, root):
    entries = [{"id": id, "name": name} for id, name in zip(ids, ("cup", "table"), strict=True)]
    write(root, content({"category_id": ids[0]}, {"category_id": ids[1]}) | {"categories": entries})
    assert areas(read(root)[0]) == [(1, 936), (2, 540)]


# Ids and fields


@pytest.mark.parametrize("id", ["5f1c-aa", 2**64 + 5, None, ..., -(2**70)])
def test_own_data_needs_no_ids_of_annotations(id, root, capsys):
    write(root, content({"id": id}))
    assert areas(read(root)[0]) == [(7, 936), (9, 540)] and read(root)[0].segments[0].annotation_id is None
    assert verified(capsys, "own_coco", root, "--split", "train")[0] == 0


def test_an_object_with_the_id_0_can_be_found(root):
    write(root, content({"id": 0}))
    (sample,), categories_ = read(root), read(root).categories
    found = [{"category_id": segment.category_id, "score": 1.0, "mask": segment.mask_rle} for segment in sample.segments]
    scores = {}
    for kind in (InstanceEvaluator, OwnInstanceEvaluator):
        evaluator = kind(categories_)
        evaluator.add(sample, {"instances": found})
        scores[kind] = evaluator.compute()["AP"]
    assert scores[OwnInstanceEvaluator] == pytest.approx(100) and scores[InstanceEvaluator] < 60


@pytest.mark.parametrize("id", ["x1", 2**70])
def test_ids_of_images_may_be_texts_and_large(id, root):
    write(root, content({"image_id": id}, {"image_id": id}, {"id": id}))
    assert [(sample.image_id, len(sample.segments)) for sample in read(root)] == [(str(id), 2)]


def test_separators_of_windows_and_sizes_that_are_absent(root):
    save(root / "images/sub/b.png")
    write(root, content(image={"file_name": "sub\\b.png", "height": ..., "width": None}))
    assert areas(read(root)[0]) == [(7, 936), (9, 540)]


MESSAGES = {
    "ids of two types": (content(image={"id": "1"}), "annotation 10 has the image_id 1, a number, but the id of the image is '1', a text"),
    "height is text": (content(image={"height": "48"}), "height: expected a number of pixels, got '48', a text"),
    "no file name": (content(image={"file_name": None}), "file_name: expected the path of an image, got None"),
    "text": (content({"segmentation": [list(map(str, CUP[0]))]}), "annotation 10: polygon 0: .*where '4' is no number but text"),
    "pairs": (
        content({"segmentation": [[[4, 4], [40, 4], [40, 30]]]}),
        "annotation 10: polygon 0: .*lists of numbers; write the pairs one",
    ),
    "None": (content({"segmentation": [[4, 4, None, 4, 40, 30]]}), "annotation 10: polygon 0: .*where None is no number"),
    "RLE without size": (content({"segmentation": {"counts": [0, 100, 2972]}}), r"annotation 10: the RLE has no size, but .*\[48, 64\]"),
    "no counts": (content({"segmentation": {"size": [48, 64]}}), "annotation 10: mask: the counts of an RLE are .* got None"),
    "negative run": (content({"segmentation": {"size": [48, 64], "counts": [-4, 3076]}}), "annotation 10: mask: .*run of -4 pixels"),
    "half a run": (content({"segmentation": {"size": [48, 64], "counts": [1.5, 3070.5]}}), "annotation 10: .*are whole numbers"),
    "box alone": (content({"segmentation": [], "bbox": [4, 4, 36, 26]}), "annotation 10: .*a box alone is no mask"),
    "fractions": (content({"segmentation": [[0.1, 0.1, 0.6, 0.1, 0.6, 0.5]]}), "annotation 10: .*fractions of the image; multiply"),
    "far away": (content({"segmentation": [[4, 4, 1e9, 4, 40, 30]]}), "annotation 10: polygon 0: .*farther away than 16 times"),
    "category of another type": (content({"category_id": "7"}), "annotation 10: .*unknown category id '7', a text; .*has 7, a number"),
    "area is text": (content({"area": "936"}), "annotation 10: area: expected a number of pixels, got '936'"),
    "no object": (content() | {"annotations": [5]}, "annotation number 0: .*`images` does not list it"),
    "no image": (content() | {"images": [None]}, "image number 0: expected an image with an id"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages_name_the_object_and_the_types(case, root, capsys):
    found, message = MESSAGES[case]
    write(root, found)
    with pytest.raises(ValueError, match=f"own_coco train: annotations/train.json, .*{message}"):
        read(root)
    status, printed = verified(capsys, "own_coco", root, "--split", "train")
    assert status == 2 and re.search(message, printed)


def test_a_file_of_lists_in_lists_is_named(root):
    (root / "annotations/train.json").write_text('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}", encoding="utf-8")
    with pytest.raises(ValueError, match="lists or objects lie too deep in each other"):
        read(root)


@pytest.mark.parametrize("segmentation, left", [([*CUP, [1, 2, 3, 4]], [(9, 540)]), ([], [(9, 540)])])
def test_a_broken_object_is_left_out_alone_and_counted(segmentation, left, root, capsys):
    write(root, content({"segmentation": segmentation}))
    for streaming in (False, True):
        (sample,) = read(root, on_error="skip", streaming=streaming)
        assert areas(sample) == left
        assert "1 broken objects are left out of records that are kept, the first: own_coco train: annotations" in capsys.readouterr().err


def test_an_image_of_broken_objects_alone_is_left_out(root, capsys):
    write(root, content({"segmentation": []}, {"category_id": 3}))
    with pytest.raises(ValueError, match="no rows are left"):
        read(root, on_error="skip")
    with pytest.raises(ValueError, match=r"annotation 10: .* \(and 1 more broken objects\)"):
        read(root)
    _, printed = verified(capsys, "own_coco", root, "--split", "train")
    lines = [line for line in printed.splitlines() if "annotations/train.json, image 1: annotation" in line]
    assert len(lines) == 2 and "annotation 10" in lines[0] and "annotation 11" in lines[1] and "2 problems" in printed


def test_runs_that_end_within_a_number_are_refused():
    rle = compress_rle({"size": [4, 6], "counts": [3, 5, 16]})
    assert mask(rle, (4, 6)) == rle
    for counts, message in ((rle["counts"] + "o", "cut off"), (rle["counts"] + "~", "no compressed"), ("\u00e9", "no compressed")):
        with pytest.raises(ValueError, match=message):
            mask(rle | {"counts": counts}, (4, 6))


# Pairs


@pytest.fixture
def pairs(tmp_path):
    """An image and a mask whose object has 350 pixels of 255."""
    root = tmp_path / "pairs"
    save(root / "images/a.jpg")
    labels = np.zeros(SIZE, np.uint8)
    labels[10:20, 10:45] = 255
    Image.fromarray(labels).save(save_masks(root) / "a.png")
    return root


def pair(root, **options):
    return load("own_pairs", "train", root, cache_dir=root.parent / "cache", **options)


def test_a_map_of_0_and_255_is_asked_about(pairs, capsys):
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match=r"a.png holds only 0 and 255, and 255 is ignored, .*'map_values=\{255: 0\}' and ignore=0"):
            pair(pairs, on_error=on_error)
    status, printed = verified(capsys, "own_pairs", pairs, "--split", "train")
    assert status == 2 and "holds only 0 and 255" in printed
    assert areas(pair(pairs, map_values={255: 0}, ignore=0)[0]) == [(0, 350)]
    assert areas(pair(pairs, map_values={})[0]) == [(0, 48 * 64 - 350)]
    status, printed = verified(capsys, "own_pairs", pairs, "--split", "train", "--option", "map_values={255: 0}", "ignore=0")
    assert status == 0
    with pytest.raises(ValueError, match="own_pairs: map_values gives the id of a category for values of pixels"):
        pair(pairs, map_values={255: "road"})


def test_two_values_may_be_one_category(pairs):
    Image.fromarray(np.array([[0, 1, 2, 3]] * 4, np.uint8)).save(pairs / "masks/a.png")
    save(pairs / "images/a.jpg", size=(4, 4))
    assert areas(pair(pairs, map_values={1: 0, 2: 0}, ignore=3)[0]) == [(0, 12)]


def test_names_of_masks_may_have_a_suffix_in_a_folder_of_their_own_or_not(pairs):
    (pairs / "masks/a.png").rename(pairs / "masks/a_mask.png")
    with pytest.raises(ValueError, match="has no mask masks/a.png; if a_mask.png is its mask, give mask_suffix='_mask'"):
        pair(pairs)
    options = {"mask_suffix": "_mask", "map_values": {255: 0}, "ignore": 0}
    assert areas(pair(pairs, **options)[0]) == [(0, 350)]
    (pairs / "masks/a_mask.png").rename(pairs / "images/a_mask.png")
    assert [areas(sample) for sample in pair(pairs, masks="images", **options)] == [[(0, 350)]]


def test_a_mask_with_loss_is_named(pairs):
    Image.open(pairs / "masks/a.png").save(pairs / "masks/a.jpg")
    (pairs / "masks/a.png").unlink()
    with pytest.raises(ValueError, match="has no mask masks/a.png; a.jpg has lost values to its compression: save masks as PNG"):
        pair(pairs)


def test_values_may_be_numbers_of_objects_of_one_category(pairs):
    numbers = np.zeros(SIZE, np.uint16)
    numbers[0, :5], numbers[2, :7], numbers[4, :9] = 1, 255, 300
    Image.fromarray(numbers).save(pairs / "masks/a.png")
    dataset = pair(pairs, objects="masks")
    assert areas(dataset[0]) == [(0, 5), (0, 7), (0, 9)] and dataset.task == "instance"


def test_objects_have_the_category_of_their_pixels(pairs):
    (pairs / "categories.txt").write_text("1\troad\n2\tcar\n", encoding="utf-8")
    (pairs / "objects").mkdir()
    labels, numbers = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    labels[0, :5], labels[2, :7], numbers[0, :5], numbers[2, :3], numbers[2, 3:7], numbers[5, 0] = 1, 2, 1, 2, 3, 4
    numbers[5, 0] = 4  # on a pixel that is ignored
    Image.fromarray(labels).save(pairs / "masks/a.png")
    Image.fromarray(numbers).save(pairs / "objects/a.png")
    dataset = pair(pairs, objects="objects", ignore=0)
    assert areas(dataset[0]) == [(1, 5), (2, 3), (2, 4)] and dataset.task == "instance"
    numbers[0, 0] = 2
    Image.fromarray(numbers).save(pairs / "objects/a.png")
    with pytest.raises(ValueError, match="the object 2 of objects/a.png has pixels of the categories 1 and 2"):
        pair(pairs, objects="objects", ignore=0)


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("a.txt", "0,road\n1, bar, counter\n", {0: "road", 1: "bar, counter"}),
        ("a.csv", "id;name\n1;star\n2;a, b\n", {1: "star", 2: "a, b"}),
        ("_classes.csv", "Pixel Value, Class\n1, road\n2, car\n", {1: "road", 2: "car"}),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad: a:250,50,83:x,y:z\n", {1: "road: a"}),
    ],
)
def test_forms_of_category_files(name, text, found, pairs):
    (pairs / name).write_text(text, encoding="utf-8")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(pairs / "masks/a.png")
    dataset = pair(pairs, categories=name, ignore=0)
    assert {category.id: category.name for category in dataset.categories} == found


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "0,road\ncar\n", "line 2: expected a number, a comma and a name as in other lines, got 'car'"),
        ("a.txt", "id;name\n0;road\n", "line 1: expected a number, a comma and a name as in other lines, got 'id;name'"),
        ("a.txt", "0 road\n1 car\n", "line 1: '0 road' begins with a number, as all lines do; if it is the id, write a tab"),
        ("a.txt", "0: road\n", "line 1: '0: road' begins with a number"),
        ("a.txt", f"{2**70}\troad\n", "line 1: expected a whole number as id and a name"),
        ("a.txt", "road\n<image>\n", "the category '<image>' contains '<image>'"),
        ("a.json", '{"0": "road"}', "expected a list of names, .* got an object"),
        ("a.json", '[["road"]]', r"entry 0: expected a name, or \{'id', 'name'\}, got \['road'\]"),
        ("a.json", '[{"id": 0, "name": "road", "isthing": "no"}]', "isthing: expected 0 or 1, got 'no'"),
        ("labelmap.txt", "road:250,50,83::\ncar\n", "line 2: expected label:R,G,B:parts:actions as in the other lines, got 'car'"),
        ("labelmap.txt", "road:250,50,300::\n", "line 1: the numbers of a colour are 0 to 255"),
        ("labelmap.txt", "road:250,50,83::\ncar:250,50,83::\n", r"the colour \(250, 50, 83\) is given twice"),
    ],
)
def test_wrong_category_files_are_named(name, text, message, pairs):
    (pairs / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"own_pairs train: {name}: {message}"):
        pair(pairs, categories=name)
