"""Times a video session by the number of objects, and by how often it looks for words, and watches its memory over a long video.
Nothing here is a test.

    python examples/benchmark_video.py                                             # psalm-tiny: about a minute
    python examples/benchmark_video.py --checkpoint PSALM_FOLDER --objects 1 --frames 5 --long 0 --size 480 854

The video is noise in which squares move, made while it is read; the squares are the objects. All thresholds of the policy are 0, so that
every frame is remembered and the memory as full as it gets. Overlays and files are not timed. Calls of the vision tower are counted;
"processor time" is that of all threads of the CPU, which other programs disturb less than the time on the clock; "memory" is the resident
memory of the whole process.
"""

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace

SIDE = 24  # pixels of a square, at a height of 128


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 5, 10], help="numbers of objects to time (default: 1 5 10)")
    parser.add_argument("--frames", type=int, default=50, help="timed frames for each number of objects (default: 50)")
    parser.add_argument(
        "--look-every",
        type=int,
        nargs="*",
        default=[1, 2, 5, 10],
        help="frames between two searches for expressions that mean nothing, beside one object (default: 1 2 5 10)",
    )
    parser.add_argument("--long", type=int, default=500, help="frames of the long video, 0 = none (default: 500)")
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], help="height and width of the frames (default: 128 128)")
    parser.add_argument("--policy", default="first_last_confident")
    parser.add_argument("--checkpoint", default="psalm-tiny", help="folder or Hub id (default: psalm-tiny)")
    parser.add_argument("--device", default="cpu", help="such as cpu, cuda:1, mps or xpu (default: cpu)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.set_defaults(compile=False)
    return parser.parse_args(arguments)


def make_video(num_objects: int, num_frames: int, size: tuple[int, int]) -> Iterator[tuple]:
    """Yields a frame (H, W, 3) uint8 and the boxes of its squares by number, frame after frame."""
    import numpy as np

    rng = np.random.default_rng(num_objects)
    height, width = size
    side = max(1, SIDE * height // 128)
    noise = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    places, steps = rng.uniform(0, 1, (num_objects, 2)), rng.uniform(-0.01, 0.01, (num_objects, 2))
    colours = rng.integers(0, 256, (num_objects, 3), dtype=np.uint8)
    for number in range(num_frames):
        frame = np.roll(noise, number, axis=1)  # never twice the same: a frame that is given again is not encoded again
        # There and back: what leaves on one side would be another object when it comes in on the other.
        where = 1 - np.abs((places + number * steps) % 2 - 1)
        corners = (where * (height - side, width - side)).astype(int)
        for (top, left), colour in zip(corners, colours, strict=True):
            frame[top : top + side, left : left + side] = colour
        yield frame, {name: (left, top, left + side, top + side) for name, (top, left) in enumerate(corners.tolist(), 1)}


def time_frames(
    model, processor, options: argparse.Namespace, num_objects: int, num_frames: int, num_words: int = 0, look_every: int = 1
) -> Iterator[tuple[int, float, float]]:
    """Yields calls of the vision tower, seconds, and seconds of processor time of every frame but the first, which has the prompts.

    Args:
        num_words: expressions that nothing is found for.
    """
    from psalm_hf import PsalmVideoSession
    from psalm_hf.video.memory import read_policy

    policy = read_policy(options.policy)
    thresholds = {"score_threshold", "confident_score", "confident_stability", "least_share"} & {field.name for field in fields(policy)}
    calls = []
    hook = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    policy = replace(policy, **dict.fromkeys(thresholds, 0))
    session = PsalmVideoSession(model, processor, policy, look_every=look_every, threshold=1.0)
    try:
        for number, (frame, boxes) in enumerate(make_video(num_objects, num_frames + 1, tuple(options.size))):
            if number == 0:
                words = {f"words {number}": {"expression": f"the red thing {number}"} for number in range(num_words)}
                session.add_objects(frame, {name: {"box": box} for name, box in boxes.items()} | words)
                continue
            before, start, start_processor = len(calls), time.perf_counter(), time.process_time()
            session.track(frame)  # its answer comes to the CPU, so nothing is still running
            yield len(calls) - before, time.perf_counter() - start, time.process_time() - start_processor
    finally:
        hook.remove()


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    import torch

    from psalm_hf.cli.command import load_model

    model, processor = load_model(options)
    print(
        f"{model.num_parameters() / 1e6:.1f} million parameters, {model.device}, {options.dtype}, {torch.get_num_threads()} threads, "
        f"frames of {options.size[0]} x {options.size[1]}, policy {options.policy}"
    )
    for _ in time_frames(model, processor, options, num_objects=1, num_frames=3):  # warms caches and kernels up
        pass
    print(f"{'objects':>8}{'frames':>8}{'vision calls / frame':>22}{'processor time, ms':>20}{'time, ms':>10}{'frames / s':>12}")
    for num_objects in options.objects:
        sums = [sum(values) for values in zip(*time_frames(model, processor, options, num_objects, options.frames), strict=True)]
        calls, seconds, processor_seconds = (value / options.frames for value in sums)
        print(
            f"{num_objects:>8}{options.frames:>8}{calls:>22.2f}{1000 * processor_seconds:>20.1f}{1000 * seconds:>10.1f}{1 / seconds:>12.1f}"
        )
    if options.look_every:
        print(f"\n{'expressions':>12}{'looked for every':>18}{'processor time, ms':>20}   (1 object)")
        for num_words, look_every in [(0, 1), *((number, every) for number in (1, 5) for every in options.look_every)]:
            frames = time_frames(model, processor, options, 1, options.frames, num_words, look_every)
            total = sum(seconds for _, _, seconds in frames)
            print(f"{num_words:>12}{look_every if num_words else '-':>18}{1000 * total / options.frames:>20.1f}")
    if options.long:
        watch_memory(model, processor, options)


def watch_memory(model, processor, options: argparse.Namespace) -> None:
    """Prints the memory of the process ten times in a long video."""
    import psutil

    num_objects = max(options.objects)
    print(f"\n{'frame':>8}{'memory, MiB':>14}   ({num_objects} objects)")
    for number, _ in enumerate(time_frames(model, processor, options, num_objects, options.long), 1):
        if number % max(1, options.long // 10) == 0:
            gc.collect()
            print(f"{number:>8}{psutil.Process().memory_info().rss / 2**20:>14.1f}")


if __name__ == "__main__":
    sys.exit(main())
