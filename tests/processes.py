"""Processes that begin with PyTorch imported, which takes a new interpreter seconds.

They are forked from a server that has imported other people's packages and nothing of ours, so
that what a command imports, and in which order, is as in an interpreter of its own.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.multiprocessing

_ROOT = str(Path(__file__).parents[1])
# Nothing that reads the environment once and for all, and no Ray: many commands need none.
_IMPORTED = (
    *("torch", "torch._dynamo", "torchvision", "timm", "timm.optim", "timm.scheduler"),
    *("torch.utils.tensorboard", "pyarrow.parquet", "safetensors.torch", "jsonargparse"),
    *("scipy.stats", "sklearn.datasets", "PIL.Image"),
)
_CONTEXT = multiprocessing.get_context("forkserver")
# The same server is used where PyTorch starts several processes.
multiprocessing.set_forkserver_preload(list(_IMPORTED))


def fork_server() -> None:
    """Makes a fork of this process the server: what both need is imported once.

    For a process that has imported nothing of ours yet. Otherwise the server starts by itself, as
    an interpreter of its own, when it is needed.
    """
    for name in _IMPORTED:
        import_module(name)
    gc.collect()
    gc.freeze()
    resource_tracker.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(util, "spawnv_passfds", _fork)
        forkserver.ensure_running()


def _fork(executable: object, arguments: object, descriptors: Sequence[int]) -> int:
    """Takes the place of the function that starts the server; returns its process id."""
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            # pytest's own way of importing tests.
            sys.meta_path[:] = [
                finder for finder in sys.meta_path if "_pytest" not in type(finder).__module__
            ]
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _close_all_but({0, 1, 2, *descriptors})
            nothing = os.open(os.devnull, os.O_RDWR)
            for standard in range(3):
                os.dup2(nothing, standard)
            forkserver.main(*descriptors, [])
        finally:
            os._exit(1)
    return child


def _close_all_but(kept: set[int]) -> None:
    """Closes what this process has inherited: who waits for its end must not wait for the fork."""
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor not in kept:
            with suppress(OSError):
                os.close(descriptor)


def run_side_by_side(function: Callable[..., None], *arguments: Any, processes: int) -> None:
    """Calls `function(rank, *arguments)` in so many processes; raises what one of them raises.

    They have this process's environment, and not what the server's was when it started.
    """
    torch.multiprocessing.start_processes(
        _with_environment,
        args=(dict(os.environ), function, arguments),
        nprocs=processes,
        start_method="forkserver",
    )


def _with_environment(
    rank: int,
    environment: dict[str, str],
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(rank, *arguments)


def run_python(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` to its end, as `subprocess.run` would.

    Args:
        arguments: `-m MODULE` or `-c PROGRAM`, and what follows.
        cwd: Where it runs; None: here.
        env: Its environment, `PYTHONPATH` included; None: this process's.
        timeout: Seconds until it is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "stdout"), Path(folder, "stderr")
        process = start_python(*arguments, cwd=cwd, env=env, said=said)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout)
        assert process.exitcode is not None
        stdout, stderr = (file.read_text() for file in said)
    return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)


def start_python(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    said: tuple[Path, Path] = (Path(os.devnull), Path(os.devnull)),
) -> ForkServerProcess:
    """Starts `python ARGUMENTS`, see `run_python`.

    Args:
        arguments: `-m MODULE` or `-c PROGRAM`, and what follows.
        cwd: Where it runs; None: here.
        env: Its environment; None: this process's.
        said: The files that take its standard output and its errors.
    """
    environment = dict(os.environ if env is None else env)
    process = _CONTEXT.Process(
        target=_python, args=(arguments, str(cwd or Path.cwd()), environment, said)
    )
    process.start()
    return process


def _python(
    arguments: Sequence[str], cwd: str, environment: dict[str, str], said: tuple[Path, Path]
) -> None:
    for descriptor, file in enumerate(said, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path] or [_ROOT]
    tempfile.tempdir = None
    status = _status(*arguments)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status(kind: str, code: str, *arguments: str) -> int:
    """Runs a module or a program, and says as the interpreter does how it ended."""
    sys.argv = [code if kind == "-m" else kind, *arguments]
    try:
        if kind == "-m":
            runpy.run_module(code, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), vars(main))
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
