"""Clean training."""

from __future__ import annotations

from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.plain import StandardSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register


@register
class Standard(Method[StandardSettings]):
    """Minimises the cross-entropy of clean images."""

    settings_class = StandardSettings

    def score(self, clean: float, robust: float) -> tuple[float, float]:
        return clean, robust

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        return Prepared(batch)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        logits = network(prepared.batch.images)
        losses = self.cross_entropies(logits, prepared.batch)
        record = {"predicted": logits.detach().argmax(dim=1), "clean_loss": losses.detach()}
        return MethodLoss(losses.mean(), record)
