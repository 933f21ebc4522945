"""Requests of the HTTP service: what one may hold, how large it may be, and how it is read. Needs pydantic, and nothing of Ray.

A request is bytes of strangers. An image is in it, as base64: no URL and no path is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from ..bounded_files import open_image_file
from ..model.image_processing_psalm import load_image


@dataclass(frozen=True)
class ServiceLimits:
    """Greatest sizes of a request.

    Attributes:
        body_bytes: of the whole request; base64 takes four bytes for three of the image.
        pixels: of the image.
        categories: names of them.
        prompts: expressions, regions, messages of a conversation; sentences of one expression.
        points: of one region.
        text: characters of a name, an expression or a message.
        runs: numbers of an RLE, or characters of a compressed one.
        mask_pixels: prompts times pixels, because each expression and region gets a mask of the image's size.
        found_pixels: masks times pixels of an answer about categories or instances, of which nobody knows how many there are before
            the model has looked.
        new_tokens: of the answer to a question.
        problems: that a refusal names.
    """

    body_bytes: int = 32 * 2**20
    pixels: int = 16_000_000
    categories: int = 2000
    prompts: int = 64
    points: int = 1000
    text: int = 2000
    runs: int = 2_000_000
    mask_pixels: int = 2**28
    found_pixels: int = 2**30
    new_tokens: int = 512
    problems: int = 10


SERVICE_LIMITS = ServiceLimits()
# Other formats of Pillow are old or rare, and few have looked for holes in their decoders. MPO is what some cameras call their JPEG.
IMAGE_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF")
MASK_FORMS = ("rle", "polygons", "png", "label_map")


class RefusedRequest(ValueError):
    """A request that is not answered.

    Args:
        status: of HTTP.
        problems: (field, what is wrong with it) pairs; the field is "" where it is the whole request.
        retry_after: seconds after which it may be asked again; None = asking again does not help.
    """

    def __init__(self, status: int, *problems: tuple[str, str], retry_after: int | None = None):
        super().__init__("; ".join(f"{field}: {message}" if field else message for field, message in problems))
        self.status, self.problems, self.retry_after = status, problems, retry_after


class _Strict(BaseModel):
    """Refuses unknown fields, other types than those that are named, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


_Text = Annotated[str, Field(min_length=1, max_length=SERVICE_LIMITS.text)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Point = tuple[float, float]
_Points = Annotated[list[_Point], Field(min_length=1, max_length=SERVICE_LIMITS.points)]
_Side = Annotated[int, Field(ge=1, le=SERVICE_LIMITS.pixels)]


class RunLengths(_Strict):
    """COCO RLE of a mask of the image's size."""

    size: tuple[_Side, _Side] = Field(description="[height, width]")
    counts: Annotated[str, Field(max_length=SERVICE_LIMITS.runs)] | Annotated[list[int], Field(max_length=SERVICE_LIMITS.runs)]


class DrawnRegion(_Strict):
    """A point, points with labels, a box, a scribble or a mask; coordinates are x, y in pixels of the image, upright."""

    point: _Point | None = None
    points: _Points | None = None
    labels: Annotated[list[Literal[0, 1]], Field(max_length=SERVICE_LIMITS.points)] | None = None
    box: tuple[float, float, float, float] | None = Field(default=None, description="x0, y0, x1, y1 along the edges of pixels")
    scribble: _Points | None = None
    mask: RunLengths | None = None


class ConversationMessage(_Strict):
    """One turn of a conversation; the last one is the user's."""

    role: Literal["system", "user", "assistant"]
    content: _Text


def _number(value: Any) -> str:
    """Tag of a field that takes one prompt or a list: without it, what is wrong in a list would also be told as being no single prompt."""
    return "one" if isinstance(value, str | dict | BaseModel) else "several"


_Sentences = Annotated[list[_Text], Field(min_length=1, max_length=SERVICE_LIMITS.prompts)]
_Expressions = Annotated[list[_Text | _Sentences], Field(min_length=1, max_length=SERVICE_LIMITS.prompts)]
_Regions = Annotated[list[DrawnRegion], Field(min_length=1, max_length=SERVICE_LIMITS.prompts)]


class PredictRequest(_Strict):
    """An image and one prompt: categories, expressions, regions or a question. All else are options of `PsalmPredictor.predict`."""

    image: Annotated[str, Field(min_length=1)] = Field(description="bytes of a PNG, JPEG, WebP, GIF, BMP or TIFF file as base64")
    categories: Annotated[list[_Text], Field(min_length=1, max_length=SERVICE_LIMITS.categories)] | None = None
    expressions: Annotated[Annotated[_Text, Tag("one")] | Annotated[_Expressions, Tag("several")], Discriminator(_number)] | None = None
    regions: Annotated[Annotated[DrawnRegion, Tag("one")] | Annotated[_Regions, Tag("several")], Discriminator(_number)] | None = None
    question: _Text | Annotated[list[ConversationMessage], Field(min_length=1, max_length=SERVICE_LIMITS.prompts)] | None = None
    task: Literal["panoptic", "semantic", "instance"] | None = Field(default=None, description="of categories; default panoptic")
    stuff: Annotated[list[_Text], Field(max_length=SERVICE_LIMITS.categories)] = []
    instances: bool = False
    threshold: _Share | None = None
    mask_threshold: _Share = 0.5
    overlap_mask_area_threshold: _Share = 0.8
    no_target_threshold: _Share | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=SERVICE_LIMITS.new_tokens)] = 128
    masks: Literal["rle", "polygons", "png", "label_map"] = Field(
        default="rle", description="form of the masks; label_map: one PNG for all, of panoptic and semantic categories only"
    )

    @model_validator(mode="after")
    def _check_prompt(self) -> PredictRequest:
        given = [name for name in ("categories", "expressions", "regions", "question") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected one kind of prompt, got {' and '.join(given) or 'none'}; give one of categories, expressions, regions, question"
            )
        is_map = self.categories is not None and self.task != "instance" and not self.instances
        if self.masks == "label_map" and not is_map:
            raise ValueError("masks: a label_map has one segment per pixel, as panoptic and semantic categories have; ask for png")
        return self


