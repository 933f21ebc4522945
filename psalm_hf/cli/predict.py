"""Segments many images by one prompt, into a folder: COCO results, and drawings on request. It goes on where it was interrupted.

    psalm predict photos --categories cup table wall --task instance --output predicted
    psalm predict photos "more/*.jpg" list.txt --expression "the red cup" --overlays --output predicted
    psalm predict shards/*.tar --categories cup --task instance --checkpoint DIR --output predicted
    psalm predict data/*.parquet --categories cup --task instance --output predicted
    accelerate launch --num_processes 4 examples/predict.py photos --categories cup --output predicted
    psalm predict photos --categories cup --output predicted --engine ray --actors 4

IMAGES are images, folders with all folders inside, patterns, text files with a path per line, tar shards, parquet files of a dataset, or
the annotations of a COCO dataset, whose image ids are kept. The folder gets
    results.json    the list of a COCO results file: masks as run-length codes, boxes x, y, width, height, scores
    images.json     the images (id, file_name, width, height) and categories; pycocotools.COCO reads it, and its loadRes the results
    failures.json   images that could not be read, and why
    answers/        what is done, written batch by batch; the same command goes on there, other options are refused
    overlays/       with --overlays: the images with their masks

Exit status: 0 = done, 1 = done, but some images failed, 2 = refused, 130 = interrupted. What the results of each kind of prompt mean,
rates, and a plan for a million images: the page Many images of the documentation.
"""

import argparse
import glob
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints import TINY, resolve_checkpoint
from .command import CommandParser, add_model_options, load_model, say, verb
from .evaluate import TIMEOUT
from .prompt_options import add_prompt_options, check_prompt_options, read_prompt

if TYPE_CHECKING:
    import torch

    from ..scale.folder import FolderRun

SOME_FAILED = 1  # exit status


@verb
def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    resolve_checkpoint(options.checkpoint)  # what no checkpoint can be called is refused before torch is loaded

    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from ..devices import pick_device
    from ..evaluation.runner import Processes
    from ..locking import only_run
    from ..result import loaded_region
    from ..scale.folder import FolderRun
    from ..scale.source import list_images

    prompt = read_prompt(options, is_shapes=options.checkpoint == TINY)
    for region in prompt.get("regions", ()):
        loaded_region(region)  # masks of regions are files
    check_output(options)
    images = list_images(options.images, image_column=options.image_column, image_folder=options.image_folder)
    is_cpu = pick_device(options.device).type == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU")
    state = PartialState(cpu=is_cpu, timeout=TIMEOUT)
    if (launched := int(os.environ.get("WORLD_SIZE", 1))) != state.num_processes:  # each would do every batch
        raise ValueError(f"{launched} processes were launched, but Accelerate sees {state.num_processes}; launch with torchrun")
    if options.engine == "ray" and launched > 1:
        raise ValueError("--engine ray starts processes itself; call it without a launcher")
    processes = Processes(state.process_index, state.num_processes)
    with only_run(options.output, processes.lock):
        run = FolderRun(
            options.output,
            images,
            prompt,
            checkpoint=options.checkpoint,
            dtype=options.dtype,
            batch_size=options.batch_size,
            overlays=options.overlays,
            processes=processes,
        )
        if processes.rank == 0:
            say(f"{len(images)} images in batches of {options.batch_size}; {len(run.missing)} batches to do")
        predict_with_engine(options, run, state.device)
        failed = run.join() if processes.rank == 0 else 0
    state.destroy_process_group()
    if processes.rank == 0:
        say(f"wrote {options.output / 'results.json'}")
        if failed:
            say(f"{failed} of {len(images)} images failed, see {options.output / 'failures.json'}")
    return SOME_FAILED if failed else 0


def predict_with_engine(options: argparse.Namespace, run: "FolderRun", device: "torch.device") -> None:
    """Does the batches that are missing."""
    from ..scale.folder import predict_folder

    if options.engine == "ray":
        from ..scale.ray_engine import LoadPredictor, predict_with_ray

        load = LoadPredictor(options.checkpoint, options.device, options.dtype, options.compile)
        uses_gpus = options.device != "cpu"
        predict_with_ray(run, load, actors=options.actors, actor_cpus=options.actor_cpus, uses_gpus=uses_gpus, readers=options.readers)
        return
    from ..predictor import PsalmPredictor

    predictor = None
    if run.missing:
        options.device = "cpu" if device.type == "cpu" else str(device)
        # Without what earlier prompts have left: the same batch gives the same bits.
        predictor = PsalmPredictor(*load_model(options), reuse_prefix=False, checkpoint=options.checkpoint)
    predict_folder(run, predictor, readers=options.readers)


def check_output(options: argparse.Namespace) -> None:
    """Refuses an output folder inside of a folder of images, whose overlays the next call would find there."""
    output = options.output.resolve()
    for source in options.images:
        start, stars, _ = source.partition("**")  # a pattern that looks in all folders inside
        folders = glob.glob(start or os.curdir) if stars else [source] if os.path.isdir(source) else []
        if any(output.is_relative_to(Path(folder).resolve()) for folder in folders):
            raise ValueError(f"--output {options.output}: lies in {source}, which is searched for images; give a folder beside it")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser("predict", __doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, patterns, lists, tar shards, parquet files")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    add_prompt_options(parser)
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images of a pass of the model (default: 8)")
    parser.add_argument(
        "--readers", type=int, default=2, metavar="N", help="threads (Ray: processes) that open images beside each model (default: 2)"
    )
    parser.add_argument("--overlays", action="store_true", help="also draw the results")
    parser.add_argument("--image-column", metavar="NAME", help="of parquet files (default: image, or the only one with images)")
    parser.add_argument("--image-folder", metavar="DIR", help="of the images that a JSON file names (default: its own)")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="default: this process, or those of a launcher")
    parser.add_argument("--actors", type=int, metavar="N", help="models that Ray runs (default: one per GPU, else as --actor-cpus allows)")
    parser.add_argument("--actor-cpus", type=int, default=1, metavar="N", help="CPUs of each of them (default: 1)")
    add_model_options(parser)
    options = parser.parse_args(arguments)
    check_prompt_options(parser, options)
    parser.check_range(options, "batch_size", "readers", "actors", "actor_cpus", lowest=1)
    if options.actors and options.engine != "ray":
        parser.error("--actors goes with --engine ray; several processes: accelerate launch examples/predict.py")
    if options.actor_cpus != parser.get_default("actor_cpus") and options.engine != "ray":
        parser.error("--actor-cpus goes with --engine ray")
    if options.image_folder is not None and not any(source.lower().endswith(".json") for source in options.images):
        parser.error("--image-folder goes with a JSON file, whose images it holds; a folder of images is named as it is")
    return options


if __name__ == "__main__":
    sys.exit(main())
