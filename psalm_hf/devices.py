"""Devices of this machine: the choice of `--device`, a model compiled for one, and random numbers that go on as if nothing was drawn."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def pick_device(name: str | None = None) -> torch.device:
    """The device that a command computes on.

    Args:
        name: as torch writes it, such as "cpu", "cuda:1", "mps" or "xpu". None = the accelerator of this machine, or the CPU without one.

    Raises:
        ValueError: torch finds no such device here; the message lists those it finds.
    """
    accelerator = _accelerator()
    if name is None:
        return accelerator or torch.device("cpu")
    found = ["cpu"]
    if accelerator:
        found += [accelerator.type, *(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count()))]
    if name not in found:
        raise ValueError(f"--device {name}: torch finds no such device on this machine, only {', '.join(found)}")
    return torch.device(name)


def compile_parts(model: nn.Module, backend: str | Callable = "inductor") -> None:
    """Compiles the large parts of a `PsalmForSegmentation` in place, each when it is first called and as one graph.

    What stands between the parts stays as it is: it reads numbers of the batch, and is a small share of the time.

    Args:
        backend: of `torch.compile`.

    Raises:
        ValueError: the model is on a CPU and there is no C++ compiler.
    """
    if model.device.type == "cpu" and backend == "inductor" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ValueError("--compile needs a C++ compiler on a CPU, and there is neither g++ nor clang++; install one, or do not compile")
    for part in (model.model.vision_tower, model.model.pixel_decoder, model.model.language_model, model.mask_decoder):
        part.compile(backend=backend)


def cpu_multiplies_bfloat16() -> bool:
    """True if this machine's CPU has instructions for products of matrices in bfloat16 (AMX, or AVX-512 BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


@contextmanager
def kept_torch_state() -> Iterator[None]:
    """Whatever is seeded or drawn inside, torch's random numbers go on as before: on the CPU and on all accelerators of this machine."""
    accelerator = _accelerator()
    devices = range(torch.accelerator.device_count()) if accelerator else []
    with torch.random.fork_rng(devices, device_type=accelerator.type if accelerator else "cpu"):
        yield


def _accelerator() -> torch.device | None:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