@dataclass(frozen=True, eq=False)
class AskedPrompt:
    """A request that was read.

    Attributes:
        image: RGB, upright.
        image_key: equal for equal files.
        prompt: arguments of `PsalmPredictor.predict`.
        masks: the form of the masks in the answer, one of `MASK_FORMS`.
    """

    image: Image.Image
    image_key: bytes
    prompt: Mapping[str, Any]
    masks: str

    @property
    def is_question(self) -> bool:
        return "question" in self.prompt

    @property
    def num_rows(self) -> int:
        """Rows of the model's batch that it takes, at least."""
        return len(self.prompt.get("expressions", [None]))


def read_request(body: bytes) -> AskedPrompt:
    """Reads a request.

    Args:
        body: JSON of a `PredictRequest`.

    Raises:
        RefusedRequest: status 413 for what is too large, 422 for what is wrong otherwise. Nothing of the request is repeated in it but
            names of unknown fields.
    """
    if len(body) > SERVICE_LIMITS.body_bytes:
        raise too_large()
    try:
        request = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise RefusedRequest(422, *_problems(error)) from None
    image = _read_image(request.image)
    prompt = request.model_dump(exclude={"image", "masks"}, exclude_none=True)
    for name in ("expressions", "regions"):
        if isinstance(prompt.get(name), str | dict):
            prompt[name] = [prompt[name]]
    number = len(prompt.get("expressions") or prompt.get("regions") or ())
    if number * image.width * image.height > SERVICE_LIMITS.mask_pixels:
        raise RefusedRequest(
            413,
            (
                "regions" if "regions" in prompt else "expressions",
                f"{number} masks of {image.width} x {image.height} pixels, and at most {SERVICE_LIMITS.mask_pixels} pixels are answered; "
                "divide them among several requests, or make the image smaller",
            ),
        )
    return AskedPrompt(image, hashlib.sha256(request.image.encode()).digest(), prompt, request.masks)


def too_large() -> RefusedRequest:
    """The refusal of a request with too many bytes."""
    return RefusedRequest(
        413, ("", f"the request has more than {SERVICE_LIMITS.body_bytes} bytes, and no more are read; make the image smaller")
    )


def _read_image(text: str) -> Image.Image:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedRequest(422, ("image", "expected the bytes of an image as base64; URLs and paths are not read")) from None
    file = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_image_file(file) as opened:
                form, (width, height) = opened.format, opened.size
    except Image.DecompressionBombError:
        raise _too_many_pixels("far more") from None
    except Exception:  # of a decoder on bytes of strangers: whatever it raises, this is no image
        raise RefusedRequest(422, ("image", "is no image that can be read; give the bytes of a PNG or JPEG file")) from None
    if form not in IMAGE_FORMATS:
        raise RefusedRequest(422, ("image", f"is of the format {form}, expected one of {', '.join(IMAGE_FORMATS)}"))
    if width * height > SERVICE_LIMITS.pixels:
        raise _too_many_pixels(f"{width} x {height}")
    file.seek(0)
    try:
        return load_image(file)
    except Exception:  # see above
        raise RefusedRequest(422, ("image", "is damaged, not all of its pixels can be read; save it anew as PNG or JPEG")) from None


def _too_many_pixels(number: str) -> RefusedRequest:
    return RefusedRequest(413, ("image", f"has {number} pixels, and at most {SERVICE_LIMITS.pixels} are taken; make it smaller"))


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    """(field, message) of each; the value that came, which may be the whole image, is left out."""
    found: dict[str, str] = {}
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        is_unknown = one["type"] == "extra_forbidden"
        parts = [part for part in one["loc"] if isinstance(part, int) or part in _field_names()]  # without the branches of a union
        if is_unknown:
            parts = [*parts, f"{one['loc'][-1]:.80}"] if one["loc"][-1] not in parts[-1:] else parts
        field = ".".join(map(str, parts))
        found.setdefault(field, "there is no such field" if is_unknown else one["msg"].removeprefix("Value error, "))
    problems = list(found.items())
    more = len(problems) - SERVICE_LIMITS.problems
    return problems if more <= 0 else [*problems[: SERVICE_LIMITS.problems], ("", f"and {more} more")]


@cache
def _field_names() -> frozenset[str]:
    return frozenset(name for model in (PredictRequest, DrawnRegion, RunLengths, ConversationMessage) for name in model.model_fields)
