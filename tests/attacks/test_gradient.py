"""FGSM, PGD and CW against torchattacks and foolbox."""

from __future__ import annotations

import foolbox
import pytest
import torch
import torchattacks

from dynat_ray.config import Norm
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.perturb.threat import Threat
from tests.victim import EPS, Victim

L2_EPS = 0.8


def _accuracy(victim: Victim, adversarial: torch.Tensor) -> float:
    with torch.no_grad():
        right = victim.model(adversarial).argmax(dim=1) == victim.labels
    return 100 * float(right.float().mean())


def _ours(victim: Victim, attack: str, norm: Norm, eps: float) -> float:
    return evaluate_attacks(
        victim.model, victim.images, victim.labels, [attack], Threat(norm, eps)
    )[attack].accuracy


@pytest.mark.parametrize(("norm", "eps"), [("Linf", EPS), ("L2", L2_EPS)])
def test_pgd_is_as_strong_as_in_torchattacks(robust: Victim, norm: Norm, eps: float) -> None:
    kind = torchattacks.PGD if norm == "Linf" else torchattacks.PGDL2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = kind(robust.model, eps=eps, alpha=eps / 4, steps=20)(robust.images, robust.labels)
    assert _ours(robust, "pgd-20", norm, eps) == pytest.approx(_accuracy(robust, theirs), abs=1.0)


def test_pgd_is_as_strong_as_in_foolbox(robust: Victim) -> None:
    attack = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=20)
    wrapped = foolbox.PyTorchModel(robust.model, bounds=(0, 1), device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, theirs, _ = attack(wrapped, robust.images, robust.labels, epsilons=EPS)
    assert _ours(robust, "pgd-20", "Linf", EPS) == pytest.approx(_accuracy(robust, theirs), abs=1.0)


def test_fgsm_fools_the_same_samples_as_torchattacks(robust: Victim) -> None:
    theirs = torchattacks.FGSM(robust.model, eps=EPS)(robust.images, robust.labels)
    ours = evaluate_attacks(
        robust.model, robust.images, robust.labels, ["clean", "fgsm"], Threat("Linf", EPS)
    )
    right = (robust.model(theirs).argmax(dim=1) == robust.labels).numpy()
    # Ours leaves alone what is wrong without an attack.
    clean = ours["clean"].correct
    assert (right[clean] == ours["fgsm"].correct[clean]).mean() >= 0.998
    assert not ours["fgsm"].correct[~clean].any()


def test_restarts_only_fool_more(robust: Victim) -> None:
    found = evaluate_attacks(
        robust.model,
        robust.images,
        robust.labels,
        ["pgd-3", "pgd-3x1", "pgd-3x6"],
        Threat("Linf", EPS),
    )
    once, same, often = (found[name].correct for name in ("pgd-3", "pgd-3x1", "pgd-3x6"))
    assert (once == same).all()
    assert not (often & ~once).any()
    assert often.sum() < once.sum()


def test_cw_maximises_the_margin(robust: Victim) -> None:
    """Scaled logits saturate cross-entropy, and leave the sign of the margin's gradient."""

    class Saturating(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = robust.model(images)
            return 1000 * logits

    found = evaluate_attacks(
        Saturating(), robust.images, robust.labels, ["pgd-30", "cw"], Threat("Linf", EPS)
    )
    honest = _ours(robust, "cw", "Linf", EPS)
    assert found["cw"].accuracy == pytest.approx(honest, abs=1.0)
    assert found["pgd-30"].accuracy > honest + 3


def test_a_model_may_be_changed_between_two_evaluations(robust: Victim) -> None:
    """Also by what is not a tensor."""

    class Rounding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.levels = robust.model, 4

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.levels:
                images = (images * self.levels).round() / self.levels
            logits: torch.Tensor = self.inner(images)
            return logits

    model = Rounding()
    images, labels = robust.images[:64], robust.labels[:64]
    evaluate_attacks(model, images, labels, ["fgsm"], Threat("Linf", EPS))
    model.levels = 0
    found = evaluate_attacks(model, images, labels, ["fgsm"], Threat("Linf", EPS))["fgsm"]
    own = evaluate_attacks(robust.model, images, labels, ["fgsm"], Threat("Linf", EPS))["fgsm"]
    assert found.predicted.tolist() == own.predicted.tolist()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd-5", "cw", "apgd-ce", "apgd-t", "fab-t"])
def test_a_gradient_that_is_nan_somewhere_stops_no_attack(
    robust_few: Victim, few_iterations: int, attack: str, norm: Norm
) -> None:
    class Broken(torch.nn.Module):
        """The gradient of the first pixel is NaN."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            first = images[:, 0, 0, :1]
            logits: torch.Tensor = robust_few.model(images) + 0 * (first - first.detach()).sqrt()
            return logits

    eps = {"Linf": 0.25, "L2": L2_EPS, "L1": 2.5}[norm]
    images, labels = robust_few.images[:24], robust_few.labels[:24]
    broken, honest = (
        evaluate_attacks(model, images, labels, [attack], Threat(norm, eps))[attack].accuracy
        for model in (Broken(), robust_few.model)
    )
    assert broken == pytest.approx(honest, abs=5.0)
    assert broken < 95
