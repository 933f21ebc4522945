"""SIGTERM, with which schedulers announce the end of a job: the run ends after the current step, with a complete checkpoint."""

import signal
import threading
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopOnTerminate(TrainerCallback):
    """Turns SIGTERM into a checkpoint and an early end. One process that was told is enough: all end after the same step.

    Attributes:
        has_ended_run: whether that happened, on all processes alike. A signal after the last step finds nothing to end.
    """

    def __init__(self):
        self.has_ended_run = False
        self._is_requested = False
        self._previous: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # Python lets nobody else listen
            self._previous = signal.signal(signal.SIGTERM, self._request)

    def _request(self, *_: Any) -> None:
        self._is_requested = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        is_requested = self._is_requested
        if dist.is_available() and dist.is_initialized():
            # The signal reaches processes in different steps; whoever saved alone would wait for the others forever.
            requested = torch.tensor(float(is_requested), device=args.device)
            dist.all_reduce(requested, op=dist.ReduceOp.MAX)
            is_requested = bool(requested)
        if is_requested and state.global_step < state.max_steps:
            self.has_ended_run = True
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        if self.has_ended_run:  # what is left of the time is for the checkpoint
            control.should_evaluate = False
        return control

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None


def ignore_terminate(worker_id: int) -> None:
    """Makes a worker of a DataLoader ignore SIGTERM: schedulers tell all processes of a job, and a worker that ends makes the run end
    without a checkpoint. Workers end with their process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
