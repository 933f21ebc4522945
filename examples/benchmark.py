"""Times how much batching and shared image encoding save, and prints ratios; nothing here is a test.

    python examples/benchmark.py                                    # psalm-tiny, seconds
    python examples/benchmark.py --checkpoint PSALM_FOLDER --rows 8 --repeats 3

Three ways to ask N expressions about one image:
    one by one          N calls, each encodes the image (what the released code does)
    features kept       the image is encoded once with get_image_features, then N calls
    one call            N rows on one image in one batch
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", help="file or URL (default: drawn shapes)")
    parser.add_argument("--rows", type=int, default=8, help="expressions asked about the image (default 8)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs after one warm-up (default 5); medians are printed")
    parser.add_argument("--checkpoint", default="psalm-tiny", help="folder or Hub id (default: psalm-tiny)")
    parser.add_argument("--device", default="cpu", help="such as cpu, cuda:1, mps or xpu (default: cpu)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    return parser.parse_args(arguments)


def median_seconds(run: Callable[[], object], repeats: int, device) -> float:
    """Median time of a call; the first call warms caches and kernels up and is left out."""
    import torch

    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def ways(model, processor, image, expressions: list[str]) -> dict[str, Callable[[], object]]:
    """Calls of the three ways, on inputs that are prepared once: the processor is not timed."""
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


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    import torch

    from psalm_hf import load_image
    from psalm_hf.cli.command import load_model
    from psalm_hf.data.shapes.scene import example_picture

    model, processor = load_model(options)
    image = load_image(options.image) if options.image else example_picture()
    expressions = [f"the {color} thing on the {side}" for color in ("red", "green", "blue", "white") for side in ("left", "right")]
    expressions = (expressions * -(-options.rows // len(expressions)))[: options.rows]
    millions = model.num_parameters() / 1e6
    print(f"{millions:.1f} million parameters, {model.device}, {options.dtype}, {torch.get_num_threads()} threads, {options.rows} rows")
    with torch.inference_mode():
        calls = ways(model, processor, image, expressions)
        seconds = {name: median_seconds(call, options.repeats, model.device) for name, call in calls.items()}
    print(f"{'way':<16}{'seconds':>10}{'per row':>10}{'speed-up':>10}")
    for name, value in seconds.items():
        print(f"{name:<16}{value:>10.3f}{value / options.rows:>10.3f}{seconds['one by one'] / value:>9.2f}x")


if __name__ == "__main__":
    sys.exit(main())
