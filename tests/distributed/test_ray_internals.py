"""Ray's private names: each is there, and does what `ray_internals` needs of it."""

from __future__ import annotations

import ast
import inspect
import logging
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)

import dynat_ray
from dynat_ray.distributed import ray_internals

TRAIN_CONTEXT = "ray.train.v2._internal.execution.context"
# Every private name, and the function of ours that needs it.
NAMES = {
    "ray._private.ray_constants:ENABLE_RAY_CLUSTER": "stay_on_loopback",
    "ray._private.ray_constants:ENABLE_RAY_CLUSTERS_ENV_VAR": "stay_on_loopback",
    "ray._private.utils:set_sigterm_handler": "leave_signals_alone",
    "ray._private.services:start_raylet": "workers_started_by",
    "ray._private.auto_init_hook:enable_auto_connect": "shut_down",
    "ray._raylet:AuthenticationTokenLoader.instance": "has_token",
    "ray._raylet:AuthenticationTokenLoader.has_token": "has_token",
    "ray._raylet:AuthenticationTokenLoader.reset_cache": "forget_token",
    "ray._private.worker:global_worker.connected": "forget_token",
    "ray._private.worker:print_to_stdstream": "hide_messages",
    "ray._private.ray_constants:DEBUG_AUTOSCALING_STATUS": "starts_nodes",
    "ray._raylet:GcsClient": "starts_nodes",
    "ray.core.generated.autoscaler_pb2:GetClusterStatusReply.FromString": "starts_nodes",
    "ray.experimental.internal_kv:_internal_kv_put": "set_flag",
    "ray.experimental.internal_kv:_internal_kv_get": "read_flag",
    "ray.experimental.internal_kv:_internal_kv_list": "flags_below",
    "ray.experimental.internal_kv:_internal_kv_del": "remove_flag",
    f"{TRAIN_CONTEXT}:get_train_context": "preemption_info",
    f"{TRAIN_CONTEXT}:logger": "silence_reports",
    "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer.fit": "data_parallel_trainer",
}


def changed(what: str, ours: str) -> str:
    return (
        f"Ray {ray.__version__} has changed: {what}; find another way for "
        f"`ray_internals.{ours}`, or hold Ray below this version in pyproject.toml"
    )


@pytest.mark.parametrize(("name", "ours"), NAMES.items())
def test_each_name_is_there(name: str, ours: str) -> None:
    module, _, path = name.partition(":")
    message = changed(f"there is no {name.replace(':', '.')}", ours)
    assert hasattr(ray_internals, ours)
    try:
        found: Any = import_module(module)
    except ImportError:
        pytest.fail(message)
    for part in path.split("."):
        assert hasattr(found, part), message
        found = getattr(found, part)


def test_no_other_file_uses_private_names() -> None:
    """By the syntax tree, so that words in comments do not count."""
    folder = Path(dynat_ray.__file__).parent
    found = {
        file.name: names
        for file in folder.rglob("*.py")
        if (names := _private_names(ast.parse(file.read_text())))
    }
    assert set(found) == {"ray_internals.py"}, found
    assert found["ray_internals.py"], "the search itself finds nothing any more"


