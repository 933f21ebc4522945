"""Follows objects through a video. They are given in its first frame, by an annotation or by boxes and points.

    python examples/segment_video.py FRAMES_FOLDER --first-mask first.png --output tracked
    python examples/segment_video.py street.mp4 --box 1 10 20 90 140 --point 2 320 200 --output tracked --video tracked/overlay.mp4

FRAMES_FOLDER holds the frames as pictures; street.mp4 needs PyAV (pip install psalm_hf[video]). The output folder gets
    masks/FRAME.png      values are the objects' numbers, 0 = none, in the palette of DAVIS; higher numbers cover lower ones
    overlays/FRAME.jpg   to look at
    scores.jsonl         a line per frame: its name, and the score of every object
    state.safetensors    what the session remembers, written every --save-every frames
The same command goes on where it was interrupted, with the same result as if it had not been.

--first-mask is a picture whose pixel values (not colours) are object numbers, as in DAVIS. Coordinates are pixels of the upright frame (x
to the right, y down). --checkpoint takes a folder or Hub id; without it psalm-tiny answers, which ships with the package: it was trained on
drawn shapes alone, so on films its masks mean nothing. Policies: docs/video.md.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POLICIES = ("first_last_confident", "last_frame", "released")
DEFAULT_RATE = 24.0  # frames per second of a video made of a folder


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder of pictures, in the order of their names, or video file")
    parser.add_argument("--first-mask", type=Path, metavar="FILE", help="objects of the first frame: pixel values are their numbers")
    parser.add_argument("--box", action="append", nargs=5, type=float, default=[], metavar=("ID", "X0", "Y0", "X1", "Y1"))
    parser.add_argument(
        "--point", action="append", nargs=3, type=float, default=[], metavar=("ID", "X", "Y"), help="several of one ID add up"
    )
    parser.add_argument("--output", type=Path, default=Path("tracked"), help="folder (default: tracked)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="also join the overlays to a video, such as overlay.mp4 (needs PyAV)")
    parser.add_argument("--rate", type=float, help="frames per second of --video (default: that of the source, else 24)")
    parser.add_argument("--policy", choices=POLICIES, default=POLICIES[0], help=f"how objects are remembered (default: {POLICIES[0]})")
    parser.add_argument("--checkpoint", help="folder or Hub id; also an original PSALM folder (default: psalm-tiny)")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after the first N")
    parser.add_argument("--save-every", type=int, default=10, metavar="N", help="frames between two saved states (default: 10)")
    parser.add_argument("--device", help="such as cpu, cuda:1, mps or xpu (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights (default: float32)")
    options = parser.parse_args(arguments)
    if not (options.first_mask or options.box or options.point):
        parser.error("say what to follow: --first-mask FILE, --box ID X0 Y0 X1 Y1 or --point ID X Y")
    if options.save_every < 1 or (options.frames is not None and options.frames < 1):
        parser.error("--save-every and --frames are at least 1")
    if options.rate is not None and options.rate <= 0:
        parser.error("--rate: expected a number of frames per second above 0")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except (ValueError, ImportError, OSError) as error:
        print(f"segment_video: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    from psalm_hf import PsalmVideoSession
    from psalm_hf.video import count_frames, frame_rate

    total = count_frames(options.source)
    total = options.frames if total is None else min(total, options.frames or total)
    rate = options.rate or (frame_rate(options.source) if options.video else None) or DEFAULT_RATE
    objects = read_objects(options)
    begin_output(options)
    session = PsalmVideoSession(*load_model(options), policy=options.policy)
    follow(session, objects, total, options)
    if options.video:
        join_overlays(options.output / "overlays", options.video, rate)


def read_objects(options: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """Object number -> region of the first frame, ascending: in DAVIS files higher numbers cover lower ones."""
    objects: dict[int, dict[str, Any]] = {}
    if options.first_mask:
        from psalm_hf.data.davis import object_numbers
        from psalm_hf.data.segment_map import read_segment_map

        annotation = read_segment_map(options.first_mask)
        objects = {number: {"mask": annotation == number} for number in object_numbers(annotation)}
        if wrong := [number for number in objects if not 0 < number < 255]:
            raise ValueError(
                f"--first-mask {options.first_mask}: has the object {wrong[0]}, but numbers go from 1 to 254; it may be a coloured "
                "picture, and pixel VALUES are needed: save it in gray or with a palette"
            )
        if not objects:
            raise ValueError(f"--first-mask {options.first_mask}: has no object, every pixel is 0 or 255")
    for number, *corners in options.box:
        add_object(objects, number, "box", corners)
    points: dict[float, list] = {}
    for number, *point in options.point:
        points.setdefault(number, []).append(point)
    for number, places in points.items():
        add_object(objects, number, "points", places)
    return dict(sorted(objects.items()))


def add_object(objects: dict[int, dict[str, Any]], number: float, kind: str, prompt: list) -> None:
    if number != int(number) or not 0 < number < 255:
        raise ValueError(f"--{kind}: object {number:g}; numbers go from 1 to 254, because they become pixel values")
    if int(number) in objects:
        raise ValueError(f"--{kind}: object {number:g} is given twice; give every object its own number")
    objects[int(number)] = {kind: prompt}


def begin_output(options: argparse.Namespace) -> None:
    """Makes the folders, or sees to it that they are those of the same task."""
    task = {
        "source": str(Path(options.source).resolve()),
        "first_mask": options.first_mask and hashlib.sha256(options.first_mask.read_bytes()).hexdigest(),
        "boxes": options.box,
        "points": options.point,
        "policy": options.policy,
        "checkpoint": options.checkpoint or "psalm-tiny",
        "dtype": options.dtype,
    }
    record = options.output / "task.json"
    if record.is_file() and (options.output / "state.safetensors").is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
        if changed := [name for name in task if before.get(name) != task[name]]:
            raise ValueError(
                f"--output {options.output}: was begun with {changed[0]} {before.get(changed[0])!r}, now it is {task[changed[0]]!r}; "
                "give the same options, or another folder"
            )
        return
    if options.output.exists() and not record.is_file() and any(options.output.iterdir()):
        raise ValueError(f"--output {options.output}: holds other files; give a new folder")
    for name in ("masks", "overlays"):
        (options.output / name).mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(task, indent=1), encoding="utf-8")


def load_model(options: argparse.Namespace) -> tuple:
    """Model in evaluation mode and its processor."""
    from psalm_hf import PsalmForSegmentation, PsalmProcessor, tiny_checkpoint
    from psalm_hf.devices import pick_device

    device = pick_device(options.device)
    checkpoint = options.checkpoint or tiny_checkpoint()
    processor = PsalmProcessor.from_pretrained(checkpoint)
    model = PsalmForSegmentation.from_pretrained(checkpoint, dtype=options.dtype)
    model.to(device)
    return model.eval(), processor


def follow(session, objects: dict[int, dict[str, Any]], total: int | None, options: argparse.Namespace) -> None:
    """Frame after frame, from where an earlier run stopped."""
    from itertools import islice

    from tqdm import tqdm

    from psalm_hf.video import read_frames

    state = options.output / "state.safetensors"
    # Given masks are the answer for the first frame; boxes and points are tracked in it, to see what they mean.
    tracked_from = 1 if all("mask" in region for region in objects.values()) else 0
    done = 0
    if state.is_file():
        session.load(state)
        done = session.num_tracked + tracked_from
    keep_scores(options.output / "scores.jsonl", done)
    frames = islice(read_frames(options.source, done), None if options.frames is None else max(0, options.frames - done))
    bar = tqdm(frames, total=total, initial=done, unit="frame", desc="track")
    try:
        for index, frame in enumerate(bar, done):
            if index == 0:
                session.add_objects(frame.image, objects)
            if index >= tracked_from:
                result = session.track(frame.image)
                masks, scores = {number: mask.numpy() for number, mask in result.masks.items()}, result.scores
            else:
                masks, scores = {}, dict.fromkeys(objects, 1.0)
            if index == 0:
                scores = {**scores, **{number: 1.0 for number, region in objects.items() if "mask" in region}}
                masks |= {number: region["mask"] for number, region in objects.items() if "mask" in region}
            write_frame(options.output, frame, masks, scores)
            if (index + 1) % options.save_every == 0:
                session.save(state)
    except ValueError:  # of a frame that is broken or of another size: the session has not changed since the frame before
        if session.object_ids:
            session.save(state)
        raise
    finally:
        bar.close()
    session.save(state)


def keep_scores(file: Path, lines: int) -> None:
    """Cuts lines off that belong to frames after the saved state: they are tracked again."""
    kept = file.read_text(encoding="utf-8").splitlines(keepends=True)[:lines] if file.is_file() else []
    file.write_text("".join(kept), encoding="utf-8")


def write_frame(output: Path, frame, masks: dict[int, Any], scores: dict[int, float]) -> None:
    from psalm_hf.data.preparation import write_file
    from psalm_hf.evaluation.formats.davis import paint_objects, save_painted
    from psalm_hf.masks import rle_from_bitmap
    from psalm_hf.visualization import draw_segmentation, label_colors

    size = (frame.image.height, frame.image.width)
    painted = paint_objects([rle_from_bitmap(mask) for mask in masks.values()], list(masks), size, f"frame {frame.name}")
    shown = [number for number in masks if (painted == number).any()]
    overlay = draw_segmentation(
        frame.image,
        [painted == number for number in shown],
        [str(number) for number in shown],
        colors=label_colors([str(number) for number in masks]),
        legend=False,
    )
    write_file(output / "overlays" / f"{frame.name}.jpg", lambda file: overlay.save(file, format="JPEG", quality=90))
    write_file(output / "masks" / f"{frame.name}.png", lambda file: save_painted(painted, file))
    with open(output / "scores.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"frame": frame.name, "scores": {number: round(score, 4) for number, score in scores.items()}}) + "\n")


def join_overlays(folder: Path, video: Path, rate: float) -> None:
    from psalm_hf.video import read_frames, write_video

    def pictures() -> Iterator:
        for frame in read_frames(folder):
            yield frame.image

    video.parent.mkdir(parents=True, exist_ok=True)
    write_video(video, pictures(), rate)
    print(f"wrote {video}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
