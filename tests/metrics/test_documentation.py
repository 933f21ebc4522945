"""The code on docs/metrics.md does what the page says."""

import re
from pathlib import Path

import numpy as np
import torch

from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import PanopticQuality
from psalm_hf.structures import Sample, Segment

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def run_blocks() -> dict:
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    return names


def test_the_first_example_gives_the_numbers_beside_it():
    assert run_blocks()["first"].compute() == {"mIoU": 62.5, "cIoU": 40.0}


def test_an_answer_of_the_processor_and_a_sample_become_an_update():
    cat = np.zeros((4, 6), dtype=bool)
    cat[:2] = True
    segments = (Segment(rle_from_bitmap(cat), 17), Segment(rle_from_bitmap(~cat), 187, is_crowd=True))
    sample = Sample(image="a.png", image_id=1, image_size=(4, 6), segments=segments, categories={187: "sky", 17: "cat"})
    metric = PanopticQuality({17: True, 187: False})
    answer = {"segmentation": torch.from_numpy(cat).int(), "segments_info": [{"id": 1, "label_id": 1}]}
    run_blocks()["add_image"](metric, answer, sample)
    assert metric.per_category() == {17: {"PQ": 100, "SQ": 100, "RQ": 100}}


def test_regions_are_sorted_by_size():
    names = run_blocks()
    large, small = np.ones((10, 10), dtype=bool), np.zeros((10, 10), dtype=bool)
    small[0, 0] = True
    for target in (small, large):
        names["add_region"](large, target)
    assert names["by_size"]["below 2 %"].compute()["mIoU"] == 1
    assert names["by_size"]["larger"].compute()["mIoU"] == 100


def test_the_example_of_vqa_gives_the_numbers_beside_it():
    assert run_blocks()["vqa"].compute() == {"accuracy": 90.0, "accuracy, answer type other": 90.0}


def test_the_example_of_videos_gives_the_number_beside_it():
    assert run_blocks()["video"].compute()["J&F"] == 50
