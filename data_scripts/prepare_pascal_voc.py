"""Make the layout of open-vocabulary evaluation from VOC 2012: images, annotations_pascal20 and annotations_pascal21, by split.

    python data_scripts/prepare_pascal_voc.py VOCdevkit pascal_voc_d2 [--splits train val] [--num-proc 8] [--overwrite]

annotations_pascal21: 0 = background, 1..20, 255 = border; annotations_pascal20: 0..19, 255 = border and background. They are grey, without
a palette. `load("voc20", ...)` reads VOCdevkit itself; other tools want this layout. What exists is kept unless --overwrite is given.
"""

import argparse
import sys
from pathlib import Path

FOLDERS = {"train": "training", "val": "validation"}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="VOCdevkit, the folder that holds VOC2012")
    parser.add_argument("output", type=Path, help="folder to write into")
    parser.add_argument("--splits", nargs="+", choices=tuple(FOLDERS), default=list(FOLDERS))
    parser.add_argument("--num-proc", type=int, default=1, help="processes")
    parser.add_argument("--overwrite", action="store_true", help="write again what exists")
    return parser.parse_args(arguments)


def write_map(job: tuple[Path, bool, Path]) -> None:
    """The palette indices as grey; without the background, 1..20 become 0..19, and 0 becomes 255."""
    import numpy as np

    from psalm_hf.data.preparation import read_pixels, write_picture

    source, with_background, path = job
    labels = read_pixels(source)
    if labels.dtype != np.uint8 or labels.ndim != 2 or not np.isin(labels, [*range(21), 255]).all():
        raise ValueError(f"{source}: expected palette indices 0 to 20 and 255; it is no map of SegmentationClass")
    if not with_background:
        labels = np.where((labels == 0) | (labels == 255), 255, labels - 1).astype(np.uint8)
    write_picture(path, labels)


def prepare(folder: Path, output: Path, split: str, num_proc: int, overwrite: bool) -> None:
    from psalm_hf.data.preparation import copy_picture, make_files

    voc = folder / "VOC2012"
    names_file = voc / f"ImageSets/Segmentation/{split}.txt"
    if not names_file.is_file():
        raise ValueError(f"{names_file}: does not exist; give the folder that holds VOC2012, see docs/datasets/pascal_voc.md")
    names = names_file.read_text(encoding="utf-8").split()
    images = [(voc / f"JPEGImages/{name}.jpg", output / f"images/{FOLDERS[split]}/{name}.jpg") for name in names]
    make_files(copy_picture, images, title=f"images {split}", overwrite=overwrite, num_proc=num_proc)
    for number in (20, 21):
        maps = output / f"annotations_pascal{number}/{FOLDERS[split]}"
        jobs = [(voc / f"SegmentationClass/{name}.png", number == 21, maps / f"{name}.png") for name in names]
        make_files(write_map, jobs, title=f"annotations_pascal{number} {split}", overwrite=overwrite, num_proc=num_proc)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        for split in options.splits:
            prepare(options.folder, options.output, split, options.num_proc, options.overwrite)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
