"""ClipSession: the video of one user, the objects that are marked in its first frame, and the run that follows them."""

from __future__ import annotations

import io
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..following import begin_output, followed_frames, join_overlays
from ..predictor import PsalmPredictor
from ..video import PsalmVideoSession, count_frames, frame_rate, read_frames
from ..visualization import label_colors
from ..writing import write_file
from .board import ShownMask, board_svg, empty_board
from .limits import LIMITS, Limits, check_bytes, check_pixels, short_text
from .strokes import MARK, MAX_STROKES, Stroke, read_stroke, regions_of, unmarked

NO_CLIP = "Upload a video, or choose the example."
CLIP_RATE = 24.0  # frames per second where the file does not say
KEPT_RUNS = 20  # folders of finished runs; the oldest are removed
MAX_OBJECTS = 50


@dataclass(frozen=True, eq=False)
class ClipSession:
    """Work of one user on one video.

    Attributes:
        path: of the file.
        frame: the first one, RGB.
        num_frames: that its header says; None if it does not.
        rate: frames per second.
        found: (name, mask) of what sentences mean in the first frame.
        strokes, number, tool: as of `ImageSession`.
    """

    path: Path | None = None
    frame: Image.Image | None = None
    num_frames: int | None = None
    rate: float = CLIP_RATE
    found: tuple[tuple[str, np.ndarray], ...] = ()
    strokes: tuple[Stroke, ...] = ()
    number: int = 0
    tool: str = MARK

    @property
    def objects(self) -> dict[int, dict[str, Any]]:
        """Number -> region of the first frame, from 1: what sentences mean, then what is marked."""
        waiting = unmarked(self.strokes)
        regions = [{"mask": mask} for _, mask in self.found]
        regions += regions_of([stroke for stroke in self.strokes if stroke.number not in waiting])
        return dict(enumerate(regions, 1))


@dataclass(frozen=True)
class ClipProgress:
    """Frames of a run that are done, of how many, and the seconds that are left; None = not known."""

    done: int
    total: int | None
    seconds_left: float | None

    def __str__(self) -> str:
        of = f" of {self.total}" if self.total else ""
        left = "" if self.seconds_left is None else f", about {max(1, round(self.seconds_left))} s left"
        return f"frame {self.done}{of}{left}"


def open_clip(path: str | Path | None, limits: Limits = LIMITS) -> ClipSession:
    """A session for a video; without a path, an empty one.

    Raises:
        ValueError: no video, a broken one, or one that is too long or too large.
        ImportError: without PyAV.
    """
    if path is None:
        return ClipSession()
    path = Path(path)
    check_bytes(path, limits)
    try:
        total = count_frames(path)
        if (total or 0) > limits.frames:
            raise ValueError(f"{path.name}: has {total} frames, and at most {limits.frames} are taken; cut it first")
        frame = next(read_frames(path)).image
        rate = frame_rate(path) or CLIP_RATE
    except (ValueError, OSError) as error:
        raise ValueError(str(error).replace(str(path), path.name)) from error
    check_pixels(path.name, frame.width, frame.height, limits)
    return ClipSession(path, frame, total, rate)


def mark_clip(clip: ClipSession, gesture: Any) -> ClipSession:
    """The session with a stroke more in the first frame.

    Raises:
        ValueError: no video, too many strokes, see `read_stroke`.
    """
    stroke = read_stroke(gesture, _frame_of(clip).size, clip.tool, clip.number)
    if len(clip.strokes) >= MAX_STROKES or clip.number >= MAX_OBJECTS:
        raise ValueError(f"at most {MAX_STROKES} strokes and {MAX_OBJECTS} objects are taken; undo some")
    return replace(clip, strokes=(*clip.strokes, stroke))


def begin_clip_object(clip: ClipSession) -> ClipSession:
    """The session whose next stroke marks another object."""
    numbers = [stroke.number for stroke in clip.strokes]
    return replace(clip, number=max(numbers) + 1 if numbers else 0)


