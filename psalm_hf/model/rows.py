"""The arguments of a processor call -> rows, checked: what was asked about which image, and how the prompt is written.

Here is where a user's images, names, regions and messages enter, so here is where they are checked.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .image_processing_psalm import Size, to_rgb
from .prompts import (
    BACKGROUND,
    CONDITIONS,
    IMAGE_TOKEN,
    Piece,
    category_order,
    category_pieces,
    conversation_pieces,
    plain_pieces,
    region_pieces,
    sentence_pieces,
)
from .regions import place_region, region_mask, region_weights

KINDS = CONDITIONS  # the position is the row's `condition_type`


@dataclass(frozen=True)
class RowInfo:
    """What a row of the batch is.

    Attributes:
        image: position of its image in `images` (None among them counts).
        kind: "category", "sentence", "region" or "conversation".
        conditions: the category names in the order of the class columns, background last; the expression's sentences; the kind
            of each region prompt; nothing for a conversation.
    """

    image: int
    kind: str
    conditions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"the {self.kind} row of image {self.image}"


@dataclass
class Row:
    """One prompt on one image, before tokenisation."""

    info: RowInfo
    pieces: list[Piece]
    size: Size = (0, 0)  # (height, width) of its image as given; (0, 0) without image
    pixel_index: int = -1  # position of its image among those that are not None; -1 without image
    region_weights: list[Tensor] = field(default_factory=list)  # R x (G,)
    region_pixel_index: list[int] = field(default_factory=list)  # R; -1 = drawn on the row's own image
    awaits_answer: bool = False  # of the language model
    teaches_answer: bool = False


@dataclass(frozen=True)
class RowOptions:
    """How rows are written; see `PsalmProcessor` and its call."""

    style: str
    task: str
    add_background: bool
    convert_rgb: bool
    image_size: int
    image_grid: Size
    region_sampling: str
    prompt_radii: tuple[int, int]
    end_of_text: str
    special_tokens: tuple[str, ...]
    shuffler: random.Random | None  # None = categories are written in the order given
    generator: torch.Generator | None  # of the released region sampling; None = torch's global one


class RowBuilder:
    """Turns the prompts of one image after the other into `rows`; collects the `pictures` (RGB) that the rows are about, and the
    `region_pictures` that regions were drawn on if not on the row's own image (an image given twice is kept once)."""

    def __init__(self, options: RowOptions):
        self.options = options
        self.rows: list[Row] = []
        self.pictures: list[Image.Image] = []
        self.region_pictures: list[Image.Image] = []
        self._region_picture_of: dict[int, int] = {}  # id of the image as given -> position

    def add_image(self, index: int, image: Any, prompts: Mapping[str, Any], region_images: Any = None) -> None:
        """Adds the rows of one image: categories, expressions, regions, conversation.

        Args:
            index: position of the image in the call.
            image: anything `to_rgb` takes, or None.
            prompts: entry of this image (None = none) for "categories", "expressions", "regions" and "conversations".
            region_images: see `PsalmProcessor.__call__`, the entry of this image.

        Raises:
            ValueError: naming the image and the category, expression, region or message that is wrong.
        """
        if all(prompt is None for prompt in prompts.values()):
            raise ValueError(f"image {index}: no prompt; give it categories, expressions, regions or a conversation")
        segmentation = [name for name in ("categories", "expressions", "regions") if prompts[name] is not None]
        if image is None and segmentation:
            raise ValueError(f"image {index}: {segmentation[0]} need an image, got None")
        if segmentation and self.options.style == "plain":
            raise ValueError(f"image {index}: the plain style has captions (conversations) only, got {segmentation[0]}")
        if region_images is not None and prompts["regions"] is None:
            raise ValueError(f"image {index}: region_images without regions")
        picture = None if image is None else to_rgb(image, f"image {index}", self.options.convert_rgb)
        if prompts["categories"] is not None:
            self._add(picture, self._category_row(index, prompts["categories"]))
        if prompts["expressions"] is not None:
            for row in self._sentence_rows(index, prompts["expressions"]):
                self._add(picture, row)
        if prompts["regions"] is not None:
            self._add(picture, self._region_row(index, picture, prompts["regions"], region_images))
        if prompts["conversations"] is not None:
            self._add(picture, self._conversation_row(index, picture is not None, prompts["conversations"]))
        if picture is not None:
            self.pictures.append(picture)

    def _add(self, picture: Image.Image | None, row: Row) -> None:
        if picture is not None:
            row.size = (picture.height, picture.width)
            row.pixel_index = len(self.pictures)
        self.rows.append(row)

    def _check_text(self, text: Any, name: str) -> None:
        if not isinstance(text, str):
            raise ValueError(f"{name}: expected a string, got {type(text).__name__}")
        if not text.strip():
            raise ValueError(f"{name}: is blank ({text!r}); give some text")
        for token in self.options.special_tokens:
            if token in text:
                raise ValueError(f"{name}: contains {token!r}, which the model reads as a special token; remove it")

    def _category_row(self, index: int, names: Any) -> Row:
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
        options = self.options
        pieces = category_pieces(
            columns,
            style=options.style,
            task=options.task,
            end_of_text=options.end_of_text,
            order=category_order(len(columns), options.shuffler, style=options.style),
        )
        return Row(RowInfo(index, "category", tuple(columns)), pieces)

    def _with_background(self, names: Sequence[str], where: str) -> list[str]:
        """The class columns: the names, then the one that stands for "no object"."""
        is_background = [text.strip().lower() == BACKGROUND for text in names]
        if any(is_background[:-1]):
            # Moving it would shift the categories behind it against the caller's list, unnoticed.
            raise ValueError(
                f'{where}, category {is_background.index(True)}: {BACKGROUND!r} stands for "no object" and goes last or is left '
                "out, because results are indices into the categories as given"
            )
        if is_background[-1]:
            columns = [*names[:-1], BACKGROUND]
        else:
            columns = [*names, BACKGROUND] if self.options.add_background else list(names)
        if len(columns) < 2:
            raise ValueError(f'{where}: {columns[0]!r} is the only category, and the last one stands for "no object"; name another')
        return columns

    def _sentence_rows(self, index: int, expressions: Any) -> list[Row]:
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
            pieces = sentence_pieces(sentences, style=self.options.style, end_of_text=self.options.end_of_text)
            rows.append(Row(RowInfo(index, "sentence", tuple(sentences)), pieces))
        return rows

    def _region_row(self, index: int, picture: Image.Image, regions: Any, region_images: Any) -> Row:
        if not isinstance(regions, Sequence) or not regions:
            raise ValueError(f"image {index}: regions are a list of at least one dictionary, got {regions!r:.80}")
        if not isinstance(region_images, (list, tuple)):
            region_images = [region_images] * len(regions)
        if len(region_images) != len(regions):
            raise ValueError(
                f"image {index}: {len(region_images)} region_images for {len(regions)} regions; give one image, or one per region"
            )
        options = self.options
        pieces = region_pieces(len(regions), style=options.style, end_of_text=options.end_of_text)
        row = Row(RowInfo(index, "region"), pieces)
        for position, (region, region_image) in enumerate(zip(regions, region_images, strict=True)):
            name = f"image {index}, region {position}"
            drawn_on, pixel_index = (picture, -1) if region_image is None else self._region_picture(region_image, name)
            drawn = region_mask(region, (drawn_on.height, drawn_on.width), name, options.prompt_radii)
            mask = place_region(drawn, options.image_size)
            row.region_weights.append(region_weights(mask, options.image_grid, options.region_sampling, options.generator))
            row.region_pixel_index.append(pixel_index)
        row.info = RowInfo(index, "region", tuple(next(iter(region)) for region in regions))
        return row

    def _region_picture(self, image: Any, name: str) -> tuple[Image.Image, int]:
        if id(image) not in self._region_picture_of:
            self._region_picture_of[id(image)] = len(self.region_pictures)
            self.region_pictures.append(to_rgb(image, f"{name}, its region image", self.options.convert_rgb))
        position = self._region_picture_of[id(image)]
        return self.region_pictures[position], position

    def _conversation_row(self, index: int, has_image: bool, messages: Any) -> Row:
        where = f"image {index}, conversation"
        is_plain = self.options.style == "plain"
        self._check_messages(messages, has_image, ("assistant", "user") if is_plain else ("user", "assistant"), where)
        info = RowInfo(index, "conversation")
        if is_plain:
            if len(messages) != 1 or not has_image:
                raise ValueError(f"{where}: the plain style takes an image and one assistant message, its caption")
            return Row(info, plain_pieces(messages[0]["content"]), teaches_answer=True)
        pieces = conversation_pieces(messages, has_image=has_image, end_of_text=self.options.end_of_text)
        awaits = messages[-1]["role"] == "user"
        return Row(info, pieces, awaits_answer=awaits, teaches_answer=not awaits)

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


