"""Training: arguments, batches of one task, the Trainer, and vision pretraining for models that start from nothing."""

from .stages import build_trainer, train

__all__ = ["build_trainer", "train"]
