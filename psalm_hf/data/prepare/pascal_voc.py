"""Makes the layout of open-vocabulary evaluation from VOC 2012: images, annotations_pascal20 and annotations_pascal21, by split.

    psalm prepare pascal_voc VOCdevkit pascal_voc_d2 [--splits train val] [--num-proc 8] [--overwrite]

annotations_pascal21: 0 = background, 1..20, 255 = border; annotations_pascal20: 0..19, 255 = border and background. They are grey, without
a palette. `load("voc20", ...)` reads VOCdevkit itself; other tools want this layout. What exists is kept unless --overwrite is given.
"""

from pathlib import Path

import numpy as np

from ..preparation import SPLIT_FOLDERS, TRAIN_VAL, TrainVal, copy_image, make_files, read_names, read_pixels, write_pixels


def write_voc_map(job: tuple[Path, bool, Path]) -> None:
    """Writes the palette indices as grey; without the background, 1..20 become 0..19, and 0 becomes 255."""
    source, with_background, path = job
    labels = read_pixels(source)
    if labels.dtype != np.uint8 or labels.ndim != 2 or not np.isin(labels, [*range(21), 255]).all():
        raise ValueError(f"{source}: expected palette indices 0 to 20 and 255; it is no map of SegmentationClass")
    if not with_background:
        labels = np.where((labels == 0) | (labels == 255), 255, labels - 1).astype(np.uint8)
    write_pixels(path, labels)


def prepare(folder: Path, output: Path, *, splits: TrainVal = TRAIN_VAL, num_proc: int = 1, overwrite: bool = False) -> None:
    """Makes the layout, from VOCdevkit, which holds VOC2012, in `output`. Raises ValueError for a file that is missing or wrong."""
    voc, options = folder / "VOC2012", {"num_proc": num_proc, "overwrite": overwrite}
    for split in splits:
        advice = "give the folder that holds VOC2012, see docs/datasets/pascal_voc.md"
        names = read_names(voc / f"ImageSets/Segmentation/{split}.txt", advice)
        images = [(voc / f"JPEGImages/{name}.jpg", output / f"images/{SPLIT_FOLDERS[split]}/{name}.jpg") for name in names]
        make_files(copy_image, images, title=f"images {split}", **options)
        for number in (20, 21):
            maps = output / f"annotations_pascal{number}/{SPLIT_FOLDERS[split]}"
            jobs = [(voc / f"SegmentationClass/{name}.png", number == 21, maps / f"{name}.png") for name in names]
            make_files(write_voc_map, jobs, title=f"annotations_pascal{number} {split}", **options)
