"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that mean one object of a COCO picture. See docs/datasets/refcoco.md."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from ..features import Category
from ..files import FileBuilder, FileConfig, mask
from .coco import instance_segment
from .refer_pickle import check_refs, read_refer_pickle
from .released_masks import RASTERISATIONS, released_mask

PROTOCOLS = ("per_expression", "merged")
SOURCES = ("refs", "psalm_json")
IMAGE_FOLDERS = (
    "images/mscoco/images/train2014",
    "images/mscoco/train2014",
    "images/train2014",
    "train2014",
    "train2017",
)


class ReferRecord(NamedTuple):
    """A ref, or an item of the released JSON, and those of its sentences that make one row; None where it has no list of sentences, so that
    it is reported as any broken record."""

    ref: Mapping[str, Any]
    sentences: Sequence[Mapping[str, Any]] | None


@dataclass
class ReferConfig(FileConfig):
    """Options of all datasets whose expressions mean objects of COCO.

    Attributes:
        protocol: "per_expression": a row per sentence; "merged": a row per ref, with all its sentences. None = merged in training, as
            PSALM was trained, per expression in evaluation, as other models are measured.
        source: "refs": `refs(...)` and `instances.json`; "psalm_json": the files of the released code, `<dataset>_<split>.json`.
        image_folder: below `data_dir`; None = the first of `IMAGE_FOLDERS` that exists. Where its name ends in 2017, the files are named as
            in COCO 2017.
        keep_empty: keep refs that mean nothing but crowds; None = for evaluation yes, for training no.
        rasterisation: of polygons. "exact": as pycocotools does; "released": as the released evaluation, with OpenCV.
    """

    protocol: str | None = None
    source: str = "refs"
    image_folder: str | None = None
    keep_empty: bool | None = None
    rasterisation: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rasterisation not in RASTERISATIONS:
            raise ValueError(f"{self.name}: unknown rasterisation {self.rasterisation!r}, expected one of {', '.join(RASTERISATIONS)}")
        if self.protocol not in (None, *PROTOCOLS):
            raise ValueError(f"{self.name}: unknown protocol {self.protocol!r}, expected one of {', '.join(PROTOCOLS)}")
        if self.source not in SOURCES:
            raise ValueError(f"{self.name}: unknown source {self.source!r}, expected one of {', '.join(SOURCES)}")


@dataclass
class RefCocoConfig(ReferConfig):
    """`split_by`: who divided the refs into splits, as in the name of the file."""

    divided_by: ClassVar[tuple[str, ...]] = ("unc", "google")
    split_by: str = "unc"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split_by not in self.divided_by:
            raise ValueError(f"{self.name}: unknown split_by {self.split_by!r}, expected one of {', '.join(self.divided_by)}")
        if self.source == "psalm_json" and self.split_by != self.divided_by[0]:
            raise ValueError(
                f"{self.name}: the files of source='psalm_json' have the splits of {self.divided_by[0]!r}, not of {self.split_by!r}; "
                f"load those with source='refs'"
            )


@dataclass
class RefCocoPlusConfig(RefCocoConfig):
    """The same; there is one division."""

    divided_by = ("unc",)


@dataclass
class RefCocogConfig(RefCocoConfig):
    """The same."""

    divided_by = ("umd", "google")
    split_by: str = "umd"


