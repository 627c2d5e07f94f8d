"""Masked models are caught by the check that is meant for them, honest ones are not accused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynat_ray.config import Norm
from dynat_ray.evaluation import attack_checks, transfer
from dynat_ray.evaluation.attack_checks import check_attacks, check_outcomes
from dynat_ray.evaluation.checks import Check
from dynat_ray.evaluation.examples import find_examples
from dynat_ray.evaluation.model_checks import check_model
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.second_stage import SecondStage
from dynat_ray.evaluation.transfer import check_transfer
from dynat_ray.perturb.threat import Threat
from tests.victim import EPS, Victim


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module, answer: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.inner, images)


class _MisleadingGradient(torch.autograd.Function):
    """Leaves the image as it is, and sends noise back."""

    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))


def _all(model: nn.Module, victim: Victim, norm: Norm = "Linf", eps: float = EPS) -> list[Check]:
    images, labels = victim.images[:80], victim.labels[:80]
    return check_model(model, images, labels, classes=10) + check_attacks(
        model, images, labels, Threat(norm, eps), seed=0
    )


def _flagged(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.flagged}


@pytest.mark.parametrize(("norm", "eps"), [("Linf", EPS), ("L2", 0.8)])
def test_honest_models_are_not_accused(
    robust: Victim, plain: Victim, norm: Norm, eps: float
) -> None:
    assert _flagged(_all(robust.model, robust, norm, eps)) == set()
    assert _flagged(_all(plain.model, plain, norm, eps)) == set()


MASKS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "quantised": lambda model, images: model((images * 4).round() / 4),
    "saturated": lambda model, images: 1e4 * model(images),
    "softmax": lambda model, images: model(images).softmax(dim=1),
    "random": lambda model, images: model(images + 0.1 * torch.randn_like(images)),
    "misleading": lambda model, images: model(_MisleadingGradient.apply(images)),
    "shattered": lambda model, images: model(images + 0.02 * torch.sin(400 * images)),
}


@pytest.fixture(scope="module")
def checks_of(plain: Victim) -> Callable[[str], list[Check]]:
    """Gives what the checks say of a model behind a mask, which they are asked once."""

    def check(mask: str) -> list[Check]:
        with pytest.MonkeyPatch.context() as patch:
            # Enough to show these up; honest models are judged by all.
            patch.setattr(attack_checks, "_QUERIES", 200)
            return _all(Wrapped(plain.model, MASKS[mask]), plain)

    return cache(check)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("quantised", "zero gradients"),
        ("quantised", "black box against white box"),
        ("quantised", "large eps"),
        ("saturated", "zero gradients"),
        ("softmax", "logits"),
        ("random", "randomness"),
        ("misleading", "black box against white box"),
        ("misleading", "large eps"),
        ("shattered", "one step against many"),
    ],
)
def test_masked_models_are_caught(
    checks_of: Callable[[str], list[Check]], mask: str, expected: str
) -> None:
    checks = checks_of(mask)
    assert expected in _flagged(checks)
    assert all(check.sentence and "\n" not in check.sentence for check in checks)


def test_images_scaled_twice(plain: Victim) -> None:
    checks = check_model(plain.model, plain.images[:20] / 255, plain.labels[:20], classes=10)
    assert "input range" in _flagged(checks)


@pytest.mark.parametrize(("alone", "expected"), [(0, False), (2, False), (9, True)])
def test_samples_that_only_square_fools(alone: int, expected: bool) -> None:
    fooled_by = np.array([3] * alone + [0] * 20 + [-1] * (100 - 20 - alone))
    stages = ("apgd-ce", "apgd-t", "fab-t", "square")
    outcome = Outcome("autoattack", np.arange(100), np.zeros(100, np.int64), fooled_by, stages)
    (check,) = check_outcomes({"clean": outcome_without_stages(), "autoattack": outcome})
    assert check.flagged == expected
    assert check.numbers["only_square_percent"] == alone
    (at_one,) = check_outcomes({"autoattack": outcome}, "8/255")
    assert at_one.name != check.name
    assert "8/255" in at_one.sentence
    fell_before = replace(outcome, fallen_before=fooled_by == 3)
    (later,) = check_outcomes({"autoattack": fell_before}, "16/255")
    assert later.numbers["only_square_percent"] == 0
    # Each that was tried stands for two.
    tried = np.arange(100) % 2 == 0
    stage = SecondStage(np.where(fooled_by == 0, -1, 0).astype(np.int8), tried & (fooled_by != 0))
    sampled = replace(outcome, fooled_by=np.where(tried, fooled_by, -1), second_stage=stage)
    (half,) = check_outcomes({"autoattack-sampled": sampled})
    fell = sum(tried[:alone])
    assert half.numbers["only_square_percent"] == pytest.approx(2 * fell, abs=0.3)


def outcome_without_stages() -> Outcome:
    return Outcome("clean", np.arange(1), np.zeros(1, np.int64), np.array([-1]))


def test_a_model_that_is_never_right_has_nothing_to_attack(plain: Victim) -> None:
    labels = (plain.model(plain.images[:20]).argmax(dim=1) + 1) % 10
    images = plain.images[:20]
    assert check_attacks(plain.model, images, labels, Threat("Linf", EPS), seed=0) == []


def test_where_square_cannot_run_it_is_said() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    images = torch.rand(6, 1, 12, 12)
    labels = model(images).argmax(dim=1)
    checks = check_attacks(model, images, labels, Threat("L2", 0.1), seed=0)
    (check,) = (check for check in checks if check.name == "black box against white box")
    assert not check.flagged
    assert "not looked at" in check.sentence


def test_no_pass_is_larger_than_a_batch(robust: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    # More of the same passes.
    monkeypatch.setattr(attack_checks, "_QUERIES", 5)
    monkeypatch.setattr(attack_checks, "_LARGE_EPS_STEPS", 3)
    monkeypatch.setattr(transfer, "_STEPS", 3)
    monkeypatch.setattr(transfer, "_LEARNING_STEPS", 5)
    seen = []

    def answer(model: nn.Module, images: Tensor) -> Tensor:
        seen.append(len(images))
        logits: Tensor = model(images)
        return logits

    model, images, labels = Wrapped(robust.model, answer), robust.images[:12], robust.labels[:12]
    threat, at = Threat("Linf", EPS), {"seed": 0, "batch_size": 6}
    found = check_model(model, images, labels, classes=10, batch_size=6)
    found += check_attacks(model, images, labels, threat, **at)
    found += check_transfer(model, images, labels, threat, **at)
    every = np.arange(12)
    assert find_examples(model, images, labels, every, every, threat, **at) is not None
    assert len(found) == 10
    assert max(seen) == 6


def test_tiny_gradients_are_not_zero() -> None:
    class Tiny(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 1e-30 * images.flatten(1)[:, :3]

    checks = check_model(
        Tiny(), torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.long), classes=10
    )
    assert "zero gradients" not in _flagged(checks)
