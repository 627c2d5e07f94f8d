"""The reweighting and early-stopping baselines against loops over the samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dynat_ray.data import Batch
from dynat_ray.forward_units import counting
from dynat_ray.methods import build_method
from dynat_ray.models import Classifier
from tests.methods.cases import KEYS, loss_of, make


def test_mart(network: Classifier, batch: Batch) -> None:
    """The formula as the authors' code has it, one sample at a time."""
    loss, prepared = loss_of(make("mart", beta=5.0), network, batch)
    clean = network(batch.images).softmax(dim=1).tolist()
    attacked = network(prepared.adversarial).softmax(dim=1).tolist()
    total = 0.0
    for p, q, label in zip(clean, attacked, batch.labels.tolist(), strict=True):
        wrong = max(q[k] for k in range(4) if k != label)
        boosted = -math.log(q[label]) - math.log(1.0001 - wrong)
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total += boosted + 5 * kl * (1.0000001 - p[label])
    assert float(loss.detach()) == pytest.approx(total / 12, rel=1e-3)


@pytest.mark.parametrize(
    ("objective", "slope", "bias"), [("at", 10, -0.5), ("trades", 2, 0), ("mart", 2, 0)]
)
def test_mail(network: Classifier, batch: Batch, objective: str, slope: int, bias: float) -> None:
    method = make("mail", objective=objective, start=0.5)
    method.start_epoch(2, 0.5)
    loss, prepared = loss_of(method, network, batch)
    attacked, clean = network(prepared.adversarial), network(batch.images)
    p, q = clean.softmax(dim=1).detach(), attacked.softmax(dim=1).detach()
    total = 0.0
    for n, label in enumerate(batch.labels.tolist()):
        wrong = max(float(q[n, k]) for k in range(4) if k != label)
        weight = 3 / (1 + math.exp(-slope * (wrong - float(q[n, label]) + bias)))
        assert float(prepared.record["weight"][n]) == pytest.approx(weight, rel=1e-3)
        kl = float((p[n] * (p[n] / q[n]).log()).sum())
        ce = -math.log(q[n, label])
        if objective == "at":
            total += weight * ce
        elif objective == "trades":
            total += -math.log(p[n, label]) + 5 * weight * kl
        else:
            boosted = ce - math.log(1.0001 - wrong)
            total += weight * boosted + 5 * kl * (1.0000001 - float(p[n, label]))
    assert float(loss.detach()) == pytest.approx(total / 12, rel=1e-3)


def test_mail_weighs_nothing_before_its_start(network: Classifier, batch: Batch) -> None:
    method = make("mail", objective="at", start=0.5)
    method.start_epoch(1, 0.25)
    loss, prepared = loss_of(method, network, batch)
    torch.testing.assert_close(
        loss, F.cross_entropy(network(prepared.adversarial), batch.labels), rtol=1e-4, atol=1e-4
    )


def by_hand_attack(
    network: Classifier, image: torch.Tensor, label: torch.Tensor, tau: int | None
) -> tuple[torch.Tensor, int, int]:
    """Plain sign-gradient steps from the image; stops `tau` steps after the boundary."""
    network.eval()
    current, correct, used = image.clone(), 0, 0
    for _ in range(4):
        current.requires_grad_(True)
        logits = network(current)
        right = bool(logits.argmax() == label)
        if not right and tau is not None:
            if tau == 0:
                break
            tau -= 1
        correct += right
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, label), current)
        change = (current.detach() + 0.08 * gradient.sign() - image).clamp(-0.2, 0.2)
        current = (image + change).clamp(0, 1)
        used += 1
    network.train()
    return current.detach(), correct, used


