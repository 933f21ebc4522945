"""The lists of names against the published ones, and how a list's names reach a prompt."""

import json
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import DATASETS, load
from psalm_hf.data.benchmarks.label_lists import RELEASED_RULES, NameRule, joined_names, label_list, lvis_frequencies
from psalm_hf.data.files import FileBuilder
from psalm_hf.tiny import build_tiny
from tests.conftest import SAMPLES

COUNTS = {
    "coco_panoptic": 133, "coco_semantic": 133, "coco_instance": 80, "ade20k": 150, "cityscapes": 19,
    "pc59": 59, "pc459": 459, "voc20": 20, "voc21": 21, "lvis": 1203,
}  # fmt: skip
# Dataset -> benchmark of its list.
DATASETS_OF = {
    "ade20k_semantic": "ade20k", "ade20k_panoptic": "ade20k", "ade20k_instance": "ade20k",
    "cityscapes_semantic": "cityscapes", "cityscapes_panoptic": "cityscapes", "cityscapes_instance": "cityscapes",
    "voc20": "voc20", "voc21": "voc21", "voc_instance": "voc20", "pc59": "pc59", "pc459": "pc459",
}  # fmt: skip


@pytest.fixture
def names_alone(tmp_path, monkeypatch):
    """A folder in which builders find names: the file of ADE20K's, and no other files, which they then must not look for."""
    monkeypatch.setattr(FileBuilder, "_fingerprint", lambda builder: "")
    lines = [f"{number}\t0.1\t1\t1\t{names[0]}, another" for number, names in enumerate(label_list("ade20k"), 1)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]), encoding="utf-8")
    return tmp_path


def categories_of(dataset, folder, **options):
    builder = DATASETS[dataset](cache_dir=str(folder), config_name=dataset, data_dir=str(folder), split="val", **options)
    return builder.read_categories()


@pytest.mark.parametrize("benchmark, count", COUNTS.items())
def test_every_category_has_a_name_of_its_own(benchmark, count):
    lists = label_list(benchmark)
    assert len(lists) == count == len({names[0] for names in lists}) == len(set(joined_names(benchmark)))
    assert all(name and name == name.strip() and name.isascii() for names in lists for name in names)


def test_categories_stand_in_the_order_of_the_benchmark():
    ends = {benchmark: (label_list(benchmark)[0][0], label_list(benchmark)[-1][0]) for benchmark in COUNTS}
    assert ends == {
        "coco_panoptic": ("person", "rug-merged"), "coco_semantic": ("person", "rug-merged"), "coco_instance": ("person", "toothbrush"),
        "ade20k": ("wall", "flag"), "cityscapes": ("road", "bicycle"), "pc59": ("aeroplane", "wood piece"), "pc459": ("accordion", "wool"),
        "voc20": ("aeroplane", "tvmonitor"), "voc21": ("background", "tvmonitor"), "lvis": ("aerosol can", "zucchini"),
    }  # fmt: skip
    assert label_list("ade20k")[12] == (
        *("person", "child", "girl", "boy", "woman", "man", "people", "children", "girls", "boys", "women", "men"),
    )


def test_a_benchmark_without_a_list_is_refused_with_those_that_have_one():
    with pytest.raises(ValueError, match="'ade' has no list of names, expected one of coco_panoptic, coco_semantic, coco_instance, ade20k"):
        label_list("ade")


def test_frequencies_belong_to_the_categories_of_lvis():
    frequency = dict(zip((names[0] for names in label_list("lvis")), lvis_frequencies(), strict=True))
    assert [frequency[name] for name in ("apple", "aerosol can", "applesauce")] == ["f", "c", "r"]
    assert [lvis_frequencies().count(letter) for letter in "rcf"] == [337, 461, 405]


def test_rules_of_the_released_evaluation():
    assert all(rule in get_args(NameRule) for rule in RELEASED_RULES.values())
    by_size = {benchmark: "synonyms" if COUNTS[benchmark] <= 200 else "first" for benchmark in RELEASED_RULES}
    assert RELEASED_RULES == by_size | {"cityscapes": "first"}


# The option of the builders.


@pytest.mark.parametrize("dataset, benchmark", DATASETS_OF.items())
def test_synonyms_are_the_line_of_the_list_and_change_nothing_but_names(dataset, benchmark, names_alone):
    own, joined = (categories_of(dataset, names_alone, names=rule) for rule in ("first", "synonyms"))
    assert own == categories_of(dataset, names_alone)
    assert [(category.id, category.is_thing) for category in own] == [(category.id, category.is_thing) for category in joined]
    lines = joined_names(benchmark)
    if dataset == "ade20k_instance":
        lines = [lines[category.id] for category in own]
    elif dataset == "cityscapes_instance":
        lines = lines[-8:]
    assert [category.name for category in joined] == lines


