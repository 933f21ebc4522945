"""Expressions: what counts, what counts nowhere, and rules."""

import numpy as np
import pytest

from psalm_hf.evaluation.evaluators.referring import ReferringEvaluator, ReferringRule, meant
from psalm_hf.structures import Segment
from tests.evaluation.evaluators.four_rows import expression, referred, rows


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
