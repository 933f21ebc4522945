"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that mean one object of an image of COCO. See docs/datasets/refcoco.md."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

from ...structures import SENTENCE
from ..files import FileBuilder, KeepEmptyConfig, mask
from .coco import instance_segment
from .refer_pickle import check_refs, read_refer_pickle
from .released_masks import Rasterisation, released_mask

IMAGE_FOLDERS = ("images/mscoco/images/train2014", "images/mscoco/train2014", "images/train2014", "train2014", "train2017")


class ReferRecord(NamedTuple):
    """Ref, or item of the released JSON, and those of its sentences that make one row. `sentences` is None if it has no list of them, which
    makes it a broken record."""

    ref: Mapping[str, Any]
    sentences: Sequence[Mapping[str, Any]] | None


@dataclass
class ReferConfig(KeepEmptyConfig):
    """Options of all datasets whose expressions mean objects of COCO. (Refs that mean nothing but crowds are empty.)

    Attributes:
        protocol: "per_expression": a row per sentence; "merged": a row per ref, with all its sentences. None = merged in training, as
            PSALM was trained, per expression in evaluation, as other models are evaluated.
        source: "refs": `refs(...)` and `instances.json`; "psalm_json": the files of the released code, `<dataset>_<split>.json`.
        image_folder: below `data_dir`; None = the first of `IMAGE_FOLDERS` that exists. If its name ends in 2017, the files are named as
            in COCO 2017.
        rasterisation: of polygons. "exact": as pycocotools does; "released": as the released evaluation, with OpenCV.
        split_by: the people who divided the refs into splits, as in the name of the file.
    """

    protocol: Literal["per_expression", "merged", None] = None
    source: Literal["refs", "psalm_json"] = "refs"
    image_folder: str | None = None
    rasterisation: Rasterisation = "exact"
    split_by: ClassVar[str] = "unc"


@dataclass
class RefCocoConfig(ReferConfig):
    """Options of RefCOCO."""

    split_by: Literal["unc", "google"] = "unc"

    def __post_init__(self) -> None:
        super().__post_init__()
        published = type(self).split_by
        if self.source == "psalm_json" and self.split_by != published:
            raise ValueError(
                f"{self.name}: the files of source='psalm_json' have the splits of {published!r}, not of {self.split_by!r}; "
                f"load those with source='refs'"
            )


@dataclass
class RefCocoPlusConfig(RefCocoConfig):
    """Options of RefCOCO+, which was divided once."""

    split_by: Literal["unc"] = "unc"


@dataclass
class RefCocogConfig(RefCocoConfig):
    """Options of RefCOCOg."""

    split_by: Literal["umd", "google"] = "umd"


