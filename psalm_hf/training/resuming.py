"""Checks before a run goes on from a checkpoint: the checkpoint is complete, and batches are divided and drawn as before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..writing import write_json

SCHEDULE_NAME = "schedule.json"


def last_checkpoint(output_dir: str | Path) -> str:
    """Newest complete `checkpoint-<step>` of a run, for `train(resume_from_checkpoint=...)`.

    Raises:
        ValueError: there is none.
    """
    complete = [path for path in Path(output_dir).glob("checkpoint-*") if _is_complete(path)]
    if not complete:
        raise ValueError(f"{output_dir}: no complete checkpoint to go on from; start the run without resuming")
    return str(max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1])))


def _is_complete(checkpoint: Path) -> bool:
    # The Trainer writes its state last, after all processes have written theirs: a run that is killed while it saves leaves none, or half.
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return (checkpoint / "scheduler.pt").exists()  # absent with save_only_model, which leaves nothing to go on from


def write_schedule(checkpoint: str | Path, schedule: Mapping[str, Any]) -> None:
    """Notes in a checkpoint how the batches of its run are drawn."""
    write_json(Path(checkpoint, SCHEDULE_NAME), schedule, indent=2)


def check_schedule(checkpoint: str | Path, schedule: Mapping[str, Any]) -> None:
    """Refuses to go on with other batches: steps would be repeated or left out.

    Raises:
        ValueError: the checkpoint's run draws its batches otherwise, with what differs.
    """
    before = json.loads(Path(checkpoint, SCHEDULE_NAME).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(schedule))
    differing = [
        f"{name} was {before.get(name)}, is {now.get(name)}" for name in sorted(before.keys() | now) if before.get(name) != now.get(name)
    ]
    if differing:
        raise ValueError(
            f"{checkpoint}: its run draws batches otherwise: {'; '.join(differing)}; go on with the same options (batches_per_step is "
            "processes x gradient_accumulation_steps), or start a new run from its weights (checkpoint: in the config)"
        )
