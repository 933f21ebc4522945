"""What an evaluation writes down: numbers of parts and of all, beside what was published; how rows and weights are known again."""

import json
from dataclasses import asdict, replace

import pytest

from psalm_hf.evaluation.baselines import Baseline
from psalm_hf.evaluation.benchmarks import BENCHMARKS, choices_of
from psalm_hf.evaluation.evaluators.referring import ReferringEvaluator
from psalm_hf.evaluation.evaluators.semantic import SemanticEvaluator
from psalm_hf.evaluation.results import (
    Results,
    beside,
    checkpoint_hash,
    fingerprint,
    flat,
    joint_results,
    markdown_comparisons,
    markdown_row,
    part_results,
)
from tests.evaluation.test_runner import ANSWERS, CAT, CATEGORIES, DOG, ROWS, part_of, picture, rows_of, stripe


def test_a_part_has_numbers_by_category_name_counts_and_choices():
    part, measure = part_of(SemanticEvaluator(CATEGORIES), *ROWS), SemanticEvaluator(CATEGORIES)
    truth = picture("one", stripe(0, 64, CAT), stripe(64, 128, DOG))
    measure.add(truth, {"segments": [{"category_id": CAT, "mask": stripe(0, 128).mask_rle}]})
    found = part_results(BENCHMARKS["own_jsonl"], part, [measure])
    assert found["percent"]["semantic mIoU"] == 25 and found["per_category"]["cat"]["IoU"] == 50
    assert "grass" not in found["per_category"]  # neither in the truth nor in the answer
    assert found["counts"] == {"pictures": 2, "rows": 4, "labelled pixels": 128 * 128}
    assert found["protocol"] == {"semantic": {"unlabelled pixels": "not counted", "resized": "scores of categories"}}
    assert not any("seen" in name for name in found["percent"])
    assert part_results(BENCHMARKS["voc21"], part, [measure])["percent"]["semantic mIoU, seen"] == 25  # cat and dog are COCO's


def test_what_nothing_defines_is_left_out():
    measure = ReferringEvaluator()
    measure.add(ROWS[0], ANSWERS[0]["referring"])
    part = part_of(measure, *ROWS)
    percent = part_results(BENCHMARKS["own_jsonl"], part, [measure])["percent"]
    assert "referring N-acc" not in percent and percent["referring T-acc"] == 100
    json.dumps(percent, allow_nan=False)


def test_numbers_of_a_baseline_stand_apart_under_the_same_names():
    measure, baseline = ReferringEvaluator(), Baseline(ReferringEvaluator(), lambda sample: ANSWERS[1]["referring"])
    for one in (measure, baseline):
        one.add(ROWS[0], ANSWERS[0]["referring"])
    found = part_results(BENCHMARKS["own_jsonl"], part_of(measure, *ROWS), [measure, baseline])
    assert (found["percent"]["referring gIoU"], found["baselines"]["referring gIoU"]) == (50, 100)
    assert found["counts"]["expressions with a target"] == 1


def test_rows_are_known_again_by_their_names():
    one = fingerprint(rows_of(*ROWS))
    assert one["number"] == 4 and one == fingerprint(rows_of(*ROWS))
    assert one["sha256"] != fingerprint(rows_of(*reversed(ROWS)))["sha256"]


