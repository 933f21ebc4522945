"""What the formats for own data share: files of category names, names of splits; and the examples of docs/own_data.md, which run."""

import re
from dataclasses import fields
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import list_datasets, load
from psalm_hf.data.features import SplitConfig
from psalm_hf.data.own.config import OwnConfig
from psalm_hf.masks import bitmap_from_rle
from tests.data.own.layouts import write_layout

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
SIZE = (4, 6)
NAMES = ("own_coco", "own_pairs", "own_labelme", "own_jsonl", "own_yolo", "own_label_studio")


def draw(path, values=None):
    """A picture of one colour, or a grey one with these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", SIZE[::-1], (90, 0, 0)) if values is None else Image.fromarray(np.asarray(values, dtype=np.uint8))
    picture.save(path)


# pictures that a section of the page has in its tree: path -> values of a mask, None for a photograph
LABELS = [[0, 0, 1, 1, 2, 255]] * 4
PICTURES = {
    "own_coco": {"images/cups.png": None},
    "own_pairs": {"images/street.jpg": None, "masks/street.png": LABELS, "masks_numbered/street.png": [[0, 1, 7, 7, 8, 255]] * 4},
    "own_labelme": {"kitchen.png": None},
    "own_jsonl": {"images/desk.png": None, "masks/lamp.png": [[0, 9, 0, 0, 0, 255]] * 4},
    "own_yolo": {"images/train/desk.png": None},
    "own_label_studio": {"images/desk.png": None},
}


@pytest.fixture
def section(tmp_path, request):
    """Text of a section, whose files lie in tmp_path/mydata as they stand there."""
    name = request.param
    text = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE, flags=re.S | re.M).group(1)
    files = re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```$", text, flags=re.S | re.M)
    assert files
    for path, content in files:
        (tmp_path / "mydata" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mydata" / path).write_text(content, encoding="utf-8")
    for path, values in PICTURES[name].items():
        draw(tmp_path / "mydata" / path, values)
    return text


@pytest.mark.parametrize("section", NAMES, indirect=True)
def test_the_examples_of_the_page_run(section, tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, flags=re.S | re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    exec(code, {})


@pytest.mark.parametrize("section", NAMES, indirect=True)
def test_the_page_lists_the_options_with_their_defaults(section, request):
    name = request.node.callspec.params["section"]
    builder = list_datasets()[name]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \| .* \|$", section.split("| option |")[1], flags=re.M)
    options = {option for names, _ in rows for option in re.findall(r"`(\w+)`", names)}
    shared = set(re.findall(r"`(\w+)`", PAGE.split("| option of all formats |")[1].split("\n\n")[0]))
    assert {field.name for field in fields(OwnConfig)} - {field.name for field in fields(SplitConfig)} <= shared
    assert options == set(builder.options()) - shared
    defaults = {field.name: field.default for field in builder.BUILDER_CONFIG_CLASS.__dataclass_fields__.values()}
    for names, default in rows:
        for option in re.findall(r"`(\w+)`", names):
            tree = re.search(rf'option {option}, default ("[^"]*"|None)', section)
            shown = tree.group(1).strip('"') if default == "see above" and tree else default.strip("`")
            assert shown in (str(defaults[option]), "see above"), option


def test_a_file_of_categories_is_text_or_json(tmp_path):
    def categories(name, content):
        (tmp_path / name).write_text(content, encoding="utf-8")
        return load("own_pairs", "train", tmp_path, cache_dir=tmp_path / "cache", categories=name, ignore=list(range(256))).categories

    draw(tmp_path / "images/a.jpg")
    draw(tmp_path / "masks/a.png", np.zeros(SIZE))
    found = {
        "plain": categories("a.txt", "road\r\n\r\n  traffic light \n"),
        "mark": categories("b.txt", "\ufeffroad\n\ntraffic light\n"),
        "given": categories("c.txt", "0\troad\n2\ttraffic light"),
        "entries": categories("d.json", '[{"id": 0, "name": "road"}, {"id": 2, "name": "traffic light"}]'),
    }
    for listed in found.values():
        assert [(entry.id, entry.name, entry.is_thing) for entry in listed] == [(0, "road", True), (2, "traffic light", True)]
    listed = categories("e.json", '["wall", "cup"]')
    assert [(entry.id, entry.name) for entry in listed] == [(0, "wall"), (1, "cup")]
    listed = categories("f.json", '[{"id": 5, "name": "wall", "isthing": 0}]')
    assert [(entry.id, entry.is_thing) for entry in listed] == [(5, False)]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "road\ncar\nroad\n", "the name 'road' is given twice"),
        ("a.txt", "1\troad\n1\tcar\n", "the id 1 is given twice"),
        ("a.txt", "road\none\tcar\n", "line 2: expected a whole number before the tab, got 'one'"),
        ("a.txt", "\n\n", "no categories"),
        ("a.json", '[{"id": "1", "name": "road"}]', "entry 0: expected a whole number as id and a name, got '1' and 'road'"),
        ("a.json", '["road", " "]', "entry 1: expected a whole number as id and a name"),
        ("a.json", '[{"id": 1}]', "the field 'name' is missing"),
        ("a.json", "[", "is not a JSON file"),
        ("a.json", "7", "not iterable"),
        ("a.txt", "Background\nroad\n", "a category is named 'background', which in prompts means"),
    ],
)
def test_a_wrong_file_of_categories_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    draw(tmp_path / "images/a.jpg")
    draw(tmp_path / "masks/a.png", np.zeros(SIZE))
    with pytest.raises(ValueError, match=f"own_pairs train: {name}: .*{message}.*; see the docs page Own data"):
        load("own_pairs", "train", tmp_path, cache_dir=tmp_path / "cache", categories=name)


@pytest.mark.parametrize("split", ["train", "week_2", "2024"])
@pytest.mark.parametrize("section", ["own_jsonl"], indirect=True)
def test_a_split_may_have_any_name_that_is_a_word(section, split, tmp_path):
    (tmp_path / "mydata/train.jsonl").rename(tmp_path / f"mydata/{split}.jsonl")
    dataset = load("own_jsonl", split, tmp_path / "mydata", cache_dir=tmp_path / "cache")
    assert len(dataset) == 6 and bitmap_from_rle(dataset[0].segments[0].mask_rle)[:, 1].all()


@pytest.mark.parametrize("split", ["val-2", "all", "train[:2]"])
def test_other_names_of_splits_are_refused(split, tmp_path):
    with pytest.raises(
        ValueError, match=r"own_jsonl: the name of a split has letters, digits and _ alone, and is not 'all', got '" + re.escape(split)
    ):
        load("own_jsonl", split, tmp_path)


@pytest.mark.parametrize("given", ["cup,ball", ["cup", "ball"]])
def test_names_of_categories_are_in_a_file_and_not_in_the_option(given, tmp_path):
    with pytest.raises(ValueError, match="own_labelme: categories is the path of a file that has one name per line, got .*cup"):
        load("own_labelme", "train", tmp_path, categories=given)


@pytest.mark.parametrize("name", ["own_coco", "own_jsonl"])
def test_a_folder_in_place_of_a_file_and_the_other_way_round(name, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"{name} train: .*here is a folder; give the file"):
        load(name, "train", tmp_path, annotations="here", cache_dir=tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match=f"{name} train: .*file is a file, not a folder; give the one that holds"):
        load(name, "train", tmp_path / "file", cache_dir=tmp_path / "cache")


def test_the_table_says_any_split():
    lines = {line.split()[0]: line for line in str(list_datasets()).splitlines()}
    assert all(lines[name].split()[1] == "any" for name in NAMES)


def test_options_are_checked(tmp_path):
    for name, options, message in (
        ("own_labelme", {"task": "boxes"}, "own_labelme: unknown task 'boxes', expected one of panoptic, semantic, instance"),
        ("own_jsonl", {"task": "boxes"}, "own_jsonl: unknown task 'boxes', expected one of panoptic, semantic, instance"),
        ("own_labelme", {"skip_shapes": "point"}, "own_labelme: skip_shapes is a list of types, got 'point'"),
        ("own_labelme", {"skip_shapes": ["dot"]}, "own_labelme: unknown skip_shapes dot, expected some of polygon, "),
        ("own_pairs", {"ignore": "255"}, "own_pairs: ignore must be a pixel value, a list of them or None, got '255'"),
    ):
        with pytest.raises(ValueError, match=message):
            load(name, "train", tmp_path, **options)


def test_files_of_val_may_be_called_valid_as_roboflow_does(tmp_path):
    write_layout("own_coco", tmp_path / "coco", 2)
    write_layout("own_pairs", tmp_path / "pairs", 2)
    (tmp_path / "coco/annotations/train.json").rename(tmp_path / "coco/annotations/valid.json")
    (tmp_path / "coco/images").rename(tmp_path / "coco/valid")
    for name in ("images", "masks"):
        (tmp_path / "pairs" / name).rename(tmp_path / "pairs/moved")
        (tmp_path / "pairs" / name).mkdir()
        (tmp_path / "pairs/moved").rename(tmp_path / "pairs" / name / "valid")
    cache = {"cache_dir": tmp_path / "cache"}
    assert len(load("own_coco", "val", tmp_path / "coco", images="{split}", **cache)) == 2
    paths = {"images": "images/{split}", "masks": "masks/{split}"}
    assert len(load("own_pairs", "val", tmp_path / "pairs", **paths, ignore=0, **cache)) == 2
    (tmp_path / "coco/annotations/val.json").write_text("{}", encoding="utf-8")  # a file of its own is taken
    with pytest.raises(ValueError, match="annotations/val.json"):
        load("own_coco", "val", tmp_path / "coco", images="{split}", **cache)


@pytest.mark.parametrize("name", ["own_pairs", "own_labelme", "own_jsonl", "own_yolo", "own_label_studio"])
def test_files_of_categories_may_differ_by_split(name, tmp_path):
    options = write_layout(name, tmp_path / "data", 2)
    number = 0 if name == "own_yolo" else 1
    lines = [f"{number}\tred square", f"{number + 1}\tgreen square", "7\tof train"]
    (tmp_path / "data/names_train.txt").write_text("\n".join(lines), encoding="utf-8")
    dataset = load(name, "train", tmp_path / "data", cache_dir=tmp_path / "cache", **{**options, "categories": "names_{split}.txt"})
    assert [category.name for category in dataset.categories] == ["red square", "green square", "of train"] and len(dataset)
