"""One task per batch, by weight, from a seed, and resumable by skipping."""

from collections import Counter
from itertools import islice

import datasets
import pytest

from psalm_hf.data import mixture
from psalm_hf.data.features import SampleDataset
from psalm_hf.data.mixture import EndlessEpochs, OneTaskPerBatch, TaskSources, open_source
from psalm_hf.data.shapes import ShapesStream

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


def test_a_source_is_a_task_of_shapes_or_a_dataset_of_files(monkeypatch):
    loaded = []
    monkeypatch.setattr(mixture, "load", lambda *names, **options: loaded.append((names, options)) or rows("category"))
    assert open_source("referring", {"prompts_per_image": 2}, image_size=64, seed=0) == ShapesStream(
        task="referring", image_size=64, prompts_per_image=2
    )
    open_source("mine", {"dataset": "coco_panoptic", "data_dir": "coco"}, image_size=64, seed=0)
    assert loaded == [(("coco_panoptic",), {"split": "train", "data_dir": "coco"})]
    with pytest.raises(ValueError, match="shapes: unknown task 'mine'"):
        open_source("mine", {}, image_size=64, seed=0)


def test_of_mixed_rows_one_condition_is_chosen(monkeypatch):
    monkeypatch.setattr(mixture, "load", lambda *names, **options: rows("sentence", "category", "sentence"))
    source = open_source("mine", {"dataset": "own_jsonl", "condition": "sentence"}, image_size=64, seed=0)
    assert list(source.dataset.rows["image_id"]) == ["0", "2"] and source.dataset.task == "instance"
    with pytest.raises(ValueError, match="source mine: own_jsonl has rows of the conditions sentence, category, and a batch has one"):
        open_source("mine", {"dataset": "own_jsonl"}, image_size=64, seed=0)
    with pytest.raises(ValueError, match="no rows with condition 'region', but sentence, category"):
        open_source("mine", {"dataset": "own_jsonl", "condition": "region"}, image_size=64, seed=0)
