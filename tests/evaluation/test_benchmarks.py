"""Laws of the table of benchmarks, on real samples: the truth as answer, through each submission format, gives 100 everywhere."""

from collections import defaultdict

import datasets
import numpy as np
import pytest

from psalm_hf.evaluation.benchmarks import BENCHMARKS, EVALUATION_PROTOCOLS, benchmark_of, choices_of, formats_of, open_part
from psalm_hf.evaluation.results import part_results
from psalm_hf.evaluation.runner import Processes, evaluate_predictions
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from tests.conftest import SAMPLES

# Benchmark -> folder of the samples, further options.
DATA = {
    "coco_panoptic": ("coco", {}),
    "coco_instance": ("coco", {}),
    "coco_semantic": ("coco", {}),
    "refcoco": ("refer_seg", {}),
    "refcoco+": ("refer_seg", {}),
    "refcocog": ("refer_seg", {}),
    "grefcoco": ("refer_seg", {}),
    "grefcoco_expression_instances": ("refer_seg", {}),
    "coco_interactive": ("coco", {}),
    "ade20k": ("ADEChallengeData2016", {}),
    "cityscapes": ("cityscapes", {}),
    "lvis": (".", {}),
    "pc59": ("pascal_ctx_d2", {}),
    "pc459": ("pascal_ctx_d2", {}),
    "voc20": ("VOCdevkit", {}),
    "voc21": ("pascal_voc_d2", {"layout": "d2"}),
    "davis2017": ("DAVIS", {}),
    "ego_exo4d": ("egoexo4d", {}),
    "vqav2": ("vqav2", {}),
    "scienceqa": ("scienceqa", {}),
    "mmbench": ("mmbench", {"language": "en"}),
    "shapes": (None, {"num_images": 8}),
    "shapes_expression_instances": (None, {"num_images": 8}),
    "moving_shapes": (None, {"num_clips": 2}),
    "moving_shapes_expressions": (None, {"num_clips": 2}),
    "two_view_shapes": (None, {"num_pairs": 6}),
}
# Numbers that are no share of what is right: 0 at best, or a share of something else.
ZERO = ("location error", "Decay")
OTHER = ("AR1", "yes-ratio")  # an image may have several objects of a category; half of the answers are yes


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")


def together(masks, size):
    return np.any([np.zeros(size, dtype=bool), *map(bitmap_from_rle, masks)], axis=0)


def truth(measure, sample, things):
    """The answer of a model that knows everything."""
    measure = measure.partition("_")[0]
    objects = [segment for segment in sample.segments if not segment.is_crowd and (measure != "instance" or segment.category_id in things)]
    if measure in ("panoptic", "instance"):
        entries = [{"category_id": segment.category_id, "score": 1.0, "mask": segment.mask_rle} for segment in objects]
        return {"segments" if measure == "panoptic" else "instances": entries}
    if measure == "semantic":
        by_category = defaultdict(list)
        for segment in sample.segments:
            by_category[segment.category_id].append(segment.mask_rle)
        masks = {category: rle_from_bitmap(together(rles, sample.image_size)) for category, rles in by_category.items()}
        return {"segments": [{"category_id": category, "mask": mask} for category, mask in masks.items()]}
    if measure == "referring":
        mask = together([segment.mask_rle for segment in sample.segments], sample.image_size)
        return {"mask": rle_from_bitmap(mask), "score": 1.0, "no_target": not mask.any()}
    if measure == "expression":
        return {"masks": [segment.mask_rle for segment in objects], "scores": [1.0] * len(objects), "number": len(objects)}
    if measure == "region":
        empty = rle_from_bitmap(np.zeros(sample.image_size, dtype=bool))
        found = [empty if region.segment is None else sample.segments[region.segment].mask_rle for region in sample.regions]
        return {"masks": found, "scores": [0.0 if region.segment is None else 1.0 for region in sample.regions]}
    return {"text": sample.answers[0] if sample.answers else sample.conversation[-1]["content"]}


def opened(name, protocol="community"):
    folder, options = DATA[name]
    benchmark = benchmark_of(name)
    data_dir = folder and str(SAMPLES / folder)
    for part in benchmark.parts:
        yield open_part(benchmark, part, benchmark.split if name != "vqav2" else "val", data_dir, choices_of(name, protocol, {}), options)


@pytest.mark.samples
@pytest.mark.parametrize("name", DATA)
def test_the_truth_as_answer_gives_100_through_the_submission_format(name, tmp_path):
    for part in opened(name):
        answers = {row: {} for row in range(len(part.dataset))}
        for measure, format in formats_of(benchmark_of(name), part).items():
            of = {sample.image_id: sample for sample in part.targets[measure]} if measure in part.targets else None
            samples = [sample if of is None else of[sample.image_id] for sample in part.dataset]
            folder = tmp_path / part.part.name / measure
            folder.mkdir(parents=True)
            things = {category.id for category in part.targets.get(measure, part.dataset).categories if category.is_thing}
            format.write(folder, ((sample, truth(measure, sample, things)) for sample in samples))
            for row, answer in format.read(folder, part.dataset).items():
                answers[row][measure] = answer
        results = part_results(benchmark_of(name), part, evaluate_predictions(part, answers, Processes()))
        assert results["percent"], results
        assert results["baselines"].keys() <= results["percent"].keys()
        assert all(0 <= value < 100 for number, value in results["baselines"].items() if "T-acc" not in number)
        # pycocotools never counts the object whose annotation has the id 0 as found, and the sample of COCO has one.
        has_id_0 = any(segment.annotation_id == 0 for sample in part.dataset for segment in sample.segments)
        results["percent"] = {number: value for number, value in results["percent"].items() if not (has_id_0 and "instance" in number)}
        for number, value in results["percent"].items():
            if not any(word in number for word in OTHER):
                assert value == pytest.approx(0 if any(word in number for word in ZERO) else 100, abs=1e-6), (part.part.name, number)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_both_protocols_say_the_same_choices(name):
    choices = [choices_of(name, protocol, {}) for protocol in EVALUATION_PROTOCOLS]
    assert choices[0].keys() == choices[1].keys()


@pytest.mark.samples
@pytest.mark.parametrize("name", ["refcoco", "grefcoco", "coco_interactive", "pc459", "davis2017"])
def test_the_released_protocol_opens_too(name):
    assert all(len(part.dataset) for part in opened(name, "released"))


def test_parts_of_a_benchmark_have_names_of_their_own():
    for benchmark in BENCHMARKS.values():
        names = [part.name for part in benchmark.parts]
        assert len(set(names)) == len(names) and (len(names) == 1) == ("" in names)
