"""Make the semantic maps of COCO 2017 from its panoptic maps: one PNG per image, value = position of the category, 255 = unlabelled.

    python data_scripts/prepare_coco_semantic.py coco [--splits train val] [--num-proc 8] [--overwrite]

Reads annotations/panoptic_{split}2017.json and panoptic_{split}2017/ in the folder, writes panoptic_semseg_{split}2017/ beside them.
`load("coco_semantic", ...)` needs them only with masks="semseg". What exists is kept unless --overwrite is given.
"""

import argparse
import json
import sys
from pathlib import Path

UNLABELLED = 255


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of COCO")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"])
    parser.add_argument("--num-proc", type=int, default=1, help="processes")
    parser.add_argument("--overwrite", action="store_true", help="write again what exists")
    return parser.parse_args(arguments)


def write_map(job: tuple[Path, dict[int, int], Path]) -> None:
    """The map of one image, from its panoptic map and {segment id: position of the category}."""
    import numpy as np

    from psalm_hf.data.preparation import write_picture
    from psalm_hf.data.segment_map import read_segment_map

    panoptic_path, positions, path = job
    segments = read_segment_map(panoptic_path)
    labels = np.full(segments.shape, UNLABELLED, dtype=np.uint8)
    for segment_id, position in positions.items():
        labels[segments == segment_id] = position
    write_picture(path, labels)


def prepare(folder: Path, split: str, num_proc: int, overwrite: bool) -> None:
    from psalm_hf.data.preparation import make_files

    file = folder / f"annotations/panoptic_{split}2017.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        position = {category["id"]: index for index, category in enumerate(content["categories"])}
        jobs = []
        for annotation in content["annotations"]:
            positions = {info["id"]: position[info["category_id"]] for info in annotation["segments_info"]}
            name = annotation["file_name"]
            jobs.append((folder / f"panoptic_{split}2017" / name, positions, folder / f"panoptic_semseg_{split}2017" / name))
    except FileNotFoundError:
        raise ValueError(f"{file}: does not exist; give the folder of COCO, see docs/datasets/coco.md") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: not the panoptic annotations of COCO ({error!r}); download it again") from error
    make_files(write_map, jobs, title=f"panoptic_semseg_{split}2017", overwrite=overwrite, num_proc=num_proc)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        for split in options.splits:
            prepare(options.folder, split, options.num_proc, options.overwrite)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
