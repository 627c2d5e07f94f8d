"""What workers tell each other; without a process group a worker is alone."""

from __future__ import annotations

from collections.abc import Sequence
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
    lengths = gather_number(torch.tensor(len(values), device=values.device))
    padded = values.new_zeros(max(lengths), *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in lengths]
    with working_time.at_barrier():
        dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def gather_number(number: Tensor) -> list[int]:
    """Returns all workers' numbers, of which there are several; waits for the device.

    Args:
        number: An integer, as a tensor of one element.
    """
    numbers = number.new_empty(world_size())
    with working_time.at_barrier():
        dist.all_gather_into_tensor(numbers, number.reshape(1))
        # Of a GPU: all at once, since each look waits for it.
        everyone: list[int] = numbers.tolist()
    return everyone


def exchange_rows(
    columns: Sequence[Tensor], sent: Sequence[int], received: Sequence[int]
) -> list[Tensor]:
    """Sends rows to other workers and returns those that others send to this one.

    All workers call it at the same time; who sends nothing and gets nothing, too.

    Args:
        columns: `(n, ...)` each, of any types, alike on all workers but for n: first the rows for
            worker 0, then those for worker 1, ...
        sent: How many of the n rows go to each worker.
        received: How many come from each worker, m in all.

    Returns:
        The same columns, `(m, ...)`, without gradient, in the order of the ranks they come from.
    """
    # As bytes, so that all columns travel at once.
    parts = [_as_bytes(column.detach()) for column in columns]
    packed = torch.cat(parts, dim=1)
    arrived = packed.new_empty(sum(received), packed.shape[1])
    with working_time.at_barrier():
        dist.all_to_all_single(arrived, packed, list(received), list(sent))
    pieces = arrived.split([part.shape[1] for part in parts], dim=1)
    return [
        piece.clone(memory_format=torch.contiguous_format)
        .view(column.dtype)
        .view(len(arrived), *column.shape[1:])
        for piece, column in zip(pieces, columns, strict=True)
    ]


def _as_bytes(column: Tensor) -> Tensor:
    """Returns `(n, ...)` as uint8, `(n, bytes of a row)`."""
    flat = column.reshape(len(column), column.shape[1:].numel())
    return flat.contiguous().view(torch.uint8)


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
