"""Words by which things are looked for in a video: how they are given, and what they mean in a frame.

(H, W) is the size of the frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..model.image_processing_psalm import Size
from ..model.processing_psalm import PsalmInputs
from ..model.rows import EncodedImage
from ..model.segmentations import THRESHOLDS

_EXPRESSION, _CATEGORIES = "expression", "categories"


@dataclass(frozen=True)
class Words:
    """Prompt in words.

    Attributes:
        kind: "expression" or "categories".
        texts: the expression alone, or the names of the categories.
        instances: every thing that is meant is an object of its own; else the best one is the object.
    """

    kind: str
    texts: tuple[str, ...]
    instances: bool = False

    def __str__(self) -> str:
        return ", ".join(self.texts)


@dataclass(frozen=True)
class Found:
    """A thing that words mean: `mask` (H, W) bool, never empty; `score` in [0, 1]; `label`, the expression or the name of its category."""

    mask: Tensor
    score: float
    label: str


@dataclass(frozen=True)
class Meaning:
    """Meaning of words in a frame.

    Attributes:
        found: best first, each another thing. Without `Words.instances` the first one that no other object has is the object.
        best: score of the best mask, in [0, 1], also of one that does not count as found.
    """

    found: list[Found]
    best: float


@dataclass
class KnownObject:
    """Object of a session, besides its memory; it has none until it is found.

    Attributes:
        words: by which it is looked for; None if it was given as a region, or is an instance that a search has found.
        label: expression or name of a category; None for a region.
        num_found: number of tracked frames with a mask of it.
    """

    words: Words | None = None
    label: str | None = None
    num_found: int = 0


@dataclass(frozen=True)
class Search:
    """Words of which every instance is an object; `number` is that of its next object."""

    words: Words
    number: int


def is_words(prompt: Any) -> bool:
    """True for a prompt in words, however wrong; else it is a region."""
    return isinstance(prompt, Mapping) and (_EXPRESSION in prompt or _CATEGORIES in prompt)


def read_words(prompt: Mapping[str, Any], instances: bool, name: str) -> Words:
    """Words of a prompt `{"expression": text}` or `{"categories": [name, ...]}`. The processor checks the texts.

    Args:
        name: of the object in error messages.

    Raises:
        ValueError: anything else beside the words, or values of another type.
    """
    if len(prompt) != 1:
        raise ValueError(f"{name}: expected one key, {_EXPRESSION!r} or {_CATEGORIES!r}, got {', '.join(map(repr, prompt))}")
    ((kind, value),) = prompt.items()
    if kind == _EXPRESSION:
        if not isinstance(value, str):
            raise ValueError(f"{name}: an expression is a text such as 'the red car', got {value!r:.80}")
        return Words(kind, (value,), instances)
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name}: categories are a list of names such as ['car', 'bus'], got {value!r:.80}")
    return Words(kind, tuple(value), instances)


def check_texts(processor: Any, words: Words, name: str) -> None:
    """Raises ValueError if the processor refuses words, such as blank ones, or too many.

    Args:
        name: of the object in the message; the processor knows none.
    """
    try:
        processor.encode_prompt(task="instance", **_argument(words))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def words_inputs(processor: Any, prompts: Sequence[Words], size: Size) -> PsalmInputs:
    """Inputs of the model, one row per prompt, for an image that is encoded already.

    Args:
        prompts: at least one, which `check_texts` has passed.
        size: (H, W).
    """
    images = [EncodedImage(size[::-1])] * len(prompts)
    arguments = {name: [_argument(words).get(name) for words in prompts] for name in ("expressions", "categories")}
    return processor(images=images, task="instance", return_tensors="pt", **arguments)


def read_meanings(processor: Any, outputs: Any, prompts: Sequence[Words], size: Size, threshold: float | None) -> list[Meaning]:
    """Meanings of words in a frame, by the outputs of the rows of `words_inputs`.

    Args:
        threshold: score above which a thing counts as found. None = the processor's: of an expression its `no_target_threshold`, of the
            instances of one see `instance_thresholds`; of categories 0.5. The first is 0 where the processor has none.
    """
    sizes = [size] * len(prompts)
    meanings: list[Meaning | None] = [None] * len(prompts)
    if any(words.kind == _EXPRESSION for words in prompts):
        best = processor.post_process_referring_segmentation(outputs, threshold=None, target_sizes=sizes, no_target_threshold=None)
        for instances in {words.instances for words in prompts if words.kind == _EXPRESSION}:
            limit: Any = "processor" if threshold is None else threshold
            if not instances and threshold is None:  # the object may be any mask that would be found if it were the best
                limit = processor.no_target_threshold or 0.0
            masks = processor.post_process_referring_instances(outputs, threshold=limit, target_sizes=sizes)
            for row, result in enumerate(masks):
                if result is not None and prompts[row].instances == instances:
                    scored = zip(result["masks"], result["scores"].tolist(), strict=True)
                    meanings[row] = Meaning([Found(mask, score, str(prompts[row])) for mask, score in scored], best[row]["score"])
    if any(words.kind == _CATEGORIES for words in prompts):
        lowest = THRESHOLDS["instance"] if threshold is None else threshold
        instances = processor.post_process_instance_segmentation(outputs, lowest, target_sizes=sizes, return_binary_maps=True)
        for row, result in enumerate(instances):
            if result is not None:
                segments = zip(result["segmentation"], result["segments_info"], strict=True)
                found = [Found(mask, info["score"], prompts[row].texts[info["label_id"]]) for mask, info in segments if mask.any()]
                meanings[row] = Meaning(found, found[0].score if found else -1.0)
        if any(meaning.best < 0 for meaning in meanings):
            closest = processor.post_process_instance_segmentation(outputs, 0.0, target_sizes=sizes, top_k=1)
            for row, result in enumerate(closest):
                if result is not None and meanings[row].best < 0:
                    meanings[row] = Meaning([], max((info["score"] for info in result["segments_info"]), default=0.0))
    return meanings


def read_known_object(entry: Mapping[str, Any]) -> KnownObject:
    """Object of a file that a session wrote; files of before there were words have neither them nor the number of frames.

    Raises:
        KeyError, TypeError, ValueError: a damaged entry; so do the functions below.
    """
    label = entry.get("label")
    if label is not None and not isinstance(label, str):
        raise ValueError(f"expected a label, got {label!r:.40}")
    words = entry.get("words")
    return KnownObject(None if words is None else _read_saved_words(words), label, whole_number(entry.get("num_found", 0), 0))


def read_search(entry: Mapping[str, Any]) -> Search:
    """Search of a file that a session wrote; its numbers may be negative, where it was given so."""
    if type(entry["number"]) is not int:
        raise ValueError(f"expected a whole number, got {entry['number']!r:.40}")
    return Search(_read_saved_words(entry["words"]), entry["number"])


def whole_number(value: Any, lowest: int) -> int:
    """Value of a file that a session wrote, checked."""
    if type(value) is not int or not lowest <= value < 2**62:
        raise ValueError(f"expected a whole number of at least {lowest}, got {value!r:.40}")
    return value


def _read_saved_words(entry: Mapping[str, Any]) -> Words:
    kind, texts, instances = entry["kind"], entry["texts"], entry["instances"]
    if kind not in (_EXPRESSION, _CATEGORIES) or type(instances) is not bool or not isinstance(texts, list):
        raise ValueError(f"expected words, got {entry!r:.80}")
    if kind == _EXPRESSION and len(texts) != 1:
        raise ValueError(f"expected one expression, got {texts!r:.80}")
    return read_words({kind: texts if kind == _CATEGORIES else texts[0]}, instances, "words")


def share_out(choices: Mapping[Any, Sequence[tuple[int, Found]]], num_taken: int) -> list[tuple[Any, Found]]:
    """Shares things out among names: no two get the same one, and the sum of the scores is largest (Hungarian assignment).

    Args:
        choices: name -> (number of the thing, mask of it) for everything that its words mean, best first.
        num_taken: things with a lower number belong to somebody already.

    Returns:
        (name, its mask) of those that get one.
    """
    names = list(choices)
    offers: dict[tuple[int, int], Found] = {}
    for row, name in enumerate(names):
        for thing, found in choices[name]:
            if thing >= num_taken:
                offers.setdefault((row, thing), found)
    scores = np.zeros((len(names), 1 + max((thing for _, thing in offers), default=0)))
    for place, found in offers.items():
        scores[place] = found.score
    pairs = zip(*linear_sum_assignment(scores, maximize=True), strict=True)
    return [(names[row], offers[row, thing]) for row, thing in pairs if (row, thing) in offers]


def overlap(one: Tensor, other: Tensor) -> float:
    """IoU of two masks by how much of each cell they cover, (h, w) float each."""
    return float(torch.minimum(one, other).sum() / torch.maximum(one, other).sum().clamp(min=1e-6))


def _argument(words: Words) -> dict[str, list[str]]:
    """Words as an argument of the processor."""
    return {"categories" if words.kind == _CATEGORIES else "expressions": list(words.texts)}
