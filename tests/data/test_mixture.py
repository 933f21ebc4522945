"""One task per batch, by weight, from a seed, and resumable by skipping."""

from collections import Counter
from itertools import islice

import datasets
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from psalm_hf.data import mixture
from psalm_hf.data.features import SampleDataset
from psalm_hf.data.mixture import EndlessEpochs, OneTaskPerBatch, StreamedEpochs, TaskSources, check_mixture, check_source, open_source
from psalm_hf.data.shapes.stream import ShapesStream

WEIGHTS, SIZES = {"a": 3.0, "b": 1.0}, {"a": 2, "b": 5}


def test_a_batch_has_one_task_and_its_batch_size():
    for batch in OneTaskPerBatch(WEIGHTS, SIZES, 50, seed=0):
        tasks = {task for task, _ in batch}
        assert len(tasks) == 1 and len(batch) == SIZES[tasks.pop()]


def test_samples_of_a_task_come_in_order_and_once():
    seen = {"a": [], "b": []}
    for batch in OneTaskPerBatch(WEIGHTS, SIZES, 50, seed=0):
        for task, index in batch:
            seen[task].append(index)
    assert all(indices == list(range(len(indices))) for indices in seen.values())


def test_tasks_are_drawn_by_weight():
    drawn = Counter(batch[0][0] for batch in OneTaskPerBatch(WEIGHTS, SIZES, 4000, seed=0))
    assert abs(drawn["a"] / 4000 - 0.75) < 0.03  # more than four standard deviations


def test_the_seed_decides_and_skipping_resumes():
    sampler = OneTaskPerBatch(WEIGHTS, SIZES, 50, seed=7)
    batches = list(sampler)
    assert batches == list(sampler) and len(batches) == len(sampler) == 50
    assert batches[20:] == list(islice(OneTaskPerBatch(WEIGHTS, SIZES, 50, seed=7), 20, None))
    assert batches != list(OneTaskPerBatch(WEIGHTS, SIZES, 50, seed=8))


def test_positions_find_their_sample():
    assert TaskSources({"a": ["x", "y"], "b": ["z"]})["a", 1] == "y"


@pytest.mark.parametrize(
    ("weights", "sizes", "message"),
    [
        ({"a": 0.0}, {"a": 1}, "no task has a weight above 0"),
        ({"a": 2.0, "b": -1.0}, {"a": 1, "b": 1}, "task 'b' has weight -1.0"),
        ({"a": 1.0}, {}, "batch size None"),
        ({"a": 1.0}, {"a": 0}, "batch size 0"),
        ({"a": 1.0}, {"a": 1.5}, "batch size 1.5; give every task a whole number"),
        ({"a": "much"}, {"a": 1}, "task 'a' has weight 'much'; give 0 or a positive number"),
        ({"a": None}, {"a": 1}, "task 'a' has weight None"),
        ({"a": True}, {"a": 1}, "task 'a' has weight True"),
        ({"a": float("nan")}, {"a": 1}, "task 'a' has weight nan"),
    ],
)
def test_impossible_mixtures_are_refused(weights, sizes, message):
    with pytest.raises(ValueError, match=message):
        OneTaskPerBatch(weights, sizes, 1, seed=0)


def test_a_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1 step and 1 batch per step, got -1 and 1; give max_steps"):
        OneTaskPerBatch(WEIGHTS, SIZES, -1, seed=0)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (2, 1, 1, 0)])
def test_all_batches_of_a_step_have_one_task_on_every_process(weights):
    weights, processes, accumulated, steps = dict(zip("abcd", weights, strict=True)), 2, 3, 2000
    sampler = OneTaskPerBatch(weights, dict.fromkeys("abcd", 1), steps, seed=5, batches_per_step=processes * accumulated)
    batches = [[batch for number, batch in enumerate(sampler) if number % processes == rank] for rank in range(processes)]
    assert [len(of_rank) for of_rank in batches] == [steps * accumulated] * processes and len(sampler) == processes * steps * accumulated
    drawn = Counter()
    for step in range(steps):
        tasks = {batch[0][0] for of_rank in batches for batch in of_rank[step * accumulated : (step + 1) * accumulated]}
        assert len(tasks) == 1
        drawn[tasks.pop()] += 1
    assert drawn["d"] == 0 or weights["d"]
    expected = {task: steps * weight / sum(weights.values()) for task, weight in weights.items() if weight}
    assert sum((drawn[task] - number) ** 2 / number for task, number in expected.items()) < 16.3  # chi-square, 3 degrees, p = 0.001
    positions = [position for of_rank in batches for batch in of_rank for position in batch]
    assert len(positions) == len(set(positions))  # no process sees a sample of another


def test_epochs_have_every_sample_once_and_orders_of_their_own():
    source = EndlessEpochs("abcdefgh", seed=3)
    epochs = ["".join(source[8 * epoch + position] for position in range(8)) for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list("abcdefgh")] * 3
    assert len(set(epochs)) == 3 and "abcdefgh" not in epochs
    assert source[17] == EndlessEpochs("abcdefgh", seed=3)[17] == epochs[2][1]
    assert epochs[0] != "".join(EndlessEpochs("abcdefgh", seed=4)[position] for position in range(8))


