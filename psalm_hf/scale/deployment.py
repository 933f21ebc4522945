"""The service on Ray Serve: replicas that load a checkpoint each, and answer requests in batches.

What needs torch is imported where a replica begins: the process that starts them needs none of it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from ..checkpoints import TINY, resolve_checkpoint

if TYPE_CHECKING:
    from ..result import PsalmResult
    from .request import AskedPrompt, RefusedRequest

NAME = "psalm"  # of the application and its deployment
SLACK = 16  # requests beyond those that may be inside, so that it is the interface that refuses them, and /health still answers


@dataclass(frozen=True)
class ServiceOptions:
    """Options of the service.

    Attributes:
        checkpoint: folder or Hub id.
        device, dtype: of `PsalmPredictor.from_pretrained`. Of several GPUs Ray gives each replica one, which is "cuda" there.
        max_batch_size: requests that are answered together; 1 = one after the other.
        batch_wait_ms: milliseconds that a free model waits for a full batch, from the first request on.
        max_inside: requests that a replica reads, keeps waiting or answers at the same time; further ones are refused with status 503.
        timeout_s: seconds that a request may take.
        replicas: processes with a model each.
        is_compiled: see `compile_parts`.
    """

    checkpoint: str = TINY
    device: str | None = None
    dtype: str | None = None
    max_batch_size: int = 8
    batch_wait_ms: float = 10
    max_inside: int = 32
    timeout_s: float = 60
    replicas: int = 1
    is_compiled: bool = False


def build_replica_api() -> Any:
    """The interface, in the process of a replica."""
    from .api import build_api

    return build_api(lambda: serve.get_replica_context().servable_object)


@serve.deployment(name=NAME)
@serve.ingress(build_replica_api)
class PsalmReplica:
    """One process of the service, with a model."""

    def __init__(self, options: ServiceOptions):
        from ..devices import compile_parts
        from ..predictor import CACHED_IMAGES, PsalmPredictor
        from .api import RequestDoor
        from .request import SERVICE_LIMITS
        from .service import RequestQueue, answer_together

        name = resolve_checkpoint(options.checkpoint)
        cached = max(CACHED_IMAGES, options.max_batch_size)
        bounds = {"cached_images": cached, "max_mask_pixels": SERVICE_LIMITS.found_pixels}
        predictor = PsalmPredictor.from_pretrained(name, options.device, options.dtype, **bounds)
        if options.is_compiled:
            compile_parts(predictor.model)
        self.checkpoint = checkpoint_name(options.checkpoint)
        self.device = str(predictor.model.device)
        self.door = RequestDoor(options.max_inside)
        self.timeout_s = options.timeout_s
        self._queue = RequestQueue(partial(answer_together, predictor), options.max_batch_size, options.batch_wait_ms / 1000)

    async def predict(self, asked: AskedPrompt) -> PsalmResult | RefusedRequest:
        """The result of a request."""
        return await self._queue.answer(asked)


def checkpoint_name(checkpoint: str) -> str:
    """Name of a checkpoint for strangers: of a folder its last part."""
    return Path(checkpoint).resolve().name if Path(checkpoint).exists() else checkpoint


def build_application(options: ServiceOptions) -> serve.Application:
    """The application for `serve.run`, also on a cluster that is there already. With the device "cuda" each replica gets a GPU."""
    on_gpu = options.device == "cuda"
    return PsalmReplica.options(
        num_replicas=options.replicas,
        max_ongoing_requests=options.max_inside + SLACK,
        max_queued_requests=SLACK,
        ray_actor_options={"num_cpus": 1 if on_gpu else cores_of_a_replica(options.replicas), "num_gpus": int(on_gpu)},
    ).bind(options)


def cores_of_a_replica(replicas: int) -> int:
    """Cores of this machine for each replica. Ray lets it compute with so many threads, unless OMP_NUM_THREADS says another number."""
    return max(1, (os.cpu_count() or 1) // replicas)


@contextmanager
def running_service(options: ServiceOptions, host: str = "127.0.0.1", port: int = 8000) -> Iterator[str]:
    """The service on this machine, until the end of the block.

    Yields:
        Its address.

    Raises:
        ValueError: fewer GPUs than replicas.
        OSError: the checkpoint cannot be loaded, or the port is taken.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    cores = options.replicas * cores_of_a_replica(options.replicas)
    ray.init(
        "local", num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False, logging_level=logging.WARNING
    )
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if options.device is None and gpus:
            options = replace(options, device="cuda")
        if options.device == "cuda" and gpus < options.replicas:
            raise ValueError(
                f"{options.replicas} replicas need as many GPUs, and Ray finds {gpus} on this machine; give fewer, or the device cpu"
            )
        serve.start(http_options={"host": host, "port": port, "request_timeout_s": options.timeout_s + 5}, proxy_location="HeadOnly")
        try:
            serve.run(build_application(options), name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise OSError(f"the service does not start: {_reason()}") from error
        try:
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            serve.delete(NAME)  # requests that are inside are answered
    finally:
        ray.shutdown()


def _reason() -> str:
    """The error that a replica raised: the last line of the traceback that Ray has put into a message."""
    messages = [one.message for one in serve.status().applications[NAME].deployments.values()]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)), " ".join(lines))
