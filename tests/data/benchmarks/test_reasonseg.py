"""ReasonSeg on a drawn folder; the dataset has no sample."""

import json

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle

SIZE = (6, 8)


def box(label, left, top, right, bottom):
    return {"label": label, "points": [[left, top], [right, top], [right, bottom], [left, bottom]]}


def pixels(left, top, right, bottom):
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[top:bottom, left:right] = True
    return bitmap


# A target with a part that is ignored and a target inside of that part; a small flag that counts for nothing.
SHAPES = [
    box("target", 3, 3, 4, 4),
    box("flag", 0, 0, 2, 2),
    box("Ignore_1", 2, 2, 6, 5),
    box("target", 1, 1, 7, 6),
]
TARGET = pixels(1, 1, 7, 6) & ~pixels(2, 2, 6, 5) | pixels(3, 3, 4, 4)
IGNORED = pixels(2, 2, 6, 5) & ~pixels(3, 3, 4, 4)


def annotate(root, name, content, encoding="utf-8"):
    root.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(root / f"{name}.jpg")
    (root / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)


def annotation(*texts, shapes=SHAPES, is_sentence=True):
    return {"text": list(texts), "is_sentence": is_sentence, "shapes": shapes}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "ReasonSeg"
    for split in ("train", "val"):
        annotate(root / split, "2_b", annotation("What keeps the rain off?", " ", "What can be opened in rain?"))
        annotate(root / split, "1.a", annotation("the odd one", shapes=[box("target", 0, 0, 3, 2)], is_sentence=False))
        annotate(root / split, "3", annotation("What is missing?", shapes=[box("ignore", 0, 0, 3, 2), box("flag", 0, 0, 2, 2)]))
    (root / "val/._2_b.json").write_text("left by macOS")
    return root


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]


def asked(dataset):
    return [(sample.image_id, sample.record_id, sample.expressions) for sample in dataset]


def test_a_row_per_text_and_small_polygons_over_large_ones(root, tmp_path):
    dataset = load("reasonseg", "val", root, cache_dir=tmp_path, check_images=True)
    assert asked(dataset) == [
        ("1.a", "1.a/0", ("the odd one",)),
        ("2_b", "2_b/0", ("What keeps the rain off?",)),
        ("2_b", "2_b/2", ("What can be opened in rain?",)),
        ("3", "3/0", ("What is missing?",)),
    ]
    assert np.array_equal(bitmaps(dataset[0]), [pixels(0, 0, 3, 2)])
    for sample in (dataset[1], dataset[2]):
        assert np.array_equal(bitmaps(sample), [TARGET, IGNORED])
        assert [segment.is_crowd for segment in sample.segments] == [False, True]
        assert sample.image == str(root / "val/2_b.jpg") and sample.image_size == SIZE
    assert [segment.is_crowd for segment in dataset[3].segments] == [True]
    assert dataset.rows["tags"][:] == [["short_query"], ["long_query"], ["long_query"], ["long_query"]]
    assert dataset.categories == ()


def test_merged_rows_have_all_texts_of_a_picture(root, tmp_path):
    dataset = load("reasonseg", "train", root, cache_dir=tmp_path, protocol="merged")
    assert asked(dataset) == [
        ("1.a", "1.a/0", ("the odd one",)),
        ("2_b", "2_b/0,2", ("What keeps the rain off?", "What can be opened in rain?")),
    ]


@pytest.mark.parametrize(
    "split, options, ids",
    [
        ("train", {}, ["1.a", "2_b", "2_b"]),
        ("train", {"keep_empty": True}, ["1.a", "2_b", "2_b", "3"]),
        ("val", {"keep_empty": False}, ["1.a", "2_b", "2_b"]),
    ],
)
def test_pictures_without_target_are_left_out_of_training(split, options, ids, root, tmp_path):
    assert [sample.image_id for sample in load("reasonseg", split, root, cache_dir=tmp_path, **options)] == ids


@pytest.mark.parametrize("labels, on_top", [(("target", "ignore"), "target"), (("ignore", "target"), "ignore")])
def test_of_two_polygons_of_one_area_the_first_of_the_file_lies_on_top(labels, on_top, root, tmp_path):
    annotate(root / "test", "x", annotation("the box", shapes=[box(label, 0, 0, 3, 2) for label in labels]))
    (segment,) = load("reasonseg", "test", root, cache_dir=tmp_path)[0].segments
    assert segment.is_crowd == (on_top == "ignore")


def test_a_target_that_is_painted_over_is_no_segment(root, tmp_path):
    annotate(root / "test", "x", annotation("the box", shapes=[box("ignore", 1, 1, 3, 2), box("target", 1, 1, 3, 2)]))
    assert [segment.is_crowd for segment in load("reasonseg", "test", root, cache_dir=tmp_path)[0].segments] == [True]


