"""Samples of every condition, and the contradictions that are refused where a sample is made."""

import dataclasses

import numpy as np
import pytest

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Region, Sample, Segment

SIZE = (4, 6)
RLE = rle_from_bitmap(np.ones(SIZE))
OTHER_RLE = rle_from_bitmap(np.ones((6, 4)))
CUP = Segment(RLE, category_id=47)
TABLE = Segment(RLE, category_id=67, is_crowd=True)
COMMON = {"image": "kitchen.jpg", "image_id": 30213, "image_size": SIZE}


def test_each_condition_is_told_by_its_field():
    assert Sample(**COMMON, segments=(CUP,), categories={47: "cup"}).condition == "category"
    assert Sample(**COMMON, expressions=("the red cup", "a cup")).condition == "sentence"
    assert Sample(**COMMON, segments=(CUP,), regions=(Region("mask", mask_rle=RLE, segment=0),)).condition == "region"
    talk = ({"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cup."})
    assert Sample(**COMMON, conversation=talk).condition == "conversation"
    assert Sample(image=None, image_id="text-1", image_size=None, conversation=talk).condition == "conversation"


def test_class_labels_are_positions_in_the_order_of_the_prompt():
    sample = Sample(**COMMON, segments=(TABLE, CUP, TABLE), categories={47: "cup", 1: "person", 67: "table"})
    assert sample.class_labels == (2, 0, 2)
    assert sample.segments[0].category_id == 67  # making labels leaves the record alone
    assert Sample(**COMMON, segments=(CUP,), expressions=("the cup",)).class_labels == ()


def test_a_sample_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CUP.category_id = 0


def test_regions_become_what_the_processor_takes():
    assert Region("point", ((1, 2),)).as_prompt() == {"points": [(1, 2)]}
    assert Region("box", ((0, 1), (4, 3))).as_prompt() == {"box": (0, 1, 4, 3)}
    assert Region("scribble", ((0, 0), (2, 1))).as_prompt() == {"scribble": [(0, 0), (2, 1)]}
    assert Region("mask", mask_rle=RLE).as_prompt() == {"mask": RLE}
    assert Region("point", mask_rle=RLE).as_prompt() == {"point": RLE}
    assert Region("box", mask_rle=RLE).as_prompt() == {"mask": RLE}  # pixels of a box are used as they are


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segment(np.ones(SIZE)), "segment: expected COCO RLE"),
        (lambda: Region("circle", ((1, 1),)), "unknown kind 'circle', expected one of point, box, scribble, mask"),
        (lambda: Region("point"), "either points or mask_rle"),
        (lambda: Region("point", ((1, 1),), RLE), "either points or mask_rle"),
        (lambda: Region("mask", ((1, 1),)), "'mask'.*give mask_rle"),
        (lambda: Region("point", ()), "at least 1 .*got 0"),
        (lambda: Region("scribble", ((1, 1),)), "at least 2 .*got 1"),
        (lambda: Region("box", ((0, 0), (1, 1), (2, 2))), "exactly 2 .*got 3"),
        (lambda: Region("point", ((1, float("nan")),)), "finite"),
        (lambda: Region("box", ((5, 0), (1, 4))), r"x0 < x1.*\(5, 0, 1, 4\)"),
        (lambda: Region("box", mask_rle={"size": SIZE}), "region of kind 'box': expected COCO RLE"),
        (lambda: Sample(**COMMON), "image 30213: expected exactly one of .* got none"),
        (lambda: Sample(**COMMON, categories={47: "cup"}, expressions=("a cup",)), "got categories, expressions; make one sample"),
        (lambda: Sample(None, 7, None, categories={47: "cup"}), "image 7: category prompts need an image"),
        (lambda: Sample("a.jpg", 7, (0, 5), expressions=("a cup",)), r"image 7: expected image_size .* got \(0, 5\)"),
        (lambda: Sample(**COMMON, segments=(CUP, TABLE), categories={47: "cup"}), "segment 1 has category_id 67.*1 categories"),
        (lambda: Sample(**COMMON, segments=(Segment(OTHER_RLE),), expressions=("a",)), r"segment 0 .*\(6, 4\), but the image is \(4, 6\)"),
        (lambda: Sample(**COMMON, regions=(Region("mask", mask_rle=OTHER_RLE),)), r"region 0 .*\(6, 4\)"),
        (lambda: Sample(**COMMON, regions=(Region("point", ((1, 1),), segment=0),)), "region 0 points at segment 0.* 0 segments"),
        (lambda: Sample(**COMMON, expressions=("a cup", "  ")), "blank"),
        (lambda: Sample(**COMMON, categories={47: ""}), "blank"),
        (lambda: Sample(**COMMON, conversation=({"role": "gpt", "content": "hi"},)), "message 0 must be"),
        (lambda: Sample(**COMMON, conversation=({"role": "user", "content": "a"},) * 2), "messages 0 and 1 .*take turns"),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