def prompts_per_image(
    images: Any, *, categories: Any, expressions: Any, regions: Any, conversations: Any, region_images: Any
) -> list[tuple[Any, dict[str, Any], Any]]:
    """Brings the arguments into one form: per image the image or None, its entry of every kind or None, its region images.

    Raises:
        ValueError: no images for what needs them, or another number of entries than images.
    """
    if images is None:
        if not isinstance(conversations, Sequence) or not conversations:
            raise ValueError("images: none given; only conversations go without an image")
        conversations = [conversations] if isinstance(conversations[0], Mapping) else conversations
        images = [None] * len(conversations)
    is_single = not isinstance(images, (list, tuple))
    images = [images] if is_single else list(images)
    if not images:
        raise ValueError("images: the list is empty")
    given = {
        "categories": categories,
        "expressions": [expressions] if isinstance(expressions, str) else expressions,
        "regions": [regions] if isinstance(regions, Mapping) else regions,
        "conversations": conversations,
    }
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
    """Per image None, one picture for all its regions, or a list of one per region."""
    if value is None:
        return [None] * num_images
    is_list = isinstance(value, (list, tuple))
    if num_images == 1:  # the entry itself, or a list over the one image
        return [value[0] if is_list and len(value) == 1 else value]
    if not is_list or len(value) != num_images:
        got = f"{len(value)} entries" if is_list else type(value).__name__
        raise ValueError(f"region_images: {got} for {num_images} images; give one entry per image, None where regions are on their own")
    return list(value)


