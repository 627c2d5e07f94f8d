"""A classifier and a batch in which some samples are misclassified."""

from __future__ import annotations

import pytest
import torch

from dynat_ray.data import Batch
from dynat_ray.models import Classifier
from tests.methods.cases import tiny_classifier


@pytest.fixture
def network() -> Classifier:
    torch.manual_seed(3)
    model = tiny_classifier()
    model(torch.rand(64, 1, 4, 4))
    with torch.no_grad():
        model.backbone.fc.weight.mul_(10)  # confident predictions
    return model


@pytest.fixture
def batch(network: Classifier) -> Batch:
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(12, 1, 4, 4, generator=generator)
    network.eval()
    labels = network(images).argmax(dim=1)
    labels[::4] = (labels[::4] + 1) % 4  # some are misclassified
    network.train()
    return Batch(images, labels, torch.arange(12))
