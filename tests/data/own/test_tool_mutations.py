"""Files of tools with one thing changed at random: either the right samples come out, or an error that names file and record; and with
`on_error="skip"` the other records stay as they are, and what is left out is counted."""

import copy
import json
import math
import random
import re

import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.masks import area, bitmap_from_rle
from tests.data.own.test_label_studio import BRUSH, PAINTED, region, task
from tests.data.own.test_labelme import encode, shape

SIZE = (4, 6)
VALUES = [
    *(None, True, False, 0, -1, 3, 1.5, 1e308, -1e9, math.nan, math.inf, 2**63, 10**400),
    *("", " ", "1", "1.5", "x", "\ud83d", "a\0b", "../a.png", "C:\\a.png", "__ignore__", [], {}, [[]], [None], {"a": 1}, [0, 0, 1, 1]),
    json.loads("[" * 300 + "]" * 300),
]
# Words of Python about a value that somebody else wrote.
OWN_WORDS = re.compile(
    r"object (has|is|does)|not subscriptable|ufunc|iterable|unhashable|operand|argument|Traceback|dimension|invalid literal|unpack"
)


def polygon(*corners):
    return [float(value) for corner in corners for value in corner]


LABELME = {
    "version": "5.5.0",
    "flags": {"dark": False},
    "shapes": [
        shape("cup", [[0, 0], [3, 0], [3, 2], [0, 2]], "rectangle"),
        shape("cup", [[4, 0], [6, 0], [6, 2], [4, 2]], group_id=1, flags={"crowd": False}),
        shape("cup", [[4, 3], [6, 3], [6, 4], [4, 4]], group_id=1),
        shape("spot", [[0, 2], [1, 3]], "mask", mask=encode(Image.new("L", (2, 2), 255))),
    ],
    "imagePath": "b.png",
    "imageData": None,
    "imageHeight": 4,
    "imageWidth": 6,
}
JSONL = {
    "image": "b.png",
    "id": "b",
    "masks": [
        {"category": "cup", "mask": [polygon((0, 0), (3, 0), (3, 2), (0, 2))], "crowd": False},
        {"category": "cup", "mask": {"size": [4, 6], "counts": [12, 8, 4]}},
        {"category": "spot", "mask": "painted.png"},
    ],
}
LABEL_STUDIO = task(
    2,
    region("brush", "cup", format="rle", rle=BRUSH),
    region("polygon", "cup", points=[[0, 0], [50, 0], [50, 25], [0, 25]]),
    region("rectangle", "spot", x=0, y=75, width=50, height=25, rotation=0),
    image="b.png",
)
YOLO = "0 0 0 0.5 0 0.5 0.5 0 0.5\n1 0.5 0.5 1 0.5 1 1 0.5 1\n"


