"""A device that does not exist: its tensors claim to be on `pretend:0` and are computed on the CPU. So device mistakes show without an
accelerator.

As on a real one, tensors of two devices do not mix, but for numbers without dimensions, copies, and indices on the CPU. As on Apple's,
there is no float64. Random numbers have a generator of the device's own. What makes the host wait for the device is counted, see `waits`.
"""

import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("privateuseone", 0)  # what torch calls it until it is renamed
GENERATOR = torch.Generator()

ATEN = torch.ops.aten
COPIES = {ATEN.copy_.default, ATEN._to_copy.default, ATEN._copy_from.default}
INDEXING = {ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default}
NUMBERS = {ATEN._local_scalar_dense.default, ATEN.equal.default}  # they give a Python number, not a tensor
# The shape of what they give depends on the values that they get.
SIZED_BY_VALUES = {
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN.bincount.default,
    ATEN._unique2.default,
    ATEN.unique_dim.default,
    ATEN.unique_consecutive.default,
    ATEN.repeat_interleave.Tensor,
}


@dataclass(frozen=True)
class Wait:
    """The host waits for the device.

    Attributes:
        kind: "read" of values or "upload" of values: torch waits for a copy of memory that is not pinned.
        cause: operation and line.
        is_ours: the line is in this library, not in one that it calls; also in the backward pass, which has no lines.
    """

    kind: str
    cause: str
    is_ours: bool


_waits: list[Wait] = []


@contextmanager
def waits() -> Iterator[list[Wait]]:
    """The waits inside, in their order."""
    first = len(_waits)
    found: list[Wait] = []
    yield found
    found += _waits[first:]


_PACKAGE = str(Path(__file__).resolve().parents[1] / "psalm_hf")
_PASSED_OVER = (str(Path(torch.__file__).parent), sysconfig.get_path("stdlib"), __file__)


def _wait(kind: str, what: Any) -> None:
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_passed_over(frame.f_code.co_filename):
        frame = frame.f_back
    file = frame.f_code.co_filename
    if file == __file__:  # the first frame of a thread of autograd
        _waits.append(Wait(kind, f"{what} in the backward pass", is_ours=True))
    else:
        _waits.append(Wait(kind, f"{what} at {file}:{frame.f_lineno}", is_ours=file.startswith(_PACKAGE)))


def _is_passed_over(file: str) -> bool:
    packages = sysconfig.get_path("purelib")
    return file.startswith("<") or any(file.startswith(place) for place in _PASSED_OVER) and not file.startswith(f"{packages}/transformers")


