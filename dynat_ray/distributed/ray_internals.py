"""Every private name of Ray that this package needs, each behind a function of ours.

Ray may change them without a word, so nothing else here touches them. All were read in and tried
with Ray 2.60.0, the oldest version that `pyproject.toml` allows; no public API of that version does
the same, and each function says what comes nearest. `tests/distributed/test_ray_internals.py` asks
the installed Ray for every one of them and says in a sentence what has changed.

Ray Train's take more than a second to import, so the functions that need them do it.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray._private import auto_init_hook, ray_constants, services
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    GcsClient,
)
from ray.core.generated import autoscaler_pb2
from ray.experimental import internal_kv
from ray.util.placement_group import placement_group_table

if TYPE_CHECKING:
    import ray.train

_AUTOSCALING_STATUS = ray_constants.DEBUG_AUTOSCALING_STATUS
HEAD_NODE = "node:__internal_head__"
"""A resource that the head node alone has, 1 of it. Other nodes have names that follow from their
addresses, so there is no public name for the one that the command runs beside."""


def stay_on_loopback() -> None:
    """Makes a Ray that this process starts listen on loopback only.

    Ray listens on all interfaces even for one machine, unless it thinks that it can't be a cluster,
    as it does on Windows. It has read the public variable for that (`ENABLE_RAY_CLUSTERS_ENV_VAR`)
    when it was imported; the processes that it starts read it then.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.setdefault(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0")


def leave_signals_alone() -> None:
    """Has `ray.init` leave this process's handler of SIGTERM in its place.

    Ray's own, which is there from the first moment of a start, ends the interpreter, which takes
    long while Ray's processes start, and with a status that is no signal's.
    """
    ray._private.utils.set_sigterm_handler = lambda handler: None


@contextmanager
def workers_started_by(
    program: str, prepare: Callable[[str, str], Callable[[int], object]]
) -> Iterator[None]:
    """While its context lasts, a Ray that starts runs another program for each of its workers.

    `runtime_env={"py_executable": ...}` comes nearest; with it Ray's agent prepares an environment
    before every process.

    Args:
        program: Path of a Python program, which gets the arguments of Ray's own. It is its own
            first argument where Ray would first start another, for an environment of its own.
        prepare: Called with the paths of Ray's own programs, for a worker and for its environment,
            before the process starts that starts workers; what it returns is called with that
            process's number.
    """
    start = services.start_raylet
    signature = inspect.signature(start)

    def start_with_program(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        own = ("worker_path", "setup_worker_path")
        tell = prepare(*map(bound.arguments.__getitem__, own))
        bound.arguments.update(dict.fromkeys(own, program))
        started = start(*bound.args, **bound.kwargs)
        tell(started.process.pid)
        return started

    services.start_raylet = start_with_program
    try:
        yield
    finally:
        services.start_raylet = start


def shut_down() -> None:
    """Ends Ray in this process for good.

    A thread that still waits for something would start another Ray when it asks next. The public
    variable for that (`RAY_ENABLE_AUTO_CONNECT`) was read when Ray was imported.
    """
    auto_init_hook.enable_auto_connect = False
    ray.shutdown()


def has_token() -> bool:
    """Returns whether Ray finds a token: in the environment, or in a file that it names or knows.

    Where it finds none, `ray.init` writes one into the user's home.
    """
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def forget_token() -> None:
    """Makes a process that is attached to no Ray look for a token anew, where it has found one."""
    if not ray._private.worker.global_worker.connected:
        AuthenticationTokenLoader.instance().reset_cache()


def hide_messages(words: str) -> None:
    """Keeps from the terminal what nodes of the cluster say with these words.

    `ray.init(log_to_driver=False)` hides what workers print, but not messages of nodes, some of
    which (out of memory) the user must see.

    Args:
        words: Part of a message.
    """
    show = ray._private.worker.print_to_stdstream

    def show_others(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not any(words in line for line in data["lines"]):
            show(data, ignore_prefix)

    ray._private.worker.print_to_stdstream = show_others


def starts_nodes() -> bool:
    """Returns whether Ray starts nodes of this cluster itself.

    `ray status` says so in words only. What nodes may come it says nowhere: the one place for that
    (`get_max_resources_from_cluster_config`) is filled by Anyscale's Ray alone.
    """
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    # The class is made when its module is imported, so that static types do not know it.
    reply: Any = autoscaler_pb2.GetClusterStatusReply  # type: ignore[attr-defined]
    if reply.FromString(client.get_cluster_status()).autoscaling_state.autoscaler_state_version:
        return True
    # The older autoscaler leaves a report; one that only looks calls each node a type of its own.
    report = json.loads(internal_kv._internal_kv_get(_AUTOSCALING_STATUS) or "{}")
    types = (report.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not name.startswith("node_") for name in types)


def set_flag(name: str, value: str = "set") -> None:
    """Sets a flag that `read_flag` sees on every machine of the cluster, at once.

    It lies in the store of the cluster's head. A named actor could hold it, as a process of its
    own that takes seconds to start.

    Args:
        name: Nobody else's.
        value: What `read_flag` returns.
    """
    internal_kv._internal_kv_put(name, value.encode())


def read_flag(name: str) -> str:
    """Returns what a flag is set to; empty: it is not set."""
    return (internal_kv._internal_kv_get(name) or b"").decode()


def flags_below(prefix: str) -> list[str]:
    """Returns the names of the flags that begin with `prefix`."""
    return [name.decode() for name in internal_kv._internal_kv_list(prefix)]


def remove_flag(name: str) -> None:
    """Removes a flag, if it is set."""
    internal_kv._internal_kv_del(name)


def own_placement_groups() -> list[str]:
    """Returns the ids of the placement groups that this program, a job to Ray, has not removed.

    The table has everybody's, and an id ends with that of its job. The State API says whose each
    is, but fails where a second Ray runs on the machine.
    """
    job = ray.get_runtime_context().get_job_id()
    return [
        group
        for group, found in placement_group_table().items()
        if group.endswith(job) and found["state"] != "REMOVED"
    ]


def preemption_info() -> ray.train.PreemptionInfo | None:
    """Returns what this training worker knows of nodes that Ray drains.

    `ray.train.get_preemption_info` returns the same, but only when all workers have asked.
    """
    from ray.train.v2._internal.execution import context

    info: ray.train.PreemptionInfo | None
    info = context.get_train_context().preemption_context.preemption_info
    return info


def silence_reports() -> None:
    """Keeps a training worker from logging every report, which its `LoggingConfig` does not."""
    from ray.train.v2._internal.execution import context

    context.logger.setLevel(logging.CRITICAL)


def data_parallel_trainer() -> Any:
    """Returns Ray Train's trainer for any process group.

    `ray.train.torch.TorchTrainer` is the same with a public name, and imports PyTorch; the name in
    `ray.train.data_parallel_trainer` is that of an older API.
    """
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    return DataParallelTrainer