def write_labelme(root, changed):
    for name, content in (("a", {**LABELME, "imagePath": "a.png"}), ("b", changed), ("c", {**LABELME, "imagePath": "c.png"})):
        (root / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def write_jsonl(root, changed):
    records = [{**JSONL, "image": "a.png", "id": "a"}, changed, {**JSONL, "image": "c.png", "id": "c"}]
    (root / "train.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


def write_label_studio(root, changed):
    regions = LABEL_STUDIO["annotations"][0]["result"]
    tasks = [task(1, *regions, image="a.png"), changed, task(3, *regions, image="c.png")]
    (root / "train.json").write_text(json.dumps(tasks), encoding="utf-8")


def write_yolo(root, changed):
    (root / "data.yaml").write_text("names: [cup, spot]", encoding="utf-8")
    for folder in ("images", "labels"):
        (root / folder / "train").mkdir(parents=True, exist_ok=True)
    for name, text in (("a", YOLO), ("b", changed), ("c", YOLO)):
        (root / f"images/train/{name}.png").write_bytes((root / f"{name}.png").read_bytes())
        (root / f"labels/train/{name}.txt").write_text(text, encoding="utf-8")


FORMATS = {  # options, name of the record in messages
    "own_labelme": (LABELME, write_labelme, {"keep_empty": True}, "b.json"),
    "own_jsonl": (JSONL, write_jsonl, {}, "train.jsonl, line 2"),
    "own_label_studio": (LABEL_STUDIO, write_label_studio, {"keep_empty": True, "images": "."}, "train.json, "),
    "own_yolo": (YOLO, write_yolo, {"keep_empty": True}, "labels/train/b.txt"),
}


def places(content, path=()):
    """Paths of all values in JSON."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def mutate(content, draw):
    """A copy with one thing changed, its path, and the new value; "removed" if there is none."""
    if isinstance(content, str):  # numbers of a text, or the text itself
        words = content.split(" ")
        position = draw.randrange(len(words))
        word = draw.choice(["", "x", "-1", "1.5", "nan", "inf", "1e999", "0", "0.25", "7", "\n", "\0", "1_0", "0,5", "\u0663", "\ufeff"])
        return " ".join([*words[:position], word, *words[position + draw.randrange(2) :]]), ("points",), word
    changed = copy.deepcopy(content)
    path = draw.choice(list(places(changed)))
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if draw.random() < 0.2:
        del holder[path[-1]]
        return changed, path, "removed"
    value = holder[path[-1]]
    holder[path[-1]] = draw.choice([*VALUES, str(value), [value], {"a": value}])
    return changed, path, holder[path[-1]]


def described(sample):
    """Name -> union of its masks. That of a crowd is apart."""
    unions = {}
    for segment in sample.segments:
        key = sample.categories[segment.category_id], segment.is_crowd
        unions[key] = unions.get(key, np.zeros(SIZE, dtype=bool)) | bitmap_from_rle(segment.mask_rle)
    return {key: union.astype(int).tolist() for key, union in unions.items()}


def pixels(sample):
    return sum(area(segment.mask_rle) for segment in sample.segments)


def is_right(sample, clean, path, value):
    """True if a sample may come out of a changed file, whose other samples are as `clean`."""
    found, expected = described(sample), described(clean)
    if found == expected:
        return True
    place, last = [part for part in path if isinstance(part, str)], path[-1]
    if last in ("label", "category") or any(part.endswith("labels") for part in place):
        return isinstance(value, str)
    if {"points", "mask", "rle", "value"} & set(place) and last != "shape_type":  # another number, or one corner less
        return value == "removed" or type(value) in (int, float) or (isinstance(value, str) and "points" in place)
    if last in ("shapes", "masks", "result", "annotations"):
        return value == []
    if isinstance(last, int) or (last == "was_cancelled" and value):
        return value == "removed" or value is not None
    return last == "crowd" and value is True


def samples_of(name, root, cache, **options):
    return {
        sample.image_id.removeprefix("images/train/")[0]: sample
        for sample in load(name, "train", root, cache_dir=cache, streaming=True, **options)
    }


def check_mutations(name, seeds, tmp_path, capsys):
    content, write, options, record = FORMATS[name]
    root = tmp_path / "set"
    root.mkdir()
    for image in "abc":
        Image.new("RGB", SIZE[::-1]).save(root / f"{image}.png")
    Image.fromarray(PAINTED * np.uint8(255)).save(root / "painted.png")
    write(root, content)
    clean = samples_of(name, root, tmp_path, **options)
    assert clean.keys() == set("abc") and all(len(sample.segments) > 1 for sample in clean.values())
    refused = 0
    for seed in seeds:
        changed, path, value = mutate(content, random.Random(seed))
        write(root, changed)
        where, error = f"seed {seed}: {path} = {value!r:.60}", None
        try:
            found = samples_of(name, root, tmp_path, **options)
        except ValueError as caught:  # any other type fails the test
            error, refused = str(caught), refused + 1
            assert re.match(f"{name} train: {re.escape(record)}", error) and error.endswith("see the docs page Own data"), (where, error)
            assert not OWN_WORDS.search(error), (where, error)
        else:
            assert "b" not in found or is_right(found["b"], clean["b"], path, value), where
        capsys.readouterr()
        kept = samples_of(name, root, tmp_path, on_error="skip", **options)
        printed = capsys.readouterr().err
        assert (error is None) == (printed == ""), (where, error, printed)
        assert error is None or re.search(r"1 of [123] records are broken and left out|[12] broken objects are left out", printed), where
        for image in "ac":
            assert described(kept[image]) == described(clean[image]), where
        if error is not None and "b" in kept:  # without its broken object
            assert pixels(kept["b"]) < pixels(clean["b"]), where
    return refused


@pytest.mark.parametrize("name", FORMATS)
def test_a_changed_file_is_right_or_named(name, tmp_path, capsys):
    assert check_mutations(name, range(25), tmp_path, capsys) > 8


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_thousands_of_changed_files_are_right_or_named(name, tmp_path, capsys):
    assert check_mutations(name, range(25, 725), tmp_path, capsys) > 200
