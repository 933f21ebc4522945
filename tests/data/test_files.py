"""What all datasets of files share: paths, broken records, checks, and rows that are made once; on a small dataset of its own."""

import io
import json
import pickle
import re
import shutil
from itertools import islice

import datasets
import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import DATASETS, files, load
from psalm_hf.data.features import Category
from psalm_hf.data.files import FileBuilder, mask
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap, uncompress_rle

SIZE = (4, 6)
BITMAP = np.arange(24).reshape(SIZE) % 5 < 2
MASK = rle_from_bitmap(BITMAP)


class Notes(FileBuilder):
    """`notes.json`: {"names", "notes": [{"id", "file", "size", "mask", "category"}]}."""

    docs_page = "Notes"
    splits = ("train",)

    def annotation_files(self):
        return ["notes.json"]

    def read_categories(self):
        return tuple(Category(number, name) for number, name in enumerate(self.json("notes.json", keys=["names"])["names"], 5))

    def records(self):
        return self.json("notes.json", keys=["notes"])["notes"]

    def describe(self, record):
        return f"notes.json, note {record['id']}"

    def row(self, record):
        picture = self.image(record["file"], record["size"])
        rle = mask(record["mask"], record.get("mask_size", picture["image_size"]))
        segment = {"mask": rle, "category_id": record["category"], "is_crowd": False, "annotation_id": record.get("annotation")}
        return {**picture, "image_id": str(record["id"]), "condition": "category", "segments": [segment]}


@pytest.fixture(autouse=True)
def notes_in_the_table(monkeypatch):
    monkeypatch.setattr(files, "Notes", Notes, raising=False)
    monkeypatch.setattr(DATASETS, "_places", {"notes": ("files", "Notes")})
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    write_notes(folder, [note(folder, number) for number in range(5)])
    return folder


def note(folder, number):
    noise = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / f"pictures/{number}.jpg")
    return {"id": number, "file": f"pictures/{number}.jpg", "size": list(SIZE), "mask": MASK, "category": 5 + number % 2}


def write_notes(folder, notes):
    (folder / "notes.json").write_text(json.dumps({"names": ["cup", "wall"], "notes": notes}), encoding="utf-8")


def change(folder, number, **fields):
    """Overwrites fields of one note; None removes a field."""
    notes = json.loads((folder / "notes.json").read_text(encoding="utf-8"))["notes"]
    notes[number] = {key: value for key, value in {**notes[number], **fields}.items() if value is not None}
    write_notes(folder, notes)


def ids(dataset):
    return [sample.image_id for sample in dataset]


def test_every_record_becomes_a_sample(folder, tmp_path):
    dataset = load("notes", "train", folder, cache_dir=tmp_path)
    assert ids(dataset) == ["0", "1", "2", "3", "4"]
    assert dataset[3].image == str(folder / "pictures/3.jpg") and dataset[3].image_size == SIZE
    assert np.array_equal(bitmap_from_rle(dataset[3].segments[0].mask_rle), BITMAP)
    assert [sample.segments[0].category_id for sample in dataset] == [5, 6, 5, 6, 5]


def test_two_passes_give_the_same_ids_because_nothing_that_was_read_is_changed(folder, tmp_path):
    for streaming in (False, True):
        dataset = load("notes", "train", folder, cache_dir=tmp_path, streaming=streaming)
        first = [(sample.image_id, sample.segments[0].category_id, sample.class_labels) for sample in dataset]
        assert [(sample.image_id, sample.segments[0].category_id, sample.class_labels) for sample in dataset] == first