def undo_clip(clip: ClipSession) -> ClipSession:
    """The session without its last stroke, or without what sentences mean if there is none."""
    strokes = clip.strokes[:-1]
    return replace(clip, strokes=strokes, number=strokes[-1].number if strokes else 0, found=clip.found if clip.strokes else ())


def find_in_clip(clip: ClipSession, text: str, predictor: PsalmPredictor) -> ClipSession:
    """The session that follows what each line of a text means in the first frame.

    Raises:
        ValueError: no video or text; nothing is meant.
    """
    lines = [line.strip() for line in short_text(text).splitlines() if line.strip()]
    if not lines:
        raise ValueError("write what is to be followed, one sentence on each line, such as: the red star")
    result = predictor.predict(_frame_of(clip), expressions=lines)
    if not len(result):
        raise ValueError(f"nothing in the first frame is {' or '.join(lines)}; say it otherwise, or mark it")
    return replace(clip, found=tuple((one.phrase, one.mask) for one in result if one.area))


def clip_board(clip: ClipSession) -> str:
    """HTML of the first frame with its objects."""
    if clip.frame is None:
        return empty_board(NO_CLIP)
    colors = label_colors([name for name, _ in clip.found])
    masks = [ShownMask(mask, name, str(number), colors[name]) for number, (name, mask) in enumerate(clip.found, 1)]
    return board_svg(clip.frame, masks, clip.strokes, tool=clip.tool)


def describe_clip(clip: ClipSession) -> str:
    """One line about the video and what is to be followed."""
    if clip.frame is None:
        return NO_CLIP
    number = len(clip.objects)
    frames = f"{clip.num_frames} frames" if clip.num_frames else "frames"
    follow = f"{number} object{'s' * (number != 1)} to follow" if number else "Mark in the first frame what to follow, or say it"
    return f"{clip.path.name}: {frames} of {clip.frame.width} x {clip.frame.height} pixels. {follow}."


def follow_clip(
    clip: ClipSession, predictor: PsalmPredictor, folder: Path, limits: Limits = LIMITS
) -> Iterator[ClipProgress | Mapping[str, Any]]:
    """Follows the objects, and yields how far it is; at the end `{"video": path, "masks": path, "said": text}`: an overlay to play, a ZIP
    file of PNG files whose values are object numbers, as DAVIS has them, and what happened.

    If the video breaks, there are files of the frames before, and the text says where. The model is free for others between two frames.

    Args:
        folder: files are written into a new one below it; of the runs of all users some are kept.

    Raises:
        ValueError: no video or object; a video whose first frames cannot be read.
    """
    _frame_of(clip)
    if not clip.objects:
        raise ValueError("there is no object to follow: mark one in the first frame, or say it")
    output = folder / "clips" / secrets.token_hex(8)
    for old in sorted((folder / "clips").glob("*"), key=lambda path: path.stat().st_mtime)[: -KEPT_RUNS or None]:
        shutil.rmtree(old, ignore_errors=True)
    begin_output(output, {"source": clip.path.name})
    session = PsalmVideoSession(predictor.model, predictor.processor)
    frames = followed_frames(session, clip.path, clip.objects, output, num_frames=limits.frames, save_every=10**9)
    begun, done, said = time.monotonic(), 0, ""
    try:
        while True:
            with predictor.lock:
                reached = next(frames, None)
            if reached is None:
                break
            done = reached
            left = (time.monotonic() - begun) / done * (clip.num_frames - done) if clip.num_frames and done else None
            yield ClipProgress(done, clip.num_frames, left)
    except ValueError as error:
        if not done:
            raise
        said = f"It ends early: {str(error).replace(str(clip.path), clip.path.name)}. "
    join_overlays(output, output / "overlay.mp4", clip.rate)
    write_file(output / "masks.zip", lambda file: file.write(_archive(output / "masks")))
    yield {"video": str(output / "overlay.mp4"), "masks": str(output / "masks.zip"), "said": f"{said}{done} frames are done."}


def _archive(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return file.getvalue()


def _frame_of(clip: ClipSession) -> Image.Image:
    if clip.frame is None:
        raise ValueError(f"there is no video. {NO_CLIP}")
    return clip.frame
