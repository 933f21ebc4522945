"""A prompt on many images, into a folder: numbered batches, each written when it is done and never done again, joined at the end.

The batches follow from the sorted list of images alone, so that every engine, and a run that was killed, forms the same ones. On a CPU
an image has the same results, to the bit, whoever does its batch.

    task.json       what the run is about; the same command goes on, another one is refused
    answers/        a line of JSON for each batch, in a file for each process
    results.json    the list of a COCO results file
    images.json     images and categories, which `pycocotools.COCO` reads; its `loadRes` takes the results
    failures.json   images without results, and why
    overlays/       to look at, on request
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..checkpoints import resolve_checkpoint
from ..evaluation.records import Records
from ..evaluation.results import describe_checkpoint
from ..evaluation.runner import Processes
from ..predictor import PsalmPredictor
from ..result import PsalmResult, region_name
from ..tiling import read_tiles, tile_windows
from ..writing import is_unused, remove_unfinished, write_file, write_json
from .source import SourceImage, open_source_image

BATCH_SIZE = 8
READ_AHEAD = 2  # batches that are open beside the one that the model works on
READERS = 2  # threads
LARGEST_SIDE = 2**20  # pixels; images are smaller
ATTEMPTS = 3  # processes that may die of a batch, before it is given up


class FolderRun:
    """A prompt on a list of images, and the folder of its results. Several processes make it with the same arguments.

    Args:
        output: the folder.
        images: see `list_images`.
        prompt: of categories, expressions or regions, as `PsalmPredictor.predict` takes it.
        checkpoint, dtype: of the model, for the record.
        batch_size: images of a pass of the model.
        overlays: also draw the results.
        processes: those that share the work.

    Raises:
        ValueError: the folder holds another task, other files, or damaged records.
    """

    def __init__(
        self,
        output: Path,
        images: Sequence[SourceImage],
        prompt: Mapping[str, Any],
        *,
        checkpoint: str | None = None,
        dtype: str | None = None,
        batch_size: int = BATCH_SIZE,
        overlays: bool = False,
        processes: Processes | None = None,
    ):
        self.output, self.images, self.prompt, self.batch_size = output, images, dict(prompt), batch_size
        self.overlays = output / "overlays" if overlays else None
        self.processes = processes or Processes()
        self.about = {"checkpoint": checkpoint, "dtype": dtype, "prompt": _plain(self.prompt)}
        # Names are those below this folder: frames of two clips have the same.
        task = {"folder": os.path.commonpath({os.path.dirname(image.path) for image in images})}
        task |= {"images": len(images), "list": _digest(images), "batch_size": batch_size, "overlays": overlays}
        with self.processes.first_goes_first():
            if self.processes.rank == 0:
                if checkpoint is not None:  # by its content: it may have been trained on under the same name
                    self.about["checkpoint"] = describe_checkpoint(resolve_checkpoint(checkpoint))
                _begin(output, json.loads(json.dumps(self.about | task)))
            self.records = Records(output / "answers", self.processes.rank)
            if self.processes.rank == 0:
                self.records.mend()
        self.done = set(self.records.places())
        if self.processes.rank == 0:
            for file in self.records.folder.glob("*.attempt"):
                if int(file.stem) in self.done:  # a process died just after it had written it
                    file.unlink()
        self.processes.wait()  # before anyone writes: all must find the same batches to do

    @property
    def missing(self) -> list[int]:
        """Numbers of the batches that had no results when the run began."""
        return [number for number in range(-(-len(self.images) // self.batch_size)) if number not in self.done]

    def batch(self, number: int) -> Sequence[SourceImage]:
        """The images of a batch."""
        return self.images[number * self.batch_size : (number + 1) * self.batch_size]

    @contextmanager
    def progress(self) -> Iterator[tqdm]:
        """A bar of images: how many are done, how many a second, how long the others will take."""
        done = sum(len(self.batch(number)) for number in self.done)
        with tqdm(total=len(self.images), initial=done, desc="predict", unit="image", disable=self.processes.rank > 0) as bar:
            yield bar

    def append(self, number: int, answers: list[dict[str, Any]]) -> None:
        """Writes what `predict_images` has found in a batch; it is on the disk when this returns."""
        self.records.append([(number, answers)])

    def join(self) -> int:
        """Writes results, images and failures of all batches, and returns how many images failed. Nothing is held in memory.

        Raises:
            ValueError: a batch has no results.
        """
        stored = self.records.predictions()
        if missing := [number for number in range(-(-len(self.images) // self.batch_size)) if number not in stored]:
            raise ValueError(f"{self.output}: batch {missing[0]} has no results; give the same command again")

        def answers() -> Iterator[dict[str, Any]]:
            return (answer for number in range(len(stored)) for answer in stored[number])

        notes = Counter(answer["note"] for answer in answers() if "note" in answer)
        shown = ("id", "file_name", "width", "height", "absent")
        images = ({name: answer[name] for name in shown if name in answer} for answer in answers() if "failure" not in answer)
        info = self.about | ({"notes": dict(notes)} if notes else {})
        head = {"info": info, "categories": coco_categories(self.prompt), "annotations": []}

        def write_images(file: BinaryIO) -> None:
            file.write(json.dumps(head)[:-1].encode() + b', "images": ')
            _write_list(file, images)
            file.write(b"}")

        write_file(self.output / "images.json", write_images)
        keys = ("id", "file_name", "failure")
        failed = [{name: answer[name] for name in keys} for answer in answers() if "failure" in answer]
        write_json(self.output / "failures.json", failed, indent=1)
        results = (entry for answer in answers() for entry in answer.get("results", ()))
        write_file(self.output / "results.json", lambda file: _write_list(file, results))  # last: where it is, all is
        return len(failed)


def predict_folder(run: FolderRun, predictor: PsalmPredictor, *, readers: int = READERS) -> None:
    """Does this process's share of the batches that are missing, under a progress bar. Images are read while the model computes.

    Args:
        readers: threads that open images.

    Raises:
        ValueError: the prompt is wrong, whatever the image.
    """
    mine = run.missing[run.processes.rank :: run.processes.number]
    if mine:
        check_prompt(predictor, run.prompt)
    with run.progress() as bar:
        for number, opened in _opened_batches(((number, run.batch(number)) for number in mine), readers):
            with attempt(run.records.folder, number) as may_try:
                run.append(number, predict_images(predictor, run.prompt, opened, run.overlays) if may_try else given_up(opened))
            bar.update(min(len(opened) * run.processes.number, bar.total - bar.n))
    run.processes.wait()


@contextmanager
def attempt(folder: Path, number: int) -> Iterator[bool]:
    """Context of the work on a batch, in which a file says that a process is at it: what kills a process would kill every run here.

    Args:
        folder: of the answers.
        number: of the batch.

    Yields:
        False if `ATTEMPTS` processes have died of the batch.
    """
    file = folder / f"{number}.attempt"
    with open(file, "ab") as counted:
        died = counted.tell()
        counted.write(b"+")
    try:
        yield died < ATTEMPTS
    finally:
        file.unlink(missing_ok=True)  # Ray may do a batch twice, if it takes an actor for dead


def given_up(opened: Sequence[tuple[SourceImage, Image.Image | str]]) -> list[dict[str, Any]]:
    """The answers about a batch that was tried too often, see `predict_images`."""
    reason = f"given up: {ATTEMPTS} processes died while they worked on its batch of {len(opened)} images"
    return [
        {"id": source.image_id, "file_name": source.name, "failure": image if isinstance(image, str) else reason}
        for source, image in opened
    ]


def check_prompt(predictor: PsalmPredictor, prompt: Mapping[str, Any]) -> None:
    """Asks about a blank image, so that a wrong prompt is no failure of every image. Regions and tiles belong to images of some size:
    instead of each region a point is asked for, and no tiles."""
    if prompt.get("tiles") is not None:
        tiles = read_tiles(prompt["tiles"])
        # What is refused for an image that is so much larger than a tile is refused for every image.
        side = 2 * tiles if isinstance(tiles, int) else LARGEST_SIDE
        tile_windows((side, side), tiles)
    regions = prompt.get("regions")
    if regions is not None:
        regions = [{"point": (32, 32)}] * (1 if isinstance(regions, Mapping) else len(regions))
    predictor.predict_batch([(Image.new("RGB", (64, 64)), [{**prompt, "regions": regions, "tiles": None}])])


def predict_images(
    predictor: PsalmPredictor,
    prompt: Mapping[str, Any],
    opened: Sequence[tuple[SourceImage, Image.Image | str]],
    overlays: Path | None = None,
) -> list[dict[str, Any]]:
    """The answers about a batch, as JSON holds them.

    Args:
        opened: an image, or why it could not be read.
        overlays: folder for drawings.

    Returns:
        Per image `id`, `file_name`, and either `failure`, a text, or `width`, `height`, `results`, entries of a COCO results file;
        `absent`, the expressions that mean nothing, with the score that came closest; `note` of the result, if it has one.
    """
    predictor.reset_image()  # features of the batch before may have other bits than those of this one
    readable = [image for _, image in opened if not isinstance(image, str)]
    results = iter(_results(predictor, prompt, readable))
    answers = []
    for source, image in opened:
        found = image if isinstance(image, str) else next(results)
        answer: dict[str, Any] = {"id": source.image_id, "file_name": source.name}
        if isinstance(found, str):
            answers.append(answer | {"failure": found})
            continue
        if overlays is not None:
            _write_overlay(overlays / _overlay_name(source), found)
        answer |= {"width": found.image.width, "height": found.image.height, "results": found.to_coco(source.image_id)}
        answer |= {"absent": dict(found.absent)} if found.absent else {}
        answers.append(answer | ({"note": found.note} if found.note else {}))
    return answers


def _results(predictor: PsalmPredictor, prompt: Mapping[str, Any], images: Sequence[Image.Image]) -> list[PsalmResult | str]:
    """Result of each image, or why there is none. What one image makes impossible is done one by one for the others."""
    try:
        return [result for (result,) in predictor.predict_batch([(image, [_prompt_about(image, prompt)]) for image in images])]
    except (ValueError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, ValueError) or _is_out_of_memory(error)):
            raise
        if len(images) == 1:
            return [str(error) if isinstance(error, ValueError) else f"out of memory: {error}"]
    return [result for image in images for result in _results(predictor, prompt, [image])]


def _is_out_of_memory(error: Exception) -> bool:
    """True for errors of NumPy, of a device, and of torch on a CPU, which has no kind of its own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def _prompt_about(image: Image.Image, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
    """The prompt; without tiles where one of so many pixels would hold the whole image."""
    tiles = prompt.get("tiles")
    return {**prompt, "tiles": None} if isinstance(tiles, int | np.integer) and tiles >= max(image.size) else prompt


def open_batch(images: Iterable[SourceImage]) -> list[tuple[SourceImage, Image.Image | str]]:
    """Each image, or why it cannot be read."""
    return [_open(image) for image in images]


def _open(image: SourceImage) -> tuple[SourceImage, Image.Image | str]:
    try:
        return image, open_source_image(image)
    except ValueError as error:
        return image, str(error)


def _opened_batches(
    batches: Iterable[tuple[int, Sequence[SourceImage]]], readers: int
) -> Iterator[tuple[int, list[tuple[SourceImage, Image.Image | str]]]]:
    """Batches in order, while threads open those that follow, `READ_AHEAD` of them."""
    waiting: deque = deque()
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    try:
        for number, images in batches:
            waiting.append((number, [pool.submit(_open, image) for image in images]))
            if len(waiting) > READ_AHEAD:
                number, futures = waiting.popleft()
                yield number, [future.result() for future in futures]
                del futures
        while waiting:
            number, futures = waiting.popleft()
            yield number, [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def coco_categories(prompt: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The `categories` of a COCO file: those of the prompt, its expressions, or its regions; ids 1, 2, ... in their order.

    Args:
        prompt: as `PsalmPredictor.predict` takes it.
    """
    if prompt.get("categories") is not None:
        stuff = prompt.get("stuff", ())
        return [{"id": number, "name": name, "isthing": int(name not in stuff)} for number, name in enumerate(prompt["categories"], 1)]
    if prompt.get("expressions") is not None:
        texts = [prompt["expressions"]] if isinstance(prompt["expressions"], str) else prompt["expressions"]
        names = [text if isinstance(text, str) else "; ".join(text) for text in texts]
    else:
        regions = [prompt["regions"]] if isinstance(prompt["regions"], Mapping) else prompt["regions"]
        names = list(map(region_name, regions))
    return [{"id": number, "name": name} for number, name in enumerate(names, 1)]


def _write_list(file: BinaryIO, entries: Iterable[Any]) -> None:
    """A list as JSON, an entry a line."""
    separator = b"[\n"
    for entry in entries:
        file.write(separator + json.dumps(entry, separators=(",", ":")).encode())
        separator = b",\n"
    file.write(b"[]" if separator == b"[\n" else b"\n]")


def _overlay_name(image: SourceImage) -> str:
    """File name of an overlay. Names of members and ids may be a stranger's, and must not lead out of the folder."""
    name = f"{image.image_id:08}" if isinstance(image.image_id, int) else f"{_checksum(image.image_id)}_{image.image_id!s:.20}"
    return re.sub(r"[^\w.-]", "_", f"{name}_{os.path.basename(image.name):.80}.jpg")


def _checksum(text: str | None) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()[:8]


def _write_overlay(path: Path, result: PsalmResult) -> None:
    overlay = result.plot()
    write_file(path, lambda file: overlay.save(file, format="JPEG", quality=90))


def _digest(images: Iterable[SourceImage]) -> str:
    """Checksum of the list: ids, names, and the columns that hold the images."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.image_id!r} {image.name!r} {image.column!r}\n".encode())
    return digest.hexdigest()[:16]


def _plain(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt as JSON holds it; of a mask in a file its name and its content."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return f"{value} {hashlib.sha256(value.read_bytes()).hexdigest()[:16]}"
        if isinstance(value, Mapping):
            return {name: plain(inner) for name, inner in value.items()}
        if isinstance(value, np.generic):
            return value.item()
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    return plain({name: value for name, value in prompt.items() if value is not None})


def _begin(output: Path, task: dict[str, Any]) -> None:
    """Makes the folder, or sees to it that it is that of the same task. What a killed run left unfinished is removed."""
    file = output / "task.json"
    if not file.is_file() and not is_unused(output):
        raise ValueError(f"--output {output}: holds other files; give a new folder")
    remove_unfinished(output)
    is_begun = any(output.glob("answers/*.jsonl"))
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError) as error:
        if is_begun:
            raise ValueError(f"{file}: is damaged ({error}); give another folder") from error
        before = {}
    if not is_begun:
        if before != task:
            for died in output.glob("answers/*.attempt"):  # of batches of another task
                died.unlink()
            write_json(file, task, indent=1)
        return
    if changed := [name for name in task if before.get(name) != task[name]]:
        raise ValueError(
            f"--output {output}: was begun with {changed[0]} {before.get(changed[0])!r:.200}, now it is {task[changed[0]]!r:.200}; "
            "give the same images and options, or another folder"
        )
