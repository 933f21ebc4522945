"""One model on one benchmark: opened and checked first, then predicted, evaluated and written down.

Whatever is measured is measured here: by the command, during training, and where thresholds are chosen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data import DATASETS
from ..data.mixture import check_source, named_source
from ..locking import only_run
from ..spelling import did_you_mean
from ..vocabulary import lengthen_context
from ..writing import is_unused, remove_unfinished, replaced_files, sync_tree, write_json
from .benchmarks import (
    Benchmark,
    BenchmarkPart,
    Choices,
    MakeEvaluators,
    OpenPart,
    benchmark_of,
    choices_of,
    formats_of,
    open_part,
    with_processor,
)
from .comparisons import SCORES, write_comparisons
from .evaluators.base import Evaluator, Numbers
from .records import PredictionsInMemory, Records
from .results import Results, beside, describe_checkpoint, fingerprint, flat, joint_results, part_results, versions
from .runner import MaskPredictor, PredictedRows, Processes, evaluate_predictions, predict
from .text import TextPredictor
from .video import ExpressionVideoPredictor, FirstMaskPredictor, VideoPredictor

IMAGE_SIZE = 128  # of drawn images, where no processor says another
PREDICTORS = {  # by `BenchmarkPart.predicted`
    "rows": MaskPredictor,
    "video": VideoPredictor,
    "video by expressions": ExpressionVideoPredictor,
    "video by masks": FirstMaskPredictor,
    "text": TextPredictor,
}


@dataclass(frozen=True)
class EvaluatedPart:
    """A part, its evaluators with all predictions in them ([] but on the first process), and row -> predictions by the name of their
    evaluators."""

    part: OpenPart
    evaluators: Sequence[Evaluator]
    predictions: Mapping[int, Mapping[str, Any]]


class Evaluation:
    """A benchmark that is ready for any number of models. Everything that can be refused is refused here, before one is loaded.

    Args:
        benchmark: name of a row of `benchmarks.BENCHMARKS`, or of a dataset without one.
        processor: the model's; None = `predictions` are evaluated.
        split: default that on which the paper reports.
        data_dir: folder of the dataset's files.
        protocol: "community" or "released"; sets the choices.
        choices: those that are to be otherwise than the protocol has them.
        parts: names of the parts of the benchmark; default all.
        options: further ones of the dataset, and `condition`, to take rows of that condition alone.
        limit: the first images; default all.
        evaluators: default those of the benchmark.
        output_dir: for results, predictions, submission files and drawings; None = nothing is written.
        resume: go on with the predictions in `output_dir`.
        predictions: a folder or file in the benchmark's submission format, which is evaluated instead of a model.
        visualize: drawings of that many predictions, the worst and the best.
        checkpoint: folder or Hub id of the model, whose name and checksum the results get. Predictions of another one are not gone on with.
        processes: those that share the work; all of them run this with the same arguments.

    Raises:
        ValueError, FileNotFoundError: an unknown benchmark, split, protocol, choice, part or option, with the valid ones; files that are
            missing; a part that the processor's model cannot predict; an `output_dir` that holds something else; predictions that do not
            fit the rows.
    """

    def __init__(
        self,
        benchmark: str,
        processor: Any,
        *,
        split: str | None = None,
        data_dir: str | None = None,
        protocol: str = "community",
        choices: Choices | None = None,
        parts: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        limit: int | None = None,
        evaluators: MakeEvaluators | None = None,
        output_dir: Path | None = None,
        resume: bool = False,
        predictions: Path | None = None,
        visualize: int = 0,
        checkpoint: str | None = None,
        processes: Processes | None = None,
    ):
        if (processor is None) == (predictions is None):
            raise ValueError("give either a processor and its model, or predictions")
        if limit is not None and limit < 1:
            raise ValueError(f"limit: expected at least 1 image, got {limit}")
        self.name, self.processor, self.processes = benchmark, processor, processes or Processes()
        self.output_dir, self.resume, self.predictions, self.visualize = output_dir, resume, predictions, visualize
        self.benchmark = benchmark_of(benchmark)
        if predictions and visualize and self.benchmark.is_resized:
            raise ValueError(f"visualize: predictions for {benchmark} have the size at which they are compared, not that of the images")
        if evaluators is not None:
            self.benchmark = replace(self.benchmark, evaluators=evaluators)
        own, further = dict(choices or {}), dict(options or {})
        self.choices = choices_of(benchmark, protocol, own)
        if processor is not None:
            self.choices = with_processor(self.choices, own, processor)
        if "image_size" in DATASETS[self.benchmark.parts[0].dataset].options():  # another size is another image
            further = {"image_size": processor.image_processor.image_size if processor else IMAGE_SIZE} | further
        self.split = split or self.benchmark.split
        self.description = {
            "benchmark": benchmark,
            "split": self.split,
            "protocol": {"name": protocol, **self.choices},
            "data": {"parts": None if parts is None else list(parts), "options": further, "limit": limit},
        }
        self._check_folder()
        with self.processes.first_goes_first():  # and writes the cached rows
            opened = [
                open_part(self.benchmark, part, self.split, data_dir, self.choices, further, limit) for part in self._asked(parts, further)
            ]
        self.parts = self._answerable(opened, parts)
        self.description["checkpoint"] = None if checkpoint is None else describe_checkpoint(checkpoint)
        self.description["rows"] = {part.part.name: fingerprint(part.dataset) for part in self.parts}
        self._check_folder()
        self._read = [read_predictions(self.benchmark, part, predictions) for part in self.parts] if predictions else []

    def run(self, model: Any, *, batch_size: int = 4, num_workers: int = 0) -> Results | None:
        """Predicts every row, evaluates every prediction, and writes files, if there is an `output_dir`.

        Args:
            model: a `PsalmForSegmentation` in eval mode; None for predictions.
            batch_size: rows of a forward pass.
            num_workers: processes that prepare images, for each process that computes; 0 = none.

        Returns:
            The results on the first process, None on the others.

        Raises:
            ValueError: whatever the processor or an evaluator refuses; the message names the image. Another run that writes into
                `output_dir`; a damaged record in it.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if model is not None:
            self.description["dtype"] = str(model.dtype).removeprefix("torch.")
        if self.output_dir is None:
            return self._run(model, batch_size, num_workers)
        with only_run(self.output_dir, self.processes.lock):
            return self._run(model, batch_size, num_workers)

    def _run(self, model: Any, batch_size: int, num_workers: int) -> Results | None:
        began = time.perf_counter()
        self._begin()
        evaluated = self.evaluated_parts(model, batch_size=batch_size, num_workers=num_workers)
        results = None
        if self.processes.rank == 0:
            run = {"seconds": round(time.perf_counter() - began, 1), "processes": self.processes.number, "batch_size": batch_size}
            results = self._results(evaluated, run | {"device": str(model.device) if model is not None else "cpu"})
            if self.output_dir is not None:
                for part in evaluated:  # first, because results.json stands for them
                    self._write_files(part)
                results.write(self.output_dir)
        self.processes.wait()
        return results

    def evaluated_parts(self, model: Any, *, batch_size: int, num_workers: int = 0) -> list[EvaluatedPart]:
        """The parts with all predictions in their evaluators; arguments are those of `run`."""
        if model is not None and self.choices.get("vocabulary") == "whole":
            lengthen_context(model, self.processor)
        evaluated = []
        for index, part in enumerate(self.parts):
            if model is None:
                part, predictions = self._read[index]
            else:
                predictions = self._predictions(model, part, batch_size, num_workers)
            evaluated.append(EvaluatedPart(part, evaluate_predictions(part, predictions, self.processes), predictions))
        return evaluated

    def _asked(self, names: Sequence[str] | None, options: Mapping[str, Any]) -> list[BenchmarkPart]:
        known = [part.name for part in self.benchmark.parts]
        if unknown := sorted(set(names or ()) - set(known)):
            expected = f"{', '.join(filter(None, known)) or 'none'}{did_you_mean(unknown[0], known)}"
            raise ValueError(f"--parts {' '.join(unknown)}: {self.name} has the parts {expected}")
        parts = [part for part in self.benchmark.parts if not names or part.name in names]
        # An option that tells the parts apart chooses among them.
        fitting = [part for part in parts if all(options.get(name, value) == value for name, value in part.options.items())]
        return fitting or parts

    def _answerable(self, opened: Sequence[OpenPart], names: Sequence[str] | None) -> list[OpenPart]:
        """Without mask tokens a model segments by categories only: of a benchmark the other parts are left out."""
        if self.processor is None or self.processor.num_queries:
            return list(opened)
        fitting = [part for part in opened if part.dataset.rows[0]["condition"] in ("category", "conversation")]
        if not fitting or (names and len(fitting) < len(opened)):
            raise ValueError(f"{self.name}: the model has no mask tokens (decouple_masks is false), and segments by categories only")
        return fitting

    def _check_folder(self) -> None:
        """Refuses a folder that holds something else than what is to be done."""
        if self.output_dir is None:
            return
        folder, path = self.output_dir, self.output_dir / "run.json"
        if not path.exists():
            if not is_unused(folder):
                raise ValueError(f"--output-dir {folder} is not empty, and holds no evaluation; give another one")
            return
        if not self.resume:
            raise ValueError(f"--output-dir {folder} holds an evaluation; go on with it by --resume, or give another folder")
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: is damaged ({error}); give another folder") from error
        for name in self.description:
            if before.get(name) != self.description[name]:
                was, now = json.dumps(before.get(name)), json.dumps(self.description[name])
                raise ValueError(f"--output-dir {folder} holds an evaluation with another {name}: {was}, now {now}; give another folder")

    def _begin(self) -> None:
        if self.output_dir is None:
            return
        self._check_folder()
        self.processes.wait()
        if self.processes.rank == 0:
            remove_unfinished(self.output_dir)
            write_json(self.output_dir / "run.json", self.description, indent=1)
        self.processes.wait()
        self.resume = True  # what follows is this evaluation's own

    def _predictions(self, model: Any, part: OpenPart, batch_size: int, num_workers: int) -> Mapping[int, Mapping[str, Any]]:
        """Row -> predictions; those that are missing are made."""
        records: Records | PredictionsInMemory = PredictionsInMemory()
        if self.output_dir is not None:
            records = Records(self.output_dir / "answers" / part.part.name, self.processes.rank)
            if self.processes.rank == 0:
                records.mend()
            self.processes.wait()
        predictor = PREDICTORS[part.part.predicted](model, self.processor, part, self.choices)
        predict(predictor, records, self.processes, batch_size=batch_size, num_workers=num_workers)
        return records.predictions()

    def _results(self, evaluated: Sequence[EvaluatedPart], run: Mapping[str, Any]) -> Results:
        found = {each.part.part.name: part_results(self.benchmark, each.part, each.evaluators) for each in evaluated}
        is_joint = self.benchmark.is_joint and len(evaluated) == len(self.benchmark.parts)
        if is_joint:
            found["all"] = joint_results([each.evaluators for each in evaluated])
        is_released = self.choices == self.benchmark.choices["released"]
        return Results(
            **{"dtype": None} | self.description,
            percent=flat(found),
            baselines=flat(found, "baselines"),
            parts=found,
            published=beside(self.benchmark, self.parts, is_joint, is_released, self.description["data"]),
            versions=versions(),
            run=dict(run),
        )

    def _write_files(self, evaluated: EvaluatedPart) -> None:
        """The predictions of a part in its submission formats, and drawings of some."""
        part, name = evaluated.part, evaluated.part.part.name
        for kind, form in formats_of(self.benchmark, part).items():
            rows = PredictedRows(part, evaluated.predictions, kind)
            if self.predictions is None:
                folder = self.output_dir / "predictions" / name / kind
                with replaced_files(folder) as unfinished:
                    form.write(unfinished, ((sample, found) for _, sample, found in rows))
            if self.visualize and kind in SCORES:
                folder = self.output_dir / "pictures" / name / kind
                things = {category.id for category in part.targets_of(kind).categories if category.is_thing}
                write_comparisons(folder, rows, kind, self.visualize, things)
                sync_tree(folder)