BROKEN = {
    "no such picture": ({"file": "pictures/9.jpg"}, "image pictures/9.jpg does not exist"),
    "a folder as picture": ({"file": "pictures"}, "image pictures cannot be read"),
    "path out of the folder": ({"file": "../data/pictures/2.jpg"}, "leaves the data folder"),
    "absolute path": ({"file": "/etc/passwd"}, "path '/etc/passwd' leaves the data folder"),
    "no path": ({"file": 7}, "expected a path below the data folder, got 7"),
    "size of the picture": ({"size": [6, 4]}, "image pictures/2.jpg is 4 x 6, but its annotation says 6 x 4"),
    "size of the mask": ({"mask": {**MASK, "size": [6, 4]}}, r"mask is of size \[6, 4\], but the image is 4 x 6"),
    "mask of another picture": (
        {"mask": {"size": [6, 4], "counts": [24]}, "mask_size": [6, 4]},
        r"segment 0 has a mask of size \[6, 4\], but the image is \[4, 6\]",
    ),
    "runs of the mask": ({"mask": {"size": list(SIZE), "counts": [20]}}, "runs of the RLE cover 20 pixels"),
    "category": ({"category": 4}, "segment 0 has the unknown category id 4"),
    "category that is a number of another type": ({"category": 5.0}, r"segment 0 has the category_id 5\.0, which is no whole number"),
    "category that is true": ({"category": True}, "segment 0 has the unknown category id True"),
    "annotation id": ({"annotation": "7"}, "segment 0 has the annotation_id '7', which is no whole number"),
    "missing field": ({"mask": None}, "the field 'mask' is missing"),
    "field of another type": ({"size": 4}, "'int' object is not iterable"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_named_or_left_out_and_counted(name, folder, tmp_path, capsys):
    fields, message = BROKEN[name]
    change(folder, 2, **fields)
    with pytest.raises(ValueError, match=f"notes train: notes.json, note 2: .*{message}.*on_error='skip'; see the docs page Notes"):
        load("notes", "train", folder, cache_dir=tmp_path)
    assert ids(load("notes", "train", folder, cache_dir=tmp_path, on_error="skip")) == ["0", "1", "3", "4"]
    assert "notes train: 1 of 5 records are broken and left out, the first: notes train: notes.json, note 2" in capsys.readouterr().err


def test_separators_of_windows_lead_to_files_unless_a_name_has_them(folder, tmp_path):
    change(folder, 2, file="pictures\\2.jpg")
    assert load("notes", "train", folder, cache_dir=tmp_path)[2].image == str(folder / "pictures/2.jpg")
    shutil.copy(folder / "pictures/2.jpg", folder / "pictures\\2.jpg")
    change(folder, 2, file="pictures\\2.jpg")
    assert load("notes", "train", folder, cache_dir=tmp_path)[2].image == str(folder / "pictures\\2.jpg")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_files_may_have_the_encodings_of_windows(encoding, folder, tmp_path):
    content = json.loads((folder / "notes.json").read_text(encoding="utf-8")) | {"names": ["gr\xfcn", "wall"]}
    (folder / "notes.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert [category.name for category in load("notes", "train", folder, cache_dir=tmp_path).categories] == ["gr\xfcn", "wall"]


@pytest.mark.parametrize("text", [r"\ud83d", r"\ude00", r"\ude00\ud83d"])
def test_a_text_with_half_of_a_character_is_a_broken_record(text, folder, tmp_path):
    change(folder, 2, id="half")
    whole = (folder / "notes.json").read_text(encoding="utf-8")
    (folder / "notes.json").write_text(whole.replace('"half"', f'"{text}"'), encoding="utf-8")
    with pytest.raises(ValueError, match="notes train: notes.json, note .*: a text has half of a character"):
        load("notes", "train", folder, cache_dir=tmp_path)
    (folder / "notes.json").write_text(whole.replace('"half"', r'"\ud83d\ude00"'), encoding="utf-8")
    assert ids(load("notes", "train", folder, cache_dir=tmp_path))[2] == "\U0001f600"


def test_an_error_that_no_builder_foresees_says_its_own_words(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Notes, "keeps", lambda self, row: 1 / 0)
    with pytest.raises(ValueError, match="notes train: .*division by zero.*; see the docs page Notes"):
        load("notes", "train", folder, cache_dir=tmp_path)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_what_is_left_out_is_said_at_every_load_because_it_stays_so_when_it_is_repaired(num_proc, folder, tmp_path, capsys):
    options = {"cache_dir": tmp_path, "on_error": "skip", "num_proc": num_proc}
    for number in (1, 3):
        (folder / f"pictures/{number}.jpg").unlink()
    message = "notes train: 2 of 5 records are broken and left out, the first: notes train: notes.json, note 1: image .* delete (.*) or"
    load("notes", "train", folder, **options)
    assert len(re.findall(message, capsys.readouterr().err)) == 1
    for number in (1, 3):
        note(folder, number)
    assert ids(load("notes", "train", folder, **options)) == ["0", "2", "4"]
    ((cached),) = re.findall(message, capsys.readouterr().err)
    shutil.rmtree(cached)
    assert ids(load("notes", "train", folder, **options)) == ["0", "1", "2", "3", "4"]
    assert ids(load("notes", "train", folder, **options)) == ["0", "1", "2", "3", "4"]
    assert "left out" not in capsys.readouterr().err


def test_a_stream_says_what_it_leaves_out_and_writes_nothing_beside_the_rows_of_a_cache(folder, tmp_path, capsys):
    options = {"cache_dir": tmp_path, "on_error": "skip"}
    load("notes", "train", folder, **options)
    (folder / "pictures/1.jpg").unlink()
    assert ids(load("notes", "train", folder, streaming=True, **options)) == ["0", "2", "3", "4"]
    assert "1 of 1 records are broken and left out" in capsys.readouterr().err  # of its span
    assert len(load("notes", "train", folder, **options)) == 5 and "left out" not in capsys.readouterr().err


def test_what_a_process_that_was_killed_has_left_is_not_counted(folder, tmp_path, capsys):
    builder = Notes(config_name="notes", cache_dir=str(tmp_path), data_dir=str(folder), split="train", on_error="skip")
    unfinished = tmp_path / f"{builder.cache_dir}.incomplete"
    unfinished.mkdir(parents=True)
    files.LeftOut(1, 2, "note 3: no picture").write(str(unfinished), 3)
    assert len(load("notes", "train", folder, cache_dir=tmp_path, on_error="skip")) == 5
    assert "left out" not in capsys.readouterr().err


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(folder, tmp_path):
    file = folder / "notes.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(load("notes", "train", folder, cache_dir=tmp_path)) == 5
    builder = Notes(config_name="notes", cache_dir=str(tmp_path), data_dir=str(folder), split="train")
    assert builder.lines("notes.json")[0][1].startswith("{")


def test_where_there_are_no_records_only_the_first_file_is_named(folder, tmp_path, monkeypatch):
    write_notes(folder, [])
    monkeypatch.setattr(Notes, "annotation_files", lambda self: ["notes.json", "pictures"])
    with pytest.raises(ValueError, match="no records in notes.json; see"):
        load("notes", "train", folder, cache_dir=tmp_path)


def test_rows_that_ask_for_nothing_are_not_called_broken(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Notes, "checked_rows", lambda self, first, end: iter(()))
    with pytest.raises(ValueError, match="notes train: no rows: no record has anything to ask for .*; see the docs page Notes"):
        load("notes", "train", folder, cache_dir=tmp_path)


def test_a_record_without_id_is_named_by_its_position(folder, tmp_path):
    change(folder, 2, id=None)
    with pytest.raises(ValueError, match="notes train: record 2 of notes.json: the field 'id' is missing"):
        load("notes", "train", folder, cache_dir=tmp_path)


def test_a_truncated_picture_is_found_where_pictures_are_decoded(folder, tmp_path):
    picture = folder / "pictures/2.jpg"
    picture.write_bytes(picture.read_bytes()[:-40])
    assert len(load("notes", "train", folder, cache_dir=tmp_path)) == 5
    with pytest.raises(ValueError, match="note 2: image pictures/2.jpg cannot be read .*truncated"):
        load("notes", "train", folder, cache_dir=tmp_path, check_images=True)


def test_the_stored_size_counts_whatever_the_orientation_says(folder, tmp_path):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", SIZE[::-1]).save(buffer, format="JPEG", exif=exif)
    (folder / "pictures/2.jpg").write_bytes(buffer.getvalue())
    assert load("notes", "train", folder, cache_dir=tmp_path)[2].image_size == SIZE


def test_a_link_may_lead_out_of_the_folder(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "pictures").rename(tmp_path / "elsewhere/pictures")
    (folder / "pictures").symlink_to(tmp_path / "elsewhere/pictures")
    assert len(load("notes", "train", folder, cache_dir=tmp_path)) == 5


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"names": ["cup"], "notes": []}', "notes train: no records in notes.json; see the docs page Notes"),
        ('{"names": ["cup"]}', "notes train: .*notes.json has no notes; see the docs page Notes"),
        ("[]", "notes train: .*notes.json has no notes"),
        ('{"names": ["cup"], "no', "notes train: .*notes.json is not a JSON file .*; download it again; see the docs page Notes"),
    ],
)
def test_a_file_that_holds_no_dataset_is_refused(content, message, folder, tmp_path):
    (folder / "notes.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load("notes", "train", folder, cache_dir=tmp_path)


def test_what_is_missing_on_disk_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="notes train: the folder .*nowhere does not exist; give the one that holds notes.json"):
        load("notes", "train", tmp_path / "nowhere", cache_dir=tmp_path)
    (folder / "notes.json").unlink()
    with pytest.raises(FileNotFoundError, match="notes train: there is no notes.json in .*; see the docs page Notes"):
        load("notes", "train", folder, cache_dir=tmp_path)


