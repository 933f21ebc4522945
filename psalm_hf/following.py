"""Objects of a first frame, followed through a video into a folder of masks, overlays and scores: what `psalm video` does."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .data.benchmarks.davis import annotated_objects, paint_objects, save_painted
from .data.segment_map import read_segment_map
from .locking import only_run
from .masks import rle_from_bitmap
from .video import PsalmVideoSession, VideoFrame, read_frames, write_video
from .visualization import add_lines, draw_segmentation, label_colors
from .writing import is_unused, named_errors, remove_unfinished, write_file, write_json

STATE = "state.safetensors"
SCORE_LINES = "scores.jsonl"


def read_objects(
    first_mask: Path | None = None,
    boxes: Sequence[list[float]] = (),
    points: Sequence[list[float]] = (),
    expressions: Sequence[str] = (),
    categories: Sequence[str] | None = None,
) -> dict[int, dict[str, Any]]:
    """Object number -> region of the first frame, or words, ascending: in DAVIS files higher numbers cover lower ones.

    Args:
        first_mask: image whose pixel values are the numbers of the objects; 0 and 255 are none. Of grey in RGB any channel says it.
        boxes: [number, x0, y0, x1, y1]. points: [number, x, y]; those of one number add up.
        expressions: one after the other gets the lowest number that is free. categories: a list of names gets the next one.

    Raises:
        ValueError: a number that is none of 1 to 254 or is given twice, an image without objects.
    """
    objects: dict[int, dict[str, Any]] = {}
    if first_mask:
        annotation = read_segment_map(first_mask)
        if (annotation % 0x010101 == 0).all():  # R + 256 G + 65536 B of three equal channels: grey that some tool has saved as RGB
            annotation //= 0x010101
        objects = {number: {"mask": annotation == number} for number in annotated_objects(annotation)}
        if wrong := [number for number in objects if not 0 < number < 255]:
            raise ValueError(
                f"--first-mask {first_mask}: has the object {wrong[0]}, but numbers go from 1 to 254; it may be a coloured "
                "picture, and pixel VALUES are needed: save it in gray or with a palette"
            )
        if not objects:
            raise ValueError(f"--first-mask {first_mask}: has no object, every pixel is 0 or 255")
    for number, *corners in boxes:
        _add_object(objects, number, "box", corners)
    grouped: dict[float, list] = {}
    for number, *point in points:
        grouped.setdefault(number, []).append(point)
    for number, places in grouped.items():
        _add_object(objects, number, "points", places)
    free = (number for number in count(1) if number not in objects)
    for words in [*({"expression": text} for text in expressions), *([{"categories": list(categories)}] if categories else [])]:
        objects[next(free)] = words
    return dict(sorted(objects.items()))


def _add_object(objects: dict[int, dict[str, Any]], number: float, kind: str, prompt: list) -> None:
    if number != int(number) or not 0 < number < 255:
        raise ValueError(f"--{kind}: object {number:g}; numbers go from 1 to 254, because they become pixel values")
    if int(number) in objects:
        raise ValueError(f"--{kind}: object {number:g} is given twice; give every object its own number")
    objects[int(number)] = {kind: prompt}


def begin_output(output: Path, task: dict[str, Any]) -> None:
    """Makes the folders, or sees to it that they are those of the same task. What a killed run left unfinished is removed.

    Args:
        task: what must be the same for a run to go on; written as task.json.

    Raises:
        ValueError: the folder holds another task, or other files.
    """
    record = output / "task.json"
    if not record.is_file() and not is_unused(output):
        raise ValueError(f"--output {output}: holds other files; give a new folder")
    remove_unfinished(output)
    if record.is_file() and ((output / STATE).is_file() or any(output.glob("masks/*"))):
        before, now = _read_task(record), json.loads(json.dumps(task))
        if changed := [name for name in now if before.get(name) != now[name]]:
            raise ValueError(
                f"--output {output}: was begun with {changed[0]} {before.get(changed[0])!r}, now it is {now[changed[0]]!r}; "
                "give the same options, or another folder"
            )
        return
    write_json(record, task, indent=1)
    for name in ("masks", "overlays"):
        (output / name).mkdir(exist_ok=True)


def _read_task(record: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{record}: is damaged ({error}); give another folder") from error


def follow(
    session: PsalmVideoSession,
    source: str | Path,
    objects: dict[int, dict[str, Any]],
    output: Path,
    *,
    instances: bool = False,
    num_frames: int | None = None,
    total: int | None = None,
    save_every: int = 10,
) -> None:
    """Frame after frame, from where an earlier run stopped, under a bar that shows how far it is.

    Args:
        total: how many frames the bar shows.
        others: see `followed_frames`, as are the errors.
    """
    frames = followed_frames(session, source, objects, output, instances=instances, num_frames=num_frames, save_every=save_every)
    with tqdm(total=total, initial=next(frames), unit="frame", desc="track") as bar:
        for _ in frames:
            bar.update()


def followed_frames(
    session: PsalmVideoSession,
    source: str | Path,
    objects: dict[int, dict[str, Any]],
    output: Path,
    *,
    instances: bool = False,
    num_frames: int | None = None,
    save_every: int = 10,
) -> Iterator[int]:
    """Follows objects, and yields how many frames are done: those of an earlier run first, then after each frame.

    Args:
        source: folder of images or video file, see `read_frames`.
        objects: see `read_objects`.
        output: a folder that `begin_output` made.
        instances: everything that the words among the objects mean is an object of its own, see `PsalmVideoSession.add_objects`.
        num_frames: where to stop.
        save_every: frames between two saved states of the session.

    Raises:
        ValueError: a frame that is broken or of another size; what was tracked before it is saved. Scores of an earlier run that are
            damaged.
    """
    state = output / STATE
    # Given masks are the answer for the first frame; boxes, points and words are tracked in it, to see what they mean.
    tracked_from = 1 if all("mask" in prompt for prompt in objects.values()) else 0
    done = 0
    if state.is_file():
        session.load(state)
        done = session.num_tracked + tracked_from
    _keep_scores(output / SCORE_LINES, done)
    frames = islice(read_frames(source, done), None if num_frames is None else max(0, num_frames - done))
    yield done
    try:
        for index, frame in enumerate(frames, done):
            if index == 0:
                _give(session, frame, objects, instances)
            if index >= tracked_from:
                result = session.track(frame.image)
                masks, scores = {number: mask.numpy() for number, mask in result.masks.items()}, result.scores
            else:
                masks, scores = {}, dict.fromkeys(objects, 1.0)
            if index == 0:
                scores = {**scores, **{number: 1.0 for number, prompt in objects.items() if "mask" in prompt}}
                masks |= {number: prompt["mask"] for number, prompt in objects.items() if "mask" in prompt}
            # An object has its words where it is found for the first time; from then on its number stands for it.
            names = {number: label for number, label in session.labels.items() if label and session.num_found[number] == 1}
            write_frame(output, frame, masks, scores, names, objects if index == 0 else {})
            if (index + 1) % save_every == 0:
                session.save(state)
            yield index + 1
    except ValueError:  # of a frame that is broken or of another size: the session has not changed since the frame before
        if session.object_ids or session.searches:
            session.save(state)
        raise
    session.save(state)


def _give(session: PsalmVideoSession, frame: VideoFrame, objects: Mapping[int, dict[str, Any]], instances: bool) -> None:
    """Gives the session its objects, all or none."""
    words = {number: prompt for number, prompt in objects.items() if instances and _words_of(prompt)}
    others = {number: prompt for number, prompt in objects.items() if number not in words}
    try:
        if others:
            session.add_objects(frame.image, others)
        if words:
            session.add_objects(frame.image, words, instances=True)
    except ValueError:
        session.reset()
        raise


def _words_of(prompt: Mapping[str, Any]) -> str:
    """Words of a prompt as a text; "" of a region."""
    return ", ".join(prompt["categories"]) if "categories" in prompt else prompt.get("expression", "")


def _keep_scores(file: Path, lines: int) -> None:
    """Cuts lines off that belong to frames after the saved state: they are tracked again."""
    before = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    kept = before[:lines]
    if len(kept) < lines:
        raise ValueError(f"{file}: has {len(kept)} lines, but {lines} frames are tracked already; give another folder")
    for number, line in enumerate(kept, 1):
        try:
            json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: is damaged ({error}); give another folder") from error
    if before != kept:
        write_file(file, lambda target: target.write(b"".join(kept)))


def write_frame(
    output: Path,
    frame: VideoFrame,
    masks: dict[int, Any],
    scores: dict[int, float],
    names: Mapping[int, str] | None = None,
    prompts: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """The files of one frame: the painted numbers, an overlay, and a line of scores.

    Args:
        names: number -> words that stand behind the number in this frame.
        prompts: number -> prompt, drawn in this frame; words that mean nothing here stand below.
    """
    names, prompts = names or {}, prompts or {}
    size = (frame.image.height, frame.image.width)
    painted = paint_objects([rle_from_bitmap(mask) for mask in masks.values()], list(masks), size, f"frame {frame.name}")
    found = [number for number, mask in masks.items() if mask.any()]
    shown = [number for number in masks if (painted == number).any() or _drawn(prompts.get(number, {}))]
    colors = label_colors([str(number) for number in masks])
    overlay = draw_segmentation(
        frame.image,
        [painted == number for number in shown],
        [f"{number} {names[number]}" if number in names else str(number) for number in shown],
        colors=[colors[str(number)] for number in shown],
        prompts=[_drawn(prompts.get(number, {})) for number in shown] if prompts else (),
        legend=False,
    )
    if missing := [number for number in prompts if number not in found]:
        said = {number: _words_of(prompts[number]) or f"({' and '.join(prompts[number])})" for number in missing}
        overlay = add_lines(overlay, [f"{number} {said[number]}: not found in this frame" for number in missing])
    write_file(output / "overlays" / f"{frame.name}.jpg", lambda file: overlay.save(file, format="JPEG", quality=90))
    write_file(output / "masks" / f"{frame.name}.png", lambda file: save_painted(painted, file))
    line = {"frame": frame.name, "scores": {number: round(score, 4) for number, score in scores.items()}, "found": found}
    with named_errors(output / SCORE_LINES), open(output / SCORE_LINES, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())  # before the state that counts on it


def _drawn(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a prompt that are drawn: not a given mask, which is the mask of the frame and has its outline, nor words, which are text."""
    return {kind: value for kind, value in prompt.items() if kind in ("box", "point", "points", "scribble")}


