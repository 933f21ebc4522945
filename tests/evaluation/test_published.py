"""The paper's numbers, typed once more by hand."""

import math

import pytest

from psalm_hf.data import DATASETS
from psalm_hf.evaluation.benchmarks import BENCHMARKS


def published(benchmark, *split):
    return BENCHMARKS[benchmark].published_for(*split)


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        (("coco_panoptic", "val"), {"panoptic PQ": 55.9}),
        (("coco_instance", "val"), {"instance AP": 45.7}),
        (("coco_semantic", "val"), {"semantic mIoU": 66.6}),
        (("refcoco", "testB"), {"referring cIoU": 81.6}),
        (("refcoco+", "testA"), {"referring cIoU": 75.5}),
        (("refcocog", "test"), {"referring cIoU": 74.4}),
        (("grefcoco", "testA"), {"referring cIoU": 52.4}),
        (("ade20k", "val"), {"panoptic PQ": 13.7, "instance AP": 9.0, "semantic mIoU": 18.2}),
        (("cityscapes", "val"), {"panoptic PQ": 28.8}),
        (("pc59", "val"), {"semantic mIoU": 48.5}),
        (("voc20", "val"), {"semantic mIoU": 81.3}),
        (("davis2017", "val"), {"region J&F": 68.8, "region J-Mean": 65.9, "region F-Mean": 71.7}),
        (("ego_exo4d", "val", "ego2exo"), {"region IoU": 7.9}),
        (("ego_exo4d", "val", "exo2ego"), {"region IoU": 9.6}),
        (("vqav2", "test_dev"), {"text accuracy": 62.3}),
        (("scienceqa", "test"), {"text accuracy, context image": 64.9}),
        (("mmbench", "dev"), {"text accuracy": 52.5}),
        (("pope", "all"), {"text F1, mean of files": 80.3}),
    ],
)
def test_the_numbers_are_those_of_the_paper(key, numbers):
    assert published(*key).numbers == numbers


def test_every_kind_of_prompt_has_its_own_numbers():
    numbers = published("coco_interactive", "val").numbers
    assert [numbers[f"region mIoU, {kind}"] for kind in ("point", "scribble", "box", "mask")] == [64.3, 66.9, 67.3, 67.6]
    assert [numbers[f"region cIoU, {kind}"] for kind in ("point", "scribble", "box", "mask")] == [74.0, 80.0, 80.9, 82.4]


def test_comparisons_are_the_rows_of_the_paper():
    xmem, omg, *_ = published("davis2017", "val").comparisons
    assert (xmem.method, xmem.numbers) == ("XMem", {"region J&F": 87.7, "region J-Mean": 84.0, "region F-Mean": 91.4})
    assert omg.numbers == {"region J&F": 76.9}
    exo = {(row.method, row.details): row.numbers["region IoU"] for row in published("ego_exo4d", "val", "exo2ego").comparisons}
    assert exo[("XMem", "zero-shot; test split")] == 21.8 and exo[("XSegTx", "trained on it; test split")] == 43.8
    pope = {row.method: row.numbers["text F1, mean of files"] for row in published("pope", "all").comparisons}
    assert pope == {"BLIP-2": 85.3, "InstructBLIP": 36.0, "LLaVA-1.5": 85.9}
    vqa = {row.method: row.numbers["text accuracy"] for row in published("vqav2", "test_dev").comparisons}
    assert vqa == {"OpenFlamingo": 51.8, "Kosmos-2": 51.1, "BLIP-2": 41.0, "IDEFICS": 50.9, "LLaVA-1.5": 78.5, "LISA": 0.12}


@pytest.mark.parametrize(
    "key", [("pc459", "val"), ("voc21", "val"), ("lvis", "val"), ("reasonseg", "test"), ("refcoco", "train"), ("pope", "random")]
)
def test_nothing_is_told_where_the_paper_says_nothing(key):
    assert published(*key) is None


def test_a_correspondence_needs_its_direction():
    assert published("ego_exo4d", "val") is None


def test_every_entry_belongs_to_a_split_of_a_benchmark_and_says_how_it_was_measured():
    entries = [(row, place, entry) for row in BENCHMARKS.values() for place, entry in row.published.items()]
    assert len(entries) == 26
    for row, place, entry in entries:
        split = place.partition(" ")[0]
        assert split == row.split or all(split in DATASETS[part.dataset].splits for part in row.parts)
        assert entry.protocol
        names = set(entry.numbers)
        for numbers in (entry.numbers, *(other.numbers for other in entry.comparisons)):
            assert numbers and set(numbers) <= names
            assert all(math.isfinite(value) and 0 < value < 100 for value in numbers.values())
