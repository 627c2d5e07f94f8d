"""A small convolutional network trained on scikit-learn's digits, and their test images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.threat import Threat

EPS = 0.1


@dataclass(frozen=True)
class Victim:
    model: nn.Module
    images: Tensor
    labels: Tensor


def train_victim(classes: int, *, steps: int, eps: float) -> Victim:
    """Trains on digits below `classes`, with one step of PGD where `eps` is not 0."""
    digits = load_digits()
    labels = torch.tensor(digits.target).long()
    chosen = labels < classes
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None][chosen]
    labels = labels[chosen]
    keys = keyed_random.combine(5, torch.arange(len(images)))
    order = keys.argsort()
    train, test = order[: len(order) * 2 // 3], order[len(order) * 2 // 3 :]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, classes),
        )
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for step in range(steps):
            rows = train[torch.randint(len(train), (64,))]
            batch, targets = images[rows], labels[rows]
            if eps > 0:
                attack = PGD(threat=Threat("Linf", eps), step_size=eps, steps=1)
                keys = keyed_random.combine(step, rows)
                batch = attack(model, batch, targets, keys=keys).images
            optimiser.zero_grad()
            F.cross_entropy(model(batch), targets).backward()
            optimiser.step()
        optimiser.zero_grad()
    return Victim(model.eval(), images[test], labels[test])
