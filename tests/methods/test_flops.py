"""Units of compute against the FLOPs that PyTorch counts in a step."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dynat_ray.acceleration.switch import cpu_kernels
from dynat_ray.data import Batch
from dynat_ray.models import Classifier
from tests.methods.cases import TinyBackbone, make
from tests.methods.test_units import step

# `generative_ssl` is left out: its autoencoder has FLOPs, but no units.
METHODS: dict[str, dict[str, Any]] = {
    "standard": {},
    "pgd_at": {},
    "trades": {},
    "dynat": {"steps_ratio": 1.0},
    "mart": {},
    "fat": {},
    "adr": {},
    "aalp": {},
    "uad_at": {},
    "deep_defense": {"steps": 3},
}


class _DeepBackbone(TinyBackbone):
    """Ten equal convolutions, beside which the first layer and the head take next to nothing."""

    num_features = 16

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 1)]
        for _ in range(10):
            layers += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.fc = nn.Linear(256, classes)


class _Flops(TorchDispatchMode):
    """PyTorch's own counter can't be used: it watches modules, which forbids `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("name", METHODS)
def test_units_are_the_flops_of_forward_passes(name: str) -> None:
    torch.manual_seed(0)
    network = Classifier(
        _DeepBackbone(4),
        name="deep",
        arguments={},
        num_classes=4,
        size=(4, 4),
        mean=[0.0],
        std=[1.0],
    )
    images = torch.rand(12, 1, 4, 4)
    labels = network.eval()(images).argmax(dim=1)
    labels[::4] = (labels[::4] + 1) % 4
    batch = Batch(images, labels, torch.arange(12))
    method = make(name, **METHODS[name])
    with cpu_kernels("off"):  # their operators are in no table of FLOPs
        # Before its first attack a network is compared with its twin, which is not counted.
        step(network, deepcopy(method), batch)
        with _Flops() as one_pass, torch.no_grad():
            network.eval()(images)
        with _Flops() as flops:
            _, passes = step(network, method, batch)
    forward_passes = flops.total / (one_pass.total / len(images))
    assert passes.units == pytest.approx(forward_passes, rel=0.02)
