"""Instances of COCO, LVIS and Cityscapes: what a sample says beyond its segments reaches the metric."""

import math
import pickle

import numpy as np
import pytest

from psalm_hf.data import load
from psalm_hf.data.features import Category
from psalm_hf.evaluation.evaluators.instance import CityscapesInstanceEvaluator, InstanceEvaluator, LvisEvaluator, areas_of
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Sample, Segment
from tests.conftest import SAMPLES
from tests.evaluation.evaluators import four_rows

SIZE = (20, 40)


def box(left, width, height=10):
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[:height, left : left + width] = True
    return rle_from_bitmap(bitmap)


def instances(*entries):
    return {"instances": [{"category_id": category_id, "score": score, "mask": mask} for mask, category_id, score in entries]}


LVIS = (Category(3, "cup", frequency="c"), Category(8, "cat", frequency="r"))
CITYSCAPES = (Category(7, "road", is_thing=False), Category(26, "car"), Category(28, "bus"))


def sample(categories, image_id, segments=(), tags=()):
    names = {category.id: category.name for category in categories}
    return Sample("a.jpg", image_id, SIZE, segments=tuple(segments), categories=names, tags=tuple(tags))


def lvis_ap(*tags):
    """A cup that is found, and a surer one in an image with these tags that has none."""
    measure = LvisEvaluator(LVIS)
    measure.add(sample(LVIS, "1", [Segment(box(0, 10), 3)]), instances((box(0, 10), 3, 0.5)))
    measure.add(sample(LVIS, "2", tags=tags), instances((box(0, 10), 3, 0.9)))
    return measure.numbers()["instance AP"]


@pytest.mark.parametrize("evaluator", [InstanceEvaluator(CITYSCAPES), CityscapesInstanceEvaluator(CITYSCAPES), LvisEvaluator(LVIS)])
def test_average_precision_asks_for_instances_of_any_score(evaluator):
    class Processor:
        def post_process_instance_segmentation(self, outputs, **options):
            assert options["threshold"] == 0.0 and options["target_sizes"] == [SIZE]
            return [{"segments_info": [{"label_id": 1, "score": 0.01}], "segmentation": [box(0, 10)]}]

    (prediction,) = evaluator.predict([sample(CITYSCAPES, "1")], None, Processor())
    assert [instance["score"] for instance in prediction["instances"]] == [0.01]


def test_lvis_judges_by_the_tags_of_a_sample():
    assert lvis_ap() == pytest.approx(100)
    assert lvis_ap("neg:8", "neg:3") == pytest.approx(50)
    assert lvis_ap("neg:3", "not_exhaustive:3") == pytest.approx(100)


def test_lvis_numbers_are_named_and_counted():
    measure = LvisEvaluator(LVIS)
    measure.add(sample(LVIS, "1", [Segment(box(0, 10), 3), Segment(box(20, 10), 8)]), instances((box(0, 10), 3, 0.5)))
    numbers = measure.numbers()
    assert (numbers["instance AP-common"], numbers["instance AP-rare"]) == (pytest.approx(100), 0)
    assert math.isnan(numbers["instance AP-frequent"]) and "instance AR300" in numbers
    assert measure.per_category()[8] == {"AP": 0, "AP50": 0, "AP75": 0} and measure.counts() == {"objects": 2}
    assert measure.protocol() == {"instance": {"evaluator": "lvis-api", "top_k": 300}} and measure.name == "instance"


def test_lvis_takes_the_areas_of_annotations_and_of_results_with_boxes():
    measure = LvisEvaluator(LVIS)
    found = instances((box(20, 10), 3, 0.9), (box(0, 10), 3, 0.5))
    for entry, area in zip(found["instances"], (5000, 100), strict=True):
        entry["area"] = area
    measure.add(sample(LVIS, "1", [Segment(box(0, 10), 3, area=1000), Segment(box(0, 5), 8, area=2000)]), found)
    numbers = measure.numbers()
    assert numbers["instance AP-small"] == pytest.approx(100)  # the false one is too large to be false here
    assert numbers["instance AP-medium"] == 0


def test_lvis_needs_frequencies():
    with pytest.raises(ValueError, match="2 categories have no frequency, such as 26; give those of the dataset lvis"):
        LvisEvaluator(CITYSCAPES[1:])


