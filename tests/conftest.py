"""Who runs which tests, in which order, and how it ends; fixtures are in `fixtures.py`."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

_RAY = "tests/distributed/"
# What would leave one process alone for most of a minute if it came last.
_LONG = (
    _RAY,
    "tests/test_quickstart.py",
    "tests/benchmarks/test_rehearsal.py",
    "tests/benchmarks/test_peak_memory.py",
    "tests/training/test_other_device.py",
)


class _OneRay(LoadFileScheduling):
    """Gives a file to one process, and all of tests/distributed to the same: it starts Ray once."""

    def _split_scope(self, nodeid: str) -> str:
        return _RAY if nodeid.startswith(_RAY) else super()._split_scope(nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """Imports the fixtures, and so PyTorch, where tests run.

    The process that only hands tests out (`-n 3`) would keep the others waiting for ten seconds.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Numba compiles for a few images here, and reads this when it is imported.
    os.environ.setdefault("NUMBA_OPT", "1")
    # Inductor would compile programs to see whether the processor can do what it says it can.
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("tx"):
        from tests.processes import fork_server

        fork_server()
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts first what takes longest, so that all processes end at the same time."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_collection_finish() -> None:
    """Keeps the collector from looking through all modules and tests again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _OneRay:
    """Says who runs what where tests run side by side (`-n 3`), in the order of the items."""
    config.option.loadscopereorder = False
    return _OneRay(config, log)


_exit_status: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    """Remembers what this process is to return."""
    _exit_status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Ends this process as it is, when all has been said.

    Native threads of Ray, gRPC and Arrow's S3 outlive their tests; on a busy machine one of them
    crashed while the interpreter was taken down, after 930 tests had passed. Commands are tested
    as processes of their own, which end as they end for a user.
    """
    if _exit_status:
        if ray := sys.modules.get("ray"):
            ray.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_status[-1])
