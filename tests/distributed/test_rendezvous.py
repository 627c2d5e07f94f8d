"""Workers of one machine meet on its loopback and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from dynat_ray.distributed import rendezvous
from dynat_ray.distributed.process_group import ProcessGroup
from tests.distributed.watching import LOOPBACK

# What a worker does, without Ray: set up, a sum, and where it listens meanwhile.
WORKER = """
import json, os, sys, time
from pathlib import Path
from types import SimpleNamespace
import psutil, ray.train, torch
import torch.distributed as dist
from dynat_ray.distributed.rendezvous import join_group, leave_group, listen_on_little, open_store

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
listen_on_little(one_machine=True)
if rank == 0:
    (folder / "new").write_text(json.dumps(open_store()))
    (folder / "new").rename(folder / "store")
while not (folder / "store").exists():
    time.sleep(0.05)
numbers = {"world_rank": rank, "local_rank": rank, "node_rank": 0}
numbers |= {"world_size": 2, "local_world_size": 2}
here = SimpleNamespace(**{f"get_{name}": lambda number=n: number for name, n in numbers.items()})
ray.train.get_context = lambda: here
join_group(json.loads((folder / "store").read_text()), gpu=False, seconds=60)
assert (os.environ["LOCAL_RANK"], os.environ["NODE_RANK"]) == (str(rank), "0")
total = torch.ones(3)
dist.all_reduce(total)
dist.all_reduce(total, group=dist.new_group(backend="gloo"))
places = [each.laddr.ip for each in psutil.Process().net_connections("inet")
          if each.status == psutil.CONN_LISTEN]
print(json.dumps([total.tolist(), places]))
dist.barrier()
leave_group()
assert not dist.is_initialized()
"""


def test_two_workers_listen_on_loopback_only(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
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

    def execute_single(rank: int, function: Any) -> Any:
        told.append((rank, function.__name__))
        return "a", 1

    workers = SimpleNamespace(execute=execute, execute_single=execute_single)
    group = ProcessGroup(gpu=True, seconds=5)
    group.backend_cls().on_start(workers, group)
    assert told == [
        ("node_address", {}),
        ("listen_on_little", {"one_machine": one}),
        (0, "open_store"),
        ("join_group", ("a", 1), {"gpu": True, "seconds": 5}),
    ]
