"""Records of one example for training or evaluation: an image, its prompt and its targets; and the names of the four kinds of condition.

They need no torch, so that builders, worker processes and metrics import them cheaply. A record that contradicts itself is refused when it
is made, because only then does the message know the image.

Conventions: sizes are (height, width); points are (x, y) and boxes (x0, y0, x1, y1) in pixels of the image as stored in its file;
masks are COCO RLE at the original image size; category ids are the dataset's own, and only `Sample.class_labels` maps them to
positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Condition = Literal["category", "sentence", "region", "conversation"]
RegionKind = Literal["point", "box", "scribble", "mask"]

Task = Literal["panoptic", "semantic", "instance"]

# The kinds of condition: what a prompt names. `model.prompts` has them too, with their codes and words for a checkpoint.
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
CATEGORY, SENTENCE, REGION, CONVERSATION = CONDITIONS
TASKS: tuple[Task, ...] = get_args(Task)
REGION_KINDS: tuple[RegionKind, ...] = get_args(RegionKind)
# Special tokens of prompts, which no name of a category may contain. A tokenizer may have further ones; the processor knows them.
PROMPT_TOKENS = ("[PAD]", "[SEG]", "<image>", "<region>", "<mask_query>", "<|endoftext|>")


@dataclass(frozen=True)
class Segment:
    """Annotated object, or region of stuff.

    Attributes:
        mask_rle: COCO RLE `{"size": [height, width], "counts": str | bytes | list[int]}` at the original image size.
        category_id: the dataset's own id; None if only the mask matters (expressions, visual prompts).
        is_crowd: a group that was annotated as one; no training target, and ignored by the metrics.
        annotation_id: the dataset's own id of the annotation; in a video, the id of the object; None if there is none.
        area: in pixels, from the annotation; it may differ from that of the mask (COCO: it is that of the polygons). None = that of the
            mask. AP by object size uses it.

    Raises:
        ValueError: `mask_rle` is not an RLE.
    """

    mask_rle: dict = field(repr=False)
    category_id: int | None = None
    is_crowd: bool = False
    annotation_id: int | None = None
    area: float | None = None

    def __post_init__(self) -> None:
        _check_rle(self.mask_rle, "segment")


@dataclass(frozen=True)
class Region:
    """Visual prompt, either drawn with coordinates or given as the pixels of a mask.

    Attributes:
        kind: "point" (one or several points on the same object), "box", "scribble" (a line through two or more points) or "mask".
        points: (x, y) pixels, one or more for "point", two or more for "scribble", the corners (x0, y0), (x1, y1) for "box".
        mask_rle: COCO RLE of the pixels of the prompt at the original image size; the only form of a "mask".
        segment: index into `Sample.segments` of the object that it means; None at inference.

    Points and scribbles are stored as drawn: the processor enlarges them.

    Raises:
        ValueError: unknown kind, both or neither of `points` and `mask_rle`, too few points, a coordinate that is not finite, or a box
            with corners in another order than (left, top), (right, bottom).
    """

    kind: RegionKind
    points: tuple[tuple[float, float], ...] | None = None
    mask_rle: dict | None = field(default=None, repr=False)
    segment: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in REGION_KINDS:
            raise ValueError(f"region: unknown kind {self.kind!r}, expected one of {', '.join(REGION_KINDS)}")
        if (self.points is None) == (self.mask_rle is None):
            raise ValueError(f"region of kind {self.kind!r}: give either points or mask_rle, one of the two")
        if self.mask_rle is not None:
            _check_rle(self.mask_rle, f"region of kind {self.kind!r}")
            return
        if self.kind == "mask":
            raise ValueError("region of kind 'mask': points were given; give mask_rle")
        expected = {"point": (1, None), "box": (2, 2), "scribble": (2, None)}[self.kind]
        if len(self.points) < expected[0] or (expected[1] is not None and len(self.points) > expected[1]):
            many = f"exactly {expected[0]}" if expected[1] else f"at least {expected[0]}"
            raise ValueError(f"region of kind {self.kind!r}: expected {many} (x, y) points, got {len(self.points)}")
        if not all(len(point) == 2 and all(map(math.isfinite, point)) for point in self.points):
            raise ValueError(f"region of kind {self.kind!r}: points must be finite (x, y) pairs, got {self.points}")
        if self.kind == "box":
            (x0, y0), (x1, y1) = self.points
            if x1 <= x0 or y1 <= y0:
                raise ValueError(f"region of kind 'box': expected x0 < x1 and y0 < y1, got ({x0}, {y0}, {x1}, {y1})")

    def as_prompt(self) -> dict[str, Any]:
        """Prompt of the region for the processor: `{"points" | "point" | "box" | "scribble" | "mask": ...}`."""
        if self.mask_rle is not None:
            # A box drawn as pixels is used as it is, like a mask; points and scribbles are still enlarged.
            return {"mask" if self.kind == "box" else self.kind: self.mask_rle}
        if self.kind == "point":
            return {"points": list(self.points)}
        if self.kind == "box":
            (x0, y0), (x1, y1) = self.points
            return {"box": (x0, y0, x1, y1)}
        return {"scribble": list(self.points)}


@dataclass(frozen=True)
class Sample:
    """Image with ONE kind of prompt, and the segments that are its targets.

    Attributes:
        image: path of the file, or a PIL image; None only for a conversation without an image.
        image_id: the dataset's id; error messages and predictions have it.
        image_size: (height, width) of the image as stored in its file; None only without an image.
        segments: annotated objects. For `categories` all of them; for `expressions` those that the expressions mean, one, several or
            none; for `regions` those that the regions mean.
        categories: category id -> name, in the order of the prompt; without "background".
        task: the task of a prompt with categories: "panoptic", "semantic" or "instance".
        expressions: one or more expressions that all mean the same segments.
        regions: visual prompts. Several of them may mean the same segment.
        conversation: messages `{"role": "user" | "assistant", "content": str}` that take turns.
        record_id: the dataset's id of the question, expression or object, if several samples share an image.
        choices: of a multiple-choice question, in the order of their letters A, B, ...
        answers: all answers that people gave to the question, or the right one; training uses those in `conversation`.
        region_image, region_image_size: the image that the regions are drawn on, if it is another one: an earlier frame, another view.
        tags: names of groups for which results can be printed apart, and facts for evaluators; the dataset's page lists them.

    Exactly one of categories, expressions, regions and conversation is given; `condition` is its kind.

    Raises:
        ValueError: the fields contradict each other. The message names the image, and the segment or region by its index.
    """

    image: Any
    image_id: str | int
    image_size: tuple[int, int] | None
    segments: tuple[Segment, ...] = ()
    categories: Mapping[int, str] = field(default_factory=dict)
    expressions: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    conversation: tuple[Mapping[str, str], ...] = ()
    record_id: str | None = None
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    region_image: Any = None
    region_image_size: tuple[int, int] | None = None
    tags: tuple[str, ...] = ()
    task: Task = "panoptic"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"image {self.image_id}: unknown task {self.task!r}, expected one of {', '.join(TASKS)}")
        given = [name for name in ("categories", "expressions", "regions", "conversation") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"image {self.image_id}: expected exactly one of categories, expressions, regions, conversation, "
                f"got {', '.join(given) or 'none'}; make one sample per kind of prompt"
            )
        self._check_image()
        self._check_segments()
        self._check_regions()
        self._check_conversation()
        for text in (*self.categories.values(), *self.expressions):
            if not text.strip():
                raise ValueError(f"image {self.image_id}: a category name or expression is blank; leave it out")

    @property
    def condition(self) -> Condition:
        """Kind of the prompt."""
        if self.categories:
            return CATEGORY
        if self.expressions:
            return SENTENCE
        return REGION if self.regions else CONVERSATION

    @property
    def class_labels(self) -> tuple[int, ...]:
        """Positions in `categories` of the category ids, in the order of `segments`; () for other conditions."""
        position = {category_id: index for index, category_id in enumerate(self.categories)}
        return tuple(position[segment.category_id] for segment in self.segments) if position else ()

    def _check_image(self) -> None:
        if self.image is None or self.image_size is None:
            if self.condition != CONVERSATION:
                raise ValueError(f"image {self.image_id}: {self.condition} prompts need an image and its image_size")
            return
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image {self.image_id}: expected image_size (height, width) of positive numbers, got {self.image_size}")

    def _check_segments(self) -> None:
        for index, segment in enumerate(self.segments):
            self._check_mask_size(segment.mask_rle, f"segment {index}", self.image_size)
            if self.categories and segment.category_id not in self.categories:
                raise ValueError(
                    f"image {self.image_id}: segment {index} has category_id {segment.category_id}, which is none of the "
                    f"{len(self.categories)} categories; give the dataset's own id, not a position"
                )

    def _check_regions(self) -> None:
        if (self.region_image is None) != (self.region_image_size is None):
            raise ValueError(f"image {self.image_id}: region_image and region_image_size are given together or not at all")
        drawn_on = self.image_size if self.region_image is None else self.region_image_size
        for index, region in enumerate(self.regions):
            if region.mask_rle is not None:
                self._check_mask_size(region.mask_rle, f"region {index}", drawn_on)
            if region.segment is not None and not 0 <= region.segment < len(self.segments):
                raise ValueError(
                    f"image {self.image_id}: region {index} points at segment {region.segment}, but there are {len(self.segments)} segments"
                )

    def _check_conversation(self) -> None:
        for index, message in enumerate(self.conversation):
            if message.get("role") not in ("user", "assistant") or not isinstance(message.get("content"), str):
                raise ValueError(
                    f"image {self.image_id}: message {index} must be {{'role': 'user' | 'assistant', 'content': str}}, got {dict(message)}"
                )
            if index and message["role"] == self.conversation[index - 1]["role"]:
                raise ValueError(
                    f"image {self.image_id}: messages {index - 1} and {index} are both from the {message['role']}; roles take turns"
                )

    def _check_mask_size(self, rle: dict, item: str, image_size: tuple[int, int] | None) -> None:
        if image_size is None or tuple(rle["size"]) != tuple(image_size):
            raise ValueError(
                f"image {self.image_id}: {item} has a mask of size {tuple(rle['size'])}, but the image is {image_size}; "
                f"masks are (height, width) at the original image size"
            )


def _check_rle(rle: Any, item: str) -> None:
    if not isinstance(rle, Mapping) or not {"size", "counts"} <= rle.keys() or len(rle["size"]) != 2:
        raise ValueError(f"{item}: expected COCO RLE {{'size': [height, width], 'counts': ...}}, got {rle!r:.80}")
