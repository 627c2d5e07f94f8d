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
# Paths of sockets have at most 103 characters on some systems, and Ray adds 68 to its folder's.
_LONGEST_BASE = 23
# Python's own sockets, which Ray's dashboard has there, add 32, and the scratch folder 21.
_LONGEST_TMPDIR = 49
_SCRATCH = "dynat-ray-ray-"
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"
# Where Ray's processes ask for the state of others. Left to find it, they look for any Ray on the
# machine, and give up if there are two.
_STATE_API = "RAY_API_SERVER_ADDRESS"
_TIMED_OUT = "timed out during startup"
# A message about every small machine on which several runs start side by side.
_CHATTER = "maximum expected startup concurrency"
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)

import atexit  # noqa: E402
import logging  # noqa: E402
import secrets  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import stat  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from contextlib import (  # noqa: E402
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    suppress,
)
from pathlib import Path  # noqa: E402

import ray  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

from dynat_ray import interrupt  # noqa: E402
from dynat_ray.distributed.fork_server import PROGRAM, ForkServer, can_fork  # noqa: E402
from dynat_ray.distributed.forked_worker import ADDRESS, RAYS, SETS_UP  # noqa: E402
from dynat_ray.distributed.head_watch import watch_head  # noqa: E402
from dynat_ray.distributed.ray_internals import (  # noqa: E402
    forget_token,
    has_token,
    hide_messages,
    leave_signals_alone,
    shut_down,
    stay_on_loopback,
    workers_started_by,
)
from dynat_ray.errors import UserError  # noqa: E402
from dynat_ray.object_store import is_address  # noqa: E402
from dynat_ray.owned_folder import owned_folder  # noqa: E402
from dynat_ray.processes import descendants  # noqa: E402
from dynat_ray.temporary import LASTING  # noqa: E402


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
    with _own_environment() as scratch, _forking(scratch):
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
                os.environ[_STATE_API] = f"http://127.0.0.1:{port}"
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


@contextmanager
def _own_environment() -> Iterator[Path]:
    """While its context lasts, a Ray that starts has a token and a folder that are its user's own.

    Ray's processes inherit both and this one remembers them, so that they need not stay in the
    environment, where a later cluster or command would take them for the user's.
    """
    names = (
        *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR", "TMPDIR"),
        *(LASTING, _COMPILED, _STATE_API, ADDRESS, RAYS, SETS_UP),
    )
    before = {name: os.environ.get(name) for name in names}
    private = _private_folder()
    os.environ["RAY_TMPDIR"] = str(private)
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary)) > _LONGEST_TMPDIR:
        temporary = private
    os.environ[LASTING] = str(temporary)
    os.environ.setdefault(_COMPILED, str(temporary / f"torchinductor-{os.getuid()}"))
    scratch = _scratch(temporary)
    os.environ["TMPDIR"] = str(scratch)
    _set_token()
    try:
        yield scratch
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _scratch(parent: Path) -> Path:
    """Returns the folder for temporary files of Ray's processes, which ends with this one.

    Ray kills them, and so they leave what they have there.
    """
    owned = ExitStack()
    folder = owned.enter_context(owned_folder(parent, _SCRATCH))

    def end() -> None:
        shut_down()
        owned.close()

    atexit.register(end)
    # Called after what ends Ray, which is added later.
    interrupt.at_end(owned.close)
    return folder


def _set_token() -> None:
    """Has the environment give Ray a token that nobody else knows.

    `RAY_AUTH_MODE` is the user's word: `disabled` starts Ray without a token, `token` with the
    user's, where there is one. Without a word Ray itself asks for tokens, and would write one into
    the user's home.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if not mode:
        os.environ.pop("RAY_AUTH_MODE", None)
    forget_token()
    if not mode or (mode == "token" and not has_token()):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        forget_token()


def _private_folder() -> Path:
    """Returns the folder for Ray's sockets and logs, which Ray itself lets everybody write to.

    Raises:
        UserError: Somebody else made it.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    if "RAY_TMPDIR" not in os.environ and len(str(base)) > _LONGEST_BASE:
        base = Path("/tmp")
    base.mkdir(parents=True, exist_ok=True)
    folder = base / f"ray-{os.getuid()}"
    with suppress(FileExistsError):  # Whatever it is, it is looked at next.
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(
            f"{folder} is no folder of yours that others can't open, so Ray's sockets would not be "
            "safe there; remove it, or set RAY_TMPDIR to a folder of yours"
        )
    return folder


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
