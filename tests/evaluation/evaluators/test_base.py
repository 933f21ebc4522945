"""Measures on pictures of four rows: what counts, what counts nowhere, and what is refused. Through a model: test_runner.py."""

import pickle

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data.features import Category
from psalm_hf.evaluation.benchmarks import default_evaluators
from psalm_hf.evaluation.evaluators.grouped import GroupedIoU
from psalm_hf.evaluation.evaluators.instance import InstanceEvaluator, areas_of
from psalm_hf.evaluation.evaluators.panoptic import PanopticEvaluator, PanopticThresholds, ThingsFound, panoptic_map
from psalm_hf.evaluation.evaluators.referring import ReferringEvaluator, ReferringRule, meant
from psalm_hf.evaluation.evaluators.region import RegionEvaluator
from psalm_hf.evaluation.evaluators.semantic import SemanticEvaluator
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.metrics import RegionIoU
from psalm_hf.structures import Region, Sample, Segment

PICTURE, SIZE = Image.new("RGB", (4, 4)), (4, 4)
CAT, GRASS = 10, 20
CATEGORIES = (Category(CAT, "cat"), Category(GRASS, "grass", is_thing=False))
NAMES = {category.id: category.name for category in CATEGORIES}


def rows(*numbers):
    """RLE of these rows of the picture."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[list(numbers)] = True
    return rle_from_bitmap(mask)


def sample(*segments, **prompt):
    return Sample(PICTURE, 1, SIZE, tuple(segments), **(prompt or {"categories": NAMES}))


def expression(*segments, tags=()):
    return sample(*segments, expressions=("it",), tags=tags)


def referred(*numbers, no_target=False):
    return {"mask": rows(*numbers), "score": 0.9, "no_target": no_target}


@pytest.mark.parametrize(
    ("crowds", "target", "ignored", "ciou"),
    [("meant", (0, 1), (), 100 * 2 / 3), ("left out", (0,), (), 100 * 1 / 3), ("ignored", (0,), (1,), 100 * 1 / 2)],
)
def test_crowds_are_meant_or_left_out_or_count_nowhere(crowds, target, ignored, ciou):
    asked = expression(Segment(rows(0)), Segment(rows(1), is_crowd=True))
    found = [set(np.flatnonzero(mask.all(axis=1)).tolist()) for mask in meant(asked, crowds)]
    assert found == [set(target), set(ignored)]
    measure = ReferringEvaluator(crowds=crowds)
    measure.add(asked, referred(0, 1, 2))  # row 1 is the crowd's, row 2 is wrong
    assert measure.numbers()["referring cIoU"] == pytest.approx(ciou)


def test_an_expression_counts_under_its_tags_and_its_size():
    measure = ReferringEvaluator(sizes={"small": (0, 5), "large": (5, 100)})
    measure.add(expression(Segment(rows(0)), tags=("ordinal",)), referred(0, 1))
    measure.add(expression(Segment(rows(0, 1)), tags=("ordinal",)), referred(0, 1))
    measure.add(expression(tags=("relation",)), referred(3, no_target=True))  # nothing is meant: it has no size
    numbers, counts = measure.numbers(), measure.counts()
    assert numbers["referring gIoU"] == pytest.approx(100 * (0.5 + 1 + 1) / 3)
    assert (numbers["referring gIoU, small"], numbers["referring gIoU, large"]) == (50, 100)
    assert (numbers["referring cIoU, ordinal"], numbers["referring gIoU, relation"]) == (pytest.approx(100 * 12 / 16), 100)
    assert counts["expressions with a target, ordinal"] == 2 and counts["expressions without target, relation"] == 1
    assert "expressions with a target, relation" not in counts


def test_pq_by_size_counts_segments_of_that_size_alone():
    measure = PanopticEvaluator(CATEGORIES, sizes={"small": (0, 5), "large": (5, 100)})
    answer = {"segments": [{"category_id": CAT, "mask": rows(0)}, {"category_id": GRASS, "mask": rows(3)}]}
    measure.add(sample(Segment(rows(0), CAT), Segment(rows(2, 3), GRASS)), answer)
    numbers = measure.numbers()
    # Half of the grass is no match: one of large segments is missed, and one of small ones is false.
    assert (numbers["panoptic PQ, small"], numbers["panoptic PQ, large"]) == ((100 + 0) / 2, 0)
    assert measure.counts() == {"segments": 2}


def test_masks_of_one_picture_that_overlap_or_have_another_size_are_refused():
    overlapping = {"segments": [{"category_id": CAT, "mask": rows(0)}, {"category_id": GRASS, "mask": rows(0, 1)}]}
    with pytest.raises(ValueError, match="image 1, prediction: "):
        panoptic_map(sample(), overlapping)
    other = {"segments": [{"category_id": CAT, "mask": rle_from_bitmap(np.ones((2, 2), dtype=bool))}]}
    with pytest.raises(ValueError, match="image 1, prediction: "):
        panoptic_map(sample(), other)


def test_a_semantic_answer_must_name_every_labelled_pixel():
    measure, asked = SemanticEvaluator(CATEGORIES), sample(Segment(rows(0, 1), CAT), Segment(rows(2), GRASS))
    with pytest.raises(ValueError, match="image 1, prediction: 4 labelled pixels have no category"):
        measure.add(asked, {"segments": [{"category_id": CAT, "mask": rows(0, 1)}]})
    everything = {"segments": [{"category_id": CAT, "mask": rows(0, 1, 2, 3)}]}  # row 3 is not labelled, and free
    measure.add(asked, everything)
    assert measure.numbers()["semantic mIoU"] == pytest.approx((100 * 8 / 12 + 0) / 2)
    assert measure.per_category()[CAT]["IoU"] == pytest.approx(100 * 8 / 12)


def test_instances_are_judged_among_things():
    measure = InstanceEvaluator(CATEGORIES)
    found = [{"category_id": CAT, "score": 0.9, "mask": rows(0)}]
    measure.add(sample(Segment(rows(0), CAT), Segment(rows(1), GRASS)), {"instances": found})
    assert measure.numbers()["instance AP"] == pytest.approx(100) and measure.counts() == {"things": 1}


def test_areas_are_those_of_the_file_that_has_some():
    assert areas_of([]) is None and areas_of([{"mask": rows(0)}]) is None
    assert areas_of([{"mask": rows(0), "area": 7.0}]) == [7.0]


def test_regions_count_under_kind_and_size_and_whether_training_has_shown_them():
    regions = (Region("point", points=((0, 0),), segment=0), Region("point", points=((0, 3),), segment=1))
    asked = sample(Segment(rows(0)), Segment(rows(2, 3)), regions=regions, tags=("seen:0", "held_out:1"))
    measure = RegionEvaluator({"small": (0, 5), "large": (5, 100)})
    measure.add(asked, {"masks": [rows(0), rows(3)], "scores": [1.0, 1.0]})
    numbers = measure.numbers()
    assert (numbers["region mIoU, point"], numbers["region mIoU, point, small"], numbers["region mIoU, point, held_out"]) == (75, 100, 50)
    groups = {"": 2, ", held_out": 1, ", large": 1, ", seen": 1, ", small": 1}
    assert measure.counts() == {f"regions, point{group}": number for group, number in groups.items()}
    with pytest.raises(ValueError, match="image 1, prediction: 1 masks and 1 scores for 2 regions"):
        measure.add(asked, {"masks": [rows(0)], "scores": [1.0]})
    with pytest.raises(ValueError, match="image 1, region 0: "):
        measure.add(asked, {"masks": [rle_from_bitmap(np.ones((2, 2), dtype=bool))] * 2, "scores": [1.0, 1.0]})


def test_a_group_is_the_sum_of_whatever_belongs_to_it():
    iou = GroupedIoU(RegionIoU)
    iou.part(("a", "b")).update(np.ones(SIZE, dtype=bool), np.ones(SIZE, dtype=bool))
    iou.part(("a",)).update(np.ones(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool))
    assert {name: part.compute()["mIoU"] for name, part in iou.by_group().items()} == {"a": 50, "b": 100}
    assert iou.whole().compute()["mIoU"] == 50


def test_a_variant_has_answers_and_numbers_of_its_own():
    half = PanopticEvaluator(CATEGORIES, PanopticThresholds(0.5, 0.5), variant="thresholds 0.5")
    half.add(sample(Segment(rows(0), CAT)), {"segments": [{"category_id": CAT, "mask": rows(0)}]})
    assert half.name == "panoptic_thresholds_0.5" and half.numbers()["panoptic PQ, thresholds 0.5"] == 100
    assert half.per_category() == {} and list(half.protocol()) == ["panoptic, thresholds 0.5"]


def test_the_best_query_of_a_rule_is_rejected_where_the_rule_rejects():
    assert ReferringRule(0.6, "threshold").best_query == ReferringRule(None, "processor", no_target_threshold=0.6)
    rule = ReferringRule(0.9, "processor", no_target_threshold=0.8)
    assert rule.best_query == ReferringRule(None, "processor", no_target_threshold=0.8)
    assert ReferringRule(0.9, "area", 7).best_query == ReferringRule(None, "area", 7)


def test_with_a_target_given_nothing_is_no_answer_and_expressions_without_one_do_not_count():
    measure = ReferringEvaluator(variant="best query", target_given=True)
    assert measure.numbers() == {}  # no expression with a target: nothing is defined
    measure.add(expression(tags=("relation",)), referred(0))
    measure.add(expression(Segment(rows(0)), tags=("ordinal",)), referred(0, 1, no_target=True))
    numbers = measure.numbers()
    assert (numbers["referring gIoU, best query, target given"], numbers["referring cIoU, ordinal, best query, target given"]) == (50, 50)
    assert not any("acc" in name or "relation" in name for name in numbers)
    assert measure.name == "referring_best_query" and measure.counts() == {}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ([(CAT, (0, 1))], True),
        ([(CAT, (0, 1, 2, 3))], False),  # an IoU of 0.5 is not above one half
        ([(CAT, (0, 1, 2))], True),  # 2 of 3
        ([(GRASS, (0, 1))], False),  # right mask, wrong name
        ([], False),
    ],
)
def test_a_thing_is_found_by_its_category_and_more_than_half(answer, found):
    measure = ThingsFound("panoptic", [CAT], {"small": (0, 5), "large": (5, 100)}, lambda sample: ["seen"])
    segments = [{"category_id": category, "mask": rows(*where)} for category, where in answer]
    measure.add(sample(Segment(rows(0, 1), CAT), Segment(rows(2), GRASS)), {"segments": segments})
    assert measure.numbers() == dict.fromkeys(("things found, all", "things found, large", "things found, seen"), 100 * found)
    assert measure.counts() == {"things, all": 1, "things, large": 1, "things, seen": 1}
    total = ThingsFound("panoptic", [CAT], {}, lambda sample: [])
    total += measure
    total += measure
    assert total.numbers() == measure.numbers() and total.counts()["things, all"] == 2


MEASURES = {
    "panoptic": lambda: PanopticEvaluator(CATEGORIES, sizes={"small": (0, 5), "large": (5, 100)}),
    "semantic": lambda: SemanticEvaluator(CATEGORIES),
    "instance": lambda: InstanceEvaluator(CATEGORIES),
    "referring": lambda: ReferringEvaluator(sizes={"small": (0, 5), "large": (5, 100)}),
    "region": RegionEvaluator,
}
REGION = (Region("box", points=((0, 0), (4, 4)), segment=0),)
ASKED = {"referring": expression(Segment(rows(0)), tags=("ordinal",)), "region": sample(Segment(rows(0)), regions=REGION)}
GIVEN = {
    "panoptic": lambda *found: {"segments": [{"category_id": CAT, "mask": rows(*found)}]},
    "semantic": lambda *found: {"segments": [{"category_id": CAT, "mask": rows(0, 1, 2, 3)}]},
    "instance": lambda *found: {"instances": [{"category_id": CAT, "score": 0.5, "mask": rows(*found)}]},
    "referring": referred,
    "region": lambda *found: {"masks": [rows(*found)], "scores": [1.0]},
}


@pytest.mark.parametrize("name", MEASURES)
def test_default_evaluators_workers_add_up(name):
    whole, *parts = (MEASURES[name]() for _ in range(3))
    for number, found in enumerate([(0,), (0, 1), (2,)]):
        asked = ASKED.get(name, sample(Segment(rows(0), CAT)))
        if name == "instance":
            asked = Sample(PICTURE, number, SIZE, asked.segments, categories=NAMES)
        for measure in (whole, parts[number % 2]):
            measure.add(asked, GIVEN[name](*found))
    total = parts[0]
    total += pickle.loads(pickle.dumps(parts[1]))
    assert total.numbers() == pytest.approx(whole.numbers(), nan_ok=True)
    assert total.counts() == whole.counts() and repr(total.per_category()) == repr(whole.per_category())
    assert total.name == name and set(total.protocol()) == {name}


@pytest.mark.parametrize(
    ("condition", "task", "names"),
    [
        ("sentence", "panoptic", ["referring"]),
        ("region", "panoptic", ["region"]),
        ("category", "panoptic", ["panoptic", "semantic", "instance"]),
        ("category", "semantic", ["semantic"]),
        ("category", "instance", ["instance"]),
    ],
)
def test_rows_are_measured_by_what_they_ask_for(condition, task, names):
    assert [measure.name for measure in default_evaluators(condition, task, CATEGORIES)] == names