class ReferBuilder(FileBuilder):
    """Base of all datasets of expressions for objects of COCO, gRefCOCO included.

    Attributes:
        folder: below `data_dir`; it begins the names of the released JSON files too.
        refs_name: begins the name of the file of the refs.
        published_as: ending of the file of the refs that can be downloaded.
    """

    BUILDER_CONFIG_CLASS = ReferConfig
    folder: ClassVar[str]
    refs_name: ClassVar[str] = "refs"
    published_as: ClassVar[str] = "p"

    def annotation_files(self) -> tuple[str, ...]:
        return (self.file,) if self.config.source == "psalm_json" else (self.file, f"{self.folder}/instances.json")

    @property
    def file(self) -> str:
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
        """Folder of the images, below `data_dir`.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        folders = IMAGE_FOLDERS if self.config.image_folder is None else (self.config.image_folder.rstrip("/"),)
        for folder in folders:
            if os.path.isdir(self.path(folder)):
                return folder
        where = f"{self.config.data_dir}, looked for {', '.join(folders)}"
        raise FileNotFoundError(self.message(f"the images of COCO train2014 are not in {where}"))

    def records(self) -> list[ReferRecord]:
        """Refs in the order of the file; blank sentences are left out."""
        _ = self.image_folder  # if there is none, that is one error and not one per ref
        if self.config.source == "refs":  # here and not in `row`, so that processes that are forked share what was read
            self._table("images"), self._table("annotations")
        is_merged = (self.config.protocol or ("merged" if self.config.is_training else "per_expression")) == "merged"
        records = []
        for ref in self._refs:
            if not self.config.keeps_empty and self._means_only_crowds(ref):
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
        """Numbers of refs and sentences of the split."""
        sentences = [ref.get(self._sentences_key) for ref in self._refs]
        return {"refs": len(sentences), "sentences": sum(len(some) for some in sentences if isinstance(some, list))}

    def describe(self, record: ReferRecord) -> str:
        what = f"item {record.ref['new_img_id']}" if self.config.source == "psalm_json" else f"ref {record.ref['ref_id']}"
        if record.sentences and len(record.sentences) == 1 and "sent_id" in record.sentences[0]:
            what += f", sentence {record.sentences[0]['sent_id']}"
        return f"{self.file}, {what}"

    def row(self, record: ReferRecord) -> dict[str, Any]:
        """Row of a record; its `record_id` is the ids of the sentences."""
        ref, sentences = record
        if sentences is None:
            raise ValueError(f"expected a list of sentences, got {ref[self._sentences_key]!r:.80}")
        if self.config.source == "refs":
            ref["split"]  # a ref without split would belong to every one
        image = self._image_entry(ref)
        annotations = self.annotations(ref)
        size = image["height"], image["width"]
        read_mask = released_mask if self.config.rasterisation == "released" else mask
        return {
            **self.image(self._image_file(image), size),
            "image_id": str(image["id"]),
            "condition": SENTENCE,
            "segments": [
                {**instance_segment(annotation, size, read_mask), "annotation_id": annotation["id"]} for annotation in annotations
            ],
            "expressions": [_text(sentence) for sentence in sentences],
            "record_id": ",".join(str(sentence["sent_id"]) for sentence in sentences),
        }

    def _image_entry(self, ref: Mapping[str, Any]) -> Mapping[str, Any]:
        """Entry of the image of a ref in the table. (`file_name` of a ref of RefCOCO is no existing file.)"""
        if self.config.source == "psalm_json":
            return ref["image_info"]
        image = self._table("images").get(ref["image_id"])
        if image is None:
            raise ValueError(f"{self.folder}/instances.json lists no image {ref['image_id']}")
        return image

    def annotations(self, ref: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Annotations of COCO that a ref means."""
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
        """Refs of this split, and those without a split, which are broken in every one."""
        if self.config.source == "psalm_json":
            return self._once("all items", self._read_refs)
        refs = self._once("all refs", self._read_refs)
        found = [ref for ref in refs if ref.get("split", self.config.split) == self.config.split]
        if not found:
            splits = ", ".join(dict.fromkeys(str(ref["split"]) for ref in refs)) or "none"
            raise ValueError(self.message(f"{self.file} has no split {self.config.split!r}, it has {splits}"))
        return found

    def _read_refs(self) -> list[Mapping[str, Any]]:
        path = self.path(self.file)
        content = self.json(self.file) if path.endswith(".json") else None
        try:
            return read_refer_pickle(path) if content is None else check_refs(content, path)
        except ValueError as error:
            raise ValueError(self.message(str(error))) from error

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
        splits = [split for split in RefCoco.splits if any(os.path.isfile(self.path(file)) for file in self._released_files(split))]
        absent = f"there is none of {', '.join(candidates)} in {self.config.data_dir}"
        found = f"splits that have a file: {', '.join(splits) or 'none'}"
        raise FileNotFoundError(self.message(f"{absent}; {found}; psalm prepare refcoco --format psalm_json writes them"))

    def _released_files(self, split: str) -> tuple[str, str, str]:
        # The documentation of the released code, its script, and the archive that can be downloaded have different names.
        return f"{self.folder}/{self.folder}_{split}.json", f"{self.folder}/{split}_psalm.json", f"{self.folder}_{split}.json"


def published_refs(**splits: tuple[int, int]) -> dict[str, dict[str, int]]:
    """Numbers of refs and of sentences by split, as `counts` gives them."""
    return {split: {"refs": refs, "sentences": sentences} for split, (refs, sentences) in splits.items()}


class RefCoco(ReferBuilder):
    """RefCOCO: one object per ref; players of a game saw where it is."""

    BUILDER_CONFIG_CLASS = RefCocoConfig
    summary = "RefCOCO: expressions, each for one object of an image of COCO"
    docs_page = "RefCOCO"
    splits = ("train", "val", "test", "testA", "testB")
    folder = "refcoco"
    published = published_refs(train=(42404, 120624), val=(3811, 10834), testA=(1975, 5657), testB=(1810, 5095))

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.config.split_by != type(self.config).split_by:
            self.published = {}  # known for the division that is the default


class RefCocoPlus(RefCoco):
    """RefCOCO+: one object per ref; words of place were not allowed."""

    BUILDER_CONFIG_CLASS = RefCocoPlusConfig
    summary = "RefCOCO+: the same without words of place"
    folder = "refcoco+"
    published = published_refs(train=(42278, 120191), val=(3805, 10758), testA=(1975, 5726), testB=(1798, 4889))


class RefCocog(RefCoco):
    """RefCOCOg: one object per ref; longer expressions."""

    BUILDER_CONFIG_CLASS = RefCocogConfig
    summary = "RefCOCOg: longer expressions"
    folder = "refcocog"
    published = published_refs(train=(42226, 80512), val=(2573, 4896), test=(5023, 9602))


def _is_blank(sentence: Any) -> bool:
    text = sentence.get("sent") if isinstance(sentence, Mapping) else None
    return isinstance(text, str) and not text.strip()


def _text(sentence: Mapping[str, Any]) -> str:
    if not isinstance(sentence["sent"], str):
        raise ValueError(f"expected the text of sentence {sentence.get('sent_id')}, got {sentence['sent']!r:.80}")
    return sentence["sent"]
