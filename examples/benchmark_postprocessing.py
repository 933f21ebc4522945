"""Times post-processing at the size of a photograph, and how much memory it takes: drawn logits, no model.

    python examples/benchmark_postprocessing.py                       # 12 megapixels
    python examples/benchmark_postprocessing.py --size 6000 8000

100 queries of 256 x 256, of which five are confident; ten categories; one expression; ten regions.
"""

import argparse
import time
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(3000, 4000), metavar=("HEIGHT", "WIDTH"), help="(default 3000 4000)")
    return parser.parse_args(arguments)


def draw_outputs() -> dict[str, Any]:
    """Name of a kind of row -> outputs with one such row."""
    import torch
    from torch.nn.functional import interpolate

    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    masks = interpolate(4 * normal(1, 100, 16, 16), size=(256, 256), mode="bilinear") + normal(1, 100, 256, 256) / 2
    classes, meant, regions = normal(1, 100, 11), normal(1, 100, 1) - 6, normal(1, 10, 100) - 6
    classes[:, 5:, 10] += 8  # the background
    classes[0, range(5), range(5)] += 8
    meant[:, :5] += 8
    regions[0, range(10), [*range(5)] * 2] += 9
    logits = {"class_queries_logits": classes, "referring_queries_logits": meant, "region_queries_logits": regions}
    kinds = {"category": (0, 11), "sentence": (1, 1), "region": (2, 10)}
    return {
        name: SimpleNamespace(
            masks_queries_logits=masks, condition_type=torch.tensor([kind]), num_conditions=torch.tensor([number]), **logits
        )
        for name, (kind, number) in kinds.items()
    }


def memory() -> int:
    """Bytes that the process holds (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main(arguments: list[str] | None = None) -> None:
    size = parse_arguments(arguments).size
    from psalm_hf import PsalmImageProcessor, PsalmProcessor
    from psalm_hf.tiny import byte_tokenizer

    processor = PsalmProcessor(PsalmImageProcessor(size={"longest_edge": 1024}), byte_tokenizer(), num_queries=100, image_grid=(32, 32))
    outputs = draw_outputs()
    tasks = {"panoptic": "category", "instance": "category", "semantic": "category", "referring": "sentence", "region": "region"}
    print(f"{size[0]} x {size[1]}: processor seconds, MiB on top while it runs, results included")
    for task, kind in tasks.items():
        options = {"threshold": 0.5} if task == "instance" else {}
        before, peak, is_done = memory(), [0], Event()

        def watch(peak: list[int] = peak, is_done: Event = is_done) -> None:
            while not is_done.wait(0.002):
                peak.append(memory())

        watcher = Thread(target=watch)
        watcher.start()
        start = time.process_time()
        getattr(processor, f"post_process_{task}_segmentation")(outputs[kind], target_sizes=[size], **options)
        seconds = time.process_time() - start
        is_done.set()
        watcher.join()
        print(f"{task:10} {seconds:6.2f} s {(max(peak) - before) / 2**20:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
