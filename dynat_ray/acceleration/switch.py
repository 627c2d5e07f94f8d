"""Whether the C++ kernels for CPUs are used: `train.cpu_kernels` and `evaluate --cpu-kernels`.

Without their folder, `cpu` beside this file, everything is as when they are switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from dynat_ray.config import CpuKernels

_FOLDER = "dynat_ray.acceleration.cpu"
# Of the process, since whoever attacks a network has no settings of the run.
_choice: CpuKernels = "auto"


@contextmanager
def cpu_kernels(choice: CpuKernels) -> Iterator[None]:
    """Has this process use the kernels where they are faster (`auto`), or never (`off`)."""
    global _choice
    before = _choice
    _choice = choice
    try:
        yield
    finally:
        _choice = before


def cpu_kernels_choice() -> CpuKernels:
    """Returns what holds now, to hand it on to other processes."""
    return _choice


def cpu_kernels_exist() -> bool:
    """Returns whether their folder is there."""
    spec = find_spec(_FOLDER)
    return spec is not None and spec.origin is not None  # not what Python left in the folder


def may_use_cpu_kernels() -> bool:
    """Returns whether they may be imported: they are there, and not switched off."""
    return _choice != "off" and cpu_kernels_exist()
