"""One step: what it does to gradients of gradients, running statistics and compiled graphs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parameters_to_vector

from dynat_ray.acceleration.precision import Precision
from dynat_ray.config import TrainConfig
from dynat_ray.data import Batch
from dynat_ray.methods import Method
from dynat_ray.models import Classifier, build_model
from dynat_ray.training.setup import checkpoint_activations
from dynat_ray.training.step import Stepper, _micro_batches, wrap
from tests.methods.cases import make, tiny_classifier


def small_model(name: str, kwargs: dict[str, Any]) -> Classifier:
    torch.manual_seed(0)
    return build_model(
        name,
        num_classes=4,
        channels=3,
        size=(16, 16),
        mean=[0.5] * 3,
        std=[0.25] * 3,
        kwargs=kwargs,
    )


def step(
    model: Classifier,
    method: Method[Any],
    config: TrainConfig,
    shape: tuple[int, int, int] = (3, 16, 16),
) -> Tensor:
    """Makes one step on eight random images; returns the loss."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, *shape, generator=generator)
    batch = Batch(images, torch.arange(8) % 4, torch.arange(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    stepper = Stepper(wrap(model, config), method, optimizer, config, torch.device("cpu"))
    return stepper.step(batch, 0, 0, 8).loss


@pytest.mark.parametrize("name", ["deep_defense", "uad_at"])
def test_attention_has_second_derivatives(name: str) -> None:
    model = small_model("vit_tiny_patch16_224", {"patch_size": 4, "depth": 1, "embed_dim": 48})
    method = make(name)
    method.attach(model)
    assert bool(step(model, method, TrainConfig()).isfinite())


def test_statistics_move_once_where_activations_are_computed_again() -> None:
    found = []
    for again in (False, True):
        model = small_model("preact_resnet10", {"base_width": 8})
        if again:
            checkpoint_activations(model)
        method = make("uad_at")
        method.attach(model)
        step(model, method, TrainConfig(activation_checkpointing=again))
        found.append({name: b for name, b in model.named_buffers() if "running" in name})
    for name, values in found[0].items():
        torch.testing.assert_close(found[1][name], values, msg=name)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.3), ("float32", 1e-3)])
def test_the_same_is_learnt_where_activations_are_computed_again(
    precision: Precision, tolerance: float
) -> None:
    found = []
    for again in (False, True):
        # So wide that the package computes convolutions itself where it may.
        model = small_model("preact_resnet10", {"base_width": 32})
        before = parameters_to_vector(model.parameters())
        if again:
            checkpoint_activations(model)
        step(
            model, make("pgd_at"), TrainConfig(precision=precision, activation_checkpointing=again)
        )
        found.append(parameters_to_vector(model.parameters()) - before)
    assert (found[1] - found[0]).norm() < tolerance * found[0].norm()


def test_every_variant_of_a_network_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    with torch._dynamo.config.patch(recompile_limit=2):
        attacked = wrap(tiny_classifier(), TrainConfig(compile=True)).attacked
        for size in range(2, 6):
            attacked(torch.rand(size, 1, 4, 4))
    assert counter.frame_count == 4


@pytest.mark.parametrize("name", ["pgd_at", "dynat"])
def test_a_compiled_step_is_the_same_step(name: str) -> None:
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = tiny_classifier()  # most of the time is the compiler's
        config = TrainConfig(compile=compiled)
        losses = [step(model, make(name), config, (1, 4, 4)) for _ in range(2)]
        found.append((torch.stack(losses), model.state_dict()))
    (losses, weights), (compiled_losses, compiled_weights) = found
    torch.testing.assert_close(compiled_losses, losses, rtol=1e-3, atol=1e-4)
    for key, values in weights.items():
        torch.testing.assert_close(compiled_weights[key], values, rtol=1e-2, atol=1e-3, msg=key)


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1] * 5), (2, [3, 2]), (3, [3, 2])])
def test_parts_of_a_batch_have_two_samples_where_they_may(largest: int, sizes: list[int]) -> None:
    batch = Batch(torch.zeros(5, 1, 2, 2), torch.zeros(5), torch.arange(5))
    assert [len(part.labels) for part in _micro_batches(batch, largest, 5)] == sizes
