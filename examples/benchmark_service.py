"""Measures psalm serve: requests of several clients at once, with and without batches. Starts the service itself, on 127.0.0.1 alone.

    python examples/benchmark_service.py                                   # psalm-tiny on drawn shapes, 200 requests of 8 clients
    python examples/benchmark_service.py --requests 40 --images 1          # quicker
    python examples/benchmark_service.py --checkpoint DIR --device cuda --max-batch-size 16 --json service.json

A row of the table belongs to a number of different images that the requests show. Every answer is compared with that of PsalmPredictor:
scores to 1e-4, masks to two pixels at the threshold. Columns: requests per second, the median and the 99th percentile of the milliseconds
until an answer is there, on the clock, which another load of the machine changes; and processor milliseconds of the replica per
request, which it hardly changes.

Needs Ray and FastAPI: pip install psalm_hf[scale]
"""

import argparse
import base64
import http.client
import io
import json
import math
import os
import queue
import socket
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLORS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "star", "ring", "triangle", "cross", "heart")
STUFF = ("grass", "sand", "water", "brick")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="psalm-tiny", help="folder or Hub id (default: psalm-tiny)")
    parser.add_argument("--device", help="of the service (default: a GPU if there is one)")
    parser.add_argument("--requests", type=int, default=200, help="of each measurement, at most 10,000 (default: 200)")
    parser.add_argument("--clients", type=int, default=8, help="that ask at the same time, at most 64 (default: 8)")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 20, 200], help="different images (default: 1 20 200)")
    parser.add_argument("--max-batch-size", type=int, default=8, help="with batches (default: 8)")
    parser.add_argument("--batch-wait-ms", type=float, default=10, help="with batches (default: 10)")
    parser.add_argument("--seconds", type=float, default=300, help="of a measurement, after which it fails (default: 300)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    if not 1 <= options.requests <= 10_000 or not 1 <= options.clients <= 64 or min(options.images) < 1 or options.max_batch_size < 2:
        parser.error("--requests must be 1 to 10000, --clients 1 to 64, --images at least 1 and --max-batch-size at least 2")
    return options


def prompt(number: int) -> dict[str, Any]:
    """Fields of a request; each kind in turn, and other words each time."""
    color, shape, stuff = COLORS[number % 6], SHAPES[number // 6 % 6], STUFF[number % 4]
    x, y = 5 + 37 * number % 100, 5 + 53 * number % 100
    return [
        {"categories": [shape, SHAPES[(number // 6 + 1) % 6], stuff], "stuff": [stuff]},
        {"expressions": [f"the {color} {shape}", f"all {shape}s"]},
        {"regions": [{"point": [x, y]}, {"box": [x, y, x + 20, y + 15]}]},
        {"expressions": [f"everything that is {color}"], "instances": True},
    ][number % 4]


def drawn_image(number: int) -> Any:
    """A drawn scene."""
    from PIL import Image

    from psalm_hf.data.shapes.scene import make_scene

    return Image.fromarray(make_scene("test", number).image)


def build_bodies(requests: int, images: int) -> list[bytes]:
    """Contents of requests; they show the images in turn."""
    files = []
    for number in range(min(images, requests)):
        file = io.BytesIO()
        drawn_image(number).save(file, format="PNG")
        files.append(base64.b64encode(file.getvalue()).decode())
    return [json.dumps({"image": files[number % len(files)], **prompt(number)}).encode() for number in range(requests)]


def ask_all(port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> tuple[list[Any], list[float], float]:
    """Sends each request once; a client sends its next one when it has the answer.

    Returns:
        Answers, in the order of the requests; seconds of each; seconds of all.

    Raises:
        RuntimeError: an answer that is none, or the time is over.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(bodies)):
        waiting.put(number)
    answers: list[Any] = [None] * len(bodies)
    durations, problems, end = [0.0] * len(bodies), [], time.monotonic() + seconds

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        while not problems:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                start = time.perf_counter()
                connection.request("POST", "/predict", bodies[number], {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                durations[number] = time.perf_counter() - start
                if answer.status != 200:
                    problems.append(f"request {number}: status {answer.status}: {content[:200]!r}")
                answers[number] = content
            except (OSError, http.client.HTTPException) as error:
                problems.append(f"request {number}: {type(error).__name__}: {error}")
            if time.monotonic() > end:
                problems.append(f"longer than {seconds:g} s")
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(problems[0])
    return [json.loads(answer) for answer in answers], durations, time.perf_counter() - start


def replica_seconds() -> float:
    """Processor seconds that the replicas have used."""
    import psutil

    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "ServeReplica" in " ".join(process.cmdline()):
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def largest_difference(answers: Sequence[Any], results: Sequence[Any]) -> float:
    """Largest difference of a score between answers and results of the predictor.

    Raises:
        RuntimeError: another label, or a mask that differs by more than two pixels.
    """
    from psalm_hf.masks import bitmap_from_rle

    largest = 0.0
    for number, (answer, result) in enumerate(zip(answers, results, strict=True)):
        labels = [segment["label"] for segment in answer["segments"]]
        if labels != result.phrases:
            raise RuntimeError(f"request {number}: the service finds {labels}, the predictor {result.phrases}")
        for segment, one in zip(answer["segments"], result, strict=True):
            if (bitmap_from_rle(segment["rle"]) ^ one.mask).sum() > 2:
                raise RuntimeError(f"request {number}: another mask of {one.phrase!r} than the predictor's")
            if not math.isnan(one.score):
                largest = max(largest, abs(segment["score"] - one.score))
    return largest


def measure(port: int, options: argparse.Namespace, images: int) -> tuple[dict[str, float], list[Any]]:
    """Figures of one measurement, and the answers."""
    bodies = build_bodies(options.requests, images)
    ask_all(port, bodies[: 2 * options.clients], options.clients, options.seconds)  # what is loaded at first use is loaded
    start = replica_seconds()
    answers, durations, seconds = ask_all(port, bodies, options.clients, options.seconds)
    processor = replica_seconds() - start
    ordered = sorted(durations)
    return {
        "requests_per_second": len(bodies) / seconds,
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[math.ceil(0.99 * len(ordered)) - 1],
        "processor_ms_per_request": 1000 * processor / len(bodies),
    }, answers


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    from psalm_hf.scale.deployment import ServiceOptions, running_service

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    figures: dict[int, dict[str, dict[str, float]]] = {images: {} for images in options.images}
    answers: dict[tuple[int, str], list[Any]] = {}
    for mode, size in (("without", 1), ("with", options.max_batch_size)):
        service = ServiceOptions(
            checkpoint=options.checkpoint,
            device=options.device,
            max_batch_size=size,
            batch_wait_ms=options.batch_wait_ms if size > 1 else 0,
            max_inside=2 * max(options.clients, size),
            timeout_s=options.seconds,
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        print(f"starting the service {mode} batches", file=sys.stderr)
        with running_service(service, "127.0.0.1", port):
            for images in options.images:
                figures[images][mode], answers[images, mode] = measure(port, options, images)

    from psalm_hf import PsalmPredictor

    predictor = PsalmPredictor.from_pretrained(options.checkpoint, options.device)
    largest = 0.0
    for images in options.images:
        results = [
            predictor.predict(drawn_image(number % min(images, options.requests)), **prompt(number)) for number in range(options.requests)
        ]
        largest = max(largest, *(largest_difference(answers[images, mode], results) for mode in ("without", "with")))

    print(
        f"{options.requests} requests, {options.clients} clients, batches of {options.max_batch_size}, {os.cpu_count()} cores, load {load}"
    )
    print("images  batches  requests/s   p50 ms   p99 ms  processor ms")
    for images, of_images in figures.items():
        for mode, row in of_images.items():
            print(
                f"{images:6}  {mode:7}  "
                + "  ".join(f"{value:{width}.1f}" for value, width in zip(row.values(), (10, 7, 7, 12), strict=True))
            )
        rate, processor = (
            of_images["with"][name] / of_images["without"][name] for name in ("requests_per_second", "processor_ms_per_request")
        )
        print(f"        ratio    {rate:9.2f}x{processor:31.2f}x")
    print(f"all {2 * len(figures) * options.requests} answers are those of the predictor; largest difference of a score {largest:.1e}")
    if options.json:
        from psalm_hf.writing import write_json

        write_json(
            options.json, {"requests": options.requests, "clients": options.clients, "images": figures, "largest_difference": largest}
        )
    if largest >= 1e-4:
        raise RuntimeError(f"scores differ by {largest:.1e}, expected less than 1e-4")


if __name__ == "__main__":
    main()
