"""`psalm serve` as it is: a process with Ray Serve on loopback, many clients, and Ctrl-C."""

import base64
import contextlib
import http.client
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray", reason="Ray belongs to the extra scale")

from psalm_hf import PsalmPredictor, __version__, load_image
from psalm_hf.data.shapes.scene import make_scene
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.scale.request import SERVICE_LIMITS
from tests.pages import ROOT, blocks

pytestmark = pytest.mark.engines

CLIENTS, REQUESTS = 8, 40
KINDS = [
    {"categories": ["triangle", "cross", "star", "grass"], "stuff": ["grass"]},
    {"expressions": ["the purple triangle", "all dotted things"]},
    {"regions": [{"point": [60, 60]}, {"box": [20, 20, 90, 90]}]},
    {"categories": ["ring", "heart"], "task": "semantic"},
    {"expressions": ["everything that is red"], "instances": True},
]


@pytest.fixture(scope="module")
def address():
    """Host and port of the service."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "psalm_hf.cli.main", "serve", "--port", str(port), "--batch-wait-ms", "20"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if "the service is at" in line:
                break
        assert f"the service is at http://127.0.0.1:{port}, " in "".join(said), "".join(said)
        yield "127.0.0.1", port
        half, rest = body(0)[:100], body(0)[100:]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body(0))))
        connection.endheaders(half)
        while ask(("127.0.0.1", port), None, "/health", "GET")[1]["inside"] == 0:
            pass
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches all processes of a terminal
        time.sleep(0.5)
        connection.send(rest)
        assert connection.getresponse().status == 200  # what is inside is answered
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in rest, rest
        with socket.socket() as closed:
            assert closed.connect_ex(("127.0.0.1", port)) != 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def ask(address, content, path="/predict", method="POST"):
    """(status, answer) of a request."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def scene(number):
    return Image.fromarray(make_scene("test", number).image)


def body(number):
    """A request: few images, so that batches share them, in every pairing with the kinds of prompts."""
    file = io.BytesIO()
    scene(number % 4).save(file, format="PNG")
    return json.dumps({"image": base64.b64encode(file.getvalue()).decode(), **KINDS[number % len(KINDS)]}).encode()


def test_clients_at_once_get_what_the_predictor_gives(address):
    bad = {7, 23}
    with ThreadPoolExecutor(CLIENTS) as threads:
        contents = [body(number).replace(b'"image"', b'"imag"') if number in bad else body(number) for number in range(REQUESTS)]
        answers = list(threads.map(lambda content: ask(address, content), contents))
    predictor = PsalmPredictor.from_pretrained("psalm-tiny")
    for number, (status, answer) in enumerate(answers):
        if number in bad:
            assert status == 422 and "imag" in [problem["field"] for problem in answer["detail"]]
            continue
        expected = predictor.predict(scene(number % 4), **KINDS[number % len(KINDS)])
        assert status == 200
        assert [segment["label"] for segment in answer["segments"]] == expected.phrases
        for segment, one in zip(answer["segments"], expected, strict=True):
            assert segment.get("score") is None if math.isnan(one.score) else abs(segment["score"] - one.score) < 1e-4
            assert (bitmap_from_rle(segment["rle"]) ^ one.mask).sum() <= 2  # pixels at the threshold


def test_a_point_outside_of_its_image_is_refused_by_name(address):
    content = json.dumps(json.loads(body(0)) | {"categories": None, "stuff": [], "regions": [{"point": [500, 5]}]}).encode()
    status, answer = ask(address, content)
    assert status == 422 and answer["detail"][0]["message"].startswith("region 0: the point (x, y) = (500.0, 5.0) lies outside")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"image": "http://127.0.0.1/cat.png", "question": "a"}'])
def test_malformed_requests_are_refused(address, content):
    assert ask(address, content)[0] == 422


def test_huge_requests_are_refused(address):
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(SERVICE_LIMITS.body_bytes + 1))
    connection.endheaders()  # not a byte of it follows
    assert connection.getresponse().status == 413
    connection.close()
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, format="PNG")
    status, answer = ask(address, json.dumps({"image": base64.b64encode(file.getvalue()).decode(), "question": "a"}).encode())
    assert status == 413 and answer["detail"][0]["field"] == "image"


def test_it_says_how_it_is(address):
    status, health = ask(address, None, "/health", "GET")
    assert status == 200
    assert (health["loaded"], health["checkpoint"], health["version"], health["inside"]) == (True, "psalm-tiny", __version__, 0)
    assert "/predict" in ask(address, None, "/openapi.json", "GET")[1]["paths"]


def test_the_example_for_curl_gives_what_the_page_shows(address):
    following = blocks("docs/service.md")
    (number,) = [number for number, block in enumerate(following) if "curl" in block.text]
    command = following[number].text.replace("127.0.0.1:8000", "{}:{}".format(*address))
    answer = json.loads(subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, check=True).stdout)
    shown = json.loads(following[number + 1].text)
    for one in (answer, shown):
        one["segments"][0]["score"] = round(one["segments"][0]["score"], 2)
        one["absent"] = {name: round(score, 2) for name, score in one["absent"].items()}
    assert answer == shown
    image = load_image(ROOT / "examples/pictures/shapes.png")
    assert np.array_equal(bitmap_from_rle(answer["segments"][0]["rle"]).shape, image.size[::-1])


def test_the_example_in_python_gives_what_the_page_shows(address, monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = [block for block in blocks("docs/service.md", "python") if "urllib" in block.text]
    names = {}
    exec(block.text.replace("127.0.0.1:8000", "{}:{}".format(*address)), names)
    assert f"# {[segment['label'] for segment in names['segments']]}" in block.text
