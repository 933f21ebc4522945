"""Rows answered by a model and judged: what a perfect model gets, numbers that can be checked on paper, any division of the rows."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.data.features import ROW_FEATURES, Category, SampleDataset, row_from_sample
from psalm_hf.evaluation.benchmarks import BenchmarkPart, OpenPart, benchmark_of
from psalm_hf.evaluation.evaluators.referring import ReferringEvaluator
from psalm_hf.evaluation.evaluators.semantic import SemanticEvaluator
from psalm_hf.evaluation.records import PredictionsInMemory
from psalm_hf.evaluation.results import part_results
from psalm_hf.evaluation.runner import MaskPredictor, PredictedRows, Processes, evaluate_predictions, predict
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from psalm_hf.model.modeling_psalm import PsalmSegmentationOutput
from psalm_hf.structures import Region, Sample, Segment
from psalm_hf.tiny import build_tiny

SIDE = 128  # of the pictures, and of the network input, so that nothing is resized
CAT, DOG, GRASS = 10, 20, 30
CATEGORIES = (Category(CAT, "cat"), Category(DOG, "dog"), Category(GRASS, "grass", is_thing=False))
NAMES = {category.id: category.name for category in CATEGORIES}
PICTURE = Image.new("RGB", (SIDE, SIDE), "green")


def stripe(left, right, category_id=None, is_crowd=False):
    """Columns of the picture at full height. Multiples of 4 and no corners: so a mask survives, to the pixel, the resolution of the
    logits, a quarter of the picture's."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:, left:right] = True
    return Segment(rle_from_bitmap(mask), category_id, is_crowd)


def picture(name, *segments, **prompt):
    return Sample(PICTURE, name, (SIDE, SIDE), tuple(segments), **(prompt or {"categories": NAMES}))


def rows_of(*samples):
    rows = [row_from_sample(sample) for sample in samples]
    return SampleDataset(datasets.Dataset.from_list(rows, features=ROW_FEATURES), CATEGORIES, samples[0].task)


