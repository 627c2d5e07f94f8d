"""Clean and robust accuracy on the validation split, which chooses the best checkpoint."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.acceleration.modes import frozen
from dynat_ray.collectives import gather_over_workers
from dynat_ray.config import RunConfig
from dynat_ray.data import Loader
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.signals import predicted_classes
from dynat_ray.perturb.threat import Threat

# PGD's step as a part of eps: the field's 2/255 at 8/255.
_STEP_RATIO = 0.25


@dataclass(frozen=True)
class ValidationAccuracy:
    """What the images of the validation split gave, each counted once.

    Attributes:
        clean: Accuracy in percent.
        robust: The same under PGD.
        images: How many there are.
        undefined: For how many of them logits were not finite; they count as wrong.
    """

    clean: float
    robust: float
    images: int
    undefined: int


class Validating(Protocol):
    """Who validates weights while training goes on."""

    def begin(self, weights: dict[str, Tensor]) -> Future[ValidationAccuracy]:
        """Begins to validate, after whatever was begun before; returns what it will give.

        Args:
            weights: State of a network of the run; nobody changes it any more.
        """
        ...

    def problem(self) -> str:
        """Returns why nothing is validated, after a while of patience; empty: it is, or may be."""
        ...


def validate(network: nn.Module, loader: Loader, config: RunConfig) -> ValidationAccuracy:
    """Returns clean accuracy and accuracy under PGD, without autocast.

    They rank the checkpoints of a run, so a GPU may round convolutions to TF32; `attacks` measures
    in exact float32.

    Args:
        network: What is evaluated: the average where there is one.
        loader: This worker's part of the validation split.
        config: For the threat, `eval.steps` and the seed. The noise is the same every time.
    """
    threat = Threat(config.threat.norm, config.threat.eps)
    attack = PGD(threat=threat, steps=config.eval.steps, step_size=_STEP_RATIO * threat.eps)
    seen: list[Tensor] = []
    for batch in loader.iterate(0):
        images = batch.images.float() / 255
        with frozen(network), torch.no_grad():
            predicted = predicted_classes(network(images))
        clean = predicted == batch.labels
        keys = keyed_random.combine(config.train.seed, batch.indices)
        attacked = attack(network, images, batch.labels, ratios=clean.float(), keys=keys)
        with frozen(network), torch.no_grad():
            attacked_predicted = predicted_classes(network(attacked.images))
        robust = clean & (attacked_predicted == batch.labels)
        undefined = (predicted < 0) | (attacked_predicted < 0)
        seen.append(torch.stack([batch.indices, clean, robust, undefined], dim=1))
    everyone = gather_over_workers(torch.cat(seen)).cpu()
    # The last batch is filled up, so that each worker has an image: one may have come twice.
    _, first = np.unique(everyone[:, 0].numpy(), return_index=True)
    clean_count, robust_count, undefined_count = everyone[first, 1:].sum(dim=0).tolist()
    total = len(first)
    return ValidationAccuracy(
        100 * clean_count / total, 100 * robust_count / total, total, undefined_count
    )
