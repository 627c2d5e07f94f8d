"""A few images with what an attack made of them, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat_ray.attacks.gradient import GradientAttack
from dynat_ray.attacks.stages import Setting
from dynat_ray.data import balanced_subset
from dynat_ray.evaluation.batches import BATCH_SIZE, in_batches
from dynat_ray.evaluation.exact import device_of, exact
from dynat_ray.evaluation.images import Images, read_images
from dynat_ray.perturb.threat import Threat

COUNT = 10
STEPS = 40
# PGD does not find every image that stronger attacks fool.
_TRIED = 4 * COUNT


@dataclass(frozen=True)
class Example:
    """An image that PGD fooled.

    Attributes:
        index: In the test split.
        label: True class, which the model predicts without attack.
        predicted: Class under attack.
        image: float32 `(C, H, W)` in [0, 1].
        adversarial: float32 `(C, H, W)` in [0, 1].
    """

    index: int
    label: int
    predicted: int
    image: NDArray[np.float32]
    adversarial: NDArray[np.float32]


def find_examples(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    indices: NDArray[np.int64],
    fooled: NDArray[np.int64],
    threat: Threat,
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
) -> list[Example]:
    """Returns up to `COUNT` images that PGD on the margin fools, of as many classes as it can.

    Args:
        model: On its device.
        images: All.
        labels: int64 `(N,)`.
        indices: Their places in the test split, `(N,)`.
        fooled: Which of them are known to be fooled by some attack, `(n,)`.
        threat: Norm and radius, more than 0.
        seed: Of the attack's starts.
        batch_size: Most images in a pass.
    """
    if len(fooled) == 0:
        return []
    tried = fooled[balanced_subset(labels[fooled].numpy(), min(_TRIED, len(fooled)))]
    device = device_of(model)
    some, true = read_images(images, tried).to(device), labels[tried].to(device)
    with exact(model) as ready:
        clean, changed, predicted = _attack(ready, some, true, threat, seed, batch_size)
    by_pgd = ((clean == true) & (predicted != true)).nonzero().squeeze(1).cpu()
    if len(by_pgd) == 0:
        return []
    kept = by_pgd[torch.from_numpy(balanced_subset(true.cpu()[by_pgd].numpy(), COUNT))]
    return [
        Example(
            index=int(indices[tried[place]]),
            label=int(true[place]),
            predicted=int(predicted[place]),
            image=some[place].cpu().contiguous().numpy(),
            adversarial=changed[place].cpu().contiguous().numpy(),
        )
        for place in kept.tolist()
    ]


def _attack(
    model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, seed: int, batch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns predicted classes `(n,)`, adversarial images, and the classes predicted for them."""
    with torch.no_grad():
        logits = in_batches(model, batch_size, images)
    at = Setting(threat=threat, classes=logits.shape[1], seed=seed)
    attack = GradientAttack("pgd", steps=STEPS, objective="cw")

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        return attack.perturb(model, images, labels, at).detach()

    changed = in_batches(attacked, batch_size, images, labels)
    with torch.no_grad():
        predicted = in_batches(model, batch_size, changed).argmax(dim=1)
    return logits.argmax(dim=1), changed, predicted
