"""The arguments of a processor call -> rows, checked: what was asked about which image, and how the prompt is written.

Here is where a user's images, names, regions and messages enter, so here is where they are checked.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .image_processing_psalm import Size, to_rgb
from .prompts import (
    BACKGROUND_NAME,
    IMAGE_TOKEN,
    Piece,
    category_order,
    category_pieces,
    conversation_pieces,
    plain_pieces,
    region_pieces,
    sentence_pieces,
)
from .regions import Click


@dataclass(frozen=True)
class RowInfo:
    """Description of a row of the batch.

    Attributes:
        image: position of its image in `images` (None among them counts).
        kind: "category", "sentence", "region" or "conversation".
        conditions: the category names in the order of the class columns, background last; the expression's sentences; the kind
            of each region prompt, joined by " + " if there are several; nothing for a conversation.
        clicks: of each region, the points with their labels (`region_clicks`); nothing if no region has a point that does not belong to it.
    """

    image: int
    kind: str
    conditions: tuple[str, ...] = ()
    clicks: tuple[tuple[Click, ...], ...] = ()

    def __str__(self) -> str:
        return f"the {self.kind} row of image {self.image}"


@dataclass
class PromptRow:
    """One prompt on one image, before tokenisation."""

    info: RowInfo
    pieces: list[Piece]
    size: Size = (0, 0)  # (height, width) of its image as given; (0, 0) without image
    image: int = -1  # position of its image in the `ImagePool`; -1 without image
    region_weights: list[Tensor] = field(default_factory=list)  # R x (G,)
    region_images: list[int] = field(default_factory=list)  # R; -1 = drawn on the row's own image
    awaits_answer: bool = False  # of the language model
    teaches_answer: bool = False


@dataclass(frozen=True)
class EncodedImage:
    """Stand-in for an image that the model is given as `image_features`: rows need nothing of it but its size.

    Attributes:
        size: (width, height) in pixels, as of a PIL image.
    """

    size: tuple[int, int]


class ImagePool:
    """Distinct images of a batch as RGB: an object that is given twice is kept, and preprocessed, once.

    Args:
        convert_rgb: see `to_rgb`.
    """

    def __init__(self, convert_rgb: bool):
        self.images: list[Image.Image | EncodedImage] = []
        self._convert_rgb = convert_rgb
        self._positions: dict[int, tuple[int, Any]] = {}  # id of an object -> its position, and the object, so that the id stays its own

    def add(self, image: Any, name: str) -> int:
        """Position of an image among `images`.

        Args:
            image: anything `to_rgb` takes, or an `EncodedImage`.
            name: how error messages call it.
        """
        if id(image) not in self._positions:
            self.images.append(image if isinstance(image, EncodedImage) else to_rgb(image, name, self._convert_rgb))
            self._positions[id(image)] = len(self.images) - 1, image
        return self._positions[id(image)][0]


@dataclass(frozen=True)
class RowWriter:
    """Writes the prompts of one image as rows, checked; see `PsalmProcessor` and its call for the options."""

    style: str
    task: str
    add_background: bool
    end_of_text: str
    special_tokens: tuple[str, ...]
    shuffler: random.Random | None  # None = categories are written in the order given

    def write(
        self, index: int, has_image: bool, *, categories: Any, expressions: Any, num_regions: int | None, conversations: Any
    ) -> list[PromptRow]:
        """Rows of one image: categories, expressions, regions, conversation.

        Args:
            index: position of the image in the call.
            categories, expressions, conversations: entry of this image, None = none.
            num_regions: placeholders of the row of regions, None = no such row.

        Raises:
            ValueError: naming the image and the category, expression or message that is wrong.
        """
        segmentation = {"categories": categories, "expressions": expressions, "regions": num_regions}
        names = [name for name, prompt in segmentation.items() if prompt is not None]
        if not names and conversations is None:
            raise ValueError(f"image {index}: no prompt; give it categories, expressions, regions or a conversation")
        if not has_image and names:
            raise ValueError(f"image {index}: {names[0]} need an image, got None")
        if names and self.style == "plain":
            raise ValueError(f"image {index}: the plain style has captions (conversations) only, got {names[0]}")
        rows = []
        if categories is not None:
            rows.append(self._category_row(index, categories))
        if expressions is not None:
            rows += self._sentence_rows(index, expressions)
        if num_regions is not None:
            rows.append(PromptRow(RowInfo(index, "region"), region_pieces(num_regions, style=self.style, end_of_text=self.end_of_text)))
        if conversations is not None:
            rows.append(self._conversation_row(index, has_image, conversations))
        return rows

    def _check_text(self, text: Any, name: str) -> None:
        if not isinstance(text, str):
            raise ValueError(f"{name}: expected a string, got {type(text).__name__}")
        if not text.strip():
            raise ValueError(f"{name}: is blank ({text!r}); give some text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name}: has half of a character at {error.start} ({text!r:.80}), as a text cut in two has; remove it"
            ) from None
        for token in self.special_tokens:
            if token in text:
                raise ValueError(f"{name}: contains {token!r}, which the model reads as a special token; remove it")

    def _category_row(self, index: int, names: Any) -> PromptRow:
        where = f"image {index}"
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise ValueError(f"{where}: categories are a list of names, got {names!r:.80}")
        if not names:
            raise ValueError(f"{where}: the list of categories is empty; name at least one")
        seen: dict[str, int] = {}
        for position, text in enumerate(names):
            self._check_text(text, f"{where}, category {position}")
            if text in seen:
                raise ValueError(f"{where}, category {position}: {text!r} is also category {seen[text]}; name each category once")
            seen[text] = position
        columns = self._with_background(names, where)
        order = category_order(len(columns), self.shuffler, style=self.style)
        pieces = category_pieces(columns, style=self.style, task=self.task, end_of_text=self.end_of_text, order=order)
        return PromptRow(RowInfo(index, "category", tuple(columns)), pieces)

    def _with_background(self, names: Sequence[str], where: str) -> list[str]:
        """The class columns: the names, then the one that stands for "no object"."""
        is_background = [text.strip().lower() == BACKGROUND_NAME for text in names]
        if any(is_background[:-1]):
            # Moving it would shift the categories behind it against the caller's list, unnoticed.
            raise ValueError(
                f'{where}, category {is_background.index(True)}: {BACKGROUND_NAME!r} stands for "no object" and goes last or is left '
                "out, because results are indices into the categories as given"
            )
        if is_background[-1]:
            columns = [*names[:-1], BACKGROUND_NAME]
        else:
            columns = [*names, BACKGROUND_NAME] if self.add_background else list(names)
        if len(columns) < 2:
            raise ValueError(f'{where}: {columns[0]!r} is the only category, and the last one stands for "no object"; name another')
        return columns

    def _sentence_rows(self, index: int, expressions: Any) -> list[PromptRow]:
        if not isinstance(expressions, Sequence) or not expressions:
            raise ValueError(f"image {index}: expressions are a list of at least one expression, got {expressions!r:.80}")
        rows = []
        for position, expression in enumerate(expressions):
            name = f"image {index}, expression {position}"
            sentences = [expression] if isinstance(expression, str) else expression
            if not isinstance(sentences, Sequence) or not sentences:
                raise ValueError(f"{name}: expected a string or a list of strings, got {expression!r:.80}")
            for sentence in sentences:
                self._check_text(sentence, name)
            pieces = sentence_pieces(sentences, style=self.style, end_of_text=self.end_of_text)
            rows.append(PromptRow(RowInfo(index, "sentence", tuple(sentences)), pieces))
        return rows

    def _conversation_row(self, index: int, has_image: bool, messages: Any) -> PromptRow:
        where = f"image {index}, conversation"
        is_plain = self.style == "plain"
        self._check_messages(messages, has_image, ("assistant", "user") if is_plain else ("user", "assistant"), where)
        info = RowInfo(index, "conversation")
        if is_plain:
            if len(messages) != 1 or not has_image:
                raise ValueError(f"{where}: the plain style takes an image and one assistant message, its caption")
            return PromptRow(info, plain_pieces(messages[0]["content"]), teaches_answer=True)
        pieces = conversation_pieces(messages, has_image=has_image, end_of_text=self.end_of_text)
        awaits = messages[-1]["role"] == "user"
        return PromptRow(info, pieces, awaits_answer=awaits, teaches_answer=not awaits)

    def _check_messages(self, messages: Any, has_image: bool, roles: tuple[str, str], where: str) -> None:
        if not isinstance(messages, Sequence) or not messages or not all(isinstance(message, Mapping) for message in messages):
            raise ValueError(f"{where}: expected a list of at least one message dictionary, got {messages!r:.80}")
        mentions = 0
        has_system = roles[0] == "user" and messages[0].get("role") == "system"
        if has_system and len(messages) == 1:
            raise ValueError(f"{where}: has a message of the system only; expected one of the user behind it")
        for position, message in enumerate(messages):
            name = f"{where}, message {position}"
            if not {"role", "content"} <= set(message):
                raise ValueError(f"{name}: expected the keys 'role' and 'content', got {sorted(map(str, message))}")
            role = roles[(position - has_system) % 2] if position >= has_system else "system"
            if message["role"] != role:
                raise ValueError(f"{name}: expected the role {role!r}, got {message['role']!r}; turns alternate")
            text = message["content"]
            if isinstance(text, str) and message["role"] == "user" and IMAGE_TOKEN in text:
                mentions += text.count(IMAGE_TOKEN)
                text = text.replace(IMAGE_TOKEN, "image")  # the user may say where it goes; the rest is still checked
            self._check_text(text, name)
        if mentions > int(has_image):
            raise ValueError(f"{where}: {IMAGE_TOKEN} is mentioned {mentions} times, but there is {'one' if has_image else 'no'} image")


def read_region_entry(index: int, regions: Any, region_images: Any) -> list[tuple[Any, Any]]:
    """Regions of one image, each with the image it is drawn on; None = its own.

    Raises:
        ValueError: no list of regions, or another number of images.
    """
    if not isinstance(regions, Sequence) or not regions:
        raise ValueError(f"image {index}: regions are a list of at least one dictionary, got {regions!r:.80}")
    if not isinstance(region_images, (list, tuple)):
        region_images = [region_images] * len(regions)
    if len(region_images) != len(regions):
        raise ValueError(f"image {index}: {len(region_images)} region_images for {len(regions)} regions; give one image, or one per region")
    return list(zip(regions, region_images, strict=True))


def prompts_per_image(images: Any, given: Mapping[str, Any], region_images: Any) -> list[tuple[Any, dict[str, Any], Any]]:
    """Brings the arguments into one form: per image the image or None, its entry of every kind or None, its region images.

    Raises:
        ValueError: no images for what needs them, or another number of entries than images.
    """
    given = dict(given)
    if images is None:
        conversations = given["conversations"]
        if not isinstance(conversations, Sequence) or not conversations:
            raise ValueError("images: none given; only conversations go without an image")
        given["conversations"] = [conversations] if isinstance(conversations[0], Mapping) else conversations
        images = [None] * len(given["conversations"])
    is_single = not isinstance(images, (list, tuple))
    images = [images] if is_single else list(images)
    if not images:
        raise ValueError("images: the list is empty")
    for name, bare in (("expressions", str), ("regions", Mapping)):
        given[name] = [given[name]] if isinstance(given[name], bare) else given[name]
    entries = {name: _per_image(value, name, len(images), is_single) for name, value in given.items()}
    region_images = _region_images_per_image(region_images, len(images))
    return [(image, {name: values[index] for name, values in entries.items()}, region_images[index]) for index, image in enumerate(images)]


def _per_image(value: Any, name: str, num_images: int, is_single: bool) -> list[Any]:
    """One entry per image, from a list over images or, for one image, from the entry itself."""
    if value is None:
        return [None] * num_images
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{name}: expected a list, got {value!r:.80}")
    is_bare = any(isinstance(element, (str, Mapping)) for element in value)
    # A nested list of expressions could be both a list over images and expressions of several sentences.
    is_entry = is_bare or len(value) != 1 or (is_single and name == "expressions")
    if num_images == 1 and is_entry:
        return [value]
    if is_bare:
        raise ValueError(f"{name}: one list for {num_images} images; give a list over the images, with one list (or None) for each")
    if len(value) != num_images:
        raise ValueError(f"{name}: {len(value)} entries for {num_images} images; give one per image, None where there is none")
    return list(value)


def _region_images_per_image(value: Any, num_images: int) -> list[Any]:
    """Per image None, one image for all its regions, or a list of one per region."""
    if value is None:
        return [None] * num_images
    is_list = isinstance(value, (list, tuple))
    if num_images == 1:  # the entry itself, or a list over the one image
        return [value[0] if is_list and len(value) == 1 else value]
    if not is_list or len(value) != num_images:
        got = f"{len(value)} entries" if is_list else type(value).__name__
        raise ValueError(f"region_images: {got} for {num_images} images; give one entry per image, None where regions are on their own")
    return list(value)


def with_sam_regions(regions: Any, input_points: Any, input_labels: Any, input_boxes: Any) -> Any:
    """SAM-style prompts as a list of regions per image; `regions` if there are none.

    Args:
        input_points: [image][object][point][x, y], lists or an array.
        input_labels: [image][object][point]; 1 = belongs to the object, 0 = does not.
        input_boxes: [image][object][x0, y0, x1, y1]; with points, both mean the same object.

    Raises:
        ValueError: regions beside SAM-style prompts, or labels or boxes that do not match the points.
    """
    if input_labels is not None and input_points is None:
        raise ValueError("input_labels: given without input_points")
    if input_points is None and input_boxes is None:
        return regions
    if regions is not None:
        raise ValueError("regions and SAM-style prompts together; give all of them as regions")
    boxes = None if input_boxes is None else _nested(input_boxes, "input_boxes", 3, "[image][object][x0, y0, x1, y1]")
    if input_points is None:
        return [[{"box": box} for box in image_boxes] for image_boxes in boxes]
    points = _nested(input_points, "input_points", 4, "[image][object][point][x, y]", may_lack_objects=True)
    found = [[{"points": object_points} for object_points in image_points] for image_points in points]
    if input_labels is not None:
        labels = _nested(input_labels, "input_labels", 3, "[image][object][point]", may_lack_objects=True)
        _check_numbers(found, labels, "input_labels")
        for image, (image_regions, image_labels) in enumerate(zip(found, labels, strict=True)):
            for number, (region, of_points) in enumerate(zip(image_regions, image_labels, strict=True)):
                if len(of_points) != len(region["points"]):
                    name = f"input_labels, image {image}, object {number}"
                    raise ValueError(f"{name}: {len(of_points)} labels for {len(region['points'])} points")
                region["labels"] = of_points
    if boxes is not None:
        _check_numbers(found, boxes, "input_boxes")
        for image_regions, image_boxes in zip(found, boxes, strict=True):
            for region, box in zip(image_regions, image_boxes, strict=True):
                region["box"] = box
    return found


def _nested(value: Any, name: str, depth: int, meaning: str, may_lack_objects: bool = False) -> list[Any]:
    """The argument as lists of this depth. One level less is SAM's older form, where the points of an image are ONE object."""
    value = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    found = _depth(value)
    if may_lack_objects and found == depth - 1:
        return [[entry] for entry in value]
    if found != depth:
        raise ValueError(f"{name}: expected {meaning}, that is lists nested {depth} deep, got {value!r:.80}")
    return value


def _depth(value: Any) -> int:
    """Depth of nested lists, along their first entries."""
    value = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    return 1 + (_depth(value[0]) if len(value) else 0) if isinstance(value, (list, tuple)) else 0


def _check_numbers(regions: list[Any], values: list[Any], name: str) -> None:
    """Raises ValueError unless there are values for every object of every image that has points."""
    if len(regions) != len(values):
        raise ValueError(f"{name}: {len(values)} images, but input_points has {len(regions)}")
    for image, (image_regions, image_values) in enumerate(zip(regions, values, strict=True)):
        if len(image_regions) != len(image_values):
            raise ValueError(f"{name}, image {image}: {len(image_values)} objects, but input_points has {len(image_regions)}")
