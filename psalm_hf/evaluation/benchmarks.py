"""THE TABLE of benchmarks: which rows are answered, what the answers are judged by, and which choices the numbers depend on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType
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
from ..structures import REGION_KINDS, Sample
from .baselines import Baseline, largest_thing, most_frequent_answer, prompt_itself
from .evaluators.base import (
    InstanceMeasure,
    Measure,
    PanopticMeasure,
    PanopticThresholds,
    ReferringMeasure,
    ReferringRule,
    RegionMeasure,
    SemanticMeasure,
    ThingsFound,
    measures_of,
)
from .evaluators.detection import CityscapesInstanceMeasure, LvisMeasure
from .evaluators.text import MmBenchMeasure, PopeMeasure, ScienceQaMeasure, ShapesQuestionMeasure, VqaMeasure
from .evaluators.two_view import TwoViewMeasure
from .evaluators.video import CorrespondenceMeasure, VideoMeasure
from .formats.answer_lines import AnswerLines
from .formats.cityscapes_instances import CityscapesInstances
from .formats.coco_panoptic import CocoPanoptic
from .formats.coco_results import CocoResults
from .formats.correspondence import CorrespondenceFile
from .formats.davis import DavisFrames
from .formats.label_maps import LabelMaps
from .formats.texts import MmBenchTable, PopeAnswers, ScienceQaAnswers, VqaResults

PROTOCOLS = ("community", "released")

# Choices that are an option of the dataset: choice -> name of the option.
_DATASET_OPTIONS = {
    "refer_protocol": "protocol",
    "rasterisation": "rasterisation",
    "names": "names",
    "oracle": "oracle",
    "passes": "rotations",
}
_ROTATIONS = {"circular": "all", "vanilla": "none"}


class Format(Protocol):
    """The files in which a benchmark takes answers."""

    def write(self, folder: Path, answers: Iterable[tuple[Sample, Any]]) -> None:
        """Writes all answers into a folder that exists."""

    def read(self, path: Path, dataset: SampleDataset) -> dict[int, Any]:
        """Row -> answer, for all rows; refuses by ValueError what does not belong to them."""


@dataclass(frozen=True)
class Part:
    """Rows of one dataset, answered with one set of options.

    Attributes:
        dataset: in `psalm_hf.data.list_datasets()`.
        name: tells the parts of a benchmark apart; "" where there is one.
        options: of the dataset.
        split: of the dataset, where the part is one.
        answered: "rows": one by one; "video": frame by frame, with a memory; "text": in words.
        truths: measure -> the dataset that holds its truth, about the same pictures, if it is another one.
    """

    dataset: str
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    answered: str = "rows"
    truths: Mapping[str, str] = field(default_factory=dict)


Choices = Mapping[str, Any]
MakeMeasures = Callable[[Mapping[str, SampleDataset], Choices], Sequence[Measure]]


@dataclass(frozen=True)
class Benchmark:
    """One row of the table.

    Attributes:
        parts: what is answered.
        measures: datasets by measure ("" = the one that is answered) and choices -> what the answers of a part are judged by.
        choices: protocol -> choice -> value: everything that can be chosen, see `psalm evaluate --help`.
        split: unless another one is asked for.
        is_joint: whether the parts are also judged together, as "all".
    """

    parts: tuple[Part, ...]
    measures: MakeMeasures
    choices: Mapping[str, Choices]
    split: str = "val"
    is_joint: bool = False


@dataclass(frozen=True)
class OpenPart:
    """A part whose files were found.

    Attributes:
        folder, split, options: where the dataset comes from.
        truths: measure -> its truth; those that are not named have `dataset`.
    """

    part: Part
    folder: str | None
    split: str
    options: Mapping[str, Any]
    dataset: SampleDataset
    truths: Mapping[str, SampleDataset]
    measures: tuple[Measure, ...]


def choices_of(name: str, protocol: str, own: Choices) -> dict[str, Any]:
    """All choices of a benchmark.

    Args:
        own: what was chosen otherwise than the protocol has it.

    Raises:
        ValueError: an unknown benchmark or protocol, or a choice that does not concern the benchmark, with the valid ones.
    """
    benchmark = benchmark_of(name)
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    choices = benchmark.choices[protocol]
    for choice in own:
        if choice not in choices:
            known = ", ".join(choices) or "none"
            raise ValueError(f"{name}: {choice} does not concern it; its numbers depend on {known}")
    return {**choices, **own}


def benchmark_of(name: str) -> Benchmark:
    """A row of the table; for a dataset that has none, one whose rows are measured by what they ask for.

    Raises:
        ValueError: neither is called so, with the valid names.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if name in DATASETS:
        return Benchmark((Part(name),), _own, _both(_THRESHOLDS))
    close = get_close_matches(name, (*BENCHMARKS, *DATASETS), 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"unknown benchmark {name!r}, expected one of {', '.join(BENCHMARKS)}, or a dataset{hint}")


