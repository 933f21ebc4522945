"""The HTTP interface of the service as a FastAPI application: POST /predict, GET /health, GET /docs. Needs fastapi, and nothing of Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from .. import __version__
from ..result import PsalmResult
from .answer import PredictAnswer, answer_of
from .request import SERVICE_LIMITS, AskedPrompt, PredictRequest, RefusedRequest, read_request, too_large

RETRY_AFTER = 1  # seconds
_SCHEMAS = "#/components/schemas/"


class ServedModel(Protocol):
    """The model behind the interface.

    Attributes:
        checkpoint: how it is called.
        device: it computes on.
        door: counts requests.
        timeout_s: seconds that a request may take, its reading included.
    """

    checkpoint: str
    device: str
    door: RequestDoor
    timeout_s: float

    async def predict(self, asked: AskedPrompt) -> PsalmResult | RefusedRequest: ...


class RequestDoor:
    """Counts the requests that are inside, and lets no more in than there may be.

    Args:
        most: requests that are read, wait or are answered at the same time.
    """

    def __init__(self, most: int):
        self.most, self.inside = most, 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside for one request.

        Raises:
            RefusedRequest: status 503.
        """
        if self.inside >= self.most:
            raise RefusedRequest(503, ("", f"{self.most} requests wait already; ask again later"), retry_after=RETRY_AFTER)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


class RefusalProblem(BaseModel):
    """Reason why a request is refused."""

    field: str = Field(description='such as "regions.0.box"; "" = the whole request')
    message: str


class RequestRefusal(BaseModel):
    """Answer to a request that is refused."""

    detail: list[RefusalProblem]


class ServiceHealth(BaseModel):
    """State of the service. It answers when the model is loaded, and not before."""

    loaded: bool
    checkpoint: str
    version: str = Field(description="of psalm_hf")
    device: str
    inside: int = Field(description="requests that are read, wait or are answered")


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": RequestRefusal, "description": text}
    for status, text in {
        408: "The request did not arrive in time",
        413: "Too many bytes, pixels or masks",
        415: "Not application/json",
        422: "Malformed, refused by the model's processor, or more masks are found than an answer may hold",
        500: "The model failed",
        503: "Too many requests wait; Retry-After says when to ask again",
        504: "The time of the request is over",
    }.items()
}


def build_api(find_model: Callable[[], ServedModel]) -> FastAPI:
    """The application.

    Args:
        find_model: called for every request.
    """
    api = FastAPI(title="PSALM", version=__version__, description="Segments what a prompt asks for; answers questions about an image.")

    @api.exception_handler(RefusedRequest)
    async def refuse(request: Request, refused: RefusedRequest) -> JSONResponse:
        headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
        problems = [{"field": field, "message": message} for field, message in refused.problems]
        return JSONResponse({"detail": problems}, refused.status, headers)

    body = {"required": True, "content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}{PredictRequest.__name__}"}}}}

    @api.post("/predict", response_model=PredictAnswer, responses=_REFUSALS, openapi_extra={"requestBody": body})
    async def predict(request: Request) -> Response:
        """An image and one prompt in, segments or text out."""
        return await _predict(find_model(), request)

    @api.get("/health")
    async def health() -> ServiceHealth:
        """State of the service."""
        model = find_model()
        return ServiceHealth(loaded=True, checkpoint=model.checkpoint, version=__version__, device=model.device, inside=model.door.inside)

    describe = api.openapi

    def openapi() -> dict[str, Any]:
        # A body that is declared the usual way is read whole and parsed before its size and type are looked at; so it is added here.
        schema = describe()
        request = PredictRequest.model_json_schema(ref_template=_SCHEMAS + "{model}")
        schema["components"]["schemas"] |= request.pop("$defs") | {PredictRequest.__name__: request}
        return schema

    api.openapi = openapi  # type: ignore[method-assign]
    return api


async def _predict(model: ServedModel, request: Request) -> Response:
    # A page of another origin may send any other type to this address without asking the browser's user.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedRequest(415, ("", "expected Content-Type: application/json"))
    with model.door.entered():
        late = 408, "the request did not arrive"
        try:
            async with asyncio.timeout(model.timeout_s):
                body = await _read_body(request)
                late = 504, "the request was not answered"
                asked = await asyncio.to_thread(read_request, body)
                del body
                result = await model.predict(asked)
                if isinstance(result, RefusedRequest):
                    raise result
                content = await asyncio.to_thread(_as_json, result, asked.masks, model.checkpoint)
        except TimeoutError:
            raise RefusedRequest(late[0], ("", f"{late[1]} within {model.timeout_s:g} s")) from None
    return Response(content, media_type="application/json")


async def _read_body(request: Request) -> bytes:
    try:
        promised = int(request.headers.get("content-length", 0))
    except ValueError:
        promised = 0  # it is counted below
    if promised > SERVICE_LIMITS.body_bytes:
        raise too_large()
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > SERVICE_LIMITS.body_bytes:
            raise too_large()
    return bytes(body)


def _as_json(result: PsalmResult, masks: str, checkpoint: str) -> bytes:
    return answer_of(result, masks, checkpoint).model_dump_json(exclude_none=True).encode("utf-8")
