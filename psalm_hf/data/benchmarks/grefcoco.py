"""gRefCOCO: expressions that mean any number of objects of an image of COCO, or none. See docs/datasets/grefcoco.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .refcoco import ReferBuilder, ReferRecord

_NO_TARGET = -1


class GRefCoco(ReferBuilder):
    """gRefCOCO, with one segment per object that an expression means."""

    summary = "gRefCOCO: expressions for any number of objects, or for none"
    splits = ("train", "val", "testA", "testB")
    docs_page = "gRefCOCO"
    folder = "grefcoco"
    refs_name = "grefs"
    published_as = "json"

    def row(self, record: ReferRecord) -> dict[str, Any]:
        """Row with one tag: the number of objects that are meant, crowds counted."""
        row = super().row(record)
        tag = {0: "no_target", 1: "one_target"}.get(len(row["segments"]), "several_targets")
        return {**row, "tags": [tag]}

    def annotation_ids(self, ref: Mapping[str, Any]) -> Sequence[int]:
        """Ids of the annotations that a ref means; () for [-1].

        Raises:
            ValueError: no list of ids, an empty one, or -1 beside other ids.
        """
        ids = ref["ann_id"]
        if ids == [_NO_TARGET]:
            return ()
        if not isinstance(ids, list) or not ids or _NO_TARGET in ids:
            raise ValueError(f"expected ann_id as a list of ids, or [{_NO_TARGET}] where nothing is meant, got {ids!r:.80}")
        return ids