def open_part(
    benchmark: Benchmark,
    part: Part,
    split: str,
    data_dir: str | None,
    choices: Choices,
    options: Mapping[str, Any],
    limit: int | None = None,
) -> OpenPart:
    """Loads the datasets of a part and makes its measures.

    Args:
        options: further ones of the dataset; and `condition`, to take rows of that condition alone.
        limit: pictures, the first ones; default all.

    Raises:
        ValueError, FileNotFoundError: as `psalm_hf.data.load`; a choice that contradicts another.
    """
    chosen = {option: choices[choice] for choice, option in _DATASET_OPTIONS.items() if choice in choices}
    if "passes" in choices:
        chosen["rotations"] = _ROTATIONS[choices["passes"]]
    split = part.split or split
    options = {**part.options, **chosen, **options}
    asked = {"num_images": limit} if limit and "num_images" in DATASETS[part.dataset].options() else {}  # no more are drawn than judged
    asked |= {name: value for name, value in options.items() if name != "condition"}
    dataset = load(part.dataset, split, data_dir, **asked)
    if "condition" in options:
        dataset = with_condition(dataset, options["condition"])
    dataset = dataset.first_images(limit) if limit else dataset
    truths = {measure: load(name, split, data_dir, **chosen) for measure, name in part.truths.items()}
    return OpenPart(part, data_dir, split, options, dataset, truths, tuple(benchmark.measures({"": dataset} | truths, choices)))


def formats_of(name: str, part: OpenPart) -> dict[str, Format]:
    """Measure -> the format in which its answers are submitted."""
    special = _OWN_FORMATS.get(name, {})
    kinds = {measure.name: measure.name.partition("_")[0] for measure in part.measures}
    return {name: (special.get(kind) or _FORMATS[kind])(part) for name, kind in kinds.items()}


def _categories(part: OpenPart, measure: str) -> Sequence[Category]:
    """By which the answers to a measure go: those of its truth."""
    return part.truths.get(measure, part.dataset).categories


_FORMATS: Mapping[str, Callable[[OpenPart], Format]] = {
    "panoptic": lambda part: CocoPanoptic(_categories(part, "panoptic")),
    "semantic": lambda part: LabelMaps.of_positions(_categories(part, "semantic")),
    "instance": lambda part: CocoResults(_categories(part, "instance")),
    "referring": lambda part: AnswerLines(("mask", "score", "no_target")),
    "region": lambda part: AnswerLines(("masks", "scores")),
    "text": lambda part: AnswerLines(("text",)),
}


def _correspondence_file(part: OpenPart) -> Format:
    takes = Path(part.folder, part.options.get("frame_folder", FRAME_FOLDER))
    return CorrespondenceFile(takes, part.split, part.options["direction"])


# Benchmarks with a format of their own.
_OWN_FORMATS: Mapping[str, Mapping[str, Callable[[OpenPart], Format]]] = {
    "cityscapes": {
        "semantic": lambda part: LabelMaps.of_cityscapes(_categories(part, "semantic")),
        "instance": lambda part: CityscapesInstances([category for category in _categories(part, "instance") if category.is_thing]),
    },
    "coco_semantic": {"semantic": lambda part: LabelMaps.of_positions(_categories(part, "semantic"), file_name="{id:0>12}.png")},
    "davis2017": {"region": lambda part: DavisFrames()},
    "ego_exo4d": {"region": _correspondence_file},
    "vqav2": {"text": lambda part: VqaResults()},
    "scienceqa": {"text": lambda part: ScienceQaAnswers()},
    "mmbench": {"text": lambda part: MmBenchTable()},
    "pope": {"text": lambda part: PopeAnswers()},
}


