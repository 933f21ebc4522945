"""THE TABLE of benchmarks. A row holds all that is special about one: datasets, evaluators, formats, choices, published numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..data import DATASETS, load
from ..data.benchmarks.ego_exo4d import DIRECTIONS, FRAME_FOLDER
from ..data.benchmarks.label_lists import RELEASED_RULES
from ..data.features import Category, SampleDataset
from ..data.mixture import with_condition
from ..data.shapes.stream import scene_of
from ..data.shapes.two_views import VIEW_DIRECTIONS
from ..metrics import COCO_SIZES
from ..model.regions import PROMPT_RADII
from ..spelling import did_you_mean
from ..structures import REGION_KINDS, Sample
from ..video.session import LOOK_EVERY
from . import published as paper
from .baselines import Baseline, largest_thing, most_frequent_answer, prompt_itself
from .evaluators.base import Evaluator
from .evaluators.expression_instances import ExpressionInstancesEvaluator, InstancesRule
from .evaluators.instance import CityscapesInstanceEvaluator, InstanceEvaluator, LvisEvaluator, OwnInstanceEvaluator
from .evaluators.panoptic import PanopticEvaluator, PanopticThresholds, ThingsFound
from .evaluators.referring import ReferringEvaluator, ReferringRule, tags_of
from .evaluators.region import RegionEvaluator
from .evaluators.semantic import SemanticEvaluator
from .evaluators.text import MmBenchEvaluator, PopeEvaluator, ScienceQaEvaluator, ShapesQuestionEvaluator, VqaEvaluator
from .evaluators.two_view import CorrespondenceEvaluator, TwoViewEvaluator
from .evaluators.video import ExpressionVideoEvaluator, VideoEvaluator
from .formats.cityscapes_instances import CityscapesInstances
from .formats.coco_panoptic import PanopticFiles
from .formats.coco_results import CocoResults
from .formats.correspondence import CorrespondenceFile
from .formats.davis import DavisFrames
from .formats.json_lines import JsonLines
from .formats.label_maps import LabelMaps
from .formats.texts import MmBenchTable, PopeAnswers, ScienceQaAnswers, VqaResults

EVALUATION_PROTOCOLS = ("community", "released")

# Choices that are an option of the dataset: choice -> name of the option.
_DATASET_OPTIONS = {
    "refer_protocol": "protocol",
    "rasterisation": "rasterisation",
    "names": "names",
    "oracle": "oracle",
    "passes": "rotations",
}
_OWN = ("own_coco", "own_pairs", "own_labelme", "own_jsonl", "own_yolo", "own_label_studio")
_ROTATIONS = {"circular": "all", "vanilla": "none"}  # choice "passes" -> value of the option


class Format(Protocol):
    """Files in which a benchmark takes predictions."""

    def write(self, folder: Path, predictions: Iterable[tuple[Sample, Any]]) -> None:
        """Writes all predictions into a folder that exists."""

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> prediction, for all rows; refuses by ValueError what does not belong to them."""


@dataclass(frozen=True)
class BenchmarkPart:
    """Rows of one dataset, predicted with one set of options.

    Attributes:
        dataset: in `psalm_hf.data.list_datasets()`.
        name: tells the parts of a benchmark apart; "" where there is one.
        options: of the dataset.
        split: of the dataset, where the part is one.
        predicted: "rows": one by one; "video": frame by frame, with a memory ("video by expressions": of what expressions mean in the first
            frame, "video by masks": of the same objects by their masks); "text": in words.
        targets: kind of prediction -> the dataset that holds its targets, about the same images, if it is another one.
    """

    dataset: str
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    predicted: str = "rows"
    targets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenPart:
    """A part whose files were found.

    Attributes:
        folder, split, options: place of the dataset.
        targets: kind of prediction -> the dataset with its targets; kinds that are not named have `dataset`.
    """

    part: BenchmarkPart
    folder: str | None
    split: str
    options: Mapping[str, Any]
    dataset: SampleDataset
    targets: Mapping[str, SampleDataset]
    evaluators: tuple[Evaluator, ...]

    def targets_of(self, kind: str) -> SampleDataset:
        """The dataset whose rows hold the targets of a kind of prediction."""
        return self.targets.get(kind, self.dataset)


