"""Networks that tests of twins share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat_ray.acceleration.modes import frozen
from dynat_ray.acceleration.twin import twin_of


def with_statistics(model: nn.Module) -> nn.Module:
    """Gives every batch normalisation statistics and weights of its own."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                tensor.data.normal_(0, 0.3, generator=generator)
            for tensor in (module.running_var, module.weight):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def frozen_twin(model: nn.Module, images: Tensor) -> nn.Module:
    with frozen(model):
        return twin_of(model, images)


class Awkward(nn.Module):
    """Networks in which a batch normalisation can't go into the convolution before it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        if self.kind == "used twice":
            features = self.norm(features) + features
        elif self.kind == "changed in place":
            features = self.norm(features.add_(images))
        elif self.kind == "norm twice":
            features = self.norm(self.norm(features))
        elif self.kind == "convolution twice":
            features = self.norm(self.first(features))
        else:
            features = self.norm(features) + torch.rand_like(features)
        return features.mean(dim=(2, 3))
