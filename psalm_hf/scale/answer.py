"""Answers of the HTTP service: a result in JSON, with masks in the form that was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from ..masks import polygons_from_bitmap
from ..result import PsalmResult, base64_png


class AnsweredSegment(BaseModel):
    """One segment; of `rle`, `polygons` and `png` it has the one that was asked for, with a label map none."""

    label: str
    label_id: int = Field(description="position of the label in the prompt, from 0")
    score: float | None = Field(description="0 to 1; null in a semantic map")
    box: tuple[int, int, int, int] = Field(description="x0, y0, x1, y1 along the edges of pixels")
    area: int = Field(description="pixels")
    rle: dict[str, Any] | None = Field(default=None, description="COCO RLE, compressed: size [height, width], counts")
    polygons: list[list[int]] | None = Field(default=None, description="x0, y0, x1, y1, ... of each; their union is exactly the mask")
    png: str | None = Field(default=None, description="PNG as base64, black and white")


class PredictAnswer(BaseModel):
    """Result of a request; fields that do not apply are left out."""

    checkpoint: str
    task: str = Field(description="panoptic, semantic, instance, referring, interactive or conversation")
    image_size: tuple[int, int] = Field(description="height, width of the image, upright")
    segments: list[AnsweredSegment]
    label_map: str | None = Field(
        default=None, description="PNG as base64; 0 = nothing, n = the segment that is the n-th of the list; 16 bits for more than 255"
    )
    absent: dict[str, float] | None = Field(default=None, description="expressions that mean nothing -> score that comes closest")
    text: str | None = Field(default=None, description="answer to a question")
    note: str | None = Field(default=None, description="what a user must know about this result")


def answer_of(result: PsalmResult, masks: str, checkpoint: str) -> PredictAnswer:
    """The answer of a result.

    Args:
        masks: form of the masks, one of `MASK_FORMS`.
        checkpoint: how it is called; a path of this machine is nothing for strangers.
    """
    record = result.as_record()
    segments = []
    for segment, mask in zip(record.get("segments", ()), result.masks, strict=True):
        form: dict[str, Any] = {}
        if masks == "rle":
            form = {"rle": segment["mask"]}
        elif masks == "polygons":
            form = {"polygons": polygons_from_bitmap(mask)}
        elif masks == "png":
            form = {"png": base64_png(Image.fromarray(mask))}
        columns = {name: segment[name] for name in ("label", "label_id", "score", "box", "area")}
        segments.append(AnsweredSegment(**columns, **form))
    return PredictAnswer(
        checkpoint=checkpoint,
        task=record["task"],
        image_size=(result.image.height, result.image.width),
        segments=segments,
        label_map=base64_png(_label_map(result)) if masks == "label_map" else None,
        absent=dict(result.absent) if "no_target" in record else None,
        text=result.text,
        note=result.note,
    )


def _label_map(result: PsalmResult) -> Image.Image:
    dtype = np.uint8 if len(result) < 256 else np.uint16
    numbers = np.zeros(result.masks.shape[1:], dtype=dtype)
    for number, mask in enumerate(result.masks, 1):
        numbers[mask] = number
    return Image.fromarray(numbers)