Choices = Mapping[str, Any]
MakeEvaluators = Callable[[Mapping[str, SampleDataset], Choices], Sequence[Evaluator]]
MakeFormat = Callable[[OpenPart], Format]


@dataclass(frozen=True)
class Benchmark:
    """One row of the table.

    Attributes:
        parts: rows that are predicted.
        evaluators: datasets by kind of prediction ("" = the one that is predicted) and choices -> evaluators of a part.
        choices: protocol -> choice -> value: everything that can be chosen, see `psalm evaluate --help`.
        split: unless another one is asked for.
        validation: split on which nothing is reported, for thresholds and numbers during training; None = one must be named.
        formats: kind of prediction -> its format, where it is not that of `_FORMATS`.
        published: see `published.py`.
        is_open: categories that COCO does not have are told apart: there are also means over those that it has, and over the others.
        is_joint: the parts are also evaluated together, as "all".
        is_resized: predictions in the format have another size than the images, and cannot be drawn on them.
    """

    parts: tuple[BenchmarkPart, ...]
    evaluators: MakeEvaluators
    choices: Mapping[str, Choices] = field(default_factory=lambda: _both({}))
    split: str = "val"
    validation: str | None = None
    formats: Mapping[str, MakeFormat] = field(default_factory=dict)
    published: paper.OfSplits = field(default_factory=dict)
    is_open: bool = False
    is_joint: bool = False
    is_resized: bool = False

    def published_for(self, split: str, part: str = "") -> paper.Published | None:
        """Numbers of the paper on a split, or on a part of it; None where it has none."""
        return self.published.get(f"{split} {part}") or self.published.get(split)


def choices_of(name: str, protocol: str, own: Choices) -> dict[str, Any]:
    """All choices of a benchmark.

    Args:
        own: what was chosen otherwise than the protocol has it.

    Raises:
        ValueError: an unknown benchmark or protocol, or a choice that does not concern the benchmark, with the valid ones.
    """
    benchmark = benchmark_of(name)
    if protocol not in EVALUATION_PROTOCOLS:
        advice = did_you_mean(protocol, EVALUATION_PROTOCOLS)
        raise ValueError(f"unknown protocol {protocol!r}, expected one of {', '.join(EVALUATION_PROTOCOLS)}{advice}")
    choices = benchmark.choices[protocol]
    for choice in own:
        if choice not in choices:
            known = ", ".join(choices) or "none"
            raise ValueError(f"{name}: {choice} does not concern it; its numbers depend on {known}{did_you_mean(choice, choices)}")
    return {**choices, **own}


