"""The buffers of a network in training: finite, and the same on all workers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat_ray.collectives import sum_over_workers, world_size
from dynat_ray.training.finiteness import Look


class RunningStatistics:
    """Keeps what a batch would make not finite out of running statistics.

    Args:
        network: Has them as buffers.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._before: Tensor | None = None

    def keep(self) -> None:
        """Remembers them as they are before a step."""
        buffers = self._buffers()
        self._before = _flat(buffers) if buffers else None

    @torch.no_grad()
    def settle(self) -> Look:
        """Puts back what a step has made not finite, and averages the rest over the workers.

        Every worker must call it; averaging takes one reduction.

        Returns:
            What the step had made of them.
        """
        buffers = self._buffers()
        if self._before is None:
            return Look.at([])
        look = Look.at((f"the buffer {name} is", each) for name, each in buffers.items())
        if world_size() == 1 and look.finite.device.type == "cpu" and bool(look.finite.all()):
            return look
        values = _flat(buffers)
        values = torch.where(values.isfinite(), values, self._before)
        if world_size() > 1:
            values = sum_over_workers(values) / world_size()
        parts = values.split([each.numel() for each in buffers.values()])
        for buffer, part in zip(buffers.values(), parts, strict=True):
            buffer.copy_(part.view_as(buffer))
        return look

    def _buffers(self) -> dict[str, Tensor]:
        found = self._network.named_buffers()
        return {name: each for name, each in found if each.is_floating_point() and each.numel()}


def _flat(buffers: dict[str, Tensor]) -> Tensor:
    return torch.cat([buffer.detach().flatten() for buffer in buffers.values()])
