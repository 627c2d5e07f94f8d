"""A device that is not the CPU, whose work the CPU does.

It shows without a GPU what only a GPU would show: tensors that lie on two devices in one operation
(an error, as there), and what makes the host wait for the device. It stands in for the device in
one process from its import on, so tests import it in processes of their own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_NAME = "elsewhere"
_setup_privateuseone_for_python_backend(_NAME)
DEVICE = torch.device(_NAME, 0)
# Asked for by `torch.autocast`.
getattr(torch, _NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]

_PACKAGE = str(Path(__file__).parents[1] / "dynat_ray")
_READS = {"_local_scalar_dense", "equal", "masked_select", "nonzero", "unique_dim", "_unique2"}
# Where indices, or the source of a copy, may lie on the host.
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_MIXED = {"copy_", *_INDEXING}

# How often the host waited for the device, by the function of the package that made it.
waits: Counter[str] = Counter()


class OtherTensor(Tensor):
    """A tensor elsewhere; `here` holds its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> OtherTensor:
        made: OtherTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OtherTensor({self.here})"

    def tolist(self) -> Any:
        """Returns the values, for which the host waits."""
        _wait("tolist")
        return self.here.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(op, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Takes what makes tensors there from nothing, or from tensors here."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(op, args, kwargs or {})


def _compute(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation here and gives back its results there."""
    name = op._schema.name.removeprefix("aten::")
    flat = list(_leaves((*args, *kwargs.values())))
    there = {id(leaf.here): leaf for leaf in flat if isinstance(leaf, OtherTensor)}
    # A number alone may lie on the host, as for any device.
    here = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, OtherTensor) and x.dim()]
    if there and here and name not in _MIXED:
        raise RuntimeError(f"{name} has tensors on both devices, in {_place()}")
    device = kwargs.get("device")
    result_there = bool(there) if device is None else torch.device(device).type == _NAME
    if name == "copy_":
        result_there = isinstance(args[0], OtherTensor)
        waiting = result_there != isinstance(args[1], OtherTensor) and args[1].dim() > 0
    elif name in _INDEXING:
        places = [place for place in args[1] if isinstance(place, Tensor)]
        waiting = bool(there) and any(p.dtype == torch.bool or p in here for p in places)
    else:
        moves = name == "_to_copy" and result_there != bool(there)
        waiting = (bool(there) and name in _READS) or moves
    if waiting and not kwargs.get("non_blocking"):
        _wait(name)

    def local(leaf: Any) -> Any:
        if isinstance(leaf, OtherTensor):
            return leaf.here
        return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

    made = op(*_mapped(local, args), **{key: _mapped(local, kwargs[key]) for key in kwargs})

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or isinstance(leaf, OtherTensor):
            return leaf
        if id(leaf) in there:
            return there[id(leaf)]
        return OtherTensor(leaf) if result_there else leaf

    # Also of named tuples.
    return wrapped(made) if isinstance(made, Tensor) else pytree.tree_map(wrapped, made)


def _leaves(value: Any) -> Iterator[Any]:
    """Yields what an operation's arguments hold; `pytree` would take most of the time."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Returns such arguments with each leaf replaced."""
    if isinstance(value, tuple | list):
        return type(value)([_mapped(function, each) for each in value])
    return function(value)


def _wait(what: str) -> None:
    waits[f"{_place()}: {what}"] += 1


def _place() -> str:
    """Returns the innermost function of the package that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            file = Path(frame.f_code.co_filename).relative_to(_PACKAGE)
            return f"{file.with_suffix('')}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


_tensor, _as_tensor, _generator = torch.tensor, torch.as_tensor, torch.Generator


def _make(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
    """`torch.tensor`: below Python it does not ask who makes tensors of this device."""
    made = _tensor(data, **kwargs)
    if device is None or torch.device(device).type != _NAME:
        return made
    _wait("tensor")
    return OtherTensor(made)


def _make_or_take(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`torch.as_tensor`."""
    if isinstance(data, Tensor):
        return data.to(device=device or data.device, dtype=dtype or data.dtype)
    return _make(data, dtype=dtype, device=device)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Makes the device usable, and counts in `waits` from nothing."""
    waits.clear()
    torch.tensor, torch.as_tensor = _make, _make_or_take  # type: ignore[assignment]
    torch.Generator = lambda device=None: _generator()  # type: ignore[assignment, misc]
    try:
        with _Mode():
            yield DEVICE
    finally:
        torch.tensor, torch.as_tensor = _tensor, _as_tensor
        torch.Generator = _generator  # type: ignore[misc]
