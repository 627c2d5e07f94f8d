"""The probability margin attack, alone and before AutoAttack."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor

from dynat_ray.attacks import registry
from dynat_ray.attacks.apgd import AutoPgd
from dynat_ray.attacks.registry import get_attack
from dynat_ray.attacks.square import Square
from dynat_ray.attacks.stages import Setting
from dynat_ray.config import Norm
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.perturb.threat import Threat
from tests.victim import EPS, Victim


def margin_of_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """One sample at a time."""
    margins = []
    for row, label in zip(logits.softmax(dim=1), labels.tolist(), strict=True):
        others = torch.cat([row[:label], row[label + 1 :]])
        margins.append(others.max() - row[label])
    return torch.stack(margins)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", EPS), ("L2", 0.8)])
def test_it_is_apgd_on_the_margin_of_probabilities(
    robust: Victim, few_iterations: int, norm: Norm, eps: float
) -> None:
    images, labels = robust.images[:48], robust.labels[:48]
    right = robust.model(images).argmax(dim=1) == labels
    images, labels = images[right], labels[right]
    at = Setting(threat=Threat(norm, eps), classes=10, seed=5)
    ours = AutoPgd("pm").perturb(robust.model, images, labels, at)
    library = APGDAttack(
        robust.model, few_iterations, norm=norm, eps=eps, seed=5, loss="dlr", device="cpu"
    )
    library.dlr_loss = margin_of_probabilities
    with torch.random.fork_rng(), torch.no_grad():
        theirs = library.perturb(images, labels)
    fallen = [robust.model(each).argmax(dim=1) != labels for each in (ours, theirs)]
    assert int((fallen[0] != fallen[1]).sum()) <= 1
    assert 0 < int(fallen[0].sum()) < len(labels)


def test_before_autoattack_it_takes_over_what_it_can_fool(
    robust_few: Victim, few_iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = robust_few.images[:40], robust_few.labels[:40]
    for name in ("autoattack-pma", "autoattack"):
        attack = get_attack(name)
        assert isinstance(attack.stages[-1], Square)
        stages = (*attack.stages[:-1], Square(queries=100))
        monkeypatch.setitem(registry._FIXED, name, replace(attack, stages=stages))
    found = evaluate_attacks(
        robust_few.model,
        images,
        labels,
        ["pma", "autoattack-pma", "autoattack"],
        Threat("Linf", 0.25),
    )
    alone, joined, whole = (found[n].correct for n in ("pma", "autoattack-pma", "autoattack"))
    assert not (joined & ~alone).any(), "what falls to the stage falls to the sequence"
    assert int((joined != whole).sum()) <= 1
    after = found["autoattack-pma"].after()
    assert list(after)[:2] == ["pma", "apgd-ce"]
    assert after["pma"] < 100