class Stub:
    """Answers the rows of a dataset, in their order, with the segments of `answers`; `probability` is that of their category.

    Of regions, segment n is the answer to region n.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, answers, probability=0.99):
        self.answers, self.probability = list(answers), probability
        self.batches = []

    def __call__(self, *, condition_type, **inputs):
        self.batches.append(len(condition_type))
        samples = [self.answers.pop(0) for _ in condition_type]
        width = max(len(sample.segments) for sample in samples)
        masks = torch.full((len(samples), width, SIDE // 4, SIDE // 4), -20.0)
        classes = torch.zeros(len(samples), width, len(CATEGORIES) + 1)
        classes[..., -1] = 20.0
        regions = torch.full((len(samples), width, width), -20.0)
        for row, sample in enumerate(samples):
            for query, segment in enumerate(sample.segments):
                masks[row, query][torch.from_numpy(bitmap_from_rle(segment.mask_rle))[2::4, 2::4]] = 20.0
                if sample.condition == "category":
                    others = (1 - self.probability) / len(CATEGORIES)
                    probs = torch.full((len(CATEGORIES) + 1,), others)
                    probs[sample.class_labels[query]] = self.probability
                    classes[row, query] = probs.log()
                regions[row, query, query] = 20.0
        return PsalmSegmentationOutput(
            masks_queries_logits=masks,
            class_queries_logits=classes,
            referring_queries_logits=torch.linspace(5, 4, width)[None, :, None].repeat(len(samples), 1, 1),  # the first is the best
            region_queries_logits=regions,
            num_conditions=torch.tensor([len(sample.regions) for sample in samples]),
            condition_type=condition_type,
        )


@pytest.fixture(scope="module")
def processor():
    return build_tiny()[1]


CHOICES = {"threshold": 0.8, "overlap": 0.8}


def evaluate(processor, truth, answers, **options):
    return evaluated(Stub(answers), processor, rows_of(*truth), **({"batch_size": 2} | options))


def evaluated(model, processor, dataset, batch_size, **choices):
    """Results of a part with these rows, measured by what they ask for."""
    measures = benchmark_of("own_jsonl").evaluators({"": dataset}, CHOICES | choices)
    part = OpenPart(BenchmarkPart("own_jsonl"), None, "val", {}, dataset, {}, tuple(measures))
    answers = PredictionsInMemory()
    predict(MaskPredictor(model, processor, part, {}), answers, Processes(), batch_size=batch_size)
    return part_results(benchmark_of("own_jsonl"), part, evaluate_predictions(part, answers, Processes()))


SCENES = (
    picture("one", stripe(0, 16, CAT), stripe(32, 48, DOG), stripe(64, 128, GRASS)),
    picture("two", stripe(0, 32, DOG), stripe(64, 80, CAT)),
)


def test_the_truth_as_prediction_gives_100(processor):
    report = evaluate(processor, SCENES, SCENES)
    expected = {f"panoptic {name}{group}" for name in ("PQ", "SQ", "RQ") for group in ("", "-things", "-stuff")}
    expected |= {"semantic mIoU", "semantic fwIoU", "semantic mACC", "semantic pACC", "instance AP", "instance AP50"}
    assert {name: report["percent"][name] for name in expected} == pytest.approx(dict.fromkeys(expected, 100), abs=1e-6)
    assert report["per_category"]["dog"]["PQ"] == report["per_category"]["grass"]["IoU"] == 100
    assert report["counts"] == {"pictures": 2, "rows": 2, "segments": 5, "labelled pixels": SIDE * (16 + 16 + 64 + 32 + 16), "things": 4}


def test_a_wrong_name_and_a_smaller_mask_cost_what_they_cost_on_paper(processor):
    one, two = SCENES
    answers = [
        replace(one, segments=(one.segments[0], replace(one.segments[1], category_id=CAT), one.segments[2])),  # the dog is called a cat
        replace(two, segments=(stripe(0, 24, DOG), two.segments[1])),  # three quarters of the other dog
    ]
    report = evaluate(processor, SCENES, answers)
    # Cats: two matches with IoU 1, one false. Dogs: one match with IoU 0.75, one missed.
    assert report["per_category"]["cat"]["PQ"] == pytest.approx(100 * 2 / 2.5)
    assert report["per_category"]["dog"]["PQ"] == pytest.approx(100 * 0.75 / 1.5)
    assert report["percent"]["panoptic PQ-things"] == pytest.approx((80 + 50) / 2)
    assert report["percent"]["panoptic PQ-stuff"] == 100
    assert report["percent"]["panoptic PQ"] == pytest.approx((80 + 50 + 100) / 3)


def test_crowds_and_unlabelled_pixels_are_no_mistakes(processor):
    truth = [picture("crowd", stripe(0, 16, CAT), stripe(64, 128, CAT, is_crowd=True))]
    on_crowd, on_nothing = stripe(64, 80, CAT), stripe(32, 48, DOG)
    report = evaluate(processor, truth, [replace(truth[0], segments=(truth[0].segments[0], on_crowd, on_nothing))])
    assert report["percent"]["panoptic PQ-things"] == 100
    assert report["percent"]["instance AP"] == pytest.approx(100)
    assert report["counts"]["segments"] == report["counts"]["things"] == 1


def test_the_thresholds_that_are_given_decide_and_are_recorded(processor):
    for threshold, expected in ((0.8, 0), (0.5, 100)):
        stub = Stub(SCENES, probability=0.7)
        report = evaluated(stub, processor, rows_of(*SCENES), batch_size=1, threshold=threshold, overlap=0.5)
        assert report["percent"]["panoptic PQ"] == expected
        assert report["protocol"]["panoptic"] == {"threshold": threshold, "overlap": 0.5}


@pytest.mark.parametrize(
    ("task", "parts"), [("panoptic", {"panoptic", "semantic", "instance"}), ("semantic", {"semantic"}), ("instance", {"instance"})]
)
def test_a_dataset_is_measured_by_what_its_task_is_measured_by(processor, task, parts):
    scenes = [replace(scene, task=task) for scene in SCENES]
    report = evaluate(processor, scenes, scenes)
    assert {name.split()[0] for name in report["percent"]} == report["protocol"].keys() == parts


def test_an_expression_is_answered_by_its_best_query(processor):
    truth = [
        picture("one", stripe(0, 32), expressions=("the big one",)),
        picture("one", stripe(64, 72), stripe(72, 80), expressions=("both", "the two")),
    ]
    wrong = stripe(96, 128)
    answers = [
        replace(truth[0], segments=(truth[0].segments[0], wrong)),  # the second query means less, and does not count
        replace(truth[1], segments=(stripe(64, 72), wrong)),  # half of what is meant
    ]
    report = evaluate(processor, truth, answers)
    assert report["percent"]["referring gIoU"] == pytest.approx((100 + 50) / 2)
    assert report["percent"]["referring cIoU"] == pytest.approx(100 * (32 + 8) / (32 + 16))
    assert report["counts"] == {"pictures": 1, "rows": 2, "expressions with a target": 2, "expressions without target": 0}


POINT = Region("point", points=((8, 8),), segment=1)
BOX = Region("box", points=((64, 0), (96, 128)), segment=0)


def test_regions_are_measured_by_kind_of_prompt(processor):
    truth = [picture("one", stripe(64, 96), stripe(0, 32), regions=(POINT, BOX))]
    answers = [replace(truth[0], segments=(stripe(0, 16), stripe(64, 96)))]  # in the order of the regions
    report = evaluate(processor, truth, answers)
    assert report["percent"] == {"region mIoU, box": 100, "region cIoU, box": 100, "region mIoU, point": 50, "region cIoU, point": 50}
    assert report["counts"] == {"pictures": 1, "rows": 1, "regions, box": 1, "regions, point": 1}


def test_a_region_whose_object_is_unknown_is_refused(processor):
    truth = [picture("one", stripe(0, 32), regions=(replace(POINT, segment=None),))]
    with pytest.raises(ValueError, match="image one: region 0 points at no segment"):
        evaluate(processor, truth, truth)


def test_all_rows_on_the_first_pictures_are_kept_and_batches_have_the_size_asked_for(processor):
    truth = [picture(name, stripe(0, 32), expressions=(name,)) for name in ("a", "b", "a", "c", "b")]
    dataset = rows_of(*truth).first_images(2)
    assert [sample.image_id for sample in dataset] == ["a", "b", "a", "b"]
    stub = Stub(truth)
    report = evaluated(stub, processor, dataset, batch_size=3)
    assert stub.batches == [3, 1]
    assert (report["counts"]["pictures"], report["counts"]["rows"]) == (2, 4)


def test_a_real_model_runs_through_every_condition(processor):
    model, _ = build_tiny()
    prompts = ({}, {"expressions": ("this",)}, {"regions": (replace(POINT, segment=0),)})
    for prompt in prompts:
        truth = picture("one", stripe(0, 32, CAT), **prompt)
        report = evaluated(model, processor, rows_of(truth), batch_size=1)
        assert report["percent"] and all(0 <= value <= 100 for value in report["percent"].values())


@pytest.mark.parametrize(
    ("truth", "options", "message"),
    [
        ([SCENES[0], picture("two", stripe(0, 4), expressions=("this",))], {}, "rows of the conditions category, sentence"),
        (
            [picture("chat", conversation=({"role": "user", "content": "What?"},))],
            {},
            "rows of condition 'conversation' ask for no segmentation",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(processor, truth, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(processor, truth, truth, **options)


def test_rows_with_categories_of_their_own_are_refused(processor):
    row = row_from_sample(SCENES[0], with_categories=True)
    dataset = SampleDataset(datasets.Dataset.from_list([row], features=ROW_FEATURES), ())
    with pytest.raises(ValueError, match="every row names its own categories"):
        evaluated(Stub(SCENES), processor, dataset, batch_size=1)


def test_no_picture_is_refused():
    with pytest.raises(ValueError, match="at least 1 image, got 0"):
        rows_of(*SCENES).first_images(0)


# Judging.

ROWS = [picture("one", stripe(0, 16), expressions=("this",)), picture("two", stripe(64, 96), expressions=("that",))] * 2
ANSWERS = {row: {"referring": {"mask": stripe(0, 8 + 8 * row).mask_rle, "score": 0.5, "no_target": row == 3}} for row in range(len(ROWS))}


def part_of(measure, *samples, targets=None):
    return OpenPart(BenchmarkPart("own_jsonl", targets={}), None, "val", {}, rows_of(*samples), targets or {}, (measure,))


class Alone(Processes):
    """One of several, whose measures are added by hand."""

    def gather(self, value):
        return [value]


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_processes_judge_every_row_once(number):
    total = ReferringEvaluator()
    for rank in range(number):
        (measure,) = evaluate_predictions(part_of(ReferringEvaluator(), *ROWS), ANSWERS, Alone(rank, number))
        total += measure
    (expected,) = evaluate_predictions(part_of(ReferringEvaluator(), *ROWS), ANSWERS, Processes())
    assert total.numbers() == expected.numbers() and total.counts() == expected.counts()
    assert expected.counts()["expressions with a target"] == 4
    assert expected.numbers()["referring gIoU"] == pytest.approx(100 * (8 / 16 + 0 + 16 / 24 + 0) / 4)


def test_the_truth_may_be_another_dataset_in_another_order():
    asked = [picture("one"), picture("two")]
    true = [picture("two", stripe(0, 128, DOG)), picture("one", stripe(0, 128, CAT))]
    part = part_of(SemanticEvaluator(CATEGORIES), *asked, targets={"semantic": rows_of(*true)})
    part = replace(part, part=BenchmarkPart("own_coco", targets={"semantic": "own_pairs"}))
    everywhere = stripe(0, 128).mask_rle
    answers = {row: {"semantic": {"segments": [{"category_id": category, "mask": everywhere}]}} for row, category in enumerate((CAT, DOG))}
    (measure,) = evaluate_predictions(part, answers, Processes())
    assert measure.numbers()["semantic mIoU"] == 100
    rows = PredictedRows(part, answers, "semantic")
    found = [(row, sample.image_id, answer["segments"][0]["category_id"]) for row, sample, answer in rows]
    assert found == [(0, "one", CAT), (1, "two", DOG)]
    part = replace(part, targets={"semantic": rows_of(true[0])})
    with pytest.raises(ValueError, match="own_pairs: has no targets for 1 images of own_coco, such as one"):
        evaluate_predictions(part, answers, Processes())


def test_a_mask_of_another_size_is_refused_by_its_picture():
    wrong = {0: {"referring": {"mask": {"size": [4, 4], "counts": "`0"}, "score": 1.0, "no_target": False}}}
    with pytest.raises(ValueError, match=r"image one, record None, prediction: a mask of size \(4, 4\), but the image is \(128, 128\)"):
        evaluate_predictions(part_of(ReferringEvaluator(), ROWS[0]), wrong, Processes())
