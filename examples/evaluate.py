"""Measures a checkpoint on a benchmark under a named protocol.

    python examples/evaluate.py --benchmark shapes --checkpoint psalm-tiny --output-dir outputs/shapes
    python examples/evaluate.py --benchmark coco_panoptic --data-dir coco --checkpoint DIR --output-dir OUT --visualize 20
    accelerate launch examples/evaluate.py --benchmark refcoco --split testA --protocol released --data-dir refer_seg ...
    python examples/evaluate.py --benchmark coco_panoptic --data-dir coco --predictions OUT/predictions --output-dir AGAIN

OUT gets results.json (numbers, protocol, counts, checksum of the checkpoint, versions, the paper's numbers), results.md (a row of a table),
predictions/ in the benchmark's submission format, answers/ (what --resume goes on from), and pictures/ if asked for. All of results.json
but "run" is the same for any number of processes. Benchmarks, protocols and what each number means: docs/evaluation.md.
"""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

IMAGE_SIZE = 128  # of drawn pictures, where no processor says another
TIMEOUT = timedelta(hours=12)  # for which processes wait for each other: one may make rows, or write files, for long

CHOICES = {
    "threshold": (float, "class probability that a panoptic segment needs"),
    "overlap": (float, "share of its own mask that a panoptic segment must win"),
    "semantic_resize": (("scores", "logits"), "what is resized to the picture for a semantic map: scores of categories, or mask logits"),
    "names": (("first", "synonyms"), "what a category is called: its first name, or all of them in one prompt"),
    "refer_protocol": (("per_expression", "merged"), "a prompt per expression, or all expressions of an object in one"),
    "rasterisation": (("exact", "released"), "truth from polygons as pycocotools makes it, or as the released code does"),
    "referring_threshold": (float, "queries that score above it belong to the answer"),
    "no_target": (
        ("never", "threshold", "area", "processor"),
        "when the answer to an expression is that nothing is there; processor: by both thresholds that calibrate_referring.py left there",
    ),
    "min_area": (int, "pixels of the smallest answer, for --no-target area"),
    "vocabulary": (
        ("divided", "whole"),
        "names beyond the context length: several prompts, or one too long",
    ),
    "oracle": (bool, "point only at objects that the truth of the frame shows"),
    "memory": (("last_frame", "released", "first_last_confident"), "what is remembered of the objects of a video"),
    "visible_above": (float, "score above which an object of the other view is visible"),
    "passes": (("circular", "vanilla"), "MMBench: a question counts if it is right under all rotations of its options, or as it stands"),
}


