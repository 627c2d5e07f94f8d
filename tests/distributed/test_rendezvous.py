"""Workers of one machine meet on its loopback and nowhere else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray.train
import torch
import torch.distributed as dist

from dynat_ray.distributed import rendezvous
from dynat_ray.distributed.process_group import ProcessGroup
from tests.distributed.watching import LOOPBACK, listening_places
from tests.processes import run_side_by_side


def _work(rank: int, folder: Path) -> None:
    """Does what a worker does, without Ray: sets up, sums, and says where it listens meanwhile."""
    rendezvous.listen_on_little(one_machine=True)
    if rank == 0:
        (folder / "new").write_text(json.dumps(rendezvous.open_store()))
        (folder / "new").rename(folder / "store")
    while not (folder / "store").exists():
        time.sleep(0.05)
    numbers = {"world_rank": rank, "local_rank": rank, "node_rank": 0}
    numbers |= {"world_size": 2, "local_world_size": 2}
    methods = {f"get_{name}": lambda number=n: number for name, n in numbers.items()}  # type: ignore[misc]
    here = SimpleNamespace(**methods)
    ray.train.get_context = lambda: here  # type: ignore[assignment,return-value]
    store = json.loads((folder / "store").read_text())
    rendezvous.join_group(store, gpu=False, seconds=60)
    assert (os.environ["LOCAL_RANK"], os.environ["NODE_RANK"]) == (str(rank), "0")
    total = torch.ones(3)
    dist.all_reduce(total)
    dist.all_reduce(total, group=dist.new_group(backend="gloo"))
    places = listening_places(psutil.Process())
    (folder / f"said-{rank}").write_text(json.dumps([total.tolist(), places]))
    dist.barrier()
    rendezvous.leave_group()
    assert not dist.is_initialized()


def test_two_workers_listen_on_loopback_only(tmp_path: Path) -> None:
    run_side_by_side(_work, tmp_path, processes=2)
    said = [json.loads((tmp_path / f"said-{rank}").read_text()) for rank in (0, 1)]
    assert [total for total, _ in said] == [[4.0] * 3] * 2
    places = [place for _, places in said for place in places]
    assert len(places) > 1
    assert [place for place in places if not place.startswith(LOOPBACK)] == []


def test_on_several_machines_the_store_has_the_address_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(rendezvous, "node_address", lambda: "127.0.0.3")
    monkeypatch.setattr(rendezvous, "_kept", [])
    rendezvous.listen_on_little(one_machine=False)
    assert not {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"} & os.environ.keys()
    address, port = rendezvous.open_store()
    listening = {
        each.laddr.ip
        for each in psutil.Process().net_connections("inet")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    }
    assert listening == {address} == {"127.0.0.3"}


@pytest.mark.parametrize(("machines", "one"), [(["a", "a"], True), (["a", "b"], False)])
def test_workers_are_told_whether_they_share_a_machine(machines: list[str], one: bool) -> None:
    told: list[Any] = []

    def execute(function: Any, *arguments: Any, **named: Any) -> Any:
        told.append((function.__name__, *arguments, named))
        return machines

    def execute_single(rank: int, function: Any, *arguments: Any) -> Any:
        told.append((rank, function.__name__, *arguments))
        return "a", 1

    workers = SimpleNamespace(execute=execute, execute_single=execute_single)
    group = ProcessGroup(training="one", gpu=True, seconds=5)
    group.backend_cls().on_start(workers, group)
    assert told == [
        (0, "tell_group", "one"),
        ("node_address", {}),
        ("listen_on_little", {"one_machine": one}),
        (0, "open_store"),
        ("join_group", ("a", 1), {"gpu": True, "seconds": 5}),
    ]
