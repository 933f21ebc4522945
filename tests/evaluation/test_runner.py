"""Judging: any division of the rows gives the same numbers, and a truth of another dataset is found by picture."""

from dataclasses import replace

import pytest

from psalm_hf.evaluation.benchmarks import OpenPart, Part
from psalm_hf.evaluation.measures import ReferringMeasure, SemanticMeasure
from psalm_hf.evaluation.runner import AnsweredRows, Processes, judge
from tests.evaluation.test_datasets import CAT, CATEGORIES, DOG, picture, rows_of, stripe

ROWS = [picture("one", stripe(0, 16), expressions=("this",)), picture("two", stripe(64, 96), expressions=("that",))] * 2
ANSWERS = {row: {"referring": {"mask": stripe(0, 8 + 8 * row).mask_rle, "score": 0.5, "no_target": row == 3}} for row in range(len(ROWS))}


def part_of(measure, *samples, truths=None):
    return OpenPart(Part("own_jsonl", truths={}), None, "val", {}, rows_of(*samples), truths or {}, (measure,))


class Alone(Processes):
    """One of several, whose measures are added by hand."""

    def gather(self, value):
        return [value]


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_processes_judge_every_row_once(number):
    total = ReferringMeasure()
    for rank in range(number):
        (measure,) = judge(part_of(ReferringMeasure(), *ROWS), ANSWERS, lambda found: found, Alone(rank, number))
        total += measure
    (expected,) = judge(part_of(ReferringMeasure(), *ROWS), ANSWERS, lambda found: found, Processes())
    assert total.numbers() == expected.numbers() and total.counts() == expected.counts()
    assert expected.counts()["expressions with a target"] == 4
    assert expected.numbers()["referring gIoU"] == pytest.approx(100 * (8 / 16 + 0 + 16 / 24 + 0) / 4)


def test_the_truth_may_be_another_dataset_in_another_order():
    asked = [picture("one"), picture("two")]
    true = [picture("two", stripe(0, 128, DOG)), picture("one", stripe(0, 128, CAT))]
    part = part_of(SemanticMeasure(CATEGORIES), *asked, truths={"semantic": rows_of(*true)})
    part = replace(part, part=Part("own_coco", truths={"semantic": "own_pairs"}))
    everywhere = stripe(0, 128).mask_rle
    answers = {row: {"semantic": {"segments": [{"category_id": category, "mask": everywhere}]}} for row, category in enumerate((CAT, DOG))}
    (measure,) = judge(part, answers, lambda found: found, Processes())
    assert measure.numbers()["semantic mIoU"] == 100
    rows = AnsweredRows(part, answers, lambda found: found, "semantic")
    found = [(row, sample.image_id, answer["segments"][0]["category_id"]) for row, sample, answer in rows]
    assert found == [(0, "one", CAT), (1, "two", DOG)]
    part = replace(part, truths={"semantic": rows_of(true[0])})
    with pytest.raises(ValueError, match="own_pairs: has no truth for 1 pictures of own_coco, such as one"):
        judge(part, answers, lambda found: found, Processes())


def test_a_mask_of_another_size_is_refused_by_its_picture():
    wrong = {0: {"referring": {"mask": {"size": [4, 4], "counts": "`0"}, "score": 1.0, "no_target": False}}}
    with pytest.raises(ValueError, match=r"image one, record None, prediction: a mask of size \(4, 4\), but the image is \(128, 128\)"):
        judge(part_of(ReferringMeasure(), ROWS[0]), wrong, lambda found: found, Processes())
