"""Fronts that mask gradients fall once attacks know what to follow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynat_ray.errors import UserError
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.evaluation.fronted import FrontedModel, needless_draws, require_stand_in_fits
from dynat_ray.evaluation.model_checks import check_model
from dynat_ray.evaluation.subject import Subject, with_front
from dynat_ray.perturb.threat import Threat
from tests.victim import Victim

EPS = 0.25


class Quantising(nn.Module):
    """Rounds pixels to a few levels, which has gradient 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def front(self, images: Tensor) -> Tensor:
        return (images * 7).round() / 7

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.front(images))
        return logits


class StraightThrough(nn.Module):
    def __init__(self, model: Quantising) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model.network(images + (self.model.front(images) - images).detach())
        return logits


class Noisy(nn.Module):
    """Adds noise that hides most of the gradient's direction in a single answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images + 0.5 * torch.randn_like(images)).clamp(0, 1))
        return logits


class Pooled(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


class Cut(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.detach())
        return logits


def fail(model: nn.Module) -> nn.Module:
    raise RuntimeError("out of order")


def a_number(model: nn.Module) -> int:
    return 3


@pytest.mark.parametrize("attack", ["pgd-20", "apgd-ce", "fab-t"])
def test_a_quantising_front_falls_once_bpda_is_given(
    robust_few: Victim, few_iterations: int, attack: str
) -> None:
    images, labels = robust_few.images[:60], robust_few.labels[:60]
    model = Quantising(robust_few.model).eval()
    subject = with_front(Subject("quantising", model), f"{__name__}:StraightThrough", 1)
    assert subject.name == f"quantising --backward {__name__}:StraightThrough"
    masked, found, open_ = (
        evaluate_attacks(each, images, labels, [attack], Threat("Linf", EPS))[attack].accuracy
        for each in (model, subject.model, robust_few.model)
    )
    assert masked > 80
    assert found < 50
    # FAB looks for the nearest image, of which there are none nearer than half a level.
    assert found <= open_ + (25 if attack == "fab-t" else 10)


def test_the_checks_say_when_it_is_needed(robust_few: Victim) -> None:
    images, labels = robust_few.images[:40], robust_few.labels[:40]
    model = Quantising(robust_few.model).eval()
    fronted = FrontedModel(model, StraightThrough(model)).eval()
    found = [
        {check.name: check for check in check_model(each, images, labels, classes=4)}
        for each in (model, fronted, Noisy(robust_few.model))
    ]
    assert "give --backward" in found[0]["zero gradients"].sentence
    assert not found[1]["zero gradients"].flagged
    assert "--eot" in found[2]["randomness"].sentence


def test_answers_are_the_models_and_gradients_the_stand_ins(robust_few: Victim) -> None:
    images = robust_few.images[:8]
    model = Quantising(robust_few.model).eval()
    fronted = FrontedModel(model, StraightThrough(model)).eval()
    assert torch.equal(fronted(images), model(images))
    followed = images.clone().requires_grad_(True)
    assert torch.equal(fronted(followed), model(images))
    (gradient,) = torch.autograd.grad(fronted(followed)[:, 1].sum(), followed)
    at = model.front(images).requires_grad_(True)
    (expected,) = torch.autograd.grad(robust_few.model(at)[:, 1].sum(), at)
    torch.testing.assert_close(gradient, expected)


def test_the_mean_of_many_answers_is_a_better_guide(robust_few: Victim) -> None:
    images, labels = robust_few.images[:16], robust_few.labels[:16]
    model = Noisy(robust_few.model).eval()

    def gradient(draws: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        inputs = images.clone().requires_grad_(True)
        logits = FrontedModel(model, None, draws)(inputs)
        (found,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), inputs)
        return found.flatten(1)

    with torch.random.fork_rng():
        once, often = (
            torch.cosine_similarity(gradient(n, 0), gradient(n, 1), dim=1).mean() for n in (1, 30)
        )
    assert float(often) > float(once) + 0.2


def test_needless_draws_are_said(robust_few: Victim) -> None:
    assert "--eot 8" in needless_draws(FrontedModel(robust_few.model, None, 8), random=False)
    assert not needless_draws(FrontedModel(robust_few.model, None, 8), random=True)
    assert not needless_draws(robust_few.model, random=False)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("Pooled", r"returns shape \(1, 1\) for one image, but the model's logits have \(1, 4\)"),
        ("Cut", "can't be differentiated"),
        ("fail", "out of order"),
        ("a_number", "must return an nn.Module, not int"),
        ("nobody", "gives no model"),
    ],
)
def test_functions_of_other_shape(robust_few: Victim, function: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        subject = with_front(Subject("m", robust_few.model), f"{__name__}:{function}", 1)
        require_stand_in_fits(subject.model, robust_few.images)
