"""PyTorch's process group as Ray Train sets it up, on workers that a SIGTERM does not end at once.

Ray's own (`ray.train.torch.TorchConfig`) has the controller of each training import PyTorch, which
calls nothing of it: 0.3 GB of the head's memory for every run.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

# isort: split
import ray
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig

from dynat_ray.distributed.notices import listen_to_sigterm
from dynat_ray.distributed.placement_groups import tell_group
from dynat_ray.distributed.rendezvous import (
    join_group,
    leave_group,
    listen_on_little,
    node_address,
    open_store,
)

# Where one of them has died, the others may wait for it; their processes end anyway.
_SECONDS_TO_LEAVE = 30.0


@dataclass
class ProcessGroup(BackendConfig):
    """Tells Ray Train to make its workers a process group.

    It listens on loopback where all workers are on one machine.

    Attributes:
        training: The training's name, by which its workers say where they run.
        gpu: Of NCCL; else of gloo.
        seconds: Workers may wait for one another so long.
    """

    training: str
    gpu: bool
    seconds: float

    @property
    def backend_cls(self) -> type[_ProcessGroupBackend]:
        return _ProcessGroupBackend


class _ProcessGroupBackend(Backend):
    # Each worker sees all GPUs of its machine that the training has: NCCL sends between them.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        # First, since whoever frees the workers' places may need it at any moment.
        worker_group.execute_single(0, tell_group, backend_config.training)
        machines = set(worker_group.execute(node_address))
        worker_group.execute(listen_on_little, one_machine=len(machines) == 1)
        place = worker_group.execute_single(0, open_store)
        worker_group.execute(
            join_group, place, gpu=backend_config.gpu, seconds=backend_config.seconds
        )

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(listen_to_sigterm)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        with suppress(GetTimeoutError):
            ray.get(worker_group.execute_async(leave_group), timeout=_SECONDS_TO_LEAVE)