class PretendTensor(Tensor):
    """Wraps `raw`, a tensor on the CPU that has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> "PretendTensor":
        if raw.dtype in (torch.float64, torch.complex128):
            raise TypeError("there is no float64 on this device")
        return Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=DEVICE,
            requires_grad=raw.requires_grad,
        )

    def __init__(self, raw: Tensor):
        self.raw = raw

    def tolist(self) -> Any:
        _wait("read", "tolist")
        return self.raw.tolist()

    def __repr__(self) -> str:
        return f"PretendTensor({self.raw})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operation that some tensor or the argument `device` sends to the device."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    _check_devices(func, args, tensors)
    _count(func, args, kwargs, bool(ours))
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    device = kwargs.get("device")
    if device is not None:
        kwargs["device"] = torch.device("cpu")
    if torch.Tag.nondeterministic_seeded in func.tags and any(argument.name == "generator" for argument in func._schema.arguments):
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{func}: expected a generator of the device, got one of the CPU")
        kwargs["generator"] = GENERATOR
    if func is ATEN.copy_.default:
        stays = isinstance(args[0], PretendTensor)
    else:
        stays = bool(ours) if device is None else device.type == DEVICE.type
    out = func(*tree_map(_raw, args), **tree_map(_raw, kwargs))
    for tensor in ours:  # operations in place give back what they got
        if tensor.raw is out:
            return tensor
    return tree_map(_wrap, out) if stays else out


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, PretendTensor) else value


def _wrap(value: Any) -> Any:
    return PretendTensor(value) if isinstance(value, Tensor) else value


def _check_devices(func: Any, args: tuple, tensors: list[Tensor]) -> None:
    if func in COPIES:
        return
    if func in INDEXING:  # only the indices may be elsewhere
        tensors = [args[0], *(leaf for leaf in args[2:3] if isinstance(leaf, Tensor))]
        if not isinstance(args[0], PretendTensor):
            raise RuntimeError(f"{func}: a tensor on the CPU is indexed with one on the device")
    on_device = [isinstance(tensor, PretendTensor) for tensor in tensors if isinstance(tensor, PretendTensor) or tensor.dim() > 0]
    if any(on_device) and not all(on_device):
        raise RuntimeError(f"{func}: expected all tensors on the same device, found some on {DEVICE} and some on cpu")


def _count(func: Any, args: tuple, kwargs: dict[str, Any], is_on_device: bool) -> None:
    if func is ATEN.copy_.default and args[0].numel():
        target, source = (isinstance(tensor, PretendTensor) for tensor in args[:2])
        if target != source:
            _wait("upload" if target else "read", func)
    elif func is ATEN._to_copy.default:
        device = kwargs.get("device")
        goes_to = is_on_device if device is None else device.type == DEVICE.type
        if goes_to != is_on_device:
            _wait("upload" if goes_to else "read", func)
    elif func in INDEXING:
        is_filled = func is not ATEN.index.Tensor and args[2].dim() == 0  # with a number: then torch fills by the mask
        for index in filter(lambda index: index is not None, args[1]):
            if not isinstance(index, PretendTensor):
                _wait("upload", func)
            elif index.dtype in (torch.bool, torch.uint8) and not is_filled:  # their number decides the shape
                _wait("read", func)
    elif func in NUMBERS | SIZED_BY_VALUES and is_on_device and kwargs.get("output_size") is None:
        _wait("read", func)


class _Methods(TorchFunctionMode):
    """Operations that torch does in C++ without asking a device written in Python: new tensors, and Python numbers as tensors."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        is_new = torch.device(kwargs.get("device") or "cpu").type == DEVICE.type and not any(isinstance(value, Tensor) for value in args)
        if is_new and func in (torch.tensor, torch.as_tensor):
            return func(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        if is_new:
            drawn = {"generator": GENERATOR} if func in (torch.rand, torch.randn, torch.randint, torch.randperm) else {}
            return PretendTensor(func(*args, **kwargs | {"device": "cpu"} | drawn))
        if func is Tensor.new_tensor and isinstance(args[0], PretendTensor):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(DEVICE)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], PretendTensor):
            key = tuple(map(_as_index, args[1])) if isinstance(args[1], tuple) else _as_index(args[1])
            return func(args[0], key, *args[2:], **kwargs)
        return func(*args, **kwargs)


def _as_index(key: Any) -> Any:
    return torch.tensor(key).to(DEVICE) if isinstance(key, list) else key


class _Module(backend_registration._DummyBackendModule):
    """`torch.pretend`: what torch asks of every device."""

    exists = False

    def is_available(self) -> bool:
        return self.exists

    def device_count(self) -> int:
        return int(self.exists)

    def manual_seed_all(self, seed: int) -> None:
        GENERATOR.manual_seed(seed)

    def get_rng_state(self, device: Any = None) -> Tensor:
        return GENERATOR.get_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        GENERATOR.set_state(state)


_MODULE = _Module()


class _Hook(backend_registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return _MODULE.exists


# When this file is imported, so before the first test: autograd makes its threads at the first backward pass of a process, for the devices
# that are registered then, and fails on one that comes later.
backend_registration._setup_privateuseone_for_python_backend("pretend", backend_module=_MODULE, hook=_Hook())
_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """Inside, the device exists. Tensors and modules get there by `.to(device)`."""
    _MODULE.exists = True
    try:
        with _Methods():
            yield DEVICE
    finally:
        _MODULE.exists = False  # or other tests in this process would choose it
