"""The batches of a folder as a Ray Data pipeline: tasks that open images, actors that hold a model, and this process, which writes.

Ray holds back the tasks when the actors are slower, and starts an actor that has died again, with the batches that it had. What is
written, and how a killed run goes on, is as in `folder`.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..devices import compile_parts
from ..predictor import PsalmPredictor
from .folder import ATTEMPTS, READERS, FolderRun, attempt, check_prompt, given_up, open_batch, predict_images

BLOCKS = 10_000  # at most: a block of several batches costs Ray as much as one of a single batch
RESTARTS = 2 * ATTEMPTS  # of an actor, and tries of a batch, which is given up before


@dataclass(frozen=True)
class LoadPredictor:
    """Loading of the model in an actor; see `PsalmPredictor.from_pretrained`."""

    checkpoint: str
    device: str | None = None
    dtype: str | None = None
    is_compiled: bool = False

    def __call__(self) -> PsalmPredictor:
        """The predictor."""
        predictor = PsalmPredictor.from_pretrained(self.checkpoint, self.device, self.dtype, reuse_prefix=False)
        if self.is_compiled:
            compile_parts(predictor.model)
        return predictor


class BatchActor:
    """A model in a process of its own, which answers batches.

    Args:
        load: makes the predictor.
        prompt, overlays: see `predict_images`.
        folder: of the answers, see `attempt`.
    """

    def __init__(self, load: Any, prompt: Mapping[str, Any], overlays: Path | None, folder: Path):
        self.predictor, self.prompt, self.overlays, self.folder = load(), prompt, overlays, folder
        self.refusal: str | None = None
        try:
            check_prompt(self.predictor, prompt)
        except ValueError as error:  # raised here, Ray would start the actor again and again, and tell it as a failure of its own
            self.refusal = str(error)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Answers of one batch, or why no image can have any; see `read_answers`."""
        (number,), (content,) = batch["number"], batch["opened"]
        if self.refusal is not None:
            return {"number": [number], "answers": [json.dumps(self.refusal)]}
        opened = pickle.loads(content)  # written by `read_batch` below
        with attempt(self.folder, int(number)) as may_try:
            answers = predict_images(self.predictor, self.prompt, opened, self.overlays) if may_try else given_up(opened)
        return {"number": [number], "answers": [json.dumps(answers)]}


def read_batch(row: dict[str, Any]) -> dict[str, Any]:
    """Opens the images of a batch."""
    return {"number": row["number"], "opened": pickle.dumps(open_batch(pickle.loads(row["images"])))}


def read_answers(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers of a `BatchActor`, see `predict_images`.

    Raises:
        ValueError: the prompt is wrong, whatever the image.
    """
    answers = json.loads(row["answers"])
    if isinstance(answers, str):
        raise ValueError(answers)
    return answers


def predict_with_ray(
    run: FolderRun, load: Any, *, actors: int | None = None, actor_cpus: int = 1, uses_gpus: bool = True, readers: int = READERS
) -> None:
    """Does the batches that are missing, under a progress bar.

    Ray is started on this machine, or asked where `RAY_ADDRESS` says; then the images and the output are on a disk that all machines see.

    Args:
        load: makes a predictor in the process of an actor, such as `LoadPredictor`.
        actors: default one for each GPU, else one for each `actor_cpus` CPUs.
        actor_cpus: CPUs of an actor, and threads of its model.
        uses_gpus: each actor has a GPU, where there are some.
        readers: processes that open images, for each actor.

    Raises:
        ImportError: Ray is not installed.
        OSError: an actor has died too often, or Ray has failed otherwise.
        ValueError: the prompt is wrong, whatever the image.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("--engine ray needs Ray; pip install 'psalm_hf[scale]'") from error
    missing = run.missing
    if not missing:
        return
    is_own = not ray.is_initialized()
    if is_own:
        _start(ray, actors, actor_cpus)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0)) if uses_gpus else 0
        number = min(actors or gpus or max(1, (os.cpu_count() or 1) // actor_cpus), len(missing))
        items = [{"number": batch, "images": pickle.dumps(list(run.batch(batch)))} for batch in missing]
        ray.data.DataContext.get_current().enable_progress_bars = False  # there is one of images
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray 2.60 about max_restarts, which it offers under no other name
            answers = (
                ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS))
                .map(read_batch, compute=ray.data.TaskPoolStrategy(size=number * readers))
                .map_batches(
                    BatchActor,
                    batch_size=1,
                    compute=ray.data.ActorPoolStrategy(size=number),
                    fn_constructor_args=(load, run.prompt, run.overlays, run.records.folder),
                    num_cpus=actor_cpus,
                    num_gpus=1 if gpus else 0,
                    max_restarts=RESTARTS,
                    max_task_retries=RESTARTS,
                )
            )
        with run.progress() as bar:
            for row in answers.iter_rows():
                run.append(int(row["number"]), read_answers(row))
                bar.update(len(run.batch(int(row["number"]))))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise OSError(f"Ray has given up ({type(error).__name__}: {reason}); what is written stays, the same command goes on") from error
    finally:
        if is_own:
            ray.shutdown()


def _start(ray: Any, actors: int | None, actor_cpus: int) -> None:
    """Starts Ray, or connects to the one that runs."""
    if os.environ.get("RAY_ADDRESS"):
        ray.init()
        return
    # CPUs are counted, not bound: where the actors take all, no task that opens images would begin. How many actors there will be is known
    # when Ray has counted the GPUs: at most one for each, or for each `actor_cpus` CPUs, where it finds none or none is to be used.
    cpus = os.cpu_count() or 1
    accelerators = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    wanted = (actors or max(1, cpus // actor_cpus, accelerators)) * actor_cpus
    ray.init(num_cpus=max(cpus, wanted + 2), include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
