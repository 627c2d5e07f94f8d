"""ARoW, IKL, GKL, ADR and VIR against the plainest code for their formulas."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dynat_ray.config import TrainConfig
from dynat_ray.data import Batch
from dynat_ray.methods import Method
from dynat_ray.methods.class_predictions import ClassPredictions
from dynat_ray.models import Classifier
from dynat_ray.training.step import Stepper, wrap
from tests.methods.cases import KEYS, loss_of, make, require_equal


def kl_of_each(p: Tensor, q: Tensor) -> Tensor:
    """`KL(p || q)` of probabilities, as PyTorch has it."""
    return F.kl_div((q + 1e-12).log(), p, reduction="none").sum(dim=1)


@pytest.mark.parametrize(("own", "of_the_run"), [(0.2, 0.0), (0.2, 0.1), (None, 0.1)])
def test_arow(network: Classifier, batch: Batch, own: float | None, of_the_run: float) -> None:
    method = make("arow", of_the_run, label_smoothing=own)
    loss, prepared = loss_of(method, network, batch)
    clean, attacked = network(batch.images), network(prepared.adversarial)
    log_probs, q = clean.log_softmax(dim=1), attacked.softmax(dim=1)
    smoothing = of_the_run if own is None else own
    rows = torch.arange(12)
    hard, even = -log_probs[rows, batch.labels], -log_probs.mean(dim=1)
    robust = kl_of_each(clean.softmax(dim=1), q) * (1 - q[rows, batch.labels])
    expected = ((1 - smoothing) * hard + smoothing * even).mean() + 7 * robust.mean()
    require_equal(network, loss, expected)


@pytest.fixture
def modest(network: Classifier) -> Classifier:
    """The network with logits of usual size, whose squares float32 can tell apart to 1e-5."""
    with torch.no_grad():
        network.backbone.fc.weight.mul_(0.1)  # type: ignore[union-attr,operator]
    return network


def differences_of_logits(clean: Tensor, attacked: Tensor) -> Tensor:
    """`((z_j - z_k) - (z'_j - z'_k))^2`, `(B, K, K)`."""
    apart = [z[:, :, None] - z[:, None, :] for z in (clean, attacked)]
    return (apart[0] - apart[1]) ** 2


def after_an_epoch(method: Method[Any], network: Classifier, batch: Batch, heat: float) -> Tensor:
    """Has a method see the batch for an epoch; returns the mean prediction for each class."""
    method.start_epoch(0, 0.0)
    method.prepare(network, batch, KEYS)
    method.start_epoch(1, 0.5)
    with torch.no_grad():
        probs = (deepcopy(network).eval()(batch.images) / heat).softmax(dim=1)
    means = torch.full((4, 4), 0.25)
    for label in range(4):
        if (batch.labels == label).any():
            means[label] = probs[batch.labels == label].mean(dim=0)
    return means


@pytest.mark.parametrize("epochs", [0, 1])
def test_ikl(modest: Classifier, batch: Batch, epochs: int) -> None:
    method = make("ikl")
    means = torch.full((4, 4), 0.25)
    if epochs:
        means = after_an_epoch(method, modest, batch, 4.0)
    loss, prepared = loss_of(method, modest, batch)
    clean, attacked = modest(batch.images), modest(prepared.adversarial)
    weights = means[batch.labels][:, :, None] @ means[batch.labels][:, None, :]
    squares = 0.25 * (differences_of_logits(clean, attacked) * weights).sum() / 12
    soft = -(clean.softmax(dim=1).detach() * attacked.log_softmax(dim=1)).sum(dim=1).mean()
    expected = F.cross_entropy(clean, batch.labels) + 20 * squares + 4 * soft
    require_equal(modest, loss, expected)


@pytest.mark.parametrize("gamma", [0.2, 1.0])
def test_gkl(modest: Classifier, batch: Batch, gamma: float) -> None:
    method = make("gkl", gamma=gamma)
    means = after_an_epoch(method, modest, batch, 1.0)
    loss, prepared = loss_of(method, modest, batch)
    clean, attacked = modest(batch.images), modest(prepared.adversarial)
    prior = means[batch.labels] ** gamma
    weights = prior[:, :, None] @ prior[:, None, :]
    squares = 0.25 * (differences_of_logits(clean, attacked) * weights).sum() / weights.sum()
    soft = -(clean.softmax(dim=1).detach() * attacked.log_softmax(dim=1)).sum(dim=1).mean()
    expected = F.cross_entropy(clean, batch.labels) + 20 * squares + 4 * soft
    require_equal(modest, loss, expected)


def test_decoupling_keeps_the_gradient_of_the_kl(network: Classifier, batch: Batch) -> None:
    """The theorem that IKL starts from: with `w = p`, and the clean logits' side of the squared
    error and of the cross-entropy taken apart, both gradients are those of the KL."""
    clean, attacked = (
        network(images).detach().requires_grad_(True) for images in (batch.images, 1 - batch.images)
    )
    p = clean.detach().softmax(dim=1)
    log_probs = clean.log_softmax(dim=1)
    kl = (log_probs.exp() * (log_probs - attacked.log_softmax(dim=1))).sum()
    weights = p[:, :, None] * p[:, None, :]
    squares = 0.25 * (differences_of_logits(clean, attacked.detach()) * weights).sum()
    decoupled = squares - (p * attacked.log_softmax(dim=1)).sum()
    for one, other in zip(
        *(torch.autograd.grad(each, [clean, attacked]) for each in (decoupled, kl)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_predictions_by_class_outlive_a_restart() -> None:
    seen = ClassPredictions(3)
    seen.start_epoch(0)
    seen.add(torch.tensor([[0.5, 0.5, 0.0], [0.7, 0.2, 0.1]]), torch.tensor([0, 0]))
    seen.add(torch.tensor([[0.1, 0.1, 0.8], [torch.nan, 0.0, 0.0]]), torch.tensor([2, 2]))
    again = ClassPredictions(3)
    again.load_state_dict(seen.state_dict())
    again.start_epoch(0)
    assert again.means.unique().tolist() == pytest.approx([1 / 3])
    again.start_epoch(1)
    expected = torch.tensor([[0.6, 0.35, 0.05], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.1, 0.8]])
    torch.testing.assert_close(again.means, expected)
    with pytest.raises(ValueError, match="number of classes"):
        ClassPredictions(4).load_state_dict(seen.state_dict())


def rectified(teacher: Classifier, batch: Batch, heat: float, trust: float) -> Tensor:
    """The targets as the paper has them, one sample at a time."""
    targets = torch.zeros(12, 4)
    for n, label in enumerate(batch.labels.tolist()):
        t = (teacher(batch.images[n : n + 1]) / heat).softmax(dim=1)[0].detach()
        share = min(max(trust - float(t.max() - t[label]), 0.0), 1.0)
        targets[n] = share * t
        targets[n, label] += 1 - share
    return targets


@pytest.mark.parametrize(
    ("progress", "heat", "trust"), [(0.0, 2.0, 0.7), (0.5, 1.5, 0.825), (0.25, 1.853553, 0.736612)]
)
def test_adr(network: Classifier, batch: Batch, progress: float, heat: float, trust: float) -> None:
    method = make("adr")
    method.attach(network)
    teacher = deepcopy(network).eval()
    with torch.no_grad():
        network.backbone.fc.weight.mul_(0.3)  # type: ignore[union-attr,operator]
    method.start_epoch(1, progress)
    loss, prepared = loss_of(method, network, batch)
    targets = rectified(teacher, batch, heat, trust)
    torch.testing.assert_close(prepared.extras["targets"], targets, rtol=1e-4, atol=1e-5)
    logits = network(prepared.adversarial)
    expected = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    require_equal(network, loss, expected)


def test_the_attack_of_adr_maximises_the_cross_entropy_with_its_targets(
    network: Classifier, batch: Batch
) -> None:
    method = make("adr")
    method.context.attack.random_start = "none"
    method.attach(network)
    method.start_epoch(1, 0.5)
    prepared = method.prepare(network, batch, KEYS)
    network.eval()
    current = batch.images.clone()
    for _ in range(4):
        current.requires_grad_(True)
        log_probs = network(current).log_softmax(dim=1)
        loss = -(prepared.extras["targets"] * log_probs).sum()
        (gradient,) = torch.autograd.grad(loss, current)
        change = (current.detach() + 0.08 * gradient.sign() - batch.images).clamp(-0.2, 0.2)
        current = (batch.images + change).clamp(0, 1)
    assert prepared.adversarial is not None
    torch.testing.assert_close(prepared.adversarial, current, atol=1e-5, rtol=0)


def test_the_teacher_follows_once_a_step(network: Classifier, batch: Batch) -> None:
    """Whatever the number of micro-batches, and from where a checkpoint has left it."""
    method = make("adr", decay=0.9)
    method.attach(network)
    before = deepcopy(network.state_dict())
    config = TrainConfig(micro_batch_size=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    stepper = Stepper(wrap(network, config), method, optimizer, config, torch.device("cpu"))
    stepper.step(batch, 0, 0, 12)
    teacher = method.state_dict()["teacher"]
    assert not torch.equal(before["backbone.fc.weight"], network.state_dict()["backbone.fc.weight"])
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(teacher[name], 0.9 * before[name] + 0.1 * value)
    again = make("adr", decay=0.9)
    again.attach(network)
    again.load_state_dict(deepcopy(method.state_dict()))
    for one in (method, again):
        one.start_epoch(1, 0.5)
    found = [m.prepare(network, batch, KEYS).extras["targets"] for m in (method, again)]
    assert torch.equal(*found)


def test_vir(network: Classifier, batch: Batch) -> None:
    method = make("vir", beta=5.0)
    method.start_epoch(7, 0.7)
    loss, prepared = loss_of(method, network, batch)
    clean, attacked = network(batch.images), network(prepared.adversarial)
    p, q = clean.softmax(dim=1), attacked.softmax(dim=1)
    expected = F.cross_entropy(clean, batch.labels)
    for n, label in enumerate(batch.labels.tolist()):
        kl = (p[n] * (p[n].log() - q[n].log())).sum()
        weight = 8 * math.exp(-3 * float(p[n, label].detach())) * float(kl.detach()) + 1.6
        assert float(prepared.record["weight"][n]) == pytest.approx(weight, rel=1e-4)
        expected = expected + 5 * weight * kl / 12
    require_equal(network, loss, expected)


def test_vir_is_trades_before_its_start(network: Classifier, batch: Batch) -> None:
    found = []
    for name in ("vir", "trades"):
        method = make(name, beta=5.0)
        method.start_epoch(1, 0.25)
        found.append(loss_of(method, deepcopy(network), batch)[0])
    torch.testing.assert_close(*found)
