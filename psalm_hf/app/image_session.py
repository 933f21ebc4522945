"""ImageSession: the image that one user looks at, what is marked in it, and what was found. Functions give a new session, or what the page
shows of one."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..predictor import PsalmPredictor
from ..result import PsalmResult
from ..structures import REGION
from ..visualization import label_colors, mask_colors
from .board import ShownMask, board_svg, empty_board
from .limits import LIMITS, Limits, read_upload, short_text
from .strokes import MARK, MAX_STROKES, Stroke, read_stroke, regions_of, unmarked

LEAST_ASKED = 0.1  # instances are asked for from this score on, so that the slider has something to hide and to show
DEFAULT_LEAST = 0.5
TABLE = ("show", "number", "label", "score", "area", "box")
MAX_NAMES = 200
NO_IMAGE = "Upload, paste or take an image, or choose one of the examples."


@dataclass(frozen=True)
class Turn:
    """Something that was said: by the "user" or the "assistant". `is_dialogue`: the model reads it again; what was shown it does not."""

    role: str
    text: str
    is_dialogue: bool = True


@dataclass(frozen=True, eq=False)
class ImageSession:
    """Work of one user on one image.

    Attributes:
        image: RGB; None before there is one.
        name: of its file.
        strokes: what is marked, in the order in which it came.
        number: of the object that the next stroke belongs to.
        result: what was found last.
        checked: one bool for each instance of the result; None = all.
        least: instances with a lower score are hidden. Where there are no scores nothing is hidden.
        opacity: of the masks.
        tool: one of `strokes.TOOLS`.
        turns: of the conversation about the image.
    """

    image: Image.Image | None = None
    name: str = ""
    strokes: tuple[Stroke, ...] = ()
    number: int = 0
    result: PsalmResult | None = None
    checked: tuple[bool, ...] | None = None
    least: float = DEFAULT_LEAST
    opacity: float = 0.45
    tool: str = MARK
    turns: tuple[Turn, ...] = ()

    @property
    def visible(self) -> list[int]:
        """Numbers of the instances whose score is high enough; regions are what was meant, so they have no threshold."""
        if self.result is None:
            return []
        is_region = self.result.prompt.kind == REGION
        return [index for index, score in enumerate(self.result.scores) if is_region or math.isnan(score) or score >= self.least]

    @property
    def chosen(self) -> PsalmResult | None:
        """The visible instances with a check mark, which are shown and downloaded."""
        if self.result is None:
            return None
        return self.result[[index for index in self.visible if self.checked is None or self.checked[index]]]


def look_at(session: ImageSession, path: str | Path | None, limits: Limits = LIMITS) -> ImageSession:
    """A session with another image and the settings of the one before; without a path, with none.

    Raises:
        ValueError: see `read_upload`.
    """
    fresh = ImageSession(least=session.least, opacity=session.opacity, tool=session.tool)
    return fresh if path is None else replace(fresh, image=read_upload(path, limits), name=Path(path).name)


def add_stroke(session: ImageSession, gesture: Any, predictor: PsalmPredictor) -> ImageSession:
    """The session with a stroke more, and what it means now.

    Raises:
        ValueError: no image, see `read_stroke`; too many strokes.
    """
    image = _image_of(session)
    if len(session.strokes) >= MAX_STROKES:
        raise ValueError(f"there are {MAX_STROKES} strokes already; clear them, or undo some")
    stroke = read_stroke(gesture, image.size, session.tool, session.number)
    return answer_strokes(replace(session, strokes=(*session.strokes, stroke)), predictor)


def undo_stroke(session: ImageSession, predictor: PsalmPredictor) -> ImageSession:
    """The session without its last stroke."""
    strokes = session.strokes[:-1]
    number = strokes[-1].number if strokes else 0
    return answer_strokes(replace(session, strokes=strokes, number=number), predictor)


def begin_object(session: ImageSession) -> ImageSession:
    """The session whose next stroke marks another object."""
    numbers = [stroke.number for stroke in session.strokes]
    return replace(session, number=max(numbers) + 1 if numbers else 0)


def clear(session: ImageSession) -> ImageSession:
    """The session with its image alone."""
    return replace(session, strokes=(), number=0, result=None, checked=None)


def answer_strokes(session: ImageSession, predictor: PsalmPredictor) -> ImageSession:
    """The session with the masks of all marked objects. An object of which only is said what does not belong to it waits."""
    waiting = unmarked(session.strokes)
    regions = regions_of([stroke for stroke in session.strokes if stroke.number not in waiting])
    if not regions:
        return replace(session, result=None, checked=None)
    return replace(session, result=predictor.predict(_image_of(session), regions=regions), checked=None)


def find_sentences(session: ImageSession, text: str, predictor: PsalmPredictor, *, every: bool = False) -> ImageSession:
    """The session with what each line of a text means.

    Args:
        every: each instance by itself, with a score of its own; else one mask for all that a line means.

    Raises:
        ValueError: no image or no text, see `PsalmPredictor.predict`.
    """
    lines = [line.strip() for line in short_text(text).splitlines() if line.strip()]
    if not lines:
        raise ValueError("write what is to be found, one sentence on each line, such as: the red star")
    options = {"instances": True, "threshold": LEAST_ASKED} if every else {}
    result = predictor.predict(_image_of(session), expressions=lines, **options)
    return replace(session, strokes=(), number=0, result=result, checked=None)


def find_names(session: ImageSession, text: str, predictor: PsalmPredictor, *, every: bool = False) -> ImageSession:
    """The session with all that has one of the names, which commas separate.

    Args:
        every: each instance by itself, masks may overlap; else masks share no pixel.

    Raises:
        ValueError: no image or no names, see `PsalmPredictor.predict`.
    """
    options = {"task": "instance", "threshold": LEAST_ASKED} if every else {}
    result = predictor.predict(_image_of(session), categories=comma_names(text), **options)
    return replace(session, strokes=(), number=0, result=result, checked=None)


def comma_names(text: str) -> list[str]:
    """Names between commas or on lines of their own, each once.

    Raises:
        ValueError: there are none, or too many.
    """
    names = list(dict.fromkeys(name.strip() for name in short_text(text).replace("\n", ",").split(",") if name.strip()))
    if not names:
        raise ValueError("write the names of what is to be found, with commas between them, such as: star, circle, grass")
    if len(names) > MAX_NAMES:
        raise ValueError(f"there are {len(names)} names, and at most {MAX_NAMES} are taken")
    return names


def ask(session: ImageSession, question: str, predictor: PsalmPredictor) -> ImageSession:
    """The session with a question and its answer more.

    Raises:
        ValueError: no image or question; a dialogue that does not fit into the model's context.
    """
    question = short_text(question)
    if not question:
        raise ValueError("write a question about the image")
    said = [{"role": turn.role, "content": turn.text} for turn in session.turns if turn.is_dialogue]
    result = predictor.predict(_image_of(session), question=[*said, {"role": "user", "content": question}])
    return replace(session, turns=(*session.turns, Turn("user", question), Turn("assistant", result.text or "(no answer)")))


def outline(session: ImageSession, text: str, predictor: PsalmPredictor) -> ImageSession:
    """The session with the mask of what a text means, and a line of the dialogue that says it.

    Raises:
        ValueError: see `find_sentences`.
    """
    found = find_sentences(session, " ".join(short_text(text).split()), predictor)
    said = Turn("user", f"Show {text.strip()}", False), Turn("assistant", describe_image(found), False)
    return replace(found, turns=(*session.turns, *said))


def forget(session: ImageSession) -> ImageSession:
    """The session without its conversation."""
    return replace(session, turns=())


def set_check_marks(session: ImageSession, rows: Sequence[Sequence[Any]]) -> ImageSession:
    """The session with the check marks of a table, see `table_rows`; the user may have sorted it."""
    if session.result is None:
        return session
    checked = [True] * len(session.result) if session.checked is None else list(session.checked)
    for is_checked, index in numbered_rows(rows, session.visible):
        checked[index] = is_checked
    return replace(session, checked=tuple(checked))


def numbered_rows(rows: Sequence[Sequence[Any]], known: Collection[int]) -> Iterator[tuple[bool, int]]:
    """(check mark, index) of each row of a table whose first two columns are the check mark and the number, from 1. Rows that a user has
    added have no known number, and are passed over."""
    for row in rows:
        number = str(row[1]).removesuffix(".0")  # a table of numbers may come back as floats
        if number.isdigit() and int(number) - 1 in known:
            yield row[0] in (True, "true", "True"), int(number) - 1


def table_rows(session: ImageSession) -> list[list[Any]]:
    """A row of `TABLE` for each visible instance: whether it is checked, its number, label, score, pixels, x0, y0, x1, y1."""
    rows = []
    for index in session.visible:
        one = session.result[index]
        is_checked = session.checked is None or session.checked[index]
        score = "" if math.isnan(one.score) else f"{one.score:.2f}"
        rows.append([is_checked, index + 1, one.phrase, score, one.area, box_text(one.box)])
    return rows


def board_of(session: ImageSession, *, is_frozen: bool = False) -> str:
    """HTML of the board."""
    if session.image is None:
        return empty_board(NO_IMAGE)
    return board_svg(session.image, shown_masks(session), session.strokes, opacity=session.opacity, tool=session.tool, is_frozen=is_frozen)


def shown_masks(session: ImageSession) -> list[ShownMask]:
    """Masks that were chosen, as the board draws them: colours as in `PsalmResult.plot`."""
    result = session.chosen
    if result is None:
        return []
    is_region = result.prompt.kind == REGION
    colors = mask_colors(result.phrases, None if is_region else label_colors(result.prompt.names))
    masks = []
    for one, color in zip(result, colors, strict=True):
        name = str(one.label_id + 1) if is_region else one.label
        score = "" if math.isnan(one.score) else f", score {one.score:.2f}"
        masks.append(ShownMask(one.mask, f"{one.phrase}{score}, {one.area} pixels", name, color))
    return masks


def describe_image(session: ImageSession) -> str:
    """One line about what was found, with all that a user must know about it."""
    if session.image is None:
        return NO_IMAGE
    if session.result is None:
        waits = "Say also what the object is, not only what it is not. " if session.strokes else ""
        return f"{waits}{session.name}: {session.image.width} x {session.image.height} pixels."
    hidden = len(session.result) - len(session.chosen)
    absent = f" Not in the image: {', '.join(session.result.absent)}." if session.result.absent else ""
    low = f" {hidden} more with a lower score or without a check mark." if hidden else ""
    return f"{session.chosen}.{absent}{low}"


def box_text(box: np.ndarray) -> str:
    """Edges of a box as the table shows them."""
    return " ".join(f"{edge:g}" for edge in box)


def _image_of(session: ImageSession) -> Image.Image:
    if session.image is None:
        raise ValueError(f"there is no image. {NO_IMAGE}")
    return session.image
