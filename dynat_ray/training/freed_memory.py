"""What a training process on a CPU is started with, so that it keeps the memory that it frees."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import suppress

_LARGEST = 2**31 - 1
# glibc hands the memory of large tensors back at once, and every new one faults its pages in again:
# a fourteenth of a step. These environment variables, which it reads when a process starts, let it
# keep 2 GiB, of blocks up to 32 MiB (its limit).
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(_LARGEST),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
# Their names as parameters of `mallopt`, from glibc's malloc.h.
_PARAMETERS = {
    "MALLOC_ARENA_MAX": -8,
    "MALLOC_TRIM_THRESHOLD_": -1,
    "MALLOC_MMAP_THRESHOLD_": -3,
}


def set_allocator(environment: Mapping[str, str]) -> None:
    """Does in a process that was forked what glibc does at the start of one.

    Args:
        environment: Of the variables above, those that it has; without glibc they mean nothing.
    """
    with suppress(AttributeError, OSError, ValueError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, parameter in _PARAMETERS.items():
            if value := environment.get(name):
                mallopt(parameter, min(int(value), _LARGEST))
