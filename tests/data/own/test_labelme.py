"""Labelme files: every kind of shape on a picture small enough to count pixels, and the real polygons of COCO written as Labelme does."""

import base64
import io
import json
import shutil
from collections import defaultdict

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

SIZE = (4, 6)


def encode(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def shape(label, points, shape_type="polygon", group_id=None, **fields):
    return {"label": label, "points": points, "group_id": group_id, "shape_type": shape_type, "flags": {}, **fields}


def write(path, shapes, **fields):
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "../photos/a.png", "imageData": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "imageHeight": 4, "imageWidth": 6, **fields}), encoding="utf-8")


RECTANGLE = shape("cup", [[3, 2], [0, 0]], "rectangle")  # drawn from its lower right corner
OPTIONS = {"annotations": "drawn"}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "kitchen"
    (root / "photos").mkdir(parents=True)
    Image.new("RGB", SIZE[::-1]).save(root / "photos/a.png")
    write(root / "drawn/a.json", [RECTANGLE])
    return root


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle).astype(int).tolist() for segment in sample.segments]


def test_every_kind_of_shape_has_the_pixels_inside(root, tmp_path):
    part = Image.fromarray(np.array([[255, 0], [255, 255]], dtype=np.uint8))
    shapes = [
        RECTANGLE,
        shape("cup", [[4, 0], [6, 0], [6, 2], [4, 2]]),
        shape("ball", [[3, 2], [4, 3]], "circle"),  # a radius of the root of 2: the pixels around the centre, 0.5 and 1.5 away
        shape("spot", [[4, 2], [5, 3]], "mask", mask=encode(part)),
    ]
    write(root / "drawn/a.json", shapes)
    dataset = load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)
    assert bitmaps(dataset[0]) == [
        [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0] * 6, [0] * 6],
        [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1], [0] * 6, [0] * 6],
        [[0] * 6, [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [0] * 6],
        [[0] * 6, [0] * 6, [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]],
    ]
    assert [segment.category_id for segment in dataset[0].segments] == [2, 2, 1, 3] and dataset.task == "instance"
    assert [(entry.id, entry.name) for entry in dataset.categories] == [(1, "ball"), (2, "cup"), (3, "spot")]
    assert dataset[0].image_id == "a" and Image.open(dataset[0].image).size == SIZE[::-1]


def test_a_group_is_one_segment_if_it_has_one_label(root, tmp_path):
    left, right = [[0, 0], [1, 4]], [[5, 0], [6, 4]]
    shapes = [
        shape("cup", left, "rectangle", group_id=0),
        shape("ball", left, "rectangle", group_id=0),
        shape("cup", right, "rectangle", group_id=0, flags={"crowd": True}),
        shape("cup", right, "rectangle"),
    ]
    write(root / "drawn/a.json", shapes)
    sample = load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)[0]
    assert [(segment.category_id, segment.is_crowd) for segment in sample.segments] == [(2, True), (1, False), (2, False)]
    assert bitmaps(sample) == [[[1, 0, 0, 0, 0, 1]] * 4, [[1, 0, 0, 0, 0, 0]] * 4, [[0, 0, 0, 0, 0, 1]] * 4]


def test_a_picture_in_the_file_is_the_one_that_was_drawn_on(root, tmp_path):
    inside = Image.new("RGB", SIZE[::-1], (0, 200, 0))
    write(root / "drawn/a.json", [RECTANGLE], imageData=encode(inside), imagePath="..\\lost\\a.png")
    sample = load("own_labelme", "train", root, cache_dir=tmp_path, check_images=True, **OPTIONS)[0]
    assert sample.image.getpixel((0, 0)) == (0, 200, 0)


def test_separators_of_windows_lead_to_the_picture(root, tmp_path):
    write(root / "drawn/a.json", [RECTANGLE], imagePath="..\\photos\\a.png")
    assert len(load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)) == 1


def test_flags_are_tags(root, tmp_path):
    write(root / "drawn/a.json", [RECTANGLE], flags={"dark": True, "blurred": False, "wet": True})
    assert load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS).rows[0]["tags"] == ["dark", "wet"]


