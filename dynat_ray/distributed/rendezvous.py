"""Where workers meet: the sockets of PyTorch's process group, on no more addresses than needed.

PyTorch's store listens on every interface, gloo and NCCL on that of the machine's name, and none of
them asks who connects. Workers that share a machine need its loopback alone; on several machines
the store listens on the address by which Ray knows its machine.

Workers call what is here, and Ray Train's controller has it called: so PyTorch is imported where it
is used.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

# isort: split
import ray.train
import ray.util

if TYPE_CHECKING:
    from torch.distributed import TCPStore

_LOOPBACK = "127.0.0.1"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_ADDRESS = "MASTER_ADDR"
# Whoever asks for a store on the same port in this process gets this one, while it is kept.
_kept: list[TCPStore] = []


def node_address() -> str:
    """Returns the address by which Ray knows this machine."""
    return str(ray.util.get_node_ip_address())


def listen_on_little(one_machine: bool) -> None:
    """Says, on a worker, where its process group may listen.

    Args:
        one_machine: All workers are on this one.
    """
    os.environ[_ADDRESS] = _LOOPBACK if one_machine else node_address()
    if one_machine:
        for variable in _INTERFACES:
            os.environ.setdefault(variable, _loopback_interface())


def open_store() -> tuple[str, int]:
    """Opens the store on the first worker, after `listen_on_little`.

    Returns:
        The address and the port that all workers give to PyTorch.
    """
    from torch.distributed import TCPStore

    address = os.environ[_ADDRESS]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    place.bind((address, 0))
    port = int(place.getsockname()[1])
    _kept[:] = [
        TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            multi_tenant=True,
            master_listen_fd=place.detach(),
        )
    ]
    return address, port


def join_group(place: tuple[str, int], *, gpu: bool, seconds: float) -> None:
    """Joins the process group, on each worker of a training.

    Args:
        place: Address and port of the store, from `open_store`.
        gpu: Tensors on GPUs are sent, and no others.
        seconds: Workers may wait for one another so long.
    """
    from torch import distributed

    here = ray.train.get_context()
    # What `torchrun` sets: code of others may look for it, too.
    os.environ.update(
        MASTER_ADDR=place[0],
        MASTER_PORT=str(place[1]),
        RANK=str(here.get_world_rank()),
        WORLD_SIZE=str(here.get_world_size()),
        LOCAL_RANK=str(here.get_local_rank()),
        LOCAL_WORLD_SIZE=str(here.get_local_world_size()),
        NODE_RANK=str(here.get_node_rank()),
    )
    # A worker whose NCCL hangs ends, and all of them start again.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    distributed.init_process_group(
        "nccl" if gpu else "gloo", init_method="env://", timeout=timedelta(seconds=seconds)
    )


def leave_group() -> None:
    """Leaves the process group, on each worker that is still there."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def _loopback_interface() -> str:
    # `lo`, on a Mac `lo0`.
    return min(name for _, name in socket.if_nameindex() if name.startswith("lo"))
