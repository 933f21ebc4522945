"""Which checkpoint a run goes on from, and what it refuses."""

import json

import pytest

from psalm_hf.data.mixture import OneTaskPerBatch
from psalm_hf.training.resuming import check_schedule, last_checkpoint, write_schedule


def write_checkpoint(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "scheduler.pt").touch()
    (checkpoint / "trainer_state.json").write_text("{}")
    return checkpoint


@pytest.mark.parametrize("damage", ["no state", "half a state", "weights only"])
def test_a_checkpoint_that_was_not_written_to_its_end_is_left_out(tmp_path, damage):
    for step in (9, 10):
        write_checkpoint(tmp_path, step)
    broken = write_checkpoint(tmp_path, 11)
    if damage == "no state":
        (broken / "trainer_state.json").unlink()
    elif damage == "half a state":
        (broken / "trainer_state.json").write_text('{"global_step": 11, "log_hi')
    else:
        (broken / "scheduler.pt").unlink()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_without_a_complete_checkpoint_there_is_nothing_to_go_on_from(tmp_path):
    with pytest.raises(ValueError, match="no complete checkpoint"):
        last_checkpoint(tmp_path)


def schedule(**changes):
    options = {"weights": {"a": 3.0, "b": 1.0}, "batch_sizes": {"a": 2, "b": 5}, "num_steps": 10, "seed": 0, "batches_per_step": 4}
    return OneTaskPerBatch(**(options | changes)).schedule


def test_a_run_goes_on_with_the_same_batches_and_for_as_long_as_it_likes(tmp_path):
    write_schedule(tmp_path, schedule())
    check_schedule(tmp_path, schedule())
    check_schedule(tmp_path, schedule(num_steps=20))
    assert json.loads((tmp_path / "schedule.json").read_text())["batches_per_step"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches_per_step": 2}, "batches_per_step was 4, is 2"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"weights": {"a": 1.0, "b": 1.0}}, r"weights was \[\['a', 3.0\], \['b', 1.0\]\], is \[\['a', 1.0\], \['b', 1.0\]\]"),
        ({"weights": {"b": 1.0, "a": 3.0}}, "weights was"),
    ],
)
def test_a_run_that_would_draw_other_batches_is_refused(tmp_path, changes, message):
    write_schedule(tmp_path, schedule())
    with pytest.raises(ValueError, match=message):
        check_schedule(tmp_path, schedule(**changes))
