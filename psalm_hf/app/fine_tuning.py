"""FineTuning: `psalm train` on a labelled folder, in a process of its own that can be stopped and goes on, and its numbers.

FOLDER/runs/NAME/config.yaml     the run can be repeated by `psalm train --config`
FOLDER/runs/NAME/train.log       what it printed
FOLDER/runs/NAME/checkpoint      its output_dir, and in the end the new checkpoint
FOLDER/runs/NAME/before, after   numbers and sheets on the held-out images
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..data.mixture import choose_mixture
from ..data.own.holdout import check_both_sides
from ..writing import write_file
from .label_folder import LabelFolder
from .limits import path_below

RUNS = "runs"
BEFORE_AFTER = ("before", "after")
MEASURED = "numbers.json"
TRAIN = [sys.executable, "-m", "psalm_hf.cli.main", "train"]
LOGGING_STEPS = 5
MAX_STEPS = 20_000
_PROCESSES: dict[Path, subprocess.Popen] = {}  # runs that this page has started
_STARTING = threading.Lock()


@dataclass(frozen=True)
class RunState:
    """State of a run at one moment.

    Attributes:
        phase: "none", "running", "stopped" (it can be resumed), "failed" or "ready".
        losses: (step, loss) as they were logged.
        steps: that it will have in the end.
        message: one line.
    """

    phase: str
    losses: tuple[tuple[int, float], ...]
    steps: int
    message: str


@dataclass(frozen=True)
class FineTuning:
    """A run of a folder; `name` is that of its folder below `runs`."""

    folder: LabelFolder
    name: str

    @classmethod
    def of(cls, folder: LabelFolder, name: str) -> FineTuning:
        """A run by its name.

        Raises:
            ValueError: the name is no plain word.
        """
        if not re.fullmatch(r"[\w-]{1,60}", name.strip()):
            raise ValueError(f"{name!r:.80}: the name of a run has letters, digits, _ and - only")
        return cls(folder, name.strip())

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return path_below(self.folder.root, f"{RUNS}/{self.name}")

    @property
    def checkpoint(self) -> Path:
        """The folder of the new checkpoint."""
        return self.path / "checkpoint"

    def start(self, checkpoint: str, *, steps: int, learning_rate: float, holdout: float) -> None:
        """Starts the training.

        Raises:
            ValueError: the run exists, or is running; nothing is labelled; a share that holds out no image or all.
        """
        if not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"steps: expected 1 to {MAX_STEPS}, got {steps}")
        with _STARTING:
            self._refuse_running()
            if self.path.exists():
                raise ValueError(f"the run {self.name} exists already: resume it, or give the new one another name")
            config = self._config(checkpoint, steps, learning_rate, holdout)
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            write_file(self.path / "config.yaml", lambda file: file.write(text.encode("utf-8")))
            self._begin([])

    def resume(self) -> None:
        """Goes on with a run that was stopped, or failed.

        Raises:
            ValueError: there is no such run, or it is running or ready.
        """
        with _STARTING:
            self._refuse_running()
            if not (self.path / "config.yaml").is_file():
                raise ValueError(f"there is no run {self.name} to go on with; start it")
            if self._is_ready():
                raise ValueError(f"the run {self.name} is ready; give a new one another name")
            has_checkpoint = any(self.checkpoint.glob("checkpoint-*"))
            self._begin(["--resume", "true"] if has_checkpoint else [])

    def stop(self) -> None:
        """Ends the training after its current step, with a checkpoint to go on from.

        Raises:
            ValueError: it is not running.
        """
        process = _PROCESSES.get(self.path)
        if process is None or process.poll() is not None:
            raise ValueError(f"the run {self.name} is not running")
        process.send_signal(signal.SIGTERM)

    def state(self) -> RunState:
        """Phase, losses and a line for the page."""
        if not (self.path / "config.yaml").is_file():
            return RunState("none", (), 0, f"There is no run {self.name} yet.")
        steps, losses = self.settings["max_steps"], self._losses()
        at = f"{losses[-1][0]} of {steps} steps, loss {losses[-1][1]:.3g}" if losses else "it is about to begin"
        process = _PROCESSES.get(self.path)
        if process is not None and process.poll() is None:
            return RunState("running", losses, steps, f"**{self.name}** trains: {at}.")
        if self._is_ready():
            return RunState("ready", losses, steps, f"**{self.name}** is ready: {at}.")
        if process is not None and process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM) or process is None:
            return RunState("stopped", losses, steps, f"**{self.name}** is stopped: {at}. Resume goes on.")
        return RunState("failed", losses, steps, f"**{self.name}** failed: {self._last_line()}")

    def measured(self) -> Iterator[str]:
        """Measures the checkpoint that the run began with and the new one, and yields a line as each begins.

        Raises:
            ValueError: the run is not ready, or a measurement failed.
        """
        if not self._is_ready():
            raise ValueError(f"the run {self.name} is not ready, so there is nothing to measure")
        started_from = str(self.settings["checkpoint"])
        for name, checkpoint in zip(BEFORE_AFTER, (started_from, str(self.checkpoint)), strict=True):
            if (self.path / name / MEASURED).is_file():
                continue
            yield f"Measuring {name} on the held-out images ..."
            command = [sys.executable, "-m", "psalm_hf.app.measuring", checkpoint, str(self.path / name), json.dumps(self.category_sources)]
            process = subprocess.run(command, capture_output=True, text=True)
            if process.returncode:
                raise ValueError((process.stderr.strip().splitlines() or ["the measurement ended without a word"])[-1])

    def numbers(self) -> list[list[Any]]:
        """Rows [source, number, before, after] in percent of what is measured; "IoU" of each source first."""
        found = []
        for name in BEFORE_AFTER:
            path = self.path / name / MEASURED
            found.append(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})
        before, after = found
        return [
            [source, number, round(before.get(source, {}).get(number, float("nan")), 1), round(value, 1)]
            for source, numbers in after.items()
            for number, value in sorted(numbers.items(), key=lambda item: (item[0] != "rows", item[0] != "IoU"))
            if not math.isnan(value)  # no object of that size
        ]

    def sheets(self) -> list[str]:
        """Paths of the sheets of the worst and the best predictions afterwards."""
        return [str(path) for path in sorted((self.path / BEFORE_AFTER[1]).glob("*/contact_sheet.png"))]

    @property
    def settings(self) -> dict[str, Any]:
        """The config of the run."""
        return yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))

    @property
    def category_sources(self) -> dict[str, dict[str, Any]]:
        """Sources that are measured: those of words; regions are not what was labelled."""
        return {name: options for name, options in self.settings["sources"].items() if "regions" not in options}

    def _config(self, checkpoint: str, steps: int, learning_rate: float, holdout: float) -> dict[str, Any]:
        prefix = "" if self.folder.images == "." else f"{self.folder.images}/"
        labelled = [f"{prefix}{name}" for name in self.folder.labelled()]
        if not labelled:
            raise ValueError("nothing is labelled yet: accept or draw something, and save it")
        check_both_sides(labelled, holdout)
        places = {"data_dir": str(self.folder.root), "holdout": holdout}
        weights: dict[str, float] = {}
        batch_sizes: dict[str, int] = {}
        sources: dict[str, dict[str, Any]] = {}
        if self.folder.categories():
            chosen = choose_mixture({"dataset": "own_coco", "images": self.folder.images, **places})
            weights |= {name: 1.0 if name == "categories" else 0.5 for name in chosen.weights}
            batch_sizes |= chosen.batch_sizes
            sources |= chosen.sources
        if self.folder.sentences_file.is_file():
            weights["sentences"], batch_sizes["sentences"] = 1.0, 4
            sources["sentences"] = {"dataset": "own_jsonl", **places}
        return {
            "checkpoint": checkpoint,
            "output_dir": str(self.checkpoint),
            "weights": weights,
            "batch_sizes": batch_sizes,
            "sources": {name: dict(options) for name, options in sources.items()},
            "max_steps": steps,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": min(30, steps // 10),
            "max_grad_norm": 1.0,
            "logging_steps": LOGGING_STEPS,
            "save_steps": max(20, steps // 5),
            "save_total_limit": 2,
            "dataloader_num_workers": 0,
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 0,
        }

    def _begin(self, options: list[str]) -> None:
        command = [*TRAIN, "--config", str(self.path / "config.yaml"), *options]
        with open(self.path / "train.log", "ab") as log:
            # A session of its own: Ctrl-C of the page reaches the page alone, which then stops its runs by SIGTERM.
            _PROCESSES[self.path] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=dict(os.environ)
            )

    def _refuse_running(self) -> None:
        process = _PROCESSES.get(self.path)
        if process is not None and process.poll() is None:
            raise ValueError(f"the run {self.name} is training already; stop it, or give the new one another name")

    def _is_ready(self) -> bool:
        return any((self.checkpoint / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))

    def _losses(self) -> tuple[tuple[int, float], ...]:
        """The Trainer prints a dictionary for each `LOGGING_STEPS` steps; a run that goes on prints on in the same file."""
        log = self.path / "train.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        entries = [ast.literal_eval(line) for line in re.findall(r"\{'loss': [^{}]*\}", text)]
        return tuple((number * LOGGING_STEPS, float(entry["loss"])) for number, entry in enumerate(entries, 1))

    def _last_line(self) -> str:
        log = self.path / "train.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
        return (lines or ["it ended without a word"])[-1][:500]


def run_names(folder: LabelFolder) -> list[str]:
    """Names of the runs of a folder."""
    return sorted(path.parent.name for path in (folder.root / RUNS).glob("*/config.yaml"))


def stop_all() -> None:
    """Stops all runs that this process has started, and waits until their checkpoints are written."""
    for process in _PROCESSES.values():
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in _PROCESSES.values():
        process.wait()
