"""Worker processes of a Ray on this machine, forked from one that has imported PyTorch.

Each process that Ray starts would import for seconds what all of them need: on a small machine
that is most of what a short run, or a trial of a search, takes. Here one process imports it once
and forks itself for each that Ray asks for; they share its memory. Python's `multiprocessing`
does the same (`forkserver`), for processes that it starts itself.

On a cluster that others started, and where a GPU is, Ray's own way is left as it is.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from dynat_ray.distributed.forked_worker import (
    ADDRESS,
    LONGEST_ANSWER,
    OOM_SCORE,
    RAYS,
    SETS_UP,
)
from dynat_ray.training.freed_memory import set_allocator

PROGRAM = str(Path(__file__).with_name("forked_worker.py"))
"""What Ray starts instead of its own programs for a worker."""

# What a process knows of a GPU does not survive a fork.
_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# What workers, and the processes that Ray Train starts beside them, import. Nothing of Ray, which
# reads the environment of its process when it is imported, and never again.
_IMPORTS = (
    "dynat_ray.training.fetching",
    "dynat_ray.training.trainer",
    "dynat_ray.evaluation.shards",
    "torch.distributed",
    "pyarrow.parquet",
    # Of Ray itself.
    "fsspec",
    "jsonschema",
    "pandas",
    "requests",
)
_START = (
    f"import sys; sys.path[:] = sys.argv[2:]; from {__name__} import serve; serve(int(sys.argv[1]))"
)
_QUEUE = 128
_LONGEST_REQUEST = 1 << 20
_END = "end"


def can_fork() -> bool:
    """Returns whether processes can be forked here: on Linux, where there is no GPU."""
    if sys.platform != "linux" or any(Path(device).exists() for device in _GPUS):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        # Linux before 5.3, and some containers.
        return False
    return True


class ForkServer:
    """The process that forks, started with the environment and the path of modules as they are.

    Args:
        folder: Nobody else's, removed in the end; the socket is made there.
        program: Path of Ray's own program for a worker.
        setup: Path of that which starts one in an environment of its own. Both and the socket's
            address are put into the environment, for `PROGRAM`.
    """

    def __init__(self, folder: Path, program: str, setup: str) -> None:
        address = folder / f"fork-{os.urandom(3).hex()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(address))
            listener.listen(_QUEUE)
            os.environ.update({ADDRESS: str(address), RAYS: program, SETS_UP: setup})
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(listener.fileno()), *sys.path],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                # Ctrl-C is for the command.
                start_new_session=True,
            )

    def end_with(self, process: int) -> None:
        """Has it end when another process does; without, it ends when this one does.

        Args:
            process: The other's number.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(str(process).encode())
            self._process.stdin.close()


class _Server:
    """Forks for everybody who asks, and tells them how their process has ended."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._selector.register(listener, selectors.EVENT_READ)
        # By a file that can be read when the process has ended: who asked, and its number.
        self._asked: dict[int, tuple[socket.socket, int]] = {}

    def serve(self) -> None:
        """Works until the process that standard input names ends, or that ends without one."""
        while True:
            for key, _ in self._selector.select():
                if self._selector.get_map().get(key.fd) is not key:
                    # What came before it has dealt with it: a process and who asked for it ended.
                    continue
                if key.data == _END:
                    return
                if key.fd == sys.stdin.fileno():
                    self._selector.unregister(sys.stdin)
                    self._end_with(sys.stdin.read())
                elif key.fileobj is self._listener:
                    self._answer(self._listener.accept()[0])
                elif key.fd in self._asked:
                    self._tell_end(key.fd)
                else:
                    # Ray has killed whoever asked, whom it takes for its worker until that answers.
                    self._selector.unregister(key.fileobj)
                    with suppress(ProcessLookupError):
                        os.kill(key.data, signal.SIGKILL)

    def _end_with(self, process: str) -> None:
        if not process:
            sys.exit()
        try:
            other = os.pidfd_open(int(process))
        except ProcessLookupError:
            sys.exit()
        self._selector.register(other, selectors.EVENT_READ, data=_END)

    def _answer(self, asking: socket.socket) -> None:
        try:
            message, files, _, _ = socket.recv_fds(asking, _LONGEST_REQUEST, 3)
            request = json.loads(message)
        except (OSError, ValueError):
            # It has gone.
            asking.close()
            return
        child = os.fork()
        if child == 0:
            self._forget(asking)
            _become(request, files)
        for file in files:
            os.close(file)
        ended = os.pidfd_open(child)
        self._asked[ended] = asking, child
        self._selector.register(ended, selectors.EVENT_READ)
        self._selector.register(asking, selectors.EVENT_READ, data=child)

    def _tell_end(self, ended: int) -> None:
        asking, child = self._asked.pop(ended)
        _, status = os.waitpid(child, 0)
        self._selector.unregister(ended)
        os.close(ended)
        with suppress(KeyError):
            self._selector.unregister(asking)
        answer = str(os.waitstatus_to_exitcode(status)).encode()
        assert len(answer) <= LONGEST_ANSWER
        with suppress(OSError):
            asking.sendall(answer)
        asking.close()

    def _forget(self, asking: socket.socket) -> None:
        self._selector.close()
        self._listener.close()
        asking.close()
        for file, (other, _) in self._asked.items():
            os.close(file)
            other.close()


def _become(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Makes this process what Python would be that was started with a program and arguments."""
    import numpy as np
    import torch

    status = 1
    # Ray ends whatever is in the group of a worker that has ended.
    os.setpgid(0, 0)
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        with suppress(PermissionError):  # Lower than it is only root may set it.
            OOM_SCORE.write_text(request["oom_score_adj"])
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        set_allocator(os.environ)
        # PyTorch has read it in the other process. Without, a worker of Ray's has one thread.
        threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        torch.set_num_threads(int(threads) if threads.isdecimal() and int(threads) else 1)
        # Python's own generator is seeded anew in every process.
        np.random.seed()  # noqa: NPY002 - others' code uses the generator of the old functions
        sys.argv[:] = request["arguments"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def serve(listening: int) -> None:
    """Is what the process that forks runs.

    Args:
        listening: The number of the socket's file.
    """
    with socket.socket(fileno=listening) as listener:
        # Next to nothing of what modules make is garbage; to look for it takes seconds.
        gc.disable()
        for name in _IMPORTS:
            import_module(name)
        assert "ray" not in sys.modules
        # What is there now stays; looking for garbage in it would copy it into every process.
        gc.freeze()
        gc.enable()
        _Server(listener).serve()
