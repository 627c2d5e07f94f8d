"""Papers 001, 002 and 003: losses against plain code, gradients against differences."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dynat_ray.acceleration.modes import unchanged_statistics
from dynat_ray.config import AttackConfig
from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.method_settings import method_settings
from dynat_ray.methods import Method, MethodContext, build_method
from dynat_ray.methods.uad_at import refined_reference
from dynat_ray.models import Classifier
from dynat_ray.perturb.deepfool import deepfool
from dynat_ray.perturb.threat import Threat
from tests.methods.cases import KEYS, loss_of, make, require_equal


def made(name: str, network: Classifier, **settings: Any) -> Method[Any]:
    torch.manual_seed(9)
    method = make(name, **settings)
    method.attach(network)
    return method


def check_gradient(
    method: Method[Any], network: Classifier, batch: Batch, parameters: list[Tensor]
) -> None:
    """Compares the loss's gradient along random directions with central differences, in float64."""
    network.double()
    method.extra.double()
    batch = Batch(batch.images.double(), batch.labels, batch.indices)
    prepared = method.prepare(network, batch, KEYS)

    def value() -> Tensor:
        network.train()
        return method.loss(network, prepared).loss

    generator = torch.Generator().manual_seed(1)
    gradients = torch.autograd.grad(value(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator).double()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-4 * direction)
                sides.append(float(value_without_graph(value)))
                parameter.sub_(sign * 1e-4 * direction)
        slope = (sides[0] - sides[1]) / 2e-4
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=3e-2, abs=3e-3)


def value_without_graph(value: Any) -> Tensor:
    with torch.enable_grad():
        found: Tensor = value().detach()
    return found


def test_deep_defense(network: Classifier, batch: Batch) -> None:
    method = made("deep_defense", network, regularisation=3.0, correct_rate=4.0, wrong_rate=2.0)
    loss, _ = loss_of(method, network, batch)
    network.eval()
    logits = network(batch.images)
    found = deepfool(network, batch.images, batch.labels).perturbation
    total = 0.0
    for n, label in enumerate(batch.labels):
        rho = float(found[n].norm() / batch.images[n].norm())
        right = bool(logits[n].argmax() == label)
        cost = math.exp(-4 * rho) if right else math.exp(2 * rho)
        total += float(F.cross_entropy(logits[n : n + 1], label[None]).detach()) + 3 * cost
    assert float(loss.detach()) == pytest.approx(total / 12, rel=1e-4)