def test_a_dataset_of_which_nothing_is_left_is_refused(folder, tmp_path):
    write_notes(folder, [{"id": 0}])
    with pytest.raises(ValueError, match="notes train: no rows are left"):
        load("notes", "train", folder, cache_dir=tmp_path, on_error="skip")


def test_an_unknown_way_to_treat_errors_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="notes: unknown on_error 'ignore', expected one of raise, skip"):
        load("notes", "train", folder, cache_dir=tmp_path, on_error="ignore")


def test_rows_are_made_again_when_the_annotations_change_and_only_then(folder, tmp_path, monkeypatch):
    assert len(load("notes", "train", folder, cache_dir=tmp_path)) == 5
    write_notes(folder, [note(folder, 7)])
    assert ids(load("notes", "train", folder, cache_dir=tmp_path)) == ["7"]
    monkeypatch.setattr(FileBuilder, "json", None)
    again = load("notes", "train", folder, cache_dir=tmp_path)
    assert ids(again) == ["7"] and [category.name for category in again.categories] == ["cup", "wall"]


def test_a_relative_folder_is_resolved_when_it_is_given(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    dataset = load("notes", "train", folder.name, cache_dir=tmp_path)
    monkeypatch.chdir("/")
    assert Image.open(dataset[0].image).size == SIZE[::-1]


def test_nothing_stays_in_memory_after_the_rows_are_made(folder, tmp_path):
    load("notes", "train", folder, cache_dir=tmp_path)
    assert not [folder for folder in files._READ if folder.startswith(str(tmp_path))]


def test_two_ranks_share_a_stream(folder, tmp_path):
    rows = load("notes", "train", folder, cache_dir=tmp_path, streaming=True).rows
    assert rows.num_shards == 5
    parts = [[row["image_id"] for row in split_dataset_by_node(rows, rank=rank, world_size=2)] for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == ["0", "1", "2", "3", "4"] and all(len(part) >= 2 for part in parts)


def test_many_records_make_as_many_shards_as_two_to_64_ranks_divide(folder, tmp_path):
    write_notes(folder, [note(folder, 0) | {"id": number} for number in range(200)])
    rows = load("notes", "train", folder, cache_dir=tmp_path, streaming=True).rows
    assert rows.num_shards == 64
    assert [row["image_id"] for row in rows] == [str(number) for number in range(200)]


def test_a_stream_has_its_first_rows_before_a_broken_one(folder, tmp_path):
    change(folder, 4, category=4)
    rows = load("notes", "train", folder, cache_dir=tmp_path, streaming=True).rows
    assert [row["image_id"] for row in islice(rows, 4)] == ["0", "1", "2", "3"]


def test_two_processes_make_the_same_rows(folder, tmp_path):
    one = load("notes", "train", folder, cache_dir=tmp_path / "one")
    two = load("notes", "train", folder, cache_dir=tmp_path / "two", num_proc=2)
    assert list(one.rows) == list(two.rows)


def test_a_broken_record_is_named_by_several_processes_too(folder, tmp_path):
    change(folder, 2, file="pictures/9.jpg")
    with pytest.raises(ValueError, match="notes train: notes.json, note 2: image pictures/9.jpg does not exist .*on_error='skip'"):
        load("notes", "train", folder, cache_dir=tmp_path, num_proc=2)


def test_a_builder_is_pickled_without_what_it_has_read(folder, tmp_path):
    builder = Notes(config_name="notes", cache_dir=str(tmp_path), data_dir=str(folder), split="train")
    before = len(pickle.dumps(builder.shards()) + pickle.dumps(builder.__dict__))
    write_notes(folder, [note(folder, 0)] * 100)
    larger = Notes(config_name="notes", cache_dir=str(tmp_path), data_dir=str(folder), split="train")
    larger.shards()
    assert len(pickle.dumps(larger.__dict__)) < before + 1000


POLYGONS = [[0.5, 0.5, 5.2, 0.5, 5.2, 3.6], [0, 2, 3, 2, 3, 4, 0, 4]]


@pytest.mark.parametrize("segmentation", [MASK, uncompress_rle(MASK)], ids=["compressed", "uncompressed"])
def test_both_forms_of_rle_are_stored_compressed(segmentation):
    assert mask(segmentation, SIZE) == MASK


def test_polygons_are_rasterised_as_pycocotools_does():
    from pycocotools import mask as coco

    expected = coco.decode(coco.merge(coco.frPyObjects(POLYGONS, *SIZE)))
    assert np.array_equal(bitmap_from_rle(mask(POLYGONS, SIZE)), expected)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([], r"expected a mask as RLE or list of polygons, got \[\]"),
        (None, "expected a mask as RLE or list of polygons, got None"),
        ([[0, 0, 5, 3]], "polygon 0: .* at least 3 corners"),
        ([*POLYGONS, [0, 0, 1, 1, 2, 2, 3]], "polygon 2: "),
        ([[0, 0, 1, 1, float("nan"), 2]], "polygon 0: expected finite"),
        ([0, 0, 1, 1, 2, 2], "polygon 0: "),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        mask(segmentation, SIZE)
