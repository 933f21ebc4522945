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
from psalm_hf.masks import bitmap_from_polygons, bitmap_from_rle
from tests.conftest import SAMPLES

SIZE = (4, 6)


def encode(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def shape(label, points, shape_type="polygon", group_id=None, **fields):
    return {"label": label, "points": points, "group_id": group_id, "shape_type": shape_type, "flags": {}, **fields}


def write(path, shapes, **fields):
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"../photos/{path.stem}.png", "imageData": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "imageHeight": 4, "imageWidth": 6, **fields}), encoding="utf-8")


RECTANGLE = shape("cup", [[3, 2], [0, 0]], "rectangle")  # drawn from its lower right corner
OPTIONS = {"annotations": "drawn"}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "kitchen"
    (root / "photos").mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", SIZE[::-1]).save(root / f"photos/{name}.png")
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


# Places in files b.json whose image is in order.
BROKEN = {
    "not JSON": (lambda root: (root / "drawn/b.json").write_text('{"shapes": ['), "not a JSON file"),
    "not Labelme": (lambda root: (root / "drawn/b.json").write_text("[]"), "not a file of Labelme: it has no list of shapes"),
    "point": (broken(shape("nose", [[1, 1]], "point")), r"a point labelled 'nose' has no area; .* skip_shapes=\['point'\]"),
    "line": (broken(shape("rope", [[1, 1], [2, 2]], "linestrip")), "a linestrip labelled 'rope' has no area"),
    "unknown": (
        broken(shape("x", [[1, 1]], "star")),
        "'x' has the unknown shape_type 'star', expected one of polygon, rectangle, circle, mask",
    ),
    "two corners": (broken(shape("x", [[1, 1], [2, 2]])), "a polygon labelled 'x': expected at least 3 finite points"),
    "three corners": (broken(shape("x", [[1, 1], [2, 2], [3, 3]], "rectangle")), "a rectangle labelled 'x': expected 2 finite points"),
    "not finite": (broken(shape("x", [[1, 1], [2, float("nan")], [3, 3]])), "expected at least 3 finite points"),
    "mask outside": (
        broken(shape("x", [[6, 3], [7, 4]], "mask", mask=encode(Image.new("L", (2, 2), 1)))),
        "the mask labelled 'x' cannot be read: it lies outside of the image",
    ),
    "mask with loss": (
        broken(shape("x", [[0, 0], [3, 3]], "mask", mask=encode(Image.new("L", (4, 4), 255), "JPEG"))),
        "the mask labelled 'x' cannot be read: .*its format JPEG may change colours, .*; save it as PNG",
    ),
    "coordinate as text": (
        broken(shape("x", [["1", 1], [2, 2], [3, 3]])),
        r"shape 0: a polygon labelled 'x': expected at least 3 finite points \[x, y\], but point 0 has '1', which is text; write numbers",
    ),
    "null as point": (broken(shape("x", [None, [2, 2], [3, 3]])), "but point 0 is None"),
    "flat points": (broken(shape("x", [1, 1, 2, 2, 3, 3])), "but point 0 is 1"),
    "no points": (broken(shape("x", None)), "expected at least 3 finite points .*, got None"),
    "far away": (broken(shape("x", [[1, 1], [2, 1e9], [3, 3]])), "but point 1 has 1000000000.0, more than 16 images outside"),
    "label of another type": (broken(shape(7, [[0, 0], [1, 1]], "rectangle")), "shape 0: expected a text as label, got 7"),
    "group of another type": (
        broken(shape("cup", [[0, 0], [1, 1]], "rectangle", group_id=[1])),
        r"shape 0: expected a whole number or null as group_id, got \[1\]",
    ),
    "no shape": (broken(None), r"shape 0: expected an object \{...\}, got None"),
    "flags of a shape": (
        broken({**RECTANGLE, "flags": {"crowd": "false"}}),
        r"shape 0: flags: expected \{name: true or false\}, got \{'crowd': 'false'\}",
    ),
    "flags": (broken(flags={"dark": "no"}), r"flags: expected \{name: true or false\}, got \{'dark': 'no'\}"),
    "height as text": (broken(imageHeight="4"), "imageHeight: expected a whole number, got '4'"),
    "path of another type": (broken(imagePath=7), "imagePath: expected the path of the image, got 7"),
    "path of another computer": (broken(imagePath="C:\\photos\\a.png"), "image drawn/C:/photos/a.png does not exist in"),
    "too deep": (
        lambda root: (root / "drawn/b.json").write_text('{"shapes": ' + "[" * 100_000),
        "not a JSON file .lists or objects lie too deep in each other",
    ),
    "half a character": (
        broken(flags={"\ud83d": True}),
        "a text has half of a character, .*; write it whole",
    ),
    "label with half a character": (
        broken(shape("\ud83d", [[0, 0], [1, 1]], "rectangle")),
        r"shape 0: expected a text as label, got '\\ud83d'",
    ),
    "of another encoding": (
        lambda root: (root / "drawn/b.json").write_bytes('{"shapes": "gr\xfcn"}'.encode("latin-1")),
        "drawn/b.json is not UTF-8 or UTF-16 .*; save it as UTF-8",
    ),
    "a folder": (lambda root: (root / "drawn/b.json").mkdir(), "drawn/b.json is a folder; give the file"),
    "no mask": (broken(shape("x", [[5, 3], [6, 4]], "mask", mask="????")), "the mask labelled 'x' cannot be read"),
    "no label": (broken({"points": [[0, 0], [1, 1]], "shape_type": "rectangle"}), "the field 'label' is missing"),
    "no picture": (broken(imagePath="../photos/z.png"), "image photos/z.png does not exist"),
    "outside": (broken(imagePath="../../z.png"), r"path '\.\./z.png' leaves the data folder"),
    "size": (broken(imageWidth=7), "is 4 x 6, but its annotation says 4 x 7"),
    "picture in the file": (broken(imageData="AAAA"), "image imageData cannot be read"),
    "not base64": (broken(imageData="/9j/~"), "imageData cannot be read: it is not base64"),
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


def areas(sample):
    return [int(bitmap_from_rle(segment.mask_rle).sum()) for segment in sample.segments if not segment.is_crowd]


@pytest.mark.parametrize("shape_type", ["rotation", "oriented_rectangle", "quadrilateral", "polygon"])
def test_rectangles_that_are_turned_are_their_four_corners(shape_type, root, tmp_path):
    write(root / "drawn/a.json", [shape("cup", [[2, 0], [4, 2], [2, 4], [0, 2]], shape_type, direction=0.8)])
    (found,) = bitmaps(load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)[0])
    assert found == bitmap_from_polygons([[2, 0, 4, 2, 2, 4, 0, 2]], SIZE).astype(int).tolist() and sum(map(sum, found)) == 8


