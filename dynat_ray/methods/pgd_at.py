"""PGD adversarial training (Madry et al., "Towards deep learning models resistant to adversarial
attacks", ICLR 2018)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.plain import PGDATSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record


@register
class PGDAT(Method[PGDATSettings]):
    """Minimises the cross-entropy of images that maximise it."""

    settings_class = PGDATSettings

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        outcome = self.attack(network, batch, keys, "ce")
        record = attack_record(outcome, batch.main_labels)
        return Prepared(batch, outcome.images, record=record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        return adversarial_loss(self, network, prepared)


def adversarial_loss(method: Method[Any], network: nn.Module, prepared: Prepared) -> MethodLoss:
    """Returns `mean w CE(f(x'), y)`.

    Args:
        method: For its cross-entropy.
        network: The classifier as it is trained.
        prepared: The attacked batch.
    """
    losses = method.cross_entropies(network(prepared.adversarial), prepared.batch)
    return MethodLoss(prepared.weighted_mean(losses), {"adversarial_loss": losses.detach()})
