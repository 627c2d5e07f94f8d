"""Computing activations again changes memory and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from dynat_ray.acceleration.modes import frozen
from dynat_ray.acceleration.twin import twin_of
from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.models import build_model, load_model
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession
from dynat_ray.training.setup import checkpoint_activations
from dynat_ray.training.trainer import train


def test_a_run_learns_the_same(small_config: RunConfig, tmp_path: Path) -> None:
    """Weights and running statistics, which a second forward pass would move twice."""
    models = []
    for again in (False, True):
        settings = dataclasses.replace(small_config.train, activation_checkpointing=again)
        config = dataclasses.replace(small_config, train=settings)
        folder = tmp_path / str(again)
        open_run_folder(folder, config, resume=False)
        train(config, LocalSession(folder, torch.device("cpu")))
        models.append(load_model(folder / "model_last").state_dict())
    for name, values in models[0].items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(models[1][name], values, atol=1e-5, rtol=1e-4)


def test_activations_are_not_kept() -> None:
    model = build_model(
        "preact_resnet18", num_classes=10, channels=3, size=(32, 32), mean=[0.5] * 3, std=[0.25] * 3
    )
    images = torch.rand(2, 3, 32, 32)

    def kept() -> int:
        seen: dict[int, int] = {}

        def pack(values: torch.Tensor) -> torch.Tensor:
            seen[values.data_ptr()] = values.numel()
            return values

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
            logits = model(images)
        logits.sum().backward()
        return sum(seen.values()) - sum(each.numel() for each in model.parameters())

    before = kept()
    checkpoint_activations(model)
    assert kept() < before / 2
    with frozen(model):
        assert twin_of(model, images) is not model


def test_an_architecture_without_it_is_refused() -> None:
    model = build_model("lenet", num_classes=10, channels=1, size=(28, 28), mean=[0.5], std=[0.25])
    with pytest.raises(UserError, match="micro_batch_size"):
        checkpoint_activations(model)
