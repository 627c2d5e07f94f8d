"""Numbers that follow from keys."""

from __future__ import annotations

import torch

from dynat_ray import keyed_random


def test_a_key_gives_the_same_numbers_in_any_batch() -> None:
    keys = keyed_random.combine(7, 3, torch.arange(50))
    together = keyed_random.uniform(keys, 3, 8, 8)
    torch.testing.assert_close(keyed_random.uniform(keys[20:25], 3, 8, 8), together[20:25])


def test_seed_epoch_and_index_all_matter() -> None:
    indices = torch.arange(100)
    keys = torch.cat(
        [keyed_random.combine(seed, epoch, indices) for seed in range(5) for epoch in range(5)]
    )
    assert len(keys.unique()) == len(keys)


def test_moments_and_independence() -> None:
    keys = keyed_random.combine(1, torch.arange(400))
    uniform = keyed_random.uniform(keys, 1000)
    assert abs(float(uniform.mean()) - 0.5) < 0.002
    assert abs(float(uniform.var()) - 1 / 12) < 0.001
    normal = keyed_random.normal(keys, 1000)
    assert abs(float(normal.mean())) < 0.01
    assert abs(float(normal.std()) - 1) < 0.01
    assert abs(float((normal**4).mean()) - 3) < 0.1
    between = torch.corrcoef(uniform[:40]) - torch.eye(40)
    assert float(between.abs().max()) < 0.15
    streams = torch.stack([uniform.flatten(), keyed_random.uniform(keys, 1000, stream=1).flatten()])
    assert abs(float(torch.corrcoef(streams)[0, 1])) < 0.01