def rows(*conditions):
    columns = {"image_id": [str(number) for number in range(len(conditions))], "condition": list(conditions)}
    return SampleDataset(datasets.Dataset.from_dict(columns), (), "instance")


def test_a_source_is_a_task_of_shapes_or_a_dataset_of_files(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(mixture, "load", lambda *names, **options: loaded.append((names, options)) or rows("category"))
    assert open_source("referring", {"prompts_per_image": 2}, image_size=64, seed=0) == ShapesStream(
        task="referring", image_size=64, prompts_per_image=2
    )
    open_source("mine", {"dataset": "coco_panoptic", "data_dir": str(tmp_path)}, image_size=64, seed=0)
    assert loaded == [(("coco_panoptic",), {"split": "train", "data_dir": str(tmp_path)})]


def test_of_mixed_rows_one_condition_is_chosen(monkeypatch, tmp_path):
    monkeypatch.setattr(mixture, "load", lambda *names, **options: rows("sentence", "category", "sentence"))
    own = {"dataset": "own_jsonl", "data_dir": tmp_path}
    source = open_source("mine", {**own, "condition": "sentence"}, image_size=64, seed=0)
    assert list(source.dataset.rows["image_id"]) == ["0", "2"] and source.dataset.task == "instance"
    with pytest.raises(ValueError, match="source mine, dataset own_jsonl: rows of the conditions sentence, category, and a batch has one"):
        open_source("mine", own, image_size=64, seed=0)
    with pytest.raises(ValueError, match="source mine, dataset own_jsonl: no rows with condition 'region', but sentence, category"):
        open_source("mine", {**own, "condition": "region"}, image_size=64, seed=0)


def test_a_source_without_rows_is_refused_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(mixture, "load", lambda *names, **options: rows())
    with pytest.raises(ValueError, match="^source mine, dataset own_jsonl: no rows$"):
        open_source("mine", {"dataset": "own_jsonl", "data_dir": tmp_path}, image_size=64, seed=0)
    monkeypatch.setattr(mixture, "load", lambda *names, **options: streamed(0))
    with pytest.raises(ValueError, match="^source mine, dataset own_jsonl: no rows$"):
        open_source("mine", {"dataset": "own_jsonl", "data_dir": tmp_path, "streaming": True}, image_size=64, seed=0)
    monkeypatch.setattr(mixture, "load", lambda *names, **options: streamed(6))
    with pytest.raises(ValueError, match="^source mine, dataset own_jsonl: no rows with condition 'region'$"):
        options = {"dataset": "own_jsonl", "data_dir": tmp_path, "streaming": True, "condition": "region"}
        open_source("mine", options, image_size=64, seed=0)


def make_rows(spans, second):
    for first, end in spans:
        for number in range(first, end):
            yield {"image_id": str(number), "condition": second if number % 2 else "sentence"}


class Ids(SampleDataset):
    """Rows are enough: a sample is its id."""

    def sample(self, row):
        return row["image_id"]


def streamed(number, second="sentence"):
    """Rows "0", "1", ... in shards of two; those with an odd number have the condition `second`."""
    spans = [(first, min(first + 2, number)) for first in range(0, number, 2)] or [(0, 0)]
    features = datasets.Features({"image_id": datasets.Value("string"), "condition": datasets.Value("string")})
    kwargs = {"spans": spans, "second": second}
    return Ids(datasets.IterableDataset.from_generator(make_rows, features=features, gen_kwargs=kwargs), ())


def first_samples(source, number):
    return [source[index] for index in range(number)]


def test_a_stream_has_every_sample_once_per_epoch_and_orders_of_their_own():
    samples = first_samples(StreamedEpochs(streamed(10), seed=3, shuffle_buffer=4), 30)
    epochs = [samples[:10], samples[10:20], samples[20:]]
    assert [sorted(epoch) for epoch in epochs] == [list("0123456789")] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and list("0123456789") not in epochs
    assert samples != first_samples(StreamedEpochs(streamed(10), seed=4, shuffle_buffer=4), 30)


def test_sample_n_of_a_stream_does_not_depend_on_what_was_asked_before():
    samples = first_samples(StreamedEpochs(streamed(10), seed=3, shuffle_buffer=4), 30)
    for first in (7, 10, 25):
        resumed = StreamedEpochs(streamed(10), seed=3, shuffle_buffer=4)
        assert [resumed[index] for index in range(first, 30)] == samples[first:]
    jumping = StreamedEpochs(streamed(10), seed=3, shuffle_buffer=4)
    assert [jumping[index] for index in (25, 3, 3, 11, 29, 0)] == [samples[index] for index in (25, 3, 3, 11, 29, 0)]


def test_a_stream_gives_the_same_samples_to_any_number_of_workers_and_processes():
    samples = first_samples(StreamedEpochs(streamed(10), seed=3, shuffle_buffer=4), 24)
    batches = [samples[first : first + 2] for first in range(0, 24, 2)]

    def read(workers, rank, processes):
        source = TaskSources({"a": StreamedEpochs(streamed(10), seed=3, shuffle_buffer=4)})
        positions = list(OneTaskPerBatch({"a": 1.0}, {"a": 2}, 12, seed=0))[rank::processes]
        return list(DataLoader(source, batch_sampler=positions, num_workers=workers, collate_fn=list))

    assert read(workers=0, rank=0, processes=1) == read(workers=1, rank=0, processes=1) == read(workers=2, rank=0, processes=1) == batches
    assert [read(workers=2, rank=rank, processes=2) for rank in range(2)] == [batches[0::2], batches[1::2]]


def test_of_a_mixed_stream_one_condition_is_chosen():
    mixed = streamed(10, second="region")
    assert sorted(first_samples(StreamedEpochs(mixed, seed=0, shuffle_buffer=4, condition="region"), 5)) == list("13579")
    with pytest.raises(ValueError, match="rows of the conditions .*, and a batch has one"):
        first_samples(StreamedEpochs(mixed, seed=0, shuffle_buffer=4), 10)


def test_a_streamed_source_reads_the_rows_that_a_stored_one_has(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "picture.png")
    line = '{"image": "picture.png", "text": "number %d", "masks": [[[0, 0, 0, 3, 3, 3, 3, 0]]]}\n'
    (tmp_path / "train.jsonl").write_text("".join(line % number for number in range(5)))
    options = {"dataset": "own_jsonl", "data_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    stored = open_source("mine", options, image_size=64, seed=0)
    stream = open_source("mine", {**options, "streaming": True, "shuffle_buffer": 2}, image_size=64, seed=0)

    def key(sample):
        return sample.expressions

    assert sorted(first_samples(stream, 5), key=key) == sorted(first_samples(stored, 5), key=key)


FILES = {"dataset": "own_jsonl", "data_dir": "."}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "source mine: shapes: unknown task 'mine', expected one of panoptic, .*; a source without dataset is the task of its name"),
        ("coco", "source mine: expected options such as {dataset: own_jsonl, data_dir: FOLDER}, got 'coco'"),
        ({"task": "panoptic", "phrases": 3}, "source mine: shapes has no option phrases, expected dataset, task, split, "),
        ({"dataset": "cocoa"}, "source mine: unknown dataset 'cocoa', expected one of shapes, moving_shapes, "),
        ({**FILES, "kind": "box"}, "source mine: own_jsonl has no option kind, expected dataset, split, .*annotations"),
        (
            {**FILES, "dataset": "coco_panoptic", "split": "test"},
            "source mine: coco_panoptic has no split 'test', expected one of train, val",
        ),
        ({**FILES, "condition": "phrase"}, "has no condition 'phrase', expected one of category, sentence, region, conversation"),
        ({"dataset": "own_jsonl"}, "source mine: own_jsonl is read from files; give the folder that holds them as data_dir"),
        ({**FILES, "shuffle_buffer": 5}, "source mine: shuffle_buffer is 5; give .* streaming: true"),
        ({**FILES, "streaming": True, "shuffle_buffer": 0}, "source mine: shuffle_buffer is 0; give the rows of the buffer, at least 1"),
    ],
)
def test_a_source_that_cannot_be_opened_is_refused_unread(options, message):
    with pytest.raises(ValueError, match=message):
        check_source("mine", options)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="source mine: there is no folder .*nowhere; give the one that holds own_jsonl as data_dir"):
        check_source("mine", {"dataset": "own_jsonl", "data_dir": str(tmp_path / "nowhere")})


