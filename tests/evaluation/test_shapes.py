"""The report on the shapes world: truth as prediction gives 100, groups add up, and a real model runs through every part."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from psalm_hf.data.collator import PsalmCollator
from psalm_hf.data.shapes import CATEGORIES, ShapesStream
from psalm_hf.evaluation.calibration import ReferringThresholds
from psalm_hf.evaluation.shapes import evaluate_shapes, report_shapes
from psalm_hf.evaluation.shapes_answers import frequent_answers
from psalm_hf.evaluation.shapes_batch import SceneBatch
from psalm_hf.evaluation.shapes_table import SECTIONS
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.metrics import label_map
from psalm_hf.tiny import build_tiny


class Oracle:
    """A processor that answers with the truth; the outputs it gets are the samples themselves. `shape_shift` misnames every thing."""

    def __init__(self, shape_shift=0):
        self.image_processor = SimpleNamespace(image_size=128)
        self.prompt_radii = (10, 5)
        self.shape_shift = shape_shift

    def labels(self, sample):
        things = sum(category.is_thing for category in CATEGORIES)
        return [(label + self.shape_shift) % things if label < things else label for label in sample.class_labels]

    def post_process_panoptic_segmentation(self, samples, **_):
        answers = []
        for sample in samples:
            rles = [segment.mask_rle for segment in sample.segments]
            ids = range(1, len(rles) + 1)
            info = [{"id": id, "label_id": label, "score": 1.0} for id, label in zip(ids, self.labels(sample), strict=True)]
            answers.append({"segmentation": paint(rles, list(ids), sample), "segments_info": info})
        return answers

    def post_process_semantic_segmentation(self, samples, **_):
        return [paint([segment.mask_rle for segment in sample.segments], self.labels(sample), sample) for sample in samples]

    def post_process_instance_segmentation(self, samples, label_ids, **_):
        answers = []
        for sample in samples:
            kept = [(segment, label) for segment, label in zip(sample.segments, self.labels(sample), strict=True) if label in label_ids]
            info = [{"label_id": label, "score": 1.0} for _, label in kept]
            answers.append({"segmentation": [segment.mask_rle for segment, _ in kept], "segments_info": info})
        return answers

    def post_process_referring_segmentation(self, samples, **_):
        """The union as the best query, so that both rules are right."""
        answers = []
        for sample in samples:
            union = bitmaps(sample.segments).any(0) if sample.segments else torch.zeros(sample.image_size, dtype=torch.bool)
            answers.append({"masks": union[None], "no_target": not sample.segments})
        return answers

    def post_process_region_segmentation(self, samples, **_):
        return [{"masks": bitmaps([sample.segments[region.segment] for region in sample.regions])} for sample in samples]


def bitmaps(segments):
    return torch.from_numpy(np.stack([bitmap_from_rle(segment.mask_rle) for segment in segments]))


def paint(rles, labels, sample):
    return torch.from_numpy(label_map(rles, labels, sample.image_size, fill=0).astype(np.int64))


@pytest.fixture
def truth(monkeypatch):
    """A model for `Oracle`: it hands the samples on, and knows the answer of every question on the pictures of a split."""

    def answer(batch, samples):
        stream = ShapesStream("conversation", split=batch.split)
        told = [sample.conversation for number in batch.numbers for sample in stream.samples(number)]
        assert [sample.conversation for sample in samples] == [messages[:1] for messages in told]
        return [f" {reply['content']}\n" for _, reply in told]

    monkeypatch.setattr(SceneBatch, "forward", lambda batch, samples: samples)
    monkeypatch.setattr(SceneBatch, "answer", answer)
    return SimpleNamespace(config=SimpleNamespace(decouple_masks=True))


@pytest.fixture(scope="module")
def tiny():
    return build_tiny()


@pytest.mark.parametrize("split", ["test", "unseen"])
def test_truth_as_prediction_gives_100_and_answers_without_a_model_do_not(truth, split):
    report = report_shapes(truth, Oracle(), split=split, num_images=6, batch_size=4)
    assert all(value == pytest.approx(100) for value in report.percent.values()), report.percent
    assert report.baselines.keys() <= report.percent.keys()
    assert all(0 <= value < 100 for name, value in report.baselines.items() if name != "referring T-acc")
    assert report.baselines["referring cIoU, with target"] > 0


def test_a_report_has_every_number_of_the_table_and_no_other(truth):
    report = report_shapes(truth, Oracle(), split="unseen", num_images=12, batch_size=12)
    places = [name + suffix for section in SECTIONS for _, name in section.rows for suffix in ("", ", scored")[: 1 + section.has_scored]]
    assert len(set(places)) == len(places)
    assert report.percent.keys() == {name for name in places if "acc, scored" not in name}  # what is there does not depend on the rule


def test_right_masks_with_wrong_names_are_neither_found_nor_precise(truth):
    numbers = evaluate_shapes(truth, Oracle(shape_shift=1), split="unseen", num_images=6, batch_size=4)
    assert numbers["things found, all"] == numbers["panoptic PQ-things, thresholds 0.5"] == numbers["instance AP"] == 0
    assert numbers["panoptic PQ-stuff, thresholds 0.5"] == numbers["region mIoU, point"] == 100


def test_groups_share_all_counts_and_the_mean_of_a_whole_is_that_of_its_parts(tiny):
    report = report_shapes(*tiny, split="unseen", num_images=3, batch_size=3)
    for what in ("things", "regions, point", "expressions"):
        whole = report.counts[{"things": "things, all", "expressions": "expressions, with target"}.get(what, what)]
        for parts in (("below 2 %", "larger"), ("seen", "held out")):
            assert whole == sum(report.counts[f"{what}, {part}"] for part in parts)
    weights = [report.counts[f"regions, box, {part}"] for part in ("seen", "held out")]
    means = [report.percent[f"region mIoU, box, {part}"] for part in ("seen", "held out")]
    assert report.percent["region mIoU, box"] == pytest.approx(np.average(means, weights=weights))
    assert report.counts["pictures"] == 3 and report.counts["questions, all"] == report.counts["expressions, all"] == 12


def test_what_a_split_does_not_have_is_left_out_instead_of_nan(tiny):
    report = report_shapes(*tiny, split="validation", num_images=2, batch_size=2)
    assert not any("held out" in name for name in (*report.percent, *report.counts))
    assert "referring N-acc" not in report.percent  # all of these eight expressions mean something
    assert all(0 <= value <= 100 for value in report.percent.values())
    parts = (
        "panoptic PQ, thresholds 0.5",
        "semantic mIoU",
        "instance AP",
        "referring cIoU, all",
        "region mIoU, mask",
        "answers right, all",
    )
    assert all(name in report.percent for name in parts)


def test_numbers_do_not_depend_on_the_batch_size():
    """In float64: in float32, sums of other lengths move logits by 1e-6, and now and then that moves a pixel across a threshold."""
    model, processor = build_tiny()
    model.double()
    one = evaluate_shapes(model, processor, split="validation", num_images=4, batch_size=1)
    assert one == evaluate_shapes(model, processor, split="validation", num_images=4, batch_size=4)


def test_a_model_without_mask_tokens_is_measured_by_categories_alone():
    model, processor = build_tiny(decouple_masks=False)
    report = report_shapes(model, processor, split="test", num_images=2, batch_size=2)
    assert {name.split()[0] for name in report.percent} == {"panoptic", "semantic", "instance", "things"}
    assert not report.baselines


def test_every_picture_is_encoded_once_for_all_tasks(tiny, monkeypatch):
    model, processor = tiny
    encoded = []
    encode = model.model.get_image_features
    monkeypatch.setattr(
        model.model, "get_image_features", lambda pixels, **options: encoded.append(len(pixels)) or encode(pixels, **options)
    )
    evaluate_shapes(model, processor, split="test", num_images=3, batch_size=2)
    assert encoded == [2, 1]


@pytest.mark.parametrize("task", ["panoptic", "referring", "interactive"])
def test_the_shared_encoding_gives_each_row_its_own_picture(tiny, task):
    model, processor = tiny
    with torch.inference_mode():
        batch = SceneBatch(model, processor, "test", [5, 3])
        samples = [prompt.sample for prompt in batch.prompts(task)][::-1]  # the last picture first
        shared = batch.forward(samples)
        alone = model(**PsalmCollator(processor, with_targets=False)(samples))
    torch.testing.assert_close(shared.masks_queries_logits, alone.masks_queries_logits, atol=1e-4, rtol=1e-4)


def test_no_target_below_every_score_accepts_all_and_above_every_score_rejects_all(tiny):
    accuracies = {}
    for no_target in (0.0, 1.0):
        thresholds = ReferringThresholds(no_target=no_target)
        numbers = evaluate_shapes(*tiny, split="validation", num_images=4, batch_size=4, thresholds=thresholds)
        accuracies[no_target] = numbers["referring N-acc"], numbers["referring T-acc"]
        assert numbers["referring cIoU, with target"] > 0  # there it is known that something is meant
    assert accuracies == {0.0: (0, 100), 1.0: (100, 0)}


def test_with_a_threshold_that_no_score_reaches_both_rules_are_the_same(tiny):
    thresholds = ReferringThresholds(further_targets=1.0)
    numbers = evaluate_shapes(*tiny, split="validation", num_images=3, batch_size=3, thresholds=thresholds)
    scored = {name: value for name, value in numbers.items() if name.endswith(", scored")}
    assert scored and all(numbers[name.removesuffix(", scored")] == value for name, value in scored.items())
    every = evaluate_shapes(*tiny, split="validation", num_images=3, batch_size=3, thresholds=ReferringThresholds(further_targets=0.0))
    assert any(every[name] != value for name, value in scored.items())


def test_the_most_frequent_answer_is_right_more_often_than_any_other_in_training():
    frequent = frequent_answers(128)
    told = ShapesStream("conversation", split="train")
    right = {kind: [] for kind in frequent}
    for scene in range(500):
        for sample in told.samples(scene):
            (kind,) = sample.tags
            right[kind].append(sample.conversation[1]["content"])
    assert {kind: answers.count(frequent[kind]) for kind, answers in right.items()} == {
        kind: max(map(answers.count, set(answers))) for kind, answers in right.items()
    }


@pytest.mark.parametrize("options", [{"num_images": 0, "batch_size": 1}, {"num_images": 1, "batch_size": 0}])
def test_nothing_to_measure_is_refused(truth, options):
    with pytest.raises(ValueError, match="num_images and batch_size must be at least 1, got "):
        evaluate_shapes(truth, Oracle(), split="test", **options)
