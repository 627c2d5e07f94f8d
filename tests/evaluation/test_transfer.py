"""Transfer from another model catches misleading gradients, and accuses no honest model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import nn

from dynat_ray.config import Norm
from dynat_ray.evaluation import transfer
from dynat_ray.evaluation.checks import Check
from dynat_ray.evaluation.transfer import check_transfer
from dynat_ray.perturb.threat import Threat
from tests.evaluation.test_checks import MASKS, Wrapped
from tests.victim import EPS, Victim

THREAT = Threat("Linf", EPS)


def _check(
    model: nn.Module,
    victim: Victim,
    threat: Threat = THREAT,
    surrogate: nn.Module | None = None,
) -> Check:
    images, labels = victim.images[:80], victim.labels[:80]
    (check,) = check_transfer(model, images, labels, threat, seed=0, surrogate=surrogate)
    return check


@pytest.fixture(scope="module")
def quick_learning() -> Iterator[None]:
    """Half of the steps make a substitute that shows masked models up; all judge honest ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "_LEARNING_STEPS", 150)
        yield


@pytest.mark.parametrize(("norm", "eps"), [("Linf", EPS), ("L2", 0.8)])
def test_honest_models_are_not_accused(
    robust: Victim, plain: Victim, norm: Norm, eps: float
) -> None:
    for victim in (robust, plain):
        assert not _check(victim.model, victim, Threat(norm, eps)).flagged


@pytest.fixture(scope="module")
def quantised(plain: Victim) -> nn.Module:
    return Wrapped(plain.model, MASKS["quantised"])


@pytest.fixture(scope="module")
def with_substitute(quick_learning: None, quantised: nn.Module, plain: Victim) -> Check:
    return _check(quantised, plain)


def test_masked_models_are_caught_by_a_substitute(plain: Victim, with_substitute: Check) -> None:
    misleading = Wrapped(plain.model, MASKS["misleading"])
    for check in (with_substitute, _check(misleading, plain)):
        assert check.flagged
        assert "substitute" in check.sentence


def test_another_model_may_be_given(
    plain: Victim, quantised: nn.Module, with_substitute: Check
) -> None:
    with_original = _check(quantised, plain, surrogate=plain.model)
    assert with_original.flagged
    assert "another model" in with_original.sentence
    assert with_original.numbers["transfer_percent"] > with_substitute.numbers["transfer_percent"]
