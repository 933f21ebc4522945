"""Which categories COCO has, and results of a part of the categories, checked on paper."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from psalm_hf.data.benchmarks.label_lists import joined_names, label_list
from psalm_hf.evaluation.groups import SYNONYMS, group_means, is_seen, seen_and_unseen
from psalm_hf.metrics import MeanIoU


def test_all_names_of_coco_are_seen_and_synonyms_belong_to_them():
    names = [names[0] for names in label_list("coco_panoptic")]
    assert len(names) == 133 and all(map(is_seen, names))
    assert SYNONYMS.keys() <= set(names)


SAME = (
    "person, sky, wall, floor, windowpane, tv, television, television_set, sidewalk, stone, lamp, track, street, Cell Phone, step",
    "aeroplane, diningtable, motorbike, pottedplant, sofa, tvmonitor",  # of Pascal VOC
    "orange_(fruit), mouse_(computer_equipment), ski, wineglass, window screen, door, water, tree, brick wall, cabinet-merged",
)
OTHERS = (
    "armchair, coffee table, skyscraper, hill, rider, desk, van, ship, baby carriage",  # kinds of it
    "ball, racket, animal, plant, vegetation, sign, traffic sign, bag",  # more than it
    "water bottle, toilet tissue, cabinet door, bird cage, watermelon, tea table",  # the same words in another name
    "monitor, computer, cushion, ground, earth, background, pole",
)


@pytest.mark.parametrize("name", ", ".join(SAME).split(", "))
def test_another_word_or_spelling_of_a_category_is_seen(name):
    assert is_seen(name)


@pytest.mark.parametrize("name", ", ".join(OTHERS).split(", "))
def test_kinds_parts_and_neighbours_of_a_category_are_unseen(name):
    assert not is_seen(name)


def test_of_several_names_the_first_decides():
    assert not is_seen("animal,animate being,dog,cat,horse")
    assert not is_seen("traffic sign,stop sign")
    assert is_seen("sofa,couch,sofas,couches")
    for benchmark in ("ade20k", "cityscapes", "pc59", "pc459", "voc21"):
        firsts = [names[0] for names in label_list(benchmark)]
        assert list(map(is_seen, firsts)) == list(map(is_seen, joined_names(benchmark)))


def test_benchmarks_fall_apart_as_counted_by_hand():
    cityscapes = dict(enumerate(names[0] for names in label_list("cityscapes")))
    groups = seen_and_unseen(cityscapes)
    assert [cityscapes[id] for id in groups["unseen"]] == ["pole", "traffic sign", "vegetation", "terrain", "rider"]
    assert all(is_seen(names[0]) for names in label_list("voc20"))
    voc21 = dict(enumerate(names[0] for names in label_list("voc21")))
    assert seen_and_unseen(voc21)["unseen"] == [0]  # the background


@pytest.mark.parametrize("benchmark", ["ade20k", "cityscapes", "pc59", "pc459", "voc20", "lvis"])
def test_the_page_says_how_many_categories_are_seen(benchmark):
    names = [names[0] for names in label_list(benchmark)]
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    number, seen, unseen = re.search(rf"\| `{benchmark}`, of ([\d,]+) \| (\d+) \| (.+?) \|", page).groups()
    assert (int(number.replace(",", "")), int(seen)) == (len(names), sum(map(is_seen, names)))
    examples = [] if unseen == "none" else unseen.split(", ")
    assert set(examples) <= set(names) and not any(map(is_seen, examples))


def test_a_group_has_the_mean_of_its_categories():
    per_category = {1: {"PQ": 80.0, "RQ": 90.0}, 2: {"PQ": 40.0, "RQ": 50.0}, 3: {"PQ": 10.0, "RQ": math.nan}}
    means = group_means(per_category, {"seen": [1, 2, 7], "unseen": [3], "nothing": [8]})
    assert means == {"seen": {"PQ": 60.0, "RQ": 70.0}, "unseen": {"PQ": 10.0}}


def test_the_semantic_mean_of_all_categories_is_that_of_the_metric():
    rng = np.random.default_rng(0)
    metric = MeanIoU(5)
    metric.update(rng.integers(5, size=(40, 40)), rng.choice([0, 1, 3, 255], size=(40, 40)))  # 2 and 4 do not occur
    means = group_means(metric.per_category(), {"all": range(5)})["all"]
    expected = metric.compute()
    assert means == pytest.approx({name: expected[name] for name in ("mIoU", "mACC")}, rel=1e-12)
