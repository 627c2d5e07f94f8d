"""Orders of which each worker reads a part: whole together, each other every epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynat_ray.data import BatchPlan
from dynat_ray.data.order import EpochOrder
from dynat_ray.data.part_order import PartOrder
from dynat_ray.data.subsets import Indices

STORED = np.flatnonzero(np.arange(150) % 5 > 0)


def orders_of(workers: int, total: int, size: int = 8, shuffle: bool = True) -> list[PartOrder]:
    plan = BatchPlan(
        batch_size=size, seed=7, shuffle=shuffle, node_share="part", world_size=workers
    )
    return [PartOrder(STORED[:total], replace(plan, rank=rank)) for rank in range(workers)]


def batches_of(orders: list[PartOrder], epoch: int) -> list[Indices]:
    """Returns the global batches, put together from what each worker gets."""
    found = []
    for step, size in enumerate(orders[0].global_sizes):
        parts = [
            order.local(epoch)[step * order.local_batch :][: order.local_batch] for order in orders
        ]
        assert all(len(part) > 0 for part in parts)
        found.append(np.concatenate(parts))
        assert len(found[-1]) == size
    assert sum(map(len, found)) == sum(len(order.local(epoch)) for order in orders)
    return found


@pytest.mark.parametrize("total", [24, 29, 31, 100])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_global_batches_do_not_depend_on_the_number_of_workers(total: int, workers: int) -> None:
    alone = batches_of(orders_of(1, total), 3)
    together = batches_of(orders_of(workers, total), 3)
    for one, many in zip(alone[: total // 8], together, strict=False):
        assert one.tolist() == many.tolist()
    if total % 8 > 1:  # A batch of one is filled up.
        assert set(alone[-1]) <= set(together[-1])


@pytest.mark.parametrize("total", [24, 29, 31, 100])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_epoch_visits_every_sample_once(total: int, workers: int) -> None:
    orders = orders_of(workers, total)
    for epoch in range(3):
        visited = np.concatenate(batches_of(orders, epoch))
        # The last batch may be filled up with what came in the first.
        again = len(visited) - total
        assert 0 <= again < 2 * workers
        assert set(visited.tolist()) == set(STORED[:total].tolist())
    whole = np.concatenate(batches_of(orders_of(workers, 96), 0))
    assert sorted(whole.tolist()) == STORED[:96].tolist()


def test_a_worker_reads_the_same_part_in_every_epoch_in_another_order() -> None:
    orders = orders_of(3, 100)
    parts = [order.own.tolist() for order in orders]
    assert [each for part in parts for each in part] == STORED[:100].tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 100 // 8 + 1
    for order in orders:
        epochs = [order.local(epoch) for epoch in range(3)]
        assert all(set(each.tolist()) == set(order.own.tolist()) for each in epochs)
        assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()
        assert epochs[1].tolist() == order.local(1).tolist()


def test_any_number_of_workers_goes_on_where_another_was() -> None:
    """Steps are counted, and a step is the same batch for any number of workers."""
    before, after = batches_of(orders_of(4, 96), 5)[:7], batches_of(orders_of(3, 96), 5)[7:]
    visited = np.concatenate(before + after)
    assert sorted(visited.tolist()) == STORED[:96].tolist()


def test_in_order_where_it_is_not_shuffled() -> None:
    (order,) = orders_of(1, 20, shuffle=False)
    assert order.local(0).reshape(-1)[:16].tolist() == order.local(9)[:16].tolist()
    assert order.global_sizes == [8, 8, 4]
    visited = np.concatenate(batches_of(orders_of(3, 20, shuffle=False), 0))
    assert set(visited.tolist()) == set(STORED[:20].tolist())


@pytest.mark.parametrize("total", [1, 2, 5])
def test_a_set_smaller_than_a_batch(total: int) -> None:
    (batch,) = batches_of(orders_of(3, total), 0)
    assert set(batch.tolist()) == set(STORED[:total].tolist())


@pytest.mark.parametrize("total", [1, 17, 29])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_no_worker_has_one_sample_alone(total: int, workers: int) -> None:
    """As batch normalisation can't take it."""
    for order in orders_of(workers, total, size=10):
        assert len(order.local(0)) % order.local_batch != 1
        full = EpochOrder(STORED[:total], BatchPlan(batch_size=10, seed=0, world_size=workers))
        assert order.steps == full.steps