def test_a_missing_file_is_named_with_its_source(tmp_path):
    for streaming in ({}, {"streaming": True}):
        with pytest.raises(FileNotFoundError, match="^source mine, dataset own_jsonl: .*train.jsonl"):
            open_source("mine", {"dataset": "own_jsonl", "data_dir": str(tmp_path), **streaming}, image_size=64, seed=0)


def test_a_mixture_is_checked_as_a_whole():
    tasks = {"panoptic": 1, "referring": 0.5}
    check_mixture(tasks, {"panoptic": 4, "referring": 8}, {"referring": {"prompts_per_image": 2}})
    with pytest.raises(ValueError, match="batch_sizes names caption, which has no weight; .* weights has panoptic, referring"):
        check_mixture(tasks, {"panoptic": 4, "referring": 8, "caption": 1}, {})
    with pytest.raises(ValueError, match="sources names caption, which has no weight"):
        check_mixture(tasks, {"panoptic": 4, "referring": 8}, {"caption": {}})
    with pytest.raises(ValueError, match="task 'referring' has batch size None"):
        check_mixture(tasks, {"panoptic": 4}, {})
    with pytest.raises(ValueError, match="source referring: shapes: prompts_per_image must be 1 to 16, got 40"):
        check_mixture(tasks, {"panoptic": 4, "referring": 8}, {"referring": {"prompts_per_image": 40}})