def test_points_and_lines_are_left_out_if_that_is_said(root, tmp_path):
    write(root / "drawn/a.json", [RECTANGLE, shape("nose", [[1, 1]], "point")])
    dataset = load("own_labelme", "train", root, cache_dir=tmp_path, skip_shapes=["point"], **OPTIONS)
    assert len(dataset[0].segments) == 1 and [category.name for category in dataset.categories] == ["cup"]


def test_pictures_without_shapes_are_left_out_of_training_unless_asked_for(root, tmp_path):
    write(root / "drawn/b.json", [])
    for split in ("train", "val"):
        shutil.copytree(root / "drawn", root / split)
    places = {**OPTIONS, "annotations": "{split}"}
    for split, options, ids in (
        ("train", {}, ["a"]),
        ("train", {"keep_empty": True}, ["a", "b"]),
        ("val", {}, ["a", "b"]),
        ("val", {"keep_empty": False}, ["a"]),
    ):
        assert [sample.image_id for sample in load("own_labelme", split, root, cache_dir=tmp_path, **places, **options)] == ids


def test_a_file_of_categories_gives_the_ids(root, tmp_path):
    (root / "drawn/names.json").write_text('[{"id": 7, "name": "cup"}, {"id": 9, "name": "plate"}]', encoding="utf-8")
    options = {"categories": "drawn/names.json", **OPTIONS}
    dataset = load("own_labelme", "train", root, cache_dir=tmp_path, **options)
    assert dataset[0].segments[0].category_id == 7 and list(dataset[0].categories) == [7, 9] and len(dataset) == 1
    write(root / "drawn/b.json", [shape("cop", [[0, 0], [1, 4]], "rectangle")])
    with pytest.raises(ValueError, match="drawn/b.json: shape 0: the label 'cop' is not in drawn/names.json"):
        load("own_labelme", "train", root, cache_dir=tmp_path, **options)


def turned(root):
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees: the size alone does not tell
    Image.new("RGB", SIZE[::-1]).save(root / "photos/b.jpg", exif=exif)
    write(root / "drawn/b.json", [RECTANGLE], imagePath="../photos/b.jpg")


def broken(*shapes, **fields):
    return lambda root: write(root / "drawn/b.json", shapes or [RECTANGLE], **fields)


