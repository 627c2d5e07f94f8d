"""What fits on nodes that are there, and on those that may come."""

from __future__ import annotations

import pytest
import ray

from dynat_ray.cluster_config import ClusterConfig
from dynat_ray.distributed import capacity, waiting_for_nodes
from dynat_ray.distributed.capacity import (
    LIMITS,
    RUN_BYTES,
    NodeKind,
    parse_limits,
    side_by_side,
)
from dynat_ray.distributed.evaluator import default_workers
from dynat_ray.distributed.ray_internals import HEAD_NODE
from dynat_ray.distributed.ray_trainer import _seconds_between_polls, resolve_workers
from dynat_ray.distributed.waiting_for_nodes import WaitingWords
from dynat_ray.errors import UserError


@pytest.fixture(autouse=True)
def one_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    there_are(monkeypatch, (2, 0))


def there_are(
    monkeypatch: pytest.MonkeyPatch, *nodes: tuple[int, int], grows: bool = False
) -> None:
    """Has the cluster these nodes, each with CPUs and GPUs."""
    kinds = [NodeKind(1, cpus, gpus) for cpus, gpus in nodes]
    monkeypatch.setattr(capacity, "present_nodes", lambda: kinds)
    monkeypatch.setattr(capacity, "connect", lambda: None)
    monkeypatch.setattr(capacity, "starts_nodes", lambda: grows)
    head_has(monkeypatch, 64)


def head_has(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    """Has the head so much memory, beside a node that has more."""
    resources = [{"memory": 1e13}, {"memory": 1e9 * gigabytes, HEAD_NODE: 1.0}]
    monkeypatch.setattr(ray, "nodes", lambda: [{"Resources": each} for each in resources])


def test_limits_name_kinds_of_nodes() -> None:
    assert parse_limits("") == []
    assert parse_limits("8xCPU=6,GPU=1+2xCPU=16") == [NodeKind(8, 6, 1), NodeKind(2, 16, 0)]


@pytest.mark.parametrize("text", ["8", "8xGPU=1", "xCPU=6", "8xCPU=6;2xCPU=4", "8xCPU=-1", "+"])
def test_limits_written_otherwise_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="it must name nodes, CPUs and GPUs of each kind of node"):
        parse_limits(text)


def test_nodes_that_may_come_count(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ClusterConfig(workers=64, gpu=True)
    with pytest.raises(UserError, match="64 workers with 1 CPU and a GPU each .* room for 0 "):
        resolve_workers(wanted)
    monkeypatch.setenv(LIMITS, "8xCPU=64,GPU=8")
    assert resolve_workers(wanted) == (64, 64, True)
    assert resolve_workers(ClusterConfig()) == (64, 64, True)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert default_workers().count == 64


def test_a_worker_is_not_spread_over_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    there_are(monkeypatch, (4, 1), (4, 0))
    assert side_by_side(1, 3, gpu=False) == 2
    assert side_by_side(1, 6, gpu=False) == 0
    assert side_by_side(1, 1, gpu=True) == 1
    with pytest.raises(UserError, match="1 workers with 6 CPUs each were asked for"):
        resolve_workers(ClusterConfig(workers=1, cpus_per_worker=6, gpu=False))
    monkeypatch.setenv(LIMITS, "8xCPU=8,GPU=1")
    assert side_by_side(2, 6, gpu=False) == 4
    assert side_by_side(1, 1, gpu=True) == 8
    assert side_by_side(9, 1, gpu=True) == 0
    # Eight GPUs, but each beside too few CPUs.
    assert side_by_side(1, 9, gpu=True) == 0


def test_a_cluster_that_grows_to_nobody_knows_what(monkeypatch: pytest.MonkeyPatch) -> None:
    there_are(monkeypatch, (2, 0), grows=True)
    with pytest.raises(UserError, match=f"nobody has named: set {LIMITS} on its head"):
        resolve_workers(ClusterConfig())
    assert resolve_workers(ClusterConfig(workers=8, gpu=True)) == (8, 8, True)
    assert side_by_side(8, 1, gpu=True) == 1


def test_the_heads_memory_bounds_how_many_runs_go_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(LIMITS, "512xCPU=8,GPU=1")
    for gigabytes, trials, runs in ((64, 70, 46), (12, 11, 7), (0.1, 1, 1)):
        head_has(monkeypatch, gigabytes)
        assert side_by_side(1, 1, gpu=True) == trials
        assert side_by_side(1, 1, gpu=True, head_bytes=RUN_BYTES) == runs


def test_the_controller_polls_no_more_than_64_workers_a_second() -> None:
    assert [_seconds_between_polls(workers) for workers in (1, 32, 64, 512)] == [0.5, 0.5, 1, 8]


def test_waiting_has_words_and_an_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(waiting_for_nodes.time, "monotonic", lambda: now)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 6.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 2.0})
    words = WaitingWords(8, 4, True, 30)
    words.look()
    words.end()
    assert capsys.readouterr().out == ""
    now += 6
    words.look()
    words.look()
    (line,) = capsys.readouterr().out.splitlines()
    assert "for nodes with room for 8 GPU workers of 4 CPUs, at most 30 minutes" in line
    assert "there are 0 of 0 GPUs and 2 of 6 CPUs free" in line
    words.end()
    assert capsys.readouterr().out == "waited    6 s\n"
    now += 1800
    with pytest.raises(UserError, match=r"waited 30 minutes \(cluster.start_minutes\) for nodes"):
        words.look()
