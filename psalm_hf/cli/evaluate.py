"""Measures a checkpoint on a benchmark under a named protocol.

    psalm evaluate --benchmark shapes --checkpoint psalm-tiny --output-dir outputs/shapes
    psalm evaluate --benchmark coco_panoptic --data-dir coco --checkpoint DIR --output-dir OUT --visualize 20
    accelerate launch examples/evaluate.py --benchmark refcoco --split testA --protocol released --data-dir refer_seg ...
    psalm evaluate --benchmark coco_panoptic --data-dir coco --predictions OUT/predictions --output-dir AGAIN

OUT gets results.json (numbers, protocol, counts, checksum of the checkpoint, versions, the paper's numbers), results.md (tables, with the
methods that the paper compares with), predictions/ in the benchmark's submission format, answers/ (what --resume goes on from), and
pictures/ if asked for. All of results.json but "run" is the same for any number of processes. Benchmarks, protocols and what each number
means: the page Evaluation of the documentation.
"""

import argparse
import os
import sys
from datetime import timedelta
from pathlib import Path

from .command import CommandParser, suggest_bfloat16, verb, yaml_mapping

TIMEOUT = timedelta(hours=12)  # for which processes wait for each other: one may make rows, or write files, for long

BENCHMARK_CHOICES = {
    "threshold": (float, "class probability that a panoptic segment needs"),
    "overlap": (float, "share of its own mask that a panoptic segment must win"),
    "semantic_resize": (("scores", "logits"), "what is resized to the image for a semantic map: scores of categories, or mask logits"),
    "names": (("first", "synonyms"), "what a category is called: its first name, or all of them in one prompt"),
    "refer_protocol": (("per_expression", "merged"), "a prompt per expression, or all expressions of an object in one"),
    "rasterisation": (("exact", "released"), "targets from polygons as pycocotools makes it, or as the released code does"),
    "referring_threshold": (float, "queries that score above it belong to the answer"),
    "no_target": (
        ("never", "threshold", "area", "processor"),
        "when the answer to an expression is that nothing is there; processor: by both thresholds that psalm calibrate left there",
    ),
    "instances_threshold": (float, "instances of an expression that score above it are its set (default: the processor's)"),
    "no_target_threshold": (float, "an expression means nothing unless a mask scores above it (default: the processor's)"),
    "nms_threshold": (float, "IoU above which the worse of two instances is left out; 1 = never (default: the processor's)"),
    "crowds": (("meant", "left out"), "of gRefCOCO: whether crowds are meant like any object, or left out of what is meant"),
    "min_area": (int, "pixels of the smallest answer, for --no-target area"),
    "vocabulary": (("divided", "whole"), "names beyond the context length: several prompts, or one too long"),
    "oracle": (bool, "point only at objects that the target of the frame shows"),
    "memory": (("last_frame", "released", "first_last_confident"), "what is remembered of the objects of a video"),
    "look_every": (int, "frames of a video between two searches for what an expression means"),
    "visible_above": (float, "score above which an object of the other view is visible"),
    "passes": (("circular", "vanilla"), "MMBench: a question counts if it is right under all rotations of its options, or as it stands"),
}
# Options that `Evaluation` takes under the same names.
EVALUATION_OPTIONS = ("split", "data_dir", "protocol", "parts", "options", "limit", "output_dir", "resume", "predictions", "visualize")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("evaluate", __doc__)
    parser.add_argument("--benchmark", required=True, help="such as coco_panoptic; an unknown name lists all")
    parser.add_argument("--checkpoint", help="folder or Hub id, or psalm-tiny, which ships with the package")
    parser.add_argument("--predictions", type=Path, help="score these files, in the benchmark's submission format, instead of a model")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--data-dir", help="folder of the dataset's files")
    parser.add_argument("--split", help="default that on which the paper reports")
    parser.add_argument("--protocol", default="community", help="community (default) or released; sets the choices below")
    choices = parser.add_argument_group("choices", "what the protocol sets, one by one")
    for name, (values, text) in BENCHMARK_CHOICES.items():
        if values is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        else:
            kind = {"choices": values} if isinstance(values, tuple) else {"type": values}
        choices.add_argument(f"--{name.replace('_', '-')}", help=text, **kind)
    parser.add_argument("--parts", nargs="+", help="only these parts of the benchmark, such as point box")
    parser.add_argument("--options", type=yaml_mapping, default={}, help="further options of the dataset, as YAML")
    parser.add_argument("--limit", type=int, help="only the first images (default all)")
    parser.add_argument("--batch-size", type=int, default=4, help="rows per forward pass and process (default 4)")
    parser.add_argument("--num-workers", type=int, help="processes that prepare images (default 4 with a GPU, else 0)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", help="such as cpu, cuda, mps or xpu (default: a GPU if there is one)")
    parser.add_argument("--resume", action="store_true", help="go on with the answers in --output-dir")
    parser.add_argument("--visualize", type=int, default=0, help="drawings of that many predictions, the worst and the best")
    options = parser.parse_args(arguments)
    if (options.checkpoint is None) == (options.predictions is None):
        parser.error("give either --checkpoint or --predictions")
    parser.check_range(options, "limit", "batch_size", "look_every", lowest=1)
    parser.check_range(options, "num_workers", "visualize", "min_area", lowest=0)
    scores = [name for name in BENCHMARK_CHOICES if name.endswith("threshold")]
    parser.check_range(options, *scores, "overlap", "visible_above", lowest=0, highest=1)
    return options


@verb
def main(arguments: list[str] | None = None) -> None:
    """Everything that can be refused is refused before the model is loaded."""
    options = parse_arguments(arguments)

    from ..checkpoints import resolve_checkpoint

    checkpoint = resolve_checkpoint(options.checkpoint) if options.checkpoint else None

    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from ..devices import pick_device
    from ..evaluation import Evaluation
    from ..evaluation.benchmarks import choices_of
    from ..evaluation.runner import Processes
    from ..locking import only_run
    from ..public import PsalmForSegmentation, PsalmProcessor

    own = {name: getattr(options, name) for name in BENCHMARK_CHOICES if getattr(options, name) is not None}
    choices_of(options.benchmark, options.protocol, own)
    device = pick_device(options.device)
    processor = PsalmProcessor.from_pretrained(checkpoint) if checkpoint else None

    state = PartialState(cpu=device.type == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=TIMEOUT)
    if (launched := int(os.environ.get("WORLD_SIZE", 1))) != state.num_processes:  # each would answer every row
        raise ValueError(f"{launched} processes were launched, but Accelerate sees {state.num_processes}; launch with torchrun")
    processes = Processes(state.process_index, state.num_processes)
    with only_run(options.output_dir, processes.lock):
        evaluation = Evaluation(
            options.benchmark,
            processor,
            choices=own,
            checkpoint=checkpoint,
            processes=processes,
            **{name: getattr(options, name) for name in EVALUATION_OPTIONS},
        )
        model = None
        if checkpoint:
            model = PsalmForSegmentation.from_pretrained(checkpoint, dtype=options.dtype).to(state.device).eval()
            suggest_bfloat16(model)
        num_workers = (0 if state.device.type == "cpu" else 4) if options.num_workers is None else options.num_workers
        results = evaluation.run(model, batch_size=options.batch_size, num_workers=num_workers)
        if results is not None:
            print(results)
    state.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