@pytest.mark.parametrize("first", range(4))
def test_a_rectangle_may_have_all_its_corners(first, root, tmp_path):
    corners = [[1, 1], [5, 1], [5, 3], [1, 3]]
    write(root / "drawn/a.json", [shape("cup", corners[first:] + corners[:first], "rectangle")])
    assert bitmaps(load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)[0]) == [[[0] * 6, *[[0, 1, 1, 1, 1, 0]] * 2, [0] * 6]]


# Labelme (6.3.2) rounds the corner of a mask, cuts it at the border of the image, and at points that are whole numbers.
PLACES = {
    "rounded": ([[1.7, 0.7], [3.7, 2.7]], [[0] * 6, [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0]]),
    "cut at the left": ([[-1, 0], [1, 2]], [[1, 1, 0, 0, 0, 0]] * 3 + [[0] * 6]),
    "cut at the corner": ([[5, 3], [7, 5]], [[0] * 6] * 3 + [[0, 0, 0, 0, 0, 1]]),
    "cut at its points": ([[0, 0], [1, 1]], [[1, 1, 0, 0, 0, 0]] * 2 + [[0] * 6] * 2),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_mask_lies_where_labelme_draws_it(place, root, tmp_path):
    points, expected = PLACES[place]
    write(root / "drawn/a.json", [shape("cup", points, "mask", mask=encode(Image.new("L", (3, 3), 255)))])
    assert bitmaps(load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)[0]) == [expected]


def test_what_is_transparent_in_a_mask_is_not_part_of_it(root, tmp_path):
    drawn = np.full((2, 2, 4), 255, dtype=np.uint8)
    drawn[0, 0, 3] = 0
    write(root / "drawn/a.json", [shape("cup", [[0, 0], [1, 1]], "mask", mask=encode(Image.fromarray(drawn)))])
    assert areas(load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)[0]) == [3]


