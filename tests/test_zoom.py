"""Zoom: crops about small things, prompts that move into them, answers that come back, and the rule that keeps one."""

import numpy as np
import pytest
from PIL import Image

from psalm_hf.result import Prompt, PsalmResult
from psalm_hf.windows import Window
from psalm_hf.zoom import agreement, best_answers, crop_question, crops_of, object_box, pasted, quality, region_in, windows_about

SIZE = (60, 100)


def square(top, left, side, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def answer(masks, scores, kind="region", names=("box",), size=SIZE, **prompt):
    return PsalmResult(Image.new("RGB", size[::-1]), Prompt(kind, names, **prompt), masks, np.array(scores), np.arange(len(masks)))


def test_crops_are_squares_about_a_small_thing():
    assert windows_about((40, 20, 50, 30), SIZE) == [Window(32, 12, 57, 37), Window(28, 8, 63, 43), Window(20, 0, 70, 50)]


def test_crops_are_moved_into_the_image_and_cut_where_it_is_narrower():
    assert windows_about((0, 50, 20, 60), SIZE) == [Window(0, 10, 50, 60), Window(0, 0, 70, 60)]  # the third is the image
    assert windows_about((0, 0, 1, 1), SIZE) == [Window(0, 0, 8, 8)]  # one of each size


def test_a_large_thing_is_not_looked_at_again():
    assert windows_about((10, 10, 40, 20), SIZE) and not windows_about((10, 10, 41, 20), SIZE)  # 30 of 100 pixels


def test_a_box_or_a_mask_says_itself_where_the_thing_is_and_a_point_with_the_first_answer():
    first = square(5, 5, 10)
    assert object_box(first, {"box": (30, 20, 40, 35)}) == (30, 20, 40, 35)
    assert object_box(first, {"mask": square(40, 50, 7)}) == (50, 40, 57, 47)
    assert object_box(first, {"box": (30, 20, 40, 35), "points": [(50, 21)]}) == (30, 20, 51, 35)
    assert object_box(first, {"point": (20, 8)}) == (5, 5, 21, 15)
    assert object_box(first, {}) == (5, 5, 15, 15)
    assert object_box(np.zeros(SIZE, dtype=bool), {}) is None


def test_a_prompt_moves_into_an_enlarged_crop():
    window = Window(30, 10, 50, 30)  # 20 pixels become 40
    assert region_in({"box": (35, 5, 45, 20)}, window, SIZE, (40, 40)) == {"box": [10, 0, 30, 20]}  # cut at the upper border
    assert region_in({"point": (31, 12)}, window, SIZE, (40, 40)) == {"point": [2, 4]}
    assert region_in({"scribble": [(31, 12), (50, 12)]}, window, SIZE, (40, 40))["scribble"][1] == pytest.approx([40, 4], abs=0.01)
    small = np.array([[35, 5], [45, 20]], dtype=np.uint8)  # coordinates, and no bitmap
    assert region_in({"box": small.ravel()}, window, SIZE, (40, 40)) == {"box": [10, 0, 30, 20]}
    assert region_in({"points": small.astype(np.uint16) + 10}, window, SIZE, (40, 40))["points"] == [
        [30, 10],
        [pytest.approx(40, abs=0.01), 40 - 1e-3],
    ]
    moved = region_in({"mask": square(10, 30, 5)}, window, SIZE, (40, 40))["mask"]
    assert (moved == square(0, 0, 10, (40, 40))).all()


def test_a_mask_of_an_enlarged_crop_comes_back_where_it_was():
    window = Window(30, 10, 50, 30)
    assert (pasted(square(4, 6, 10, (40, 40)), window, SIZE) == square(12, 33, 5)).all()
    assert (pasted(square(2, 3, 5, (20, 20)), window, SIZE) == square(12, 33, 5)).all()  # a crop that was not enlarged


def test_the_agreement_of_a_mask_with_what_was_drawn():
    mask = square(10, 10, 10)
    assert agreement(mask, {}) == agreement(mask, {"box": (10, 10, 20, 20)}) == agreement(mask, {"mask": mask}) == 1
    assert agreement(mask, {"box": (10, 10, 30, 20)}) == 0.5
    assert agreement(mask, {"mask": square(10, 10, 20)}) == 0.25
    assert agreement(mask, {"point": (15.5, 12)}) == 1 and agreement(mask, {"point": (25, 12)}) == 0
    assert agreement(mask, {"scribble": [(10, 12), (29, 12)]}) == 0.5
    assert agreement(mask, {"box": (10, 10, 30, 20), "points": [(15, 15)]}) == 0.5
    assert agreement(np.zeros(SIZE, dtype=bool), {"box": (10, 10, 20, 20)}) == 0
    assert quality(mask, 0.8, {"box": (10, 10, 30, 20)}) == 0.4


def test_the_answer_that_fits_the_box_and_the_score_best_stays():
    region = {"box": (30, 10, 40, 20)}
    first = answer(square(10, 30, 5)[None], [0.9], regions=(region,))  # agreement 0.25
    crops = crops_of(first, [region])
    assert [crop.window.width for crop in crops] == [25, 35, 50]
    assert {crop_question(crop, first, [region], 60)[0].size for crop in crops} == {(60, 60)}
    shown = [square(1, 1, 0, (60, 60))] * 3
    shown[1] = np.asarray(Image.fromarray(square(10, 30, 10)[crops[1].window.slices]).resize((60, 60), Image.Resampling.NEAREST))
    answers = [answer(mask[None], [score], size=(60, 60)) for mask, score in zip(shown, (0.99, 0.8, 0.7), strict=True)]
    kept = best_answers(first, [region], crops, iter(answers))
    assert (kept.masks[0] == square(10, 30, 10)).all() and kept.scores.tolist() == [0.8]
    weaker = [answer(mask[None], [0.2], size=(60, 60)) for mask in shown]
    assert (best_answers(first, [region], crops, iter(weaker)).masks == first.masks).all()  # 0.2 is less than 0.9 * 0.25
    assert first.scores.tolist() == [0.9]  # the first result is as it was


def test_an_expression_that_means_nothing_in_a_crop_changes_nothing():
    first = answer(square(10, 30, 10)[None], [0.9], "sentence", ("the cup",), threshold=0.5)
    crops = crops_of(first, ["the cup"])
    _, prompt = crop_question(crops[0], first, ["the cup"], 60)
    assert prompt == {"expressions": ["the cup"], "mask_threshold": 0.5, "threshold": 0.5, "no_target_threshold": None}
    nothing = [answer(np.zeros((0, 60, 60), dtype=bool), [], "sentence", ("the cup",), size=(60, 60))] * len(crops)
    assert len(crops) == 3 and (best_answers(first, ["the cup"], crops, iter(nothing)).masks == first.masks).all()


def test_clicks_that_correct_a_region_are_answered_as_without_zoom():
    region = {"points": [(30, 10), (50, 10)], "labels": [1, 0]}
    assert crops_of(answer(square(8, 28, 5)[None], [0.9], regions=(region,)), [region]) == []
