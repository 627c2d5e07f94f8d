"""The attack engine against a slow loop, an independent library and its own promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from dynat_ray.config import Norm
from dynat_ray.perturb.objectives import kl_divergence
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.running import AttackOutcome, StopRule
from dynat_ray.perturb.signals import adversarial_gap
from dynat_ray.perturb.threat import Threat

NORMS = ["Linf", "L2", "L1"]


class Small(nn.Module):
    """Convolution, batch normalisation, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8 * 36, 5),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    network = Small()
    network(torch.rand(64, 3, 6, 6))  # running statistics
    return network


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(24, 3, 6, 6, generator=generator)
    return images, torch.randint(5, (24,), generator=generator)


def attack(
    model: nn.Module, images: Tensor, labels: Tensor, norm: str, **changes: Any
) -> AttackOutcome:
    """Attacks within 0.1 in six steps of 0.03, unless `changes` say otherwise."""
    inputs = {"keys": torch.arange(len(images))}
    for name in ("ratios", "keys", "clean_logits"):
        if name in changes:
            inputs[name] = changes.pop(name)
    threat = Threat(norm, changes.pop("eps", 0.1))  # type: ignore[arg-type]
    settings = {"step_size": 0.03, "steps": 6} | changes
    return PGD(threat=threat, **settings)(model, images, labels, **inputs)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_equals_a_sample_by_sample_loop(
    model: nn.Module, batch: tuple[Tensor, Tensor], norm: str
) -> None:
    """Budgets, steps and stops per sample, one sample at a time, in the plainest code."""
    images, labels = batch
    eps = torch.linspace(0.02, 0.3, len(images)) * (1 if norm == "Linf" else 8)
    stop = StopRule(margin=0.1, min_steps=2)
    outcome = attack(
        model,
        images,
        labels,
        norm,
        eps=1.0,
        step_size=1 / 3,
        ratios=eps,
        random_start="none",
        stop=stop,
    )
    model.eval()
    for number in range(len(images)):
        clean, label = images[number : number + 1], labels[number : number + 1]
        adversarial, radius, used = clean.clone(), float(eps[number]), 0
        for step in range(6):
            adversarial.requires_grad_(True)
            logits = model(adversarial)
            if step >= 2 and float(adversarial_gap(logits.detach(), label)) >= 0.1:
                break
            (gradient,) = torch.autograd.grad(
                nn.functional.cross_entropy(logits, label), adversarial
            )
            with torch.no_grad():
                if norm == "Linf":
                    change = adversarial + gradient.sign() * radius / 3 - clean
                    change = change.clamp(-radius, radius)
                else:
                    change = adversarial + gradient / gradient.norm() * radius / 3 - clean
                    change = change * min(1.0, radius / float(change.norm()))
                adversarial = (clean + change).clamp(0, 1)
            used += 1
        assert int(outcome.steps[number]) == used
        torch.testing.assert_close(
            outcome.images[number], adversarial.detach()[0], atol=2e-5, rtol=0
        )
    assert len(outcome.steps.unique()) > 1, "the case must contain samples that stop early"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", ["uniform", "gaussian", "none"])
