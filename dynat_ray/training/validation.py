"""Clean and robust accuracy on the validation split, which chooses the best checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dynat_ray import keyed_random
from dynat_ray.acceleration.modes import frozen
from dynat_ray.collectives import sum_over_workers
from dynat_ray.config import RunConfig
from dynat_ray.data import Loader
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.threat import Threat

# PGD's step as a part of eps: the field's 2/255 at 8/255.
_STEP_RATIO = 0.25


@dataclass(frozen=True)
class ValidationAccuracy:
    """Accuracies in percent, over all workers."""

    clean: float
    robust: float


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
    counts = torch.zeros(3, dtype=torch.float64)
    for batch in loader.iterate(0):
        images = batch.images.float() / 255
        with frozen(network), torch.no_grad():
            clean = network(images).argmax(dim=1) == batch.labels
        keys = keyed_random.combine(config.train.seed, batch.indices)
        attacked = attack(network, images, batch.labels, ratios=clean.float(), keys=keys)
        with frozen(network), torch.no_grad():
            robust = clean & (network(attacked.images).argmax(dim=1) == batch.labels)
        found = torch.stack([clean.sum(), robust.sum(), torch.tensor(len(clean)).to(clean.device)])
        counts += found.double().cpu()
    device = next(network.parameters()).device
    clean_count, robust_count, samples = sum_over_workers(counts.float().to(device)).tolist()
    return ValidationAccuracy(100 * clean_count / samples, 100 * robust_count / samples)