def _private_names(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names.append(ast.unparse(node))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            names += [f"{called}.{keyword.arg}" for keyword in node.keywords if keyword.arg]
    return [
        name
        for name in names
        if name.startswith("ray.")
        and any(part.startswith("_") or part == "internal_kv" for part in name.split("."))
    ]


def test_a_ray_of_one_machine_stays_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants, services

    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(ray._private.worker, "_global_node", None)
    monkeypatch.setenv(variable, "1")
    monkeypatch.delenv(variable)
    ray_internals.stay_on_loopback()
    address = services.get_node_ip_address()
    message = changed(f"a Ray that is no cluster listens on {address}", "stay_on_loopback")
    assert address in ("127.0.0.1", "::1"), message
    program = "from ray._private import ray_constants; print(ray_constants.ENABLE_RAY_CLUSTER)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    message = changed(f"its processes do not read {variable}", "stay_on_loopback")
    assert done.stdout.strip() == "False", message


def test_workers_are_started_by_programs_that_can_be_replaced() -> None:
    from ray._private import services
    from ray._private.workers import setup_worker

    ours = "workers_started_by"
    needed = {"worker_path", "setup_worker_path"}
    message = changed("a node is told otherwise what starts a worker", ours)
    assert needed <= set(inspect.signature(services.start_raylet).parameters), message
    # What `forked_worker` reads in the place of the second program.
    options = {option for each in setup_worker.parser._actions for option in each.option_strings}
    message = changed(f"an environment of its own is told by {sorted(options)}", ours)
    read = {"--serialized-runtime-env-context", "--language"}
    assert options - {"-h", "--help"} == read, message


def test_of_the_nodes_messages_some_can_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ray._private.worker
    expected = ["data", "ignore_prefix"]
    message = changed("print_to_stdstream takes other arguments", "hide_messages")
    assert list(inspect.signature(worker.print_to_stdstream).parameters) == expected, message
    shown: list[str] = []
    monkeypatch.setattr(
        worker, "print_to_stdstream", lambda data, ignore_prefix: shown.extend(data["lines"])
    )
    ray_internals.hide_messages("maximum expected startup concurrency")
    said = ["10 PYTHON processes, 5x the maximum expected startup concurrency", "out of memory"]
    job = SimpleNamespace(binary=lambda: b"this job")

    class Messages:
        """Stands for what nodes say to this program."""

        subscribe = staticmethod(lambda: None)

        def poll(self) -> tuple[None, dict[str, Any]]:
            if not said:
                raise ConnectionError("that was all")
            return None, {"job_id": None, "error_message": said.pop(0)}

    stub: Any = SimpleNamespace(gcs_error_subscriber=Messages(), current_job_id=job)
    monkeypatch.setattr(worker, "_internal_kv_initialized", lambda: False)
    worker.listen_error_messages(stub, threading.Event())
    message = changed("it shows messages of nodes in another way", "hide_messages")
    assert shown == ["out of memory"], message


def test_a_cluster_that_starts_no_nodes_is_known(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does is in `tests/faults/test_autoscaling.py`."""
    message = changed("it says otherwise whether nodes are started", "starts_nodes")
    assert not ray_internals.starts_nodes(), message
    report = b'{"autoscaler_report": {"active_nodes": {"%s": 1}}}'
    for kind, starts in ((b"node_0a1b", False), (b"gpu", True)):
        monkeypatch.setattr(
            ray_internals.internal_kv, "_internal_kv_get", lambda _, kind=kind: report % kind
        )
        assert ray_internals.starts_nodes() == starts, message


def test_a_flag_is_seen_by_workers_until_it_is_removed(local_ray: None) -> None:
    look = ray.remote(num_cpus=0)(ray_internals.read_flag)
    seen = [ray.get(look.remote("a-flag"))]
    ray_internals.set_flag("a-flag", "up")
    seen.append(ray.get(look.remote("a-flag")))
    below = ray_internals.flags_below("a-")
    ray_internals.remove_flag("a-flag")
    ray_internals.remove_flag("a-flag")
    seen.append(ray.get(look.remote("a-flag")))
    message = changed("its store of keys is not what it was", "set_flag")
    assert seen == ["", "up", ""], message
    assert below == ["a-flag"], message


def test_the_head_has_a_resource_of_its_own(local_ray: None) -> None:
    amount = ray.cluster_resources().get(ray_internals.HEAD_NODE)
    assert amount == 1.0, changed("the head node has another resource", "HEAD_NODE")


def test_a_placement_group_is_its_programs_own(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = placement_group([{"CPU": 0.01}])
    key, job = ours.id.hex(), ray.get_runtime_context().get_job_id()
    table = placement_group_table()
    another = key.removesuffix(job) + "f" * len(job)
    monkeypatch.setattr(
        ray_internals, "placement_group_table", lambda: {**table, another: table[key]}
    )
    own = ray_internals.own_placement_groups()
    remove_placement_group(ours)
    assert key in own, changed("an id does not end with its job's", "own_placement_groups")
    assert another not in own


def test_a_worker_knows_which_nodes_are_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    context = import_module(TRAIN_CONTEXT)
    try:
        from ray.train.v2._internal.execution.preemption import PreemptionContext
        from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker
    except ImportError:
        pytest.fail(changed("workers hear of drained nodes in another way", "preemption_info"))
    own = SimpleNamespace(preemption_context=PreemptionContext(), get_world_rank=lambda: 0)
    monkeypatch.setattr(context, "_train_context", own)
    message = changed("a worker keeps drained nodes elsewhere", "preemption_info")
    assert ray_internals.preemption_info() is None, message
    infos = [
        ray.train.PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"node": [rank]})
        for rank in (0, 0, 1)
    ]
    RayTrainWorker.mark_preempt(None, infos[0])
    assert ray_internals.preemption_info() == infos[1] != infos[2], message


def test_the_trainer_is_that_of_pytorch_too() -> None:
    trainer = ray_internals.data_parallel_trainer()
    message = changed("TorchTrainer is something else", "data_parallel_trainer")
    assert trainer in import_module("ray.train.torch").TorchTrainer.__mro__, message


TOKENS = """
import os
import ray
from dynat_ray.distributed.ray_internals import forget_token, has_token

os.environ["RAY_AUTH_TOKEN"] = "a" * 64
found = [has_token()]
del os.environ["RAY_AUTH_TOKEN"]
found.append(has_token())
forget_token()
found.append(has_token())
print(found)
"""


def test_a_token_is_looked_for_anew_when_it_is_forgotten(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOKENS],
        env={
            "PATH": "",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(Path(dynat_ray.__file__).parents[1]),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    message = changed("it finds and keeps tokens in another way", "forget_token")
    assert done.stdout.strip() == "[True, True, False]", message


def test_reports_are_logged_where_they_are_silenced() -> None:
    context = import_module(TRAIN_CONTEXT)
    level = context.logger.level
    message = changed("it logs reports elsewhere", "silence_reports")
    assert "Reporting training result" in inspect.getsource(context.TrainContext), message
    try:
        ray_internals.silence_reports()
        assert not context.logger.isEnabledFor(logging.ERROR), message
    finally:
        context.logger.setLevel(level)


def test_a_ray_that_was_shut_down_does_not_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import auto_init_hook

    started: list[str] = []
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", True)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda: started.append("another Ray"))
    # What Ray does first in `ray.get` and the like.
    auto_init_hook.auto_init_ray()
    assert started == ["another Ray"], changed("it does not start by itself any more", "shut_down")
    ray_internals.shut_down()
    auto_init_hook.auto_init_ray()
    assert started == ["another Ray"], changed("it starts without being asked", "shut_down")
