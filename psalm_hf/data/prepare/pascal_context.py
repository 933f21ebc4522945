"""Makes the layout that `load("pc59" | "pc459", ...)` reads from VOC 2010 and the label files of Pascal Context.

    psalm prepare pascal_context VOCdevkit pascal_ctx_d2 [--labels trainval] [--splits train val] [--num-proc 8]

In VOCdevkit/VOC2010 must lie JPEGImages/, ImageSets/Main/{train,val}.txt, and the labels of Pascal Context: trainval/NAME.mat, each with
an array LabelMap of 16 bits, 0 = unlabelled, 1..459. Written are images/, annotations_ctx459/ (TIFF of 16 bits, 0..458, 65535 = unlabelled)
and annotations_ctx59/ (PNG, 0..58, 255 = unlabelled), each with training/ and validation/. What exists is kept unless --overwrite is given.

The published maps of 59 categories come from trainval_merged.json, which counts finer labels to the 59 (and is read by the Detail API). The
.mat files do not say which, so that the maps of 59 categories written here leave those pixels unlabelled: numbers on them are not
comparable with published ones. If you have the published maps, put them into annotations_ctx59/ first; they are kept.
"""

from pathlib import Path

import numpy as np

from ..preparation import SPLIT_FOLDERS, TRAIN_VAL, TrainVal, copy_image, make_files, read_names, write_pixels

UNLABELLED = {59: 255, 459: 65535}


def write_context_map(job: tuple[Path, int, Path]) -> None:
    """Writes the map of one image, with 459 or 59 categories."""
    from scipy.io import loadmat

    from ..benchmarks.pascal_context import LABELS_OF_59

    source, number, path = job
    if not source.is_file():
        raise ValueError(f"{source}: does not exist; download the labels of Pascal Context again, or give their folder as --labels")
    try:
        labels = loadmat(source)["LabelMap"]
    except (KeyError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise ValueError(f"{source}: cannot be read, or has no LabelMap ({error!r}); download it again") from error
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.max() > 459:
        raise ValueError(f"{source}: expected labels 0 to 459, got {labels.dtype} up to {labels.max()}; it is no file of Pascal Context")
    position = np.full(460, UNLABELLED[number], dtype=np.uint16 if number == 459 else np.uint8)
    position[list(range(1, 460)) if number == 459 else list(LABELS_OF_59)] = range(number)
    write_pixels(path, position[labels], **({"compression": "tiff_adobe_deflate"} if number == 459 else {}))


def prepare(
    folder: Path,
    output: Path,
    *,
    labels: Path | None = None,
    splits: TrainVal = TRAIN_VAL,
    num_proc: int = 1,
    overwrite: bool = False,
) -> None:
    """Makes the layout, from VOCdevkit, which holds VOC2010, and the .mat files (default VOC2010/trainval), in `output`.

    Raises:
        ValueError: a file that is missing or of another dataset.
    """
    voc, options = folder / "VOC2010", {"num_proc": num_proc, "overwrite": overwrite}
    labels = labels or voc / "trainval"
    for split in splits:
        advice = "give the folder that holds VOC2010, see docs/datasets/pascal_context.md"
        names = read_names(voc / f"ImageSets/Main/{split}.txt", advice)
        for number, end in ((459, ".tif"), (59, ".png")):
            maps = output / f"annotations_ctx{number}/{SPLIT_FOLDERS[split]}"
            jobs = [(labels / f"{name}.mat", number, maps / f"{name}{end}") for name in names]
            make_files(write_context_map, jobs, title=f"annotations_ctx{number} {split}", **options)
        images = [(voc / f"JPEGImages/{name}.jpg", output / f"images/{SPLIT_FOLDERS[split]}/{name}.jpg") for name in names]
        make_files(copy_image, images, title=f"images {split}", **options)
