"""What an evaluation writes down: numbers of parts and of all, beside what was published; how rows and weights are known again."""

import json

import pytest

from psalm_hf.evaluation.measures import ReferringMeasure, SemanticMeasure
from psalm_hf.evaluation.results import checkpoint_hash, fingerprint, flat, joint_results, markdown_row, part_results
from tests.evaluation.test_datasets import CAT, CATEGORIES, DOG, picture, rows_of, stripe
from tests.evaluation.test_runner import ANSWERS, ROWS, part_of


def test_a_part_has_numbers_by_category_name_counts_and_choices():
    part, measure = part_of(SemanticMeasure(CATEGORIES), *ROWS), SemanticMeasure(CATEGORIES)
    truth = picture("one", stripe(0, 64, CAT), stripe(64, 128, DOG))
    measure.add(truth, {"segments": [{"category_id": CAT, "mask": stripe(0, 128).mask_rle}]})
    found = part_results("own_jsonl", part, [measure])
    assert found["percent"]["semantic mIoU"] == 25 and found["per_category"]["cat"]["IoU"] == 50
    assert "grass" not in found["per_category"]  # neither in the truth nor in the answer
    assert found["counts"] == {"pictures": 2, "rows": 4, "labelled pixels": 128 * 128}
    assert found["protocol"] == {"semantic": {"unlabelled pixels": "not counted", "resized": "scores of categories"}}
    assert not any("seen" in name for name in found["percent"])
    assert part_results("voc21", part, [measure])["percent"]["semantic mIoU, seen"] == 25  # cat and dog are COCO's


def test_what_nothing_defines_is_left_out():
    measure = ReferringMeasure()
    measure.add(ROWS[0], ANSWERS[0]["referring"])
    part = part_of(measure, *ROWS)
    percent = part_results("own_jsonl", part, [measure])["percent"]
    assert "referring N-acc" not in percent and percent["referring T-acc"] == 100
    json.dumps(percent, allow_nan=False)


def test_rows_are_known_again_by_their_names():
    one = fingerprint(rows_of(*ROWS))
    assert one["number"] == 4 and one == fingerprint(rows_of(*ROWS))
    assert one["sha256"] != fingerprint(rows_of(*reversed(ROWS)))["sha256"]


def test_a_checkpoint_is_known_again_by_weights_configs_and_tokenizer(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = checkpoint_hash(str(tmp_path))
    (tmp_path / "README.md").write_text("a card")
    assert checkpoint_hash(str(tmp_path)) == before
    (tmp_path / "config.json").write_text("{}")
    assert checkpoint_hash(str(tmp_path)) != before


def test_names_that_two_parts_share_are_told_apart():
    parts = {"ego2exo": {"percent": {"region IoU": 1.0, "only": 2.0}}, "exo2ego": {"percent": {"region IoU": 3.0}}}
    assert flat(parts) == {"ego2exo region IoU": 1.0, "only": 2.0, "exo2ego region IoU": 3.0}


def test_parts_are_judged_together():
    measures = [ReferringMeasure(), ReferringMeasure()]
    for row, measure in enumerate(measures):
        measure.add(ROWS[0], ANSWERS[row]["referring"])
    found = joint_results([[measure] for measure in measures])
    assert found["counts"]["expressions with a target"] == 2
    assert found["percent"]["referring gIoU"] == pytest.approx(100 * (0.5 + 1) / 2)


def test_the_row_has_main_numbers_and_the_papers():
    results = {
        "benchmark": "coco_panoptic",
        "split": "val",
        "protocol": {"name": "released"},
        "percent": {"panoptic PQ": 50.04, "panoptic PQ, small": 1.0, "panoptic RQ": 2.0, "region mIoU, point": 3.0},
        "published": {"": {"numbers": {"panoptic PQ": 55.9}}},
        "parts": {"": {"counts": {"pictures": 5000}}},
    }
    assert markdown_row(results).splitlines()[0] == "| benchmark | split | protocol | pictures | panoptic PQ | region mIoU, point |"
    assert markdown_row(results).splitlines()[2] == "| coco_panoptic | val | released | 5000 | 50.0 (55.9) | 3.0 |"