def test_gairat(network: Classifier, batch: Batch) -> None:
    method = make("gairat", start_accuracy=0.0)
    method.context.attack.random_start = "none"
    method.start_epoch(1, 0.5)
    weights = []
    for n in range(12):
        _, kappa, _ = by_hand_attack(
            network, batch.images[n : n + 1], batch.labels[n : n + 1], tau=None
        )
        weights.append((1 + math.tanh(-1 + 5 * (2 - kappa) / 2)) / 2)
    expected = torch.tensor(weights) * 12 / sum(weights)
    assert len(set(weights)) > 2
    loss, prepared = loss_of(method, network, batch)
    torch.testing.assert_close(prepared.weights, expected, rtol=1e-4, atol=1e-5)
    losses = F.cross_entropy(network(prepared.adversarial), batch.labels, reduction="none")
    torch.testing.assert_close(loss, (losses * expected).mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("epoch", [58, 59])
def test_gairat_is_pgd_at_before_its_start(network: Classifier, batch: Batch, epoch: int) -> None:
    """The authors' weights begin in the 60th epoch of 120."""
    method = make("gairat", start_accuracy=0.0)
    method.start_epoch(epoch, epoch / 120)
    ones = method.prepare(network, batch, KEYS).weights.tolist() == [1.0] * 12
    assert ones == (epoch < 59)


def test_gairat_waits_until_enough_samples_withstand(network: Classifier, batch: Batch) -> None:
    network.eval()
    for accuracy in (0.0, 1.0):
        method = make("gairat", start_accuracy=accuracy)
        for epoch in (100, 101):
            method.start_epoch(epoch, epoch / 120)
            weights = method.prepare(network, batch, KEYS).weights
        assert (weights.tolist() == [1.0] * 12) == (accuracy == 1.0)


@pytest.mark.parametrize(("epoch", "tau"), [(0, 0), (5, 1), (9, 2)])
def test_fat_stops_tau_steps_after_the_boundary(
    network: Classifier, batch: Batch, epoch: int, tau: int
) -> None:
    method = make("fat", step_noise=0.0)
    method.context.attack.random_start = "none"
    method.start_epoch(epoch, epoch / 12)
    prepared = method.prepare(network, batch, KEYS)
    for n in range(12):
        image, _, used = by_hand_attack(
            network, batch.images[n : n + 1], batch.labels[n : n + 1], tau=tau
        )
        assert int(prepared.record["attack_steps"][n]) == used
        torch.testing.assert_close(prepared.adversarial[n], image[0], atol=1e-5, rtol=0)
    assert prepared.record["attack_steps"].unique().numel() > 1


def test_the_noise_of_fat_stays_in_the_ball(network: Classifier, batch: Batch) -> None:
    quiet, noisy = (
        make("fat", step_noise=noise).prepare(network, batch, KEYS).adversarial
        for noise in (0.0, 0.05)
    )
    assert not torch.equal(quiet, noisy)
    assert float((noisy - batch.images).abs().max()) <= 0.2 + 1e-6


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_mwpb_budgets_grow_with_the_margin(
    network: Classifier, batch: Batch, objective: str
) -> None:
    method = make("mwpb", objective=objective)
    method.start_epoch(2, 2 / 3)
    probs = network.eval()(batch.images).softmax(dim=1).detach()
    prepared = method.prepare(network, batch, KEYS)
    alpha = 0.58 if objective == "at" else 0.42
    for n, label in enumerate(batch.labels.tolist()):
        margin = float(probs[n, label]) - max(float(probs[n, k]) for k in range(4) if k != label)
        budget = 0.2 * math.exp(alpha * margin)
        assert float(prepared.record["eps"][n]) == pytest.approx(budget, rel=1e-4)
        change = (prepared.adversarial[n] - batch.images[n]).abs().max()
        assert float(change) <= budget + 1e-6
    method.start_epoch(1, 1 / 3)
    assert method.prepare(network, batch, KEYS).record["eps"].unique().tolist() == pytest.approx(
        [0.2]
    )


def test_growing_steps(network: Classifier, batch: Batch) -> None:
    """Two steps in the first epoch, all four after half of the run; fewer are longer."""
    plain = make("pgd_at")
    attack = replace(plain.context.attack, first_steps=2)
    method = build_method(plain.settings, replace(plain.context, attack=attack))
    made = []
    for epoch in range(8):
        method.start_epoch(epoch, epoch / 8)
        with counting() as passes:
            prepared = method.prepare(network, batch, KEYS)
        made.append(passes.image_gradients / len(batch.labels))
        assert float((prepared.adversarial - batch.images).abs().max()) <= 0.2 + 1e-6
        assert method.step_size == pytest.approx({2: 0.16, 3: 0.08 * 4 / 3, 4: 0.08}[made[-1]])
    # Steps grow by half a step an epoch, rounded to even.
    assert made == [2, 2, 3, 4, 4, 4, 4, 4]
    assert [plain.steps, plain.step_size] == [4, 0.08]