BROKEN = {
    "not JSON": (lambda root: (root / "drawn/b.json").write_text('{"shapes": ['), "not a JSON file"),
    "not Labelme": (lambda root: (root / "drawn/b.json").write_text("[]"), "not a file of Labelme: it has no list of shapes"),
    "point": (broken(shape("nose", [[1, 1]], "point")), r"a point labelled 'nose' has no area; .* skip_shapes=\('point',\)"),
    "line": (broken(shape("rope", [[1, 1], [2, 2]], "linestrip")), "a linestrip labelled 'rope' has no area"),
    "unknown": (
        broken(shape("x", [[1, 1]], "star")),
        "'x' has the unknown shape_type 'star', expected one of polygon, rectangle, circle, mask",
    ),
    "two corners": (broken(shape("x", [[1, 1], [2, 2]])), "a polygon labelled 'x': expected at least 3 finite points"),
    "three corners": (broken(shape("x", [[1, 1], [2, 2], [3, 3]], "rectangle")), "a rectangle labelled 'x': expected 2 finite points"),
    "not finite": (broken(shape("x", [[1, 1], [2, float("nan")], [3, 3]])), "expected at least 3 finite points"),
    "mask outside": (
        broken(shape("x", [[5, 3], [6, 4]], "mask", mask=encode(Image.new("L", (2, 2), 1)))),
        "the mask labelled 'x' reaches out of the image",
    ),
    "no mask": (broken(shape("x", [[5, 3], [6, 4]], "mask", mask="????")), "the mask labelled 'x' cannot be read"),
    "no label": (broken({"points": [[0, 0], [1, 1]], "shape_type": "rectangle"}), "the field 'label' is missing"),
    "no picture": (broken(imagePath="../photos/z.png"), "image photos/z.png does not exist"),
    "outside": (broken(imagePath="../../z.png"), r"path '\.\./z.png' leaves the data folder"),
    "size": (broken(imageWidth=7), "is 4 x 6, but its annotation says 4 x 7"),
    "picture in the file": (broken(imageData="AAAA"), "image imageData cannot be read"),
    "not base64": (broken(imageData="/9j/~"), "imageData is not base64"),
    "its size": (broken(imageData=encode(Image.new("RGB", (6, 5)))), "imageData is 5 x 6, but imageHeight x imageWidth is 4 x 6"),
    "turned": (turned, "image photos/b.jpg has the EXIF orientation 3: Labelme turns it"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_or_left_out(case, root, tmp_path):
    change, message = BROKEN[case]
    change(root)
    with pytest.raises(ValueError, match=f"own_labelme train: drawn/b.json: .*{message}.*docs page Own data"):
        list(load("own_labelme", "train", root, cache_dir=tmp_path, streaming=True, **OPTIONS))
    skipped = load("own_labelme", "train", root, cache_dir=tmp_path, streaming=True, on_error="skip", **OPTIONS)
    assert [sample.image_id for sample in skipped] == ["a"]


def test_a_folder_without_files_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="own_labelme train: no .json files in photos of .*docs page Own data"):
        load("own_labelme", "train", root, cache_dir=tmp_path, annotations="photos")
    with pytest.raises(FileNotFoundError, match="own_labelme train: there is no painted in"):
        load("own_labelme", "train", root, cache_dir=tmp_path, annotations="painted")


def test_a_file_that_is_changed_is_read_again(root, tmp_path):
    assert len(load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)[0].segments) == 1
    write(root / "drawn/a.json", [RECTANGLE, RECTANGLE])
    assert len(load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)[0].segments) == 2


@pytest.fixture
def real(tmp_path):
    """Polygons of COCO as Labelme would have written them: one shape per polygon, one group per object. Returns the folder, and what
    pycocotools makes of them: image id -> [(name, bitmap), ...]."""
    from pycocotools.coco import COCO

    tool = COCO(str(SAMPLES / "coco/annotations/instances_val2017.json"))
    root, expected = tmp_path / "labelme", defaultdict(list)
    root.mkdir()
    (root / "val2017").symlink_to(SAMPLES / "coco/val2017")
    for image in tool.imgs.values():
        shapes = []
        for annotation in tool.imgToAnns[image["id"]]:
            if isinstance(annotation["segmentation"], list):
                name = tool.cats[annotation["category_id"]]["name"]
                for polygon in annotation["segmentation"]:
                    shapes.append(shape(name, np.reshape(polygon, (-1, 2)).tolist(), group_id=annotation["id"]))
                expected[str(image["id"])].append((name, tool.annToMask(annotation)))
        size = {"imageHeight": image["height"], "imageWidth": image["width"]}
        write(root / f"{image['id']}.json", shapes, imagePath=f"val2017/{image['file_name']}", **size)
    return root, expected


@pytest.mark.samples
def test_real_polygons_are_the_masks_of_pycocotools(real, tmp_path):
    root, expected = real
    dataset = load("own_labelme", "train", root, cache_dir=tmp_path, keep_empty=True)
    assert {sample.image_id for sample in dataset} >= expected.keys()
    for sample in dataset:
        wanted = expected[sample.image_id]
        assert [sample.categories[segment.category_id] for segment in sample.segments] == [name for name, _ in wanted]
        for segment, (_, bitmap) in zip(sample.segments, wanted, strict=True):
            assert np.array_equal(bitmap_from_rle(segment.mask_rle), bitmap)


@pytest.mark.samples
def test_passes_streams_ranks_and_processes_agree(real, tmp_path):
    cached = load("own_labelme", "train", real[0], cache_dir=tmp_path, num_proc=2)
    stream = load("own_labelme", "train", real[0], cache_dir=tmp_path, streaming=True)
    assert list(stream) == list(stream) == list(cached)
    parts = [[row["image_id"] for row in split_dataset_by_node(stream.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(sample.image_id for sample in cached)
