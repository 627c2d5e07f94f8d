"""DynAT's steps on two workers: whoever attacks a sample, the same is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dynat_ray.config import AttackConfig, TrainConfig
from dynat_ray.data import Batch
from dynat_ray.method_settings.budgets import DynATSettings
from dynat_ray.methods import MethodContext
from dynat_ray.methods.dynat import DynAT
from dynat_ray.models import Classifier
from dynat_ray.perturb.threat import Threat
from dynat_ray.training.step import Stepper, wrap
from tests.methods.cases import tiny_classifier
from tests.processes import run_side_by_side

SIZES = (12, 11)
STEPS = 4


class _Dealt(DynAT):
    """DynAT that deals its attacks as it does on many workers."""

    deals_from = 2


def _batches(rank: int, network: Classifier) -> list[Batch]:
    """Returns parts of batches: what the network begins with is right on the first worker alone."""
    generator = torch.Generator().manual_seed(rank)
    found = []
    for _ in range(STEPS):
        images = torch.rand(SIZES[rank], 1, 4, 4, generator=generator)
        with torch.no_grad():
            labels = (network.eval()(images).argmax(dim=1) + rank) % 4
        found.append(Batch(images, labels, 12 * rank + torch.arange(SIZES[rank])))
    return found


def _train(rank: int, *, balanced: bool) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], Any]:
    """Returns the weights after some steps, each step's record, and the first one's gradients."""
    torch.manual_seed(2)
    network = tiny_classifier()
    batches = _batches(rank, network)
    context = MethodContext(Threat("L2", 0.5), AttackConfig(steps=3), step_size=0.2, classes=4)
    method = (_Dealt if balanced else DynAT)(DynATSettings(stop_margin=0.1), context)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    config = TrainConfig(micro_batch_size=6)
    stepper = Stepper(wrap(network, config), method, optimizer, config, torch.device("cpu"))
    outcomes = [stepper.step(batch, 0, number, sum(SIZES)) for number, batch in enumerate(batches)]
    records = [
        {**part.record, "loss of the batch": outcome.loss}
        for outcome in outcomes
        for part in outcome.parts
    ]
    return network.state_dict(), records, outcomes[0].passes.image_gradients


def _compare(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    weights, records, gradients = _train(rank, balanced=True)
    expected, alone, own_gradients = _train(rank, balanced=False)
    # The second worker has nothing to attack in its first step.
    assert gradients > 0
    assert (own_gradients > 0) == (rank == 0)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=1e-4)
    assert len(records) == len(alone) == 2 * STEPS
    for found, one in zip(records, alone, strict=True):
        assert list(found) == list(one)
        for name, value in one.items():
            torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3, msg=name)
    dist.barrier()
    dist.destroy_process_group()


def test_the_same_is_learnt_whoever_attacks(tmp_path: Path) -> None:
    run_side_by_side(_compare, f"{tmp_path}/meeting", processes=2)
