"""THE TABLE: what a task consists of, one row per task.

A task is a kind of prompt, the words around it, the way from network outputs to its answer, and the measures that answer is judged by.
Whoever runs a task reads its row instead of comparing names; a new task is a new row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .structures import Condition


@dataclass(frozen=True)
class Task:
    """One row.

    Attributes:
        condition: the kind of prompt, and so the keyword of `PsalmProcessor.__call__` that carries it: "category" `categories`,
            "sentence" `expressions`, "region" `regions`.
        prompt: name of the instruction in `model.prompts.HUMAN_TURNS`; for categories also the processor's `task` argument.
        post_process: name of the `PsalmProcessor` method that turns outputs into the answer.
        metrics: what the answer is judged by, under the names the benchmarks use.
    """

    condition: Condition
    prompt: str
    post_process: str
    metrics: tuple[str, ...]


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "panoptic": Task("category", "panoptic", "post_process_panoptic_segmentation", ("PQ",)),
        "semantic": Task("category", "semantic", "post_process_semantic_segmentation", ("mIoU",)),
        "instance": Task("category", "instance", "post_process_instance_segmentation", ("AP",)),
        "referring": Task("sentence", "sentence", "post_process_referring_segmentation", ("cIoU", "gIoU", "N-acc", "T-acc")),
        "interactive": Task("region", "region", "post_process_region_segmentation", ("mIoU", "cIoU")),
    }
)
