"""Starts an HTTP service that answers prompts about images, many clients at once, in batches.

    psalm serve                                # http://127.0.0.1:8000, psalm-tiny; /docs describes it
    psalm serve --checkpoint DIR --device cuda --max-batch-size 16
    curl -s -H 'Content-Type: application/json' -d @request.json http://127.0.0.1:8000/predict

The service is for this machine alone, unless --host says otherwise. It reads images from the requests, and no URL or file that a request
names. Ctrl-C ends it. Requests and answers: docs/service.md

Needs Ray and FastAPI: pip install psalm_hf[scale]
"""

import argparse
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

from ..checkpoints import resolve_checkpoint
from .command import CommandParser, add_model_options, say, verb

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@verb
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    resolve_checkpoint(options.checkpoint)  # what no checkpoint can be called is refused before Ray is started
    check_port(options.host, options.port)
    try:
        import fastapi  # noqa: F401
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise ImportError("the service needs Ray and FastAPI, which are not installed: pip install psalm_hf[scale]") from error

    from ..scale.deployment import ServiceOptions, running_service

    if options.device not in (None, "cpu", "cuda"):  # those need no torch to be known, and it takes seconds to load
        from ..devices import pick_device

        pick_device(options.device)
    if options.host not in LOOPBACK:
        say(f"warning: {options.host} lets every machine of the network use the service, which asks for no password and is not encrypted")
    service = ServiceOptions(
        checkpoint=str(Path(options.checkpoint).resolve()) if Path(options.checkpoint).exists() else options.checkpoint,
        device=options.device,
        dtype=options.dtype,
        max_batch_size=options.max_batch_size,
        batch_wait_ms=options.batch_wait_ms,
        max_inside=options.max_inside,
        timeout_s=options.timeout,
        replicas=options.replicas,
        is_compiled=options.compile,
    )
    with suppress(KeyboardInterrupt), running_service(service, options.host, options.port) as address:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the end of a container is that of Ctrl-C
        say(f"the service is at {address}, its description at {address}/docs; Ctrl-C ends it")
        threading.Event().wait()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("serve", __doc__)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 = every machine of the network may ask (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="of the service (default: 8000)")
    parser.add_argument("--max-batch-size", type=int, default=8, help="requests that are answered together; 1 = one by one (default: 8)")
    parser.add_argument("--batch-wait-ms", type=float, default=10, help="a free model waits so long for a full batch (default: 10)")
    parser.add_argument(
        "--max-inside", type=int, default=32, help="requests that a replica keeps; further ones are refused with status 503 (default: 32)"
    )
    parser.add_argument("--timeout", type=float, default=60, help="seconds that a request may take (default: 60)")
    parser.add_argument(
        "--replicas", type=int, default=1, help="processes with a model each; a GPU each, where there are some (default: 1)"
    )
    add_model_options(parser)
    options = parser.parse_args(arguments)
    parser.check_range(options, "port", lowest=1, highest=65535)
    parser.check_range(options, "max_batch_size", "max_inside", "replicas", lowest=1)
    parser.check_range(options, "batch_wait_ms", lowest=0, highest=10_000)
    parser.check_range(options, "timeout", lowest=1)
    if options.max_inside < options.max_batch_size:
        parser.error(f"--max-inside must be at least --max-batch-size ({options.max_batch_size}), got {options.max_inside}")
    if (options.device or "").startswith("cuda:"):
        parser.error(
            f"--device {options.device}: Ray gives every replica a GPU; say --device cuda, and CUDA_VISIBLE_DEVICES for some of them"
        )
    return options


def check_port(host: str, port: int) -> None:
    """Refuses a port that is taken, or an address that this machine does not have.

    Raises:
        OSError: it cannot be listened at.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
    except OSError as error:
        raise OSError(f"--host {host} --port {port}: cannot be listened at ({error.strerror}); choose another port") from error
