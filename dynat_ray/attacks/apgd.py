"""APGD, the gradient attack of AutoAttack (Croce and Hein, ICML 2020), from pyautoattack.

The attacks of AutoAttack are called one by one instead of through `pyautoattack.AutoAttack`: so a
sample is attacked only while it is right, global random states stay as they were, no check traces
the interpreter, and models with fewer than ten classes work. Parameters are those of versions
`standard` and `rand`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from dynat_ray.attacks.library import logits_of, run_library_attack
from dynat_ray.attacks.sparing import SparingApgd, SparingTargetedApgd, may_spare
from dynat_ray.attacks.stages import Setting, target_count
from dynat_ray.perturb.objectives import cw_margin
from dynat_ray.perturb.signals import adversarial_gap

ITERATIONS = 100
STEP_SIZE_DECAY = 0.75
# Draws per gradient of version `rand`, for models that answer at random.
RANDOM_DRAWS = 20
# Of version `standard` under L1, where steps also begin in balls of three and two times the radius.
L1_RESTARTS, L1_TARGETS = 5, 5

_DLR_CLASSES = 3
_TARGETED_DLR_CLASSES = 4

# pyautoattack's warnings go to a logger; what they say is measured in `checks` instead.
_SILENT = logging.getLogger("dynat_ray.pyautoattack")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True)
class AutoPgd:
    """APGD on cross-entropy (`ce`), on the difference of logits ratio (`dlr`) or on the margin of
    probabilities (`pm`).

    The last is the loss of the probability margin attack, PMA (Xie et al., CVPR 2025),
    `max_{k != y} p_k - p_y`. On APGD's steps it is ours: the authors' steps shrink along a cosine.
    """

    loss: Literal["ce", "dlr", "pm"]
    draws: int = 1

    @property
    def name(self) -> str:
        return "pma" if self.loss == "pm" else f"apgd-{self.loss}"

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, at: Setting) -> Tensor:
        standard = self.draws == 1
        kind = SparingApgd if standard and _may_spare(model, images, at) else APGDAttack
        settings = _apgd_settings(images, at)
        if at.threat.norm == "L1" and standard:
            settings |= {"n_restarts": L1_RESTARTS, "use_largereps": True}
        library_loss = "ce" if self.loss == "ce" else "dlr"
        attack = kind(logits_of(model), loss=library_loss, eot_iter=self.draws, **settings)
        if self.loss == "pm":
            attack.dlr_loss = adversarial_gap
        elif self.note(at.classes):
            attack.dlr_loss = lambda logits, right: cw_margin(logits, right, None)
        return run_library_attack(attack, images, labels)

    def note(self, classes: int) -> str:
        if self.loss != "dlr" or classes >= _DLR_CLASSES:
            return ""
        return _substitute(self.name, "DLR", _DLR_CLASSES, "margin", classes)


@dataclass(frozen=True)
class TargetedAutoPgd:
    """APGD on the targeted DLR loss, towards every wrong class (the nine most likely ones, under L1
    the five).
    """

    name: str = "apgd-t"

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, at: Setting) -> Tensor:
        return self._run(model, images, labels, at, None)

    def mixes(self, model: nn.Module, images: Tensor, at: Setting) -> bool:
        return _may_spare(model, images, at)

    def perturb_each(
        self, model: nn.Module, images: Tensor, labels: Tensor, eps: Tensor, at: Setting
    ) -> Tensor:
        assert self.mixes(model, images, at)
        return self._run(model, images, labels, at, eps)

    def _run(
        self, model: nn.Module, images: Tensor, labels: Tensor, at: Setting, eps: Tensor | None
    ) -> Tensor:
        kind = SparingTargetedApgd if _may_spare(model, images, at) else APGDAttack_targeted
        targets = target_count(at.classes)
        settings = _apgd_settings(images, at)
        if at.threat.norm == "L1":
            targets = min(targets, L1_TARGETS)
            settings |= {"use_largereps": True}
        attack = kind(logits_of(model), n_target_classes=targets, **settings)
        if eps is not None:
            attack.own_eps = eps
        if self.note(at.classes):
            attack.dlr_loss_targeted = lambda logits, right: (
                -_difference(logits, right, attack.y_target)
            )
        return run_library_attack(attack, images, labels)

    def note(self, classes: int) -> str:
        if classes >= _TARGETED_DLR_CLASSES:
            return ""
        return _substitute(
            self.name, "targeted DLR", _TARGETED_DLR_CLASSES, "targeted margin", classes
        )


def _may_spare(model: nn.Module, images: Tensor, at: Setting) -> bool:
    # Under L1 what fools a sample in one of the larger balls does not count.
    return at.threat.norm != "L1" and may_spare(model, images)


def _apgd_settings(images: Tensor, at: Setting) -> dict[str, Any]:
    return {
        "n_restarts": 1,
        "n_iter": ITERATIONS,
        "eps": at.threat.eps,
        "norm": at.threat.norm,
        "rho": STEP_SIZE_DECAY,
        "seed": at.seed,
        "device": images.device,
        "logger": _SILENT,
    }


def _difference(logits: Tensor, one: Tensor, other: Tensor) -> Tensor:
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, one] - logits[rows, other]


def _substitute(attack: str, loss: str, needed: int, instead: str, classes: int) -> str:
    return (
        f"{attack} uses the {instead} loss: the {loss} loss needs at least {needed} classes and "
        f"the model has {classes}"
    )
