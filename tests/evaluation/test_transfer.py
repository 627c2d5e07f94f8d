"""Transfer from another model catches misleading gradients, and accuses no honest model."""

from __future__ import annotations

import pytest
from torch import nn

from dynat_ray.config import Norm
from dynat_ray.evaluation.checks import Check
from dynat_ray.evaluation.transfer import check_transfer
from dynat_ray.perturb.threat import Threat
from tests.evaluation.test_checks import Wrapped, _MisleadingGradient
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


@pytest.mark.parametrize(("norm", "eps"), [("Linf", EPS), ("L2", 0.8)])
def test_honest_models_are_not_accused(
    robust: Victim, plain: Victim, norm: Norm, eps: float
) -> None:
    for victim in (robust, plain):
        assert not _check(victim.model, victim, Threat(norm, eps)).flagged


def test_masked_models_are_caught_by_a_substitute(plain: Victim) -> None:
    quantised = Wrapped(plain.model, lambda model, images: model((images * 4).round() / 4))
    misleading = Wrapped(
        plain.model, lambda model, images: model(_MisleadingGradient.apply(images))
    )
    for model in (quantised, misleading):
        check = _check(model, plain)
        assert check.flagged
        assert "substitute" in check.sentence


def test_another_model_may_be_given(plain: Victim) -> None:
    quantised = Wrapped(plain.model, lambda model, images: model((images * 4).round() / 4))
    with_original = _check(quantised, plain, surrogate=plain.model)
    assert with_original.flagged
    assert "another model" in with_original.sentence
    assert (
        with_original.numbers["transfer_percent"]
        > _check(quantised, plain).numbers["transfer_percent"]
    )
