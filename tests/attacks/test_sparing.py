"""APGD that leaves fooled samples out of its passes, against the library's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from dynat_ray.attacks.apgd import AutoPgd, TargetedAutoPgd
from dynat_ray.attacks.library import run_library_attack
from dynat_ray.attacks.sparing import SparingApgd, SparingTargetedApgd
from dynat_ray.attacks.stages import Setting, Stage
from dynat_ray.perturb.objectives import cw_margin
from dynat_ray.perturb.threat import Threat
from tests.victim import EPS, Victim


class _Counted:
    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.images = model, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        answer: Tensor = self.model(images)
        return answer.clone()


def _run(kind: type, victim: Victim, count: int, **settings: Any) -> tuple[Tensor, int]:
    model = _Counted(victim.model)
    attack = kind(model, n_iter=30, seed=3, device=torch.device("cpu"), **settings)
    with torch.random.fork_rng():
        adversarial = attack.perturb(victim.images[:count], victim.labels[:count])
    with torch.no_grad():
        return victim.model(adversarial).argmax(1) == victim.labels[:count], model.images


@pytest.mark.parametrize(("norm", "eps"), [("Linf", EPS), ("L2", 0.6)])
@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (SparingApgd, APGDAttack, {"loss": "ce"}),
        (SparingApgd, APGDAttack, {"loss": "dlr"}),
        (SparingTargetedApgd, APGDAttack_targeted, {"n_target_classes": 3}),
    ],
    ids=["ce", "dlr", "targeted"],
)
def test_same_outcomes_with_fewer_passes(
    plain: Victim, ours: type, theirs: type, settings: dict[str, Any], norm: str, eps: float
) -> None:
    right, passes = _run(ours, plain, 60, norm=norm, eps=eps, **settings)
    expected, full = _run(theirs, plain, 60, norm=norm, eps=eps, **settings)
    assert right.tolist() == expected.tolist()
    assert 0 < int(right.sum()) < 60
    assert passes < 0.9 * full


def test_all_fooled_ends_at_once(plain: Victim) -> None:
    right, passes = _run(SparingApgd, plain, 20, norm="Linf", eps=0.5, loss="ce")
    assert not right.any()
    assert passes < 20 * 12


class _AtRandom(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images + 0.3 * torch.randn_like(images))
        return logits


def test_a_model_that_answers_at_random_is_attacked_as_by_the_library(
    plain: Victim, few_iterations: int
) -> None:
    """It is not fooled for good by one wrong answer."""
    model, images, labels = _AtRandom(plain.model), plain.images[:24], plain.labels[:24]
    at = Setting(threat=Threat("Linf", 0.03), classes=10, seed=3)
    for stage, kind, settings in (
        (AutoPgd("ce"), APGDAttack, {"loss": "ce"}),
        (TargetedAutoPgd(), APGDAttack_targeted, {"n_target_classes": 9}),
    ):
        library = kind(
            lambda batch: model(batch.contiguous(memory_format=torch.channels_last)).clone(),
            n_iter=few_iterations,
            eps=at.threat.eps,
            norm=at.threat.norm,
            seed=at.seed,
            device=images.device,
            **settings,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            expected = run_library_attack(library, images, labels)
            torch.manual_seed(0)
            found = stage.perturb(model, images, labels, at)  # type: ignore[attr-defined]
        assert torch.equal(found, expected)


@pytest.mark.parametrize("stage", [AutoPgd("ce"), TargetedAutoPgd()], ids=["ce", "targeted"])
def test_what_is_not_fooled_comes_as_near_as_the_attack_got(
    robust: Victim, few_iterations: int, stage: Stage
) -> None:
    images, labels = robust.images[:10], robust.labels[:10]
    seen: list[Tensor] = []
    handle = robust.model.register_forward_hook(lambda m, i, logits: seen.append(logits.detach()))
    right = robust.model(images).argmax(dim=1) == labels
    images, labels = images[right], labels[right]
    at = Setting(threat=Threat("Linf", EPS), classes=10, seed=3)
    seen.clear()
    adversarial = stage.perturb(robust.model, images, labels, at)
    handle.remove()
    with torch.no_grad():
        left = cw_margin(robust.model(adversarial), labels, None) < 0
        near = -cw_margin(robust.model(adversarial), labels, None)
        clean = -cw_margin(robust.model(images), labels, None)
    assert left.any()
    assert (near[left] < clean[left]).all()
    # Passes over all samples, before any is left out.
    whole = [-cw_margin(logits, labels, None) for logits in seen if len(logits) == len(labels)]
    assert (near[left] <= torch.stack(whole).amin(dim=0)[left] + 1e-5).all()
    assert ((adversarial - images).abs() <= EPS + 1e-6).all()
