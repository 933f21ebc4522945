"""Held-out images: the same for every format and command, decided by the name alone; and splits that select nothing."""

import json
from pathlib import Path

import pytest

from psalm_hf.data import list_datasets, load
from psalm_hf.data.own.holdout import is_held_out, place_of
from tests.data.own.layouts import WRITERS, write_layout

FORMATS = [name for name in list_datasets() if name.startswith("own_")]
HOLDOUT = 0.3


def images(dataset):
    return {Path(sample.image).stem for sample in dataset}


def test_every_format_is_in_these_tests():
    assert list(WRITERS) == FORMATS


def test_a_place_is_a_number_that_follows_from_the_name():
    places = [place_of(f"images/{number}.png") for number in range(2000)]
    assert all(0 <= place < 1 for place in places) and len(set(places)) == 2000
    assert abs(sum(place < 0.1 for place in places) - 200) < 45  # three standard deviations and a little
    assert place_of("images/1.png") == place_of("./images/1.jpg") == place_of(r"images\1.json") != place_of("1.png")


def test_versions_that_roboflow_makes_of_an_image_are_on_one_side():
    assert len({place_of(f"train/cat_jpg.rf.{version}.jpg") for version in ("0a9f", "c0ffee")}) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_train_leaves_out_what_val_has_alone(name, tmp_path):
    options = write_layout(name, tmp_path / "data") | {"holdout": HOLDOUT, "cache_dir": tmp_path / "cache"}
    found = {split: load(name, split, tmp_path / "data", **options) for split in ("train", "val")}
    prefix = {"own_labelme": "", "own_yolo": "images/train/"}.get(name, "images/")
    expected = {str(number) for number in range(10) if is_held_out(f"{prefix}{number}.png", HOLDOUT)}
    assert images(found["val"]) == expected and images(found["train"]) == set(map(str, range(10))) - expected
    assert found["train"].categories == found["val"].categories and 0 < len(expected) < 10
    assert images(load(name, "val", tmp_path / "data", streaming=True, **options)) == expected


def test_images_that_come_later_leave_the_others_where_they_are(tmp_path):
    sides = []
    for number in (10, 20):
        write_layout("own_labelme", tmp_path / f"data{number}", number)
        held_out = load("own_labelme", "val", tmp_path / f"data{number}", holdout=HOLDOUT, cache_dir=tmp_path / "cache")
        sides.append(images(held_out) & set(map(str, range(10))))
    assert sides[0] == sides[1]


def test_a_line_without_an_image_is_for_training_and_a_broken_one_for_both(tmp_path):
    write_layout("own_jsonl", tmp_path / "data")
    talk = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello."}]
    with open(tmp_path / "data/train.jsonl", "a") as file:
        file.write("\n" + json.dumps({"conversation": talk}))
    options = {"holdout": HOLDOUT, "cache_dir": tmp_path / "cache"}
    conditions = {split: set(load("own_jsonl", split, tmp_path / "data", **options).rows["condition"]) for split in ("train", "val")}
    assert conditions == {"train": {"category", "sentence", "conversation"}, "val": {"category", "sentence"}}
    with open(tmp_path / "data/train.jsonl", "a") as file:
        file.write("\n{broken")
    for split in ("train", "val"):
        with pytest.raises(ValueError, match="train.jsonl, line 22: not JSON"):
            load("own_jsonl", split, tmp_path / "data", **options)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("holdout", "message"), [(0.0001, "holds out none of the 10 images; give a larger share, 0."), (0.9999, "all 10")])
def test_a_share_that_leaves_one_side_empty_is_refused_on_both(split, holdout, message, tmp_path):
    write_layout("own_labelme", tmp_path / "data")
    with pytest.raises(ValueError, match=f"own_labelme {split}: holdout={holdout} .*{message}"):
        load("own_labelme", split, tmp_path / "data", holdout=holdout, cache_dir=tmp_path / "cache")


def test_the_larger_share_that_is_named_holds_out_an_image(tmp_path):
    write_layout("own_labelme", tmp_path / "data")
    with pytest.raises(ValueError) as refused:
        load("own_labelme", "val", tmp_path / "data", holdout=0.0001, cache_dir=tmp_path / "cache")
    named = float(str(refused.value).split("a larger share, ")[1].split(",")[0])
    assert len(load("own_labelme", "val", tmp_path / "data", holdout=named, cache_dir=tmp_path / "cache")) >= 1


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("train", {"holdout": 10}, "holdout is a share of the images between 0 and 1, such as 0.1, got 10"),
        ("train", {"holdout": "0.1"}, "got '0.1'"),
        ("train", {"holdout": True}, "got True"),
        ("vall", {"holdout": 0.1}, "with holdout the splits are train and val, got 'vall'; did you mean val"),
        ("val", {}, "the split 'val' selects nothing, .* the same rows as 'train'; hold out .* holdout=0.1, or .* {split} in annotations"),
    ],
)
def test_a_split_that_selects_nothing_and_shares_that_are_none_are_refused(split, options, message, tmp_path):
    write_layout("own_labelme", tmp_path / "data")
    with pytest.raises(ValueError, match=f"own_labelme: .*{message}"):
        load("own_labelme", split, tmp_path / "data", cache_dir=tmp_path / "cache", **options)


@pytest.mark.parametrize(
    ("name", "options"), [("own_pairs", {}), ("own_coco", {"annotations": "all.json"}), ("own_jsonl", {"annotations": "all.jsonl"})]
)
def test_no_format_gives_the_same_rows_under_two_names_of_splits(name, options, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=f"{name}: the split 'val' selects nothing"):
        load(name, "val", tmp_path / "data", **options)
