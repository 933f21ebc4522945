"""Draws the visual prompts of COCO-Interactive for all objects of COCO, and writes them in the format of the published files.

    psalm prepare coco_interactive coco --split val --rules released --seed 0 --num-proc 8

reads coco/annotations/instances_val2017.json and writes coco/coco_interactive_val_psalm.json (rules "released") or
coco/coco_interactive_val_paper.json (rules "paper"), which `load("coco_interactive", ..., source="psalm_json")` reads.
Prompts depend on the annotation, the seed and the rules alone. The images are done in parts, in a hidden folder beside the output; when it
is stopped, start it again with the same arguments: finished parts are kept. The published files were drawn without a seed, so these are
others of the same kind; to compare with published numbers, take the published file.
"""

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Literal

from ...writing import finish, write_file
from ..preparation import TRAIN_VAL, TrainVal, do_all

IMAGES_PER_PART = 100


def read_instances(file: Path) -> tuple[list, str]:
    """Images with their annotations, and a digest of the file.

    Raises:
        ValueError: no instance annotations of COCO.
        FileNotFoundError: no such file.
    """
    from ..benchmarks.coco_interactive import images_with_annotations

    content = file.read_bytes()
    try:
        instances = json.loads(content)
        records = images_with_annotations(instances["images"], instances["annotations"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: no instance annotations of COCO ({error!r}); download it again") from error
    if not records or records[-1].image is None:
        raise ValueError(f"{file}: {'annotations of images that are not listed' if records else 'no annotations'}; download it again")
    return records, hashlib.sha256(content).hexdigest()


def make_part(part: tuple[Path, list, int, str, int]) -> int:
    """Writes the items of some images, separated by commas: complete, or not at all.

    Args:
        part: the file, the images with their annotations, the number of the first, rules and seed.

    Returns:
        Number of annotations.
    """
    from ..benchmarks.coco_interactive import annotation_with_prompts

    file, records, first, rules, seed = part
    items = []
    for number, (image, annotations) in enumerate(records, first):
        anns = []
        for annotation in annotations:
            try:
                size = image["height"], image["width"]
                anns.append(annotation_with_prompts(annotation, size, rules=rules, seed=seed))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"image {image['id']}, annotation {annotation.get('id')}: {error!r}") from error
        items.append(json.dumps({"image": image["file_name"], "image_info": image, "new_img_id": number, "anns": anns}))
    write_file(file, lambda target: target.write(",\n".join(items).encode("ascii")))
    return sum(len(annotations) for _, annotations in records)


def make(instances: Path, output: Path, *, rules: str, seed: int, num_proc: int) -> None:
    """Writes `output`; parts that an earlier run with the same annotations, rules and seed has left are used."""
    records, digest = read_instances(instances)
    recipe = hashlib.sha256(repr((digest, rules, seed, IMAGES_PER_PART)).encode()).hexdigest()[:16]
    folder = output.with_name(f".{output.name}-{recipe}")
    folder.mkdir(exist_ok=True)
    starts = range(0, len(records), IMAGES_PER_PART)
    files = [folder / f"{first:07d}.json" for first in starts]
    missing = [
        (file, records[first : first + IMAGES_PER_PART], first, rules, seed)
        for file, first in zip(files, starts, strict=True)
        if not file.exists()
    ]
    kept = len(files) - len(missing)
    if kept:
        print(f"{output.name}: {kept} of {len(files)} parts are there already", file=sys.stderr)
    began = time.perf_counter()
    number = sum(do_all(make_part, missing, title=output.name, num_proc=num_proc))
    print(f"{output.name}: {number / (time.perf_counter() - began):.0f} annotations/s", file=sys.stderr)
    unfinished = folder / "whole"
    with open(unfinished, "wb") as target:
        target.write(b"[\n")
        for position, file in enumerate(files):
            target.write((b",\n" if position else b"") + file.read_bytes())
        target.write(b"\n]\n")
    finish(unfinished, output)
    shutil.rmtree(folder, ignore_errors=True)


def prepare(
    folder: Path,
    *,
    splits: TrainVal = TRAIN_VAL,
    rules: Literal["released", "paper"] = "released",
    seed: int = 0,
    num_proc: int = 1,
    overwrite: bool = False,
) -> None:
    """Makes the files of the splits, beside the annotations of COCO; they do not depend on the number of processes.

    Raises:
        ValueError: a file that is missing or of another dataset; numbers out of their range.
    """
    if seed < 0 or num_proc < 1:
        raise ValueError("--seed must be at least 0, and --num-proc at least 1")
    for split in splits:
        instances = folder / f"annotations/instances_{split}2017.json"
        output = folder / f"coco_interactive_{split}_{'psalm' if rules == 'released' else 'paper'}.json"
        if output.exists() and not overwrite:
            print(f"kept {output}, which exists; --overwrite draws it again", file=sys.stderr)
            for left in list(output.parent.glob(f".{output.name}-*")):  # parts of runs with any arguments
                shutil.rmtree(left, ignore_errors=True)
            continue
        try:
            make(instances, output, rules=rules, seed=seed, num_proc=num_proc)
        except FileNotFoundError as error:
            raise ValueError(f"{error.filename} does not exist; see docs/datasets/coco.md for the files of COCO") from error
        except (ValueError, OSError) as error:
            raise ValueError(f"{instances}: {error}") from error
        print(f"wrote {output}", file=sys.stderr)
