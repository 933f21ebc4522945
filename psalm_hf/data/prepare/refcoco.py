"""Writes the refs of RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO as JSON, checked and counted.

    psalm prepare refcoco refer_seg
    psalm prepare refcoco refer_seg --format psalm_json --datasets refcoco grefcoco

`refer_seg` holds the folders refcoco, refcoco+, refcocog and grefcoco, or some of them, as downloaded. Formats:

  refs        refs(unc).p -> refs(unc).json, the same content. psalm_hf reads either, and prefers the JSON: a pickle can hold code, which
              this script and psalm_hf refuse to run, but other tools run it.
  psalm_json  a file refcoco/refcoco_val.json per split, as the released code of PSALM reads them: one item per ref, with its image,
              annotations and sentences. psalm_hf does not need them.

Every ref is checked against instances.json first. What exists is kept; --overwrite writes it again.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from ...writing import write_json

ReferDataset = Literal["refcoco", "refcoco+", "refcocog", "grefcoco"]
RELEASED_DIVISIONS = ("unc", "umd")  # the divisions into splits that the released files have
NO_ANNOTATION = -1


def find_refs(data_dir: Path, datasets: Sequence[str] | None) -> list[tuple[str, str, Path]]:
    """Dataset, division into splits and file of all refs; of a pickle and its JSON the one that is published: the pickle, of gRefCOCO the
    JSON, beside which old copies have a pickle with other ids."""
    found = {}
    for dataset in datasets or get_args(ReferDataset):
        name, kinds = ("grefs", ("p", "json")) if dataset == "grefcoco" else ("refs", ("json", "p"))  # the last is what is published
        for kind in kinds:
            for path in sorted((data_dir / dataset).glob(f"{name}(*).{kind}")):
                match = re.fullmatch(rf"{name}\((\w+)\)\.{kind}", path.name)
                if match:
                    found[dataset, match[1]] = path
        if datasets and not any(dataset == key[0] for key in found):
            raise FileNotFoundError(f"{data_dir / dataset}: no file refs(...).p or grefs(...).json; download it, see docs/datasets")
    if not found:
        names = ", ".join(get_args(ReferDataset))
        raise FileNotFoundError(f"{data_dir}: none of the folders {names} with refs; see docs/datasets/refcoco.md")
    return [(dataset, division, path) for (dataset, division), path in found.items()]


def read_refs(path: Path) -> list[dict[str, Any]]:
    from ..benchmarks.refer_pickle import check_refs, read_refer_pickle

    return read_refer_pickle(path) if path.suffix == ".p" else check_refs(_read_json(path), path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error}); download it again") from error


def annotation_ids(ref: dict[str, Any]) -> list[int]:
    """Ids of the annotations of a ref: one in RefCOCO, a list in gRefCOCO, none where nothing is meant."""
    ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    return [] if ids == [NO_ANNOTATION] else ids


class RefInstances:
    """Images and annotations of an `instances.json` by their ids."""

    def __init__(self, path: Path):
        content = _read_json(path)
        try:
            self.images = {image["id"]: image for image in content["images"]}
            self.annotations = {annotation["id"]: annotation for annotation in content["annotations"]}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: expected images and annotations with ids, as in COCO ({error}); download it again") from error

    def check(self, ref: dict[str, Any]) -> None:
        """Raises ValueError, KeyError or TypeError for a ref that cannot be read."""
        if ref["image_id"] not in self.images:
            raise ValueError(f"instances.json lists no image {ref['image_id']}")
        for annotation_id in annotation_ids(ref):
            if annotation_id not in self.annotations:
                raise ValueError(f"instances.json has no annotation {annotation_id}")
            image_id = self.annotations[annotation_id]["image_id"]
            if image_id != ref["image_id"]:
                raise ValueError(f"annotation {annotation_id} is of image {image_id}, but the ref of {ref['image_id']}")
        for sentence in ref["sentences"]:
            if not isinstance(sentence["sent"], str):
                raise ValueError(f"sentence {sentence['sent_id']} is {sentence['sent']!r:.80}, expected text")
        _ = ref["split"]

    def released_items(self, refs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Items, one per ref, with the fields that the released code reads."""
        return [
            {
                "image": self.images[ref["image_id"]]["file_name"],
                "image_info": self.images[ref["image_id"]],
                "instruction": ref["sentences"],
                "anns": [self.annotations[annotation_id] for annotation_id in annotation_ids(ref)],
                "new_img_id": number,
            }
            for number, ref in enumerate(refs)
        ]


def check_all(refs: list[dict[str, Any]], instances: RefInstances, path: Path) -> None:
    problems = []
    for position, ref in enumerate(tqdm(refs, desc=f"{path.parent.name}/{path.name}", unit=" refs", disable=None)):
        try:
            instances.check(ref)
        except (ValueError, KeyError, TypeError) as error:
            reason = f"the field {error} is missing" if isinstance(error, KeyError) else error
            problems.append(f"ref {ref.get('ref_id', f'at position {position}')}: {reason}")
    if problems:
        raise ValueError(f"{path}: {len(problems)} of {len(refs)} refs are broken, the first: {problems[0]}; download the files again")


def count(refs: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Numbers of refs and of sentences by split."""
    sentences = Counter()
    for ref in refs:
        sentences[ref["split"]] += len(ref["sentences"])
    return {split: {"refs": sum(ref["split"] == split for ref in refs), "sentences": number} for split, number in sentences.items()}


def count_table(rows: list[tuple[str, str, str, dict[str, int]]]) -> str:
    """Text table of the counts and how they compare with the published ones."""
    from ..benchmarks.refcoco import RefCoco, RefCocog, RefCocoPlus

    builders = (RefCoco, RefCocoPlus, RefCocog)
    published = {(builder.folder, builder.BUILDER_CONFIG_CLASS.split_by): builder.published for builder in builders}
    lines = [("dataset", "divided by", "split", "refs", "sentences", "published")]
    for dataset, division, split, counts in rows:
        expected = published.get((dataset, division), {}).get(split)
        verdict = "-" if expected is None else "equal" if counts == expected else f"{expected['refs']} / {expected['sentences']}"
        lines.append((dataset, division, split, str(counts["refs"]), str(counts["sentences"]), verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def prepare(
    folder: Path,
    *,
    datasets: Sequence[ReferDataset] | None = None,
    format: Literal["refs", "psalm_json"] = "refs",
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Checks each file of refs before anything of it is written, into `output` or beside it; default: all datasets that are there.

    Raises:
        ValueError, FileNotFoundError: a file that cannot be read, refs that are broken, or none.
    """
    output = output or folder
    written, kept, rows = 0, 0, []
    for dataset, files in groupby(find_refs(folder, datasets), key=itemgetter(0)):
        instances = RefInstances(folder / dataset / "instances.json")
        for _, division, path in files:
            refs = read_refs(path)
            check_all(refs, instances, path)
            counts = count(refs)
            rows += [(dataset, division, split, numbers) for split, numbers in counts.items()]
            contents = {}
            if format == "refs" and path.suffix == ".p":
                contents[f"{path.stem}.json"] = refs
            elif format == "psalm_json" and division in RELEASED_DIVISIONS:
                for split in counts:
                    contents[f"{dataset}_{split}.json"] = instances.released_items([ref for ref in refs if ref["split"] == split])
            for name, content in contents.items():
                target = output / dataset / name
                if target.exists() and not overwrite:
                    kept += 1
                else:
                    write_json(target, content)
                    written += 1
    print(count_table(rows))
    print(f"{written} files written, {kept} kept because they exist" + ("; --overwrite writes them again" if kept else ""))