def test_a_checkpoint_is_known_again_by_weights_configs_and_tokenizer(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = checkpoint_hash(str(tmp_path))
    (tmp_path / "README.md").write_text("a card")
    assert checkpoint_hash(str(tmp_path)) == before
    (tmp_path / "training_args.bin").write_bytes(b"of a run")
    assert checkpoint_hash(str(tmp_path)) == before
    for part in ("config.json", "pytorch_model-00001-of-00002.bin"):  # the second as in an original folder
        (tmp_path / part).write_bytes(b"{}")
        before, other = checkpoint_hash(str(tmp_path)), before
        assert before != other


def test_names_that_two_parts_share_are_told_apart():
    parts = {"ego2exo": {"percent": {"region IoU": 1.0, "only": 2.0}}, "exo2ego": {"percent": {"region IoU": 3.0}}}
    assert flat(parts) == {"ego2exo region IoU": 1.0, "only": 2.0, "exo2ego region IoU": 3.0}


def test_parts_are_judged_together():
    measures = [ReferringEvaluator(), ReferringEvaluator()]
    for row, measure in enumerate(measures):
        measure.add(ROWS[0], ANSWERS[row]["referring"])
    found = joint_results([[measure] for measure in measures])
    assert found["counts"]["expressions with a target"] == 2
    assert found["percent"]["referring gIoU"] == pytest.approx(100 * (0.5 + 1) / 2)


def results_of(benchmark, split, percent, published, protocol="released"):
    parts = {name: {"percent": percent, "counts": {"pictures": 5000}} for name in published}
    rest = dict.fromkeys(("data", "checkpoint", "dtype", "rows", "versions", "run"))
    return Results(benchmark, split, {"name": protocol}, percent=percent, baselines={}, parts=parts, published=published, **rest)


def beside_part(name, measured, split="val", limit=None, options=None, **own):
    """Published numbers that are printed beside numbers measured in this way."""
    part = replace(part_of(ReferringEvaluator(), *ROWS), split=split)
    data = {"parts": None, "options": options or {}, "limit": limit}
    return beside(BENCHMARKS[name], [part], False, choices_of(name, measured, own) == choices_of(name, "released", {}), data)[""]


def test_the_row_has_main_numbers_and_the_papers():
    percent = {"panoptic PQ": 50.04, "panoptic PQ, small": 1.0, "panoptic RQ": 2.0, "region mIoU, point": 3.0}
    for is_alike, cell in ((True, "50.0 (55.9)"), (False, "50.0")):
        entry = {"numbers": {"panoptic PQ": 55.9}, "is_comparable": is_alike}
        head, _, row = markdown_row(results_of("coco_panoptic", "val", percent, {"": entry})).splitlines()
        assert head == "| benchmark | split | protocol | pictures | panoptic PQ | region mIoU, point |"
        assert row == f"| coco_panoptic | val | released | 5000 | {cell} | 3.0 |"


def test_numbers_are_comparable_where_everything_was_chosen_as_the_paper_did():
    assert beside_part("refcoco", "released")["is_comparable"]
    assert not beside_part("refcoco", "community")["is_comparable"]
    assert not beside_part("refcoco", "released", rasterisation="exact")["is_comparable"]
    assert not beside_part("refcoco", "released", limit=10)["is_comparable"]
    assert beside_part("coco_panoptic", "community")["is_comparable"]  # where both protocols say the same
    assert not beside_part("coco_interactive", "released")["is_comparable"]  # prompts of our own
    assert beside_part("coco_interactive", "released", options={"source": "psalm_json"})["is_comparable"]


def test_methods_that_the_paper_compares_with_are_listed():
    entry = beside_part("davis2017", "community")
    (table,) = markdown_comparisons(results_of("davis2017", "val", {"region J&F": 60.0}, {"": entry}))
    lines = table.strip().splitlines()
    assert lines[0] == "| method | region J&F | region J-Mean | region F-Mean |"
    assert lines[2] == "| this, measured otherwise than the paper | 60.0 |  |  |"
    assert lines[3:6] == [
        "| PSALM, by its paper | 68.8 | 65.9 | 71.7 |",
        "| XMem, trained on video | 87.7 | 84.0 | 91.4 |",
        "| OMG-Seg, trained on video | 76.9 |  |  |",
    ]
    assert lines[-1].startswith("Protocol of the paper: zero-shot, no video data; frame by frame")


@pytest.mark.parametrize(
    ("benchmark", "split", "row", "note"),
    [
        ("vqav2", "test_dev", "| LISA, zero-shot | [1] 0.12 |", "[1] as the paper prints it, without a unit: 0.12 % or 12 %."),
        ("pope", "all", "| InstructBLIP, Vicuna-7B | [1] 36.0 |", "[1] as the paper prints it; always answering yes gives an F1 of 67"),
    ],
)
def test_doubtful_numbers_have_a_note(benchmark, split, row, note):
    entry = asdict(BENCHMARKS[benchmark].published[split]) | {"is_comparable": True}
    (table,) = markdown_comparisons(results_of(benchmark, split, {}, {"": entry}))
    assert row in table.splitlines() and note in table


def test_a_number_is_printed_with_that_of_a_baseline_and_the_papers():
    entry = {"numbers": {"panoptic PQ": 55.9}, "is_comparable": False}
    results = results_of("coco_panoptic", "val", {"panoptic PQ": 50.04, "region mIoU, point, small": 3.0}, {"": entry})
    assert str(replace(results, baselines={"panoptic PQ": 1.25})).splitlines() == [
        "coco_panoptic val, protocol released",
        f"  {'panoptic PQ':<36}  50.04 (1.25)",
        "  paper, measured otherwise: panoptic PQ 55.9",
    ]
