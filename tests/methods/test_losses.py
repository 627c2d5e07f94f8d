"""Each method's loss against the plainest code for its formula."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dynat_ray.config import AttackConfig
from dynat_ray.data import Batch
from dynat_ray.method_settings import method_settings
from dynat_ray.methods import Method, MethodContext, build_method
from dynat_ray.perturb.signals import signed_gap
from dynat_ray.perturb.threat import Threat
from dynat_ray.weighting import fragility
from tests.methods.cases import KEYS, loss_of, make, tiny_classifier


def test_standard(network: nn.Module, batch: Batch) -> None:
    loss, prepared = loss_of(make("standard"), network, batch)
    torch.testing.assert_close(loss, F.cross_entropy(network(batch.images), batch.labels))
    assert prepared.passes.image_gradients == 0


@pytest.mark.parametrize("name", ["standard", "generative_ssl", "pgd_at", "dynat"])
def test_what_is_best_is_what_the_method_trains_for(name: str) -> None:
    """Robust accuracy near zero is noise, and would call the first epochs the best."""
    method = make(name)
    early, late = method.score(60.0, 3.0), method.score(90.0, 0.0)
    assert (late > early) == (name in {"standard", "generative_ssl"})


def test_pgd_at(network: nn.Module, batch: Batch) -> None:
    loss, prepared = loss_of(make("pgd_at", smoothing=0.1), network, batch)
    logits = network(prepared.adversarial)
    log_probs = logits.detach().log_softmax(dim=1)
    by_hand = 0.0
    for number, label in enumerate(batch.labels):
        by_hand -= 0.9 * float(log_probs[number, label]) + 0.1 * float(log_probs[number].mean())
    assert loss.item() == pytest.approx(by_hand / 12, rel=1e-5)
    assert prepared.passes.image_gradients == 48


def test_trades(network: nn.Module, batch: Batch) -> None:
    loss, prepared = loss_of(make("trades", beta=2.5), network, batch)
    clean, attacked = network(batch.images), network(prepared.adversarial)
    kl = F.kl_div(attacked.log_softmax(dim=1), clean.softmax(dim=1), reduction="batchmean")
    torch.testing.assert_close(loss, F.cross_entropy(clean, batch.labels) + 2.5 * kl)


def test_the_gradient_flows_through_both_sides_of_the_kl(network: nn.Module, batch: Batch) -> None:
    loss, prepared = loss_of(make("trades", beta=1.0), network, batch)
    parameters = list(network.parameters())
    ours = torch.autograd.grad(loss, parameters)
    clean, attacked = network(batch.images), network(prepared.adversarial)
    p, q = clean.softmax(dim=1), attacked.softmax(dim=1)
    direct = F.cross_entropy(clean, batch.labels) + (p * (p / q).log()).sum(dim=1).mean()
    for one, other in zip(ours, torch.autograd.grad(direct, parameters), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_dynat_with_everything_off_is_trades_or_pgd_at(network: nn.Module, batch: Batch) -> None:
    off = {
        "budgets": False,
        "steps_ratio": 1.0,
        "early_stop": False,
        "weights": False,
        "misclassified": "uniform",
    }
    # Each with running statistics of its own: a loss in training mode moves them.
    ours, _ = loss_of(make("dynat", objective="at", **off), deepcopy(network), batch)
    theirs, _ = loss_of(make("pgd_at"), deepcopy(network), batch)
    torch.testing.assert_close(ours, theirs)
    # In training mode DynAT's clean and attacked images share the statistics that normalise them,
    # those of TRADES don't.
    network.eval()
    ours, theirs = (
        method.loss(network, method.prepare(network, batch, KEYS)).loss
        for method in (make("dynat", **off), make("trades", beta=5.0))
    )
    torch.testing.assert_close(ours, theirs)


def test_dynat_against_a_loop_over_the_samples(network: nn.Module, batch: Batch) -> None:
    """Budgets, weights and loss of the first batch, one sample at a time."""
    settings = {"gap_coef": 1.0, "skew_coef": 0.7, "early_stop": False, "kl_temperature": 0.5}
    method = make("dynat", misclassified="uniform", **settings)
    probs = deepcopy(network).eval()(batch.images).softmax(dim=1).detach()
    loss, prepared = loss_of(method, network, batch)
    facts = []
    for p, label in zip(probs, batch.labels, strict=True):
        top = sorted(p.tolist(), reverse=True)
        deviation = [value - 0.25 for value in p.tolist()]
        variance = sum(d**2 for d in deviation) / 4
        skew = sum(d**3 for d in deviation) / 4 / variance**1.5 / (2 / math.sqrt(3))
        facts.append((top[0] - top[1], skew, int(p.argmax()) == int(label)))
    right = [fact for fact in facts if fact[2]]
    assert 0 < len(right) < 12
    mean_gap, mean_skew = (sum(f[k] for f in right) / len(right) for k in (0, 1))
    factors = [
        min(max(math.exp(gap - mean_gap + 0.7 * (skew - mean_skew)), 0.5), 1.5)
        for gap, skew, _ in facts
    ]
    mean_factor = sum(f for f, fact in zip(factors, facts, strict=True) if fact[2]) / len(right)
    eps = [
        0.2 * f / mean_factor if fact[2] else 0.2 for f, fact in zip(factors, facts, strict=True)
    ]
    torch.testing.assert_close(prepared.record["eps"], torch.tensor(eps), atol=1e-5, rtol=1e-4)
    assert float(prepared.weights.mean()) == pytest.approx(1)
    change = (prepared.adversarial - batch.images).flatten(1).abs().amax(dim=1)
    assert bool((change <= torch.tensor(eps) + 1e-6).all())
    with torch.no_grad():
        clean, attacked = network(torch.cat([batch.images, prepared.adversarial])).chunk(2)
    p, q = clean.log_softmax(dim=1), attacked.log_softmax(dim=1)
    total = sum(
        float(F.cross_entropy(clean[n : n + 1], batch.labels[n : n + 1]))
        + 5 * float(prepared.weights[n]) * float((p[n].exp() * (p[n] - q[n])).sum())
        for n in range(12)
    )
    assert loss.item() == pytest.approx(total / 12, rel=1e-4)


def test_dynat_stops_only_correct_samples(network: nn.Module, batch: Batch) -> None:
    method = make("dynat", objective="at", stop_margin=-1.0, misclassified="uniform")
    _, prepared = loss_of(method, network, batch)
    correct = prepared.record["predicted"] == batch.labels
    assert prepared.record["attack_steps"][correct].unique().tolist() == [1]
    assert prepared.record["attack_steps"][~correct].unique().tolist() == [3]


@pytest.mark.parametrize(
    ("ratio", "steps", "length"), [(0.1, 3, 0.32 / 3), (0.75, 3, 0.32 / 3), (1.0, 4, 0.08)]
)
def test_dynat_makes_fewer_and_longer_steps(
    network: nn.Module, batch: Batch, ratio: float, steps: int, length: float
) -> None:
    """Four steps of 0.08 are asked for."""
    method = make("dynat", steps_ratio=ratio, early_stop=False)
    _, prepared = loss_of(method, network, batch)
    attacked = prepared.record["eps"] > 0
    assert prepared.record["attack_steps"][attacked].unique().tolist() == [steps]
    assert method.step_size == pytest.approx(length)


@pytest.mark.parametrize(
    ("configured", "steps"), [(0, 0), (1, 1), (3, 3), (10, 3), (20, 6), (40, 12)]
)
def test_dynat_makes_a_part_of_the_steps(configured: int, steps: int) -> None:
    assert make("dynat").settings.most_steps(configured) == steps


def test_dynat_can_leave_misclassified_samples_clean(network: nn.Module, batch: Batch) -> None:
    _, prepared = loss_of(make("dynat", misclassified="clean"), network, batch)
    wrong = prepared.record["predicted"] != batch.labels
    assert torch.equal(prepared.adversarial[wrong], batch.images[wrong])
    assert not torch.equal(prepared.adversarial[~wrong], batch.images[~wrong])
    # Their KL is none of an attack, and the others' mean is theirs alone.
    assert not prepared.weights[wrong].any()
    assert float(prepared.weights.mean()) == pytest.approx(1)
    assert prepared.passes.image_gradients == 3 * int((~wrong).sum())
    _, prepared = loss_of(make("dynat", objective="at"), network, batch)
    assert prepared.weights[wrong].tolist() == [1] * int(wrong.sum())
    assert float(prepared.weights[~wrong].mean()) == pytest.approx(1)


def test_dynat_computes_what_is_not_attacked_once(network: nn.Module, batch: Batch) -> None:
    """The loss is that of a batch of clean images and attacked ones alone."""
    method = make("dynat", misclassified="clean", beta=3.0)
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    prepared = method.prepare(network, batch, KEYS)
    network.train()
    seen.clear()
    loss = method.loss(network, prepared).loss
    attacked = prepared.record["predicted"] == batch.labels
    assert seen == [12 + int(attacked.sum())]
    logits = network(torch.cat([batch.images, prepared.adversarial[attacked]]))
    clean, changed = logits[:12], logits[12:]
    kl = F.kl_div(changed.log_softmax(dim=1), clean[attacked].softmax(dim=1), reduction="none").sum(
        dim=1
    )
    expected = (
        F.cross_entropy(clean, batch.labels) + 3 * (prepared.weights[attacked] * kl).sum() / 12
    )
    torch.testing.assert_close(loss, expected)


def test_soft_labels_reach_the_loss(network: nn.Module, batch: Batch) -> None:
    targets = torch.full((12, 4), 0.25)
    mixed = Batch(batch.images, batch.labels, batch.indices, targets)
    loss, prepared = loss_of(make("pgd_at"), network, mixed)
    log_probs = network(prepared.adversarial).log_softmax(dim=1)
    torch.testing.assert_close(loss, -log_probs.mean())


def test_fragility_counts_the_change_that_an_attack_began_with(
    network: nn.Module, batch: Batch
) -> None:
    carried = torch.zeros_like(batch.images)
    carried[::2] = 0.1
    begun = Batch(batch.images, batch.labels, batch.indices, carried=carried)
    settings = {
        "budgets": False,
        "misclassified": "uniform",
        "stop_margin": -1.0,
        "steps_ratio": 1.0,
    }
    probs = deepcopy(network).eval()(batch.images).softmax(dim=1).detach()
    _, prepared = loss_of(make("dynat", **settings), network, begun)
    # One step of 0.08 for correct samples, all four for the others, of a budget of 0.2.
    reach = torch.full((12,), 0.4) + torch.tensor([0.5, 0.0] * 6)
    reach[prepared.record["predicted"] != batch.labels] = 1.0
    expected = fragility(prepared.record["kl"], signed_gap(probs, batch.labels), reach)
    torch.testing.assert_close(prepared.record["fragility"], expected)


def attached(name: str, network: nn.Module, context: MethodContext) -> Method[Any]:
    settings = {"standard_model": "nowhere"} if name == "hat" else {}
    method = build_method(method_settings()[name](**settings), context)
    torch.manual_seed(0)
    if name == "hat":
        method._standard = tiny_classifier(classes=context.classes)
    else:
        method.attach(network)
    return method


@pytest.mark.parametrize("name", sorted(method_settings()))
def test_a_mixed_image_counts_as_what_most_of_it_shows(
    network: nn.Module, batch: Batch, name: str
) -> None:
    """Its own class, of which there is less, changes nothing."""
    own = torch.where(torch.arange(12) % 3 == 1, (batch.labels + 1) % 4, batch.labels)
    targets = 0.6 * F.one_hot(batch.labels, 4) + 0.4 * F.one_hot(own, 4)
    context = make("standard").context
    found = []
    for labels in (own, batch.labels):
        classifier = deepcopy(network)
        method = attached(name, classifier, context)
        method.start_epoch(9, 0.9)
        mixed = Batch(batch.images, labels, batch.indices, targets)
        found.append(loss_of(method, classifier, mixed))
    (loss, prepared), (expected, like) = found
    assert torch.equal(loss, expected)
    assert prepared.record.keys() == like.record.keys()
    for column, values in like.record.items():
        assert torch.equal(prepared.record[column], values), column


@pytest.mark.parametrize("name", sorted(method_settings()))
@pytest.mark.parametrize("epoch", [0, 9])
def test_every_method_works_with_two_classes_and_l2(name: str, epoch: int) -> None:
    torch.manual_seed(0)
    network = tiny_classifier(classes=2)
    context = MethodContext(
        Threat("L2", 0.5),
        AttackConfig(steps=2),
        step_size=0.3,
        classes=2,
        training_samples=6,
        starts_trained=True,
    )
    method = attached(name, network, context)
    batch = Batch(torch.rand(6, 1, 4, 4), torch.arange(6) % 2, torch.arange(6))
    method.start_epoch(epoch, epoch / 10)
    loss = method.loss(network, method.prepare(network, batch, torch.arange(6))).loss
    loss.backward()
    assert math.isfinite(float(loss.detach()))
