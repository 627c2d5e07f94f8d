"""The one place that imports FFCV, and tames it."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch


@functools.cache
def ffcv_problem() -> str:
    """Returns why FFCV cannot be used here; empty if it can."""
    try:
        _import_ffcv()
    except Exception as error:  # A broken native library may raise anything.
        return f"{type(error).__name__}: {error}"
    return ""


def ffcv_module(name: str) -> ModuleType:
    """Returns a module of FFCV, such as `loader.epoch_iterator`. Call `ffcv_problem` before."""
    _import_ffcv()
    return importlib.import_module(f"ffcv.{name}")


@functools.cache
def _import_ffcv() -> None:
    import numba
    import numba.typed

    threads = torch.get_num_threads()
    # FFCV keeps two constants in a typed dictionary, whose compilation takes seconds at import;
    # nothing compiled uses it, so a plain one serves.
    with warnings.catch_warnings(), mock.patch.object(numba.typed, "Dict", dict):
        warnings.simplefilter("ignore")
        importlib.import_module("ffcv")
    compiler = importlib.import_module("ffcv.pipeline.compiler").Compiler
    settings: Any = numba.config

    def set_num_threads(cls: Any, count: int) -> None:
        cls.num_threads = max(1, min(count, settings.NUMBA_NUM_THREADS))
        numba.set_num_threads(cls.num_threads)

    # FFCV's own version also sets the threads of PyTorch, in every epoch.
    compiler.set_num_threads = classmethod(set_num_threads)
    torch.set_num_threads(threads)
    # Batches go to the device by our hands; its CUDA streams would open a context on GPU 0.
    iterator: Any = importlib.import_module("ffcv.loader.epoch_iterator")
    iterator.IS_CUDA = False

    @functools.cache
    def compiled(_enabled: bool) -> Any:
        def read(address: Any, state: Any) -> Any:  # pragma: no cover (compiled)
            content, starts, sizes = state
            return content[address : address + sizes[np.searchsorted(starts, address)]]

        return compiler.compile(read)

    def compile_reader(manager: Any) -> Any:
        # Once for all readers of the process: it is a third of what each of them compiles.
        return compiled(compiler.is_enabled)

    # FFCV's own version flips a flag of a type that all compiled functions share, which makes
    # numba complain whenever one of them is freed.
    manager: Any = importlib.import_module("ffcv.memory_managers.os_cache").OSCacheManager
    manager.compile_reader = compile_reader
