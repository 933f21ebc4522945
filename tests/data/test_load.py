"""`load` and `list_datasets`: one split by its name, cached or streamed, the same samples either way."""

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from psalm_hf.data import list_datasets, load
from psalm_hf.data.features import ROW_FEATURES
from psalm_hf.data.files import FileBuilder
from psalm_hf.data.shapes.stream import CATEGORIES, Shapes, ShapesStream

ROOT = Path(__file__).parents[2]
OPTIONS = {"task": "referring", "prompts_per_image": 3}


def unpacked(sample):
    """All of a sample, its image as pixels."""
    return np.asarray(sample.image).tobytes(), {**vars(sample), "image": None}


def test_the_first_scenes_of_a_split_are_those_of_the_stream(tmp_path):
    dataset = load("shapes", "validation", num_images=4, cache_dir=tmp_path, **OPTIONS)
    stream = ShapesStream(split="validation", **OPTIONS)
    assert len(dataset) == 12
    assert [unpacked(sample) for sample in dataset] == [unpacked(stream[index]) for index in range(12)]
    assert unpacked(dataset[7]) == unpacked(stream[7])
    assert dataset.rows.features == ROW_FEATURES
    assert dataset.rows["tags"][3:6] == [list(sample.tags) for sample in stream.samples(1)]
    assert dataset.categories == CATEGORIES


@pytest.mark.parametrize("task", ["panoptic", "interactive", "conversation", "caption"])
def test_every_task_can_be_loaded(task, tmp_path):
    options = {"task": task, "phrase_percent": 60}
    dataset = load("shapes", "test", num_images=3, cache_dir=tmp_path, **options)
    stream = ShapesStream(split="test", **options)
    assert [unpacked(sample) for sample in dataset] == [unpacked(stream[index]) for index in range(len(dataset))]


def test_the_rows_are_made_once_and_then_found_again(tmp_path, monkeypatch):
    first = load("shapes", "test", num_images=3, cache_dir=tmp_path)
    monkeypatch.setattr(Shapes, "_generate_examples", None)
    again = load("shapes", "test", num_images=3, cache_dir=tmp_path)
    assert [unpacked(sample) for sample in again] == [unpacked(sample) for sample in first]


def test_other_options_do_not_find_the_rows_of_the_first(tmp_path):
    first = load("shapes", "test", num_images=2, cache_dir=tmp_path)
    for options in ({"num_images": 3}, {"num_images": 2, "seed": 1}, {"num_images": 2, "image_size": 64}):
        other = load("shapes", "test", cache_dir=tmp_path, **options)
        assert [unpacked(sample) for sample in other] != [unpacked(sample) for sample in first]
    other = load("shapes", "unseen", num_images=2, cache_dir=tmp_path)
    assert other[0].image_id == "shapes/unseen/0/0"


def test_a_stream_of_rows_gives_the_same_and_writes_nothing(tmp_path):
    streamed = load("shapes", "validation", num_images=4, streaming=True, cache_dir=tmp_path, **OPTIONS)
    assert isinstance(streamed.rows, datasets.IterableDataset)
    stream = ShapesStream(split="validation", **OPTIONS)
    assert [unpacked(sample) for sample in streamed] == [unpacked(stream[index]) for index in range(12)]
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_stream_of_rows_resumes_where_it_was(tmp_path):
    rows = load("shapes", "train", num_images=5, streaming=True).rows
    iterator = iter(rows)
    next(iterator), next(iterator)
    state = rows.state_dict()
    rest = [row["image_id"] for row in iterator]
    rows.load_state_dict(state)
    assert [row["image_id"] for row in rows] == rest and len(rest) == 3


def test_two_processes_make_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(Shapes, "per_shard", 2)
    dataset = load("shapes", "test", num_images=5, num_proc=2, cache_dir=tmp_path)
    assert [sample.image_id for sample in dataset] == [f"shapes/test/0/{index}" for index in range(5)]
    assert unpacked(dataset[4]) == unpacked(ShapesStream(split="test")[4])


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (("coco", "train"), {}, "unknown dataset 'coco', expected one of shapes, moving_shapes"),
        (("shapes", "val"), {}, "shapes: unknown split 'val', expected one of train, validation, test, unseen"),
        (
            ("shapes", "test"),
            {"tasks": 1, "side": 2},
            "shapes: unknown option side, tasks, expected image_size, num_images, phrase_percent",
        ),
        (("shapes", "test"), {"task": "panoptics"}, "shapes: unknown task 'panoptics', expected one of panoptic, referring"),
        (("shapes", "test"), {"num_images": 0}, "shapes: num_images must be at least 1, got 0"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(arguments, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(*arguments, cache_dir=tmp_path, **options)
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_dataset_of_files_needs_their_folder(monkeypatch):
    monkeypatch.setattr(Shapes, "needs_files", True)
    with pytest.raises(ValueError, match="shapes: is read from files; give the folder that holds them as data_dir"):
        load("shapes", "train")


def test_a_broken_record_is_reported_with_its_own_message(tmp_path, monkeypatch):
    def broken(self, spans):
        raise ValueError("files/a.json: record 3 has no image")
        yield

    monkeypatch.setattr(Shapes, "_generate_examples", broken)
    with pytest.raises(ValueError, match="files/a.json: record 3 has no image"):
        load("shapes", "test", num_images=1, cache_dir=tmp_path)


TITLES = [path.read_text(encoding="utf-8").splitlines()[0] for path in ROOT.glob("docs/**/*.md")]


def test_the_table_is_true():
    summaries = [builder.summary for builder in list_datasets().values()]
    assert len(set(summaries)) == len(summaries) == 39
    for builder in list_datasets().values():
        assert any(title.startswith(f"# {builder.docs_page}") for title in TITLES)
        assert issubclass(builder, FileBuilder) == builder.needs_files
    assert list_datasets()["reasonseg"].options() == ("on_error", "check_images", "keep_empty", "protocol", "rasterisation")
    assert list_datasets()["voc_instance"].splits == ("train", "val", "trainval")


def test_the_table_prints_a_line_for_each_dataset():
    heading, *lines = str(list_datasets()).splitlines()
    assert [line.split()[0] for line in lines] == list(list_datasets())
    assert heading.split()[:2] == ["name", "splits"]
    for line, builder in zip(lines, list_datasets().values(), strict=True):
        assert all(word in line for word in (*builder.splits, *builder.options(), builder.docs_page, builder.summary))


def test_the_table_can_be_read_without_loading_datasets():
    code = "import sys; from psalm_hf.data import list_datasets; print(*list_datasets(), 'datasets' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == [*list_datasets(), "False"]