class ReferBuilder(FileBuilder):
    """What all datasets of expressions for objects of COCO have in common, gRefCOCO included. A subclass gives `folder`."""

    BUILDER_CONFIG_CLASS = ReferConfig
    folder: ClassVar[str]  # below `data_dir`; the first part of the names of the released JSON files too
    refs_name: ClassVar[str] = "refs"
    published_as: ClassVar[str] = "p"  # type of the file that can be downloaded

    def annotation_files(self) -> tuple[str, ...]:
        """The refs and the annotations of COCO, or the released file that has both."""
        return (self.refs_file,) if self.config.source == "psalm_json" else (self.refs_file, f"{self.folder}/instances.json")

    @property
    def refs_file(self) -> str:
        """The file of the refs, or of the items of the released code, below `data_dir`.

        Raises:
            FileNotFoundError: there is no released file for this split; the message names the splits that have one.
        """
        if self.config.source == "psalm_json":
            return self._released_file()
        stem = f"{self.folder}/{self.refs_name}({self.config.split_by})"
        existing = [f"{stem}.{kind}" for kind in ("json", "p") if os.path.isfile(self.path(f"{stem}.{kind}"))]
        return existing[0] if existing else f"{stem}.{self.published_as}"

    @cached_property
    def image_folder(self) -> str:
        """Where the pictures lie, below `data_dir`.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        folders = IMAGE_FOLDERS if self.config.image_folder is None else (self.config.image_folder.rstrip("/"),)
        for folder in folders:
            if os.path.isdir(self.path(folder)):
                return folder
        raise FileNotFoundError(
            f"{self.title}: the pictures of COCO train2014 are not in {self.config.data_dir}, looked for {', '.join(folders)}; "
            f"see the docs page {self.docs_page}"
        )

    def read_categories(self) -> tuple[Category, ...]:
        """None: expressions are prompted."""
        return ()

    def records(self) -> list[ReferRecord]:
        """Ref by ref in the order of the file; sentences that are blank are left out."""
        _ = self.image_folder  # where there is none, that is one error and not one per ref
        if self.config.source == "refs":  # here and not in `row`, so that processes that are forked share what was read
            self._table("images"), self._table("annotations")
        is_training = self.config.split == "train"
        is_merged = (self.config.protocol or ("merged" if is_training else "per_expression")) == "merged"
        keep_empty = not is_training if self.config.keep_empty is None else self.config.keep_empty
        records = []
        for ref in self._refs:
            if not keep_empty and self._means_only_crowds(ref):
                continue
            sentences = ref.get(self._sentences_key)
            if not isinstance(sentences, list):
                records.append(ReferRecord(ref, None))
                continue
            sentences = [sentence for sentence in sentences if not _is_blank(sentence)]
            if is_merged and sentences:
                records.append(ReferRecord(ref, sentences))
            elif not is_merged:
                records += [ReferRecord(ref, (sentence,)) for sentence in sentences]
        return records

    def counts(self) -> dict[str, int]:
        """Refs and sentences of the split."""
        sentences = [ref.get(self._sentences_key) for ref in self._refs]
        return {"refs": len(sentences), "sentences": sum(len(some) for some in sentences if isinstance(some, list))}

    def describe(self, record: ReferRecord) -> str:
        """The file, the ref and the sentence."""
        what = f"item {record.ref['new_img_id']}" if self.config.source == "psalm_json" else f"ref {record.ref['ref_id']}"
        if record.sentences and len(record.sentences) == 1 and "sent_id" in record.sentences[0]:
            what += f", sentence {record.sentences[0]['sent_id']}"
        return f"{self.refs_file}, {what}"

    def row(self, record: ReferRecord) -> dict[str, Any]:
        """The expressions of a record and what they mean. `record_id` is the ids of its sentences."""
        ref, sentences = record
        if sentences is None:
            raise ValueError(f"expected a list of sentences, got {ref[self._sentences_key]!r:.80}")
        if self.config.source == "refs":
            ref["split"]  # a ref without split would belong to every one
        image = self.image(ref)
        annotations = self.annotations(ref)
        size = image["height"], image["width"]
        read_mask = released_mask if self.config.rasterisation == "released" else mask
        return {
            **self.picture(self._image_file(image), size),
            "image_id": str(image["id"]),
            "condition": "sentence",
            "segments": [
                {**instance_segment(annotation, size, read_mask), "annotation_id": annotation["id"]} for annotation in annotations
            ],
            "expressions": [_text(sentence) for sentence in sentences],
            "record_id": ",".join(str(sentence["sent_id"]) for sentence in sentences),
        }

    def image(self, ref: Mapping[str, Any]) -> Mapping[str, Any]:
        """The entry of the image table that a ref is about. (`file_name` of a ref of RefCOCO is no existing file.)"""
        if self.config.source == "psalm_json":
            return ref["image_info"]
        image = self._table("images").get(ref["image_id"])
        if image is None:
            raise ValueError(f"{self.folder}/instances.json lists no image {ref['image_id']}")
        return image

    def annotations(self, ref: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The annotations of COCO that a ref means."""
        if self.config.source == "psalm_json":
            return ref["anns"]
        found = []
        for annotation_id in self.annotation_ids(ref):
            annotation = self._table("annotations").get(annotation_id)
            if annotation is None:
                raise ValueError(f"{self.folder}/instances.json has no annotation {annotation_id}")
            if annotation["image_id"] != ref["image_id"]:
                raise ValueError(f"annotation {annotation_id} is of image {annotation['image_id']}, but the ref of {ref['image_id']}")
            found.append(annotation)
        return found

    def annotation_ids(self, ref: Mapping[str, Any]) -> Sequence[int]:
        """Ids of the annotations that a ref means."""
        return (ref["ann_id"],)

    @property
    def _sentences_key(self) -> str:
        return "instruction" if self.config.source == "psalm_json" else "sentences"

    @property
    def _refs(self) -> list[Mapping[str, Any]]:
        """Of this split; refs that say none count for every split, where they are reported as broken."""
        if self.config.source == "psalm_json":
            return self._once(self.refs_file, lambda: self._checked(self.json(self.refs_file)))
        refs = self._once("all refs", self._read_refs)
        found = [ref for ref in refs if ref.get("split", self.config.split) == self.config.split]
        if not found:
            splits = ", ".join(dict.fromkeys(str(ref["split"]) for ref in refs)) or "none"
            raise ValueError(
                f"{self.title}: {self.refs_file} has no split {self.config.split!r}, it has {splits}; see the docs page {self.docs_page}"
            )
        return found

    def _read_refs(self) -> list[Mapping[str, Any]]:
        if self.refs_file.endswith(".json"):
            return self._checked(self.json(self.refs_file))
        try:
            return read_refer_pickle(self.path(self.refs_file))
        except ValueError as error:
            raise ValueError(f"{self.title}: {error}; see the docs page {self.docs_page}") from error

    def _checked(self, refs: Any) -> list[Mapping[str, Any]]:
        try:
            return check_refs(refs, self.path(self.refs_file))
        except ValueError as error:
            raise ValueError(f"{self.title}: {error}; see the docs page {self.docs_page}") from error

    def _table(self, key: str) -> Mapping[int, Mapping[str, Any]]:
        content = self.json(f"{self.folder}/instances.json", keys=("images", "annotations"))
        return self._once(f"{key} by id", lambda: {entry.get("id"): entry for entry in content[key]})

    def _means_only_crowds(self, ref: Mapping[str, Any]) -> bool:
        try:
            annotations = self.annotations(ref)
            return bool(annotations) and all(annotation.get("iscrowd") for annotation in annotations)
        except (ValueError, KeyError, TypeError, AttributeError):  # is kept, so that `row` says what is wrong
            return False

    def _image_file(self, image: Mapping[str, Any]) -> str:
        # COCO 2014 and 2017 have the same ids under other names.
        name = f"{image['id']:0>12}.jpg" if self.image_folder.endswith("2017") else image["file_name"]
        return f"{self.image_folder}/{name}"

    def _released_file(self) -> str:
        candidates = self._released_files(self.config.split)
        existing = [file for file in candidates if os.path.isfile(self.path(file))]
        if existing or not os.path.isdir(self.config.data_dir):
            return (existing or candidates)[0]
        splits = [
            split
            for split in ("train", "val", "test", "testA", "testB")
            if any(os.path.isfile(self.path(file)) for file in self._released_files(split))
        ]
        raise FileNotFoundError(
            f"{self.title}: there is none of {', '.join(candidates)} in {self.config.data_dir}; splits that have a file: "
            f"{', '.join(splits) or 'none'}; psalm prepare refcoco --format psalm_json writes them, see the docs page {self.docs_page}"
        )

    def _released_files(self, split: str) -> tuple[str, str, str]:
        # The documentation of the released code, its script, and the archive that can be downloaded have different names.
        return f"{self.folder}/{self.folder}_{split}.json", f"{self.folder}/{split}_psalm.json", f"{self.folder}_{split}.json"


