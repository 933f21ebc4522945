"""Laws of all evaluators, and which ones rows are evaluated by."""

import pickle

import pytest

from psalm_hf.evaluation.benchmarks import default_evaluators
from psalm_hf.evaluation.evaluators.instance import InstanceEvaluator
from psalm_hf.evaluation.evaluators.panoptic import PanopticEvaluator
from psalm_hf.evaluation.evaluators.referring import ReferringEvaluator
from psalm_hf.evaluation.evaluators.region import RegionEvaluator
from psalm_hf.evaluation.evaluators.semantic import SemanticEvaluator
from psalm_hf.structures import Region, Sample, Segment
from tests.evaluation.evaluators.four_rows import CAT, CATEGORIES, NAMES, PICTURE, SIZE, expression, referred, rows, sample

EVALUATORS = {
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


@pytest.mark.parametrize("name", EVALUATORS)
def test_workers_add_up(name):
    whole, *parts = (EVALUATORS[name]() for _ in range(3))
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
