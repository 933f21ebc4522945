"""JSON lines: all prompts and all forms of masks on a drawn picture, broken lines, and real COCO objects written as lines."""

import json

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap, uncompress_rle
from tests.conftest import SAMPLES

SIZE = (4, 6)
CORNER = np.zeros(SIZE, dtype=bool)
CORNER[:2, :3] = True
POLYGONS = [[0, 0, 3, 0, 3, 2, 0, 2]]
FORMS = {"polygons": POLYGONS, "RLE": rle_from_bitmap(CORNER), "runs": uncompress_rle(rle_from_bitmap(CORNER)), "PNG": "masks/corner.png"}
TALK = [{"role": "user", "content": "Is the lamp on?"}, {"role": "assistant", "content": "Yes."}]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "desk"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", SIZE[::-1]).save(root / "images/a.png")
    Image.fromarray(CORNER * np.uint8(7)).save(root / "masks/corner.png")
    Image.fromarray(CORNER * np.uint8(255)).save(root / "masks/corner.jpg")
    return root


def write(root, *lines, name="train.jsonl"):
    """Lines as they are, if they are text, else as JSON."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (root / name).write_text(text, encoding="utf-8")


def line(**fields):
    return {"image": "images/a.png", **fields}


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_may_have_any_form(form, root, tmp_path):
    mask = FORMS[form]
    write(
        root,
        line(masks=[{"category": "lamp", "mask": mask, "crowd": True}]),
        line(categories=["lamp"], masks=[mask]),
        line(text="the lamp", masks=[mask]),
    )
    dataset = load("own_jsonl", "train", root, cache_dir=tmp_path)
    assert all(np.array_equal(bitmaps(sample), [CORNER]) for sample in dataset)
    assert [sample.segments[0].category_id for sample in dataset] == [1, 1, None]
    assert [sample.segments[0].is_crowd for sample in dataset] == [True, False, False]


def test_a_mask_in_colours_has_what_is_not_black(root, tmp_path):
    Image.fromarray(np.stack([CORNER * 0, CORNER * 0, CORNER * 9], axis=-1).astype(np.uint8)).save(root / "masks/blue.png")
    write(root, line(text="the lamp", masks=["masks/blue.png"]))
    assert np.array_equal(bitmaps(load("own_jsonl", "train", root, cache_dir=tmp_path)[0]), [CORNER])


def test_what_is_transparent_in_a_mask_is_not_part_of_it(root, tmp_path):
    white = np.full((*SIZE, 4), 255, dtype=np.uint8)
    white[..., 3] = CORNER
    Image.fromarray(white).save(root / "masks/white.png")
    write(root, line(text="the lamp", masks=["masks/white.png"]))
    assert np.array_equal(bitmaps(load("own_jsonl", "train", root, cache_dir=tmp_path)[0]), [CORNER])


def test_of_a_mask_with_a_palette_the_colour_counts(root, tmp_path):
    painted = Image.fromarray(CORNER.astype(np.uint8)).convert("P")
    for palette, expected in (([0, 0, 0, 0, 0, 200], CORNER), ([255, 255, 255, 0, 0, 0], ~CORNER)):
        painted.putpalette(palette)
        painted.save(root / "masks/palette.png")
        write(root, line(text="the lamp", masks=["masks/palette.png"]))
        assert np.array_equal(bitmaps(load("own_jsonl", "train", root, cache_dir=tmp_path)[0]), [expected])


@pytest.mark.parametrize("ending", ["tif", "bmp"])
def test_masks_of_other_formats_without_loss_are_read_and_read_again(ending, root, tmp_path):
    write(root, line(text="the lamp", masks=[f"masks\\b.{ending}"]))
    for bitmap in (CORNER, ~CORNER):
        Image.fromarray(bitmap * np.uint8(255)).save(root / f"masks/b.{ending}")
        assert np.array_equal(bitmaps(load("own_jsonl", "train", root, cache_dir=tmp_path)[0]), [bitmap])


def test_a_broken_mask_costs_the_object_alone_but_an_expression_means_all_of_its_masks(root, tmp_path, capsys):
    good, bad = {"category": "lamp", "mask": POLYGONS}, {"category": "pen", "mask": [[1, 2]]}
    write(root, line(masks=[good, bad, good]), line(text="the lamps", masks=[POLYGONS, [[1, 2]]]), line(masks=[bad]))
    dataset = load("own_jsonl", "train", root, cache_dir=tmp_path, on_error="skip")
    assert [len(sample.segments) for sample in dataset] == [2]
    printed = capsys.readouterr().err
    assert "2 of 3 records are broken and left out, the first: own_jsonl train: train.jsonl, line 2: mask 1: polygon 0" in printed
    assert "1 broken objects are left out of records that are kept, the first: own_jsonl train: train.jsonl, line 1: mask 1" in printed


def test_null_is_the_same_as_no_key(root, tmp_path):
    write(root, line(masks=[{"category": "lamp", "mask": POLYGONS}], text=None, conversation=None, categories=None, id=None))
    assert [sample.record_id for sample in load("own_jsonl", "train", root, cache_dir=tmp_path)] == ["1"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_lines_and_names_may_have_the_encodings_of_windows(encoding, root, tmp_path):
    (root / "names.txt").write_text("gr\xfcn\n\nblau\n", encoding=encoding)
    (root / "train.jsonl").write_text(json.dumps(line(categories=["blau"], masks=[POLYGONS])) + "\r\n", encoding=encoding)
    dataset = load("own_jsonl", "train", root, cache_dir=tmp_path, categories="names.txt")
    assert dict(dataset[0].categories) == {0: "gr\xfcn", 2: "blau"} and dataset[0].segments[0].category_id == 2


def test_every_line_is_a_sample_with_its_prompt(root, tmp_path):
    write(
        root,
        line(text=["the lamp", "what gives light"], masks=[POLYGONS, POLYGONS], id="lamp-1"),
        "",
        line(text="a dragon", masks=[]),
        line(conversation=TALK),
        {"conversation": TALK, "id": 12},
        line(masks=[]),
        line(masks=[{"category": "pen", "mask": POLYGONS}, {"category": "lamp", "mask": POLYGONS}]),
    )
    dataset = load("own_jsonl", "train", root, cache_dir=tmp_path)
    assert [sample.condition for sample in dataset] == ["sentence", "sentence", "conversation", "conversation", "category", "category"]
    assert [sample.record_id for sample in dataset] == ["lamp-1", "3", "4", "12", "6", "7"]  # the blank line counts
    assert [sample.image_id for sample in dataset] == ["images/a.png"] * 3 + ["12"] + ["images/a.png"] * 2
    assert dataset[0].expressions == ("the lamp", "what gives light") and len(dataset[0].segments) == 2
    assert dataset[1].segments == dataset[4].segments == () and dataset[2].conversation == tuple(TALK)
    assert dataset[3].image is None and dataset[3].image_size is None
    assert dict(dataset[4].categories) == {1: "pen", 2: "lamp"}  # in the order in which they appear
    assert dataset.task == "instance" and load("own_jsonl", "train", root, cache_dir=tmp_path, task="panoptic")[5].task == "panoptic"


def test_captions_and_the_place_of_the_image_are_taken(root, tmp_path):
    asked = [{"role": "user", "content": "<image> What is it?"}, TALK[1]]
    write(root, line(conversation=TALK[1:]), line(conversation=asked))
    dataset = load("own_jsonl", "train", root, cache_dir=tmp_path)
    assert dataset[0].conversation == tuple(TALK[1:]) and dataset[1].conversation == tuple(asked)


def test_a_file_of_categories_gives_the_ids(root, tmp_path):
    (root / "names.txt").write_text("pen\nlamp\n", encoding="utf-8")
    write(root, line(categories=["lamp"], masks=[POLYGONS]))
    options = {"categories": "names.txt", "cache_dir": tmp_path}
    dataset = load("own_jsonl", "train", root, **options)
    assert dataset[0].segments[0].category_id == 1 and dict(dataset[0].categories) == {0: "pen", 1: "lamp"}
    write(root, line(categories=["lmap"], masks=[POLYGONS]))
    with pytest.raises(ValueError, match="train.jsonl, line 1: mask 0: the category 'lmap' is not in names.txt"):
        load("own_jsonl", "train", root, **options)


BROKEN = {
    "not JSON": ('{"image": "a.png", text: 1}', r"not JSON \(.*, column 20\)"),
    "no object": ("[1]", r"expected an object \{...\}, got \[1\]"),
    "no picture": ({"text": "x", "masks": []}, "the field 'image' is missing"),
    "lost picture": ({"image": "images/z.png", "text": "x", "masks": []}, "image images/z.png does not exist"),
    "outside": ({"image": "../a.png", "text": "x", "masks": []}, "path '../a.png' leaves the data folder"),
    "two prompts": (
        line(text="x", conversation=TALK, masks=[]),
        "expected one of text, conversation, categories, got text and conversation",
    ),
    "no masks": (line(text="x"), "the field 'masks' is missing"),
    "text": (line(text=7, masks=[]), "text: expected an expression or a list of them, got 7"),
    "no text": (line(text=[], masks=[]), r"text: expected an expression or a list of them, got \[\]"),
    "blank text": (line(text=" ", masks=[]), "a category name or expression is blank"),
    "names": (line(categories=["a", "b"], masks=[POLYGONS]), "2 categories, but 1 masks"),
    "no category": (line(masks=[POLYGONS]), r"mask 0: expected \{'category': name, 'mask': ...\}"),
    "blank category": (line(masks=[{"category": "", "mask": POLYGONS}]), "mask 0: the category '' is not in train.jsonl"),
    "polygon": (line(text="x", masks=[POLYGONS, [[0, 0, 1, 1]]]), "mask 1: polygon 0: expected finite x, y of at least 3 corners"),
    "flat polygon": (line(text="x", masks=[[0, 0, 1, 1, 2, 2]]), "mask 0: polygon 0: "),
    "size": (line(text="x", masks=[{"size": [6, 4], "counts": [24]}]), r"mask 0: the mask is of size \[6, 4\]"),
    "runs": (line(text="x", masks=[{"size": [4, 6], "counts": [23]}]), "mask 0: mask: the runs of the RLE cover 23 pixels"),
    "lost PNG": (line(text="x", masks=["masks/z.png"]), "mask 0: segment map .*masks/z.png cannot be read"),
    "PNG outside": (line(text="x", masks=["/masks/z.png"]), "mask 0: path '/masks/z.png' leaves the data folder"),
    "mask with loss": (
        line(text="x", masks=["masks/corner.jpg"]),
        "mask 0: segment map .*its format JPEG may change colours, .*save it as PNG",
    ),
    "coordinate as text": (line(text="x", masks=[[["0", 0, 3, 0, 3, 2]]]), "mask 0: polygon 0: .*where '0' is no number but text"),
    "pairs": (
        line(text="x", masks=[[[[0, 0], [3, 0], [3, 2]]]]),
        "mask 0: polygon 0: .*lists of numbers; write the pairs one after the other",
    ),
    "null in a polygon": (line(text="x", masks=[[[0, 0, 3, None, 3, 2]]]), "mask 0: polygon 0: .*where None is no number"),
    "far away": (line(text="x", masks=[[[0, 0, 3, 1e9, 3, 2]]]), "mask 0: polygon 0: .*farther away than 16 times"),
    "masks of another type": (line(text="x", masks={}), r"masks: expected a list, got \{\}"),
    "names of another type": (line(categories="lamp", masks=[POLYGONS]), "categories: expected a list, got 'lamp'"),
    "name of another type": (
        line(masks=[{"category": ["lamp"], "mask": POLYGONS}]),
        r"mask 0: expected a text as category, got \['lamp'\]",
    ),
    "crowd of another type": (
        line(masks=[{"category": "lamp", "mask": POLYGONS, "crowd": "false"}]),
        "mask 0: crowd: expected true or false, got 'false'",
    ),
    "id of another type": (line(text="x", masks=[], id=[1]), r"id: expected a whole number or a text, got \[1\]"),
    "picture of another type": ({"image": 7, "text": "x", "masks": []}, "expected a path below the data folder, got 7"),
    "conversation of another type": (line(conversation="Hello!"), "conversation: expected a list, got 'Hello!'"),
    "message of another type": (line(conversation=["Hello!"]), "message 0 must be .*, got 'Hello!'"),
    "too deep": ("[" * 100_000, "not JSON .lists or objects lie too deep in each other"),
    "half a character": ('{"image": "images/a.png", "text": "\\udc00", "masks": []}', "a text has half of a character"),
    "a list over lines": ("[", "not JSON .*; write one object {...} per line"),
    "roles": (line(conversation=[*TALK, TALK[1]]), "messages 1 and 2 are both from the assistant"),
    "first role": ({"conversation": TALK[1:]}, "message 0: expected the role 'user', got 'assistant'"),
    "no answer": (line(conversation=[*TALK, TALK[0]]), "message 2: expected the role 'assistant' at the end, got 'user'"),
    "special token": (line(text="the [SEG] lamp", masks=[]), r"text: 'the \[SEG\] lamp' contains '\[SEG\]', which the model reads as"),
    "special token of a message": (line(conversation=[TALK[0], {**TALK[1], "content": "<region>"}]), "message 1 contains '<region>'"),
    "place of no image": ({"conversation": [{**TALK[0], "content": "<image> What?"}, TALK[1]]}, "mentioned 1 times, but there is no image"),
    "blank message": (line(conversation=[{**TALK[0], "content": " "}, TALK[1]]), "message 0 is blank"),
    "message": (line(conversation=[{"role": "user"}]), "message 0 must be"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_named_or_left_out(case, root, tmp_path):
    broken, message = BROKEN[case]
    write(root, line(masks=[{"category": "lamp", "mask": POLYGONS}]), "", broken, line(text="x", masks=[]))
    with pytest.raises(ValueError, match=f"own_jsonl train: train.jsonl, line 3: .*{message}.*docs page Own data"):
        list(load("own_jsonl", "train", root, cache_dir=tmp_path, streaming=True))
    skipped = load("own_jsonl", "train", root, cache_dir=tmp_path, streaming=True, on_error="skip")
    assert [sample.record_id for sample in skipped] == ["1", "4"]


@pytest.mark.parametrize(
    "values, message",
    [(CORNER.T, "masks/b.png is 6 x 4, its image 4 x 6"), (CORNER & False, "masks/b.png has no pixel that is not 0")],
)
def test_a_png_that_is_no_mask_of_the_picture_is_named(values, message, root, tmp_path):
    Image.fromarray(np.ascontiguousarray(values)).save(root / "masks/b.png")
    write(root, line(text="x", masks=["masks/b.png"]))
    with pytest.raises(ValueError, match=f"train.jsonl, line 1: mask 0: {message}"):
        load("own_jsonl", "train", root, cache_dir=tmp_path)


def test_files_that_are_no_lines_are_named(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="own_jsonl train: there is no train.jsonl in"):
        load("own_jsonl", "train", root, cache_dir=tmp_path)
    write(root, "")
    with pytest.raises(ValueError, match="own_jsonl train: no records in train.jsonl"):
        load("own_jsonl", "train", root, cache_dir=tmp_path)
    (root / "train.jsonl").write_text(json.dumps(line(text="gr\xfcn", masks=[]), ensure_ascii=False), encoding="latin-1")
    with pytest.raises(ValueError, match="own_jsonl train: train.jsonl is not UTF-8"):
        load("own_jsonl", "train", root, cache_dir=tmp_path)
    (root / "train.jsonl").unlink()
    (root / "train.jsonl").mkdir()
    with pytest.raises(ValueError, match="own_jsonl train: train.jsonl is a folder; give the file"):
        load("own_jsonl", "train", root, cache_dir=tmp_path)


def test_a_mask_that_is_painted_anew_is_read_again(root, tmp_path):
    write(root, line(text="the lamp", masks=["masks/corner.png"]))
    assert np.array_equal(bitmaps(load("own_jsonl", "train", root, cache_dir=tmp_path)[0]), [CORNER])
    Image.fromarray(~CORNER).save(root / "masks/corner.png")
    assert np.array_equal(bitmaps(load("own_jsonl", "train", root, cache_dir=tmp_path)[0]), [~CORNER])


@pytest.fixture
def real(tmp_path):
    """Objects of COCO as lines, their masks in turn as they are, as RLE and as PNG. Returns the folder, and for every line the names and
    bitmaps by pycocotools."""
    from pycocotools.coco import COCO

    tool = COCO(str(SAMPLES / "coco/annotations/instances_val2017.json"))
    root, lines, expected = tmp_path / "lines", [], []
    (root / "png").mkdir(parents=True)
    (root / "val2017").symlink_to(SAMPLES / "coco/val2017")
    for image in tool.imgs.values():
        annotations = tool.imgToAnns[image["id"]]
        names = [tool.cats[annotation["category_id"]]["name"] for annotation in annotations]
        truth = [tool.annToMask(annotation) for annotation in annotations]
        for number, (annotation, bitmap) in enumerate(zip(annotations, truth, strict=True)):
            if bitmap.any():
                Image.fromarray(bitmap * np.uint8(255)).save(root / f"png/{annotation['id']}.png", compress_level=1)
            forms = [annotation["segmentation"], tool.annToRLE(annotation), f"png/{annotation['id']}.png" if bitmap.any() else None]
            form = forms[number % 3] or annotation["segmentation"]
            if isinstance(form, dict) and isinstance(form["counts"], bytes):
                form = {**form, "counts": form["counts"].decode("ascii")}
            annotation["form"] = form
        forms = [annotation["form"] for annotation in annotations]
        lines.append({"image": f"val2017/{image['file_name']}", "categories": names, "masks": forms})
        expected.append((names, truth))
        if names:
            lines.append({"image": f"val2017/{image['file_name']}", "text": f"the first {names[0]}", "masks": forms[:1]})
            expected.append(([None], truth[:1]))
    write(root, *lines, name="val.jsonl")
    return root, expected


@pytest.mark.samples
def test_real_objects_are_the_masks_of_pycocotools(real, tmp_path):
    root, expected = real
    dataset = load("own_jsonl", "val", root, cache_dir=tmp_path)
    assert len(dataset) == len(expected)
    for sample, (names, truth) in zip(dataset, expected, strict=True):
        assert [sample.categories.get(segment.category_id) for segment in sample.segments] == names
        for bitmap, wanted in zip(bitmaps(sample), truth, strict=True):
            assert np.array_equal(bitmap, wanted)


@pytest.mark.samples
def test_passes_streams_ranks_and_processes_agree(real, tmp_path):
    cached = load("own_jsonl", "val", real[0], cache_dir=tmp_path, num_proc=2)
    stream = load("own_jsonl", "val", real[0], cache_dir=tmp_path, streaming=True)
    assert list(stream) == list(stream) == list(cached)
    parts = [[row["record_id"] for row in split_dataset_by_node(stream.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(sample.record_id for sample in cached)