class RefCoco(ReferBuilder):
    """One object per ref; players of a game saw where it is."""

    BUILDER_CONFIG_CLASS = RefCocoConfig
    docs_page = "RefCOCO"
    folder = "refcoco"
    published = {
        "train": {"refs": 42404, "sentences": 120624},
        "val": {"refs": 3811, "sentences": 10834},
        "testA": {"refs": 1975, "sentences": 5657},
        "testB": {"refs": 1810, "sentences": 5095},
    }

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.config.split_by != self.config.divided_by[0]:
            self.published = {}  # known for the first division only


class RefCocoPlus(RefCoco):
    """One object per ref; words of place were not allowed."""

    BUILDER_CONFIG_CLASS = RefCocoPlusConfig
    folder = "refcoco+"
    published = {
        "train": {"refs": 42278, "sentences": 120191},
        "val": {"refs": 3805, "sentences": 10758},
        "testA": {"refs": 1975, "sentences": 5726},
        "testB": {"refs": 1798, "sentences": 4889},
    }


class RefCocog(RefCoco):
    """One object per ref; longer expressions."""

    BUILDER_CONFIG_CLASS = RefCocogConfig
    folder = "refcocog"
    published = {
        "train": {"refs": 42226, "sentences": 80512},
        "val": {"refs": 2573, "sentences": 4896},
        "test": {"refs": 5023, "sentences": 9602},
    }


def _is_blank(sentence: Any) -> bool:
    text = sentence.get("sent") if isinstance(sentence, Mapping) else None
    return isinstance(text, str) and not text.strip()


def _text(sentence: Mapping[str, Any]) -> str:
    if not isinstance(sentence["sent"], str):
        raise ValueError(f"expected the text of sentence {sentence.get('sent_id')}, got {sentence['sent']!r:.80}")
    return sentence["sent"]