@pytest.mark.parametrize("points", [[[3, 2]], [[1, 1], [5, 4]]])
def test_a_shape_of_one_or_two_points_covers_no_pixel(points, root, tmp_path):
    line = {"label": "target", "points": points}
    for split in ("train", "test"):
        annotate(root / split, "x", annotation("a", shapes=[*SHAPES, line]))
        annotate(root / split, "y", annotation("a", shapes=[line, box("ignore", 0, 0, 3, 2)]))
    of_both, of_ignored = load("reasonseg", "test", root, cache_dir=tmp_path)
    assert np.array_equal(bitmaps(of_both), [TARGET, IGNORED])
    assert [segment.is_crowd for segment in of_ignored.segments] == [True]
    assert "x" in (ids := [sample.image_id for sample in load("reasonseg", "train", root, cache_dir=tmp_path)]) and "y" not in ids


def test_a_target_that_is_painted_over_is_not_trained_on(root, tmp_path):
    annotate(root / "train", "x", annotation("the box", shapes=[box("ignore", 1, 1, 3, 2), box("target", 1, 1, 3, 2)]))
    assert "x" not in [sample.image_id for sample in load("reasonseg", "train", root, cache_dir=tmp_path)]


@pytest.mark.parametrize("orientation, is_refused", [(1, False), (0, False), (3, True), (6, True)])
def test_a_picture_that_opencv_would_turn_is_refused(orientation, is_refused, root, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", SIZE[::-1]).save(root / "val/2_b.jpg", exif=exif)
    if is_refused:
        with pytest.raises(ValueError, match=f"val/2_b.json, text 0: image val/2_b.jpg has the EXIF orientation {orientation}: OpenCV"):
            load("reasonseg", "val", root, cache_dir=tmp_path)
    ids = [sample.image_id for sample in load("reasonseg", "val", root, cache_dir=tmp_path, on_error="skip")]
    assert ("2_b" in ids) != is_refused and "1.a" in ids


def test_files_that_were_written_on_windows_are_read(root, tmp_path):
    annotate(root / "test", "x", annotation("the caf\xe9\u2019s door"), encoding="cp1252")
    assert load("reasonseg", "test", root, cache_dir=tmp_path)[0].expressions == ("the caf\xe9\u2019s door",)


BROKEN = {
    "no shapes": ({"text": ["a"], "is_sentence": True}, "the field 'shapes' is missing"),
    "no text": ({"shapes": [], "is_sentence": True}, "the field 'text' is missing"),
    "no kind": ({"shapes": [], "text": ["a"]}, "the field 'is_sentence' is missing"),
    "one text": (annotation() | {"text": "a"}, "expected text as a list of texts, got 'a'"),
    "list": ([1], "expected shapes, text and is_sentence, got "),
    "shapes are a number": (annotation("a", shapes=5), "expected shapes as a list, got 5"),
    "no label": (annotation("a", shapes=[{"points": []}]), "shape 0: expected label and points"),
    "no corners": (annotation("a", shapes=[SHAPES[0], {"label": "target", "points": []}]), "text 0: shape 1: polygon 0"),
    "flat points": (annotation("a", shapes=[{"label": "target", "points": [0, 0, 3, 0, 3, 3]}]), r"shape 0: expected points \[x, y\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_annotation_is_named_or_left_out(case, root, tmp_path):
    content, message = BROKEN[case]
    annotate(root / "val", "2_b", content)
    with pytest.raises(ValueError, match=f"reasonseg val: val/2_b.json.*{message}.*docs page ReasonSeg"):
        load("reasonseg", "val", root, cache_dir=tmp_path)
    assert [sample.image_id for sample in load("reasonseg", "val", root, cache_dir=tmp_path, on_error="skip")] == ["1.a", "3"]


def test_what_is_missing_or_no_json_is_named(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="reasonseg test: there is no test in"):
        load("reasonseg", "test", root, cache_dir=tmp_path)
    (root / "val/2_b.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="reasonseg val: val/2_b.json: not a JSON file"):
        load("reasonseg", "val", root, cache_dir=tmp_path)
    (root / "val/2_b.json").unlink()
    with pytest.raises(ValueError, match="reasonseg val: val/2_b.json: there is no such file beside val/2_b.jpg; correct it, or leave"):
        load("reasonseg", "val", root, cache_dir=tmp_path)
    assert [sample.image_id for sample in load("reasonseg", "val", root, cache_dir=tmp_path, on_error="skip")] == ["1.a", "3"]
    (root / "train/2_b.jpg").unlink()
    with pytest.raises(ValueError, match="reasonseg train: train/2_b.json, text 0: image train/2_b.jpg does not exist"):
        load("reasonseg", "train", root, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="reasonseg: unknown protocol 'all', expected one of per_expression, merged"):
        load("reasonseg", "val", root, cache_dir=tmp_path, protocol="all")


def test_passes_ranks_and_processes_give_the_same_rows(root, tmp_path):
    stream = load("reasonseg", "val", root, cache_dir=tmp_path / "one", streaming=True).rows
    rows = list(stream)
    parts = [[row["record_id"] for row in split_dataset_by_node(stream, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == [row["record_id"] for row in rows]
    assert list(load("reasonseg", "val", root, cache_dir=tmp_path / "one").rows) == rows == list(stream)
    assert list(load("reasonseg", "val", root, cache_dir=tmp_path / "two", num_proc=2).rows) == rows
