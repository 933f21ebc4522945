"""LabelSession: a user's way through a folder of images; what is proposed, accepted, corrected and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..predictor import PsalmPredictor
from ..visualization import label_colors, mask_colors
from .board import ShownMask, board_svg, empty_board
from .image_session import LEAST_ASKED, comma_names, numbered_rows
from .label_folder import LabelFolder
from .limits import read_upload, short_text
from .strokes import BRUSH, EXCLUDE, MARK, Stroke, read_stroke, regions_of

ERASER = "Eraser"
LABEL_TOOLS = (MARK, EXCLUDE, BRUSH, ERASER)
LABEL_TABLE = ("accept", "number", "name", "score", "area")
PROPOSED_FROM = 0.5  # score from which a proposal is accepted at first; those from LEAST_ASKED on are shown without a check mark
SAME = 0.7  # IoU from which a proposal is what is there already
NAMES, SENTENCE_MODE = "Names", "Sentence"
NO_FOLDER = "Open a folder: one that is below the folder of this page, or a new name for images that you add."


@dataclass(frozen=True, eq=False)
class LabelItem:
    """One object of an image.

    Attributes:
        name: its category, or the sentence.
        mask: (H, W) bool.
        is_accepted: it will be saved.
        score: of the model; None if it was drawn or read from the file.
        strokes: that it was marked by.
    """

    name: str
    mask: np.ndarray
    is_accepted: bool = True
    score: float | None = None
    strokes: tuple[Stroke, ...] = ()


@dataclass(frozen=True, eq=False)
class LabelSession:
    """Place of a user in a folder, and the labels of the image there.

    Attributes:
        folder: None before one is open.
        index: of the image among `folder.image_names()`.
        image: RGB; None if the folder has none.
        items: objects of the image, in the order of the table.
        chosen: number of the item that the brush and further clicks change; None = they begin a new one.
        mode: `NAMES` or `SENTENCE_MODE`: what is labelled.
        text: names with commas, or the sentence.
        tool: one of `LABEL_TOOLS`.
        width: of the brush, as a share of the longer side of the image.
    """

    folder: LabelFolder | None = None
    index: int = 0
    image: Image.Image | None = None
    items: tuple[LabelItem, ...] = ()
    chosen: int | None = None
    mode: str = NAMES
    text: str = ""
    tool: str = MARK
    width: float = 0.04

    @property
    def name(self) -> str:
        """Name of the image."""
        names = self.folder.image_names() if self.folder else []
        return names[self.index] if self.index < len(names) else ""


def open_label_folder(session: LabelSession, data: Path, relative: str) -> LabelSession:
    """The session at the first image of a folder that is not labelled, or at the first of all.

    Raises:
        ValueError: see `LabelFolder.open`; an image that cannot be read.
    """
    folder = LabelFolder.open(data, short_text(relative))
    names, labelled = folder.image_names(), folder.labelled()
    index = next((number for number, name in enumerate(names) if name not in labelled), 0)
    return go_to(replace(session, folder=folder, text=session.text or ", ".join(folder.categories())), index)


def go_to(session: LabelSession, index: int) -> LabelSession:
    """The session at another image, with the labels that it has; numbers below the first or above the last are moved to these."""
    names = session.folder.image_names() if session.folder else []
    if not names:
        return replace(session, index=0, image=None, items=(), chosen=None)
    index = min(max(index, 0), len(names) - 1)
    moved = replace(session, index=index, image=read_upload(session.folder.image_path(names[index])), items=(), chosen=None)
    return read_labels(moved)


def read_labels(session: LabelSession) -> LabelSession:
    """The session with what the files say about its image, for its mode and sentence."""
    if session.image is None:
        return session
    if session.mode == NAMES:
        items = [LabelItem(name, mask) for name, mask in session.folder.objects(session.name) or ()]
    else:
        said = dict(session.folder.sentences(session.name)).get(session.text.strip(), ())
        items = [LabelItem(session.text.strip(), mask) for mask in said]
    return replace(session, items=tuple(items), chosen=None)


def add_images(session: LabelSession, paths: Sequence[str]) -> LabelSession:
    """The session with uploaded images in its folder.

    Raises:
        ValueError: no folder is open; see `LabelFolder.add_image`: images before that one are added.
    """
    if session.folder is None:
        raise ValueError(f"no folder is open. {NO_FOLDER}")
    for path in paths:
        session.folder.add_image(Path(path))
    return session if session.image is not None else go_to(session, 0)


def set_mode(session: LabelSession, mode: str, text: str) -> LabelSession:
    """The session that labels by names or by a sentence. Of another mode or sentence, the labels are read from the files."""
    changed = replace(session, mode=mode, text=short_text(text))
    is_other = mode != session.mode or (mode == SENTENCE_MODE and changed.text != session.text)
    return read_labels(changed) if is_other else changed


def propose(session: LabelSession, predictor: PsalmPredictor) -> LabelSession:
    """The session with what the model finds for the names or the sentence, in the place of its proposals before. What was drawn or saved
    stays, and is not proposed again; under another name it is proposed without a check mark.

    Raises:
        ValueError: no image or text.
    """
    image = _image_of(session)
    if session.mode == NAMES:
        result = predictor.predict(image, categories=comma_names(session.text), task="instance", threshold=LEAST_ASKED)
    else:
        result = predictor.predict(image, expressions=[_sentence(session)])
    found = [
        LabelItem(one.phrase, one.mask, session.mode != NAMES or one.score >= PROPOSED_FROM, float(one.score)) for one in result if one.area
    ]
    kept = [item for item in session.items if item.score is None]
    found = [replace(item, is_accepted=False) if _is_among(item, kept) else item for item in found]
    found = [item for item in found if not _is_among(item, [old for old in kept if old.name == item.name])]
    return replace(session, items=(*kept, *sorted(found, key=lambda item: -item.score)), chosen=None)


def mark_label(session: LabelSession, gesture: Any, predictor: PsalmPredictor) -> LabelSession:
    """The session after a gesture: a point or box is a new object, whose mask the model finds; what does not belong, and the brush and
    the eraser, change the chosen item.

    Raises:
        ValueError: no image, no name for a new object, see `read_stroke`.
    """
    image = _image_of(session)
    if session.tool in (BRUSH, ERASER):
        stroke = read_stroke(gesture, image.size, BRUSH, 0)
        erases = session.tool == ERASER or bool(gesture.get("excludes"))
        return _paint(session, stroke, erases)
    stroke = read_stroke(gesture, image.size, session.tool, 0)
    item = None if session.chosen is None else session.items[session.chosen]
    if not stroke.belongs and (item is None or not item.strokes):
        raise ValueError("mark an object by a point or box first, or choose one that was marked so; then say what does not belong to it")
    strokes = (stroke,) if stroke.belongs else (*item.strokes, stroke)
    result = predictor.predict(image, regions=regions_of(strokes))
    if not len(result) or not result.areas[0]:
        raise ValueError("the model finds nothing there; draw it with the brush")
    made = LabelItem(item.name if item and not stroke.belongs else _new_name(session), result.masks[0], True, None, strokes)
    return _put(session, made, None if stroke.belongs else session.chosen)


def _is_among(item: LabelItem, others: Sequence[LabelItem]) -> bool:
    """True if one of the others has almost the same mask."""
    overlaps = (np.count_nonzero(item.mask & old.mask) / max(1, np.count_nonzero(item.mask | old.mask)) for old in others)
    return any(overlap > SAME for overlap in overlaps)


def _paint(session: LabelSession, stroke: Stroke, erases: bool) -> LabelSession:
    width, height = session.image.size
    canvas = Image.new("L", (width, height))
    drawing = ImageDraw.Draw(canvas)
    line = max(1, round(session.width * max(width, height)))
    points = [(x, y) for x, y in stroke.points]
    drawing.line(points, fill=1, width=line, joint="curve")
    for x, y in points if len(points) < 3 else (points[0], points[-1]):  # round ends
        drawing.ellipse((x - line / 2, y - line / 2, x + line / 2, y + line / 2), fill=1)
    painted = np.asarray(canvas) != 0
    if session.chosen is None:
        if erases:
            raise ValueError("choose the object that something is to be taken from")
        return _put(session, LabelItem(_new_name(session), painted), None)
    item = session.items[session.chosen]
    return _put(session, replace(item, mask=item.mask & ~painted if erases else item.mask | painted, score=None), session.chosen)


def _put(session: LabelSession, item: LabelItem, number: int | None) -> LabelSession:
    """The session with an item in the place of another, or at the end; it is chosen."""
    items = list(session.items)
    if number is None:
        items.append(item)
    else:
        items[number] = item
    return replace(session, items=tuple(items), chosen=len(items) - 1 if number is None else number)


def choose(session: LabelSession, number: int | None) -> LabelSession:
    """The session whose brush changes another item."""
    return replace(session, chosen=number if number is not None and 0 <= number < len(session.items) else None)


def read_table(session: LabelSession, rows: Sequence[Sequence[Any]]) -> LabelSession:
    """The session with the check marks and names of a table, see `label_rows`; the user may have sorted it."""
    items = list(session.items)
    for row in rows:
        for is_accepted, index in numbered_rows([row], range(len(items))):
            items[index] = replace(items[index], is_accepted=is_accepted, name=short_text(str(row[2])))
    return replace(session, items=tuple(items))


def save_labels(session: LabelSession) -> LabelSession:
    """Writes what is accepted, also that nothing is. In the mode of sentences: what the sentence means, or that it means nothing.

    Raises:
        ValueError: no image; see `LabelFolder.save_objects`.
    """
    _image_of(session)
    accepted = [item for item in session.items if item.is_accepted]
    if session.mode == NAMES:
        session.folder.save_objects(session.name, [(item.name.strip(), item.mask) for item in accepted])
    else:
        session.folder.save_sentence(session.name, _sentence(session), [item.mask for item in accepted])
    return session


def item_names(session: LabelSession) -> list[str]:
    """Number and name of each item, as the page calls them."""
    return [f"{number} {item.name}" for number, item in enumerate(session.items, 1)]


def label_rows(session: LabelSession) -> list[list[Any]]:
    """A row of `LABEL_TABLE` for each item."""
    return [
        [item.is_accepted, number, item.name, "drawn" if item.score is None else f"{item.score:.2f}", int(item.mask.sum())]
        for number, item in enumerate(session.items, 1)
    ]


def label_board(session: LabelSession) -> str:
    """HTML of the image with its items; those that are not accepted are not drawn."""
    if session.image is None:
        return empty_board(NO_FOLDER if session.folder is None else "There is no image in this folder yet: add some.")
    names = list(dict.fromkeys(item.name for item in session.items))
    colors = mask_colors([item.name for item in session.items], label_colors(names))
    masks, strokes = [], []
    for number, (item, color) in enumerate(zip(session.items, colors, strict=True), 1):
        if item.is_accepted:
            score = "" if item.score is None else f", score {item.score:.2f}"
            masks.append(ShownMask(item.mask, f"{number} {item.name}{score}", f"{number} {item.name}", color))
        if number - 1 == session.chosen:
            strokes += item.strokes
    is_brush = session.tool in (BRUSH, ERASER)
    width = session.width * max(session.image.size) if is_brush else None
    return board_svg(session.image, masks, strokes, tool=session.tool, brush_width=width)


def describe_labels(session: LabelSession, holdout: float) -> str:
    """One line about the folder and the image."""
    if session.folder is None:
        return NO_FOLDER
    names, labelled = session.folder.image_names(), session.folder.labelled()
    if not names:
        return f"**{session.folder.root.name}** has no images yet."
    held_out = len(session.folder.held_out(holdout))
    mark = "labelled" if session.name in labelled else "not labelled yet"
    return (
        f"**{session.name}** ({mark}), image {session.index + 1} of {len(names)} in **{session.folder.root.name}**: {len(labelled)} "
        f"labelled, of which {held_out} are held out by a share of {holdout:g}."
    )


def _sentence(session: LabelSession) -> str:
    text = " ".join(session.text.split())
    if not text:
        raise ValueError("write the sentence first, such as: the red star")
    return text


def _new_name(session: LabelSession) -> str:
    if session.mode == SENTENCE_MODE:
        return _sentence(session)
    return comma_names(session.text)[0]


def _image_of(session: LabelSession) -> Image.Image:
    if session.image is None:
        raise ValueError(NO_FOLDER if session.folder is None else "there is no image in this folder yet: add some")
    return session.image
