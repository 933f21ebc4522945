"""Published numbers, to print beside ours: PSALM (1.3B) by its paper, and the methods that the paper compares it with.

The rows of `benchmarks.BENCHMARKS` hold them, by split, or by split and part ("val ego2exo").

Source: "PSALM: Pixelwise SegmentAtion with Large Multi-Modal Model" (ECCV 2024) and its supplement. Rows of other methods are copied from
there, not from their own papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Comparison:
    """Another method on the same benchmark.

    Attributes:
        method: its name.
        details: what makes its numbers less than comparable: other data, another split; "" = nothing is said.
        numbers: in percent, under our names; what was not reported is left out.
        note: what is doubtful about them; "" = nothing.
    """

    method: str
    details: str
    numbers: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Published:
    """PSALM on one split of a benchmark.

    Attributes:
        numbers: in percent, under our names.
        protocol: how they were measured, as far as the paper or the released code says. Ours are comparable if they were measured with
            the choices of the protocol "released", on the whole split, and with
        options: of the dataset, and no others.
        comparisons: other methods, in the order of the paper.
    """

    numbers: Mapping[str, float]
    protocol: str
    comparisons: tuple[Comparison, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


OfSplits = Mapping[str, Published]

_RELEASED = "thresholds and post-processing as released"
_MERGED = "all sentences of an object joined into one prompt (merged), best mask, polygons rasterised with their outline"
_GENERALISED = (
    "zero-shot; all sentences of an object joined into one prompt (merged), union of the masks that score above 0.6, else the best mask: "
    "it never answers that nothing is meant"
)
_INTERACTIVE = "prompts of the published file, best mask of each prompt, polygons rasterised with their outline"
_OPEN = "zero-shot, trained on COCO; names and synonyms of FC-CLIP's list as one prompt per category, half precision"
_VIDEO = "zero-shot, no video data; frame by frame, prompted for the objects that are present in the truth of the frame"
_EGO_EXO = "zero-shot, pictures with a longer side of 448"


def _of_splits(name: str, protocol: str, **values: float) -> OfSplits:
    return {split: Published({name: value}, protocol) for split, value in values.items()}


def _interactive() -> Published:
    values = {"point": (64.3, 74.0), "scribble": (66.9, 80.0), "box": (67.3, 80.9), "mask": (67.6, 82.4)}
    pairs = {f"region {name}, {kind}": value for kind, pair in values.items() for name, value in zip(("mIoU", "cIoU"), pair, strict=True)}
    return Published(pairs, _INTERACTIVE, options={"source": "psalm_json"})


def _davis() -> Published:
    rows = (
        ("XMem", "trained on video", (87.7, 84.0, 91.4)),
        ("OMG-Seg", "trained on video", (76.9,)),
        ("Painter", "no video data", (34.6, 28.5, 40.8)),
        ("SegGPT", "no video data", (75.6, 72.5, 78.6)),
        ("SEEM-B", "no video data; 345 sampled frames", (62.8, 59.5, 66.2)),
    )
    names = ("region J&F", "region J-Mean", "region F-Mean")
    # OMG-Seg reports the first number only.
    comparisons = tuple(Comparison(method, details, dict(zip(names, values, strict=False))) for method, details, values in rows)
    return Published(dict(zip(names, (68.8, 65.9, 71.7), strict=True)), _VIDEO, comparisons)


def _correspondence(iou: float, *others: float) -> Published:
    methods = [(method, f"{training}; test split") for training in ("zero-shot", "trained on it") for method in ("XSegTx", "XMem")]
    comparisons = (Comparison(method, details, {"region IoU": value}) for (method, details), value in zip(methods, others, strict=True))
    return Published({"region IoU": iou}, _EGO_EXO, tuple(comparisons))


# VQAv2, ScienceQA, MMBench, POPE; None = not reported.
_TEXT_ROWS: tuple[tuple[str, str, tuple[float | None, ...]], ...] = (
    ("OpenFlamingo", "MPT-7B", (51.8, None, 5.7, None)),
    ("Kosmos-2", "", (51.1, None, None, None)),
    ("BLIP-2", "Vicuna-13B", (41.0, 61.0, None, 85.3)),
    ("InstructBLIP", "Vicuna-7B", (None, 60.5, None, 36.0)),
    ("IDEFICS", "Llama-7B", (50.9, 44.2, 48.2, None)),
    ("LLaVA-1.5", "Vicuna-7B", (78.5, 66.8, 64.3, 85.9)),
    ("LISA", "zero-shot", (0.12, None, None, None)),
)


# (method, column) -> what a reader should know before comparing with it.
_DOUBTS = {
    ("LISA", 0): "as the paper prints it, without a unit: 0.12 % or 12 %",
    ("InstructBLIP", 3): "as the paper prints it; always answering yes gives an F1 of 67, so this may be another quantity",
}


def _text(column: int, name: str, value: float, protocol: str) -> Published:
    rows = ((method, details, values[column]) for method, details, values in _TEXT_ROWS)
    comparisons = (
        Comparison(method, details, {name: other}, _DOUBTS.get((method, column), ""))
        for method, details, other in rows
        if other is not None
    )
    return Published({name: value}, protocol, tuple(comparisons))


# The paper does not say how it measured the four text benchmarks. Its row of LLaVA-1.5 has the numbers that LLaVA-1.5 reports (VQAv2
# test-dev, ScienceQA questions with an image, MMBench dev circular, POPE F1 averaged over its files), so that its own should be the same.
# Source: github.com/haotian-liu/LLaVA, docs/Evaluation.md.
_AS_LLAVA = "the paper does not say how; as LLaVA-1.5, whose number it quotes: "

COCO_PANOPTIC = _of_splits("panoptic PQ", _RELEASED, val=55.9)
COCO_INSTANCE = _of_splits("instance AP", _RELEASED, val=45.7)
COCO_SEMANTIC = _of_splits("semantic mIoU", _RELEASED + "; the 133 panoptic categories", val=66.6)
REFCOCO = _of_splits("referring cIoU", _MERGED, val=83.6, testA=84.7, testB=81.6)
REFCOCO_PLUS = _of_splits("referring cIoU", _MERGED, val=72.9, testA=75.5, testB=70.1)
REFCOCOG = _of_splits("referring cIoU", _MERGED, val=73.8, test=74.4)
GREFCOCO = _of_splits("referring cIoU", _GENERALISED, val=42.0, testA=52.4, testB=50.6)
COCO_INTERACTIVE = {"val": _interactive()}
ADE20K = {"val": Published({"panoptic PQ": 13.7, "instance AP": 9.0, "semantic mIoU": 18.2}, _OPEN)}
CITYSCAPES_NUMBERS = _of_splits("panoptic PQ", "zero-shot, trained on COCO; plain names, half precision", val=28.8)
PC59 = _of_splits("semantic mIoU", _OPEN, val=48.5)
VOC20 = _of_splits("semantic mIoU", _OPEN + "; background pixels are not counted", val=81.3)
DAVIS2017 = {"val": _davis()}
EGO_EXO4D = {
    "val ego2exo": _correspondence(7.9, 0.6, 4.6, 13.9, 14.6),
    "val exo2ego": _correspondence(9.6, 1.6, 21.8, 43.8, 43.4),
}
VQAV2 = {"test_dev": _text(0, "text accuracy", 62.3, _AS_LLAVA + "test-dev, scored by the server")}
SCIENCEQA = {"test": _text(1, "text accuracy, context image", 64.9, _AS_LLAVA + "the 2,017 test questions with an image")}
MMBENCH = {"dev": _text(2, "text accuracy", 52.5, _AS_LLAVA + "English dev questions, CircularEval")}
_POPE = _AS_LLAVA + "mean F1 of the files random, popular and adversarial, not of one file nor accuracy"
POPE = {"all": _text(3, "text F1, mean of files", 80.3, _POPE)}
