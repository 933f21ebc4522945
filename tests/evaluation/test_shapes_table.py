"""The table shows the numbers of a report where a reader looks for them."""

import pytest

from psalm_hf.evaluation.shapes import ShapesReport
from psalm_hf.evaluation.shapes_table import markdown_table, text_table

REPORTS = {
    "test": ShapesReport(
        {"referring cIoU, attribute": 50.04, "referring cIoU, attribute, scored": 60.06}, {"referring cIoU, attribute": 20}, {}
    ),
    "unseen": ShapesReport({"referring cIoU, attribute": 40, "referring cIoU, held out": 7, "semantic mIoU": 30}, {}, {}),
}


def test_columns_are_splits_with_both_rules_and_then_baselines():
    lines = text_table(REPORTS).splitlines()
    header = next(line for line in lines if line.startswith("Referring cIoU"))
    assert header.split("   ")[-4:] == ["test, scored", "unseen", "unseen, scored", "test, baseline"]  # unseen has no baseline
    attribute = next(line for line in lines if line.startswith("  attribute"))
    assert attribute.split() == ["attribute", "50.0", "60.1", "40.0", "20.0"]
    for title, cell in (("test, scored", "60.1"), ("unseen", "40.0"), ("test, baseline", "20.0")):
        assert header.index(title) + len(title) == attribute.index(cell) + len(cell)  # right edges of a column


def test_markdown_has_the_same_numbers_and_leaves_gaps_where_there_is_none():
    assert markdown_table(REPORTS).splitlines() == [
        "| Semantic | test | unseen |",
        "| --- | ---: | ---: |",
        "| mIoU |  | 30.0 |",
        "",
        "| Referring cIoU | test | test, scored | unseen | unseen, scored | test, baseline |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| attribute | 50.0 | 60.1 | 40.0 |  | 20.0 |",
        "| held out |  |  | 7.0 |  |  |",
    ]


@pytest.mark.parametrize("draw", [text_table, markdown_table])
def test_sections_without_numbers_are_left_out(draw):
    assert "Region" not in draw(REPORTS) and "Panoptic" not in draw(REPORTS)
