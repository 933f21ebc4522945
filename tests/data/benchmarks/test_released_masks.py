"""Targets as the published evaluations rasterise them: drawings that OpenCV 4.9 has painted, and the option of the datasets."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from psalm_hf.data import DATASETS, load
from psalm_hf.data.benchmarks.released_masks import (
    PADDED_SIDE,
    _nearest,
    _size_in_grid,
    fill_polygons,
    released_interactive_mask,
    released_mask,
)
from psalm_hf.data.files import mask
from psalm_hf.masks import bitmap_from_polygons, bitmap_from_rle, rle_from_bitmap
from psalm_hf.model.image_processing_psalm import content_size
from tests.conftest import SAMPLES


def pixels(drawing):
    return np.array([[character == "#" for character in line] for line in drawing.split()])


PAINTED = {  # cv2.fillPoly(zeros, [np.array(polygon, dtype=np.int32).reshape(-1, 2) for polygon in polygons], 1) of OpenCV 4.9
    "triangle": (
        [[1, 0, 8, 2, 3, 5]],
        """
        .##.......
        .######...
        ..#######.
        ..######..
        ...###....
        ...#......
        """,
    ),
    "the same corners, another order": (
        [[3, 5, 8, 2, 1, 0]],
        """
        .##.......
        .######...
        ..#######.
        ..######..
        ...###....
        ...#......
        """,
    ),
    "corners are cut to whole pixels": (
        [[1.9, 1.9, 5.99, 1.2, 5.1, 3.7, 1.4, 3.999]],
        """
        .......
        .#####.
        .#####.
        .#####.
        .......
        """,
    ),
    "beside a slanted edge": (
        [[10, 7, 1, 5, 6, 0]],
        """
        ......#.....
        .....###....
        ....####....
        ...######...
        ..#######...
        .#########..
        ....######..
        ........###.
        ............
        """,
    ),
    "crossing itself": (
        [[0, 0, 8, 6, 8, 0, 0, 6]],
        """
        #.......#
        ###....##
        ####.####
        #########
        ####.####
        ###....##
        #.......#
        """,
    ),
    "star": (
        [[5, 0, 8, 8, 0, 3, 10, 3, 2, 8]],
        """
        .....#.....
        .....#.....
        ....###....
        ###########
        .####.####.
        ...##..#...
        ...#####...
        ..###.###..
        ..#.....#..
        """,
    ),
    "out of the picture": (
        [[-4, 2, 5, -3, 11, 4, 2, 9]],
        """
        ########
        ########
        ########
        ########
        ########
        ########
        """,
    ),
    "x of the width": (
        [[3, 1, 6, 1, 6, 3, 3, 3]],
        """
        ......
        ...###
        ...###
        ...###
        """,
    ),
    "beyond a corner": (
        [[7, -2, 9, 3, 4, -1]],
        """
        .....#
        ......
        ......
        ......
        ......
        """,
    ),
    "around the picture": (
        [[-5, -5, 9, -5, 9, 9, -5, 9]],
        """
        ####
        ####
        ####
        """,
    ),
    "outside": (
        [[5, 0, 8, 0, 8, 2]],
        """
        ....
        ....
        ....
        """,
    ),
    "one corner": (
        [[2, 1]],
        """
        ....
        ..#.
        ....
        """,
    ),
    "two corners": (
        [[0, 3, 7, 1]],
        """
        ........
        ......##
        ..####..
        ##......
        """,
    ),
    "a line back and forth": (
        [[6, 0, 1, 2, 6, 0]],
        """
        .....##.
        ...##...
        .##.....
        ........
        """,
    ),
    "repeated corners": (
        [[1, 1, 1, 1, 4, 1, 4, 3, 4, 3, 1, 3]],
        """
        ......
        .####.
        .####.
        .####.
        ......
        """,
    ),
    "two edges that leave the picture": (
        [[-1, -2, 4, -2, 3, 6]],
        """
        ####
        ####
        .###
        .###
        """,
    ),
    "an edge that is cut at both sides": (
        [[3, 5, -3, 0, -3, -4]],
        """
        ....
        #...
        ##..
        .##.
        """,
    ),
    "an edge that is cut to a level one": (
        [[5, 4, 0, -1, 2, -3]],
        """
        .###
        ..##
        ...#
        ....
        """,
    ),
    "a steep edge to the left": (
        [[0, 0, 1, 0, 0, 6]],
        """
        ##..
        ##..
        ##..
        ##..
        #...
        #...
        #...
        """,
    ),
    "a hole": (
        [[0, 0, 8, 0, 8, 6, 0, 6], [2, 2, 6, 2, 6, 4, 2, 4]],
        """
        #########
        #########
        #########
        ###...###
        #########
        #########
        #########
        """,
    ),
    "two in one call": (
        [[0, 0, 5, 0, 5, 3, 0, 3], [3, 1, 8, 1, 8, 4, 3, 4]],
        """
        ######...
        #########
        ####.####
        #########
        ...######
        """,
    ),
}


@pytest.mark.parametrize("case", PAINTED)
def test_polygons_are_filled_as_opencv_does(case):
    polygons, drawing = PAINTED[case]
    expected = pixels(drawing)
    assert np.array_equal(fill_polygons(polygons, expected.shape), expected)


def test_no_polygon_paints_nothing():
    assert not fill_polygons([], (3, 4)).any()


@pytest.mark.parametrize(
    "polygon, message",
    [
        ([], "polygon 1: expected x, y of at least one corner in one flat list"),
        ([1, 2, 3], "polygon 1: expected x, y of at least one corner in one flat list, got .1, 2, 3."),
        ([[1, 2], [3, 4]], "polygon 1: expected x, y of at least one corner in one flat list"),
        ([1, float("nan")], "polygon 1: coordinates must be finite and within 32 bit"),
        ([1, 2.0**31], "polygon 1: coordinates must be finite and within 32 bit"),
    ],
)
def test_what_is_no_polygon_is_refused(polygon, message):
    with pytest.raises(ValueError, match=message):
        fill_polygons([[0, 0], polygon], (3, 4))


def test_coordinates_are_cut_towards_zero():
    assert np.array_equal(fill_polygons([[-0.9, 1.9]], (3, 4)), fill_polygons([[0, 1]], (3, 4)))
    assert not fill_polygons([[-1, 1]], (3, 4)).any()


def test_polygons_of_an_object_are_united():
    polygons, drawing = PAINTED["a hole"]
    assert (~pixels(drawing)).any() and bitmap_from_rle(released_mask(polygons, (7, 9))).all()


def test_the_released_mask_of_an_rle_is_itself():
    rle = {"size": [3, 4], "counts": [2, 5, 5]}
    assert released_mask(rle, (3, 4)) == mask(rle, (3, 4))


@pytest.mark.parametrize("read", [released_mask, released_interactive_mask])
@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([[1, 2, 3, 4]], "polygon 0: expected finite x, y of at least 3 corners"),
        ([], "expected a mask as RLE or list of polygons"),
        ({"size": [4, 3], "counts": [12]}, "the mask is of size .4, 3., but the image is 3 x 4"),
    ],
)
def test_broken_annotations_are_refused_as_by_the_exact_masks(segmentation, message, read):
    for reader in (mask, read):
        with pytest.raises(ValueError, match=message):
            reader(segmentation, (3, 4))


# The truth of COCO-Interactive.

TRIANGLE = [100.5, 20.25, 900.0, 300.75, 333.3, 700.0]


def interactive(segmentation, size):
    return bitmap_from_rle(released_interactive_mask(segmentation, size))


def in_square(*polygons):
    return bitmap_from_polygons(polygons, (PADDED_SIDE, PADDED_SIDE))


def test_in_an_image_of_the_squares_size_the_interactive_mask_is_exact():
    polygons = [TRIANGLE, [0.0, 0.0, 5.0, 0.0, 5.0, 9.0]]
    assert np.array_equal(interactive(polygons, (768, PADDED_SIDE)), in_square(*polygons)[:768])


def test_in_an_image_of_half_the_size_four_pixels_are_as_near_and_united():
    halves = [value / 2 for value in TRIANGLE]
    assert np.array_equal(interactive([halves], (384, 512)), in_square(TRIANGLE)[:768].reshape(384, 2, 512, 2).any(axis=(1, 3)))


def test_of_a_larger_image_every_pixel_has_the_nearest_one_of_the_square():
    doubles = [value * 2 for value in TRIANGLE]
    assert np.array_equal(interactive([doubles], (1536, 2048)), in_square(TRIANGLE)[:768].repeat(2, axis=0).repeat(2, axis=1))


def test_scaled_corners_of_whole_numbers_are_cut_to_whole_numbers():
    size = (4, 6)  # 683 x 1024 in the square: corners (0, 0), (170.7, 512.25), (512, 512.25)
    cut = [0.0, 0.0, 170 * 6 / 1024, 512 * 4 / 683, 512 * 6 / 1024, 512 * 4 / 683]
    whole = interactive([[0, 0, 1, 3, 3, 3]], size)
    assert np.array_equal(whole, interactive([cut], size))
    assert not np.array_equal(whole, interactive([[0.0, 0.0, 1.0, 3.0, 3.0, 3.0]], size))


def test_an_rle_goes_through_the_square_by_nearest_pixels():
    bitmap = np.random.default_rng(0).random((24, 32)) > 0.5
    assert np.array_equal(interactive(rle_from_bitmap(bitmap), bitmap.shape), bitmap)
    rle = rle_from_bitmap(np.eye(1500, 2048, dtype=bool))  # twice the square: every second pixel of the diagonal is left
    assert interactive(rle, (1500, 2048)).sum() == 750 * 4


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (427, 640), (1, 999), (333, 500), (100, 100), (1200, 1600), (2047, 3)])
def test_the_square_is_that_of_the_model_and_the_way_back_rounds_after_each_direction(size):
    height, width = _size_in_grid(size)
    assert (height, width) == content_size(size, PADDED_SIDE)
    placed = torch.from_numpy(np.random.default_rng(0).random((1, 1, height, width)).round())
    (top, bottom), (left, right) = _nearest(height, size[0]), _nearest(width, size[1])
    bitmap = placed[0, 0].numpy() > 0
    rows = bitmap[top] | bitmap[bottom]
    upright = interpolate(placed, (size[0], width), mode="bilinear", align_corners=False) >= 0.5 - 1e-9
    both = interpolate(upright.double(), size, mode="bilinear", align_corners=False) >= 0.5 - 1e-9
    assert np.array_equal(rows[:, left] | rows[:, right], both[0, 0].numpy())


# The option of the datasets.

SIZE = (8, 12)
SLANTED = [10.0, 1.9, 2.6, 0.6, 2.6, 6.1]
OBJECTS = {
    11: {"category_id": 3, "iscrowd": 0, "segmentation": [SLANTED, [8, 5, 10, 5, 10, 7, 8, 7]]},
    12: {"category_id": 1, "iscrowd": 1, "segmentation": {"size": list(SIZE), "counts": [3, 20, 73]}},
}
SHAPES = [
    {"label": "target", "points": np.reshape(SLANTED, (-1, 2)).tolist()},
    {"label": "ignore", "points": [[4, 2], [7, 2], [7, 3], [4, 3]]},
    {"label": "target", "points": [[5, 3], [6, 3]]},
    {"label": "ignore", "points": [[11, 7]]},
]
# name, split, other options, how segments of annotation 11 are rasterised
NAMES = [
    ("refcoco", "val", {}, released_mask),
    ("grefcoco", "val", {}, released_mask),
    ("coco_interactive", "val", {"kind": "box"}, released_interactive_mask),
]


@pytest.fixture
def root(tmp_path):
    """A folder that is laid out as all of these datasets."""
    root = tmp_path / "root"
    image = {"id": 30, "file_name": "000000000030.jpg", "height": SIZE[0], "width": SIZE[1]}
    annotations = [{"id": id, "image_id": 30, **entry} for id, entry in OBJECTS.items()]
    for folder in ("annotations", "val2017", "train2014", "val", "refcoco", "grefcoco"):
        (root / folder).mkdir(parents=True)
    for file in ("annotations/instances_val2017.json", "refcoco/instances.json", "grefcoco/instances.json"):
        (root / file).write_text(json.dumps({"images": [image], "annotations": annotations}), encoding="utf-8")
    for file in ("val2017/000000000030.jpg", "train2014/000000000030.jpg", "val/x.jpg"):
        Image.new("RGB", SIZE[::-1]).save(root / file)
    ref = {"ref_id": 1, "split": "val", "image_id": 30, "sentences": [{"sent_id": 5, "sent": "a cup"}]}
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps([{**ref, "ann_id": 11}], 2))
    (root / "grefcoco/grefs(unc).json").write_text(json.dumps([{**ref, "ann_id": [11, 12]}]), encoding="utf-8")
    (root / "val/x.json").write_text(json.dumps({"text": ["a cup"], "is_sentence": True, "shapes": SHAPES}), encoding="utf-8")
    return root


@pytest.mark.parametrize("name, split, options, released", NAMES)
def test_the_option_changes_nothing_but_the_masks_of_polygons(name, split, options, released, root, tmp_path):
    (exact,) = load(name, split, root, cache_dir=tmp_path, **options).rows
    (row,) = load(name, split, root, cache_dir=tmp_path, rasterisation="released", **options).rows
    for segment, exact_segment in zip(row["segments"], exact["segments"], strict=True):
        annotation = OBJECTS[segment["annotation_id"]]
        assert exact_segment["mask"] == mask(annotation["segmentation"], SIZE)
        expected = exact_segment["mask"] if annotation["iscrowd"] else released(annotation["segmentation"], SIZE)
        assert segment == {**exact_segment, "mask": expected}
    assert row["segments"][0] != exact["segments"][0]
    assert {**row, "segments": exact["segments"]} == exact


def test_reasonseg_is_painted_as_by_its_script(root, tmp_path):
    (row,) = load("reasonseg", "val", root, cache_dir=tmp_path, rasterisation="released").rows
    assert [segment["is_crowd"] for segment in row["segments"]] == [False, True]
    target, ignored = (bitmap_from_rle(segment["mask"]) for segment in row["segments"])
    # Painted by LISA's script with OpenCV 4.9: i is ignored.
    drawing = """
        ..#####.....
        ..#########.
        ..##iiii##..
        ..##i##i....
        ..#####.....
        ..###.......
        ..#.........
        ...........i
    """
    assert np.array_equal(target, pixels(drawing))
    assert np.array_equal(ignored, pixels(drawing.replace("#", ".").replace("i", "#")))


@pytest.mark.parametrize("name, split, options", [(*entry[:3],) for entry in NAMES] + [("reasonseg", "val", {})])
def test_an_unknown_rasterisation_is_refused(name, split, options, root, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: unknown rasterisation 'opencv', expected one of exact, released"):
        load(name, split, root, cache_dir=tmp_path, rasterisation="opencv", **options)


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog", "grefcoco", "reasonseg", "coco_interactive"])
def test_the_table_lists_the_option(name):
    assert "rasterisation" in DATASETS[name].options()


@pytest.mark.samples
def test_real_objects_grow_by_their_border():
    content = json.loads((SAMPLES / "coco/annotations/instances_val2017.json").read_text(encoding="utf-8"))
    images = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    larger = []
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], list):
            size = images[annotation["image_id"]]
            exact, released = (bitmap_from_rle(read(annotation["segmentation"], size)) for read in (mask, released_mask))
            larger += [released.sum() / exact.sum()] if exact.sum() >= 1000 else []
    assert 1.01 < np.median(larger) < 1.06
