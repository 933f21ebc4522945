"""Epochs, samples and batch sizes of a run as they are: counted from the batches that are drawn, which the Trainer does not know."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.mixture import OneTaskPerBatch, TaskSources


class CountedProgress(TrainerCallback):
    """Writes the counts of a run into its state, and so into its logs and checkpoints.

    Args:
        batches: batches of the run.
        sources: what they are drawn from.
    """

    def __init__(self, batches: OneTaskPerBatch, sources: TaskSources):
        self.batches = batches
        self._epoch_length = sources.epoch_length(name for name, weight in batches.weights.items() if weight)
        self._first_step = 0

    @property
    def batch_size(self) -> int:
        """Samples of a batch of one process: the mean over the run, rounded, where sources have different ones."""
        return max(1, round(self.batches.samples_in(self.batches.num_steps) / len(self.batches)))

    def epoch(self, step: int) -> float | None:
        """Samples drawn so far by the samples of all sources that are drawn; None where they are not counted (shapes, streams)."""
        return None if self._epoch_length is None else self.batches.samples_in(step) / self._epoch_length

    def speed(self, step: int, seconds: float) -> dict[str, float]:
        """Samples and steps per second since the run began or went on; none before any time has passed."""
        samples = self.batches.samples_in(step) - self.batches.samples_in(self._first_step)
        counted = {"train_samples_per_second": samples, "train_steps_per_second": step - self._first_step}
        return {name: round(number / seconds, 3) for name, number in counted.items()} if seconds else {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._first_step = state.global_step
        state.train_batch_size = self.batch_size
        if self._epoch_length is not None:
            state.num_train_epochs = math.ceil(self.epoch(state.max_steps))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._epoch_length is not None:
            state.epoch = self.epoch(state.global_step)
