"""Every dataset of files, on its real sample: the same rows twice, as a stream over two ranks, from two processes, and as a batch."""

import pytest
from datasets.distributed import split_dataset_by_node

from psalm_hf.data import DATASETS, load
from psalm_hf.data.collator import PsalmCollator
from psalm_hf.data.features import SampleDataset
from psalm_hf.tiny import build_tiny
from tests.conftest import SAMPLES

pytestmark = pytest.mark.samples

# Dataset, split, folder of the sample, options. Own data has no sample: tests/data/test_own_data.py draws some.
CASES = [
    ("coco_panoptic", "val", "coco", {}),
    ("coco_instance", "train", "coco", {}),
    ("coco_semantic", "val", "coco", {}),
    ("coco_interactive", "val", "coco", {"kind": "scribble"}),
    ("refcoco", "val", "refer_seg", {}),
    ("refcoco+", "testB", "refer_seg", {}),
    ("refcocog", "val", "refer_seg", {"protocol": "merged"}),
    ("grefcoco", "train", "refer_seg", {}),
    ("lvis", "val", ".", {}),
    ("ade20k_semantic", "val", "ADEChallengeData2016", {}),
    ("ade20k_instance", "train", "ADEChallengeData2016", {}),
    ("ade20k_panoptic", "val", "ADEChallengeData2016", {}),
    ("cityscapes_semantic", "train", "cityscapes", {}),
    ("cityscapes_instance", "train", "cityscapes", {}),
    ("cityscapes_panoptic", "val", "cityscapes", {}),
    ("voc20", "val", "VOCdevkit", {}),
    ("voc21", "val", "VOCdevkit", {}),
    ("voc_instance", "val", "VOCdevkit", {}),
    ("pc59", "val", "pascal_ctx_d2", {}),
    ("pc459", "val", "pascal_ctx_d2", {}),
    ("davis2017", "val", "DAVIS", {}),
    ("ego_exo4d", "val", "egoexo4d", {}),
    ("llava_mix665k", "train", ".", {}),
    ("llava_pretrain_558k", "train", "llava_pretrain", {}),
    ("llava_pretrain_595k", "train", "llava_pretrain_cc3m", {}),
    ("vqav2", "val", "vqav2", {}),
    ("scienceqa", "test", "scienceqa", {}),
    ("mmbench", "dev", "mmbench", {"language": "en"}),
    ("pope", "random", ".", {"file": "pope/coco_pope_bundle_val2017.json", "image_folder": "coco/val2017"}),
]


@pytest.fixture(scope="module")
def collator():
    processor = build_tiny()[1]
    processor.max_length = 100_000  # its tokenizer has a token per byte
    return PsalmCollator(processor)


def test_no_dataset_of_files_is_left_out():
    without_sample = {"reasonseg"} | {name for name in DATASETS if name.startswith("own_")}
    assert {case[0] for case in CASES} | without_sample == {name for name, entry in DATASETS.items() if entry.needs_files}


@pytest.mark.parametrize(("name", "split", "folder", "options"), CASES, ids=[case[0] for case in CASES])
def test_rows_are_the_same_however_they_are_read(name, split, folder, options, tmp_path, collator):
    if not (SAMPLES / folder).is_dir():
        pytest.skip(f"{SAMPLES / folder} is absent")
    dataset = load(name, split, SAMPLES / folder, cache_dir=tmp_path / "one", **options)
    samples = list(dataset)
    assert samples == list(dataset)  # nothing is mapped, and mapped again: ids stay those of the dataset

    two = load(name, split, SAMPLES / folder, cache_dir=tmp_path / "two", num_proc=2, **options)
    assert list(two) == samples

    ranks = []
    for rank in range(2):
        stream = load(name, split, SAMPLES / folder, cache_dir=tmp_path / "one", streaming=True, **options)
        ranks.append(list(SampleDataset(split_dataset_by_node(stream.rows, rank, 2), stream.categories, stream.task)))
    assert abs(len(ranks[0]) - len(ranks[1])) <= max(1, len(samples) // 2)
    found = [sample for rank in ranks for sample in rank]
    assert len(found) == len(samples) and all(sample in found for sample in samples)

    with_targets = [sample for sample in samples if all(region.segment is not None for region in sample.regions)]
    batch = collator(with_targets[:1])
    assert len(batch["input_ids"]) == 1
