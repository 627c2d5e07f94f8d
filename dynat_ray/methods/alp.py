"""ALP: adversarial logit pairing (Kannan, Kurakin and Goodfellow, arXiv 1803.06373).

By itself it mainly bends the loss surface (Engstrom et al. 2018, Mosbach et al. 2018): gradient
attacks of few steps overrate it, so look at AutoAttack.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.pairing import ALPSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record


@register
class ALP(Method[ALPSettings]):
    """Minimises `(1 - s) CE(f(x'), y) + s CE(f(x), y) + lambda mean (z(x) - z(x'))^2`.

    As in the authors' code the last mean is over samples and classes, and clean and adversarial
    images are one batch, so that batch normalisation sees both.
    """

    settings_class = ALPSettings

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        outcome = self.attack(network, batch, keys, "ce")
        record = attack_record(outcome, batch.main_labels)
        return Prepared(batch, outcome.images, record=record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        batch, share = prepared.batch, self.settings.clean_share
        assert prepared.adversarial is not None
        both: Tensor = network(torch.cat([batch.images, prepared.adversarial])).float()
        clean_logits, adversarial_logits = both.chunk(2)
        clean = self.cross_entropies(clean_logits, batch)
        adversarial = self.cross_entropies(adversarial_logits, batch)
        distance = (clean_logits - adversarial_logits).square().mean(dim=1)
        record = {
            "predicted": clean_logits.detach().argmax(dim=1),
            "clean_loss": clean.detach(),
            "adversarial_loss": adversarial.detach(),
        }
        classification = (1 - share) * adversarial.mean() + share * clean.mean()
        return MethodLoss(classification + self.settings.pairing * distance.mean(), record)
