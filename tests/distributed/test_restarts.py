"""Errors of the program and lost machines, counted apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import ray.train
from ray.exceptions import ActorDiedError, RayActorError

from dynat_ray.cluster_config import ClusterConfig
from dynat_ray.distributed import restarts
from dynat_ray.distributed.ray_trainer import _cause_of
from dynat_ray.distributed.restarts import Restarts
from dynat_ray.errors import UserError

NODES = {"a": "10.0.0.1", "b": "10.0.0.2"}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which nodes there are from now on."""

    def there_are(*names: str) -> None:
        found = {name: NODES[name] for name in names}
        monkeypatch.setattr(restarts, "living_nodes", lambda: found)

    there_are("a", "b")
    return there_are


def failed(error: Exception) -> ray.train.WorkerGroupError:
    return ray.train.WorkerGroupError("whatever", {3: error, 5: RuntimeError("later")})


def test_an_error_that_repeats_ends_the_run(nodes: Callable[..., None]) -> None:
    counted = Restarts(ClusterConfig(max_failures=2))
    error = failed(ValueError("Traceback ...\n  shapes do not fit"))
    sentences = [counted.allow(error) for _ in range(3)]
    assert sentences == [
        "worker 3 failed: shapes do not fit; restart 1 of at most 2, from the last checkpoint",
        "worker 3 failed: shapes do not fit; restart 2 of at most 2, from the last checkpoint",
        "",
    ]


def found_dead(death: RayActorError) -> Exception:
    """As Ray Train reports a worker that no longer answers."""
    error = RuntimeError("a health check failed\n" * 9)
    error.health_check_failure = death  # type: ignore[attr-defined]
    return error


def test_a_process_that_died_is_named_before_those_that_lost_it(
    nodes: Callable[..., None],
) -> None:
    counted = Restarts(ClusterConfig())
    error = ray.train.WorkerGroupError(
        "", {0: RuntimeError("connection closed by peer"), 1: found_dead(ActorDiedError())}
    )
    assert counted.allow(error).startswith("the process of worker 1 died, perhaps for want of mem")


def test_a_dead_controller_is_an_error_like_others(nodes: Callable[..., None]) -> None:
    counted = Restarts(ClusterConfig(max_failures=1))
    assert counted.allow(ActorDiedError()) == (
        "the process that led the training died, perhaps for want of memory; "
        "restart 1 of at most 1, from the last checkpoint"
    )
    assert counted.allow(failed(ValueError("x"))) == ""
    assert counted.allow(ActorDiedError()) == ""


def test_what_the_user_can_correct_is_said_whichever_worker_found_it() -> None:
    others = RuntimeError("connection closed by peer")
    mistake = UserError("the loss is not finite")
    wrapped = RuntimeError("worker 1")
    wrapped.__cause__ = mistake
    error = ray.train.WorkerGroupError("", {0: others, 1: wrapped, 2: found_dead(ActorDiedError())})
    assert _cause_of(error) is mistake
    died = _cause_of(ray.train.WorkerGroupError("", {0: others, 2: found_dead(ActorDiedError())}))
    assert isinstance(died, UserError)
    assert str(died).startswith("the process of worker 2 died, perhaps for want of memory, and clu")
    assert str(_cause_of(ActorDiedError())).startswith("the process that led the training died")
    assert str(_cause_of(failed(ValueError("x")))) == "worker 3 failed: x"


def test_lost_machines_are_not_errors(nodes: Callable[..., None]) -> None:
    counted = Restarts(ClusterConfig(max_failures=0, max_preemption_failures=2))
    died = failed(ActorDiedError())
    nodes("a")
    assert counted.allow(died) == (
        "machine 10.0.0.2 was lost; restart 1 of at most 2, from the last checkpoint"
    )
    # A process that dies on a machine that stays is one.
    assert counted.allow(died) == ""
    told = ray.train.WorkerGroupError("", {0: found_dead(RayActorError(preempted=True))})
    assert counted.allow(told).startswith("a machine goes; restart 2 of at most 2")
    nodes("a", "b")
    assert counted.allow(told) == ""


def test_without_bound(nodes: Callable[..., None]) -> None:
    counted = Restarts(ClusterConfig())
    for number in range(20):
        nodes("a", "b")
        counted.allow(failed(RayActorError(preempted=True)))
        nodes("a")
        assert counted.allow(failed(ActorDiedError())).endswith(
            f"restart {2 * number + 2}, from the last checkpoint"
        )


def test_what_ray_gives_up_is_not_tried_again(nodes: Callable[..., None]) -> None:
    assert Restarts(ClusterConfig()).allow(ray.train.ControllerError(ValueError("x"))) == ""
