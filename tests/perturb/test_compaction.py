"""On an accelerator batches come in few sizes: a compiled network is compiled for each."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.threat import Threat
from tests.processes import run_python

BATCH = 32
ATTACKED = [0, 1, 5, 16, 17, 30, 32]


def attack_some(attacked: int, device: torch.device) -> tuple[Tensor, list[int], list[int]]:
    """Returns the adversarial images, every sample's steps, and the sizes the network saw."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, labels = torch.rand(BATCH, 3, 2, 2), torch.arange(BATCH) % 3
    ratios = (torch.randperm(BATCH) < attacked).float()
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    attack = PGD(threat=Threat("Linf", 0.1), step_size=0.05, steps=3)
    outcome = attack(
        network.to(device),
        images.to(device),
        labels.to(device),
        ratios=ratios.to(device),
        keys=torch.arange(BATCH).to(device),
    )
    return outcome.images, outcome.steps.tolist(), sizes


def main() -> None:
    """Attacks there; prints what came of it."""
    from tests.other_device import other_device

    found = []
    with other_device() as device:
        for attacked in ATTACKED:
            images, steps, sizes = attack_some(attacked, device)
            found.append((images.tolist(), steps, sizes))
    print(json.dumps(found))


@pytest.fixture(scope="module")
def there() -> dict[int, Any]:
    """What came of the attacks on a device that is not the CPU."""
    done = run_python("-m", __name__)
    assert done.returncode == 0, done.stderr
    return dict(zip(ATTACKED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("attacked", ATTACKED)
def test_samples_without_a_budget_fill_up(attacked: int, there: dict[int, Any]) -> None:
    images, steps, sizes = attack_some(attacked, torch.device("cpu"))
    assert set(sizes) <= {BATCH, attacked}
    images_there, steps_there, sizes_there = there[attacked]
    assert set(sizes_there) <= {BATCH, -(-attacked // 4) * 4}
    torch.testing.assert_close(torch.tensor(images_there), images)
    assert steps_there == steps
    assert sum(steps) == 3 * attacked


if __name__ == "__main__":
    main()
