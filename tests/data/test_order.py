from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynat_ray.data.order import BatchPlan, EpochOrder


def order_of(total: int, batch_size: int, seed: int = 7) -> EpochOrder:
    """Returns the order of one worker alone."""
    return EpochOrder(np.arange(total), BatchPlan(batch_size=batch_size, seed=seed))


def gather(
    world_size: int,
    total: int,
    batch_size: int,
    epoch: int,
    *,
    shuffle: bool = True,
    **options: object,
) -> list:
    """Returns the global batches, put together from what each worker gets."""
    plan = BatchPlan(batch_size=batch_size, seed=7, shuffle=shuffle, world_size=world_size)
    orders = [
        EpochOrder(np.arange(total), replace(plan, rank=rank), **options)  # type: ignore[arg-type]
        for rank in range(world_size)
    ]
    assert len({order.steps for order in orders}) == 1
    batches = []
    for step, size in enumerate(orders[0].global_sizes):
        parts = [
            order.local(epoch)[step * order.local_batch :][: order.local_batch] for order in orders
        ]
        assert all(len(part) > 0 for part in parts)
        batch = np.empty(size, np.int64)
        for rank, part in enumerate(parts):
            batch[rank::world_size] = part
        batches.append(batch)
    return batches


@pytest.mark.parametrize("total", [5, 24, 30, 31])
@pytest.mark.parametrize("world_size", [2, 3])
def test_global_batches_do_not_depend_on_the_number_of_workers(total: int, world_size: int) -> None:
    alone, together = gather(1, total, 8, 3), gather(world_size, total, 8, 3)
    for one, many in zip(alone, together, strict=True):
        assert many[: len(one)].tolist() == one.tolist()


def test_an_epoch_visits_every_sample_once() -> None:
    visited = np.concatenate(gather(1, 30, 8, 0))
    assert sorted(visited.tolist()) == list(range(30))


def test_epochs_differ_and_repeat() -> None:
    order = order_of(30, 8)
    assert not np.array_equal(order.local(0), order.local(1))
    assert np.array_equal(order.local(1), order_of(30, 8).local(1))
    assert not np.array_equal(order.local(1), order_of(30, 8, seed=8).local(1))


def test_last_batch_is_filled_up_to_two_samples_per_worker() -> None:
    batches = gather(3, 17, 8, 0)
    assert [len(batch) for batch in batches] == [8, 8, 6]
    assert batches[2][1:].tolist() == batches[0][:5].tolist()
    # As far as a whole batch goes; and for measuring, where one will do, as little as possible.
    assert [len(batch) for batch in gather(3, 6, 5, 0)] == [5, 5]
    assert [len(batch) for batch in gather(3, 17, 8, 0, shuffle=False)] == [8, 8, 3]


def test_a_set_smaller_than_the_number_of_workers() -> None:
    assert [batch.tolist() for batch in gather(3, 1, 8, 0)] == [[0] * 6]


def test_without_shuffling_the_order_is_that_of_the_indices() -> None:
    order = EpochOrder(np.array([5, 3, 9]), BatchPlan(batch_size=2, seed=0, shuffle=False))
    assert order.local(4).tolist() == [5, 3, 9]
    assert order.global_sizes == [2, 1]


def test_balance_draws_rare_classes_as_often() -> None:
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    order = EpochOrder(
        np.arange(100), BatchPlan(batch_size=10, seed=0, balance=True), labels=labels
    )
    drawn = order.local(0)
    counts = np.bincount(labels[drawn])
    assert len(drawn) == 100
    assert sorted(counts.tolist()) == [33, 33, 34]
    # Every sample of a rare class is drawn equally often, up to one time.
    rare = np.bincount(drawn, minlength=100)[95:]
    assert set(rare.tolist()) <= {6, 7}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_extra_data_fill_a_fixed_part_of_every_batch(world_size: int) -> None:
    batches = gather(world_size, 30, 10, 2, extra_indices=(30, 1030), extra_fraction=0.7)
    assert [len(batch) for batch in batches] == [10, 10, 10]
    for batch in batches:
        assert (batch >= 30).sum() == 7
        assert batch.max() < 1030
    alone = gather(1, 30, 10, 2, extra_indices=(30, 1030), extra_fraction=0.7)
    assert all(np.array_equal(one, many) for one, many in zip(alone, batches, strict=True))
