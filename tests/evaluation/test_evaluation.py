"""One engine: on the shapes world it gives the numbers that two evaluations gave before it, each under one name."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.evaluation import Evaluation, evaluate
from psalm_hf.evaluation.evaluation import measurement
from psalm_hf.tiny import build_tiny

RUNS = json.loads((Path(__file__).parent / "shapes_figures.json").read_text(encoding="utf-8"))["runs"]


def name_here(name):
    """How a number of evaluate_shapes.py is called now. There "referring cIoU, attribute" was another quantity than in evaluate.py."""
    words = {"held out": "held_out", "one target": "one_target", "several targets": "several_targets", ", released thresholds": ""}
    for before, now in words.items():
        name = name.replace(before, now)
    if name.startswith("answers right"):
        return "text accuracy" + name.removeprefix("answers right").replace(", all", "").replace(", ", ", question ")
    if name.startswith("instance AP, "):
        return name.replace("AP, ", "AP-")
    if not name.startswith("referring"):
        return name
    of_all = ", all" in name or "acc" in name
    name, is_scored = name.replace("mIoU", "gIoU").removesuffix(", scored"), name.endswith(", scored")
    name = name.replace(", all", "").replace(", with target", "")
    rule = "" if is_scored or "acc" in name else ", best query"
    return name + rule + ("" if of_all else ", target given")


def baseline_here(name):
    return name_here(name).replace(", best query", "")


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return PsalmForSegmentation.from_pretrained(tiny_checkpoint).eval()


@pytest.mark.parametrize("run", [pytest.param(run, marks=[pytest.mark.slow] * (run["pictures"] > 10)) for run in RUNS])
def test_the_figures_of_both_evaluations_come_out_of_one(run, model, tiny_checkpoint):
    for before, own in ((run["evaluate.py"], False), (run["evaluate_shapes.py"], True)):
        processor = PsalmProcessor.from_pretrained(
            tiny_checkpoint, referring_threshold=before["referring_threshold"], no_target_threshold=before["no_target_threshold"]
        )
        found = evaluate(model, processor, "shapes", split=run["split"], limit=run["pictures"])
        rename = name_here if own else str
        expected = {rename(name): value for name, value in before["percent"].items()}
        assert {name: found.percent.get(name) for name in expected} == pytest.approx(expected, abs=1e-6)
        if own:
            expected = {baseline_here(name): value for name, value in before["baselines"].items()}
            assert {name: found.baselines.get(name) for name in expected} == pytest.approx(expected, abs=1e-6)
            assert len(set(map(name_here, before["percent"]))) == len(before["percent"])  # no two of them share a name


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(scope="module")
def tiny():
    return build_tiny()


def with_thresholds(processor, referring, no_target):
    processor.referring_threshold, processor.no_target_threshold = referring, no_target
    return processor


def test_groups_share_all_counts_and_the_mean_of_a_whole_is_that_of_its_parts(tiny):
    results = evaluate(*tiny, "shapes", split="unseen", limit=3)
    counts = {name: number for part in results.parts.values() for name, number in part["counts"].items()}
    for what, whole in (("things", "things, all"), ("regions, point", "regions, point")):
        for parts in (("below 2 %", "larger"), ("seen", "held_out")):
            assert counts[whole] == sum(counts[f"{what}, {part}"] for part in parts)
    expressions = "expressions with a target"
    for parts in (("below 2 %", "larger"), ("seen", "held_out"), ("one_target", "several_targets")):
        assert counts[expressions] == sum(counts.get(f"{expressions}, {part}", 0) for part in parts)
    assert "expressions without target, seen" not in counts  # what means nothing is no pair that was seen
    weights = [counts[f"regions, box, {part}"] for part in ("seen", "held_out")]
    means = [results.percent[f"region mIoU, box, {part}"] for part in ("seen", "held_out")]
    assert results.percent["region mIoU, box"] == pytest.approx(np.average(means, weights=weights))
    assert results.parts["panoptic"]["counts"]["pictures"] == 3
    assert counts["questions"] == counts[expressions] + counts["expressions without target"] == 12
    assert results.baselines.keys() <= results.percent.keys()


def test_what_a_split_does_not_have_is_left_out_instead_of_nan(tiny):
    results = evaluate(*tiny, "shapes", split="validation", limit=2)
    assert not any("held_out" in name for name in results.percent)
    assert "referring N-acc" not in results.percent  # all of these eight expressions mean something
    assert all(0 <= value <= 100 for value in results.percent.values())
    kinds = ("panoptic PQ, thresholds 0.5", "semantic mIoU", "instance AP", "referring cIoU", "region mIoU, mask", "text accuracy")
    assert all(name in results.percent for name in kinds)


def test_a_model_without_mask_tokens_is_measured_by_what_it_can_answer():
    model, processor = build_tiny(decouple_masks=False)
    results = evaluate(model, processor, "shapes", limit=2)
    assert results.parts.keys() == {"panoptic", "questions"}
    assert {name.split()[0] for name in results.percent} == {"panoptic", "semantic", "instance", "things", "text"}
    for names in (["referring"], ["panoptic", "box"]):
        with pytest.raises(ValueError, match="shapes: the model has no mask tokens .* segments by categories only"):
            Evaluation("shapes", processor, parts=names, limit=2)


def test_no_target_below_every_score_accepts_all_and_above_every_score_rejects_all(tiny):
    model, processor = tiny
    found = {}
    for no_target in (0.0, 1.0):
        numbers = evaluate(
            model, with_thresholds(processor, 0.5, no_target), "shapes", split="validation", limit=4, parts=["referring"]
        ).percent
        found[no_target] = numbers["referring N-acc"], numbers["referring T-acc"]
        assert numbers["referring cIoU, target given"] > 0  # there it is known that something is meant
    assert found == {0.0: (0, 100), 1.0: (100, 0)}


def test_with_a_threshold_that_no_score_reaches_both_rules_are_the_same(tiny):
    model, processor = tiny
    one, every = (
        evaluate(model, with_thresholds(processor, threshold, 0.3), "shapes", split="validation", limit=3, parts=["referring"]).percent
        for threshold in (1.0, 0.0)
    )
    best = {name: value for name, value in one.items() if ", best query" in name}
    assert best and all(one[name.replace(", best query", "")] == value for name, value in best.items())
    assert {name: every[name] for name in best} == best
    assert any(every[name.replace(", best query", "")] != value for name, value in best.items())


def test_an_option_that_tells_parts_apart_chooses_among_them(tiny):
    processor = tiny[1]
    chosen = Evaluation("shapes", processor, options={"region_kind": "box", "task": "interactive"}, limit=1).parts
    assert [part.part.name for part in chosen] == ["box"]


def test_one_evaluation_measures_any_number_of_models(tiny):
    evaluation = Evaluation("shapes", tiny[1], split="validation", limit=2, parts=["box"])
    first = evaluation.run(tiny[0])
    assert evaluation.run(tiny[0]).percent == first.percent
    assert evaluation.run(build_tiny(seed=5)[0]).percent != first.percent
    assert first.parts["box"]["counts"]["regions, box"] == evaluation.run(tiny[0]).parts["box"]["counts"]["regions, box"]


def test_training_is_measured_by_the_same_numbers(tiny):
    model, processor = tiny
    expected = evaluate(model, processor, "shapes", split="validation", limit=2, batch_size=2).percent
    assert measurement(processor, images=2, batch_size=2)(model) == expected
    source = {"dataset": "two_view_shapes", "split": "validation", "num_pairs": 2}
    found = measurement(processor, images=2, batch_size=2, sources={"drawn": source})(model)
    expected = evaluate(model, processor, "two_view_shapes", split="validation", options={"num_pairs": 2}).percent
    assert found == {f"drawn {name}": value for name, value in expected.items()}
    with pytest.raises(FileNotFoundError, match="source mine, dataset own_jsonl: "):
        measurement(processor, images=2, batch_size=2, sources={"mine": {"dataset": "own_jsonl", "data_dir": "/"}})


@pytest.mark.parametrize(
    ("benchmark", "options", "message"),
    [
        ("shapes", {"limit": 0}, "limit: expected at least 1 image, got 0"),
        ("shapes", {"split": "val"}, "shapes: unknown split 'val'"),
        ("shape", {}, "unknown benchmark 'shape'.*did you mean shapes"),
        ("shapes", {"parts": ["boxes"]}, "--parts boxes: shapes has the parts panoptic"),
        ("shapes", {"choices": {"passes": "vanilla"}}, "shapes: passes does not concern it"),
        ("shapes", {"predictions": Path("x")}, "either a processor and its model, or predictions"),
        ("coco_panoptic", {}, "give the folder that holds them as data_dir"),
    ],
)
def test_what_cannot_be_measured_is_refused_without_a_model(tiny, benchmark, options, message):
    with pytest.raises(ValueError, match=message):
        Evaluation(benchmark, tiny[1], **options)


def test_an_empty_batch_is_refused(tiny):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(*tiny, "shapes", limit=1, batch_size=0)
