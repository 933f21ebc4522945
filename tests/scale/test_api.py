"""The HTTP interface, called as a web server calls it, with a model that the test itself plays. Nothing here needs Ray."""

import asyncio
import json
import threading

import numpy as np
import pytest

pytest.importorskip("fastapi")

from psalm_hf import __version__
from psalm_hf.result import Prompt, PsalmResult
from psalm_hf.scale.api import RequestDoor, build_api
from psalm_hf.scale.request import SERVICE_LIMITS, RefusedRequest
from tests.scale.test_request import IMAGE

pytestmark = pytest.mark.engines  # with those that need the extra scale, because FastAPI comes with it


class PlayedModel:
    """Finds the whole image for every prompt, when it may."""

    checkpoint, device = "played", "cpu"

    def __init__(self, most=4, timeout_s=20):
        self.door, self.timeout_s = RequestDoor(most), timeout_s
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0

    async def predict(self, asked):
        self.asked += 1
        await self.may_answer.wait()
        if asked.prompt.get("expressions") == ["refuse"]:
            return RefusedRequest(422, ("", "the model's own words"))
        names = tuple(asked.prompt["expressions"])
        masks = np.ones((1, asked.image.height, asked.image.width), dtype=bool)
        return PsalmResult(asked.image, Prompt("sentence", names), masks, np.ones(1), np.zeros(1, dtype=np.int64))


async def call(model, path="/predict", content=b"", headers=(("content-type", "application/json"),), method="POST", pieces=None):
    """(status, headers, content) of a request; `pieces` are what arrives of its body, None = nothing more comes."""
    arriving = [content] if pieces is None else list(pieces)
    sent = []

    async def receive():
        if not arriving or arriving[0] is None:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": arriving.pop(0), "more_body": bool(arriving)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 9),
        "scheme": "http",
    }
    await build_api(lambda: model)(scope, receive, send)
    answer = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answer, b"".join(message.get("body", b"") for message in sent[1:]), arriving


def ask(*names):
    return json.dumps({"image": IMAGE, "expressions": list(names)}).encode()


def problems(content):
    return [(one["field"], one["message"]) for one in json.loads(content)["detail"]]


def test_a_request_is_answered():
    async def run():
        status, headers, content, _ = await call(PlayedModel(), content=ask("all"))
        assert (status, headers["content-type"]) == (200, "application/json")
        (segment,) = json.loads(content)["segments"]
        assert (segment["label"], segment["area"], segment["box"]) == ("all", 30, [0, 0, 5, 6])

    asyncio.run(run())


def test_refusals_have_the_status_and_the_words_of_their_reason():
    async def run():
        model = PlayedModel()
        status, _, content, _ = await call(model, content=b'{"image": 3}')
        assert status == 422 and ("image", "Input should be a valid string") in problems(content)
        status, _, content, _ = await call(model, content=ask("refuse"))
        assert (status, problems(content)) == (422, [("", "the model's own words")])
        for headers in ((), (("content-type", "text/plain"),)):
            status, _, content, _ = await call(model, content=ask("all"), headers=headers)
            assert (status, problems(content)) == (415, [("", "expected Content-Type: application/json")])
        assert (await call(model, method="GET"))[0] == 405
        assert model.door.inside == 0

    asyncio.run(run())


def test_a_huge_request_is_refused_before_it_is_read():
    async def run():
        model, large = PlayedModel(), SERVICE_LIMITS.body_bytes
        headers = [("content-type", "application/json"), ("content-length", str(large + 1))]
        status, _, content, unread = await call(model, headers=headers, pieces=[None])
        assert status == 413 and f"more than {large} bytes" in problems(content)[0][1]
        piece = b" " * (large // 4)  # without its length, as curl sends what it reads from a pipe
        status, _, _, unread = await call(model, pieces=[piece] * 10)
        assert (status, len(unread)) == (413, 5)
        assert (model.asked, model.door.inside) == (0, 0)

    asyncio.run(run())


def test_requests_beyond_those_that_may_wait_are_told_to_come_again():
    async def run():
        model = PlayedModel(most=2)
        model.may_answer.clear()
        waiting = [asyncio.create_task(call(model, content=ask(name))) for name in ("first", "second")]
        while model.asked < 2:
            await asyncio.sleep(0.01)
        status, headers, content, _ = await call(model, content=ask("third"))
        assert (status, headers["retry-after"]) == (503, "1") and "2 requests wait already" in problems(content)[0][1]
        status, _, content, _ = await call(model, "/health", method="GET")
        assert json.loads(content) == {"loaded": True, "checkpoint": "played", "version": __version__, "device": "cpu", "inside": 2}
        model.may_answer.set()
        labels = [json.loads(content)["segments"][0]["label"] for _, _, content, _ in await asyncio.gather(*waiting)]
        assert labels == ["first", "second"]
        assert (await call(model, content=ask("third")))[0] == 200

    asyncio.run(run())


def test_what_takes_too_long_ends():
    async def run():
        model = PlayedModel(timeout_s=0.2)
        status, _, content, _ = await call(model, pieces=[b'{"image": ', None])
        assert (status, problems(content)) == (408, [("", "the request did not arrive within 0.2 s")])
        model.may_answer.clear()
        status, _, content, _ = await call(model, content=ask("all"))
        assert (status, problems(content)) == (504, [("", "the request was not answered within 0.2 s")])
        assert model.door.inside == 0

    asyncio.run(run())


def test_other_requests_are_taken_while_the_masks_of_one_are_written(monkeypatch):
    """Long work is done beside the loop that reads requests."""
    from psalm_hf.scale import api

    original, other_is_answered = api.answer_of, threading.Event()

    def slow_answer(*arguments):
        assert other_is_answered.wait(60)
        return original(*arguments)

    monkeypatch.setattr(api, "answer_of", slow_answer)

    async def run():
        model = PlayedModel()
        slow = asyncio.create_task(call(model, content=ask("all")))
        while not model.asked:
            await asyncio.sleep(0.01)
        assert (await call(model, "/health", method="GET"))[0] == 200 and not slow.done()
        other_is_answered.set()
        assert (await slow)[0] == 200

    asyncio.run(run())


def test_the_description_names_every_field_of_request_and_answer():
    async def run():
        _, _, content, _ = await call(PlayedModel(), "/openapi.json", method="GET")
        description = json.loads(content)
        operation, schemas = description["paths"]["/predict"]["post"], description["components"]["schemas"]
        assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/PredictRequest"}
        assert {"image", "categories", "expressions", "regions", "question", "masks"} <= schemas["PredictRequest"]["properties"].keys()
        assert {"413", "415", "422", "503", "504"} <= operation["responses"].keys()
        for reference in set(json.dumps(description).split('"$ref": "')[1:]):
            assert reference.partition('"')[0].removeprefix("#/components/schemas/") in schemas
        assert (await call(PlayedModel(), "/docs", method="GET"))[0] == 200

    asyncio.run(run())