def test_labels_that_labelme_reserves_are_no_objects(root, tmp_path):
    """They take pixels from what was drawn before, as Labelme paints them. In average precision ignored pixels are crowds."""
    shapes = [
        shape("cup", [[0, 0], [4, 4]], "rectangle"),
        shape("__ignore__", [[0, 0], [2, 4]], "rectangle"),
        shape("_background_", [[2, 0], [3, 4]], "rectangle"),
        shape("ball", [[0, 0], [1, 4]], "rectangle"),
    ]
    write(root / "drawn/a.json", shapes)
    dataset = load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)
    assert [category.name for category in dataset.categories] == ["ball", "cup"] and areas(dataset[0]) == [4, 4]
    ignored = [segment for segment in dataset[0].segments if segment.is_crowd]
    assert [segment.category_id for segment in ignored] == [1, 2]
    assert all(np.array_equal(bitmap_from_rle(segment.mask_rle)[:, :2], np.ones((4, 2))) for segment in ignored)
    for task in ("semantic", "panoptic"):
        (sample,) = load("own_labelme", "train", root, cache_dir=tmp_path, task=task, **OPTIONS)
        assert areas(sample) == [4, 4] and len(sample.segments) == 2


def test_a_label_that_prompts_cannot_have_is_refused_by_name(root, tmp_path):
    write(root / "drawn/a.json", [shape("background", [[0, 0], [4, 4]], "rectangle")])
    with pytest.raises(ValueError, match="own_labelme train: a category is named 'background'.*docs page Own data"):
        load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)


def test_an_object_that_is_painted_over_is_left_out(root, tmp_path):
    write(
        root / "drawn/a.json",
        [RECTANGLE, shape("cup", [[4, 0], [6, 2]], "rectangle"), shape("_background_", [[0, 0], [3, 4]], "rectangle")],
    )
    assert areas(load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)[0]) == [4]


def test_reserved_labels_in_a_file_of_categories_are_none(root, tmp_path):
    (root / "labels.txt").write_text("__ignore__\n_background_\ncup\n", encoding="utf-8")
    write(root / "drawn/b.json", [shape("__ignore__", [[0, 0], [2, 4]], "rectangle")])
    dataset = load("own_labelme", "train", root, cache_dir=tmp_path, categories="labels.txt", **OPTIONS)
    assert [(category.id, category.name) for category in dataset.categories] == [(2, "cup")]
    assert [sample.image_id for sample in dataset] == ["a"]  # the other one has no object


def test_a_broken_shape_costs_the_object_alone(root, tmp_path, capsys):
    """The parts of a group are one object: without one of them it would be another one."""
    half = shape("cup", [[0, 0], [1, 1]], "rectangle", group_id=3)
    bad = shape("cup", [[0, 0], [1, "1"]], "rectangle", group_id=3)
    write(root / "drawn/a.json", [half, RECTANGLE, bad, shape("nose", [[1, 1]], "point")])
    with pytest.raises(ValueError, match=r"drawn/a.json: shape 2: a rectangle labelled 'cup'.*\(and 1 more broken objects\)"):
        load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS)
    assert areas(load("own_labelme", "train", root, cache_dir=tmp_path, on_error="skip", **OPTIONS)[0]) == [6]
    assert (
        "2 broken objects are left out of records that are kept, the first: own_labelme train: drawn/a.json: shape 2"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_files_may_have_the_encodings_of_windows(encoding, root, tmp_path):
    write(root / "drawn/a.json", [shape("gr\xfcn", [[3, 2], [0, 0]], "rectangle")])
    content = json.dumps(json.loads((root / "drawn/a.json").read_text(encoding="utf-8")), ensure_ascii=False)
    (root / "drawn/a.json").write_text(content, encoding=encoding)
    assert [category.name for category in load("own_labelme", "train", root, cache_dir=tmp_path, **OPTIONS).categories] == ["gr\xfcn"]


def test_a_file_that_is_given_as_folder_is_said_to_be_one(root, tmp_path):
    with pytest.raises(ValueError, match="own_labelme train: drawn/a.json is a file; give the folder of the .json files as annotations"):
        load("own_labelme", "train", root, cache_dir=tmp_path, annotations="drawn/a.json")
    with pytest.raises(FileNotFoundError, match="a.json is a file, not a folder"):
        load("own_labelme", "train", root / "drawn/a.json", cache_dir=tmp_path)


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
