"""Sums and maxima over all workers; without a process group a worker is alone."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dynat_ray.barrier_time import working_time

ObjectT = TypeVar("ObjectT")


def rank() -> int:
    """Returns this worker's number, from 0."""
    return dist.get_rank() if _in_group() else 0


def world_size() -> int:
    """Returns the number of workers."""
    return dist.get_world_size() if _in_group() else 1


def sum_over_workers(values: Tensor) -> Tensor:
    """Returns the sum of `values` over all workers (a new tensor, without gradient)."""
    values = values.detach().clone()
    if _in_group():
        with working_time.at_barrier():
            dist.all_reduce(values)
    return values


def max_over_workers(values: Tensor) -> Tensor:
    """Returns the element-wise maximum of `values` over all workers."""
    values = values.detach().clone()
    if _in_group():
        with working_time.at_barrier():
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def gather_over_workers(values: Tensor) -> Tensor:
    """Returns all workers' rows, in the order of the ranks, without gradient.

    Args:
        values: `(B, ...)`; B may differ between workers.
    """
    values = values.detach().contiguous()
    if world_size() == 1:
        return values
    size = torch.tensor([len(values)], device=values.device)
    sizes = size.new_empty(world_size())
    with working_time.at_barrier():
        dist.all_gather_into_tensor(sizes, size)
        # Of a GPU: all at once, since each look waits for it.
        lengths = sizes.tolist()
    padded = values.new_zeros(max(lengths), *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in lengths]
    with working_time.at_barrier():
        dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def gather_objects(value: ObjectT) -> list[ObjectT]:
    """Returns what all workers give, in the order of the ranks: anything that can be pickled."""
    if world_size() == 1:
        return [value]
    everyone: list[ObjectT | None] = [None] * world_size()
    with working_time.at_barrier():
        dist.all_gather_object(everyone, value)
    return everyone  # type: ignore[return-value]


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()
