"""FGSM, PGD and CW: fixed-step gradient attacks on the training engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.attacks.stages import Setting
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.threat import Threat

# 2/255 for 8/255, the step of PGD-20 in the adversarial-training literature since Madry et al.
_STEP_SHARE = 0.25


@dataclass(frozen=True)
class GradientAttack:
    """Projected gradient ascent (Madry et al. 2018) whose last image counts.

    Attributes:
        name: Name in results.
        steps: Gradient steps; one step has length eps.
        objective: `ce`, or `cw`: the margin of the logits (Carlini and Wagner 2017), maximised
            within the ball, which is what papers call CW-Linf.
        random_start: Start uniformly inside the ball, else at the image (FGSM).
        restarts: Runs from different starts; one success is enough.
    """

    name: str
    steps: int
    objective: Literal["ce", "cw"] = "ce"
    random_start: bool = True
    restarts: int = 1

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, at: Setting) -> Tensor:
        result = images.clone()
        left = torch.arange(len(images), device=images.device)
        attack = PGD(
            threat=Threat(at.norm, at.eps),
            steps=self.steps,
            step_size=min(at.eps, max(_STEP_SHARE * at.eps, 2.5 * at.eps / self.steps)),
            objective=self.objective,
            random_start="uniform" if self.random_start else "none",
        )
        for restart in range(self.restarts):
            keys = keyed_random.combine(at.seed, restart, left)
            outcome = attack(model, images[left], labels[left], keys=keys)
            result[left] = outcome.images
            if restart + 1 < self.restarts:
                with torch.no_grad():
                    right = model(outcome.images).argmax(dim=1) == labels[left]
                left = left[right]
                if len(left) == 0:
                    break
        return result

    def note(self, classes: int) -> str:
        return ""
