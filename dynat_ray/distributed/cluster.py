"""Ray itself: attaching to a cluster or starting a local one, quietly."""

from __future__ import annotations

import os

# Read by Ray when it is imported or starts its processes.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
_QUIET_PROCESSES = 8
_STARTS = 3
# For a machine that is there, and for a cluster whose head is.
_CONNECT_SECONDS = 10.0
_PATIENCE = 60.0
_TIMED_OUT = "timed out during startup"
# A message about every small machine on which several runs start side by side.
_CHATTER = "maximum expected startup concurrency"
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)

import logging  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from contextlib import (  # noqa: E402
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from pathlib import Path  # noqa: E402

import ray  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

from dynat_ray import interrupt  # noqa: E402
from dynat_ray.distributed.fork_server import PROGRAM, ForkServer, can_fork  # noqa: E402
from dynat_ray.distributed.head_watch import watch_head  # noqa: E402
from dynat_ray.distributed.local_environment import STATE_API, own_environment  # noqa: E402
from dynat_ray.distributed.ray_internals import (  # noqa: E402
    hide_messages,
    leave_signals_alone,
    shut_down,
    stay_on_loopback,
    workers_started_by,
)
from dynat_ray.errors import UserError  # noqa: E402
from dynat_ray.object_store import is_address  # noqa: E402
from dynat_ray.processes import descendants  # noqa: E402


def connect() -> None:
    """Attaches to the cluster that `RAY_ADDRESS` names, else starts one on this machine.

    A local cluster listens on loopback only, obeys nobody but this process and its own, and ends
    with it. Ray's own log lines are kept from the terminal.

    Raises:
        UserError: `RAY_ADDRESS` names a cluster that does not answer, or none starts here; or the
            token that the user named is not there.
    """
    if ray.is_initialized():
        return
    if interrupt.is_command():
        leave_signals_alone()
    try:
        _start()
    except ray.exceptions.AuthenticationError as error:
        raise UserError(
            f"{error.message}; Ray looks for the cluster's token in RAY_AUTH_TOKEN, in the file "
            "that RAY_AUTH_TOKEN_PATH names, and in ~/.ray/auth_token"
        ) from None
    # What Ray has written in C++ would print a stack trace of SIGTERM first.
    interrupt.take_signals_back()
    interrupt.at_end(shut_down)
    watch_head()


def _start() -> None:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        hide_messages(_CHATTER)
        _require_listener(address)
        silent = f"the Ray cluster at RAY_ADDRESS={address} does not answer in {_PATIENCE:g} s"
        try:
            with interrupt.time_limit(_PATIENCE, f"{silent}; look whether its head is alive"):
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except ValueError:
            raise UserError(
                f"RAY_ADDRESS={address} is no address of a cluster, such as auto or HOST:6379 (the "
                "http:// address of its dashboard is for `ray job submit`)"
            ) from None
        except (ConnectionError, RuntimeError) as error:
            raise UserError(
                f"the Ray cluster at RAY_ADDRESS={address} does not answer: {error}"
            ) from None
        return
    # On few cores Ray would warn of so many processes, most of which do next to nothing.
    os.environ.setdefault(
        "RAY_worker_maximum_startup_concurrency", str(max(_QUIET_PROCESSES, os.cpu_count() or 1))
    )
    # Nobody drains the one machine that there is: no training needs a process that looks for it.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    stay_on_loopback()
    with own_environment() as scratch, _forking(scratch):
        _start_local()


def _forking(folder: Path) -> AbstractContextManager[None]:
    if not can_fork():
        return nullcontext()
    return workers_started_by(PROGRAM, lambda *programs: ForkServer(folder, *programs).end_with)


def _require_listener(address: str) -> None:
    """Raises `UserError` if nobody listens at `HOST:PORT`, for which Ray itself would wait long."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"nobody answers at RAY_ADDRESS={address}: {error}; start the cluster, or unset "
            "RAY_ADDRESS to run on this machine alone"
        ) from None


def _start_local() -> None:
    for _ in range(_STARTS):
        try:
            with _all_or_nothing():
                # With its dashboard, though nobody looks at it and its processes never rest: a part
                # of it is the State API, by which Ray Train learns that a controller has died, and
                # frees what its workers held. Without, the next run would wait for that for ever.
                port = _free_port()
                os.environ[STATE_API] = f"http://127.0.0.1:{port}"
                ray.init(
                    address="local",
                    dashboard_host="127.0.0.1",
                    dashboard_port=port,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            return
        except Exception as error:
            # Ray raises a plain one when its processes take more than half a minute to answer.
            if _TIMED_OUT not in str(error):
                raise
            ray.shutdown()
    raise UserError(
        f"Ray did not start on this machine in {_STARTS} attempts of half a minute: other work "
        "takes all of its cores; end some of it, or start a cluster (ray start --head) and set "
        "RAY_ADDRESS"
    )


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


@contextmanager
def _all_or_nothing() -> Iterator[None]:
    """Ends the processes of a Ray that does not come to its start: Ray itself forgets them.

    They would take the next attempt's time, and outlive a command that is stopped meanwhile.
    """
    before = descendants()

    def end_them() -> None:
        for process in descendants() - before:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    interrupt.at_end(end_them)
    try:
        yield
    except BaseException:
        end_them()
        raise
    finally:
        interrupt.not_at_end(end_them)


def is_one_machine() -> bool:
    """Returns whether the cluster has no other node than this process's own."""
    return len(living_nodes()) == 1


def living_nodes() -> dict[str, str]:
    """Returns the address of every node that is there, by its id."""
    connect()
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def require_shared_storage(out_given: bool) -> None:
    """Raises `UserError` on several nodes if nobody said where all of them can write.

    Args:
        out_given: The user gave a folder for runs.
    """
    nodes = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) > 1 and not out_given:
        raise UserError(
            f"the cluster has {len(nodes)} machines; give a folder that all of them share with "
            "--out, DYNAT_RAY_OUT or cluster.storage"
        )


def require_everywhere(places: Sequence[Path | str]) -> None:
    """Raises `UserError` if some node lacks a path that the workers will read or write.

    Args:
        places: Absolute paths; addresses are not looked for, since a node fetches what lies there.
    """
    paths = [str(place) for place in places if not is_address(str(place))]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2 or not paths:
        return
    look = ray.remote(num_cpus=0, max_retries=0)(_lacking)
    answers = {
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(paths): node["NodeManagerAddress"]
        for node in nodes
    }
    for answer, address in answers.items():
        try:
            lacking = ray.get(answer)
        except ray.exceptions.RayError:
            # It has gone meanwhile; who comes later finds the path, or says that there is none.
            continue
        if lacking:
            raise UserError(
                f"the machine {address} of the cluster has no {lacking[0]}; prepared data must lie "
                "on the same path on all machines (DYNAT_RAY_CACHE or --data.path on storage that "
                "they share, or --data.path s3://BUCKET/NAME), and runs on storage that they share "
                "(--out, also s3://BUCKET/PREFIX)"
            )


def _lacking(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]