def found_frames(output: Path) -> tuple[dict[int, int], dict[int, float], int]:
    """Object number -> in how many frames it has a mask; object number -> its best score; and the number of frames, by the scores of a
    folder that `follow` has filled."""
    found, best, lines = Counter(), {}, (output / SCORE_LINES).read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        if "found" in line:
            found.update(line["found"])
        else:  # written by an earlier version
            found.update(annotated_objects(read_segment_map(output / "masks" / f"{line['frame']}.png")))
        for number, score in line["scores"].items():
            best[int(number)] = max(score, best.get(int(number), 0.0))
    return dict(found), best, len(lines)


def describe_found(session: PsalmVideoSession, objects: Mapping[int, Mapping[str, Any]], output: Path) -> list[str]:
    """A line for each object: in how many frames it was found; and what can be done about one that never was.

    Args:
        session, objects, output: as of `follow`, which has come to the end.
    """
    found, best, total = found_frames(output)
    said = []
    for number, label in session.labels.items():
        name = f"object {number}" + (f" ({label})" if label else "")
        if found.get(number):
            said.append(f"{name}: found in {found[number]} of {total} frames")
        elif label:
            said.append(f"warning: {name}: never found in {total} frames. Its best score is {best.get(number, 0):.2f}; {_ADVICE}")
        else:
            said.append(
                f"warning: {name}: never found in {total} frames. Its masks score too little, at best {best.get(number, 0):.2f}, or surer "
                "objects cover them; look at its prompt in the first overlay, and give it another one"
            )
    for number in session.searches:
        words = _words_of(objects[number])
        # Instances of a category have its name, and those of an expression the expression.
        if not any(label and (label == words or label in objects[number].get("categories", ())) for label in session.labels.values()):
            said.append(f"warning: {words}: nothing found in {total} frames; {_ADVICE}")
    if session.searches and len(session.labels) >= session.max_objects:
        said.append(f"warning: there are {len(session.labels)} objects, and no more join; say more precisely what is to be followed")
    return said


_ADVICE = "if it is there, and is no other object, say it otherwise, or lower --threshold, above which words count as found"


def join_overlays(output: Path, video: Path, rate: float) -> None:
    """The overlays of a folder as a video of `rate` frames per second."""

    def panels() -> Iterator:
        for frame in read_frames(output / "overlays"):
            yield frame.image

    with only_run(video.parent, video.name):
        remove_unfinished(video.parent, video.name)
        write_video(video, panels(), rate)
