"""SIGTERM: what it asks for, and what it no longer can. Several processes: test_engines.py."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from psalm_hf.training.interruption import StopOnTerminate, ignore_terminate


@pytest.fixture
def callback():
    before = signal.getsignal(signal.SIGTERM)
    callback = StopOnTerminate()
    callback.on_train_begin(None, None, None)
    yield callback
    callback.on_train_end(None, None, None)
    assert signal.getsignal(signal.SIGTERM) == before


def control():
    return SimpleNamespace(should_save=False, should_training_stop=False, should_evaluate=True)


def at(step):
    return SimpleNamespace(global_step=step, max_steps=10)


def test_the_step_after_the_signal_is_saved_and_the_last(callback):
    assert callback.on_step_end(None, at(3), control()) == control()
    os.kill(os.getpid(), signal.SIGTERM)
    ended = callback.on_step_end(None, at(4), control())
    assert ended.should_save and ended.should_training_stop and not ended.should_evaluate
    assert callback.has_ended_run
    assert not callback.on_epoch_end(None, at(4), control()).should_evaluate


def test_a_signal_after_the_last_step_ends_nothing(callback):
    os.kill(os.getpid(), signal.SIGTERM)
    assert callback.on_step_end(None, at(10), control()) == control()
    assert not callback.has_ended_run


def end_oneself(samples):
    os.kill(os.getpid(), signal.SIGTERM)
    return samples


def test_workers_that_read_data_go_on():
    loader = DataLoader(torch.arange(6), batch_size=2, num_workers=1, collate_fn=end_oneself, worker_init_fn=ignore_terminate)
    assert len(list(loader)) == 3