def _panoptic(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    # Answers name categories as the truth of their measure does; names and order are those that were prompted.
    def categories(measure: str) -> Sequence[Any]:
        return datasets.get(measure, datasets[""]).categories

    return [
        PanopticMeasure(categories("panoptic"), PanopticThresholds(choices["threshold"], choices["overlap"]), COCO_SIZES),
        SemanticMeasure(categories("semantic"), resize_logits=choices["semantic_resize"] == "logits"),
        InstanceMeasure(categories("")),
    ]


def _cityscapes(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [*_panoptic(datasets, choices)[:2], CityscapesInstanceMeasure(datasets[""].categories)]


def _lvis(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [LvisMeasure(datasets[""].categories)]


def _video(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [VideoMeasure()]


def _correspondence(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [CorrespondenceMeasure()]


def _mmbench(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [MmBenchMeasure(circular=choices["passes"] == "circular")]


def _semantic(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [SemanticMeasure(datasets[""].categories, resize_logits=choices["semantic_resize"] == "logits")]


def _instance(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [InstanceMeasure(datasets[""].categories)]


def _referring(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [ReferringMeasure(_rule(choices), COCO_SIZES)]


def _generalised(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [ReferringMeasure(_rule(choices), COCO_SIZES, crowds=choices["crowds"])]


def _reasoning(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [ReferringMeasure(_rule(choices), COCO_SIZES, crowds="ignored")]


def _rule(choices: Choices) -> ReferringRule:
    if "no_target" not in choices:
        return ReferringRule()
    if choices["no_target"] == "processor" and "no_target_threshold" not in choices:
        return ReferringRule()  # there is no processor: what is read says itself where nothing is meant
    return ReferringRule(choices["referring_threshold"], choices["no_target"], choices["min_area"], choices.get("no_target_threshold"))


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


def _region(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    return [RegionMeasure(COCO_SIZES)]


_SHAPES_SIZES = {"below 2 %": (0.0, 0.02), "larger": (0.02, math.inf)}  # visible area as a fraction of the picture
_HALF = PanopticThresholds(0.5, 0.5)


def _shapes(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    row, categories = datasets[""].rows[0], datasets[""].categories
    pixels = math.prod(row["image_size"])
    sizes = {name: tuple(side if side == math.inf else math.ceil(side * pixels) for side in ends) for name, ends in _SHAPES_SIZES.items()}
    if row["condition"] == "sentence":
        rule = _rule(choices)
        referring = partial(ReferringMeasure, sizes=sizes, groups=_expression_groups)
        best = partial(referring, rule.best_query, variant="best query")
        measures = [referring(rule), referring(rule, target_given=True), best(), best(target_given=True)]
        return measures + [Baseline(referring(rule, target_given=given), largest_thing) for given in (False, True)]
    if row["condition"] == "region":
        return [RegionMeasure(sizes), Baseline(RegionMeasure(sizes), partial(prompt_itself, radii=choices["prompt_radii"]))]
    if row["condition"] == "conversation":
        frequent = partial(most_frequent_answer, image_size=row["image_size"][0])
        return [ShapesQuestionMeasure(), Baseline(ShapesQuestionMeasure(), frequent)]
    panoptic, semantic, _ = _panoptic(datasets, choices)
    half = PanopticMeasure(categories, _HALF, variant="thresholds 0.5")
    things = [category.id for category in categories if category.is_thing]
    return [
        PanopticMeasure(categories, panoptic.thresholds, sizes),
        semantic,
        InstanceMeasure(categories, {name: (low, high - 1) for name, (low, high) in sizes.items()}),  # both ends are in it
        half,
        ThingsFound(half.name, things, sizes, _novelty),
    ]


def _expression_groups(sample: Sample) -> tuple[str, ...]:
    return (*sample.tags, *(["seen"] if sample.segments and "held_out" not in sample.tags else []))


def _novelty(sample: Sample) -> list[str]:
    """Says of each thing whether training shows its pair of colour and shape."""
    return ["held_out" if thing.is_held_out else "seen" for thing in scene_of(sample).things]


def _own(datasets: Mapping[str, SampleDataset], choices: Choices) -> list[Measure]:
    dataset = datasets[""]
    (condition, *others) = dataset.rows.unique("condition")
    if others:
        names = ", ".join((condition, *others))
        raise ValueError(f"rows of the conditions {names}, which have no number in common; choose one by the option condition")
    return measures_of(condition, dataset.task, dataset.categories, PanopticThresholds(choices["threshold"], choices["overlap"]))


def _both(choices: Choices) -> dict[str, Choices]:
    """Where the released protocol is that of everybody."""
    return {protocol: choices for protocol in PROTOCOLS}


_THRESHOLDS = {"threshold": 0.8, "overlap": 0.8}


def _open(benchmark: str, **choices: Any) -> dict[str, Choices]:
    """Of a vocabulary whose names have synonyms."""
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

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "coco_panoptic": Benchmark((Part("coco_panoptic"),), _panoptic, _both(_THRESHOLDS | {"semantic_resize": "logits"})),
        "coco_instance": Benchmark((Part("coco_instance"),), _instance, _both({})),
        "coco_semantic": Benchmark((Part("coco_semantic"),), _semantic, _both({"semantic_resize": "scores"})),
        "refcoco": Benchmark((Part("refcoco"),), _referring, _REFERRING),
        "refcoco+": Benchmark((Part("refcoco+"),), _referring, _REFERRING),
        "refcocog": Benchmark((Part("refcocog"),), _referring, _REFERRING),
        "grefcoco": Benchmark((Part("grefcoco"),), _generalised, _GENERALISED),
        "reasonseg": Benchmark((Part("reasonseg"),), _reasoning, _both({"refer_protocol": "per_expression", "rasterisation": "released"})),
        "coco_interactive": Benchmark(
            tuple(Part("coco_interactive", kind, {"kind": kind}) for kind in REGION_KINDS),
            _region,
            {"community": {"rasterisation": "exact"}, "released": {"rasterisation": "released"}},
        ),
        "ade20k": Benchmark(
            (Part("ade20k_panoptic", truths={"semantic": "ade20k_semantic", "instance": "ade20k_instance"}),),
            _panoptic,
            _open("ade20k", **_THRESHOLDS, semantic_resize="logits"),
        ),
        "cityscapes": Benchmark(
            (Part("cityscapes_panoptic", truths={"semantic": "cityscapes_semantic"}),),
            _cityscapes,
            _open("cityscapes", **_THRESHOLDS, semantic_resize="logits"),
        ),
        "lvis": Benchmark((Part("lvis"),), _lvis, _both({"vocabulary": "divided"})),
        "pc59": Benchmark((Part("pc59"),), _semantic, _open("pc59", semantic_resize="scores")),
        "pc459": Benchmark(
            (Part("pc459"),),
            _semantic,
            {
                "community": {"names": "first", "semantic_resize": "scores", "vocabulary": "divided"},
                "released": {"names": "first", "semantic_resize": "scores", "vocabulary": "whole"},
            },
        ),
        "voc20": Benchmark((Part("voc20"),), _semantic, _open("voc20", semantic_resize="scores")),
        "voc21": Benchmark((Part("voc21"),), _semantic, _open("voc21", semantic_resize="scores")),
        "davis2017": Benchmark((Part("davis2017", answered="video"),), _video, _VIDEO),
        "moving_shapes": Benchmark((Part("moving_shapes", answered="video"),), _video, _VIDEO, "test"),
        "two_view_shapes": Benchmark(
            tuple(Part("two_view_shapes", direction, {"direction": direction}) for direction in VIEW_DIRECTIONS),
            lambda datasets, choices: [TwoViewMeasure(choices["visible_above"])],
            _both({"visible_above": 0.5}),
            "test",
        ),
        "ego_exo4d": Benchmark(
            tuple(Part("ego_exo4d", direction, {"direction": direction}) for direction in DIRECTIONS),
            _correspondence,
            _both({"oracle": False}),
        ),
        "vqav2": Benchmark((Part("vqav2", answered="text"),), lambda datasets, choices: [VqaMeasure()], _both({})),
        "scienceqa": Benchmark((Part("scienceqa", answered="text"),), lambda datasets, choices: [ScienceQaMeasure()], _both({}), "test"),
        "mmbench": Benchmark((Part("mmbench", answered="text"),), _mmbench, _both({"passes": "circular"}), "dev"),
        "pope": Benchmark(
            tuple(Part("pope", file, split=file, answered="text") for file in ("random", "popular", "adversarial")),
            lambda datasets, choices: [PopeMeasure()],
            _both({}),
            "all",
            is_joint=True,
        ),
        "shapes": Benchmark(
            (
                Part("shapes", "panoptic", {"task": "panoptic"}),
                Part("shapes", "referring", {"task": "referring"}),
                *(Part("shapes", kind, {"task": "interactive", "region_kind": kind}) for kind in REGION_KINDS),
                Part("shapes", "questions", {"task": "conversation"}, answered="text"),
            ),
            _shapes,
            _both(
                _THRESHOLDS
                | {"semantic_resize": "logits", "referring_threshold": 0.6, "no_target": "processor", "min_area": 50}
                | {"prompt_radii": list(PROMPT_RADII)}
            ),
            split="test",
        ),
        **{name: Benchmark((Part(name),), _own, _both(_THRESHOLDS)) for name in ("own_coco", "own_pairs", "own_labelme", "own_jsonl")},
    }
)