def test_deep_defense_leaves_batch_normalisation_alone(network: Classifier, batch: Batch) -> None:
    method = made("deep_defense", network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss, _ = loss_of(method, network, batch)
    loss.backward()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [n for n, p in network.named_parameters() if p.grad is None] == [
        "backbone.trunk.1.weight",
        "backbone.trunk.1.bias",
    ]


def test_the_gradient_of_deep_defense(network: Classifier, batch: Batch) -> None:
    method = made("deep_defense", network)
    check_gradient(method, network, batch, [network.backbone.fc.weight, network.backbone.fc.bias])


def test_deep_defense_needs_a_trained_model(network: Classifier) -> None:
    context = MethodContext(Threat("Linf", 8 / 255), AttackConfig(), step_size=0.01, classes=4)
    with pytest.raises(UserError, match=r"model\.init_from"):
        build_method(method_settings()["deep_defense"](), context).attach(network)


def uad_by_hand(network: Classifier, batch: Batch, prepared: Any, gradients: float) -> Tensor:
    """The formula of docs/methods.md, sample by sample, with `clean_share` 0.3, `alignment` 2."""
    x, attacked = (
        each.clone().requires_grad_(True) for each in (batch.images, prepared.adversarial)
    )
    clean_features, features = network.features(x), network.features(attacked)
    clean, logits = network.head(clean_features), network.head(features)
    clean_statistics, statistics = (
        each.detach().mean(dim=(2, 3)) for each in (clean_features, features)
    )
    spread = (statistics - clean_statistics).var(dim=0, unbiased=False).sqrt()
    rows = []
    for n in range(12):
        drawn = statistics[n] + prepared.extras["noise"][n] * spread
        rows.append(features[n] + (drawn - statistics[n])[:, None, None])
    log_q = network.head(torch.stack(rows)).log_softmax(dim=1)
    p = clean.softmax(dim=1)
    total: Tensor = 0.7 * F.cross_entropy(logits, batch.labels)
    total = total + 0.3 * F.cross_entropy(clean, batch.labels)
    right = clean.argmax(dim=1) == batch.labels
    for n, label in enumerate(batch.labels):
        reference = p[n]
        if not right[n]:
            others = [m for m in range(12) if right[m] and batch.labels[m] == label]
            distances = [float((clean_statistics[m] - statistics[n]).norm()) for m in others]
            reference = F.one_hot(label, 4).float()
            if others:
                reference = p[others[distances.index(min(distances))]].detach()
        kl = (torch.xlogy(reference, reference) - reference * log_q[n]).sum()
        total = total + 2 * kl / 12
    if gradients:
        (g,) = torch.autograd.grad(
            F.cross_entropy(clean, batch.labels, reduction="sum"), x, create_graph=True
        )
        (h,) = torch.autograd.grad(
            F.cross_entropy(logits, batch.labels, reduction="sum"), attacked, create_graph=True
        )
        for n in range(12):
            cosine = (g[n] * h[n]).sum() / (g[n].norm() * h[n].norm())
            total = total + gradients / 12 * (1 - cosine)
    return total


@pytest.mark.parametrize("gradients", [0.0, 0.7])
def test_uad_at(network: Classifier, batch: Batch, gradients: float) -> None:
    method = made("uad_at", network, clean_share=0.3, alignment=2.0, gradients=gradients)
    ours, prepared = loss_of(method, network, batch)
    noise = prepared.extras["noise"]
    assert 0 < int((noise.abs().sum(dim=1) == 0).sum()) < 12
    require_equal(network, ours, uad_by_hand(network, batch, prepared, gradients))


def test_an_adversary_is_drawn_from_what_attacks_change(network: Classifier, batch: Batch) -> None:
    """Where the attack changes nothing, nothing is drawn, however unlike the images are."""
    method = made("uad_at", network, sample_share=1.0, gradients=0.0)
    prepared = method.prepare(network, batch, KEYS)
    network.eval()  # one batch's statistics would tell clean and attacked images apart
    unchanged = replace(prepared, adversarial=batch.images)
    for each, changed in ((prepared, True), (unchanged, False)):
        record = method.loss(network, each).record
        right = record["predicted"] == batch.labels
        assert bool((record["kl"][right] > 1e-6).all()) == changed


def test_the_gradient_of_uad_at(network: Classifier, batch: Batch) -> None:
    """The alignment of input gradients in particular: second derivatives."""
    with torch.no_grad():
        network.backbone.fc.weight.div_(10)
    method = made("uad_at", network, gradients=2.0, refine=False, sample_share=0.0)
    check_gradient(method, network, batch, [network.backbone.fc.weight, network.backbone.fc.bias])


def test_references_of_misclassified_samples_by_hand() -> None:
    log_probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]]).log()
    labels = torch.tensor([0, 0, 0, 1])
    clean = torch.tensor([[0.0], [5.0], [9.0], [9.0]])
    adversarial = torch.tensor([[0.0], [0.0], [4.0], [9.0]])
    found = refined_reference(log_probs, labels, clean, adversarial).exp()
    expected = [[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.0, 1.0]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_generative_ssl_begins_with_self_supervision(network: Classifier, batch: Batch) -> None:
    method = made("generative_ssl", network, mask=0.5, noise=0.0)
    method.start_epoch(2, 0.2)
    loss, prepared = loss_of(method, network, batch)
    masked = prepared.extras["masked"]
    hidden = masked == 0
    assert 0.3 < float(hidden.float().mean()) < 0.7
    assert torch.equal(masked[~hidden], batch.images[~hidden])
    assert prepared.adversarial is None
    autoencoder = method.extra["autoencoder"]
    filled = autoencoder.decode(autoencoder.encode(masked), (4, 4))
    expected = F.cross_entropy(network(batch.images), batch.labels)
    expected = expected + 10 * (filled - batch.images).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_generative_ssl_joint_loss(network: Classifier, batch: Batch) -> None:
    settings = {"adversarial": 0.6, "reconstruction": 2.0, "consistency": 0.4, "sparsity": 0.3}
    method = made("generative_ssl", network, **settings)
    method.start_epoch(3, 0.3)
    loss, prepared = loss_of(method, network, batch)
    assert float((prepared.adversarial - batch.images).abs().max()) <= 0.1 + 1e-6
    autoencoder = method.extra["autoencoder"]
    code = autoencoder.encode(prepared.adversarial)
    gate = torch.sigmoid(autoencoder.gate(code))
    images = autoencoder.decode(gate * code, (4, 4))
    clean, screened = network(batch.images), network(images)
    filled = autoencoder.decode(autoencoder.encode(prepared.extras["masked"]), (4, 4))
    plain = autoencoder.decode(code, (4, 4))
    expected = (
        F.cross_entropy(clean, batch.labels)
        + 0.6 * F.cross_entropy(screened, batch.labels)
        + 2 * (F.mse_loss(filled, batch.images) + F.mse_loss(plain, batch.images))
        + 0.4 * F.kl_div(screened.log_softmax(1), clean.softmax(1), reduction="batchmean")
        + 0.3 * gate.mean()
    )
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    loss.backward()
    assert all(parameter.grad is not None for parameter in method.extra.parameters())


@pytest.mark.parametrize(
    ("settings", "learns"),
    [
        ({"screening": "none"}, True),
        ({"screening": "raw"}, False),
        ({"attack_images": False}, True),
        ({"train_jointly": False}, False),
    ],
)
def test_generative_ssl_ablations(
    network: Classifier, batch: Batch, settings: dict[str, Any], learns: bool
) -> None:
    method = made("generative_ssl", network, **settings)
    method.start_epoch(9, 0.9)
    loss, prepared = loss_of(method, network, batch)
    loss.backward()
    assert any(p.grad is not None for p in method.extra.parameters()) == learns
    assert (prepared.passes.image_gradients == 0) == (settings == {"attack_images": False})


def test_running_statistics_come_from_clean_images_alone(network: Classifier, batch: Batch) -> None:
    other = deepcopy(network)
    method = made("generative_ssl", network)
    method.start_epoch(9, 0.9)
    loss_of(method, network, batch)
    other.train()(batch.images)
    for name, value in other.named_buffers():
        if "running" in name:
            torch.testing.assert_close(dict(network.named_buffers())[name], value)
    with unchanged_statistics(network):
        assert network.backbone.trunk[1].momentum == 0
    assert network.backbone.trunk[1].momentum == 0.1
