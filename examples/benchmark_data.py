"""Times what happens before a batch reaches the model. Prints figures; nothing here is a test.

    python examples/benchmark_data.py loader coco_panoptic --data-dir coco --split train     # images/s, and where the time goes
    python examples/benchmark_data.py build --rows 10000 --num-proc 2                        # rows/s, and memory

`loader` makes batches as a training does, from a dataset whose rows are cached: rows become samples (masks from segment maps), pictures are
decoded, resized and normalised, targets placed on the model's canvas, prompts drawn and tokenised. First in one process, with the seconds
of every part, then in the worker processes of a DataLoader. Small datasets are gone through again and again, so their files are in memory.

`build` makes the Arrow table of a panoptic dataset of the given length, which it first writes to a temporary folder: records like COCO's,
with 11 segments each, and links to one picture and one segment map of 640 x 480 pixels.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import Process
from pathlib import Path
from typing import Any
from unittest.mock import patch

SEGMENTS = 11


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    loader = commands.add_parser("loader", help="images/s of batches for training")
    loader.add_argument("dataset", help="a name of list_datasets()")
    loader.add_argument("--data-dir", help="folder of its files")
    loader.add_argument("--split", default="train")
    loader.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the dataset")
    loader.add_argument("--image-size", type=int, default=1024, help="side of the model's canvas in pixels (default 1024)")
    loader.add_argument("--batch-size", type=int, default=4)
    loader.add_argument("--images", type=int, default=96, help="samples to time (default 96)")
    loader.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of worker processes (default 1 2)")
    build = commands.add_parser("build", help="rows/s of a panoptic table")
    build.add_argument("--rows", type=int, default=10_000)
    build.add_argument("--num-proc", type=int, default=1)
    return parser.parse_args(arguments)


class Stopwatch:
    """Seconds inside of functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, parts: dict[str, tuple[Any, str]]) -> Iterator[None]:
        """Times `owner.attribute` for every part, while it lasts; the parts must not call each other."""
        with ExitStack() as stack:
            for part, (owner, attribute) in parts.items():
                stack.enter_context(patch.object(owner, attribute, self._timed(part, getattr(owner, attribute))))
            yield

    def _timed(self, part: str, function: Callable) -> Callable:
        self.seconds[part] = 0.0

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[part] += time.perf_counter() - start
            return result

        return timed


def time_loader(options: argparse.Namespace) -> None:
    import yaml
    from torch.utils.data import DataLoader

    from psalm_hf.data import collator as collating
    from psalm_hf.data import features, load
    from psalm_hf.data.mixture import EndlessEpochs
    from psalm_hf.model import rows
    from psalm_hf.tiny import build_tiny

    _, processor = build_tiny()
    processor.image_processor.size = {"longest_edge": options.image_size}
    processor.image_grid = (options.image_size // 64, options.image_size // 64)  # of the released model
    processor.max_length = 16_384  # its tokenizer has a token per byte
    settings = {name: yaml.safe_load(value) for name, value in (option.split("=", 1) for option in options.option)}
    dataset = load(options.dataset, options.split, options.data_dir, **settings)
    source = EndlessEpochs(dataset, seed=0)
    batches = [range(first, first + options.batch_size) for first in range(0, options.images, options.batch_size)]
    collate = collating.PsalmCollator(processor, shuffle_categories=True)
    number = options.batch_size * len(batches)
    collate([source[index] for index in batches[0]])  # warms up

    watch = Stopwatch()
    processor_class = type(processor)
    parts = {
        "rows to samples (masks)": (features, "sample_from_row"),
        "decode pictures": (collating, "_open_images"),
        "resize and normalise pictures": (type(processor.image_processor), "_preprocess"),
        "targets": (processor_class, "_targets"),
        "prompts: tokens": (processor_class, "_tokens"),
        "prompts: regions": (rows.RowBuilder, "_region_row"),
    }
    start = time.perf_counter()
    with watch.on(parts):
        for batch in batches:
            collate([source[index] for index in batch])
    total = time.perf_counter() - start
    print(
        f"{options.dataset} {options.split}: {len(dataset)} rows; {number} samples at {options.image_size}, batches of {options.batch_size}"
    )
    print(f"{'one process':32} {number / total:7.1f} images/s {1000 * total / number:7.1f} ms per image")
    for part, seconds in [*watch.seconds.items(), ("everything else", total - sum(watch.seconds.values()))]:
        print(f"  {part:30} {100 * seconds / total:7.1f} %        {1000 * seconds / number:7.1f} ms")

    for workers in options.workers:
        # Batches that were begun before the clock starts count as made in time: few of many, so that they matter little.
        loader = DataLoader(source, batch_sampler=3 * batches, collate_fn=collate, num_workers=workers, prefetch_factor=1)
        iterator = iter(loader)
        next(iterator)  # processes have started
        start = time.perf_counter()
        left = sum(1 for _ in iterator) * options.batch_size
        print(f"{f'DataLoader, {workers} workers':32} {left / (time.perf_counter() - start):7.1f} images/s")


def write_panoptic(folder: Path, rows: int) -> None:
    """A folder like COCO's whose pictures are links to one."""
    import numpy as np
    from PIL import Image

    for name in ("annotations", "train2017", "panoptic_train2017"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(folder / "picture.jpg", quality=50)
    ids = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((160, 160), dtype=int)).clip(max=SEGMENTS)
    Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=-1).astype(np.uint8)).save(folder / "map.png")
    categories = [{"id": id, "name": f"category {id}", "isthing": int(id <= 80)} for id in range(1, 134)]
    images, annotations = [], []
    for id in range(rows):
        os.symlink(folder / "picture.jpg", folder / f"train2017/{id:012d}.jpg")  # file systems limit hard links of a file
        os.symlink(folder / "map.png", folder / f"panoptic_train2017/{id:012d}.png")
        images.append({"id": id, "file_name": f"{id:012d}.jpg", "height": 480, "width": 640, "license": 1, "date_captured": "2013-11-14"})
        segments = [
            {"id": number, "category_id": (id + number) % 133 + 1, "area": 25600, "bbox": [0, 0, 160, 160], "iscrowd": 0}
            for number in range(1, SEGMENTS + 1)
        ]
        annotations.append({"image_id": id, "file_name": f"{id:012d}.png", "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations/panoptic_train2017.json").write_text(json.dumps(content), encoding="utf-8")


def time_build(options: argparse.Namespace) -> None:
    from psalm_hf.data import load

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    with tempfile.TemporaryDirectory() as folder:
        writer = Process(target=write_panoptic, args=(Path(folder), options.rows))  # whose memory is none of ours
        writer.start()
        writer.join()
        before = peak()
        json.loads(Path(folder, "annotations/panoptic_train2017.json").read_text(encoding="utf-8"))
        parsed = peak()
        start = time.perf_counter()
        dataset = load("coco_panoptic", "train", folder, cache_dir=f"{folder}/cache", num_proc=options.num_proc)
        seconds = time.perf_counter() - start
        print(
            f"{len(dataset)} rows in {seconds:.1f} s with {options.num_proc} processes: {len(dataset) / seconds:.0f} rows/s, parsing of "
            f"the JSON file included; peak memory {peak()} MB, {parsed} MB of it to parse the file, {before} MB before"
        )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.command == "loader":
        time_loader(options)
    else:
        time_build(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
