"""Frames of a folder of images, of a video file or of any iterable, one at a time: a video is never in memory as a whole."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..model.image_processing_psalm import load_image, to_rgb
from ..writing import finish, unfinished_path

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class VideoFrame(NamedTuple):
    """`name`: of the file without its ending, or the number of the frame with at least five digits. `image`: RGB, upright."""

    name: str
    image: Image.Image


def read_frames(source: str | os.PathLike | Iterable[Any], start: int = 0) -> Iterator[VideoFrame]:
    """Frames in the order of time.

    Args:
        source: folder of images, whose names are sorted as people do (frame2 before frame10), other files are passed over; video file,
            which needs PyAV; or an iterable of images in any form that the processor takes.
        start: number of frames to leave out at the beginning; those of a folder are not even opened.

    Raises:
        ValueError: at once: neither folder nor video, or a folder without images or with two of one name; while reading: a frame that
            cannot be decoded (its message names it), or no frame at all.
        ImportError: a video file without PyAV.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _from_iterable(source, start)
    path = Path(source)
    if path.is_dir():
        return (VideoFrame(file.stem, load_image(file)) for file in image_files(path)[start:])
    _check_file(path)
    return _from_video(path, start, _import_av())


def count_frames(source: str | os.PathLike | Iterable[Any]) -> int | None:
    """Number of frames, None where only reading them all would tell; of a video file what its header says.

    Raises:
        ValueError, ImportError: see `read_frames`.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        return len(source)
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    if path.is_dir():
        return len(image_files(path))
    with _open_video(path, _import_av()) as container:
        return container.streams.video[0].frames or None


def image_files(folder: Path) -> list[Path]:
    """Images of a folder in natural order.

    Raises:
        ValueError: there are none, or two have one name.
    """
    visible = [
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".") and path.is_file()
    ]
    files = sorted(visible, key=lambda path: _natural(path.name))
    if not files:
        raise ValueError(f"{folder}: has no images; expected files that end in {', '.join(IMAGE_ENDINGS)}")
    names: dict[str, Path] = {}
    for path in files:
        if path.stem in names:
            raise ValueError(f"{folder}: {names[path.stem].name} and {path.name} are frames of one name; keep one of them")
        names[path.stem] = path
    return files


def frame_rate(source: str | os.PathLike) -> float | None:
    """Frames per second that a video file says it has; None for a folder, or where the file does not say.

    Raises:
        ValueError, ImportError: see `read_frames`.
    """
    if Path(source).is_dir():
        return None
    with _open_video(Path(source), _import_av()) as container:
        rate = container.streams.video[0].average_rate
        return None if rate is None else float(rate)


def write_video(path: str | os.PathLike, images: Iterable[Image.Image], rate: float) -> None:
    """Images, all brought to the size of the first, as an H.264 video.

    Args:
        path: its ending says the container, such as .mp4; a file of that name is replaced once the new one is complete.
        rate: frames per second.

    Raises:
        ValueError: no images, or an ending that is no container.
        ImportError: without PyAV.
    """
    with _beside(Path(path)) as unfinished:
        _encode(unfinished, images, rate)
        finish(unfinished, Path(path))


def check_video(path: str | os.PathLike, rate: float) -> None:
    """Writes one black image as a video, and removes it: what `write_video` would refuse after all frames is refused at once.

    Args:
        path, rate: as of `write_video`, as are the errors.
    """
    with _beside(Path(path)) as unfinished:
        _encode(unfinished, [Image.new("RGB", (64, 64))], rate)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """File in a folder beside `path`, which is removed at the end; its name says the container."""
    av = _import_av()
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give the name of a video file, such as overlay.mp4")
    folder = unfinished_path(path)
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process with the same number
    try:
        folder.mkdir(parents=True)
        yield folder / path.name
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(f"{path}: cannot be written as a video ({error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _encode(path: Path, images: Iterable[Image.Image], rate: float) -> None:
    av = _import_av()
    with av.open(str(path), "w") as container:
        stream = None
        for image in images:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
                # Two by two pixels share their colour in this format, so both sides are even.
                stream.width, stream.height = (side + side % 2 for side in image.size)
                stream.pix_fmt = "yuv420p"
            fitted = image.convert("RGB").resize((stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(fitted)))
        if stream is None:
            raise ValueError("there are no images to write")
        container.mux(stream.encode())


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Key that compares runs of digits as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part]


def _from_iterable(images: Iterable[Any], start: int) -> Iterator[VideoFrame]:
    number = -1
    for number, image in enumerate(images):
        if number >= start:
            yield VideoFrame(f"{number:05d}", to_rgb(image, f"frame {number}"))
    if number < 0:
        raise ValueError("the video has no frames; give at least one image")


def _from_video(path: Path, start: int, av: Any) -> Iterator[VideoFrame]:
    number = -1
    with _open_video(path, av) as container:
        try:
            for number, frame in enumerate(container.decode(video=0)):
                if number >= start:
                    # Phones write upright videos as lying ones with a note that says how to turn them.
                    image = frame.to_image()
                    yield VideoFrame(f"{number:05d}", image.rotate(frame.rotation, expand=True) if frame.rotation else image)
        except av.error.FFmpegError as error:
            raise ValueError(f"{path}: frame {number + 1} cannot be decoded ({error}); the ones before it can") from error
    if number < 0:
        raise ValueError(f"{path}: the video has no frames")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such folder or file; give a folder of images or a video file")


def _open_video(path: Path, av: Any) -> Any:
    _check_file(path)
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be read ({error})") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"{path}: has no images, only {', '.join(stream.type for stream in container.streams) or 'nothing'}")
    return container


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("reading and writing video files needs PyAV: pip install psalm_hf[video]; folders of images do not") from error
    return av
