"""What every method computes, in units, against passes that are counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynat_ray.config import TrainConfig
from dynat_ray.data import Batch
from dynat_ray.forward_units import Passes
from dynat_ray.methods import Method, build_method
from dynat_ray.models import Classifier
from dynat_ray.training.step import StepOutcome, Stepper, wrap
from tests.methods.cases import make

IMAGES, STEPS = 12, 4


def step(
    network: Classifier, method: Method[Any], batch: Batch, **settings: Any
) -> tuple[StepOutcome, Passes]:
    """Makes a training step; returns what became of it and the passes it took."""
    method.attach(network)
    optimizer = torch.optim.SGD([*network.parameters(), *method.extra.parameters()], lr=0.0)
    config = TrainConfig(**settings)
    stepper = Stepper(wrap(network, config), method, optimizer, config, torch.device("cpu"))
    outcome = stepper.step(batch, 0, 0, len(batch.labels))
    return outcome, outcome.passes


def per_image(forward: int, image_gradients: int, backward: int) -> Passes:
    return Passes(forward * IMAGES, image_gradients * IMAGES, backward * IMAGES)


# Per image: forward passes, gradients of the attack, and what the losses' backward passes take.
ATTACK = STEPS
BY_HAND: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "standard": ({}, (1, 0, 2)),
    "pgd_at": ({}, (ATTACK + 1, ATTACK, 2)),
    # The attack looks at the clean prediction first; both halves of the loss are learnt from.
    "trades": ({}, (1 + ATTACK + 2, ATTACK, 4)),
    "arow": ({}, (1 + ATTACK + 2, ATTACK, 4)),
    "ikl": ({}, (1 + ATTACK + 2, ATTACK, 4)),
    "gkl": ({}, (1 + ATTACK + 2, ATTACK, 4)),
    "vir": ({}, (1 + ATTACK + 2, ATTACK, 4)),
    # The teacher looks at the clean images.
    "adr": ({}, (1 + ATTACK + 1, ATTACK, 2)),
    "mart": ({}, (ATTACK + 2, ATTACK, 4)),
    "mail": ({}, (1 + ATTACK + 2, ATTACK, 4)),
    "gairat": ({}, (ATTACK + 1, ATTACK, 2)),
    "alp": ({}, (ATTACK + 2, ATTACK, 4)),
    "mwpb": ({"start": 0.0}, (1 + ATTACK + 1, ATTACK, 2)),
    # Which features matter is a gradient of the head alone: it has its forward pass.
    "aalp": ({}, (ATTACK + 1 + 2, ATTACK, 4)),
    "iaat": ({"warmup": 0.5}, (1 + ATTACK + 1, ATTACK, 2)),
    # Both images' gradients, which are differentiated, as their forward passes are.
    "uad_at": ({}, (ATTACK + 2, ATTACK + 2, 2 * 4)),
    "uad_at plain": ({"gradients": 0.0}, (ATTACK + 2, ATTACK, 4)),
    "generative_ssl": ({"pretraining": 1.0}, (1, 0, 2)),
    # The autoencoder learns from the gradient of the screened images, which the weights' takes.
    "generative_ssl joint": ({"pretraining": 0.0}, (ATTACK + 2, ATTACK, 4)),
    "generative_ssl apart": (
        {"pretraining": 0.0, "train_jointly": False},
        (ATTACK + 2, ATTACK, 4),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_units_are_those_counted_by_hand(network: Classifier, batch: Batch, name: str) -> None:
    settings, expected = BY_HAND[name]
    if name == "iaat":
        # Only correct samples are attacked in the warm-up.
        network.eval()
        batch = replace(batch, labels=network(batch.images).argmax(dim=1))
    _, passes = step(network, make(name.split()[0], **settings), batch)
    assert passes == per_image(*expected)
    assert passes.units == sum(expected) * IMAGES


def test_budgets_are_found_by_two_attacks_more(network: Classifier, batch: Batch) -> None:
    method = make("iaat", warmup=0.0, warmup_accuracy=0.0)
    method.start_epoch(1, 0.5)
    outcome, passes = step(network, method, batch)
    attacked = int((outcome.parts[0].record["eps"] > 0).sum())
    # Two attacks on all and a look at what they found; wrong samples may have no budget left.
    assert passes.image_gradients == STEPS * (2 * IMAGES + attacked)
    assert passes.forward == passes.image_gradients + (3 + 1) * IMAGES + (
        IMAGES if attacked < IMAGES else 0
    )
    assert passes.backward == 2 * IMAGES


def test_a_helper_of_the_same_kind_costs_a_forward_pass(
    network: Classifier, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynat_ray.methods.hat.load_model", lambda folder: deepcopy(network))
    _, passes = step(network, make("hat", standard_model="a folder"), batch)
    assert passes == per_image(1 + STEPS + 1 + 3, STEPS, 6)


def test_what_has_stopped_or_has_no_budget_costs_nothing(network: Classifier, batch: Batch) -> None:
    outcome, passes = step(network, make("dynat", steps_ratio=1.0), batch)
    record = outcome.parts[0].record
    attacked = record["eps"] > 0
    # A sample is seen once more, in the pass that finds it beaten.
    made = torch.where(attacked, (record["attack_steps"] + 1).clamp(max=STEPS), 0)
    assert 0 < int(attacked.sum()) < IMAGES
    assert passes.image_gradients == int(made.sum())
    outer = IMAGES + int(attacked.sum())
    assert passes == Passes(IMAGES + int(made.sum()) + outer, int(made.sum()), 2 * outer)


def test_friendly_attacks_stop(network: Classifier, batch: Batch) -> None:
    outcome, passes = step(network, make("fat", step_noise=0.0), batch)
    made = (outcome.parts[0].record["attack_steps"] + 1).clamp(max=STEPS)
    assert passes == Passes(int(made.sum()) + IMAGES, int(made.sum()), 2 * IMAGES)


def test_deepfool(network: Classifier, batch: Batch) -> None:
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    _, passes = step(network, make("deep_defense", steps=3), batch)
    assert passes.forward == sum(seen)
    # In a step: a gradient of each of the three other classes, and that of the nearest again, with
    # a graph. The last look may be one that finds all crossed.
    steps = [size for size in seen if size]
    assert passes.image_gradients in (4 * sum(steps), 4 * sum(steps[:-1]))
    # Back: the weights, and the gradients that made the steps.
    assert passes.backward <= 4 * sum(steps)
    assert passes.backward > 2 * IMAGES


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Its ascent is an outer pass of its own.
        ({"awp_gamma": 0.01}, (STEPS + 2, STEPS, 4)),
        ({"awp_gamma": 0.01, "awp_warmup_epochs": 1}, (STEPS + 1, STEPS, 2)),
        ({"micro_batch_size": 5}, (STEPS + 1, STEPS, 2)),
        ({"precision": "bf16", "ema_decay": 0.9}, (STEPS + 1, STEPS, 2)),
    ],
)
def test_settings_of_the_loop(
    network: Classifier, batch: Batch, settings: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    assert step(network, make("pgd_at"), batch, **settings)[1] == per_image(*expected)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ({"steps": 0}, (1 + 1, 0, 2)),
        ({"steps": 1}, (1 + 1 + 1, 1, 2)),
        ({"batch_norm": "train"}, (5, 4, 2)),
    ],
)
def test_settings_of_the_attack(
    network: Classifier, batch: Batch, attack: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    plain = make("pgd_at")
    context = replace(plain.context, attack=replace(plain.context.attack, **attack))
    method = build_method(plain.settings, context)
    assert step(network, method, batch)[1] == per_image(*expected)


def test_compiled_networks_count_alike(
    network: Classifier, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_network: Callable[..., nn.Module] = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, dynamic: compile_network(model, backend="eager")
    )
    for name in ("trades", "dynat"):
        found = [
            step(deepcopy(network), make(name), batch, compile=each)[1] for each in (False, True)
        ]
        assert found[0] == found[1]


def test_a_method_of_somebody_else_is_counted(network: Classifier, batch: Batch) -> None:
    """One that asks the network for itself, without any help of the package."""

    class Own(type(make("pgd_at"))):  # type: ignore[misc]
        def loss(self, network: nn.Module, prepared: Any) -> Any:
            own = network.features(prepared.batch.images).mean()  # type: ignore[operator]
            found = super().loss(network, prepared)
            return replace(found, loss=found.loss + own)

    plain = make("pgd_at")
    _, passes = step(network, Own(plain.settings, plain.context), batch)
    assert passes == per_image(STEPS + 2, STEPS, 4)
