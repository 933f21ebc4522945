"""Gestures in an image become region prompts."""

import numpy as np
import pytest
from PIL import Image

from psalm_hf.app.board import ShownMask, board_svg, mask_path
from psalm_hf.app.strokes import BRUSH, EXCLUDE, MARK, Stroke, read_stroke, regions_of, unmarked

SIZE = (100, 50)


def gesture(*points, excludes=False):
    return {"points": [list(point) for point in points], "excludes": excludes}


@pytest.mark.parametrize(
    ("points", "tool", "expected"),
    [
        ([(10, 20)], MARK, Stroke(0, "point", ((10, 20),))),
        ([(10, 20), (11, 20)], MARK, Stroke(0, "point", ((10, 20),))),  # a hand that trembles
        ([(30, 40), (20, 30), (10, 20)], MARK, Stroke(0, "box", ((10, 20), (30, 40)))),
        ([(10, 20), (30, 40)], EXCLUDE, Stroke(0, "point", ((10, 20),), belongs=False)),
        ([(10, 20), (30, 40)], BRUSH, Stroke(0, "scribble", ((10, 20), (30, 40)))),
        ([(-5, 20), (300, 40)], MARK, Stroke(0, "box", ((0, 20), (99.99, 40)))),
    ],
)
def test_a_click_is_a_point_and_dragging_a_box_or_a_scribble(points, tool, expected):
    assert read_stroke(gesture(*points), SIZE, tool, 0) == expected


def test_shift_or_the_right_button_make_a_point_that_does_not_belong():
    assert read_stroke(gesture((10, 20), excludes=True), SIZE, MARK, 0).belongs is False


@pytest.mark.parametrize(
    "sent",
    [None, {}, {"points": []}, {"points": [[1]]}, {"points": [["1", 2]]}, {"points": [[float("nan"), 2]]}, {"points": [[1, 2]] * 2001}],
)
def test_what_is_no_gesture_is_refused(sent):
    with pytest.raises(ValueError, match="no gesture that can be read"):
        read_stroke(sent, SIZE, MARK, 0)


def test_strokes_of_one_object_are_one_region_and_objects_keep_their_order():
    strokes = [
        Stroke(1, "box", ((0, 0), (5, 5))),
        Stroke(0, "point", ((1, 2),)),
        Stroke(0, "point", ((3, 4),), belongs=False),
        Stroke(1, "box", ((0, 0), (9, 9))),
        Stroke(2, "point", ((7, 8),)),
        Stroke(3, "point", ((7, 8),), belongs=False),
    ]
    assert unmarked(strokes) == [3]
    assert regions_of(strokes[:5]) == [{"points": [(1, 2), (3, 4)], "labels": [1, 0]}, {"box": (0, 0, 9, 9)}, {"point": (7, 8)}]


def test_the_path_of_a_mask_has_a_rectangle_for_each_run():
    mask = np.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], dtype=bool)
    assert mask_path(mask) == "M1 0h2v1h-2zM4 0h1v1h-1z"


def test_a_small_mask_in_a_large_image_still_has_a_path():
    mask = np.zeros((2000, 3000), dtype=bool)
    mask[1000, 1500] = True
    assert mask_path(mask) == "M1500 1000h5v5h-5z"


def test_names_on_the_board_are_text_whatever_they_hold():
    shown = ShownMask(np.ones((50, 100), dtype=bool), "</title><script>", "<b>", (1, 2, 3))
    svg = board_svg(Image.new("RGB", SIZE), [shown], [Stroke(0, "point", ((1, 2),))], tool=BRUSH)
    assert "<script>" not in svg and "<b>" not in svg and "&lt;b&gt;" in svg
    assert 'viewBox="0 0 100 50"' in svg and 'data-brush="yes"' in svg
