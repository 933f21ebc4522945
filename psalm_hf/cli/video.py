"""Follows objects through a video. They are given in its first frame, by an annotation or by boxes and points, or by words.

    psalm video FRAMES_FOLDER --first-mask first.png --output tracked
    psalm video street.mp4 --box 1 10 20 90 140 --point 2 320 200 --output tracked --video tracked/overlay.mp4
    psalm video street.mp4 --expression "the red car" --expression "the dog" --output tracked
    psalm video street.mp4 --categories car bus --instances --output tracked

FRAMES_FOLDER holds the frames as images; street.mp4 needs PyAV (pip install psalm_hf[video]). The output folder gets
    masks/FRAME.png      values are the objects' numbers, 0 = none, in the palette of DAVIS; higher numbers cover lower ones
    overlays/FRAME.jpg   to look at
    scores.jsonl         a line per frame: its name, the score of every object, and which have a mask
    state.safetensors    what the session remembers, written every --save-every frames
The same command goes on where it was interrupted, with the same result as if it had not been.

What is said by --expression or --categories is looked for in the first frame, and until it is found again every --look-every frames; then
its mask is followed. An expression gets the lowest number that is free. With --instances everything that is meant is an object, also
what appears later. At the end the command says in how many frames each object was found. An object that never was is a warning, and
the exit status is 0 all the same, because the files say what there is.

--first-mask is an image whose pixel values (not colours) are object numbers, as in DAVIS. Coordinates are pixels of the upright frame (x
to the right, y down). --checkpoint takes a folder or Hub id; without it psalm-tiny answers, which ships with the package: it was trained on
drawn shapes alone, so on films its masks mean nothing. Policies: see the page on video in the documentation.
"""

import argparse
import hashlib
from pathlib import Path

from ..checkpoints import resolve_checkpoint
from .command import CommandParser, add_model_options, load_model, say, verb
from .prompt_options import check_category_names

POLICY_NAMES = ("first_last_confident", "last_frame", "released")
LOOKING = ("look_every", "threshold")  # options that concern words alone
DEFAULT_RATE = 24.0  # frames per second of a video made of a folder


@verb
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    resolve_checkpoint(options.checkpoint)  # what no checkpoint can be called is refused before torch is loaded

    from ..following import begin_output, describe_found, follow, join_overlays, read_objects
    from ..locking import only_run
    from ..video import PsalmVideoSession, check_video, count_frames, frame_rate

    total = count_frames(options.source)
    total = options.frames if total is None else min(total, options.frames or total)
    rate = options.rate or (frame_rate(options.source) if options.video else None) or DEFAULT_RATE
    objects = read_objects(options.first_mask, options.box, options.point, options.expressions, options.categories)
    with only_run(options.output):
        begin_output(options.output, describe(options))
        if options.video:
            check_video(options.video, rate)
        looking = {name: getattr(options, name) for name in LOOKING if getattr(options, name) is not None}
        session = PsalmVideoSession(*load_model(options), policy=options.policy, **looking)
        follow(
            session,
            options.source,
            objects,
            options.output,
            instances=options.instances,
            num_frames=options.frames,
            total=total,
            save_every=options.save_every,
        )
        for line in describe_found(session, objects, options.output):
            say(line)
        if options.video:
            join_overlays(options.output, options.video, rate)
            say(f"wrote {options.video}")


def describe(options: argparse.Namespace) -> dict:
    """Settings that must be the same for a run to go on in a folder. The checkpoint is known by its content: it may have been trained on
    under the same name."""
    from ..evaluation.results import describe_checkpoint

    settings = {
        "source": str(Path(options.source).resolve()),
        "first_mask": options.first_mask and hashlib.sha256(options.first_mask.read_bytes()).hexdigest(),
        "boxes": options.box,
        "points": options.point,
        "policy": options.policy,
        "checkpoint": describe_checkpoint(resolve_checkpoint(options.checkpoint)),
        "dtype": options.dtype,
    }
    if options.expressions or options.categories:  # a folder that was begun before there were words has no such entry
        from ..video.session import LOOK_EVERY

        settings |= {name: getattr(options, name) for name in ("expressions", "categories", "instances", "threshold")}
        settings["look_every"] = options.look_every or LOOK_EVERY
    return settings


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("video", __doc__)
    parser.add_argument("source", help="folder of images, in the order of their names, or video file")
    parser.add_argument("--first-mask", type=Path, metavar="FILE", help="objects of the first frame: pixel values are their numbers")
    parser.add_argument("--box", action="append", nargs=5, type=float, default=[], metavar=("ID", "X0", "Y0", "X1", "Y1"))
    parser.add_argument(
        "--point", action="append", nargs=3, type=float, default=[], metavar=("ID", "X", "Y"), help="several of one ID add up"
    )
    parser.add_argument("--expression", action="append", dest="expressions", default=[], metavar="TEXT", help="may be repeated")
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="the best thing of any of them; names of several words in quotes")
    parser.add_argument("--instances", action="store_true", help="everything that words mean is an object of its own, not the best alone")
    parser.add_argument("--look-every", type=int, metavar="N", help="frames between two searches for what words mean (default: 5)")
    parser.add_argument(
        "--threshold",
        type=float,
        help="score above which what words mean counts as found (default: what the checkpoint carries, categories 0.5)",
    )
    parser.add_argument("--output", type=Path, default=Path("tracked"), help="folder (default: tracked)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="also join the overlays to a video, such as overlay.mp4 (needs PyAV)")
    parser.add_argument("--rate", type=float, help="frames per second of --video (default: that of the source, else 24)")
    parser.add_argument("--policy", choices=POLICY_NAMES, default=POLICY_NAMES[0], help=f"of the memory (default: {POLICY_NAMES[0]})")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after the first N")
    parser.add_argument("--save-every", type=int, default=10, metavar="N", help="frames between two saved states (default: 10)")
    add_model_options(parser)
    options = parser.parse_args(arguments)
    has_words = options.expressions or options.categories
    if not (options.first_mask or options.box or options.point or has_words):
        parser.error("say what to follow: --first-mask FILE, --box ID X0 Y0 X1 Y1, --point ID X Y, --expression TEXT or --categories NAME")
    if not has_words and (options.instances or any(getattr(options, name) is not None for name in LOOKING)):
        parser.error("--instances, --look-every and --threshold are about words; give --expression or --categories")
    check_category_names(parser, options.categories or ())
    parser.check_range(options, "save_every", "frames", "look_every", lowest=1)
    parser.check_range(options, "threshold", lowest=0, highest=1)
    if options.rate is not None and not options.video:
        parser.error("--rate goes with --video")
    if options.rate is not None and options.rate <= 0:
        parser.error("--rate: expected a number of frames per second above 0")
    return options
