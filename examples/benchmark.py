"""Times what batching and shared image encoding save, and prints ratios; nothing here is a test.

    python examples/benchmark.py                                    # tiny random model, seconds
    python examples/benchmark.py --checkpoint PSALM_FOLDER --rows 8 --repeats 3

Three ways to ask N expressions about one picture:
    one by one          N calls, each encodes the picture (what the released code does)
    features kept       the picture is encoded once with get_image_features, then N calls
    one call            N rows on one picture in one batch
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parent / "pictures" / "village.png"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=str(PICTURE))
    parser.add_argument("--checkpoint", help="folder or Hub id; default a tiny model with random weights")
    parser.add_argument("--rows", type=int, default=8, help="expressions asked about the picture (default 8)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs after one warm-up (default 5); medians are printed")
    parser.add_argument("--device", default="cpu", help="such as cpu, cuda:1, mps or xpu (default: cpu)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> tuple:
    from psalm_hf.devices import pick_device

    device = pick_device(options.device)
    if options.checkpoint is None:
        from psalm_hf.tiny import build_tiny

        model, processor = build_tiny()
    else:
        from psalm_hf import PsalmForSegmentation, PsalmProcessor

        processor = PsalmProcessor.from_pretrained(options.checkpoint)
        model = PsalmForSegmentation.from_pretrained(options.checkpoint, dtype=options.dtype)
    return model.to(device).eval(), processor


def median_seconds(run: Callable[[], object], repeats: int, device: Any) -> float:
    import torch

    times = []
    for number in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        if number:  # the first run warms caches and kernels up
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def ways(model, processor, image, expressions: list[str]) -> dict[str, Callable[[], object]]:
    """The three ways of the module's docstring, on inputs that are prepared once: the processor is not timed."""
    single = [processor(images=image, expressions=[text], return_tensors="pt").to(model.device) for text in expressions]
    batch = processor(images=image, expressions=expressions, return_tensors="pt").to(model.device)

    def features_kept() -> None:
        features = model.get_image_features(single[0]["pixel_values"])
        for inputs in single:
            model(**{**inputs, "pixel_values": None}, image_features=features)

    return {
        "one by one": lambda: [model(**inputs) for inputs in single],
        "features kept": features_kept,
        "one call": lambda: model(**batch),
    }


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    import torch

    from psalm_hf import load_image

    model, processor = load(options)
    expressions = [f"the {color} thing on the {side}" for color in ("red", "green", "blue", "white") for side in ("left", "right")]
    expressions = (expressions * -(-options.rows // len(expressions)))[: options.rows]
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{parameters:.1f} million parameters, {options.device}, {options.dtype}, {torch.get_num_threads()} threads, {options.rows} rows")
    with torch.inference_mode():
        seconds = {
            name: median_seconds(run, options.repeats, model.device)
            for name, run in ways(model, processor, load_image(options.image), expressions).items()
        }
    baseline = seconds["one by one"]
    print(f"{'way':<16}{'seconds':>10}{'per row':>10}{'speed-up':>10}")
    for name, value in seconds.items():
        print(f"{name:<16}{value:>10.3f}{value / options.rows:>10.3f}{baseline / value:>9.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