def evaluate(model: Any, processor: Any, benchmark: str, *, batch_size: int = 4, num_workers: int = 0, **options: Any) -> Results | None:
    """A model on a benchmark: `evaluate(model, processor, "shapes", limit=20).percent["panoptic PQ"]`.

    Args:
        model: a `PsalmForSegmentation` in eval mode.
        processor: its `PsalmProcessor`.
        benchmark, options: see `Evaluation`.
        batch_size, num_workers: see `Evaluation.run`.

    Returns:
        The results on the first process, None on the others.

    Raises:
        ValueError, FileNotFoundError: see `Evaluation` and `Evaluation.run`.
    """
    return Evaluation(benchmark, processor, **options).run(model, batch_size=batch_size, num_workers=num_workers)


def measurement(
    processor: Any, *, images: int, batch_size: int, sources: Mapping[str, Mapping[str, Any]] | None = None
) -> Callable[[Any], Numbers]:
    """Builds the measurement that runs during training: model in eval mode -> numbers in percent by name.

    Args:
        processor: of the model.
        images: the first images of each dataset.
        batch_size: rows of a forward pass.
        sources: name -> `dataset`, its `split` (default "val") and further options, as in the config of a run; their numbers begin with
            the name. Default the shapes world's validation split.

    Raises:
        ValueError, FileNotFoundError: see `Evaluation`; the message names the source.
    """
    evaluations = {}
    for name, given in (sources or {"": {}}).items():
        if name:
            check_source(name, given)
        options = dict(given)
        dataset, data_dir = options.pop("dataset", "shapes"), options.pop("data_dir", None)
        with named_source(name or "shapes", dataset):
            split = options.pop("split", None) or benchmark_of(dataset).validation or "val"
            evaluations[f"{name} ".lstrip()] = Evaluation(dataset, processor, split=split, data_dir=data_dir, options=options, limit=images)

    def measure(model: Any) -> Numbers:
        found = {name: evaluation.run(model, batch_size=batch_size) for name, evaluation in evaluations.items()}
        return {f"{name}{metric}": value for name, results in found.items() for metric, value in results.percent.items()}

    return measure


def read_predictions(benchmark: Benchmark, part: OpenPart, predictions: Path) -> tuple[OpenPart, dict[int, dict[str, Any]]]:
    """The part with the evaluators for which there are files, and row -> predictions by the name of their evaluators."""
    formats = formats_of(benchmark, part)
    folder = predictions / part.part.name
    found = {name: folder / name for name in formats if (folder / name).is_dir()} or {part.evaluators[0].name: folder}
    read = {name: formats[name].read(path, part.dataset) for name, path in found.items()}
    evaluators = tuple(evaluator for evaluator in part.evaluators if evaluator.name in found)
    return replace(part, evaluators=evaluators), {
        row: {name: of_rows[row] for name, of_rows in read.items()} for row in range(len(part.dataset))
    }