def yaml_mapping(text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
        json.dumps(value)
    except (yaml.YAMLError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"is a YAML mapping such as '{{on_error: skip}}', got {text!r}") from error
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise argparse.ArgumentTypeError(f"is a YAML mapping such as '{{on_error: skip}}', got {text!r}")
    return value


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True, help="such as coco_panoptic; an unknown name lists all")
    parser.add_argument("--checkpoint", help="folder or Hub id, or psalm-tiny, which ships with the package")
    parser.add_argument("--predictions", type=Path, help="score these files, in the benchmark's submission format, instead of a model")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--data-dir", help="folder of the dataset's files")
    parser.add_argument("--split", help="default that on which the paper reports")
    parser.add_argument("--protocol", default="community", help="community (default) or released; sets the choices below")
    choices = parser.add_argument_group("choices", "what the protocol sets, one by one")
    for name, (values, text) in CHOICES.items():
        if values is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        else:
            kind = {"choices": values} if isinstance(values, tuple) else {"type": values}
        choices.add_argument(f"--{name.replace('_', '-')}", help=text, **kind)
    parser.add_argument("--parts", nargs="+", help="only these parts of the benchmark, such as point box")
    parser.add_argument("--options", type=yaml_mapping, default={}, help="further options of the dataset, as YAML")
    parser.add_argument("--limit", type=int, help="only the first pictures (default all)")
    parser.add_argument("--batch-size", type=int, default=4, help="rows per forward pass and process (default 4)")
    parser.add_argument("--num-workers", type=int, help="processes that prepare pictures (default 4 with a GPU, else 0)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default cuda where there is a GPU")
    parser.add_argument("--resume", action="store_true", help="go on with the answers in --output-dir")
    parser.add_argument("--visualize", type=int, default=0, help="pictures of that many answers, the worst and the best")
    options = parser.parse_args(arguments)
    if (options.checkpoint is None) == (options.predictions is None):
        parser.error("give either --checkpoint or --predictions")
    for name, lowest in (("limit", 1), ("batch_size", 1), ("num_workers", 0), ("visualize", 0), ("min_area", 0)):
        value = getattr(options, name)
        if value is not None and value < lowest:
            parser.error(f"--{name.replace('_', '-')} must be at least {lowest}, got {value}")
    for name in ("threshold", "overlap", "referring_threshold", "visible_above"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            parser.error(f"--{name.replace('_', '-')} must be between 0 and 1, got {value}")
    return options


def describe(options: argparse.Namespace, choices: dict[str, Any], split: str, data_options: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation must have in common with the answers that it goes on from."""
    from psalm_hf.evaluation.results import checkpoint_hash

    checkpoint = options.checkpoint and {"name": checkpoint_name(options), "sha256": checkpoint_hash(checkpoint_path(options))}
    return {
        "benchmark": options.benchmark,
        "split": split,
        "protocol": {"name": options.protocol, **choices},
        "data": {"parts": options.parts, "options": data_options, "limit": options.limit},
        "checkpoint": checkpoint,
        "dtype": options.dtype,
    }


def checkpoint_path(options: argparse.Namespace) -> str:
    from psalm_hf import tiny_checkpoint

    return str(tiny_checkpoint()) if options.checkpoint == "psalm-tiny" else options.checkpoint


def checkpoint_name(options: argparse.Namespace) -> str:
    return Path(options.checkpoint).name if Path(options.checkpoint).is_dir() else options.checkpoint


def check_folder(folder: Path, description: dict[str, Any], resume: bool) -> None:
    """Refuses a folder that holds something else than what is to be done."""
    path = folder / "run.json"
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"--output-dir {folder} is not empty, and holds no evaluation; give another one")
        return
    if not resume:
        raise ValueError(f"--output-dir {folder} holds an evaluation; go on with it by --resume, or give another folder")
    before = json.loads(path.read_text(encoding="utf-8"))
    for name in description:
        if before.get(name) != description[name]:
            was, now = json.dumps(before.get(name)), json.dumps(description[name])
            raise ValueError(f"--output-dir {folder} holds an evaluation with another {name}: {was}, now {now}; give another folder")


def open_parts(options: argparse.Namespace, choices: dict[str, Any], split: str, further: dict[str, Any]) -> list:
    from psalm_hf.evaluation.benchmarks import benchmark_of, open_part
    from psalm_hf.evaluation.datasets import first_images

    benchmark = benchmark_of(options.benchmark)
    names = [part.name for part in benchmark.parts]
    if unknown := set(options.parts or ()) - set(names):
        known = ", ".join(filter(None, names)) or "none"
        raise ValueError(f"--parts {' '.join(sorted(unknown))}: {options.benchmark} has the parts {known}")
    opened = []
    for part in benchmark.parts:
        if not options.parts or part.name in options.parts:
            found = open_part(benchmark, part, split, options.data_dir, choices, further)
            opened.append(replace(found, dataset=first_images(found.dataset, options.limit)) if options.limit else found)
    return opened


def load_model(options: argparse.Namespace, device: Any) -> Any:
    import torch

    from psalm_hf import PsalmForSegmentation

    dtype = getattr(torch, options.dtype)
    return PsalmForSegmentation.from_pretrained(checkpoint_path(options), dtype=dtype).to(device).eval()


def versions() -> dict[str, str]:
    import torch
    import transformers

    import psalm_hf

    return {"python": platform.python_version()} | {
        package.__name__: str(package.__version__) for package in (torch, transformers, psalm_hf)
    }


def read_predictions(options: argparse.Namespace, part: Any) -> tuple[Any, dict[int, dict[str, Any]]]:
    """The part with the measures for which there are files, and row -> answers by measure."""
    from psalm_hf.evaluation.benchmarks import formats_of

    formats = formats_of(options.benchmark, part)
    folder = options.predictions / part.part.name
    found = {measure.name: folder / measure.name for measure in part.measures if (folder / measure.name).is_dir()}
    found = found or {part.measures[0].name: folder}
    answers = {name: formats[name].read(path, part.dataset) for name, path in found.items()}
    measures = tuple(measure for measure in part.measures if measure.name in found)
    return replace(part, measures=measures), {
        row: {name: of_rows[row] for name, of_rows in answers.items()} for row in range(len(part.dataset))
    }


def write_files(options: argparse.Namespace, part: Any, rows: dict[str, Any]) -> None:
    """The answers of a part in its submission formats, and pictures of some."""
    from psalm_hf.evaluation.benchmarks import formats_of
    from psalm_hf.evaluation.pictures import KINDS, write_pictures

    for measure, format in formats_of(options.benchmark, part).items():
        if options.checkpoint:
            folder = options.output_dir / "predictions" / part.part.name / measure
            folder.mkdir(parents=True, exist_ok=True)
            format.write(folder, ((sample, answer) for _, sample, answer in rows[measure]))
        if options.visualize and measure in KINDS:
            things = {category.id for category in part.truths.get(measure, part.dataset).categories if category.is_thing}
            folder = options.output_dir / "pictures" / part.part.name / measure
            write_pictures(folder, rows[measure], measure, options.visualize, things)


def evaluate(options: argparse.Namespace) -> None:
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from psalm_hf import PsalmProcessor
    from psalm_hf.evaluation.benchmarks import benchmark_of, choices_of, with_thresholds
    from psalm_hf.evaluation.records import Records, read_answer, write_json
    from psalm_hf.evaluation.results import beside, fingerprint, flat, joint_results, markdown_row, part_results
    from psalm_hf.evaluation.runner import AnsweredRows, Processes, judge
    from psalm_hf.evaluation.vocabulary import lengthen_context

    benchmark = benchmark_of(options.benchmark)
    own = {name: getattr(options, name) for name in CHOICES if getattr(options, name) is not None}
    choices, split = choices_of(options.benchmark, options.protocol, own), options.split or benchmark.split
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU; leave the option out, or give --device cpu")
    if options.predictions and options.visualize and options.benchmark == "ego_exo4d":
        raise ValueError("--visualize: predictions for ego_exo4d have the size at which they are compared, not that of the pictures")
    processor = PsalmProcessor.from_pretrained(checkpoint_path(options)) if options.checkpoint else None
    choices = with_thresholds(choices, own, processor) if processor else choices
    further = {}
    if options.benchmark.endswith("shapes"):  # another size is another picture
        further["image_size"] = processor.image_processor.image_size if processor else IMAGE_SIZE
    description = describe(options, choices, split, {**further, **options.options})
    check_folder(options.output_dir, description, options.resume)

    began = time.perf_counter()
    on_cpu = options.device == "cpu" or not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    state = PartialState(cpu=on_cpu, timeout=TIMEOUT)
    if (launched := int(os.environ.get("WORLD_SIZE", 1))) != state.num_processes:  # each would answer every row
        raise ValueError(f"{launched} processes were launched, but Accelerate sees {state.num_processes}; launch with torchrun")
    processes = Processes(state.process_index, state.num_processes)
    model = load_model(options, state.device) if options.checkpoint else None
    if model and choices.get("vocabulary") == "whole":
        lengthen_context(model, processor)
    with state.main_process_first():  # which writes the cached rows
        parts = open_parts(options, choices, split, description["data"]["options"])
    description["rows"] = {part.part.name: fingerprint(part.dataset) for part in parts}
    check_folder(options.output_dir, description, options.resume)
    processes.wait()
    if state.is_main_process:
        options.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(options.output_dir / "run.json", description)
    processes.wait()

    found: dict[str, Any] = {}
    judged: list[Any] = []
    answered: list[tuple[Any, dict[str, Any]]] = []
    for part in parts:
        name = part.part.name
        if options.checkpoint:
            records = Records(options.output_dir / "answers" / name, processes.rank)
            if state.is_main_process:
                records.mend()
            processes.wait()
            answer_part(model, processor, part, records, processes, options, choices)
            places, read = records.places(), read_answer
        else:
            part, answers = read_predictions(options, part)
            places, read = {row: row for row in answers}, answers.__getitem__
        measures = judge(part, places, read, processes)
        if not state.is_main_process:
            continue
        found[name] = part_results(options.benchmark, part, measures)
        judged.append(measures)
        answered.append((part, {measure.name: AnsweredRows(part, places, read, measure.name) for measure in part.measures}))
    if state.is_main_process:
        is_joint = benchmark.is_joint and len(parts) == len(benchmark.parts)
        if is_joint:
            found["all"] = joint_results(judged)
        results = {
            **description,
            "percent": flat(found),
            "parts": found,
            "published": beside(options.benchmark, parts, is_joint),
            "versions": versions(),
            "run": {
                "seconds": round(time.perf_counter() - began, 1),
                "processes": processes.number,
                "batch_size": options.batch_size,
                "device": str(state.device),
            },
        }
        write_json(options.output_dir / "results.json", results)
        (options.output_dir / "results.md").write_text(markdown_row(results), encoding="utf-8")
        print(summary(results))
        for part, rows in answered:
            write_files(options, part, rows)
    processes.wait()
    state.destroy_process_group()


def answer_part(model: Any, processor: Any, part: Any, records: Any, processes: Any, options: argparse.Namespace, choices: dict) -> None:
    """Answers what has no answer yet."""
    from psalm_hf.evaluation.runner import answer
    from psalm_hf.evaluation.text_runner import answer_text
    from psalm_hf.evaluation.video_runner import answer_video

    if part.part.answered == "video":
        answer_video(model, processor, part, records, processes, policy=choices["memory"], oracle=choices["oracle"])
        return
    num_workers = (4 if model.device.type == "cuda" else 0) if options.num_workers is None else options.num_workers
    answer_rows = {"rows": answer, "text": answer_text}[part.part.answered]
    answer_rows(model, processor, part, records, processes, batch_size=options.batch_size, num_workers=num_workers)


def summary(results: dict[str, Any]) -> str:
    head = f"{results['benchmark']} {results['split']}, protocol {results['protocol']['name']}"
    lines = [head, *(f"  {name:<36}{value:7.2f}" for name, value in results["percent"].items())]
    for part, entry in results["published"].items():
        lines += [f"  paper{' ' + part if part else ''}: {name} {value}" for name, value in entry["numbers"].items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        evaluate(options)
    except (ValueError, OSError, ImportError) as error:
        where = f" in process {os.environ['RANK']}" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
        print(f"error{where}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
