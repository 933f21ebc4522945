"""Follows objects through a video. They are given in its first frame, by an annotation or by boxes and points.

    psalm video FRAMES_FOLDER --first-mask first.png --output tracked
    psalm video street.mp4 --box 1 10 20 90 140 --point 2 320 200 --output tracked --video tracked/overlay.mp4

FRAMES_FOLDER holds the frames as images; street.mp4 needs PyAV (pip install psalm_hf[video]). The output folder gets
    masks/FRAME.png      values are the objects' numbers, 0 = none, in the palette of DAVIS; higher numbers cover lower ones
    overlays/FRAME.jpg   to look at
    scores.jsonl         a line per frame: its name, and the score of every object
    state.safetensors    what the session remembers, written every --save-every frames
The same command goes on where it was interrupted, with the same result as if it had not been.

--first-mask is an image whose pixel values (not colours) are object numbers, as in DAVIS. Coordinates are pixels of the upright frame (x
to the right, y down). --checkpoint takes a folder or Hub id; without it psalm-tiny answers, which ships with the package: it was trained on
drawn shapes alone, so on films its masks mean nothing. Policies: see the page on video in the documentation.
"""

import argparse
import hashlib
from pathlib import Path

from ..checkpoints import resolve_checkpoint
from .command import CommandParser, add_model_options, load_model, say, verb

POLICY_NAMES = ("first_last_confident", "last_frame", "released")
DEFAULT_RATE = 24.0  # frames per second of a video made of a folder


@verb
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    resolve_checkpoint(options.checkpoint)  # what no checkpoint can be called is refused before torch is loaded

    from ..following import begin_output, follow, join_overlays, read_objects
    from ..locking import only_run
    from ..video import PsalmVideoSession, check_video, count_frames, frame_rate

    total = count_frames(options.source)
    total = options.frames if total is None else min(total, options.frames or total)
    rate = options.rate or (frame_rate(options.source) if options.video else None) or DEFAULT_RATE
    objects = read_objects(options.first_mask, options.box, options.point)
    with only_run(options.output):
        begin_output(options.output, describe(options))
        if options.video:
            check_video(options.video, rate)
        session = PsalmVideoSession(*load_model(options), policy=options.policy)
        follow(session, options.source, objects, options.output, num_frames=options.frames, total=total, save_every=options.save_every)
        if options.video:
            join_overlays(options.output, options.video, rate)
            say(f"wrote {options.video}")


def describe(options: argparse.Namespace) -> dict:
    """Settings that must be the same for a run to go on in a folder."""
    return {
        "source": str(Path(options.source).resolve()),
        "first_mask": options.first_mask and hashlib.sha256(options.first_mask.read_bytes()).hexdigest(),
        "boxes": options.box,
        "points": options.point,
        "policy": options.policy,
        "checkpoint": options.checkpoint,
        "dtype": options.dtype,
    }


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("video", __doc__)
    parser.add_argument("source", help="folder of images, in the order of their names, or video file")
    parser.add_argument("--first-mask", type=Path, metavar="FILE", help="objects of the first frame: pixel values are their numbers")
    parser.add_argument("--box", action="append", nargs=5, type=float, default=[], metavar=("ID", "X0", "Y0", "X1", "Y1"))
    parser.add_argument(
        "--point", action="append", nargs=3, type=float, default=[], metavar=("ID", "X", "Y"), help="several of one ID add up"
    )
    parser.add_argument("--output", type=Path, default=Path("tracked"), help="folder (default: tracked)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="also join the overlays to a video, such as overlay.mp4 (needs PyAV)")
    parser.add_argument("--rate", type=float, help="frames per second of --video (default: that of the source, else 24)")
    parser.add_argument("--policy", choices=POLICY_NAMES, default=POLICY_NAMES[0], help=f"of the memory (default: {POLICY_NAMES[0]})")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after the first N")
    parser.add_argument("--save-every", type=int, default=10, metavar="N", help="frames between two saved states (default: 10)")
    add_model_options(parser)
    options = parser.parse_args(arguments)
    if not (options.first_mask or options.box or options.point):
        parser.error("say what to follow: --first-mask FILE, --box ID X0 Y0 X1 Y1 or --point ID X Y")
    parser.check_range(options, "save_every", "frames", lowest=1)
    if options.rate is not None and options.rate <= 0:
        parser.error("--rate: expected a number of frames per second above 0")
    return options