def regions_from_sam(input_points: Any, input_labels: Any, input_boxes: Any) -> list[list[dict[str, Any]]] | None:
    """SAM-style prompts as a list of regions per image; None if there are none.

    Args:
        input_points: [image][object][point][x, y], lists or an array.
        input_labels: [image][object][point]; only 1 (foreground) is possible.
        input_boxes: [image][object][x0, y0, x1, y1].

    Raises:
        ValueError: points and boxes together, background points, or labels that do not match the points.
    """
    if input_labels is not None and input_points is None:
        raise ValueError("input_labels: given without input_points")
    if input_points is None and input_boxes is None:
        return None
    if input_points is not None and input_boxes is not None:
        raise ValueError("input_points and input_boxes together would say one object by both, which a region cannot; use regions")
    if input_boxes is not None:
        boxes = _nested(input_boxes, "input_boxes", 3, "[image][object][x0, y0, x1, y1]")
        return [[{"box": box} for box in image_boxes] for image_boxes in boxes]
    points = _nested(input_points, "input_points", 4, "[image][object][point][x, y]", may_lack_objects=True)
    if input_labels is not None:
        _check_point_labels(points, _nested(input_labels, "input_labels", 3, "[image][object][point]", may_lack_objects=True))
    return [[{"points": object_points} for object_points in image_points] for image_points in points]


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
    """How deep lists are nested, along their first entries."""
    value = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    return 1 + (_depth(value[0]) if len(value) else 0) if isinstance(value, (list, tuple)) else 0


def _check_point_labels(points: list[Any], labels: list[Any]) -> None:
    if len(points) != len(labels):
        raise ValueError(f"input_labels: {len(labels)} images, but input_points has {len(points)}")
    for image, (image_points, image_labels) in enumerate(zip(points, labels, strict=True)):
        if len(image_points) != len(image_labels):
            raise ValueError(f"input_labels, image {image}: {len(image_labels)} objects, but input_points has {len(image_points)}")
        for number, (object_points, object_labels) in enumerate(zip(image_points, image_labels, strict=True)):
            name = f"input_labels, image {image}, object {number}"
            if len(object_points) != len(object_labels):
                raise ValueError(f"{name}: {len(object_labels)} labels for {len(object_points)} points")
            if any(label != 1 for label in object_labels):
                raise ValueError(f"{name}: got {list(object_labels)}; only 1 is possible, PSALM has no background points")
