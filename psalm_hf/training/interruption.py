"""SIGTERM, with which schedulers announce the end of a job: the run ends after the current step, with a complete checkpoint."""

import signal
import threading
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopOnTerminate(TrainerCallback):
    """Turns SIGTERM into a checkpoint and an early end. One process that was told is enough: all end after the same step."""

    def __init__(self):
        self.is_requested = False
        self._previous: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # Python lets nobody else listen
            self._previous = signal.signal(signal.SIGTERM, self._request)

    def _request(self, *_: Any) -> None:
        self.is_requested = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        if dist.is_available() and dist.is_initialized():
            # The signal reaches processes in different steps; whoever saved alone would wait for the others forever.
            requested = torch.tensor(float(self.is_requested), device=args.device)
            dist.all_reduce(requested, op=dist.ReduceOp.MAX)
            self.is_requested = bool(requested)
        if self.is_requested:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None
