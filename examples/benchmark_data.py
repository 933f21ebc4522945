"""Times the work before a batch reaches the model. Prints figures; nothing here is a test.

    python examples/benchmark_data.py coco_panoptic --data-dir coco --split train     # images/s, and where the time goes

Makes batches as a training does, from a dataset whose rows are cached: rows become samples (masks from segment maps), images are decoded,
resized and normalised, targets placed on the model's canvas, prompts drawn and tokenised. First in one process, with the seconds of every
part, then in the worker processes of a DataLoader. Small datasets are gone through again and again, so their files are in memory.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a name of list_datasets()")
    parser.add_argument("--data-dir", help="folder of its files")
    parser.add_argument("--split", default="train")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the dataset")
    parser.add_argument("--image-size", type=int, default=1024, help="side of the model's canvas in pixels (default 1024)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--images", type=int, default=96, help="samples to time (default 96)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of worker processes (default 1 2)")
    return parser.parse_args(arguments)


@contextmanager
def timed(parts: dict[str, tuple[Any, str]]) -> Iterator[dict[str, float]]:
    """Seconds inside of `owner.attribute` for every part, while this lasts; the parts must not call each other."""
    seconds = dict.fromkeys(parts, 0.0)

    def watched(part: str, function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **options)
            seconds[part] += time.perf_counter() - start
            return result

        return call

    with ExitStack() as stack:
        for part, (owner, attribute) in parts.items():
            stack.enter_context(patch.object(owner, attribute, watched(part, getattr(owner, attribute))))
        yield seconds


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    from torch.utils.data import DataLoader

    from psalm_hf.cli.verify import read_options
    from psalm_hf.data import collator as collating
    from psalm_hf.data import features, load
    from psalm_hf.data.mixture import EndlessEpochs
    from psalm_hf.model import processing_psalm
    from psalm_hf.tiny import build_tiny

    _, processor = build_tiny()
    processor.image_processor.size = {"longest_edge": options.image_size}
    processor.image_grid = (options.image_size // 64, options.image_size // 64)  # of the released model
    processor.max_length = 16_384  # its tokenizer has a token per byte
    dataset = load(options.dataset, options.split, options.data_dir, **read_options(options.option))
    source = EndlessEpochs(dataset, seed=0)
    batches = [range(first, first + options.batch_size) for first in range(0, options.images, options.batch_size)]
    collate = collating.PsalmCollator(processor, shuffle_categories=True)
    number = options.batch_size * len(batches)
    collate([source[index] for index in batches[0]])  # warms up

    processor_class = type(processor)
    parts = {
        "rows to samples (masks)": (features, "sample_from_row"),
        "decode images": (collating, "open_images"),
        "resize and normalise images": (type(processor.image_processor), "_preprocess"),
        "targets": (processing_psalm, "read_targets"),
        "prompts: tokens": (processor_class, "_tokens"),
        "prompts: regions": (processor_class, "region_weights"),
    }
    start = time.perf_counter()
    with timed(parts) as seconds_of:
        for batch in batches:
            collate([source[index] for index in batch])
    total = time.perf_counter() - start
    print(
        f"{options.dataset} {options.split}: {len(dataset)} rows; {number} samples at {options.image_size}, batches of {options.batch_size}"
    )
    print(f"{'one process':32} {number / total:7.1f} images/s {1000 * total / number:7.1f} ms per image")
    for part, seconds in {**seconds_of, "everything else": total - sum(seconds_of.values())}.items():
        print(f"  {part:30} {100 * seconds / total:7.1f} %        {1000 * seconds / number:7.1f} ms")

    for workers in options.workers:
        # Batches that were begun before the clock starts count as made in time: few of many, so that they matter little.
        loader = DataLoader(source, batch_sampler=3 * batches, collate_fn=collate, num_workers=workers, prefetch_factor=1)
        iterator = iter(loader)
        next(iterator)  # processes have started
        start = time.perf_counter()
        left = sum(1 for _ in iterator) * options.batch_size
        print(f"{f'DataLoader, {workers} workers':32} {left / (time.perf_counter() - start):7.1f} images/s")


if __name__ == "__main__":
    main()
