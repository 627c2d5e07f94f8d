"""Attacks dealt evenly over workers: who attacks what, and that nothing else changes."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dynat_ray.forward_units import counting
from dynat_ray.methods.balancing import Balanced, even_moves
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.running import AttackOutcome, StopRule
from dynat_ray.perturb.several_norms import SeveralNorms
from dynat_ray.perturb.threat import Threat
from tests.methods.cases import tiny_classifier
from tests.processes import run_side_by_side

STEPS = 3
# Attacked samples by rank, and the sizes of the parts: uneven, one has none, all have all, nobody
# has any.
COUNTS = {
    2: ([(9, 2), (12, 0), (0, 11), (12, 11), (0, 0), (6, 5)], (12, 11)),
    4: ([(9, 2, 0, 7), (12, 0, 0, 1), (12, 12, 11, 11), (3, 3, 3, 11)], (12, 12, 11, 11)),
}
L2 = PGD(threat=Threat("L2", 0.5), steps=STEPS, step_size=0.2, objective="kl")
ATTACKS: dict[str, PGD | SeveralNorms] = {
    "plain": L2,
    "noise, uniform": replace(L2, objective="ce", random_start="uniform", step_noise=0.01),
    "stopped": replace(L2, objective="ce", stop=StopRule(-0.2)),
    "max": SeveralNorms((L2, replace(L2, threat=Threat("L1", 1.0))), "max"),
    "random": SeveralNorms((L2, replace(L2, threat=Threat("L1", 1.0))), "random"),
}


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64])
def test_the_fewest_samples_move_until_counts_differ_by_one(workers: int) -> None:
    random = np.random.default_rng(workers)
    for high in (1, 2, 10, 128):
        counts = random.integers(high + 1, size=workers)
        moves = [even_moves(counts.tolist(), rank) for rank in range(workers)]
        sent, received = (
            np.array([getattr(each, name) for each in moves]) for name in ("sent", "received")
        )
        assert (received == sent.T).all()
        after = counts - sent.sum(axis=1) + received.sum(axis=1)
        assert after.max() - after.min() <= 1
        # Nobody passes on what it gets, and who ends above the mean had as many.
        assert not (sent.any(axis=1) & received.any(axis=1)).any()
        assert (after[received.any(axis=1)] <= counts.mean() + 1).all()
        fewest = max((counts - -(-counts.sum() // workers)).clip(min=0).sum(), 0)
        assert sent.sum() >= fewest
        assert sent.sum() <= max(fewest, (counts.sum() // workers - counts).clip(min=0).sum())
        assert {each.anywhere for each in moves} == {bool(sent.any())}


def _inputs(rank: int, size: int, attacked: int, attack: PGD | SeveralNorms) -> dict[str, Any]:
    """Returns a part of a batch in which so many random samples have a budget."""
    generator = torch.Generator().manual_seed(100 * rank + attacked)
    images = torch.rand(size, 1, 4, 4, generator=generator)
    order = torch.randperm(size, generator=generator)
    ratios = (0.5 + torch.rand(size, generator=generator)) * (order < attacked)
    inputs = {
        "images": images.contiguous(memory_format=torch.channels_last),
        "labels": torch.randint(4, (size,), generator=generator),
        "ratios": ratios,
        "keys": torch.randint(2**32, (size,), generator=generator),
    }
    if isinstance(attack, PGD):
        change = 0.1 * torch.randn(images.shape, generator=generator)
        inputs["carried"] = change * (order % 2 == 0).view(-1, 1, 1, 1)
    return inputs


def _attacked(
    network: nn.Module, attack: PGD | SeveralNorms, inputs: dict[str, Any], balanced: bool
) -> tuple[AttackOutcome, int]:
    """Returns what an attack finds, and the gradients that this worker computed."""
    if attack.stop is not None:
        applies = torch.arange(len(inputs["images"])) % 3 > 0
        attack = attack.with_stop(replace(attack.stop, applies=applies))
    with torch.no_grad():
        clean_logits = network(inputs["images"])
    run = Balanced(attack) if balanced else attack
    before = {name: value.clone() for name, value in inputs.items()}
    with counting() as passes:
        outcome = run(network, clean_logits=clean_logits, **inputs)
    for name, value in inputs.items():
        assert value.equal(before[name]), name
    return outcome, passes.image_gradients


def _compare(rank: int, workers: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    torch.manual_seed(1)
    network = tiny_classifier().eval()
    rows, sizes = COUNTS[workers]
    for counts, (name, attack) in product(rows, ATTACKS.items()):
        inputs = _inputs(rank, sizes[rank], counts[rank], attack)
        assert int((inputs["ratios"] > 0).sum()) == counts[rank]
        alone, own_work = _attacked(network, attack, inputs, balanced=False)
        together, work = _attacked(network, attack, inputs, balanced=True)
        for field in fields(AttackOutcome):
            torch.testing.assert_close(
                getattr(together, field.name),
                getattr(alone, field.name),
                atol=1e-5,
                rtol=1e-4,
                msg=lambda text, where=(name, counts, field.name): f"{where}: {text}",
            )
        works = torch.tensor([own_work, work])
        everyone = [torch.empty_like(works) for _ in range(workers)]
        dist.all_gather(everyone, works)
        before, after = torch.stack(everyone).unbind(dim=1)
        assert before.sum() == after.sum()
        if name in ("plain", "noise, uniform"):
            assert before.tolist() == [STEPS * count for count in counts]
            assert after.max() - after.min() <= STEPS
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("workers", list(COUNTS))
def test_what_is_found_is_the_same_and_work_is_even(workers: int, tmp_path: Path) -> None:
    run_side_by_side(_compare, workers, f"{tmp_path}/meeting", processes=workers)


def test_one_worker_attacks_what_it_has() -> None:
    torch.manual_seed(1)
    network = tiny_classifier().eval()
    for attack in ATTACKS.values():
        inputs = _inputs(0, 12, 7, attack)
        alone, _ = _attacked(network, attack, inputs, balanced=False)
        balanced, _ = _attacked(network, attack, inputs, balanced=True)
        for field in fields(AttackOutcome):
            found: Tensor = getattr(balanced, field.name)
            assert found.equal(getattr(alone, field.name))
