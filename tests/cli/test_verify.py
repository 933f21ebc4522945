"""Verifying a folder: whatever is broken is printed with file and id, counts are compared, and the pictures can be looked at."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from psalm_hf.cli import verify as command
from psalm_hf.data.benchmarks.coco import CocoInstance
from psalm_hf.data.benchmarks.coco_interactive import CocoInteractive
from psalm_hf.data.benchmarks.llava import LlavaPretrain558k
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Region, Sample, Segment
from psalm_hf.visualization import contact_sheet, draw_sample

SIZE = (40, 60)
POLYGON = [[2, 2, 30, 2, 30, 20, 2, 20]]


@pytest.fixture
def root(tmp_path):
    """A folder of `coco_instance`, split val: images 1 to 6 with an annotation each."""
    root = tmp_path / "coco"
    for folder in ("annotations", "val2017"):
        (root / folder).mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, 7):
        noise = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"val2017/{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "height": SIZE[0], "width": SIZE[1]})
        annotations.append({"id": 10 * number, "image_id": number, "category_id": 1 + number % 2, "iscrowd": 0, "segmentation": POLYGON})
    write(root, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "cat"}]})
    return root


def write(root, content):
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")


def change(root, what):
    content = json.loads((root / "annotations/instances_val2017.json").read_text(encoding="utf-8"))
    what(content)
    write(root, content)


def verify(capsys, *arguments):
    """Exit status and what was printed, without the progress bar."""
    status = command.main([*map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture
def unpublished(monkeypatch):
    monkeypatch.setattr(CocoInstance, "published", {})


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_folder_that_is_in_order_is_summed_up(num_proc, root, capsys, unpublished):
    status, printed, _ = verify(capsys, "coco_instance", root, "--num-proc", num_proc)
    assert "coco_instance train: left out, its files are absent" in printed
    assert "coco_instance val: ok: 6 rows, 6 segments (0 crowds), 2 of 2 categories in use, 6 images, 0 problems" in printed
    assert status == 0 and not [path for path in root.rglob("*") if path.suffix in (".arrow", ".lock")]


def truncate(root):
    picture = root / "val2017/3.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])


def annotation(**fields):
    return lambda root: change(root, lambda content: content["annotations"][2].update(fields))


def image(**fields):
    return lambda root: change(root, lambda content: content["images"][2].update(fields))


BROKEN = {
    "truncated JPEG": (truncate, "image val2017/3.jpg cannot be read (image file is truncated"),
    "missing picture": (lambda root: (root / "val2017/3.jpg").unlink(), "image val2017/3.jpg does not exist"),
    "size": (image(width=61), "image val2017/3.jpg is 40 x 60, but its annotation says 40 x 61"),
    "category": (annotation(category_id=9), "segment 0 has the unknown category id 9"),
    "size of the RLE": (annotation(segmentation={"size": [60, 40], "counts": [2400]}), "annotation 30: the mask is of size [60, 40]"),
    "runs of the RLE": (
        annotation(segmentation={"size": [40, 60], "counts": [2]}),
        "annotation 30: mask: the runs of the RLE cover 2 pixels",
    ),
    "path": (image(file_name="../../3.jpg"), "path 'val2017/../../3.jpg' leaves the data folder"),
    "id that is no number": (annotation(id="thirty"), "segment 0 has the annotation_id 'thirty', which is no whole number"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_printed_with_file_and_id(case, root, capsys, unpublished):
    what, message = BROKEN[case]
    what(root)
    status, printed, _ = verify(capsys, "coco_instance", root, "--split", "val")
    (line,) = [line for line in printed.splitlines() if "image 3" in line]
    assert line.startswith("coco_instance val: annotations/instances_val2017.json, image 3: ") and message in line
    assert "coco_instance val: BROKEN: 5 rows" in printed and status == 2


def test_everything_that_is_broken_is_printed_up_to_a_limit(root, capsys, unpublished):
    change(root, lambda content: [entry.update(category_id=7) for entry in content["annotations"]])
    _, printed, _ = verify(capsys, "coco_instance", root, "--split", "val")
    assert printed.count("unknown category id 7") == 6
    _, printed, _ = verify(capsys, "coco_instance", root, "--split", "val", "--limit", 2)
    assert printed.count("unknown category id 7") == 2 and "coco_instance val: 4 further problems" in printed


def test_an_error_that_no_builder_foresees_does_not_hide_the_next_records(root, capsys, unpublished, monkeypatch):
    def fail(self, record, original=CocoInstance.row):
        if record.image["id"] == 3:
            raise Image.DecompressionBombError("too large")
        return original(self, record)

    monkeypatch.setattr(CocoInstance, "row", fail)
    status, printed, _ = verify(capsys, "coco_instance", root, "--split", "val")
    assert "instances_val2017.json, image 3: DecompressionBombError: too large" in printed and "5 rows" in printed and status == 2


def test_a_record_of_a_tar_shard_is_named_by_its_shard_and_key(root, tmp_path, capsys, monkeypatch):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.jpg", "a.txt", "b.jpg", "b.txt"):
            content = b"a cup" if name.endswith("txt") else (root / "val2017/1.jpg").read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))

    def fail(self, record, original=LlavaPretrain558k.row):
        if record.key == "b":
            raise Image.DecompressionBombError("too large")
        return original(self, record)

    monkeypatch.setattr(LlavaPretrain558k, "row", fail)
    status, printed, _ = verify(capsys, "llava_pretrain_558k", tmp_path)
    assert "llava_pretrain_558k train: 0.tar, b: DecompressionBombError: too large" in printed and status == 2


def test_records_are_listed_once_however_many_are_broken(root, capsys, unpublished, monkeypatch):
    calls = []
    monkeypatch.setattr(CocoInstance, "records", lambda self, original=CocoInstance.records: calls.append(1) or original(self))
    monkeypatch.setattr(CocoInstance, "row", lambda self, record: 1 / 0)
    _, printed, _ = verify(capsys, "coco_instance", root, "--split", "val")
    assert printed.count("ZeroDivisionError") == 6 and len(calls) == 1


def test_a_file_without_records_or_without_sense_is_broken(root, capsys):
    for content, message in (({"images": [], "annotations": [], "categories": []}, "no records in annotations"), ([], "has no images")):
        write(root, content)
        status, printed, _ = verify(capsys, "coco_instance", root, "--split", "val")
        assert message in printed and "coco_instance val: BROKEN, no record can be read" in printed and status == 2


def test_categories_that_cannot_be_told_apart_are_problems(root, capsys, unpublished):
    change(root, lambda content: content["categories"].append({"id": 2, "name": "cup"}))
    status, printed, _ = verify(capsys, "coco_instance", root, "--split", "val")
    assert "2 categories have the id 2" in printed and "2 categories have the name 'cup'" in printed and status == 2


def test_masks_without_a_pixel_are_noted(root, capsys, unpublished):
    change(root, lambda content: content["annotations"][0].update(segmentation=[[1, 1, 1.1, 1, 1.1, 1.1]]))
    status, printed, _ = verify(capsys, "coco_instance", root, "--split", "val")
    assert "note: 1 masks have no pixel" in printed and status == 0


def test_counts_are_compared_with_the_published_ones(root, capsys, monkeypatch):
    monkeypatch.setattr(CocoInstance, "counts", lambda self: {"images": 6, "annotations": 6, "files": 1}, raising=False)
    monkeypatch.setattr(CocoInstance, "published", {"val": {"images": 5000, "annotations": 6}})
    status, printed, _ = verify(capsys, "coco_instance", root, "--split", "val")
    assert "images: 6, differs: published are 5,000 (legitimate for a part of the dataset)" in printed
    assert "annotations: 6, as published" in printed and "files: 1\n" in printed
    assert "coco_instance val: counts differ: 6 rows" in printed and status == 2


def test_counts_that_cannot_be_made_are_reported(root, capsys, monkeypatch):
    def fail(self):
        raise FileNotFoundError("no first.png")

    monkeypatch.setattr(CocoInstance, "counts", fail)
    status, printed, _ = verify(capsys, "coco_instance", root, "--split", "val")
    assert "  not counted: FileNotFoundError: no first.png" in printed
    assert "coco_instance val: counts differ: 6 rows" in printed and status == 2


def test_records_that_ask_for_nothing_are_passed_over_when_rows_are_drawn(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(CocoInteractive, "published", {})
    change(root, lambda content: content["annotations"][0].update(iscrowd=1))
    arguments = ("--split", "val", "--option", "kind=box", "--option", "rules=paper")
    status, printed, _ = verify(capsys, "coco_interactive", root, *arguments, "--show", 2, "--output", tmp_path / "pictures")
    assert "drawn: 2 rows" in printed and status == 0
    assert (tmp_path / "pictures/coco_interactive_val_1.png").is_file()


def test_options_that_fail_for_one_split_do_so_before_any_is_checked(root, capsys):
    (root / "annotations/instances_train2017.json").write_text((root / "annotations/instances_val2017.json").read_text())
    status, printed, errors = verify(capsys, "coco_interactive", root)
    assert status == 2 and not printed and "error: coco_interactive val: give the kind of the prompts" in errors


def test_a_split_of_which_the_files_list_nothing_is_left_out(tmp_path, capsys):
    (tmp_path / "processed").mkdir()
    (tmp_path / "processed/split.json").write_text('{"train": [], "val": [], "test": []}')
    status, printed, errors = verify(capsys, "ego_exo4d", tmp_path)
    assert printed.count("left out, its files are absent") == 3 and "BROKEN" not in printed
    assert status == 2 and "no split of ego_exo4d is in" in errors


def test_rows_are_drawn_and_broken_ones_passed_over(root, tmp_path, capsys, unpublished):
    (root / "val2017/3.jpg").unlink()
    output = tmp_path / "pictures"
    verify(capsys, "coco_instance", root, "--split", "val", "--show", 3, "--output", output)
    names = sorted(path.name for path in output.iterdir())
    assert names == [f"coco_instance_val{end}.png" for end in ("", "_0", "_3", "_4")]
    sheet = Image.open(output / "coco_instance_val.png")
    assert sheet.width > 2 * 640 and sheet.height > 2 * 400


@pytest.mark.parametrize("task", ["panoptic", "referring", "interactive", "conversation"])
def test_drawn_datasets_can_be_shown_too(task, tmp_path, capsys):
    status, printed, _ = verify(
        capsys, "shapes", "--split", "test", "--option", "num_images=2", f"task={task}", "--show", 1, "--output", tmp_path
    )
    assert status == 0 and "shapes test: ok: " in printed and "2 images, 0 problems" in printed
    assert (tmp_path / "shapes_test_0.png").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["coco"], "unknown dataset 'coco', expected one of shapes, "),
        (["coco_instance", "ROOT", "--split", "test"], "unknown split test, expected some of train, val"),
        (["coco_instance", "nowhere"], "nowhere does not exist; give the data_dir of coco_instance, see the docs page COCO 2017"),
        (["coco_instance", "ROOT", "--split", "train"], "there is no annotations/instances_train2017.json"),
        (["coco_panoptic", "ROOT"], "no split of coco_panoptic is in"),
        (["coco_instance", "ROOT", "--option", "keep"], "--option keep: expected NAME=VALUE"),
        (["coco_instance", "ROOT", "--option", "keep=1"], "unknown option keep, expected keep_empty"),
        (["coco_instance", "ROOT", "--option", "on_error=skip"], "verify reports every broken record, leave it out"),
        (
            ["coco_instance", "ROOT", "--option", "ignore=[255,", "0]"],
            "--option ignore=[255,: the value is no YAML; the shell cuts",
        ),
        (["own_pairs", "ROOT"], "own_pairs: a split may have any name; say which with --split"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments, message, root, capsys):
    status, _, errors = verify(capsys, *[root if argument == "ROOT" else argument for argument in arguments])
    assert status == 2 and errors.startswith("error: ") and message in errors


def test_pictures_need_a_folder(root):
    assert command.main(["coco_instance", str(root), "--show", "2"]) == 2


def test_values_of_options_are_yaml():
    assert command.read_options(["a=[0, 255]", "b=true", "c=x/{split}.json", "d=null"]) == {
        "a": [0, 255],
        "b": True,
        "c": "x/{split}.json",
        "d": None,
    }


# What `draw_sample` must show, on a picture without detail.

Y, X = np.indices((600, 700))
DISC = (Y - 300) ** 2 + (X - 350) ** 2 < 120**2
BASE = {"image": Image.new("RGB", (700, 600), (128, 128, 128)), "image_id": "7", "image_size": (600, 700)}


def pixels(sample):
    return np.asarray(draw_sample(sample), dtype=int)


def test_segments_and_regions_are_drawn_where_they_are():
    segment = Segment(rle_from_bitmap(DISC), category_id=4)
    for sample in (
        Sample(**BASE, segments=(segment,), categories={4: "cup"}),
        Sample(**BASE, segments=(segment,), expressions=("the cup",)),
        Sample(**BASE, segments=(segment,), regions=(Region("point", points=((350.0, 250.0),), segment=0),)),
        Sample(**BASE, segments=(segment,), conversation=({"role": "user", "content": "What is that?"},)),
    ):
        drawn = pixels(sample)
        assert drawn.shape[0] > 620  # caption or text below the picture
        assert (drawn[380, 350] != 128).any() and (drawn[20, 20] == 128).all()


def test_regions_of_another_picture_are_drawn_on_that_one():
    region = Region("mask", mask_rle=rle_from_bitmap(np.ones((300, 500), dtype=bool)), segment=None)
    other = {"region_image": Image.new("RGB", (500, 300), (0, 0, 90)), "region_image_size": (300, 500)}
    drawn = pixels(Sample(**BASE, regions=(region,), **other))
    first = drawn[: 300 * 640 // 500, 30:670]  # enlarged to 640 x 384, in the middle above the other
    assert (first[200, 20] != (0, 0, 90)).any() and drawn.shape[1] == 700
    assert (drawn[600, 20] == 128).all() and drawn.shape[0] > 384 + 600


def test_long_texts_stay_inside_of_the_picture():
    words = " ".join(f"word{number}" for number in range(400))
    drawn = draw_sample(Sample(image=None, image_id="7", image_size=None, conversation=({"role": "user", "content": words},)))
    assert drawn.width == 640 and drawn.height > 700
    assert (np.asarray(drawn)[:, -4:] == np.asarray(drawn)[0, 0]).all()  # the margin is free
    captioned = draw_sample(Sample(**BASE, expressions=(words,)))
    assert captioned.height > 600 + 300


def test_a_contact_sheet_holds_every_picture():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sheet = contact_sheet(
        [Image.new("RGB", size, colour) for size, colour in zip([(1280, 400), (300, 2000), (10, 10)], colours, strict=True)]
    )
    counts = [int((np.asarray(sheet) == colour).all(-1).sum()) for colour in colours]
    assert counts == [640 * 200, 192 * 1280, 100]
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([])