def benchmark_of(name: str) -> Benchmark:
    """A row of the table; for a dataset that has none, one whose rows are evaluated by what they ask for.

    Raises:
        ValueError: neither is called so, with the valid names.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if name in DATASETS:
        return Benchmark((BenchmarkPart(name),), _own, _both(_THRESHOLDS))
    hint = did_you_mean(name, (*BENCHMARKS, *DATASETS))
    raise ValueError(f"unknown benchmark {name!r}, expected one of {', '.join(BENCHMARKS)}, or a dataset{hint}")


def open_part(
    benchmark: Benchmark,
    part: BenchmarkPart,
    split: str,
    data_dir: str | None,
    choices: Choices,
    options: Mapping[str, Any],
    limit: int | None = None,
) -> OpenPart:
    """Loads the datasets of a part and makes its evaluators.

    Args:
        options: further ones of the dataset; and `condition`, to take rows of that condition alone.
        limit: the first images; default all.

    Raises:
        ValueError, FileNotFoundError: as `psalm_hf.data.load`; a choice that contradicts another.
    """
    chosen = {option: _ROTATIONS.get(choices[choice], choices[choice]) for choice, option in _DATASET_OPTIONS.items() if choice in choices}
    split = part.split or split
    options = {**part.options, **chosen, **options}
    asked = {"num_images": limit} if limit and "num_images" in DATASETS[part.dataset].options() else {}  # no more are drawn than evaluated
    asked |= {name: value for name, value in options.items() if name != "condition"}
    dataset = load(part.dataset, split, data_dir, **asked)
    if "condition" in options:
        dataset = with_condition(dataset, options["condition"])
    dataset = dataset.first_images(limit) if limit else dataset
    targets = {kind: load(name, split, data_dir, **chosen) for kind, name in part.targets.items()}
    return OpenPart(part, data_dir, split, options, dataset, targets, tuple(benchmark.evaluators({"": dataset} | targets, choices)))


def formats_of(benchmark: Benchmark, part: OpenPart) -> dict[str, Format]:
    """Name of an evaluator -> the format in which its predictions are submitted."""
    kinds = {evaluator.name: evaluator.kind for evaluator in part.evaluators}
    return {name: (benchmark.formats.get(kind) or _FORMATS[kind])(part) for name, kind in kinds.items()}


_FORMATS: Mapping[str, MakeFormat] = {
    "panoptic": lambda part: PanopticFiles(part.targets_of("panoptic").categories),
    "semantic": lambda part: LabelMaps.of_positions(part.targets_of("semantic").categories),
    "instance": lambda part: CocoResults(part.targets_of("instance").categories),
    "referring": lambda part: JsonLines(("mask", "score", "no_target")),
    "expression": lambda part: JsonLines(("masks", "scores", "number")),
    "region": lambda part: JsonLines(("masks", "scores")),
    "text": lambda part: JsonLines(("text",)),
}


def _correspondence_file(part: OpenPart) -> Format:
    takes = Path(part.folder, part.options.get("frame_folder", FRAME_FOLDER))
    return CorrespondenceFile(takes, part.split, part.options["direction"])


def _panoptic(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Evaluator]:
    # Predictions name categories as their targets do; names and order are those that were prompted.
    def categories(kind: str) -> Sequence[Category]:
        return datasets.get(kind, datasets[""]).categories

    return [
        PanopticEvaluator(categories("panoptic"), _thresholds(choices), COCO_SIZES),
        SemanticEvaluator(categories("semantic"), resize_logits=choices["semantic_resize"] == "logits"),
        InstanceEvaluator(categories("")),
    ]


def _thresholds(choices: Choices) -> PanopticThresholds:
    return PanopticThresholds(choices["threshold"], choices["overlap"])


def _cityscapes(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Evaluator]:
    return [*_panoptic(datasets, choices)[:2], CityscapesInstanceEvaluator(datasets[""].categories)]


def _semantic(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Evaluator]:
    return [SemanticEvaluator(datasets[""].categories, resize_logits=choices["semantic_resize"] == "logits")]


def _referring(datasets: Mapping[str, SampleDataset], choices: Choices, crowds: str = "meant") -> list[Evaluator]:
    return [ReferringEvaluator(_rule(choices), COCO_SIZES, crowds=choices.get("crowds", crowds))]


def _rule(choices: Choices) -> ReferringRule:
    if "no_target" not in choices:
        return ReferringRule()
    if choices["no_target"] == "processor" and "no_target_threshold" not in choices:
        return ReferringRule()  # there is no processor: what is read says itself where nothing is meant
    return ReferringRule(choices["referring_threshold"], choices["no_target"], choices["min_area"], choices.get("no_target_threshold"))


def _expression_instances(
    datasets: Mapping[str, SampleDataset], choices: Choices, groups: Callable[[Sample], Sequence[str]] = tags_of
) -> list[Evaluator]:
    thresholds = {name: choices[name] for name in _INSTANCES}
    is_read = "processor" in thresholds.values()  # there is none
    return [ExpressionInstancesEvaluator(None if is_read else InstancesRule(**thresholds), groups)]


def with_processor(choices: Choices, own: Choices, processor: Any) -> dict[str, Any]:
    """Choices with what a processor says: how large baselines draw prompts, and its thresholds, where these decide what is meant.

    Args:
        own: what was chosen otherwise than the protocol has it. Where nothing was, a processor without thresholds leaves the choice to
            `referring_threshold`.

    Raises:
        ValueError: the processor has none though they were asked for, or a threshold was given beside them.
    """
    if "prompt_radii" in choices:
        choices = {**choices, "prompt_radii": list(processor.prompt_radii)}
    if "instances_threshold" in choices:
        thresholds = processor.instance_thresholds(choices["instances_threshold"], choices["no_target_threshold"])
        nms_threshold = processor.nms_threshold if choices["nms_threshold"] == "processor" else choices["nms_threshold"]
        return dict(choices) | dict(zip(_INSTANCES, (*thresholds, nms_threshold), strict=True))
    if choices.get("no_target_threshold") == "processor":
        return {**choices, "no_target_threshold": processor.no_target_threshold}
    if choices.get("no_target") != "processor":
        return dict(choices)
    found = {"referring_threshold": processor.referring_threshold, "no_target_threshold": processor.no_target_threshold}
    if "referring_threshold" in own and "no_target" not in own or None in found.values() and "no_target" not in own:
        return {**choices, "no_target": "threshold"}
    if "referring_threshold" in own:
        raise ValueError("no_target processor: takes both thresholds from the checkpoint; leave referring_threshold out")
    if None in found.values():
        raise ValueError(
            "no_target processor: the checkpoint's processor has no thresholds for expressions; run "
            "psalm calibrate, or choose no_target threshold"
        )
    return {**choices, **found}


_SHAPES_SIZES = {"below 2 %": (0.0, 0.02), "larger": (0.02, math.inf)}  # visible area as a fraction of the image
_HALF = PanopticThresholds(0.5, 0.5)


def _shapes(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Evaluator]:
    row, categories = datasets[""].rows[0], datasets[""].categories
    pixels = math.prod(row["image_size"])
    sizes = {name: tuple(side if side == math.inf else math.ceil(side * pixels) for side in ends) for name, ends in _SHAPES_SIZES.items()}
    if row["condition"] == "sentence":
        rule = _rule(choices)
        referring = partial(ReferringEvaluator, sizes=sizes, groups=_expression_groups)
        best = partial(referring, rule.best_query, variant="best query")
        evaluators = [referring(rule), referring(rule, target_given=True), best(), best(target_given=True)]
        return evaluators + [Baseline(referring(rule, target_given=given), largest_thing) for given in (False, True)]
    if row["condition"] == "region":
        return [RegionEvaluator(sizes), Baseline(RegionEvaluator(sizes), partial(prompt_itself, radii=choices["prompt_radii"]))]
    if row["condition"] == "conversation":
        frequent = partial(most_frequent_answer, image_size=row["image_size"][0])
        return [ShapesQuestionEvaluator(), Baseline(ShapesQuestionEvaluator(), frequent)]
    panoptic, semantic, _ = _panoptic(datasets, choices)
    half = PanopticEvaluator(categories, _HALF, variant="thresholds 0.5")
    things = [category.id for category in categories if category.is_thing]
    return [
        PanopticEvaluator(categories, panoptic.thresholds, sizes),
        semantic,
        InstanceEvaluator(categories, {name: (low, high - 1) for name, (low, high) in sizes.items()}),  # both ends are in it
        half,
        ThingsFound(half.name, things, sizes, _novelty),
    ]


def _expression_groups(sample: Sample) -> tuple[str, ...]:
    return (*sample.tags, *(["seen"] if sample.segments and "held_out" not in sample.tags else []))


def _novelty(sample: Sample) -> list[str]:
    """Group of each thing: "seen" if training shows its pair of colour and shape, else "held_out"."""
    return ["held_out" if thing.is_held_out else "seen" for thing in scene_of(sample).things]


def _own(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Evaluator]:
    dataset = datasets[""]
    (condition, *others) = dataset.rows.unique("condition")
    if others:
        names = ", ".join((condition, *others))
        raise ValueError(f"rows of the conditions {names}, which have no number in common; choose one by the option condition")
    return default_evaluators(condition, dataset.task, dataset.categories, _thresholds(choices))


def _of_tools(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Evaluator]:
    categories = datasets[""].categories
    return [OwnInstanceEvaluator(categories) if type(each) is InstanceEvaluator else each for each in _own(datasets, choices)]


def default_evaluators(
    condition: str, task: str, categories: Sequence[Category], thresholds: PanopticThresholds | None = None
) -> list[Evaluator]:
    """Evaluators of rows with this condition.

    Args:
        condition: see `Sample.condition`.
        task: of rows with categories. "panoptic" is also evaluated as semantic and instance segmentation, from the same outputs.
        categories: of the dataset, in the order in which they are prompted; for rows with categories only.
        thresholds: of the panoptic map; default the released ones.

    Raises:
        ValueError: rows that ask for no segmentation; rows with categories of their own, where the dataset has none.
    """
    if condition == "sentence":
        return [ReferringEvaluator()]
    if condition == "region":
        return [RegionEvaluator()]
    if condition != "category":
        raise ValueError(f"rows of condition {condition!r} ask for no segmentation; evaluation knows category, sentence and region")
    if not categories:
        raise ValueError("every row names its own categories, so that there are none to average over; give a dataset with one list for all")
    semantic, instance = SemanticEvaluator(categories), InstanceEvaluator(categories)
    if task == "panoptic":
        return [PanopticEvaluator(categories, thresholds or PanopticThresholds()), semantic, instance]
    return {"semantic": [semantic], "instance": [instance]}[task]


def _both(choices: Choices) -> dict[str, Choices]:
    """The same choices under every protocol."""
    return {protocol: choices for protocol in EVALUATION_PROTOCOLS}


_THRESHOLDS = {"threshold": 0.8, "overlap": 0.8}


def _open(benchmark: str, **choices: Any) -> dict[str, Choices]:
    """Choices for a vocabulary whose names have synonyms."""
    return _both({"names": RELEASED_RULES.get(benchmark, "synonyms"), **choices})


_REFERRING = {
    "community": {"refer_protocol": "per_expression", "rasterisation": "exact"},
    "released": {"refer_protocol": "merged", "rasterisation": "released"},
}
_VIDEO = {
    "community": {"memory": "first_last_confident", "oracle": False},
    "released": {"memory": "released", "oracle": True},
}
_GENERALISED = {
    "community": _REFERRING["community"] | {"referring_threshold": 0.6, "no_target": "threshold", "min_area": 50, "crowds": "left out"},
    "released": _REFERRING["released"] | {"referring_threshold": 0.6, "no_target": "never", "min_area": 50, "crowds": "meant"},
}


_INSTANCES = dict.fromkeys(("instances_threshold", "no_target_threshold", "nms_threshold"), "processor")


def _questions(dataset: str, evaluator: Callable[..., Evaluator], form: Callable[[], Format], **others: Any) -> Benchmark:
    """Row of a benchmark whose rows are answered in words. `evaluator` takes the choices by name."""
    return Benchmark(
        (BenchmarkPart(dataset, predicted="text"),),
        lambda datasets, choices: [evaluator(**choices)],
        formats={"text": lambda part: form()},
        **others,
    )


def _seen_and_unseen(dataset: str, **others: Any) -> Benchmark:
    """Row of semantic segmentation with an open vocabulary."""
    return Benchmark((BenchmarkPart(dataset),), _semantic, is_open=True, **others)


BENCHMARKS: Mapping[str, Benchmark] = {
    "coco_panoptic": Benchmark(
        (BenchmarkPart("coco_panoptic"),), _panoptic, _both(_THRESHOLDS | {"semantic_resize": "logits"}), published=paper.COCO_PANOPTIC
    ),
    "coco_instance": Benchmark(
        (BenchmarkPart("coco_instance"),),
        lambda datasets, choices: [InstanceEvaluator(datasets[""].categories)],
        published=paper.COCO_INSTANCE,
    ),
    "coco_semantic": Benchmark(
        (BenchmarkPart("coco_semantic"),),
        _semantic,
        _both({"semantic_resize": "scores"}),
        formats={"semantic": lambda part: LabelMaps.of_positions(part.dataset.categories, file_name="{id:0>12}.png")},
        published=paper.COCO_SEMANTIC,
    ),
    "refcoco": Benchmark((BenchmarkPart("refcoco"),), _referring, _REFERRING, published=paper.REFCOCO),
    "refcoco+": Benchmark((BenchmarkPart("refcoco+"),), _referring, _REFERRING, published=paper.REFCOCO_PLUS),
    "refcocog": Benchmark((BenchmarkPart("refcocog"),), _referring, _REFERRING, published=paper.REFCOCOG),
    "grefcoco": Benchmark((BenchmarkPart("grefcoco"),), _referring, _GENERALISED, published=paper.GREFCOCO),
    "reasonseg": Benchmark(
        (BenchmarkPart("reasonseg"),),
        partial(_referring, crowds="ignored"),
        _both({"refer_protocol": "per_expression", "rasterisation": "released"}),
    ),
    "coco_interactive": Benchmark(
        tuple(BenchmarkPart("coco_interactive", kind, {"kind": kind}) for kind in REGION_KINDS),
        lambda datasets, choices: [RegionEvaluator(COCO_SIZES)],
        {"community": {"rasterisation": "exact"}, "released": {"rasterisation": "released"}},
        published=paper.COCO_INTERACTIVE,
    ),
    "ade20k": Benchmark(
        (BenchmarkPart("ade20k_panoptic", targets={"semantic": "ade20k_semantic", "instance": "ade20k_instance"}),),
        _panoptic,
        _open("ade20k", **_THRESHOLDS, semantic_resize="logits"),
        published=paper.ADE20K,
        is_open=True,
    ),
    "cityscapes": Benchmark(
        (BenchmarkPart("cityscapes_panoptic", targets={"semantic": "cityscapes_semantic"}),),
        _cityscapes,
        _open("cityscapes", **_THRESHOLDS, semantic_resize="logits"),
        formats={
            "semantic": lambda part: LabelMaps.of_cityscapes(part.targets_of("semantic").categories),
            "instance": lambda part: CityscapesInstances([category for category in part.dataset.categories if category.is_thing]),
        },
        published=paper.CITYSCAPES_NUMBERS,
        is_open=True,
    ),
    "lvis": Benchmark(
        (BenchmarkPart("lvis"),),
        lambda datasets, choices: [LvisEvaluator(datasets[""].categories)],
        _both({"vocabulary": "divided"}),
        is_open=True,
    ),
    "pc59": _seen_and_unseen("pc59", choices=_open("pc59", semantic_resize="scores"), published=paper.PC59),
    "pc459": _seen_and_unseen(
        "pc459",
        choices={
            "community": {"names": "first", "semantic_resize": "scores", "vocabulary": "divided"},
            "released": {"names": "first", "semantic_resize": "scores", "vocabulary": "whole"},
        },
    ),
    "voc20": _seen_and_unseen("voc20", choices=_open("voc20", semantic_resize="scores"), published=paper.VOC20),
    "voc21": _seen_and_unseen("voc21", choices=_open("voc21", semantic_resize="scores")),
    "davis2017": Benchmark(
        (BenchmarkPart("davis2017", predicted="video"),),
        lambda datasets, choices: [VideoEvaluator()],
        _VIDEO,
        formats={"region": lambda part: DavisFrames()},
        published=paper.DAVIS2017,
    ),
    "moving_shapes": Benchmark(
        (BenchmarkPart("moving_shapes", predicted="video"),), lambda datasets, choices: [VideoEvaluator()], _VIDEO, "test", "validation"
    ),
    "moving_shapes_expressions": Benchmark(
        tuple(
            BenchmarkPart("moving_shapes", name, {"expressions": True}, predicted=f"video by {name}") for name in ("expressions", "masks")
        ),
        lambda datasets, choices: [ExpressionVideoEvaluator()],
        {
            protocol: {"memory": choices["memory"], "look_every": LOOK_EVERY, "no_target_threshold": "processor"}
            for protocol, choices in _VIDEO.items()
        },
        "test",
        "validation",
    ),
    "two_view_shapes": Benchmark(
        tuple(BenchmarkPart("two_view_shapes", direction, {"direction": direction}) for direction in VIEW_DIRECTIONS),
        lambda datasets, choices: [TwoViewEvaluator(choices["visible_above"])],
        _both({"visible_above": 0.5}),
        "test",
        "validation",
    ),
    "ego_exo4d": Benchmark(
        tuple(BenchmarkPart("ego_exo4d", direction, {"direction": direction}) for direction in DIRECTIONS),
        lambda datasets, choices: [CorrespondenceEvaluator()],
        _both({"oracle": False}),
        formats={"region": _correspondence_file},
        published=paper.EGO_EXO4D,
        is_resized=True,
    ),
    "vqav2": _questions("vqav2", VqaEvaluator, VqaResults, published=paper.VQAV2),
    "scienceqa": _questions("scienceqa", ScienceQaEvaluator, ScienceQaAnswers, split="test", published=paper.SCIENCEQA),
    "mmbench": _questions(
        "mmbench", MmBenchEvaluator, MmBenchTable, choices=_both({"passes": "circular"}), split="dev", published=paper.MMBENCH
    ),
    "pope": Benchmark(
        tuple(BenchmarkPart("pope", file, split=file, predicted="text") for file in ("random", "popular", "adversarial")),
        lambda datasets, choices: [PopeEvaluator()],
        split="all",
        formats={"text": lambda part: PopeAnswers()},
        published=paper.POPE,
        is_joint=True,
    ),
    "shapes": Benchmark(
        (
            BenchmarkPart("shapes", "panoptic", {"task": "panoptic"}),
            BenchmarkPart("shapes", "referring", {"task": "referring"}),
            *(BenchmarkPart("shapes", kind, {"task": "interactive", "region_kind": kind}) for kind in REGION_KINDS),
            BenchmarkPart("shapes", "questions", {"task": "conversation"}, predicted="text"),
        ),
        _shapes,
        _both(
            _THRESHOLDS
            | {"semantic_resize": "logits", "referring_threshold": 0.6, "no_target": "processor", "min_area": 50}
            | {"prompt_radii": list(PROMPT_RADII)}
        ),
        "test",
        "validation",
    ),
    "shapes_expression_instances": Benchmark(
        (BenchmarkPart("shapes", options={"task": "referring"}),),
        partial(_expression_instances, groups=_expression_groups),
        _both(_INSTANCES),
        "test",
        "validation",
    ),
    "grefcoco_expression_instances": Benchmark(
        (BenchmarkPart("grefcoco"),),
        _expression_instances,
        {protocol: choices | _INSTANCES for protocol, choices in _REFERRING.items()},
    ),
    **{name: Benchmark((BenchmarkPart(name),), _of_tools, _both(_THRESHOLDS)) for name in _OWN},
}
