"""Semantic predictions of four rows."""

import pytest

from psalm_hf.evaluation.evaluators.semantic import SemanticEvaluator
from psalm_hf.structures import Segment
from tests.evaluation.evaluators.four_rows import CAT, CATEGORIES, GRASS, rows, sample


def test_a_semantic_answer_must_name_every_labelled_pixel():
    measure, asked = SemanticEvaluator(CATEGORIES), sample(Segment(rows(0, 1), CAT), Segment(rows(2), GRASS))
    with pytest.raises(ValueError, match="image 1, prediction: 4 labelled pixels have no category"):
        measure.add(asked, {"segments": [{"category_id": CAT, "mask": rows(0, 1)}]})
    everything = {"segments": [{"category_id": CAT, "mask": rows(0, 1, 2, 3)}]}  # row 3 is not labelled, and free
    measure.add(asked, everything)
    assert measure.numbers()["semantic mIoU"] == pytest.approx((100 * 8 / 12 + 0) / 2)
    assert measure.per_category()[CAT]["IoU"] == pytest.approx(100 * 8 / 12)
