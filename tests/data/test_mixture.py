"""One task per batch, by weight, from a seed, and resumable by skipping."""

from collections import Counter
from itertools import islice

import pytest

from psalm_hf.data.mixture import OneTaskPerBatch, TaskSources

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
    [({"a": 0.0}, {"a": 1}, "weight 0.0"), ({"a": 1.0}, {}, "batch size None"), ({"a": 1.0}, {"a": 0}, "batch size 0")],
)
def test_impossible_mixtures_are_refused(weights, sizes, message):
    with pytest.raises(ValueError, match=message):
        OneTaskPerBatch(weights, sizes, 1, seed=0)
