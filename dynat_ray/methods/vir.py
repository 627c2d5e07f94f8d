"""VIR: vulnerability-aware instance reweighting (Fakorede, Nirala, Atsague and Tian, TMLR 2023),
on TRADES.

The authors' code is not public; the form of the weights and their constants are as other papers
quote them. Ours: weights are detached, `beta` is TRADES's and multiplies them, and they start at
the part `start` of the run (the paper has a warm-up of 76 epochs).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.weights import VIRSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.methods.trades import attacked_by_kl
from dynat_ray.perturb.objectives import kl_divergence


@register
class VIR(Method[VIRSettings]):
    """Minimises `CE(f(x), y) + beta w KL(p || p')`, where `w = a exp(-g p_y) KL(p || p') + b`."""

    settings_class = VIRSettings

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        return attacked_by_kl(self, network, batch, keys)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        batch = prepared.batch
        clean_logits = network(batch.images).float()
        adversarial_logits = network(prepared.adversarial).float()
        log_probs = clean_logits.log_softmax(dim=1)
        clean = self.cross_entropies(clean_logits, batch)
        kl = kl_divergence(log_probs, adversarial_logits.log_softmax(dim=1))
        weights = self._weights(log_probs.detach(), kl.detach(), batch.main_labels)
        record = {
            "weight": weights,
            "kl": kl.detach(),
            "clean_loss": clean.detach(),
            "adversarial_loss": self.cross_entropies(adversarial_logits.detach(), batch),
        }
        return MethodLoss(clean.mean() + self.settings.beta * (weights * kl).mean(), record)

    def _weights(self, log_probs: Tensor, kl: Tensor, labels: Tensor) -> Tensor:
        settings = self.settings
        if self.progress < settings.start:
            return torch.ones_like(kl)
        own = log_probs.gather(1, labels[:, None]).squeeze(1).exp()
        return settings.scale * (-settings.slope * own).exp() * kl + settings.least