@pytest.mark.parametrize("dataset", DATASETS_OF)
def test_the_own_name_is_the_first_of_the_list(dataset, names_alone):
    pairs = zip(categories_of(dataset, names_alone), categories_of(dataset, names_alone, names="synonyms"), strict=True)
    others = {own.name: joined.name.split(",")[0] for own, joined in pairs if own.name != joined.name.split(",")[0]}
    assert others == ({"the background": "background"} if dataset == "voc21" else {})


@pytest.mark.parametrize("dataset", DATASETS_OF)
def test_another_rule_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match=f"{dataset}: unknown names 'all', expected one of first, synonyms"):
        categories_of(dataset, tmp_path, names="all")


def test_rows_that_were_made_under_one_rule_are_not_found_under_the_other(tmp_path):
    for kind, picture in (("images", "a.jpg"), ("annotations_ctx59", "a.png")):
        (tmp_path / kind / "validation").mkdir(parents=True)
        Image.fromarray(np.zeros((2, 3), dtype=np.uint8)).save(tmp_path / kind / "validation" / picture)
    for _ in range(2):
        for rule, name in (("first", "aeroplane"), ("synonyms", "aeroplane,aeroplanes,airplanes,airplane")):
            dataset = load("pc59", "val", tmp_path, cache_dir=tmp_path / "cache", names=rule)
            assert dataset.categories[0].name == name == dataset[0].categories[0]


# The prompt.


@pytest.mark.parametrize("benchmark", ["ade20k", "cityscapes", "voc21"])
def test_a_name_with_commas_is_one_category_of_the_prompt(benchmark):
    _, processor = build_tiny()
    names = joined_names(benchmark)
    assert any("," in name for name in names)
    inputs = processor(images=Image.new("RGB", (8, 8)), categories=names, max_length=10_000)
    (info,) = inputs.row_info
    assert info.conditions == (*names, "background")  # also where the first is a list that begins with "background"
    ids, conditions = inputs["input_ids"][0], inputs["condition_index"][0]
    for number, name in enumerate(info.conditions, 1):
        positions = (conditions == number).nonzero()[:, 0].tolist()
        assert positions == list(range(positions[0], positions[-1] + 1))  # one span, over which the embedding is the mean
        assert processor.tokenizer.decode(ids[positions]) == f"{name}[SEG]"


# The published lists.

samples = pytest.mark.samples


def published(file):
    lines = (SAMPLES / f"labels/{file}.txt").read_text(encoding="utf-8").splitlines()
    return [name for _, _, name in (line.partition(":") for line in lines) if name != "invalid_class_id"]


@samples
@pytest.mark.parametrize(
    "benchmark, file",
    [
        ("ade20k", "ade20k_150_names"),
        ("cityscapes", "cityscapes_names"),
        ("pc59", "pascal_ctx_59_names"),
        ("pc459", "pascal_ctx_459_names"),
        ("voc21", "pascal_voc_21_names"),
    ],
)
def test_lines_are_those_of_the_published_lists(benchmark, file):
    assert joined_names(benchmark) == published(file)


@samples
def test_names_of_coco_are_those_of_the_annotations_and_then_those_of_the_published_list():
    categories = json.loads((SAMPLES / "labels/panoptic_coco_categories.json").read_text(encoding="utf-8"))
    assert [names[0] for names in label_list("coco_panoptic")] == [category["name"] for category in categories]
    assert [names[0] for names in label_list("coco_instance")] == [category["name"] for category in categories if category["isthing"]]
    for names, line in zip(label_list("coco_panoptic"), published("coco_panoptic_names"), strict=True):
        assert list(names[1:]) == [name for name in line.split(",") if name != names[0]]


@samples
def test_names_and_frequencies_of_lvis_are_those_of_the_annotations():
    categories = json.loads((SAMPLES / "lvis/lvis_v1_val.json").read_text(encoding="utf-8"))["categories"]
    assert [category["id"] for category in categories] == list(range(1, 1204))
    assert list(lvis_frequencies()) == [category["frequency"] for category in categories]
    for category, names in zip(categories, label_list("lvis"), strict=True):
        assert names[0] == category["name"].replace("_", " ")
        assert set(names) == {name.replace("_", " ") for name in (category["name"], *category["synonyms"])}


@samples
def test_other_first_names_of_ade20k_are_those_that_the_page_lists(tmp_path):
    own = [category.name for category in categories_of("ade20k_panoptic", SAMPLES / "ADEChallengeData2016")]
    others = {name: names[0] for name, names in zip(own, label_list("ade20k"), strict=True) if name != names[0]}
    assert others == {
        "house": "house exterior", "base": "pedestal", "blind": "window screen", "palm": "palm tree", "light": "light bulb",
        "television": "television receiver", "pot": "plant pots", "screen": "projection screen", "hood": "exhaust hood",
        "fan": "ceiling fan", "glass": "cup",
    }  # fmt: skip