def test_stays_in_the_ball_and_in_the_pixel_range(
    model: nn.Module, batch: tuple[Tensor, Tensor], norm: str, start: str
) -> None:
    images, labels = batch
    eps = torch.linspace(0.0, 0.5, len(images))
    settings = {"eps": 1.0, "step_size": 1.0, "ratios": eps}
    found = attack(model, images, labels, norm, random_start=start, **settings).images
    change = (found - images).flatten(1)
    sizes = Threat(norm, 1.0).sizes(change)  # type: ignore[arg-type]
    assert bool((sizes <= eps + 1e-6).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.equal(found[0], images[0]), "eps = 0 leaves a sample unchanged"


@pytest.mark.parametrize("norm", NORMS)
def test_no_result_depends_on_the_rest_of_the_batch(
    model: nn.Module, batch: tuple[Tensor, Tensor], norm: str
) -> None:
    images, labels = batch
    settings = {"stop": StopRule(margin=0.0), "random_start": "uniform"}
    together = attack(model, images, labels, norm, **settings)
    part = slice(7, 12)
    alone = attack(model, images[part], labels[part], norm, keys=torch.arange(7, 12), **settings)
    torch.testing.assert_close(alone.images, together.images[part], atol=1e-5, rtol=0)
    assert torch.equal(alone.steps, together.steps[part])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_agrees_with_torchattacks(
    model: nn.Module, batch: tuple[Tensor, Tensor], norm: str
) -> None:
    images, labels = batch
    model.eval()
    if norm == "Linf":
        theirs = torchattacks.PGD(model, eps=0.1, alpha=0.03, steps=6, random_start=False)
    else:
        theirs = torchattacks.PGDL2(model, eps=0.1, alpha=0.03, steps=6, random_start=False)
    ours = attack(model, images, labels, norm, random_start="none")
    torch.testing.assert_close(ours.images, theirs(images, labels), atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_is_left_as_it_was(
    model: nn.Module, batch: tuple[Tensor, Tensor], mode: str
) -> None:
    images, labels = batch
    model.train()
    model.layers[0].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack(model, images, labels, "Linf", batch_norm=mode)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(value, before[name]), name


def test_batch_norm_mode_matters(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    modes = [
        attack(model, images * 0.3, labels, "Linf", batch_norm=m).images for m in ("eval", "train")
    ]
    assert not torch.equal(*modes)


def gradient_passes(model: nn.Module) -> list[int]:
    """Returns where the sizes of all batches come that `model` is differentiated for from now."""
    sizes: list[int] = []

    def see(module: nn.Module, given: tuple[Tensor]) -> None:
        sizes.append(len(given[0]) if given[0].requires_grad else 0)

    model.register_forward_pre_hook(see)
    return sizes


def test_stopped_samples_cost_nothing(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    passes = gradient_passes(model)
    outcome = attack(
        model, images, labels, "Linf", steps=10, stop=StopRule(margin=-1.0, min_steps=1)
    )
    # Every sample makes one step, is seen to have reached the margin in the second pass, and goes.
    assert outcome.steps.tolist() == [1] * len(images)
    assert sum(passes) == 2 * len(images)


@pytest.mark.parametrize("norm", NORMS)
def test_samples_without_a_budget_cost_nothing(
    model: nn.Module, batch: tuple[Tensor, Tensor], norm: str
) -> None:
    images, labels = batch
    passes = gradient_passes(model)
    for attacked in (0, 1, 5):
        ratios = (torch.arange(24) < attacked).float()
        for start in ("uniform", "gaussian", "none"):
            passes.clear()
            outcome = attack(model, images, labels, norm, ratios=ratios, random_start=start)
            assert sum(passes) == 6 * attacked
            changed = (outcome.images != images).flatten(1).any(dim=1)
            assert changed.tolist() == (ratios > 0).tolist()
            assert outcome.logits.isfinite().all()


def test_with_batch_statistics_nobody_leaves(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    """Fewer samples would have other statistics, and a single one has none."""
    images, labels = batch
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    ratios = (torch.arange(24) == 3).float()
    settings = {"stop": StopRule(margin=-1.0), "batch_norm": "train"}
    outcome = attack(model, images, labels, "Linf", ratios=ratios, **settings)
    assert set(sizes) == {24}
    assert outcome.steps.tolist() == [int(row == 3) for row in range(24)]
    changed = (outcome.images != images).flatten(1).any(dim=1)
    assert changed.nonzero().tolist() == [[3]]


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_no_steps_are_no_attack(model: nn.Module, batch: tuple[Tensor, Tensor], start: str) -> None:
    images, labels = batch
    outcome = attack(model, images, labels, "Linf", steps=0, random_start=start)
    assert torch.equal(outcome.images, images)
    assert not outcome.eps.any()
    torch.testing.assert_close(outcome.logits, model.eval()(images).detach())


@pytest.mark.parametrize("stop", [None, StopRule(margin=0.0, min_steps=0)])
def test_one_step_tells_what_it_has_found(
    model: nn.Module, batch: tuple[Tensor, Tensor], stop: StopRule | None
) -> None:
    images, labels = batch
    passes = gradient_passes(model)
    outcome = attack(model, images, labels, "Linf", steps=1, stop=stop)
    torch.testing.assert_close(outcome.logits, model.eval()(outcome.images).detach())
    assert sum(passes) == len(images)


def test_only_samples_that_may_stop_do(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    applies = torch.arange(len(images)) % 2 == 0
    outcome = attack(model, images, labels, "Linf", stop=StopRule(-1.0, applies=applies))
    assert outcome.steps[applies].unique().tolist() == [1]
    assert outcome.steps[~applies].unique().tolist() == [6]


@pytest.mark.parametrize("objective", ["ce", "kl", "cw"])
def test_every_objective_grows(
    model: nn.Module, batch: tuple[Tensor, Tensor], objective: str
) -> None:
    images, labels = batch
    model.eval()
    clean = model(images).detach()

    def value(logits: Tensor) -> Tensor:
        if objective == "ce":
            return nn.functional.cross_entropy(logits, labels)
        if objective == "kl":
            return kl_divergence(clean.log_softmax(1), logits.log_softmax(1)).mean()
        others = logits.scatter(1, labels[:, None], float("-inf")).amax(dim=1)
        return (others - logits.gather(1, labels[:, None]).squeeze(1)).mean()

    start = "gaussian" if objective == "kl" else "none"
    found = attack(
        model,
        images,
        labels,
        "Linf",
        eps=0.3,
        objective=objective,
        clean_logits=clean,
        random_start=start,
    )
    noise = (images + 0.3 * torch.randn_like(images).sign()).clamp(0, 1)
    with torch.no_grad():
        assert float(value(model(found.images))) > float(value(model(noise))) + 0.003


def test_a_function_can_be_the_objective(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    named = attack(model, images, labels, "Linf", objective="ce")
    own = attack(
        model,
        images,
        labels,
        "Linf",
        objective=lambda z, y, _: nn.functional.cross_entropy(z, y, reduction="none"),
    )
    assert torch.equal(named.images, own.images)


@pytest.mark.parametrize("norm", NORMS)
def test_uniform_start_fills_the_ball(norm: str) -> None:
    images = torch.full((2000, 1, 2, 2), 0.5)
    threat = Threat(norm, 0.2)  # type: ignore[arg-type]
    noise = threat.ball.uniform_noise(images, torch.full((2000,), 0.2), torch.arange(2000))
    sizes = threat.sizes(noise)
    assert float(sizes.max()) <= 0.2 + 1e-6
    # In four dimensions the radius is distributed as r^4: half of the ball lies beyond 0.84 eps.
    assert abs(float((sizes > 0.2 * 0.5**0.25).float().mean()) - 0.5) < 0.05
    assert float(noise.mean().abs()) < 0.01


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1.0, 1e30])
def test_a_step_under_l2_has_its_length_whatever_the_gradients(size: float) -> None:
    images = torch.zeros(2, 1, 3, 3)
    gradient = torch.zeros_like(images)
    gradient[0, 0, 1, 1] = -size
    moved = Threat("L2", 0.5).ball.step(images, gradient, torch.tensor([0.5, 0.5]))
    assert float(moved[0, 0, 1, 1]) == pytest.approx(-0.5)
    assert moved.count_nonzero() == 1


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_step_follows_an_infinite_gradient_and_ignores_one_that_is_nan(norm: Norm) -> None:
    gradient = torch.tensor([float("inf"), float("-inf"), float("nan"), 1.0]).view(1, 1, 2, 2)
    start = torch.full((1, 1, 2, 2), 0.5)
    moved = Threat(norm, 0.1).ball.step(start, gradient, torch.tensor([0.1])) - start
    assert moved.flatten().sign()[:3].tolist() == [1, -1, 0]
    length = moved.abs().max() if norm == "Linf" else moved.norm()
    assert length == pytest.approx(0.1)
