"""Visual prompts for own data: every object that has a mask is prompted by a point, a box, a scribble or a mask."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...masks import bitmap_from_rle
from ...structures import REGION, RegionKind
from ..features import region_entry, sample_from_row
from ..visual_prompts import AMPLITUDE, draw_prompt

_PHOTO_SIDE = 480  # pixels of the shorter side, for which the amplitude of scribbles is made


def region_rows(row: Mapping[str, Any], names: Mapping[int, str], kinds: Sequence[RegionKind]) -> Iterator[dict[str, Any]]:
    """Rows in which the objects of a row are prompted by regions, by the rules of the paper; one row for each kind.

    An object that has no prompt of a kind is left out of that row, see `draw_prompt`. Crowds are left out. A row without any object gives
    none. Prompts depend on the ids of the row and the place of the object in it alone.

    Args:
        row: with any condition.
        names: id -> name of the categories of the dataset.
        kinds: kinds of the prompts.
    """
    entries = row.get("segments") or ()
    if all(entry.get("is_crowd") for entry in entries):
        return
    segments = sample_from_row(row, names).segments
    objects = [(index, bitmap_from_rle(segment.mask_rle)) for index, segment in enumerate(segments) if not segment.is_crowd]
    scale = min(1.0, min(row["image_size"]) / _PHOTO_SIDE)
    amplitude = (AMPLITUDE[0] * scale, AMPLITUDE[1] * scale)
    for kind in kinds:
        kept, regions = [], []
        for index, bitmap in objects:
            # Ids of own data may be anything, or absent.
            number = zlib.crc32(repr((row["image_id"], row.get("record_id"), index)).encode("utf-8", "surrogatepass"))
            region = draw_prompt(bitmap, kind, seed=0, annotation_id=number, amplitude=amplitude)
            if region is not None:
                regions.append(region_entry(region, segment=len(kept)))
                kept.append(entries[index])
        if regions:
            prompt = {"condition": REGION, "segments": kept, "regions": regions}
            yield {**row, "categories": None, "expressions": None, **prompt}
