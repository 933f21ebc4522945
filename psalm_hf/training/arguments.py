"""What can be set in a training run's YAML file."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class PsalmTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of this model: columns are kept, targets are named, the Trainer's guess is not used.

    Args:
        vision_learning_rate: of the vision tower; None freezes it, as the paper does. Its batch norms stay frozen in any case.
    """

    remove_unused_columns: bool = field(default=False, metadata={"help": "samples are no dictionaries of columns"})
    label_names: list[str] | None = field(default_factory=lambda: ["mask_labels", "class_labels"], metadata={"help": "names of targets"})
    vision_learning_rate: float | None = field(default=None, metadata={"help": "of the vision tower; None freezes it"})


@dataclass
class MixtureArguments:
    """Where the model comes from and what it learns.

    Args:
        checkpoint: folder or Hub id of the model and processor to start from.
        weights: task -> share of the steps.
        batch_sizes: task -> samples per batch.
        options: task -> options of its source.
    """

    checkpoint: str = field(metadata={"help": "folder or Hub id to start from"})
    weights: dict = field(metadata={"help": "task -> share of the steps"})
    batch_sizes: dict = field(metadata={"help": "task -> samples per batch"})
    options: dict = field(default_factory=dict, metadata={"help": "task -> options of its source"})
