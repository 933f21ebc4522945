"""gRefCOCO: expressions that mean any number of objects of a COCO picture, or none. See docs/datasets/grefcoco.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .refcoco import ReferBuilder, ReferConfig, ReferRecord

NO_TARGET = -1


@dataclass
class GRefCocoConfig(ReferConfig):
    """See `ReferConfig`."""

    split_by: ClassVar[str] = "unc"


class GRefCoco(ReferBuilder):
    """One segment per object that an expression means."""

    BUILDER_CONFIG_CLASS = GRefCocoConfig
    docs_page = "gRefCOCO"
    folder = "grefcoco"
    refs_name = "grefs"
    published_as = "json"

    def row(self, record: ReferRecord) -> dict[str, Any]:
        """The row, and how many objects are meant as its tag, crowds counted."""
        row = super().row(record)
        tag = {0: "no_target", 1: "one_target"}.get(len(row["segments"]), "several_targets")
        return {**row, "tags": [tag]}

    def annotation_ids(self, ref: Mapping[str, Any]) -> Sequence[int]:
        """Ids of the annotations that a ref means; none for [-1].

        Raises:
            ValueError: no list of ids, an empty one, or -1 beside other ids.
        """
        ids = ref["ann_id"]
        if ids == [NO_TARGET]:
            return ()
        if not isinstance(ids, list) or not ids or NO_TARGET in ids:
            raise ValueError(f"expected ann_id as a list of ids, or [{NO_TARGET}] where nothing is meant, got {ids!r:.80}")
        return ids