def cityscapes_sample(image_id="ulm"):
    return sample(CITYSCAPES, image_id, [Segment(box(0, 10), 26), Segment(box(30, 10), 7)], [f"void:{box(20, 10)['counts']}"])


def test_cityscapes_excuses_what_lies_on_void_and_leaves_stuff_out():
    measure = CityscapesInstanceEvaluator(CITYSCAPES)
    measure.add(cityscapes_sample(), instances((box(0, 10), 26, 0.5), (box(20, 10), 26, 0.9), (box(30, 10), 7, 0.9)))
    assert measure.numbers() == {"instance AP": 100, "instance AP50": 100}
    assert measure.per_category() == {26: {"AP": 100, "AP50": 100}} and measure.counts() == {"objects": 1}
    measure.add(cityscapes_sample("bonn"), instances((box(30, 10), 26, 0.9)))
    assert measure.numbers()["instance AP"] < 100


def test_cityscapes_needs_the_void_pixels_and_things():
    measure = CityscapesInstanceEvaluator(CITYSCAPES)
    with pytest.raises(ValueError, match="image ulm: expected one tag 'void:COUNTS', got 0; give a row of cityscapes_instance"):
        measure.add(sample(CITYSCAPES, "ulm"), instances())
    with pytest.raises(ValueError, match="none of the 1 categories is a thing"):
        CityscapesInstanceEvaluator(CITYSCAPES[:1])


@pytest.mark.parametrize("new", [lambda: LvisEvaluator(LVIS), lambda: CityscapesInstanceEvaluator(CITYSCAPES)], ids=["lvis", "cityscapes"])
def test_workers_add_up(new):
    measure = new()
    category_id = measure.categories[1].id
    samples = [
        sample(measure.categories, str(number), [Segment(box(0, 10), category_id)], [f"void:{box(0, 0)['counts']}"]) for number in (1, 2)
    ]
    answers = [instances((box(0, 10), category_id, 0.5)), instances((box(1, 10), category_id, 0.5), (box(20, 10), category_id, 0.6))]
    parts = [new(), new(), new()]  # the last one sees nothing
    for own, one, answer in zip(parts, samples, answers, strict=False):
        own.add(one, answer)
        measure.add(one, answer)
    merged = new()
    for part in reversed(parts):
        merged += pickle.loads(pickle.dumps(part))
    assert str(merged.numbers()) == str(measure.numbers()) and merged.per_category() == measure.per_category()
    assert merged.counts() == measure.counts() == {"objects": 2}


@pytest.mark.samples
@pytest.mark.parametrize(
    ("name", "folder", "new"),
    [
        ("lvis", ".", LvisEvaluator),
        ("cityscapes_instance", "cityscapes", CityscapesInstanceEvaluator),
        ("cityscapes_panoptic", "cityscapes", CityscapesInstanceEvaluator),
    ],
)
def test_truth_as_prediction_gives_100_on_real_samples(name, folder, new, tmp_path):
    dataset = load(name, "val", SAMPLES / folder, cache_dir=tmp_path)
    measure = new(dataset.categories)
    for one in dataset:
        measure.add(one, instances(*((segment.mask_rle, segment.category_id, 0.5) for segment in one.segments)))
    numbers = measure.numbers()
    assert numbers["instance AP"] == pytest.approx(100) and numbers["instance AP50"] == pytest.approx(100)
    assert measure.counts()["objects"]


def test_instances_are_judged_among_things():
    measure = InstanceEvaluator(four_rows.CATEGORIES)
    found = [{"category_id": four_rows.CAT, "score": 0.9, "mask": four_rows.rows(0)}]
    asked = four_rows.sample(Segment(four_rows.rows(0), four_rows.CAT), Segment(four_rows.rows(1), four_rows.GRASS))
    measure.add(asked, {"instances": found})
    assert measure.numbers()["instance AP"] == pytest.approx(100) and measure.counts() == {"things": 1}


def test_areas_are_those_of_the_file_that_has_some():
    assert areas_of([]) is None and areas_of([{"mask": four_rows.rows(0)}]) is None
    assert areas_of([{"mask": four_rows.rows(0), "area": 7.0}]) == [7.0]
