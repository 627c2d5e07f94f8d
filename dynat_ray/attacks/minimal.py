"""How far the nearest adversarial image is: DeepFool and FAB, and Deep Defense's rho_2.

Accuracy at one eps says how many images stand; the distances say by how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat_ray.acceleration.twin import twin_of
from dynat_ray.attacks.fab import nearest_towards
from dynat_ray.attacks.probes import Measured, Probe
from dynat_ray.attacks.stages import Setting, target_count
from dynat_ray.perturb.deepfool import deepfool
from dynat_ray.perturb.threat import change_sizes

# As Deep Defense (Yan et al., NeurIPS 2018) measures rho_2.
DEEPFOOL_STEPS = 5
OVERSHOOT = 0.02


@dataclass(frozen=True)
class DeepFool(Probe):
    """The L2 length of DeepFool's perturbation away from the predicted class.

    As Deep Defense measures it: five steps, after which a few images may still be where they
    were, and no clamping to [0, 1].
    """

    name: str = "deepfool"
    costly: bool = False

    def measure(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        at: Setting,
        positions: NDArray[np.int64],
    ) -> Measured:
        change = deepfool(
            model, images, steps=DEEPFOOL_STEPS, overshoot=OVERSHOOT
        ).perturbation.detach()
        with torch.no_grad():
            predicted = model(images + change).argmax(dim=1)
        return Measured(predicted, change_sizes(change, "L2"))


@dataclass(frozen=True)
class Fab(Probe):
    """The distance, in the norm of the evaluation, of the nearest adversarial image FAB finds.

    Targeted at every wrong class (the nine most likely ones), as in AutoAttack, but each image
    keeps the nearest of all targets. 0 where an image is wrong as it is, infinite where none is
    found.
    """

    name: str = "fab"
    costly: bool = True

    def measure(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        at: Setting,
        positions: NDArray[np.int64],
    ) -> Measured:
        with torch.no_grad():
            predicted = model(images).argmax(dim=1)
        nearest = torch.full(labels.shape, torch.inf, device=images.device)
        nearest[predicted != labels] = 0.0
        right = (predicted == labels).nonzero().squeeze(1)
        searched = twin_of(model, images)
        for rank in range(target_count(at.classes) if len(right) else 0):
            found, lengths = nearest_towards(
                searched, images[right], labels[right], rank, norm=at.norm
            )
            with torch.no_grad():
                answer = model(found).argmax(dim=1)
            nearer = (answer != labels[right]) & (lengths < nearest[right])
            nearest[right[nearer]] = lengths[nearer]
            predicted[right[nearer]] = answer[nearer]
        return Measured(predicted, nearest)
